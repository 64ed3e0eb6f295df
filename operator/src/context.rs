//! What every reconciler is given: client, settings, catalogue, events, fleet, metrics, shutdown.

use std::sync::Arc;

use gitops::worker::{Addresses, Program};
use kube::Client;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use runtime::lease::Mandate;
use runtime::shutdown::Shutdown;
use upgrades::Catalogue;

use crate::apply::Writer;
use crate::events::Events;
use crate::fleet::Fleet;

/// Name of the operator's Deployment, ServiceAccount and Lease.
pub use crds::labels::OPERATOR;

/// Shared by the reconcilers.
pub struct Context {
    /// Talks to the API server; reads always, writes only while this process leads.
    pub client: Client,
    /// How repositories are fetched.
    pub git: Git,
    /// The hand that writes.
    pub writer: Writer,
    /// The operator's own namespace.
    pub namespace: String,
    /// Prefix of every image's name.
    pub image_prefix: String,
    /// The releases that exist.
    pub catalogue: Catalogue,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Counts.
    pub metrics: Metrics,
    /// Tells people.
    pub events: Events,
    /// Asks the controllers about the sidecars.
    pub fleet: Fleet,
    /// Ends everything; also when leadership is lost.
    pub shutdown: Shutdown,
}

/// What a context is made of, apart from the client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The operator's own namespace.
    pub namespace: String,
    /// Prefix of every image's name.
    pub image_prefix: String,
    /// The releases that exist.
    pub catalogue: Catalogue,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// The operator's own pod, to which its tokens are bound; `None` outside a cluster.
    pub pod: Option<OwnPod>,
    /// How repositories are fetched.
    pub git: Git,
}

/// How repositories are fetched: in a process without rights.
#[derive(Debug, Clone)]
pub struct Git {
    /// What is started.
    pub program: Program,
    /// Which addresses it may reach.
    pub addresses: Addresses,
}

/// The pod that this process runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPod {
    /// `POD_NAME`.
    pub name: String,
    /// `POD_UID`.
    pub uid: String,
}

impl Context {
    /// Puts a context together; `client` is fenced by the mandate ([`crate::apply::fence::client`]), `registry` gets
    /// the operator's metrics.
    pub fn new(
        client: Client,
        mandate: Mandate,
        settings: Settings,
        registry: &mut Registry,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let instance = settings.pod.as_ref().map(|pod| pod.name.clone());
        Arc::new(Self {
            events: Events::new(client.clone(), instance),
            fleet: Fleet::new(client.clone(), settings.namespace.clone(), settings.pod),
            writer: Writer::new(client.clone(), mandate),
            git: settings.git,
            client,
            namespace: settings.namespace,
            image_prefix: settings.image_prefix,
            catalogue: settings.catalogue,
            cluster_domain: settings.cluster_domain,
            metrics: Metrics::register(registry),
            shutdown,
        })
    }
}

/// Label of the reconcile counters.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reconciler {
    /// `control_plane`, `policy_source`, `upgrade` or `completion`.
    pub reconciler: &'static str,
}

/// The operator's metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Reconciles that ended well.
    pub reconciles: Family<Reconciler, Counter>,
    /// Reconciles that ended in an error and are tried again.
    pub failures: Family<Reconciler, Counter>,
    /// Objects created or changed.
    pub writes: Counter,
    /// Objects deleted.
    pub deletions: Counter,
    /// Pods of a mesh's namespaces that run without their sidecar and do not say why, when last looked.
    pub without_sidecar: Family<Mesh, Gauge>,
}

/// Label of what is counted per mesh.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Mesh {
    /// Name of the MeshConfig.
    pub mesh: String,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("meshwright_operator_{name}");
        registry.register(name("reconciles"), "Reconciles that ended well", metrics.reconciles.clone());
        registry.register(name("reconcile_failures"), "Reconciles that failed", metrics.failures.clone());
        registry.register(name("object_writes"), "Objects created or changed", metrics.writes.clone());
        let help = "Pods of a mesh's namespaces that run without their sidecar and do not say why";
        registry.register(name("pods_without_sidecar"), help, metrics.without_sidecar.clone());
        registry.register(name("object_deletions"), "Objects deleted", metrics.deletions.clone());
        metrics
    }

    /// Says how many pods of a mesh run without their sidecar.
    pub fn escaped(&self, mesh: &str, pods: usize) {
        let gauge = self.without_sidecar.get_or_create_owned(&Mesh { mesh: mesh.to_owned() });
        gauge.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    /// Counts the end of a reconcile.
    pub fn reconciled(&self, reconciler: &'static str, ok: bool) {
        let family = if ok { &self.reconciles } else { &self.failures };
        family.get_or_create(&Reconciler { reconciler }).inc();
    }
}
