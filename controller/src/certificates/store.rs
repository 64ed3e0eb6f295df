//! The cluster's side of the root of trust: two Secrets that are read, one ConfigMap that is read and published.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::fleet::SecretReport;
use crds::labels;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use time::OffsetDateTime;

use super::authority::{Authority, RootError, Subject};
use super::trust::{InForce, Root};

/// Field manager of what the controller applies.
const FIELD_MANAGER: &str = crds::labels::CONTROLLER;
/// The other one first: when both hold the same root, the first one is meant.
const SECRETS: [&str; 2] = [labels::OTHER_ROOT_SECRET, labels::ROOT_SECRET];

/// The API server says no.
#[derive(Debug, thiserror::Error)]
#[error("cannot {0}")]
pub struct StoreError(&'static str, #[source] Box<kube::Error>);

/// The published bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// PEM; empty when there is none.
    pub bundle: String,
    /// The serial that it was published for.
    pub serial: i64,
}

/// What was read before, so that a Secret that has not changed is not judged again.
#[derive(Default)]
pub struct Store {
    judged: BTreeMap<&'static str, Judged>,
}

struct Judged {
    version: Option<String>,
    subject: Subject,
    authority: Arc<Authority>,
}

impl Store {
    /// Reads both Secrets. A bad one is a problem, not an error: what is in force stays in force.
    ///
    /// # Errors
    /// [`StoreError`] when the API server does not answer.
    pub async fn roots(
        &mut self,
        client: &Client,
        namespace: &str,
        trial: &Subject,
        now: OffsetDateTime,
    ) -> Result<(Vec<Root>, Option<String>), StoreError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let (mut roots, mut problem) = (Vec::new(), None);
        for name in SECRETS {
            let read = secrets.get_opt(name).await;
            let read = read.map_err(|error| StoreError("read the Secret of the root", Box::new(error)))?;
            let Some(secret) = read else {
                self.judged.remove(name);
                continue;
            };
            match self.judge(name, &secret, trial, now) {
                Ok(authority) => roots.push(root(&secret, authority)),
                Err(error) => {
                    let text = format!("{}: Secret {namespace}/{name}: {error}", error.reason());
                    tracing::warn!(problem = text, "a Secret does not hold a root of trust");
                    problem = Some(text);
                }
            }
        }
        Ok((roots, problem))
    }

    fn judge(
        &mut self,
        name: &'static str,
        secret: &Secret,
        trial: &Subject,
        now: OffsetDateTime,
    ) -> Result<Arc<Authority>, RootError> {
        let version = secret.resource_version();
        if let Some(judged) = self.judged.get(name)
            && judged.version == version
            && &judged.subject == trial
        {
            return Ok(judged.authority.clone());
        }
        let authority = Arc::new(read(secret)?);
        authority.check(trial, now)?;
        let judged = Judged { version, subject: trial.clone(), authority: authority.clone() };
        self.judged.insert(name, judged);
        Ok(authority)
    }

    /// Reads the published bundle.
    ///
    /// # Errors
    /// [`StoreError`] when the API server does not answer.
    pub async fn published(&self, client: &Client, namespace: &str) -> Result<Published, StoreError> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let read = maps.get_opt(labels::TRUST_BUNDLE).await;
        let read = read.map_err(|error| StoreError("read the trust bundle", Box::new(error)))?;
        let Some(map) = read else { return Ok(Published::default()) };
        let serial = map.annotations().get(labels::TRUST_SERIAL).and_then(|text| text.parse().ok());
        let bundle = map.data.and_then(|mut data| data.remove(labels::TRUST_BUNDLE_KEY));
        Ok(Published { bundle: bundle.unwrap_or_default(), serial: serial.unwrap_or_default() })
    }

    /// Publishes the bundle if it is another one, unless a replica that knows more has.
    ///
    /// # Errors
    /// [`StoreError`] when the API server refuses.
    pub async fn publish(
        &self,
        client: &Client,
        namespace: &str,
        published: &Published,
        in_force: &InForce,
    ) -> Result<(), StoreError> {
        let wanted = Published { bundle: in_force.bundle.clone(), serial: in_force.serial };
        if published == &wanted || (published.serial > wanted.serial && !published.bundle.is_empty()) {
            return Ok(());
        }
        let name = labels::TRUST_BUNDLE;
        let map = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name,
                "labels": {labels::MANAGED_BY: labels::MANAGER},
                "annotations": {labels::TRUST_SERIAL: wanted.serial.to_string()},
            },
            "data": {labels::TRUST_BUNDLE_KEY: wanted.bundle},
        });
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = maps.patch(name, &params, &Patch::Apply(&map)).await;
        applied.map(|_| ()).map_err(|error| StoreError("publish the trust bundle", Box::new(error)))
    }
}

fn read(secret: &Secret) -> Result<Authority, RootError> {
    let text = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(RootError::Missing(key))?;
        std::str::from_utf8(&bytes.0).map_err(|_| RootError::Missing(key))
    };
    Authority::read(text("tls.crt")?, text("tls.key")?, text("ca.crt").ok())
}

fn root(secret: &Secret, authority: Arc<Authority>) -> Root {
    let generation = secret.annotations().get(labels::ROOT_GENERATION).and_then(|text| text.parse().ok());
    Root {
        authority,
        generation: generation.unwrap_or(1),
        secret: Some(SecretReport { name: secret.name_any(), uid: secret.uid().unwrap_or_default() }),
    }
}
