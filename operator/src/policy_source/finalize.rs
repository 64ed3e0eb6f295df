//! A deleted source takes its objects with it. It never blocks its namespace's deletion for long.

use std::time::Duration;

use crds::PolicySource;
use gitops::Namespaces;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;

use super::cluster::{Cluster, ClusterError, MANAGER};
use super::execute;
use crate::context::Context;
use crate::events::Weight;

/// On a source whose objects are deleted with it.
pub const FINALIZER: &str = "meshwright.io/policy-source";
/// After so long the source is let go, whatever is left.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sets or removes the finalizer, as `prune` says.
pub async fn guard(cluster: &Cluster, source: PolicySource) -> Result<PolicySource, ClusterError> {
    let has = source.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    match (source.spec.prune, has) {
        (true, false) => {
            let finalizers = source.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect();
            set(cluster, &source, finalizers).await?;
        }
        (false, true) => release(cluster, &source).await?,
        (true, true) | (false, false) => return Ok(source),
    }
    // Its resource version is another now.
    let gone = || ClusterError::Raced(cluster.label.clone());
    cluster.read_source().await?.ok_or_else(gone)
}

/// Deletes the objects of a deleted source, then lets it go.
pub async fn finalize(
    ctx: &Context,
    cluster: &Cluster,
    source: &PolicySource,
) -> Result<Action, ClusterError> {
    if !source.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Action::await_change());
    }
    if let Err(error) = clean(ctx, cluster, source).await {
        if !is_overdue(source) {
            return Err(error);
        }
        let note = format!("let go although objects are left: {}", runtime::logging::chain(&error));
        ctx.events.tell(source, Weight::Warning, "ObjectsLeft", "Delete", &note).await;
    }
    release(cluster, source).await?;
    Ok(Action::await_change())
}

async fn clean(ctx: &Context, cluster: &Cluster, source: &PolicySource) -> Result<(), ClusterError> {
    let live = cluster.labelled(&Namespaces::Any).await?;
    execute::prune(ctx, cluster, source, &live, &[]).await
}

fn is_overdue(source: &PolicySource) -> bool {
    let since = source.metadata.deletion_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
    Timestamp::now().as_second() - since.as_second() > PATIENCE.as_secs().try_into().unwrap_or(i64::MAX)
}

async fn release(cluster: &Cluster, source: &PolicySource) -> Result<(), ClusterError> {
    let others = source.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    set(cluster, source, others).await
}

/// With the resource version, so that a finalizer that somebody else set meanwhile is not lost.
async fn set(cluster: &Cluster, source: &PolicySource, finalizers: Vec<String>) -> Result<(), ClusterError> {
    let patch =
        json!({"metadata": {"finalizers": finalizers, "resourceVersion": source.metadata.resource_version}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match cluster.sources().patch_metadata(&source.name_any(), &params, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(ClusterError::write("set the finalizer of", &cluster.label)(error)),
    }
}
