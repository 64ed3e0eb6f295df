//! Resources of a sidecar that its workload's author writes: `sidecar.meshwright.io/cpu-request` and its kin.

use std::collections::BTreeMap;

use crds::quantity::milli;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The annotations, without prefix: name, resource, and whether it is a limit.
pub const KNOWN: [(&str, &str, bool); 4] = [
    ("cpu-request", "cpu", false),
    ("cpu-limit", "cpu", true),
    ("memory-request", "memory", false),
    ("memory-limit", "memory", true),
];
/// What to write, for the message of a refusal.
pub const HINT: &str = "write an amount as in 100m or 64Mi, not below 1m of CPU or 1Mi of memory";

/// Sets one amount.
///
/// # Errors
/// When it is none, or so small that the sidecar could not run at all.
pub fn set(resources: &mut ResourceRequirements, resource: &str, limit: bool, text: &str) -> Result<(), ()> {
    let least = if resource == "cpu" { 1.0 } else { 1_048_576e3 };
    if milli(text).is_none_or(|amount| amount < least) {
        return Err(());
    }
    let list = if limit { &mut resources.limits } else { &mut resources.requests };
    list.get_or_insert_with(BTreeMap::new).insert(resource.to_owned(), Quantity(text.to_owned()));
    Ok(())
}

/// The first resource of which more is requested than the limit allows, with both amounts; the API server would
/// refuse the pod with words about a container that its author has never seen.
#[must_use]
pub fn excess(resources: &ResourceRequirements) -> Option<(&str, &str, &str)> {
    let limits = resources.limits.as_ref()?;
    resources.requests.iter().flatten().find_map(|(resource, request)| {
        let limit = limits.get(resource)?;
        (milli(&request.0)? > milli(&limit.0)?).then_some((
            resource.as_str(),
            request.0.as_str(),
            limit.0.as_str(),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_above_its_limit_is_found() {
        let mut resources = ResourceRequirements::default();
        set(&mut resources, "memory", true, "64Mi").unwrap();
        set(&mut resources, "memory", false, "64Mi").unwrap();
        assert_eq!(excess(&resources), None);
        set(&mut resources, "memory", false, "1Gi").unwrap();
        assert_eq!(excess(&resources), Some(("memory", "1Gi", "64Mi")));
        assert!(set(&mut resources, "cpu", false, "0").is_err());
        assert!(set(&mut resources, "memory", false, "100m").is_err());
    }
}
