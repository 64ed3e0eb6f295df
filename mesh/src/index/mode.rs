//! Which mTLS and authorization mode a pod has: the most specific MeshPolicy wins, else the MeshConfig.

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::{Authorization, Below, Mtls};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::Mesh;
use crate::ingest::{ModePart, PolicyPart};
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};

impl Mesh {
    /// The modes of a pod with these labels: those of a policy that picks it, else of its namespace's policy, else of
    /// the mesh's (one in the namespace of the control plane), else of the MeshConfig. Among equally specific policies
    /// the strictest wins, so that their order cannot matter. None goes below the floor of the MeshConfig, not even the
    /// mesh's own: whoever may write policies there need not be whoever owns the mesh.
    pub(crate) fn modes(&self, namespace: &str, labels: &BTreeMap<String, String>) -> (Mtls, Authorization) {
        let own = || self.modes_in(namespace);
        let picking: Vec<_> = own()
            .filter(|part| part.selector.as_ref().is_some_and(|selector| selects(selector, labels)))
            .collect();
        let space: Vec<_> = own().filter(|part| part.selector.is_none()).collect();
        let whole = self.modes_in(&self.settings.namespace);
        let whole: Vec<_> = whole.filter(|part| part.selector.is_none()).collect();
        let levels = [picking, space, whole];
        self.settings.floor.raise(
            most_specific(&levels, |part| part.mtls).unwrap_or(self.settings.mtls),
            most_specific(&levels, |part| part.authorization).unwrap_or(self.settings.authorization),
        )
    }

    fn modes_in(&self, namespace: &str) -> impl Iterator<Item = &ModePart> {
        let all = self.policies.in_namespace(Kind::MeshPolicy, namespace);
        all.filter_map(|(_, part)| match part {
            PolicyPart::MeshPolicy(part) => Some(part),
            _ => None,
        })
    }
}

/// What the first level that says anything says: its strictest.
fn most_specific<T: Ord>(levels: &[Vec<&ModePart>], mode: impl Fn(&ModePart) -> Option<T>) -> Option<T> {
    levels.iter().find_map(|level| level.iter().filter_map(|part| mode(part)).min())
}

/// What a MeshPolicy says that is below the floor of the mesh.
pub(super) fn below_floor(mesh: &Mesh, key: &ObjectRef, part: &ModePart, found: &mut BTreeSet<Problem>) {
    for Below { field, given, floor } in mesh.settings.floor.below(part.mtls, part.authorization) {
        let message = format!(
            "{given} is below the floor of mesh {}, {floor}, which counts instead; say {floor}, or have \
             spec.traffic.floor of the MeshConfig lowered",
            mesh.settings.mesh
        );
        found.insert(Problem::new(key, &format!("spec.{field}"), Reason::BelowFloor, message));
    }
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
