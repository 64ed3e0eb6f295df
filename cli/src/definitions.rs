//! Definitions that are in the cluster already: whose they are, and what is different from ours. Pure.
//!
//! A definition of SMI or OSM that somebody else installed (OSM itself, a GitOps repository) stays as it is, as long as it
//! serves the version that we read. What is different is said, field by field.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use serde_json::Value;

use crate::ours;

/// What to do about one definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Apply ours: there is none, or it is ours.
    Apply,
    /// Somebody else's serves what we need. What is different, if anything.
    Leave(Vec<String>),
    /// Somebody else's does not serve what we need: what is missing.
    Refuse(Vec<String>),
    /// Somebody else's, to be overwritten as asked.
    Overwrite(Vec<String>),
}

/// Differences that are named; a whole schema may differ.
const NAMED: usize = 12;

/// Decides about a definition of ours, given the one in the cluster.
#[must_use]
pub fn decide(wanted: &Value, live: Option<&CustomResourceDefinition>, force: bool) -> Step {
    let Some(live) = live else { return Step::Apply };
    if ours::is_own_kind(&live.name_any()) || ours::is_made_by_us(&live.metadata) {
        return Step::Apply;
    }
    let is = serde_json::to_value(&live.spec).unwrap_or_default();
    let unusable = unusable(&wanted["spec"], &is);
    let mut differences = unusable.clone();
    differences.extend(differences_of(&wanted["spec"], &is));
    differences.truncate(NAMED);
    match (force, unusable.is_empty()) {
        (true, _) if !differences.is_empty() => Step::Overwrite(differences),
        (_, true) => Step::Leave(differences),
        (_, false) => Step::Refuse(unusable),
    }
}

/// Our versions, and those of the other definition that objects are stored in: the API server lets no such version go.
#[must_use]
pub fn versions_to_write(wanted: &Value, live: &CustomResourceDefinition) -> Value {
    let mut all: Vec<Value> = versions(&wanted["spec"]).cloned().collect();
    let stored = live.status.as_ref().and_then(|status| status.stored_versions.clone()).unwrap_or_default();
    for version in &live.spec.versions {
        let ours = all.iter().any(|one| one["name"] == version.name.as_str());
        if !ours && stored.contains(&version.name) {
            let mut kept = serde_json::to_value(version).unwrap_or_default();
            kept["storage"] = false.into();
            all.push(kept);
        }
    }
    all.into()
}

/// What keeps us from reading objects at all: another group, scope or kind, or a version that is not served.
fn unusable(wanted: &Value, is: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    for path in ["/group", "/scope", "/names/kind", "/names/plural"] {
        if wanted.pointer(path) != is.pointer(path) {
            missing.push(different(&dotted(path), wanted.pointer(path), is.pointer(path)));
        }
    }
    for version in versions(wanted).filter(|version| version["served"] == true) {
        let name = version["name"].as_str().unwrap_or_default();
        let served = versions(is).any(|other| other["name"] == name && other["served"] == true);
        if !served {
            missing.push(format!("spec.versions[{name}]: is not served"));
        }
    }
    missing
}

fn versions(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["versions"].as_array().into_iter().flatten()
}

/// Differences of the versions that both have. Descriptions say nothing to a machine.
fn differences_of(wanted: &Value, is: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for version in versions(wanted) {
        let name = version["name"].as_str().unwrap_or_default();
        let Some(other) = versions(is).find(|other| other["name"] == name) else { continue };
        let at = format!("spec.versions[{name}]");
        if version["storage"] != other["storage"] {
            found.push(different(&format!("{at}.storage"), version.get("storage"), other.get("storage")));
        }
        let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
        compare(&format!("{at}.schema.openAPIV3Schema"), &schema(version), &schema(other), &mut found);
    }
    found
}

