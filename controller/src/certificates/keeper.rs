//! Keeps what is trusted and what signs, the published trust bundle and the controller's own serving certificate
//! fresh.
//!
//! The controllers may only *get* the Secrets of the roots (docs/ARCHITECTURE.md), so they are asked for, not watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use crds::fleet::{AuthorityReport, RootReport};
use kube::Client;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use runtime::admin::Readiness;
use runtime::certificates::Identity;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, Subject, service_names};
use super::endpoint::Policy;
use super::refusal::Refusal;
use super::root;
use super::store::{Published, Store, StoreError};
use super::trust::{Directive, InForce, Known, Root, TrustError, decide};

/// How often the Secrets and the ConfigMap are looked at; a word of the operator is obeyed at once.
const PERIOD: Duration = Duration::from_secs(5);
/// How often while something is missing.
const RETRY: Duration = Duration::from_secs(1);
/// The part of readiness that this is.
const PART: &str = "certificate";

/// Why the certificates are not in order.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The API server said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No root can be used.
    #[error("{error}{}", problem.as_deref().map(|problem| format!(" ({problem})")).unwrap_or_default())]
    Trust {
        /// Why.
        error: TrustError,
        /// What is wrong with a Secret, if anything.
        problem: Option<String>,
    },
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
    pub trust: Arc<ArcSwapOption<InForce>>,
    /// Filled here, read by the fleet state.
    pub report: Arc<ArcSwapOption<AuthorityReport>>,
    /// Filled by the watch of the MeshConfig.
    pub policy: Arc<ArcSwapOption<Policy>>,
    /// What the operator says, by the watch of the MeshConfig.
    pub directive: watch::Receiver<Option<Directive>>,
    /// Own certificate and roots, filled here, used by the TLS port.
    pub identity: Identity,
    /// Told when all is in order, or why not.
    pub readiness: Readiness,
}

/// The own serving certificate.
#[derive(Default, Clone, PartialEq)]
struct Serving {
    root: String,
    trust_domain: String,
    renew_after: Option<OffsetDateTime>,
}

#[derive(Default)]
struct Last {
    store: Store,
    roots: BTreeMap<String, Root>,
    serving: Serving,
}

