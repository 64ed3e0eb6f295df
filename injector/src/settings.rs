//! What the injector knows beside the pod: the mesh's settings and the pod's namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::mesh_config::{Floor, LastGood, LogLevel, UpgradeStrategy};
use crds::sidecar_settings::SidecarSettings;
pub use crds::sidecar_settings::{BadSetting, Redirection};
use crds::{MeshConfigSpec, labels};
use k8s_openapi::api::core::v1::{Namespace, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sha2::{Digest, Sha256};

/// Everything about the mesh and this revision that shapes a sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Name of the mesh.
    pub mesh: String,
    /// Namespace of the control plane; its pods are never injected.
    pub namespace: String,
    /// Release that this injector belongs to.
    pub revision: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// `host:port` of the revision's controller.
    pub controller: String,
    /// What a pod's sidecar gets is made from these two, so that nobody else can work it out: its user id, and the key in
    /// the paths of its probes and hooks. The seed is another one for each pod, the secret one that nobody knows.
    pub seed: String,
    /// See `seed`; random, and never written anywhere.
    pub secret: Secret,
    /// Image of the sidecar and of the init container.
    pub image: String,
    /// Envoy's log level.
    pub log_level: LogLevel,
    /// Envoy's worker threads.
    pub concurrency: u16,
    /// Resources of the sidecar.
    pub resources: ResourceRequirements,
    /// Whether the cluster knows sidecars as init containers that go on running (Kubernetes, KEP-753).
    pub native_sidecars: bool,
    /// How sidecars will get their next release, where the namespace doesn't say otherwise.
    pub strategy: UpgradeStrategy,
    /// How long a sidecar that was replaced in place goes on with the connections that it has.
    pub drain_time: Duration,
    /// Traffic that is not redirected.
    pub redirection: Redirection,
    /// What no MeshPolicy may be below.
    pub floor: Floor,
}

/// Bytes that nobody knows. Its `Debug` shows nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

/// The system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandom;

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn random() -> Result<Self, NoRandom> {
        let mut bytes = [0; 32];
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.secure_random.fill(&mut bytes).map_err(|_| NoRandom)?;
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl Settings {
    /// Settings of a mesh of which nothing but its name is known yet; every default is the MeshConfig's.
    #[must_use]
    pub fn new(mesh: &str, namespace: &str, revision: &str, controller: &str, image: &str) -> Self {
        Self {
            mesh: mesh.to_owned(),
            namespace: namespace.to_owned(),
            revision: revision.to_owned(),
            trust_domain: "cluster.local".to_owned(),
            controller: controller.to_owned(),
            seed: String::new(),
            secret: Secret::default(),
            image: image.to_owned(),
            log_level: LogLevel::default(),
            concurrency: 1,
            resources: default_resources(),
            native_sidecars: false,
            strategy: UpgradeStrategy::default(),
            drain_time: Duration::from_secs(labels::SWAP_DRAIN_SECONDS.into()),
            redirection: Redirection::default(),
            floor: Floor::default(),
        }
    }

    /// These settings with what a MeshConfig says.
    ///
    /// # Errors
    /// The first field that cannot be used; the caller then keeps the last good settings (DESIGN rule 1).
    pub fn with(&self, spec: &MeshConfigSpec) -> Result<Self, BadSetting> {
        let read = self.with_read(SidecarSettings::read(spec)?);
        Ok(Self { floor: spec.traffic.floor.unwrap_or_default(), ..read })
    }

    /// Bytes for one purpose and one pod, the same whenever they are asked for.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        let seed = self.seed.as_bytes();
        let parts: [&[u8]; 4] = [b"meshwright ", purpose.as_bytes(), &[0], &self.secret.0];
        parts
            .iter()
            .fold(Sha256::new(), |hash, part| hash.chain_update(part))
            .chain_update(seed)
            .finalize()
            .into()
    }

    /// What only the kubelet is told (`crds::labels::HOOK_KEY_ENV`).
    pub(crate) fn hook_key(&self) -> String {
        self.derive("hook key")[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// These settings with the last good ones that the operator has published, for the time in which the MeshConfig
    /// itself cannot be used.
    ///
    /// # Errors
    /// As [`Settings::with`].
    pub fn with_last_good(&self, good: &LastGood) -> Result<Self, BadSetting> {
        Ok(self.with_read(SidecarSettings::of(good)?))
    }

    fn with_read(&self, read: SidecarSettings) -> Self {
        Self {
            trust_domain: read.trust_domain,
            log_level: read.log_level,
            concurrency: read.concurrency,
            resources: read.resources.unwrap_or_else(default_resources),
            strategy: read.strategy,
            drain_time: read.drain_time,
            redirection: read.redirection,
            ..self.clone()
        }
    }
}

/// Small requests and no limit: a limit on CPU throttles every call of the app.
fn default_resources() -> ResourceRequirements {
    let requests = [("cpu", "10m"), ("memory", "48Mi")];
    ResourceRequirements {
        requests: Some(
            requests
                .into_iter()
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .collect(),
        ),
        ..ResourceRequirements::default()
    }
}

/// What the injector needs to know of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceMeta {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Its annotation [`labels::UPGRADE_STRATEGY`].
    pub strategy: Option<String>,
}

impl NamespaceMeta {
    /// What the injector needs of a namespace object.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        let annotations = namespace.metadata.annotations.as_ref();
        let annotation = annotations.and_then(|annotations| annotations.get(labels::UPGRADE_STRATEGY));
        Self {
            name: namespace.metadata.name.clone().unwrap_or_default(),
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
            terminating: namespace.metadata.deletion_timestamp.is_some(),
            strategy: annotation.cloned(),
        }
    }

    /// How its sidecars will get their next release; what cannot be read changes nothing ([`crate::advice`] says so).
    #[must_use]
    pub fn strategy(&self, settings: &Settings) -> UpgradeStrategy {
        self.strategy.as_deref().and_then(UpgradeStrategy::parse).unwrap_or(settings.strategy)
    }

    /// A namespace of which only is known that the API server asked this mesh's injector about one of its pods:
    /// the webhook's selector matched, so it is watched. (Our own watch may lag behind the API server's.)
    #[must_use]
    pub fn assumed(name: &str, mesh: &str) -> Self {
        let labels = BTreeMap::from([(labels::MESH.to_owned(), mesh.to_owned())]);
        Self { name: name.to_owned(), labels, ..Self::default() }
    }
}
