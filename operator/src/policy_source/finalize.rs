//! What becomes of the objects of a deleted source: they go with it (`prune`), or they stay and are no longer its. It
//! never blocks its namespace's deletion for long.
//!
//! **The whole namespace of the control plane goes**: nobody has said anything about policies, so they stay as they are, and
//! are the source's again when that is back (docs/root-backup.md). Where the operator goes first, the same comes of it.
//!
//! **Objects that stay** (`prune: false`) lose the label of their source before it goes, those that its seal lists: who was
//! enforcing them goes on, and who begins later takes them for what they are then, objects that somebody wrote. With the
//! label, a controller that knew the source would enforce them, and one that did not would not. That goes for those too
//! whose content is no longer the sealed one: a label that stayed would keep the old content in force in some controllers
//! and nothing in others. What had vanished from Git before keeps its label, so that it does not count again.

use std::time::Duration;

use crds::PolicySource;
use crds::labels::{COMMIT, FILE, SOURCE};
use gitops::Namespaces;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;

use super::cluster::{Cluster, ClusterError, MANAGER, keys};
use super::{execute, report, settings};
use crate::context::Context;
use crate::events::Weight;

/// On each source, so that nothing of it is left behind as its.
pub const FINALIZER: &str = crds::labels::SOURCE_FINALIZER;
/// After so long the source is let go, whatever is left.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sets the finalizer where it is missing.
pub async fn guard(cluster: &Cluster, source: PolicySource) -> Result<PolicySource, ClusterError> {
    if source.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(source);
    }
    let finalizers = source.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect();
    set(cluster, &source, finalizers).await?;
    // Its resource version is another now.
    let gone = || ClusterError::Raced(cluster.label.clone());
    cluster.read_source().await?.ok_or_else(gone)
}

/// Deletes or sets free the objects of a deleted source, then lets it go.
pub async fn finalize(
    ctx: &Context,
    cluster: &Cluster,
    source: &PolicySource,
) -> Result<Action, ClusterError> {
    if !source.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return Ok(Action::await_change());
    }
    if settings::is_lost(&ctx.client, source).await? {
        // Nothing can be told in it any more.
        tracing::warn!(source = %cluster.label, "let go with the namespace of the control plane; its policies stay");
    } else if let Err(error) = clean(ctx, cluster, source).await {
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
    if source.spec.prune {
        return execute::prune(ctx, cluster, source, &live, &[]).await;
    }
    // In the order of the seal; what is done already has no label of ours any more.
    for (key, _) in keys(&report::inventory(source)) {
        let Some(found) = live.get(&key) else { continue };
        let patch = json!({"metadata": {
            "resourceVersion": found.object.resource_version(),
            "labels": {SOURCE: null},
            "annotations": {COMMIT: null, FILE: null},
        }});
        let params =
            PatchParams { field_manager: Some(cluster.manager(Some(found))), ..PatchParams::default() };
        match cluster.api(&key).patch_metadata(&key.name, &params, &Patch::Merge(patch)).await {
            Ok(_) => ctx.metrics.writes.inc(),
            Err(kube::Error::Api(status)) if status.is_not_found() => continue,
            Err(error) => return Err(ClusterError::write("take the label off", &key)(error)),
        };
    }
    Ok(())
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
