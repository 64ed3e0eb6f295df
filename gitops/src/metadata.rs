//! `metadata` of an object from Git: a name, a namespace, labels and annotations, nothing else.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::problem::What;

/// What the API server writes itself; it is in every exported object and means nothing in a file.
const SERVER_OWNED: [&str; 7] = [
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Labels and annotations with this prefix are how components talk to each other.
const RESERVED: &str = crds::labels::in_domain!("");

/// The parts of `metadata` that count.
#[derive(Debug, Default, PartialEq)]
pub struct Metadata {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// Reads `metadata`; a problem comes with the key whose line it is about.
pub fn read(kind: &str, metadata: Option<&Value>) -> Result<Metadata, (String, What)> {
    let schema =
        |key: &str, message: String| (key.to_owned(), What::Schema { kind: kind.to_owned(), message });
    let map = match metadata {
        None | Some(Value::Null) => return Ok(Metadata::default()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(schema("metadata", "`metadata` must be a map".to_owned())),
    };
    let mut found = Metadata::default();
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        match (key.as_str(), value) {
            ("name", value) => found.name = Some(text(value)),
            ("namespace", value) => found.namespace = Some(text(value)),
            ("labels", Value::Object(map)) => found.labels = texts("labels", map)?,
            ("annotations", Value::Object(map)) => found.annotations = texts("annotations", map)?,
            ("labels" | "annotations", _) => {
                return Err(schema(key, format!("`metadata.{key}` must be a map")));
            }
            (key, _) if SERVER_OWNED.contains(&key) => {}
            (key, _) => return Err((key.to_owned(), What::ForbiddenMetadata(key.to_owned()))),
        }
    }
    Ok(found)
}

fn texts(part: &str, map: &Map<String, Value>) -> Result<BTreeMap<String, String>, (String, What)> {
    if let Some(key) = map.keys().find(|key| key.starts_with(RESERVED)) {
        return Err((key.clone(), What::ForbiddenMetadata(format!("{part}.{key}"))));
    }
    Ok(map.iter().map(|(key, value)| (key.clone(), text(value))).collect())
}

/// A name that YAML took for a number or a boolean is still what was written, as far as Kubernetes goes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// RFC 1123 subdomain, as Kubernetes wants names.
pub fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// RFC 1123 label, as Kubernetes wants namespaces.
pub fn is_label(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|c| fits(c) || c == b'-')
        && text.bytes().next().is_some_and(fits)
        && text.bytes().last().is_some_and(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keeps_what_counts_and_refuses_what_is_dangerous() {
        let exported = json!({"name": "a", "namespace": "b", "uid": "x", "labels": {"team": "c"}});
        let found = read("TCPRoute", Some(&exported)).unwrap();
        assert_eq!((found.name.as_deref(), found.namespace.as_deref()), (Some("a"), Some("b")));
        assert_eq!(found.labels["team"], "c");
        for bad in [
            json!({"ownerReferences": []}),
            json!({"finalizers": ["x"]}),
            json!({"generateName": "x"}),
            json!({"labels": {"meshwright.io/source": "x"}}),
            json!({"annotations": {"meshwright.io/commit": "x"}}),
            json!({"labels": 1}),
            json!([]),
        ] {
            assert!(read("TCPRoute", Some(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_as_kubernetes_wants_them() {
        assert!(is_name("a.b-c.1") && is_label("a-1"));
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", "ü"] {
            assert!(!is_name(bad) && !is_label(bad), "{bad:?}");
        }
        assert!(!is_label("a.b") && !is_label(&"a".repeat(64)));
    }
}
