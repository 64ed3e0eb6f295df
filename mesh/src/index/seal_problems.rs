//! What keeps objects from Git, and objects that should be, from being in force.

use std::collections::BTreeSet;

use super::Mesh;
use super::policies::{Source, SourceName, may_hold};
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};

const FIELD: &str = "status.inventory";

pub(super) fn all(mesh: &Mesh, found: &mut BTreeSet<Problem>) {
    for (name, source) in &mesh.policies.sources {
        seal(mesh, name, source, found);
        shared(mesh, name, source, found);
    }
    unsealed(mesh, found);
    for key in mesh.policies.homeless(&mesh.settings) {
        let message = "it comes from no PolicySource, and the MeshConfig lets only those count \
                       (spec.traffic.policyOrigin: Sources): commit it to Git";
        found.insert(Problem::new(key, "metadata.labels", Reason::NotFromSource, message));
    }
}

fn reference(name: &SourceName) -> ObjectRef {
    ObjectRef::new(Kind::PolicySource, &name.0, &name.1)
}

/// What of a sealed commit is not in force.
fn seal(mesh: &Mesh, name: &SourceName, source: &Source, found: &mut BTreeSet<Problem>) {
    let key = reference(name);
    let Some(inventory) = source.inventory.as_ref().filter(|_| source.exists) else { return };
    for entry in inventory.keys().filter(|entry| !may_hold(name, entry, &mesh.settings.namespace)) {
        let message =
            format!("{entry} is not in namespace {}, which is all that this source may fill", name.0);
        found.insert(Problem::new(&key, FIELD, Reason::ForeignNamespace, message));
    }
    let open = |(entry, hash): &(&ObjectRef, &String)| {
        may_hold(name, entry, &mesh.settings.namespace)
            && source.sealed.get(*entry).is_none_or(|(sealed, _)| sealed != *hash)
    };
    let open: Vec<_> = inventory.iter().filter(open).collect();
    let Some((first, _)) = open.first() else { return };
    let stays = "the last complete commit stays in force";
    let newer = open.iter().find(|(_, hash)| !crds::seal::is_known(hash));
    let refused = open.iter().find_map(|(entry, _)| mesh.refused.get(*entry));
    let (reason, message) = match (newer, refused) {
        (Some((entry, _)), _) => (
            Reason::SealBlocked,
            format!(
                "{entry} was sealed by a newer release in a way that this controller cannot check; {stays} until \
                     the controllers are upgraded"
            ),
        ),
        (None, Some(problem)) => (
            Reason::SealBlocked,
            format!(
                "{} cannot be used ({}: {}), which keeps the whole commit from being in force; {stays}; correct it \
                     in Git",
                problem.object,
                problem.reason.as_str(),
                problem.message
            ),
        ),
        (None, None) => (
            Reason::SealIncomplete,
            format!(
                "{} of {} objects of the sealed commit have not been seen with their sealed content, first {first}; \
                     {stays} until they are put back",
                open.len(),
                inventory.len()
            ),
        ),
    };
    found.insert(Problem::new(&key, FIELD, reason, message));
}

/// Objects that two sources hold: both are told, whoever wins.
fn shared(mesh: &Mesh, name: &SourceName, source: &Source, found: &mut BTreeSet<Problem>) {
    for key in source.sealed.keys() {
        let holders: Vec<_> = mesh.policies.holders(key, &mesh.settings.namespace).collect();
        let (Some(first), true) = (holders.first(), holders.len() > 1) else { continue };
        let others: Vec<_> = holders
            .iter()
            .filter(|other| **other != name)
            .map(|other| format!("{}/{}", other.0, other.1))
            .collect();
        let whose = if *first == name { "this one" } else { "that one" };
        let message = format!(
            "PolicySource {} holds {key} too; the version of {whose} is in force; take it out of one of them",
            others.join(", ")
        );
        found.insert(Problem::new(&reference(name), FIELD, Reason::Conflict, message));
    }
}

/// Objects that carry a source's label, but not what its sealed commit says.
fn unsealed(mesh: &Mesh, found: &mut BTreeSet<Problem>) {
    for (key, seen) in &mesh.policies.seen {
        let Some((name, hash)) = &seen.source else { continue };
        let source = mesh.policies.sources.get(name).filter(|source| source.exists);
        let listed =
            source.and_then(|source| source.inventory.as_ref()).and_then(|inventory| inventory.get(key));
        let message = match (source, listed) {
            (_, Some(listed)) if listed == hash => continue,
            (None, _) => format!(
                "its PolicySource {}/{} does not exist; remove the label or the object",
                name.0, name.1
            ),
            (Some(_), None) => format!(
                "the sealed commit of PolicySource {}/{} does not hold it, so it does not count; commit it to Git",
                name.0, name.1
            ),
            (Some(_), Some(_)) => format!(
                "it was changed by hand and differs from the sealed commit of PolicySource {}/{}, whose version \
                 stays in force; make the change in Git",
                name.0, name.1
            ),
        };
        found.insert(Problem::new(key, "metadata.labels", Reason::NotSealed, message));
    }
}
