//! Which mTLS and authorization mode a pod has: the most specific MeshPolicy wins, else the MeshConfig.

use std::collections::BTreeMap;

use crds::mesh_config::{Authorization, Mtls};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::Mesh;
use crate::ingest::{ModePart, PolicyPart};
use crate::object::Kind;

impl Mesh {
    /// The modes of a pod with these labels. Among equally specific policies the strictest wins, so that their order
    /// cannot matter.
    pub(crate) fn modes(&self, namespace: &str, labels: &BTreeMap<String, String>) -> (Mtls, Authorization) {
        let mut policies: Vec<&ModePart> = Vec::new();
        for (_, part) in self.policies.in_namespace(Kind::MeshPolicy, namespace) {
            if let PolicyPart::MeshPolicy(part) = part
                && part.selector.as_ref().is_none_or(|selector| selects(selector, labels))
            {
                policies.push(part);
            }
        }
        (
            most_specific(&policies, |part| part.mtls, |mode| mode as u8).unwrap_or(self.settings.mtls),
            most_specific(&policies, |part| part.authorization, |mode| mode as u8)
                .unwrap_or(self.settings.authorization),
        )
    }
}

/// Both modes are declared strictest first, so the smallest is the strictest.
fn most_specific<T: Copy>(
    policies: &[&ModePart],
    mode: impl Fn(&ModePart) -> Option<T>,
    laxity: impl Fn(T) -> u8,
) -> Option<T> {
    let strictest = |workload: bool| {
        let level = policies.iter().filter(|part| part.selector.is_some() == workload);
        level.filter_map(|part| mode(part)).min_by_key(|mode| laxity(*mode))
    };
    strictest(true).or_else(|| strictest(false))
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal && selector.match_expressions.iter().flatten().all(|one| fits(one, labels))
}

/// Ingest let only these operators through.
fn fits(one: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&one.key);
    let listed = || value.is_some_and(|value| one.values.iter().flatten().any(|other| other == value));
    match one.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
