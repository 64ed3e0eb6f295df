//! When a namespace joined the mesh, and what that says of a pod of it without a sidecar.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::labels;

/// Why a pod that should have a sidecar has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missed {
    /// It was made before its namespace got the mesh's label.
    BeforeLabel,
    /// It was made afterwards, and no injector was asked: the webhook was not there, or not known yet to the API server
    /// that made the pod.
    NotAsked,
    /// Nothing says when its namespace got the label.
    Unknown,
}

impl Missed {
    /// Judges by two times. Kubernetes' times are whole seconds, so equal ones say nothing for sure; a pod that is made
    /// with its namespace is one that nobody asked about.
    #[must_use]
    pub fn judge(made: Option<Timestamp>, labelled: Option<Timestamp>) -> Self {
        match (made, labelled) {
            (Some(made), Some(labelled)) if made < labelled => Self::BeforeLabel,
            (Some(_), Some(_)) => Self::NotAsked,
            _ => Self::Unknown,
        }
    }

    /// One sentence for a person: what happened.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::BeforeLabel => "the pod is older than its namespace's label of the mesh",
            Self::NotAsked => {
                "the pod was made after its namespace got the label of the mesh, but no injector was asked about it: \
                 the webhook was missing, or the API server had not seen the label yet"
            }
            Self::Unknown => "the pod was made while no injector was asked about it",
        }
    }
}

/// When the label of the mesh was last written on a namespace, as the field managers say: the earliest of those that hold
/// it.
#[must_use]
pub fn labelled_at(namespace: &ObjectMeta) -> Option<Timestamp> {
    let path = ["f:metadata".to_owned(), "f:labels".to_owned(), format!("f:{}", labels::MESH)];
    let entries = namespace.managed_fields.iter().flatten();
    let holding = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.and_then(|fields| path.iter().try_fold(fields, |at, key| at.get(key))).is_some()
    });
    holding.filter_map(|entry| entry.time.as_ref().map(|time| time.0)).min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    #[test]
    fn the_label_is_as_old_as_its_first_holder() {
        let holds = json!({"f:metadata": {"f:labels": {"f:meshwright.io/mesh": {}}}});
        let other = json!({"f:metadata": {"f:labels": {"f:team": {}}}});
        let entry = |time: &str, fields: &serde_json::Value| json!({"manager": "m", "operation": "Update", "time": time, "fieldsV1": fields});
        let meta: ObjectMeta = serde_json::from_value(json!({"managedFields": [
            entry("2026-01-01T00:00:00Z", &other),
            entry("2026-01-03T00:00:00Z", &holds),
            entry("2026-01-02T00:00:00Z", &holds),
        ]}))
        .unwrap();
        assert_eq!(labelled_at(&meta), at("2026-01-02T00:00:00Z"));
        assert_eq!(labelled_at(&ObjectMeta::default()), None);
    }

    #[test]
    fn a_pod_of_the_same_second_was_not_asked_about() {
        let (early, late) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:01Z"));
        assert_eq!(Missed::judge(early, late), Missed::BeforeLabel);
        assert_eq!(Missed::judge(late, late), Missed::NotAsked);
        assert_eq!(Missed::judge(late, early), Missed::NotAsked);
        assert_eq!(Missed::judge(late, None), Missed::Unknown);
        assert_eq!(Missed::judge(None, early), Missed::Unknown);
    }
}
