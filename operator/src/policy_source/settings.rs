//! What a source's spec means here and now: repository, interval, and the namespaces it may reach.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::labels::MESH;
use crds::{MeshConfig, PolicySource};
use gitops::git::{Place, Source};
use gitops::{Namespaces, Scope};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::cluster::{ClusterError, label_of};

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
    let mesh = meshes.iter().filter(|mesh| mesh.spec.namespace == namespace).map(ResourceExt::name_any).min();
    let scope = match mesh {
        None => Namespaces::Own(namespace),
        Some(mesh) => {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let of_mesh = ListParams::default().labels(&format!("{MESH}={mesh}"));
            let list = namespaces.list_metadata(&of_mesh).await.map_err(ClusterError::read("namespaces"))?;
            let names: BTreeSet<_> = list.iter().map(ResourceExt::name_any).chain([namespace]).collect();
            Namespaces::Mesh(names)
        }
    };
    Ok(check(source, scope))
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
