//! Writes and deletes objects. No decisions.

use crds::PolicySource;
use crds::policy_source::InventoryEntry;
use futures::{StreamExt, TryStreamExt, stream};
use gitops::{Bundle, Policy, Problem, What};
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};

use super::cluster::{Cluster, ClusterError, Live, LiveObject, MANAGER, PARALLEL, keys};
use super::{conflicts, marks};
use crate::context::Context;
use crate::events::Weight;

/// Most objects that an Event names.
const NAMED: usize = 5;

/// Asks the API server (its schemas and webhooks) about every change without making it.
pub async fn try_out(
    cluster: &Cluster,
    bundle: &Bundle,
    changes: &[&Policy],
) -> Result<Vec<Problem>, ClusterError> {
    // Collected first: a closure inside the stream would have to hold for every lifetime.
    let answers: Vec<_> = changes.iter().map(|policy| try_one(cluster, bundle, policy)).collect();
    let found: Vec<_> = stream::iter(answers).buffered(PARALLEL).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn try_one(
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
) -> Result<Option<Problem>, ClusterError> {
    match patch(cluster, bundle, policy, true).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if is_refusal(status.code) => {
            let message = status.message.chars().filter(|c| !c.is_control()).take(500).collect();
            Ok(Some(conflicts::at(policy, What::Refused { key: policy.key.clone(), message })))
        }
        Err(error) => Err(ClusterError::write("try", &policy.key)(error)),
    }
}

/// The object is at fault, not the moment.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400 | 403 | 404 | 413 | 422)
}

/// Makes the cluster's objects as the commit says.
pub async fn apply(
    ctx: &Context,
    cluster: &Cluster,
    bundle: &Bundle,
    changes: &[&Policy],
) -> Result<(), ClusterError> {
    let writes: Vec<_> = changes.iter().map(|policy| write(ctx, cluster, bundle, policy)).collect();
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await
}

async fn write(
    ctx: &Context,
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
) -> Result<(), ClusterError> {
    let object =
        patch(cluster, bundle, policy, false).await.map_err(ClusterError::write("apply", &policy.key))?;
    ctx.metrics.writes.inc();
    let found = LiveObject::new(policy.key.kind, object);
    if found.hash.as_ref() == Some(&policy.hash) {
        return Ok(());
    }
    // Somebody else owns a field that Git doesn't have: apply leaves it, and the content would never be the sealed.
    let mut object = found.object;
    object.data["spec"] = serde_json::to_value(&policy.spec).unwrap_or_default();
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let replaced = cluster.api(&policy.key).replace(&policy.key.name, &params, &object).await;
    replaced.map(|_| ()).map_err(ClusterError::write("replace", &policy.key))
}

async fn patch(
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
    dry_run: bool,
) -> Result<DynamicObject, kube::Error> {
    let (labels, annotations) = marks(cluster, bundle, policy);
    let manifest = policy.manifest(&labels, &annotations);
    let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
    cluster.api(&policy.key).patch(&policy.key.name, &params, &Patch::Apply(&manifest)).await
}

/// Deletes the source's objects that its seal doesn't list. Only after the seal is written.
pub async fn prune(
    ctx: &Context,
    cluster: &Cluster,
    source: &PolicySource,
    live: &Live,
    sealed: &[InventoryEntry],
) -> Result<(), ClusterError> {
    if !source.spec.prune {
        return Ok(());
    }
    let sealed = keys(sealed);
    let ours = live.iter().filter(|(_, found)| found.source() == Some(cluster.label.as_str()));
    let extra = ours.filter(|(key, _)| !sealed.iter().any(|(sealed, _)| sealed == *key));
    let mut gone = Vec::new();
    for (key, found) in extra {
        if found.object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        // Not the object of the same name that somebody made since.
        let preconditions = Preconditions { uid: found.object.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match cluster.api(key).delete(&key.name, &params).await {
            Ok(_) => gone.push(key.to_string()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(ClusterError::write("delete", key)(error)),
        }
    }
    if !gone.is_empty() {
        ctx.metrics.deletions.inc_by(gone.len() as u64);
        let note = format!("no longer in Git and deleted: {}", some(&gone));
        ctx.events.tell(source, Weight::Normal, "Pruned", "Prune", &note).await;
    }
    Ok(())
}

/// Tells about sealed objects that somebody had changed or deleted.
pub async fn tell_put_back(
    ctx: &Context,
    source: &PolicySource,
    changes: &[&Policy],
    sealed: &[InventoryEntry],
) {
    let sealed = keys(sealed);
    let was_sealed =
        |policy: &&&Policy| sealed.iter().any(|(key, hash)| *key == policy.key && *hash == policy.hash);
    let put_back: Vec<_> = changes.iter().filter(was_sealed).map(|policy| policy.key.to_string()).collect();
    if !put_back.is_empty() {
        let note = format!("changed by hand and put back as in Git: {}; change them in Git", some(&put_back));
        ctx.events.tell(source, Weight::Warning, "PutBack", "Apply", &note).await;
    }
}

fn some(names: &[String]) -> String {
    match names.len().checked_sub(NAMED) {
        Some(more) if more > 0 => format!("{} and {more} more", names[..NAMED].join(", ")),
        _ => names.join(", "),
    }
}
