//! Namespaces whose MeshConfig is gone lose the labels that we set. Children go by garbage collection; labels have
//! no owner. Driven by labels and not by a finalizer, so that a MeshConfig can be deleted when no operator runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crds::{MeshConfig, labels};
use futures::StreamExt;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};

use super::execute::{ExecuteError, Labelled, label};
use super::facts::NamespaceFact;
use super::gather;
use crate::apply::{MANAGER, REVISION_MANAGER};
use crate::context::Context;

/// Looked for this often, and at every deletion of a MeshConfig.
const LOOK: Duration = Duration::from_secs(60);

/// Runs until the context's shutdown begins.
pub(super) async fn run(ctx: Arc<Context>) {
    let meshes: Api<PartialObjectMeta<MeshConfig>> = Api::all(ctx.client.clone());
    let events = watcher(meshes, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = ctx.shutdown.stopping.cancelled() => return,
            _ = look.tick() => {}
            event = events.next() => match event {
                Some(Ok(watcher::Event::Delete(_) | watcher::Event::InitDone)) => {}
                _ => continue,
            },
        }
        if let Err(error) = clean(&ctx).await {
            tracing::warn!(error = format!("{error:#}"), "namespaces of a deleted mesh are still labelled");
            look.reset_after(Duration::from_secs(3));
        }
    }
}

async fn clean(ctx: &Context) -> anyhow::Result<()> {
    let api: Api<MeshConfig> = Api::all(ctx.client.clone());
    let meshes = api.list_metadata(&ListParams::default()).await?;
    let meshes: BTreeSet<_> = meshes.iter().map(ResourceExt::name_any).collect();
    for namespace in gather::namespaces(&ctx.client).await? {
        unlabel(ctx, namespace, &meshes).await?;
    }
    Ok(())
}

async fn unlabel(
    ctx: &Context,
    mut namespace: NamespaceFact,
    meshes: &BTreeSet<String>,
) -> Result<(), ExecuteError> {
    let gone = |mesh: &String| !meshes.contains(mesh);
    if namespace.labelled_by.as_ref().is_some_and(gone) {
        match label(&ctx.client, &namespace, MANAGER, &serde_json::json!({})).await? {
            Labelled::Yes(version) => namespace.resource_version = version,
            // Somebody else has it in hand; the next look sees what it is then.
            Labelled::Changed => return Ok(()),
        }
    }
    let mesh_gone = namespace.labels.get(labels::MESH).is_none_or(gone);
    if mesh_gone && namespace.our_revision && namespace.labels.contains_key(labels::REVISION) {
        label(&ctx.client, &namespace, REVISION_MANAGER, &serde_json::json!({})).await?;
    }
    Ok(())
}
