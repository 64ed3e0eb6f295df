//! What a source's spec means here and now: repository, interval, and the namespaces it may reach.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::labels::MESH;
use crds::{MeshConfig, PolicySource};
use gitops::git::{Place, Source};
use gitops::{Namespaces, Reach, Scope};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::cluster::{ClusterError, label_of};
use crate::control_plane::namespaces::age;

/// A repository is not asked more often.
const SHORTEST: Duration = Duration::from_secs(1);
/// Kubernetes' limit for a label's value.
const LONGEST_LABEL: usize = 63;

/// A source that can be worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is fetched.
    pub source: Source,
    /// How often.
    pub interval: Duration,
    /// Whose objects it may hold.
    pub scope: Scope,
}

/// A spec that nothing can be done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// CamelCase.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads what the spec refers to and checks it.
pub async fn gather(
    client: &Client,
    source: &PolicySource,
) -> Result<Result<Settings, Invalid>, ClusterError> {
    let namespace = source.namespace().unwrap_or_default();
    let meshes: Api<MeshConfig> = Api::all(client.clone());
    let meshes = meshes.list(&ListParams::default()).await.map_err(ClusterError::read("MeshConfigs"))?;
    let mesh = owner(&meshes.items, &namespace);
    let scope = match mesh {
        None => Namespaces::Own(namespace),
        Some(mesh) => {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let all = ListParams::default();
            let list = namespaces.list_metadata(&all).await.map_err(ClusterError::read("namespaces"))?;
            // In one that is being deleted nothing can be made any more.
            let alive: Vec<_> = list.iter().filter(|n| n.metadata.deletion_timestamp.is_none()).collect();
            let of_mesh = alive.iter().filter(|n| n.labels().get(MESH) == Some(&mesh));
            let members: BTreeSet<_> = of_mesh.map(|n| n.name_any()).chain([namespace]).collect();
            let existing = alive.iter().map(|n| n.name_any()).chain(members.iter().cloned()).collect();
            Namespaces::Mesh(Reach { members, existing })
        }
    };
    Ok(check(source, scope))
}

/// Whether a source goes because the whole namespace of its control plane does.
pub async fn is_lost(client: &Client, source: &PolicySource) -> Result<bool, ClusterError> {
    let name = source.namespace().unwrap_or_default();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_metadata_opt(&name).await.map_err(ClusterError::read("the namespace"))?;
    if namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
        return Ok(false);
    }
    let meshes: Api<MeshConfig> = Api::all(client.clone());
    let meshes = meshes.list(&ListParams::default()).await.map_err(ClusterError::read("MeshConfigs"))?;
    Ok(owner(&meshes.items, &name).is_some())
}

/// The mesh whose control plane a namespace holds: the oldest of those that say so, as everywhere
/// ([`crate::control_plane::namespaces`]). A later one takes nothing from it.
fn owner(meshes: &[MeshConfig], namespace: &str) -> Option<String> {
    let here = meshes.iter().filter(|mesh| mesh.spec.namespace == namespace);
    here.filter(|mesh| mesh.metadata.deletion_timestamp.is_none())
        .min_by_key(|mesh| age(mesh))
        .map(ResourceExt::name_any)
}

/// Pure.
pub fn check(source: &PolicySource, scope: Scope) -> Result<Settings, Invalid> {
    let invalid = |reason, message: String| Invalid { reason, message };
    let interval = crds::duration::parse(&source.spec.interval)
        .map_err(|error| invalid("InvalidInterval", format!("interval: {error}")))?;
    if interval < SHORTEST {
        return Err(invalid("InvalidInterval", "interval: write at least 1s".to_owned()));
    }
    if label_of(source).len() > LONGEST_LABEL {
        let message = "namespace and name together have more than 62 characters, too many for the label that ties \
                       objects to their source; choose a shorter name";
        return Err(invalid("NameTooLong", message.to_owned()));
    }
    let git =
        Source::new(&source.spec.git).map_err(|error| invalid(error.reason(), format!("git: {error}")))?;
    if let (Place::Local(_), Namespaces::Own(namespace)) = (&git.place, &scope) {
        let message = format!(
            "git: a path on the operator's file system is only for a PolicySource in a control plane's namespace, \
             not in {namespace}; use https://"
        );
        return Err(invalid("LocalPathForbidden", message));
    }
    Ok(Settings { source: git, interval, scope })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn mesh(name: &str, created: i64, namespace: &str) -> MeshConfig {
        let spec = serde_json::json!({"version": "0.2.0", "namespace": namespace});
        let mut mesh = MeshConfig::new(name, serde_json::from_value(spec).unwrap());
        mesh.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        mesh
    }

    #[test]
    fn a_rival_mesh_takes_no_namespace_from_an_older_one() {
        let (old, rival) = (mesh("old", 10, "system"), mesh("a-rival", 20, "system"));
        let elsewhere = mesh("elsewhere", 1, "other");
        let all = [rival.clone(), elsewhere, old.clone()];
        assert_eq!(owner(&all, "system").as_deref(), Some("old"));
        let mut leaving = old;
        leaving.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(30).unwrap()));
        assert_eq!(owner(&[leaving, rival], "system").as_deref(), Some("a-rival"));
        assert_eq!(owner(&all, "team"), None);
    }
}
