//! The daemon, put together. `main.rs` runs it; tests run it in their own process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use axum::Router;
use kube::Client;
use mesh::{Mesh, Settings};
use prometheus_client::registry::Registry;
use runtime::admin::{Admin, Readiness};
use runtime::certificates::Identity;
use runtime::shutdown::Shutdown;
use runtime::tls;
use tokio::net::TcpListener;

use crate::certificates::endpoint::{self, Issuing};
use crate::certificates::holdings::Holdings;
use crate::certificates::keeper::Keeper;
use crate::certificates::kubernetes::KubernetesTokens;
use crate::certificates::verifier::TokenVerifier;
use crate::fleet::{self, Fleet, Proxies};
use crate::metrics::Metrics;
use crate::snapshots::Snapshots;
use crate::watch;
use crate::watch::monitor::{self, Monitor, Replica};
use crate::xds::door::{Door, Manners};
use crate::xds::server::{self, Ads, Limits};
use crate::xds::share;

/// How the controller runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the MeshConfig.
    pub mesh: String,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Release of this controller.
    pub revision: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Name of this replica's pod.
    pub replica: String,
    /// Streams that it takes.
    pub most_streams: usize,
    /// The greatest age of a stream.
    pub stream_age: std::time::Duration,
}

/// A mesh before its MeshConfig has been seen: denies everything.
///
/// # Errors
/// None that can happen: the defaults of the kind are complete.
pub fn empty_mesh(options: &Options) -> anyhow::Result<Mesh> {
    let spec = serde_json::from_value(serde_json::json!({
        "version": options.revision, "namespace": options.namespace,
    }))
    .context("the defaults of a MeshConfig")?;
    Ok(Mesh::new(Settings::new(&options.mesh, &spec)))
}

/// The daemon's parts, for whoever runs it.
pub struct Daemon {
    /// The mesh.
    pub snapshots: Snapshots,
    /// Ready or why not.
    pub readiness: Readiness,
    /// Certificate and roots of the TLS port.
    pub identity: Identity,
    admin: Admin,
    router: Router,
    tls: tls::Metrics,
}

impl Daemon {
    /// Starts everything but the ports: watches, the mesh, the certificates.
    ///
    /// # Errors
    /// When the mesh's thread cannot be started.
    pub fn start(client: &Client, options: &Options, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let tls = tls::Metrics::register(&mut registry, "meshwright_controller");
        let readiness = Readiness::new();
        let snapshots = Snapshots::start(empty_mesh(options)?, metrics.clone())?;
        let (say, directive) = tokio::sync::watch::channel(None);
        let monitor = Monitor::default();
        watch::start(client, &options.mesh, &snapshots, &readiness, &monitor, say, &shutdown.stopping);
        let replica = Replica {
            namespace: options.namespace.clone(),
            service: crds::labels::controller_name(&options.revision),
            pod: options.replica.clone(),
        };
        let stop = shutdown.stopping.clone();
        let proxies = Arc::new(Proxies::default());
        tokio::spawn(share::run(
            replica.clone(),
            snapshots.clone(),
            proxies.clone(),
            monitor.clone(),
            metrics.clone(),
            stop.clone(),
        ));
        tokio::spawn(monitor.run(replica, snapshots.clone(), readiness.clone(), metrics.clone(), stop));
        let keeper = Keeper {
            client: client.clone(),
            namespace: options.namespace.clone(),
            service: crds::labels::controller_name(&options.revision),
            cluster_domain: options.cluster_domain.clone(),
            trust: Arc::new(ArcSwapOption::empty()),
            report: Arc::new(ArcSwapOption::empty()),
            directive,
            policy: snapshots.policy(),
            identity: Identity::default(),
            readiness: readiness.clone(),
        };
        let holdings = Holdings::default();
        let tokens = Arc::new(KubernetesTokens(client.clone()));
        let issuing = Arc::new(Issuing {
            verifier: TokenVerifier::new(tokens, crds::labels::audience(&options.mesh)),
            trust: keeper.trust.clone(),
            holdings: holdings.clone(),
            policy: snapshots.policy(),
            pods: Arc::new(snapshots.clone()),
            control_plane: options.namespace.clone(),
            cluster_domain: options.cluster_domain.clone(),
            metrics: endpoint::Metrics::register(&mut registry),
        });
        let (identity, authority) = (keeper.identity.clone(), keeper.report.clone());
        tokio::spawn(keeper.run(shutdown.stopping.clone()));
        let fleet = Fleet {
            snapshots: snapshots.clone(),
            proxies: proxies.clone(),
            replica: options.replica.clone(),
            version: options.revision.clone(),
            control_plane: options.namespace.clone(),
            authority,
            holdings,
        };
        let stopping = shutdown.stopping.clone();
        let ads = Ads {
            snapshots: snapshots.clone(),
            proxies,
            canaries: Arc::default(),
            door: Arc::new(Door::new(Manners { most: options.most_streams, ..Manners::default() })),
            metrics,
            stopping,
            leaving: Arc::default(),
            limits: Limits { age: options.stream_age, ..Limits::default() },
        };
        let router = endpoint::router(issuing).merge(fleet::router(fleet.clone())).merge(server::router(ads));
        let living = snapshots.clone();
        let admin = Admin::new(registry, readiness.clone(), move || fleet.debug())
            .live_while(move || monitor::live(&living));
        Ok(Self { snapshots, readiness, identity, admin, router, tls })
    }

    /// Serves both ports until the shutdown is over.
    ///
    /// # Errors
    /// When the admin port cannot be listened on, TLS cannot be set up, or the mesh's thread has died.
    pub async fn serve(
        self,
        listener: TcpListener,
        admin: SocketAddr,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let config = self.identity.server_config()?;
        let admin = self.admin.serve(admin, shutdown.overdue.clone());
        let port = async {
            let served = tls::serve(listener, config, self.router, self.tls, shutdown.clone()).await;
            shutdown.overdue.cancel();
            served
        };
        let died = self.snapshots.died();
        tokio::select! {
            served = async { tokio::try_join!(admin, port) } => served.map(|_| ()).context("serving"),
            // Its streams end with the process, and go to other replicas.
            () = died.cancelled() => anyhow::bail!("the mesh's thread has died; the process ends to be started again"),
        }
    }
}
