//! Resources of a sidecar that its workload's author writes: `sidecar.meshwright.io/cpu-request` and its kin.

use std::collections::BTreeMap;

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

/// Suffixes of amounts and what they stand for, in thousandths.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024e3),
    ("Mi", 1_048_576e3),
    ("Gi", 1_073_741_824e3),
    ("Ti", 1_099_511_627_776e3),
    ("Pi", 1.125_899_906_842_624e18),
    ("Ei", 1.152_921_504_606_847e21),
    ("n", 1e-6),
    ("u", 1e-3),
    ("m", 1.0),
    ("k", 1e6),
    ("M", 1e9),
    ("G", 1e12),
    ("T", 1e15),
    ("P", 1e18),
    ("E", 1e21),
];

/// An amount in thousandths of its unit (Kubernetes, resource.Quantity: a suffix or an exponent, not both).
#[must_use]
pub fn milli(text: &str) -> Option<f64> {
    let suffixed =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, "0", *factor)));
    let (number, exponent, factor) = suffixed
        .or_else(|| text.split_once(['e', 'E']).map(|(number, exponent)| (number, exponent, 1e3)))
        .unwrap_or((text, "0", 1e3));
    let is_number = |text: &str, others: &[u8]| {
        text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit() || others.contains(&byte))
    };
    let exponent: i32 = exponent.parse().ok().filter(|power: &i32| power.abs() <= 18)?;
    let value: f64 = number.parse().ok().filter(|_| is_number(number, b"."))?;
    Some(value * 10_f64.powi(exponent) * factor)
}

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
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in
            [("1", 1000.0), ("100m", 100.0), ("0.5", 500.0), ("64Mi", 64.0 * 1_048_576e3), ("1G", 1e12)]
        {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for (text, expected) in [("1e9", 1e12), ("1E3", 1e6), ("1.5e+2", 150e3), ("2e-3", 2.0), ("1E", 1e21)]
        {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "1e",
            "e3",
            "1e3k",
            "1e3e3",
            "1e99",
            "1e1.0",
            "1 Mi",
            "1MiB",
            "NaN",
            "inf",
            ".",
            "1.2.3",
            "١",
            "9999999999999999999999",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

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
