//! Makes the cluster as decided: root, children, namespaces, then pruning. Thin; every decision was made before.

use std::collections::BTreeSet;

use crds::MeshConfig;
use crds::labels;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::build::{self, Scope};
use super::facts::Facts;
use super::plan::Plan;
use super::rotation::SecretAction;
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
    /// The root of trust could not be written or deleted.
    #[error("cannot create or delete Secret {0}")]
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
    root: Option<&SecretAction>,
) -> Done {
    let mut done = Done::default();
    if let Some(action) = root.filter(|_| !plan.revisions.build.is_empty()) {
        let acted = secret(&ctx.client, mesh, action).await;
        done.check(acted);
    }
    for object in children {
        let result = apply::apply(&ctx.client, MANAGER, object).await;
        done.note(apply::key(object), result);
    }
    label_namespaces(&ctx.client, mesh, plan, facts, &mut done).await;
    // Without the published roots neither copies nor webhooks can be built; those that exist are not unwanted.
    let complete = facts.trust_bundle.is_some() || facts.webhooks.is_empty();
    if done.failures.is_empty() && plan.verdict_allows_pruning() && complete {
        prune(ctx, mesh, plan, facts, children, &mut done).await;
    }
    ctx.metrics.writes.inc_by(done.written.len() as u64);
    ctx.metrics.deletions.inc_by(done.deleted.len() as u64);
    done
}

/// Creates or deletes the Secret of a root.
async fn secret(client: &Client, mesh: &MeshConfig, action: &SecretAction) -> Result<(), ExecuteError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &mesh.spec.namespace);
    let failed =
        |name: &str, error| ExecuteError::Secret(format!("{}/{name}", mesh.spec.namespace), Box::new(error));
    match action {
        SecretAction::Create { secret, generation } => {
            // A dry run first: RSA keys take seconds to make, and this is asked again and again.
            let dry = PostParams { dry_run: true, ..PostParams::default() };
            if created(api.create(&dry, &build::empty_secret(mesh, secret)).await)
                .map_err(|error| failed(secret, error))?
            {
                let root = build::root_secret(mesh, secret, *generation, time::OffsetDateTime::now_utc())?;
                let created = created(api.create(&PostParams::default(), &root).await);
                if created.map_err(|error| failed(secret, error))? {
                    tracing::info!(
                        namespace = mesh.spec.namespace,
                        secret,
                        generation,
                        "a root of trust was made"
                    );
                }
            }
        }
        SecretAction::Delete { secret, uid } => {
            let only = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            match api.delete(secret, &params).await {
                Ok(_) => {
                    tracing::info!(
                        namespace = mesh.spec.namespace,
                        secret,
                        "an old root of trust was deleted"
                    );
                }
                // Gone, or another one by now.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => return Err(failed(secret, error)),
            }
        }
    }
    Ok(())
}

/// Whether the Secret did not exist before.
fn created(answer: Result<Secret, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
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
