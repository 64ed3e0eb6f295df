//! Does what a plan says, each thing with what it expects to find; what has changed since is left to the next pass.

use crds::{MeshConfig, MeshUpgrade, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use upgrades::Action;
use upgrades::facts::{Kind, WorkloadId};
use upgrades::ledger::Did;

use super::gather::Gathered;
use super::slots::{self, Swap};
use crate::apply::REVISION_MANAGER;
use crate::context::Context;
use crate::events::Weight;

/// Field manager of the annotation on pod templates.
const MANAGER: &str = "meshwright-operator-upgrade";

/// What doing one thing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// It is done.
    Yes,
    /// What was expected is not there any more.
    Changed,
    /// A budget has nothing left; it will.
    Busy(String),
    /// The API server refuses, and says why: rights, a quota, somebody's admission webhook.
    Refused(String),
    /// No answer, or one that nobody expects: whether it was done is to be observed.
    Unknown(String),
}

impl Done {
    /// As the record has it.
    #[must_use]
    pub fn did(&self) -> Did {
        match self {
            Self::Yes => Did::Yes,
            Self::Changed => Did::Changed,
            Self::Busy(why) | Self::Refused(why) => Did::Refused(why.clone()),
            Self::Unknown(why) => Did::Unknown(why.clone()),
        }
    }
}

/// Executes the actions in order, each whatever became of the others, and says what came of each.
pub async fn execute(
    ctx: &Context,
    mesh: &MeshConfig,
    record: &MeshUpgrade,
    actions: &[Action],
    gathered: &Gathered,
) -> Vec<(Action, Done)> {
    let mut all = Vec::new();
    for action in actions {
        let done = match act(ctx, action, gathered).await {
            Ok(done) => done,
            Err(error) => failed(&error),
        };
        match &done {
            Done::Yes => tell(ctx, mesh, record, action, gathered).await,
            Done::Changed => tracing::info!(%action, "not done: it has changed meanwhile"),
            Done::Busy(why) | Done::Refused(why) => tracing::info!(%action, why, "refused"),
            Done::Unknown(why) => tracing::warn!(%action, why, "failed"),
        }
        all.push((action.clone(), done));
    }
    all
}

/// Does one thing that is of no upgrade, and says of which workload.
pub async fn one(ctx: &Context, action: &Action, gathered: &Gathered) -> (Done, Option<ObjectReference>) {
    let done = act(ctx, action, gathered).await.unwrap_or_else(|error| failed(&error));
    (done, workload(gathered, action))
}

/// What an error of the API server means for what was tried.
fn failed(error: &kube::Error) -> Done {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Done::Changed,
        kube::Error::Api(status) if status.code == 429 => Done::Busy(status.message.clone()),
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            Done::Refused(status.message.clone())
        }
        error => Done::Unknown(runtime::logging::chain(error)),
    }
}

async fn act(ctx: &Context, action: &Action, gathered: &Gathered) -> Result<Done, kube::Error> {
    let client = &ctx.client;
    match action {
        Action::Relabel { namespace, expect: _, to } => {
            // Without the version that was seen there is nothing to hold the write against.
            let Some(version) = gathered.namespaces.get(namespace) else { return Ok(Done::Changed) };
            relabel(client, namespace, version, to).await
        }
        Action::Evict { namespace, workload: _, pod, uid, cost: _ } => {
            evict(client, namespace, pod, uid).await
        }
        Action::Swap { namespace, workload: _, pod, uid, expect, to, at } => {
            let Ok(release) = ctx.catalogue.get(to) else { return Ok(Done::Changed) };
            let image = release.images(&ctx.image_prefix).proxy;
            slots::swap(client, &Swap { namespace, pod, uid, expect: *expect, to, image: &image, at: *at })
                .await
        }
        Action::Surge { namespace, deployment, expect: _, mark } => {
            let key = (namespace.clone(), deployment.clone());
            let Some(version) = gathered.deployments.get(&key) else { return Ok(Done::Changed) };
            surge(client, namespace, deployment, version, mark).await
        }
        // The report writes it.
        Action::BeginSoak { .. } => Ok(Done::Yes),
    }
}

