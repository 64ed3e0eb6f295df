//! Which namespaces belong to a mesh and which labels that takes: pure.
//!
//! A label `meshwright.io/mesh` that a person set decides alone. Among MeshConfigs that claim a namespace by name
//! or selector the oldest wins (creation time, then name), and each loser is told of whom it lost to.

use std::collections::BTreeSet;

use crds::{MeshConfig, labels};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::facts::{Facts, NamespaceFact};
use super::revisions::Revisions;

/// A namespace that another mesh has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The namespace.
    pub namespace: String,
    /// The mesh that has it.
    pub holder: String,
}

/// What is to be done about namespaces, each list sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Namespaces of the mesh.
    pub members: BTreeSet<String>,
    /// Members that get (or keep) our mesh label.
    pub label: BTreeSet<String>,
    /// Namespaces that lose the labels that we set.
    pub unlabel: BTreeSet<String>,
    /// Members that get their first revision label, which is the given release.
    pub revise: BTreeSet<(String, String)>,
    /// Namespaces that lose a revision label that we set, because they are in no mesh any more.
    pub unrevise: BTreeSet<String>,
    /// Members that have no revision yet because its injector does not answer yet.
    pub waiting: BTreeSet<String>,
    /// Namespaces that another mesh has.
    pub conflicts: BTreeSet<Conflict>,
    /// Named or selected namespaces that are never part of a mesh (the control plane's own, `kube-…`).
    pub excluded: BTreeSet<String>,
    /// Named namespaces that do not exist.
    pub missing: BTreeSet<String>,
    /// Why the selector cannot be used; nothing is unlabelled then.
    pub bad_selector: Option<String>,
}

/// Oldest first; the name decides among those of one second.
#[must_use]
pub fn age(mesh: &MeshConfig) -> (Option<k8s_openapi::jiff::Timestamp>, String) {
    (mesh.metadata.creation_timestamp.as_ref().map(|time| time.0), mesh.name_any())
}

/// The older MeshConfig with the same control-plane namespace, if there is one.
#[must_use]
pub fn control_plane_holder(mesh: &MeshConfig, facts: &Facts) -> Option<String> {
    let others = facts.meshes.iter().filter(|other| other.name_any() != mesh.name_any());
    let rivals = others.filter(|other| other.spec.namespace == mesh.spec.namespace && age(other) < age(mesh));
    rivals.min_by_key(|other| age(other)).map(ResourceExt::name_any)
}

fn selector(mesh: &MeshConfig) -> Result<Option<Selector>, String> {
    let selector = mesh.spec.watched_namespaces.selector.clone();
    selector.map(|selector| Selector::try_from(selector).map_err(|error| error.to_string())).transpose()
}

/// Whether the spec claims a namespace. A bad selector claims nothing.
fn claims(mesh: &MeshConfig, namespace: &NamespaceFact) -> bool {
    let by_name = mesh.spec.watched_namespaces.names.contains(&namespace.name);
    by_name || selector(mesh).ok().flatten().is_some_and(|selector| selector.matches(&namespace.labels))
}

fn never(mesh: &MeshConfig, namespace: &str) -> bool {
    namespace == mesh.spec.namespace || namespace.starts_with("kube-")
}

/// Who has a namespace.
enum Holder {
    /// A person's label says so.
    ByHand(String),
    /// The oldest claim.
    Claim(String),
    /// Nobody.
    Nobody,
}

fn holder(namespace: &NamespaceFact, facts: &Facts) -> Holder {
    let label = namespace.labels.get(labels::MESH);
    if let (Some(label), None) = (label, &namespace.labelled_by) {
        return Holder::ByHand(label.clone());
    }
    let claimants =
        facts.meshes.iter().filter(|mesh| claims(mesh, namespace) && !never(mesh, &namespace.name));
    match claimants.min_by_key(|mesh| age(mesh)) {
        Some(mesh) => Holder::Claim(mesh.name_any()),
        None => Holder::Nobody,
    }
}

/// Decides about every namespace.
#[must_use]
pub fn decide(mesh: &MeshConfig, facts: &Facts, revisions: &Revisions) -> Membership {
    let mut result = Membership { bad_selector: selector(mesh).err(), ..Membership::default() };
    for namespace in facts.namespaces.iter().filter(|namespace| !namespace.terminating) {
        place(mesh, namespace, facts, revisions, &mut result);
    }
    let exists = |name: &&String| facts.namespaces.iter().any(|namespace| &&namespace.name == name);
    let names = &mesh.spec.watched_namespaces.names;
    result.missing = names.iter().filter(|name| !exists(name)).cloned().collect();
    result
}

fn place(
    mesh: &MeshConfig,
    namespace: &NamespaceFact,
    facts: &Facts,
    revisions: &Revisions,
    result: &mut Membership,
) {
    let me = mesh.name_any();
    let name = namespace.name.clone();
    let claimed = claims(mesh, namespace);
    if never(mesh, &name) {
        if claimed {
            result.excluded.insert(name);
        }
        return;
    }
    match holder(namespace, facts) {
        Holder::ByHand(holder) | Holder::Claim(holder) if holder != me => {
            if claimed {
                result.conflicts.insert(Conflict { namespace: name, holder });
            }
            // The winner's label replaces ours by itself; taking ours away first would only make a gap.
        }
        Holder::ByHand(_) => join(namespace, facts, revisions, result),
        Holder::Claim(_) => {
            result.label.insert(name);
            join(namespace, facts, revisions, result);
        }
        Holder::Nobody => leave(&me, namespace, result),
    }
}

fn join(namespace: &NamespaceFact, facts: &Facts, revisions: &Revisions, result: &mut Membership) {
    result.members.insert(namespace.name.clone());
    if namespace.labels.contains_key(labels::REVISION) {
        return;
    }
    match revisions.for_new_namespaces() {
        Some(version) if facts.injector_available(version) => {
            result.revise.insert((namespace.name.clone(), version.to_owned()));
        }
        _ => {
            result.waiting.insert(namespace.name.clone());
        }
    }
}

fn leave(me: &str, namespace: &NamespaceFact, result: &mut Membership) {
    let ours = namespace.labelled_by.as_deref() == Some(me);
    if ours && result.bad_selector.is_some() {
        result.members.insert(namespace.name.clone());
        return;
    }
    if ours {
        result.unlabel.insert(namespace.name.clone());
    }
    let unmeshed = ours || !namespace.labels.contains_key(labels::MESH);
    if unmeshed && namespace.our_revision && namespace.labels.contains_key(labels::REVISION) {
        result.unrevise.insert(namespace.name.clone());
    }
}
