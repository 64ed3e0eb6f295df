//! The cluster: the client, and reading and writing objects of any kind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::output::advise;

/// Field manager of what this command applies.
pub const MANAGER: &str = "meshwright-cli";
/// How often something that is waited for is looked at.
pub const LOOK: Duration = Duration::from_millis(500);

/// What to do when no cluster can be reached.
const NEXT: &str =
    "set KUBECONFIG (or --kubeconfig, --context) to the cluster and check it with: kubectl version";

/// Which cluster, and as whom; every verb takes it, as kubectl's do.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Access {
    /// The kubeconfig; what KUBECONFIG says when left out, else ~/.kube/config
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; its current one when left out
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    context: Option<String>,
    /// Act as this user, if you may
    #[arg(long = "as", global = true, value_name = "USER", help_heading = "Cluster")]
    user: Option<String>,
}

impl Access {
    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let file = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let named = self.kubeconfig.is_some() || self.context.is_some();
        let config = match file {
            Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
            Err(error) => Err(error),
        };
        let mut config = match config {
            Ok(config) => config,
            // What was named is meant, and not the cluster that this may run in.
            Err(error) if named => return Err(advise(format!("no such cluster: {error}"), NEXT)),
            Err(error) => {
                Config::incluster().map_err(|_| advise(format!("no cluster is configured: {error}"), NEXT))?
            }
        };
        config.auth_info.impersonate.clone_from(&self.user);
        Ok(config)
    }
}

/// Connects to the cluster, and finds out whether anybody answers.
pub async fn connect(access: &Access) -> anyhow::Result<Client> {
    let config = access.config().await?;
    let address = config.cluster_url.to_string();
    let client = Client::try_from(config).context("the Kubernetes client")?;
    match tokio::time::timeout(Duration::from_secs(10), client.apiserver_version()).await {
        Ok(Ok(_)) => Ok(client),
        Ok(Err(error)) => Err(advise(format!("the cluster at {address} does not answer: {error}"), NEXT)),
        Err(_) => Err(advise(format!("the cluster at {address} did not answer within 10 s"), NEXT)),
    }
}

/// The API of an object's kind, in the object's namespace.
pub fn api_of(client: &Client, object: &DynamicObject) -> anyhow::Result<Api<DynamicObject>> {
    let types = object.types.as_ref().context("an object without apiVersion and kind")?;
    let gvk = GroupVersionKind::try_from(types).context("apiVersion of an object")?;
    let resource = ApiResource::from_gvk(&gvk);
    Ok(match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// Server-side apply.
pub async fn apply(client: &Client, object: &Value) -> anyhow::Result<DynamicObject> {
    let typed: DynamicObject =
        serde_json::from_value(object.clone()).context("an object of the manifests")?;
    let params = PatchParams::apply(MANAGER).force();
    let api = api_of(client, &typed)?;
    let applied = api.patch(&typed.name_any(), &params, &Patch::Apply(object)).await;
    applied.with_context(|| format!("cannot apply {}", describe(object)))
}

/// `Kind namespace/name`.
pub fn describe(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    match text("/metadata/namespace") {
        "" => format!("{} {}", text("/kind"), text("/metadata/name")),
        namespace => format!("{} {namespace}/{}", text("/kind"), text("/metadata/name")),
    }
}

/// All objects of a kind; `None` when the cluster does not serve the kind.
pub async fn list<K>(api: &Api<K>, params: &ListParams) -> anyhow::Result<Option<Vec<K>>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.list(params).await {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error).context("cannot list objects"),
    }
}

/// Every MeshConfig; advice when Meshwright is not installed.
pub async fn meshes(client: &Client) -> anyhow::Result<Vec<crds::MeshConfig>> {
    let found = list(&Api::<crds::MeshConfig>::all(client.clone()), &ListParams::default()).await?;
    match found {
        Some(meshes) if !meshes.is_empty() => Ok(meshes),
        _ => Err(advise("there is no mesh in this cluster", "meshwright install --watch NAMESPACE")),
    }
}

/// The one mesh, or the one that is named.
pub async fn mesh(client: &Client, name: Option<&str>) -> anyhow::Result<crds::MeshConfig> {
    let mut meshes = meshes(client).await?;
    let names: Vec<_> = meshes.iter().map(ResourceExt::name_any).collect();
    let position = match name {
        Some(name) => names.iter().position(|known| known == name),
        None if names.len() == 1 => Some(0),
        None => {
            return Err(advise(
                "there are several meshes",
                format!("add --mesh, one of: {}", names.join(", ")),
            ));
        }
    };
    let missing = || {
        let wanted = name.unwrap_or_default();
        advise(format!("there is no mesh {wanted:?}"), format!("add --mesh, one of: {}", names.join(", ")))
    };
    Ok(meshes.swap_remove(position.ok_or_else(missing)?))
}

/// Deletes an object that may be gone already, with its dependents. Tells whether it was there.
pub async fn delete<K>(api: &Api<K>, name: &str) -> anyhow::Result<bool>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot delete {name}")),
    }
}

/// Waits until an object is gone. Tells whether it went in time.
pub async fn gone<K>(api: &Api<K>, name: &str, deadline: Instant) -> anyhow::Result<bool>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    loop {
        match api.get_opt(name).await {
            Ok(None) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(true),
            Ok(Some(_)) | Err(_) if Instant::now() >= deadline => return Ok(false),
            Ok(Some(_)) | Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
