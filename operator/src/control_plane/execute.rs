//! Makes the cluster as decided: root, children, namespaces, then pruning. Thin; every decision was made before.

use std::collections::BTreeSet;

use crds::MeshConfig;
use crds::labels;
use crds::mesh_config::CaProvider;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::build::{self, Scope};
use super::facts::Facts;
use super::plan::Plan;
use crate::apply::{self, ApplyError, Key, MANAGER, Outcome, REVISION_MANAGER, Selection};
use crate::context::Context;

/// What executing a plan came to.
#[derive(Debug, Default)]
pub struct Done {
    /// Created or changed, in order.
    pub written: Vec<(Key, Outcome)>,
    /// Deleted.
    pub deleted: Vec<Key>,
    /// What failed; the rest was done all the same.
    pub failures: Vec<ExecuteError>,
}

/// Something that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A child or a status.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The root of trust could not be made.
    #[error(transparent)]
    Root(#[from] build::RootError),
    /// The root of trust could not be written.
    #[error("cannot create Secret {0}")]
    Secret(String, #[source] Box<kube::Error>),
    /// A namespace could not be labelled.
    #[error("cannot label namespace {0}")]
    Namespace(String, #[source] Box<kube::Error>),
}

impl Done {
    fn note(&mut self, key: Key, result: Result<Outcome, ApplyError>) {
        match result {
            Ok(Outcome::Unchanged) => {}
            Ok(outcome) => {
                tracing::info!(object = %key, ?outcome, "applied");
                self.written.push((key, outcome));
            }
            Err(error) => self.failures.push(error.into()),
        }
    }

    fn check<T>(&mut self, result: Result<T, ExecuteError>) {
        if let Err(error) = result {
            self.failures.push(error);
        }
    }
}

/// Executes. One failure does not keep the rest from being done, except that nothing is pruned after one.
pub async fn execute(
    ctx: &Context,
    mesh: &MeshConfig,
    plan: &Plan,
    facts: &Facts,
    children: &[DynamicObject],
) -> Done {
    let mut done = Done::default();
    if mesh.spec.certificate_authority.provider == CaProvider::BuiltIn && !plan.revisions.build.is_empty() {
        done.check(ensure_root(&ctx.client, mesh).await);
    }
    for object in children {
        let result = apply::apply(&ctx.client, MANAGER, object).await;
        done.note(apply::key(object), result);
    }
    label_namespaces(&ctx.client, mesh, plan, facts, &mut done).await;
    if done.failures.is_empty() && plan.verdict_allows_pruning() {
        prune(ctx, mesh, plan, facts, children, &mut done).await;
    }
    ctx.metrics.writes.inc_by(done.written.len() as u64);
    ctx.metrics.deletions.inc_by(done.deleted.len() as u64);
    done
}

/// Creates the Secret. That it exists is all the operator can learn of it, and all that it needs to.
async fn ensure_root(client: &Client, mesh: &MeshConfig) -> Result<(), ExecuteError> {
    let secret = build::root_secret(mesh, time::OffsetDateTime::now_utc())?;
    let api: Api<Secret> = Api::namespaced(client.clone(), &mesh.spec.namespace);
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => tracing::info!(namespace = mesh.spec.namespace, "a root of trust was made"),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => {
            let name = format!("{}/{}", mesh.spec.namespace, labels::ROOT_SECRET);
            return Err(ExecuteError::Secret(name, Box::new(error)));
        }
    }
    Ok(())
}

async fn label_namespaces(client: &Client, mesh: &MeshConfig, plan: &Plan, facts: &Facts, done: &mut Done) {
    let me = mesh.name_any();
    let membership = &plan.membership;
    for name in &membership.label {
        let fact = facts.namespaces.iter().find(|namespace| &namespace.name == name);
        let right = fact.is_some_and(|namespace| {
            namespace.labels.get(labels::MESH) == Some(&me) && namespace.labelled_by.as_ref() == Some(&me)
        });
        if !right {
            let metadata = json!({"labels": {labels::MESH: me}, "annotations": {labels::LABELLED_BY: me}});
            done.check(label(client, name, MANAGER, &metadata).await);
        }
    }
    for name in &membership.unlabel {
        done.check(label(client, name, MANAGER, &json!({})).await);
    }
    for (name, version) in &membership.revise {
        done.check(
            label(client, name, REVISION_MANAGER, &json!({"labels": {labels::REVISION: version}})).await,
        );
    }
    for name in &membership.unrevise {
        done.check(label(client, name, REVISION_MANAGER, &json!({})).await);
    }
}

/// Applies labels to a namespace with a field manager that owns nothing else of it; what it owned before and is
/// not named any more goes away.
///
/// # Errors
/// [`ExecuteError::Namespace`]; a namespace that is gone is no error.
pub async fn label(client: &Client, name: &str, manager: &str, metadata: &Value) -> Result<(), ExecuteError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let failed = |error| ExecuteError::Namespace(name.to_owned(), Box::new(error));
    // Applying to a name that does not exist would create it.
    if api.get_metadata_opt(name).await.map_err(failed)?.is_none() {
        return Ok(());
    }
    let mut body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    body["metadata"]["name"] = json!(name);
    api.patch_metadata(name, &PatchParams::apply(manager).force(), &Patch::Apply(body))
        .await
        .map_err(failed)?;
    tracing::info!(namespace = name, manager, %metadata, "namespace labelled");
    Ok(())
}

async fn prune(
    ctx: &Context,
    mesh: &MeshConfig,
    plan: &Plan,
    facts: &Facts,
    children: &[DynamicObject],
    done: &mut Done,
) {
    let keep: BTreeSet<Key> = children.iter().map(apply::key).collect();
    let mut selector =
        format!("{}={},{}={}", labels::MANAGED_BY, labels::MANAGER, labels::MESH, mesh.name_any());
    if !plan.revisions.keep.is_empty() {
        let versions: Vec<_> = plan.revisions.keep.iter().map(String::as_str).collect();
        selector.push_str(&format!(",{} notin ({})", labels::VERSION, versions.join(",")));
    }
    for (resource, scope) in build::kinds(facts.budgets) {
        let (namespace, name) = match scope {
            Scope::ControlPlane => (Some(mesh.spec.namespace.clone()), None),
            Scope::Cluster => (None, None),
            Scope::Named(name) => (None, Some(name.to_owned())),
        };
        let selection = Selection { namespace, labels: selector.clone(), name };
        match apply::prune(&ctx.client, &resource, &selection, &keep).await {
            Ok(gone) => done.deleted.extend(gone),
            Err(error) => done.failures.push(error.into()),
        }
    }
    for key in &done.deleted {
        tracing::info!(object = %key, "deleted: no longer wanted");
    }
}
