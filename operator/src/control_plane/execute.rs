//! Makes the cluster as decided: root, children, namespaces, then pruning. Thin; every decision was made before.

use std::collections::{BTreeMap, BTreeSet};

use crds::MeshConfig;
use crds::labels;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::build::{self, Scope};
use super::facts::{Facts, NamespaceFact};
use super::plan::Plan;
use super::pruning::Left;
use super::rotation::SecretAction;
use crate::apply::{self, ApplyError, Key, MANAGER, Outcome, REVISION_MANAGER, Selection};
use crate::context::Context;

mod unbound;

/// What executing a plan came to.
#[derive(Debug, Default)]
pub struct Done {
    /// Created or changed, in order.
    pub written: Vec<(Key, Outcome)>,
    /// Deleted.
    pub deleted: Vec<Key>,
    /// What failed; the rest was done all the same.
    pub failures: Vec<ExecuteError>,
    /// Why nothing, or not everything, that is no longer wanted was deleted.
    pub left: Option<Left>,
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
    /// Nobody gave the operator its rights in the control plane's namespace.
    #[error("{}", unbound::words(namespace, operator))]
    Unbound {
        /// The control plane's namespace.
        namespace: String,
        /// The operator's own.
        operator: String,
    },
}

impl ExecuteError {
    /// Whether the API server says that it may not be done.
    fn is_forbidden(&self) -> bool {
        let (Self::Apply(ApplyError::Api { source, .. })
        | Self::Secret(_, source)
        | Self::Namespace(_, source)) = self
        else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status) if status.is_forbidden())
    }
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
        let result = ctx.writer.apply(MANAGER, object).await;
        done.note(apply::key(object), result);
    }
    label_namespaces(&ctx.client, mesh, plan, facts, &mut done).await;
    done.left = if done.failures.is_empty() { plan.left(facts) } else { Some(Left::AfterFailure) };
    if matches!(done.left, None | Some(Left::InUse(_))) {
        prune(ctx, mesh, plan, facts, children, &mut done).await;
    }
    unbound::name(ctx, mesh, &mut done).await;
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
        SecretAction::Create { secret, generation, beside } => {
            // Dry runs first: RSA keys take seconds to make, and this is asked again and again.
            let dry = PostParams { dry_run: true, ..PostParams::default() };
            let mut free = true;
            for name in beside.must_be_free(secret) {
                let answer = api.create(&dry, &build::empty_secret(mesh, name)).await;
                free &= created(answer).map_err(|error| failed(name, error))?;
            }
            if free {
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
    let mut seen: BTreeMap<&str, NamespaceFact> =
        facts.namespaces.iter().map(|namespace| (namespace.name.as_str(), namespace.clone())).collect();
    let mut all: Vec<(&String, &str, Value)> = Vec::new();
    for name in &membership.label {
        let right = seen.get(name.as_str()).is_some_and(|namespace| {
            namespace.labels.get(labels::MESH) == Some(&me) && namespace.labelled_by.as_ref() == Some(&me)
        });
        if !right {
            let metadata = json!({"labels": {labels::MESH: me}, "annotations": {labels::LABELLED_BY: me}});
            all.push((name, MANAGER, metadata));
        }
    }
    all.extend(membership.unlabel.iter().map(|name| (name, MANAGER, json!({}))));
    let revise = membership.revise.iter();
    all.extend(
        revise
            .map(|(name, version)| (name, REVISION_MANAGER, json!({"labels": {labels::REVISION: version}}))),
    );
    all.extend(membership.unrevise.iter().map(|name| (name, REVISION_MANAGER, json!({}))));
    for (name, manager, metadata) in all {
        let Some(namespace) = seen.get_mut(name.as_str()) else { continue };
        match label(client, namespace, manager, &metadata).await {
            // What is written next to this namespace is held against what was just written.
            Ok(Labelled::Yes(version)) => namespace.resource_version = version,
            // An upgrade, a person or a deletion was faster; that wakes this reconciler, which decides anew.
            Ok(Labelled::Changed) => {
                tracing::info!(namespace = name, manager, "not labelled: it has changed meanwhile");
            }
            Err(error) => done.failures.push(error),
        }
    }
}

/// What labelling a namespace came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labelled {
    /// It is labelled, and this is its version now.
    Yes(String),
    /// It has changed since it was looked at, or is gone: nothing was done.
    Changed,
}

/// Applies labels to a namespace as it was seen, with a field manager that owns nothing else of it; what that owned before
/// and is not named any more goes away.
///
/// # Errors
/// [`ExecuteError::Namespace`].
pub async fn label(
    client: &Client,
    namespace: &NamespaceFact,
    manager: &str,
    metadata: &Value,
) -> Result<Labelled, ExecuteError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let name = &namespace.name;
    // With a version that name is never created anew by this.
    let mut body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    body["metadata"]["name"] = json!(name);
    body["metadata"]["resourceVersion"] = json!(namespace.resource_version);
    match api.patch_metadata(name, &PatchParams::apply(manager).force(), &Patch::Apply(body)).await {
        Ok(written) => {
            tracing::info!(namespace = name, manager, %metadata, "namespace labelled");
            Ok(Labelled::Yes(written.resource_version().unwrap_or_default()))
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Labelled::Changed),
        Err(error) => Err(ExecuteError::Namespace(name.clone(), Box::new(error))),
    }
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
    for (resource, scope) in build::kinds(facts.server.budgets) {
        let (namespace, name) = match scope {
            Scope::ControlPlane => (Some(mesh.spec.namespace.clone()), None),
            Scope::Cluster => (None, None),
            Scope::Named(name) => (None, Some(name.to_owned())),
        };
        let selection = Selection { namespace, labels: selector.clone(), name };
        match ctx.writer.prune(&resource, &selection, &keep).await {
            Ok(gone) => done.deleted.extend(gone),
            Err(error) => done.failures.push(error.into()),
        }
    }
    for key in &done.deleted {
        tracing::info!(object = %key, "deleted: no longer wanted");
    }
}
