//! A namespace of a control plane that is being deleted: nothing can be put into it, and it may never go by itself.
//!
//! ```text
//!  deleted ──▶ pods go ──▶ PolicySources wait for the operator, which went first ──let go──▶ gone
//! ```
//! The operator's finalizer is there so that it deletes the policies of a source. Where no operator is left, nobody will
//! ever take it off; the policies stay, count as written by hand, and are a source's again when that is back. A namespace
//! that is none of a control plane may hold a source of a mesh whose operator runs elsewhere: that one does its work.

use std::time::Instant;

use anyhow::Context;
use crds::{MeshConfig, PolicySource, labels};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{self, LOOK};
use crate::output::advise;
use crate::progress::Progress;

/// Waits until a namespace that is being deleted is gone; a namespace that stays is not waited for.
///
/// # Errors
/// When it is still there at the deadline, with what the API server says of it.
pub async fn wait(
    client: &Client,
    namespace: &str,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let mut waited = false;
    while let Some(there) = api.get_opt(namespace).await.context("reading the namespace")? {
        if there.metadata.deletion_timestamp.is_none() {
            break;
        }
        waited = true;
        match whose(client, namespace).await? {
            Whose::RunsIn(other) => progress.waiting(&format!(
                "namespace {namespace} is being deleted: the operator in {other} is waited for, should it have sources here"
            )),
            Whose::Gone => {
                progress.waiting(&format!("namespace {namespace} is being deleted: waiting until it is gone"));
                for source in let_go(client, namespace).await? {
                    progress.done(&format!(
                        "PolicySource {source} is let go, for its operator is gone; the policies that came from it stay"
                    ));
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(advise(
                format!("namespace {namespace} is still being deleted: {}", why(&there)),
                format!("kubectl get namespace {namespace} -o jsonpath='{{.status.conditions}}'"),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    if waited {
        progress.done(&format!("namespace {namespace} that was deleted is gone"));
    }
    Ok(())
}

/// Where the operator is that takes care of the sources of a namespace.
enum Whose {
    /// It went with the namespace, or there is none at all.
    Gone,
    /// In another namespace.
    RunsIn(String),
}

/// A control plane's own operator serves its namespace and no other does. What a namespace of teams holds may be any
/// operator's that runs. One that ends still counts: it may be at work, and the deletion waits for it in any case.
async fn whose(client: &Client, namespace: &str) -> anyhow::Result<Whose> {
    let meshes: Api<MeshConfig> = Api::all(client.clone());
    let meshes = cluster::list(&meshes, &ListParams::default()).await?.unwrap_or_default();
    let lives_here = meshes.iter().any(|mesh| mesh.spec.namespace == namespace);
    let pods: Api<Pod> = Api::all(client.clone());
    let of_operators = ListParams::default().labels(&format!("{}={}", labels::NAME, labels::OPERATOR));
    let pods = pods.list(&of_operators).await.context("reading the operators' pods")?;
    let mut places = pods.iter().filter_map(ResourceExt::namespace);
    let runs_in = places.find(|place| place == namespace || !lives_here);
    Ok(runs_in.map_or(Whose::Gone, Whose::RunsIn))
}

/// Takes the operator's finalizer off the sources of a namespace whose operator is gone; returns their names.
async fn let_go(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>> {
    let api: Api<PolicySource> = Api::namespaced(client.clone(), namespace);
    let mut gone = Vec::new();
    for source in cluster::list(&api, &ListParams::default()).await?.unwrap_or_default() {
        let Some(patch) = without_ours(&source) else { continue };
        match api.patch(&source.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => gone.push(source.name_any()),
            // Somebody else wrote it, or it went: the next look says.
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
            Err(error) => return Err(error).context("letting a PolicySource go"),
        }
    }
    Ok(gone)
}

/// The patch that takes our finalizer off a source that is being deleted, if it is as it was read.
fn without_ours(source: &PolicySource) -> Option<Value> {
    let meta = source.meta();
    meta.deletion_timestamp.as_ref()?;
    let ours = |finalizer: &&String| finalizer.as_str() == labels::SOURCE_FINALIZER;
    source.finalizers().iter().find(ours)?;
    let others: Vec<_> = source.finalizers().iter().filter(|finalizer| !ours(finalizer)).collect();
    Some(json!({"metadata": {"finalizers": others, "resourceVersion": meta.resource_version}}))
}

/// What the API server says holds a namespace.
fn why(namespace: &Namespace) -> String {
    let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    let holds = conditions.into_iter().flatten().filter(|condition| condition.status == "True");
    let said: Vec<_> = holds.filter_map(|condition| condition.message.clone()).collect();
    if said.is_empty() { "the API server does not say why".to_owned() } else { said.join("; ") }
}
