//! Writes and deletes objects. No decisions.

use std::collections::BTreeSet;
use std::time::Instant;

use crds::PolicySource;
use crds::policy_source::InventoryEntry;
use futures::{StreamExt, TryStreamExt, stream};
use gitops::{Bundle, Policy, Problem, What};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use super::cluster::{Cluster, ClusterError, Live, LiveObject, PARALLEL, keys};
use super::conflicts;
use super::fetching::Altered;
use super::intake::marks;
use crate::context::Context;
use crate::events::Weight;

/// Most objects that an Event names.
const NAMED: usize = 5;

/// Asks the API server (its schemas and webhooks) about every change without making it.
pub async fn try_out(
    cluster: &Cluster,
    bundle: &Bundle,
    changes: &[&Policy],
    live: &Live,
) -> Result<Vec<Problem>, ClusterError> {
    // Collected first: a closure inside the stream would have to hold for every lifetime.
    let answers: Vec<_> = changes.iter().map(|policy| try_one(cluster, bundle, policy, live)).collect();
    let found: Vec<_> = stream::iter(answers).buffered(PARALLEL).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn try_one(
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
    live: &Live,
) -> Result<Option<Problem>, ClusterError> {
    match put(cluster, bundle, policy, live, Mode::Try).await {
        Ok(altered) => Ok(altered.map(|altered| changed(policy, &altered.field))),
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

/// An object that is stored in another way than it was meant.
pub type Changed<'a> = (&'a Policy, Altered);

/// The problem that it is.
pub fn changed(policy: &Policy, field: &str) -> Problem {
    conflicts::at(policy, What::ContentChanged { key: policy.key.clone(), field: field.to_owned() })
}

/// Makes the cluster's objects as the commit says; returns those that are stored in another way.
pub async fn apply<'a>(
    ctx: &Context,
    cluster: &Cluster,
    bundle: &Bundle,
    changes: &[&'a Policy],
    live: &Live,
) -> Result<Vec<Changed<'a>>, ClusterError> {
    let writes: Vec<_> = changes.iter().map(|policy| write(ctx, cluster, bundle, policy, live)).collect();
    let altered: Vec<_> = stream::iter(writes).buffer_unordered(PARALLEL).try_collect().await?;
    Ok(altered.into_iter().flatten().collect())
}

async fn write<'a>(
    ctx: &Context,
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &'a Policy,
    live: &Live,
) -> Result<Option<Changed<'a>>, ClusterError> {
    let altered = put(cluster, bundle, policy, live, Mode::Write).await;
    let altered = altered.map_err(ClusterError::write("apply", &policy.key))?;
    ctx.metrics.writes.inc();
    Ok(altered.map(|altered| (policy, altered)))
}

/// Whether it is for real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Try,
    Write,
}

/// Puts one object, on what was read of it: one that is new must still not be there, one that is there must still be
/// the same. Returns what is stored otherwise than it was meant.
async fn put(
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
    live: &Live,
    mode: Mode,
) -> Result<Option<Altered>, kube::Error> {
    let dry_run = mode == Mode::Try;
    let (labels, annotations) = marks(cluster, bundle, policy);
    let mut manifest = policy.manifest(&labels, &annotations);
    let (api, name, found) = (cluster.api(&policy.key), &policy.key.name, live.get(&policy.key));
    let manager = cluster.manager(found);
    let params = PatchParams { dry_run, ..PatchParams::apply(&manager) };
    let params = match found {
        // Without force: whoever has made it meanwhile has fields of it, and that is a conflict.
        None => params,
        Some(found) => {
            manifest["metadata"]["resourceVersion"] = json!(found.object.resource_version());
            params.force()
        }
    };
    let object = api.patch(name, &params, &Patch::Apply(&manifest)).await?;
    let stored = LiveObject::new(policy.key.kind, object);
    let (true, Some(_)) = (stored.hash.as_ref() != Some(&policy.hash), found) else {
        return Ok(compare(policy, &stored));
    };
    // Somebody else owns a field that Git doesn't have: apply leaves it, and the content would never be the sealed.
    let mut object = stored.object;
    object.data["spec"] = serde_json::to_value(&policy.spec).unwrap_or_default();
    if dry_run {
        object.metadata.resource_version = found.and_then(|found| found.object.resource_version());
    }
    let params = PostParams { dry_run, field_manager: Some(manager) };
    let object = api.replace(name, &params, &object).await?;
    Ok(compare(policy, &LiveObject::new(policy.key.kind, object)))
}

/// What is stored otherwise than it was meant.
fn compare(policy: &Policy, stored: &LiveObject) -> Option<Altered> {
    if stored.hash.as_ref() == Some(&policy.hash) {
        return None;
    }
    let meant = serde_json::to_value(&policy.spec).unwrap_or_default();
    let is = stored.object.data.get("spec").cloned().unwrap_or_default();
    let field = difference(&meant, &is, "spec").unwrap_or_else(|| "spec".to_owned());
    let (meant, stored) = (policy.hash.clone(), stored.hash.clone());
    Some(Altered { meant, stored, field, since: Instant::now() })
}

/// Path of the first field that differs; what is null or absent is the same.
fn difference(meant: &Value, is: &Value, at: &str) -> Option<String> {
    match (meant, is) {
        (Value::Object(meant), Value::Object(is)) => {
            let keys: BTreeSet<_> = meant.keys().chain(is.keys()).collect();
            keys.into_iter().find_map(|key| {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                difference(&of(meant), &of(is), &format!("{at}.{key}"))
            })
        }
        (Value::Array(meant), Value::Array(is)) if meant.len() == is.len() => {
            let mut pairs = meant.iter().zip(is).enumerate();
            pairs.find_map(|(index, (meant, is))| difference(meant, is, &format!("{at}[{index}]")))
        }
        (meant, is) => (meant != is).then(|| at.to_owned()),
    }
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
        // Not the object of the same name that somebody made since, nor one that another source has taken.
        let (uid, resource_version) = (found.object.uid(), found.object.resource_version());
        let preconditions = Preconditions { uid, resource_version };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_that_differs_is_named() {
        let meant = json!({"service": "s", "backends": [{"service": "a", "weight": 1}], "matches": null});
        let find = |is: Value| difference(&meant, &is, "spec");
        assert_eq!(find(json!({"service": "s", "backends": [{"service": "a", "weight": 1}]})), None);
        let other = json!({"service": "s", "backends": [{"service": "a", "weight": 2}]});
        assert_eq!(find(other).as_deref(), Some("spec.backends[0].weight"));
        assert_eq!(find(json!({"service": "s"})).as_deref(), Some("spec.backends"));
        let more = json!({"service": "s", "backends": [{"service": "a", "weight": 1}], "x": 1});
        assert_eq!(find(more).as_deref(), Some("spec.x"));
    }
}