async fn relabel(client: &Client, namespace: &str, version: &str, to: &str) -> Result<Done, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let body = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "resourceVersion": version, "labels": {labels::REVISION: to}},
    });
    let params = PatchParams::apply(REVISION_MANAGER).force();
    api.patch_metadata(namespace, &params, &Patch::Apply(body)).await.map(|_| Done::Yes)
}

async fn surge(
    client: &Client,
    namespace: &str,
    deployment: &str,
    version: &str,
    mark: &str,
) -> Result<Done, kube::Error> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let body = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment, "namespace": namespace, "resourceVersion": version},
        "spec": {"template": {"metadata": {"annotations": {labels::MOVED_TO: mark}}}},
    });
    let params = PatchParams::apply(MANAGER).force();
    api.patch(deployment, &params, &Patch::Apply(body)).await.map(|_| Done::Yes)
}

/// Evicts a pod, if it still is the one that was seen. The client must not repeat requests by itself
/// (`Config::default_retry`): an eviction that is refused now must not happen minutes later, on other facts.
async fn evict(client: &Client, namespace: &str, pod: &str, uid: &str) -> Result<Done, kube::Error> {
    // The precondition below is checked after the budget was charged (seen on 1.20), which then stays charged for two
    // minutes; so a pod that is known to be another is not even asked about.
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if pods.get_metadata_opt(pod).await?.is_none_or(|found| found.metadata.uid.as_deref() != Some(uid)) {
        return Ok(Done::Changed);
    }
    let body = json!({
        "apiVersion": eviction_version(client).await?,
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    });
    let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?)
        .map_err(kube::Error::HttpError)?;
    match client.request::<serde_json::Value>(request).await {
        // More than one budget covers it.
        Err(kube::Error::Api(status)) if status.code == 500 => Ok(Done::Refused(status.message.clone())),
        answer => answer.map(|_| Done::Yes),
    }
}

/// The group and version of evictions, as discovery says: `policy/v1` from Kubernetes 1.22, `policy/v1beta1` before.
async fn eviction_version(client: &Client) -> Result<String, kube::Error> {
    let core = client.list_core_api_resources("v1").await?;
    let version = core
        .resources
        .into_iter()
        .find(|resource| resource.name == "pods/eviction")
        .and_then(|resource| resource.version);
    Ok(format!("policy/{}", version.as_deref().unwrap_or("v1")))
}

/// Tells the record, and the workload that was disturbed or the mesh.
async fn tell(ctx: &Context, mesh: &MeshConfig, record: &MeshUpgrade, action: &Action, gathered: &Gathered) {
    let words = action.to_string();
    let (from, to) = (&record.spec.from, &record.spec.to);
    let why = format!("{words} (upgrade of mesh {} from {from} to {to})", record.spec.mesh);
    let reason = match action {
        Action::Relabel { .. } => "NamespaceMoved",
        Action::Evict { .. } => "PodEvicted",
        Action::Swap { .. } => "SidecarSwapped",
        Action::Surge { .. } => "DeploymentRolled",
        Action::BeginSoak { .. } => "WaveMoved",
    };
    tracing::info!(reason, mesh = record.spec.mesh, "{words}");
    ctx.events.tell(record, Weight::Normal, reason, "Upgrade", &words).await;
    match workload(gathered, action) {
        Some(reference) => ctx.events.tell_about(&reference, Weight::Normal, reason, "Upgrade", &why).await,
        None => ctx.events.tell(mesh, Weight::Normal, reason, "Upgrade", &why).await,
    }
}

/// The workload that an action disturbs.
fn workload(gathered: &Gathered, action: &Action) -> Option<ObjectReference> {
    let (namespace, id) = match action {
        Action::Evict { namespace, workload, .. } | Action::Swap { namespace, workload, .. } => {
            (namespace, workload.clone())
        }
        Action::Surge { namespace, deployment, .. } => {
            (namespace, WorkloadId { name: deployment.clone(), kind: Kind::Deployment })
        }
        Action::Relabel { .. } | Action::BeginSoak { .. } => return None,
    };
    gathered.references.get(&(namespace.clone(), id)).cloned()
}