fn compare(at: &str, wanted: &Value, is: &Value, found: &mut Vec<String>) {
    if found.len() >= NAMED || wanted == is {
        return;
    }
    match (wanted, is) {
        (Value::Object(wanted), Value::Object(is)) => {
            let names: std::collections::BTreeSet<_> = wanted.keys().chain(is.keys()).collect();
            // A property may be called `description`; a schema's own description is a text.
            let said = |name: &str| {
                name == "description"
                    && [wanted, is].iter().all(|map| map.get(name).is_none_or(Value::is_string))
            };
            for name in names.into_iter().filter(|name| !said(name)) {
                let at = format!("{at}.{name}");
                match (wanted.get(name), is.get(name)) {
                    (Some(wanted), Some(is)) => compare(&at, wanted, is, found),
                    (wanted, is) => found.push(different(&at, wanted, is)),
                }
            }
        }
        _ => found.push(different(at, Some(wanted), Some(is))),
    }
}

fn different(at: &str, wanted: Option<&Value>, is: Option<&Value>) -> String {
    match (wanted.map(short), is.map(short)) {
        (Some(wanted), Some(is)) => format!("{at}: is {is}, ours has {wanted}"),
        (Some(_), None) => format!("{at}: is missing there"),
        (None, _) => format!("{at}: ours does not have it"),
    }
}

fn short(value: &Value) -> String {
    const LONGEST: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn dotted(pointer: &str) -> String {
    format!("spec{}", pointer.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: &str = "traffictargets.access.smi-spec.io";

    fn wanted() -> Value {
        let ours = crds::all().into_iter().find(|crd| crd.name_any() == NAME).unwrap();
        serde_json::to_value(ours).unwrap()
    }

    fn live(edit: impl Fn(&mut Value)) -> CustomResourceDefinition {
        let mut value = wanted();
        edit(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn mark(value: &mut Value) {
        value["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "meshwright"});
    }

    #[test]
    fn ours_and_none_are_applied() {
        assert_eq!(decide(&wanted(), None, false), Step::Apply);
        assert_eq!(decide(&wanted(), Some(&live(mark)), false), Step::Apply);
    }

    #[test]
    fn the_same_of_somebody_else_is_left_without_a_word() {
        let texts = live(|value| {
            value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("x");
        });
        assert_eq!(decide(&wanted(), Some(&texts), false), Step::Leave(vec![]));
        assert_eq!(
            decide(&wanted(), Some(&texts), true),
            Step::Leave(vec![]),
            "there is nothing to overwrite"
        );
    }

    #[test]
    fn what_is_different_is_named_by_its_path_and_stays() {
        let other = live(|value| {
            let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            schema["properties"]["spec"]["properties"]["sources"]["maxItems"] = json!(3);
        });
        let Step::Leave(differences) = decide(&wanted(), Some(&other), false) else { panic!("it serves") };
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(
            differences[0].contains(".spec.properties.sources.maxItems: ours does not have it"),
            "{differences:?}"
        );
        assert!(matches!(decide(&wanted(), Some(&other), true), Step::Overwrite(_)));
    }

    #[test]
    fn versions_that_objects_are_stored_in_stay() {
        let older = live(|value| {
            value["spec"]["versions"][0]["name"] = json!("v1alpha1");
            value["status"] = json!({"storedVersions": ["v1alpha1"]});
        });
        let written = versions_to_write(&wanted(), &older);
        let names: Vec<_> =
            written.as_array().unwrap().iter().map(|one| (&one["name"], &one["storage"])).collect();
        assert_eq!(names, [(&json!("v1alpha3"), &json!(true)), (&json!("v1alpha1"), &json!(false))]);
    }

    #[test]
    fn a_definition_that_does_not_serve_our_version_is_refused_unless_forced() {
        let older = live(|value| value["spec"]["versions"][0]["name"] = json!("v1alpha1"));
        let step = decide(&wanted(), Some(&older), false);
        assert_eq!(step, Step::Refuse(vec!["spec.versions[v1alpha3]: is not served".to_owned()]));
        assert!(matches!(decide(&wanted(), Some(&older), true), Step::Overwrite(_)));
    }
}
