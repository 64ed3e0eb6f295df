//! The controller: certificates, delta ADS and the state of the fleet, for the sidecars of one mesh.
//!
//! ```text
//!  Kubernetes ──watch──▶ snapshots (owns mesh::Mesh) ──Served──▶ xds ──▶ sidecars     :15012 (TLS)
//!                              │                                  │
//!                              └── pods ──▶ certificates          └──▶ /v1/fleet ──▶ operator
//!                                             ▲ CSR + token ── sidecars, injector, operator
//!  :9090 (plain)  /metrics /livez /readyz /debug/state
//! ```
//!
//! # Flags
//! `--mesh NAME`, `--namespace NAMESPACE` (of the control plane), `--revision RELEASE` (or `MESHWRIGHT_VERSION`),
//! `--listen 0.0.0.0:15012`, `--admin 0.0.0.0:9090`, `--cluster-domain cluster.local`. `POD_NAME` names the replica.
//! `--most-streams 50000` (`MESHWRIGHT_MOST_STREAMS`), `--stream-minutes 360` (`MESHWRIGHT_STREAM_MINUTES`): how many
//! sidecars it takes, and after which time each connects anew, perhaps to another replica.
//!
//! # What it may do (RBAC; the operator creates it for the service account `meshwright-controller-<release>`)
//! Cluster-wide:
//! * `""`: `namespaces`, `pods`, `services`: get, list, watch
//! * `discovery.k8s.io`: `endpointslices`: get, list, watch
//! * `meshwright.io`: `meshconfigs`, `meshpolicies`, `policysources`: get, list, watch
//! * `access.smi-spec.io`: `traffictargets`: get, list, watch
//! * `specs.smi-spec.io`: `httproutegroups`, `tcproutes`: get, list, watch
//! * `split.smi-spec.io`: `trafficsplits`: get, list, watch
//! * `policy.openservicemesh.io`: `egresses`, `ingressbackends`, `retries`, `upstreamtrafficsettings`: get, list, watch
//! * `authentication.k8s.io`: `tokenreviews`: create
//! * nonResourceURLs `/.well-known/openid-configuration`, `/openid/v1/jwks`: get
//!
//! In the control plane's namespace:
//! * `""`: `secrets` named `meshwright-root-ca`: get
//! * `""`: `configmaps` named `meshwright-trust-bundle`: get, patch; `configmaps`: create (an apply that creates
//!   needs it, and RBAC cannot limit create by name)

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use controller::daemon::{Daemon, Options};
use runtime::shutdown::Shutdown;

/// Time to end streams and answer what runs; below the 30 s that Kubernetes gives a pod.
const DRAIN: Duration = Duration::from_secs(20);

/// Serves the sidecars of one mesh: certificates, configuration, and the state of the fleet.
#[derive(Parser)]
#[command(name = crds::labels::CONTROLLER, version)]
struct Flags {
    /// Name of the MeshConfig.
    #[arg(long)]
    mesh: String,
    /// Namespace of the control plane.
    #[arg(long, default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Release of this controller, as in 0.1.0.
    #[arg(long, env = crds::labels::VERSION_ENV)]
    revision: String,
    /// Address for sidecars, injectors and the operator (TLS).
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], crds::labels::CONTROLLER_PORT)))]
    listen: SocketAddr,
    /// Address for metrics, probes and debugging (plain HTTP).
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], crds::labels::ADMIN_PORT)))]
    admin: SocketAddr,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Name of this replica's pod, for the fleet report.
    #[arg(long, env = "POD_NAME", default_value = "")]
    replica: String,
    /// Streams of sidecars that this replica takes; those beyond try another replica.
    #[arg(long, env = "MESHWRIGHT_MOST_STREAMS", default_value_t = controller::xds::door::MOST_STREAMS)]
    most_streams: usize,
    /// Minutes after which a sidecar connects anew, so that replicas that were started later get their share.
    #[arg(long, env = "MESHWRIGHT_STREAM_MINUTES", default_value_t = 360)]
    stream_minutes: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    runtime::install_default();
    runtime::logging::init();
    let flags = Flags::parse();
    let shutdown = Shutdown::on_signal(DRAIN).context("signal handlers")?;
    let client = kube::Client::try_default().await.context("no way to the API server")?;
    let options = Options {
        mesh: flags.mesh,
        namespace: flags.namespace,
        revision: flags.revision,
        cluster_domain: flags.cluster_domain,
        replica: flags.replica,
        most_streams: flags.most_streams,
        stream_age: Duration::from_secs(u64::from(flags.stream_minutes.max(1)) * 60),
    };
    tracing::info!(mesh = options.mesh, revision = options.revision, listen = %flags.listen, "starting");
    let daemon = Daemon::start(&client, &options, &shutdown)?;
    let listener = tokio::net::TcpListener::bind(flags.listen).await.context("cannot listen")?;
    daemon.serve(listener, flags.admin, shutdown).await
}
