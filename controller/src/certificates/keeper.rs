//! Keeps the root, the published trust bundle and the controller's own serving certificate fresh.
//!
//! The controllers may only *get* the Secret of the root (docs/ARCHITECTURE.md), so it is asked for, not watched.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use runtime::admin::Readiness;
use runtime::certificates::Identity;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, RootError, Subject, service_names};
use super::endpoint::Policy;
use super::refusal::Refusal;

/// How often the Secret is read and the ConfigMap applied when all is well.
const PERIOD: Duration = Duration::from_secs(30);
/// How often while something is missing.
const RETRY: Duration = Duration::from_secs(1);
/// Field manager of what the controller applies.
const FIELD_MANAGER: &str = "meshwright-controller";
/// The part of readiness that this is.
const PART: &str = "certificate";

/// Why the certificates are not in order.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The operator has not made it yet, or somebody deleted it.
    #[error("the Secret {0} does not exist yet")]
    NoSecret(String),
    /// The API server said no.
    #[error("cannot {0}")]
    Api(&'static str, #[source] Box<kube::Error>),
    /// The Secret does not hold a root.
    #[error("the Secret {0} does not hold a root of trust")]
    Root(String, #[source] RootError),
    /// The MeshConfig has not been seen.
    #[error("the MeshConfig has not been seen yet")]
    NoMeshConfig,
    /// The own certificate cannot be made.
    #[error("cannot sign the own certificate")]
    Sign(#[source] Refusal),
    /// The own certificate cannot be used.
    #[error("cannot use the own certificate: {0}")]
    Own(String),
}

/// Loads, publishes, renews.
pub struct Keeper {
    /// To the API server.
    pub client: Client,
    /// Of the control plane.
    pub namespace: String,
    /// Name of the own Service and ServiceAccount.
    pub service: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Filled here, read by the endpoint.
    pub authority: Arc<ArcSwapOption<Authority>>,
    /// Filled by the watch of the MeshConfig.
    pub policy: Arc<ArcSwapOption<Policy>>,
    /// Own certificate and roots, filled here, used by the TLS port.
    pub identity: Identity,
    /// Told when all is in order, or why not.
    pub readiness: Readiness,
}

#[derive(Default)]
struct Last {
    bundle: String,
    trust_domain: String,
    renew_after: Option<OffsetDateTime>,
}

impl Keeper {
    /// Works until `stop` is cancelled. What is in place stays in place when the API server or the Secret is away.
    pub async fn run(self, stop: CancellationToken) {
        let mut last = Last::default();
        self.readiness.not_ready(PART, "the root of trust has not been loaded yet");
        loop {
            let pause = match self.once(&mut last).await {
                Ok(()) => {
                    self.readiness.ready(PART);
                    PERIOD
                }
                Err(error) => {
                    let why = runtime::logging::chain(&error);
                    tracing::warn!(error = why, "certificates are not in order");
                    if !self.identity.certificate.is_set() {
                        self.readiness.not_ready(PART, why);
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn once(&self, last: &mut Last) -> Result<(), KeeperError> {
        let authority = self.load().await?;
        let bundle = authority.trust_bundle().to_owned();
        if last.bundle != bundle || self.authority.load().is_none() {
            self.identity.roots.set(&bundle).map_err(|error| KeeperError::Own(error.to_string()))?;
            self.authority.store(Some(Arc::new(authority)));
            tracing::info!("root of trust loaded");
        }
        let policy = self.policy.load_full().ok_or(KeeperError::NoMeshConfig)?;
        let now = OffsetDateTime::now_utc();
        let due = last.renew_after.is_none_or(|time| time <= now);
        if due || last.bundle != bundle || last.trust_domain != policy.trust_domain {
            last.renew_after = Some(self.renew(&policy, now)?);
            last.trust_domain.clone_from(&policy.trust_domain);
            last.bundle.clone_from(&bundle);
        }
        self.publish(&bundle).await
    }

    async fn load(&self) -> Result<Authority, KeeperError> {
        let name = crds::labels::ROOT_SECRET;
        let full_name = || format!("{}/{name}", self.namespace);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets
            .get_opt(name)
            .await
            .map_err(|error| KeeperError::Api("read the Secret of the root", Box::new(error)))?
            .ok_or_else(|| KeeperError::NoSecret(full_name()))?;
        let data = secret.data.unwrap_or_default();
        let text = |key: &'static str| {
            let bytes = data.get(key).ok_or(RootError::Missing(key))?;
            std::str::from_utf8(&bytes.0).map_err(|_| RootError::Missing(key))
        };
        let parsed =
            text("tls.crt").and_then(|crt| text("tls.key").and_then(|key| Authority::parse(crt, key)));
        parsed.map_err(|error| KeeperError::Root(full_name(), error))
    }

    fn renew(&self, policy: &Policy, now: OffsetDateTime) -> Result<OffsetDateTime, KeeperError> {
        let authority = self.authority.load_full().ok_or(KeeperError::NoMeshConfig)?;
        let own = |error: &dyn std::fmt::Display| KeeperError::Own(error.to_string());
        let subject = Subject {
            spiffe_id: crds::labels::spiffe_id(&policy.trust_domain, &self.namespace, &self.service),
            dns_names: service_names(&self.service, &self.namespace, &self.cluster_domain),
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| own(&error))?;
        let leaf = authority.sign(&subject, &key, policy.workload_ttl, now).map_err(KeeperError::Sign)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.identity.certificate.set(&leaf.chain, der).map_err(|error| own(&error))?;
        tracing::info!(not_after = %leaf.not_after, "own serving certificate made");
        Ok(leaf.renew_after)
    }

    async fn publish(&self, bundle: &str) -> Result<(), KeeperError> {
        let name = crds::labels::TRUST_BUNDLE;
        let map = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {crds::labels::MANAGED_BY: crds::labels::MANAGER}},
            "data": {crds::labels::TRUST_BUNDLE_KEY: bundle},
        });
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = maps.patch(name, &params, &Patch::Apply(&map)).await;
        applied.map(|_| ()).map_err(|error| KeeperError::Api("publish the trust bundle", Box::new(error)))
    }
}