impl Keeper {
    /// Works until `stop` is cancelled. What is in place stays in place when the API server or a Secret is away.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut last = Last::default();
        self.readiness.not_ready(PART, "the root of trust has not been loaded yet");
        loop {
            self.directive.mark_unchanged();
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
                // A sender that is gone means that the process ends; until then, look by the clock.
                Ok(()) = self.directive.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn once(&self, last: &mut Last) -> Result<(), KeeperError> {
        let policy = self.policy.load_full().ok_or(KeeperError::NoMeshConfig)?;
        let now = OffsetDateTime::now_utc();
        let trial = self.subject(&policy);
        let (stored, problem) = last.store.roots(&self.client, &self.namespace, &trial, now).await?;
        let published = last.store.published(&self.client, &self.namespace).await?;
        let known = remember(&mut last.roots, stored, &published, self.trust.load().as_deref());
        let directive = self.directive.borrow().clone();
        let decided = decide(directive.as_ref(), &known, self.trust.load().as_deref());
        let in_force = decided.map_err(|error| KeeperError::Trust { error, problem: problem.clone() })?;
        self.put_in_force(&in_force)?;
        self.serve(&mut last.serving, &in_force, &known, &policy, now)?;
        last.store.publish(&self.client, &self.namespace, &published, &in_force).await?;
        let report = report(&in_force, &known, &last.serving.root, problem);
        self.report.store(Some(Arc::new(report)));
        Ok(())
    }

    /// What is trusted changes before anything is signed by what is new.
    fn put_in_force(&self, in_force: &InForce) -> Result<(), KeeperError> {
        let before = self.trust.load_full();
        if before.as_ref().is_none_or(|before| before.bundle != in_force.bundle) {
            self.identity.roots.set(&in_force.bundle).map_err(|error| KeeperError::Own(error.to_string()))?;
        }
        let changed = before
            .is_none_or(|before| (before.serial, &before.trusted) != (in_force.serial, &in_force.trusted));
        if changed {
            let (serial, signing, trusted) = (in_force.serial, &in_force.signing, in_force.trusted.len());
            tracing::info!(serial, signing, trusted, "root of trust in force");
        }
        self.trust.store(Some(Arc::new(in_force.clone())));
        Ok(())
    }

    /// Renews the own serving certificate when it is time or another root signs. When the key of the root that
    /// should sign is lost, another one that is stored serves: better than a controller that nobody can reach.
    fn serve(
        &self,
        serving: &mut Serving,
        in_force: &InForce,
        known: &Known,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Result<(), KeeperError> {
        let any =
            || known.roots.values().find(|root| root.secret.is_some()).map(|root| root.authority.clone());
        let Some(authority) = in_force.authority.clone().or_else(any) else {
            return Err(KeeperError::Trust { error: TrustError::NoRoot, problem: None });
        };
        let right = serving.root == authority.fingerprint() && serving.trust_domain == policy.trust_domain;
        if right && serving.renew_after.is_some_and(|time| now < time) {
            return Ok(());
        }
        let renew_after = self.renew(&authority, policy, now)?;
        *serving = Serving {
            root: authority.fingerprint().to_owned(),
            trust_domain: policy.trust_domain.clone(),
            renew_after: Some(renew_after),
        };
        Ok(())
    }

    fn subject(&self, policy: &Policy) -> Subject {
        Subject {
            spiffe_id: crds::labels::spiffe_id(&policy.trust_domain, &self.namespace, &self.service),
            dns_names: service_names(&self.service, &self.namespace, &self.cluster_domain),
        }
    }

    fn renew(
        &self,
        authority: &Authority,
        policy: &Policy,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, KeeperError> {
        let own = |error: &dyn std::fmt::Display| KeeperError::Own(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| own(&error))?;
        let leaf = authority
            .sign(&self.subject(policy), &key, policy.workload_ttl, now)
            .map_err(KeeperError::Sign)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.identity.certificate.set(&leaf.chain, der).map_err(|error| own(&error))?;
        tracing::info!(not_after = %leaf.not_after, root = authority.fingerprint(), "own serving certificate made");
        Ok(leaf.renew_after)
    }
}

/// Keeps roots that are in force although their Secret is gone: what is signed with them must not stop.
fn remember(
    remembered: &mut BTreeMap<String, Root>,
    stored: Vec<Root>,
    published: &Published,
    in_force: Option<&InForce>,
) -> Known {
    let needed = |name: &String| in_force.is_some_and(|now| now.trusted.contains(name));
    remembered.retain(|name, _| needed(name));
    for root in remembered.values_mut() {
        root.secret = None;
    }
    remembered.extend(stored.into_iter().map(|root| (root.authority.fingerprint().to_owned(), root)));
    let public = root::certificates("ca.crt", &published.bundle).unwrap_or_default();
    let serial = published.serial;
    let published = public.iter().map(|one| (root::fingerprint(one), root::pem(one))).collect();
    Known { roots: remembered.clone(), published, serial }
}

fn report(in_force: &InForce, known: &Known, serving: &str, problem: Option<String>) -> AuthorityReport {
    let text = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    let roots = known.roots.iter().map(|(fingerprint, root)| RootReport {
        fingerprint: fingerprint.clone(),
        generation: root.generation,
        secret: root.secret.clone(),
        not_before: text(root.authority.not_before()),
        not_after: text(root.authority.not_after()),
    });
    AuthorityReport {
        roots: roots.collect(),
        serial: in_force.serial,
        signing: in_force.signing.clone(),
        trusted: in_force.trusted.clone(),
        serving: serving.to_owned(),
        problem,
    }
}
