//! `meshwright-injector`: the webhooks of one control-plane revision.
//!
//! ```text
//!  API server ──HTTPS──▶ serve: /inject, /validate ──▶ injector (pure)
//!                          ▲ settings, namespaces
//!                        watch ◀── MeshConfig, namespaces labelled for the mesh
//!  controller ◀── certificate (in memory, renewed, swapped without a restart)
//! ```
//!
//! Needs in the cluster: `get`, `list`, `watch` on `meshconfigs.meshwright.io` and on `namespaces`; nothing else. It
//! writes nothing. A webhook that is asked about a pod answers from memory; only a namespace that the watch has
//! not seen yet costs one `get`.

mod metrics;
mod serve;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use injector::Settings;
use injector::settings::Secret;
use prometheus_client::registry::Registry;
use runtime::admin::{Admin, Readiness};
use runtime::certificates::{self, TokenSource, TrustSource};
use runtime::https::Peer;
use runtime::shutdown::Shutdown;
use runtime::tls;

/// How long open admission requests may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

/// Gives pods their sidecar and refuses policies that can never be right.
#[derive(Parser, Debug, Clone)]
#[command(name = crds::labels::INJECTOR, version)]
struct Arguments {
    /// Name of the MeshConfig
    #[arg(long)]
    mesh: String,
    /// Namespace of the control plane
    #[arg(long, default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Release of this revision
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    revision: String,
    /// The revision's controller, HOST:PORT
    #[arg(long)]
    controller: String,
    /// Image of the sidecar
    #[arg(long)]
    image: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// HTTPS address of the webhooks
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], crds::labels::WEBHOOK_PORT)))]
    listen: SocketAddr,
    /// Address of the admin port
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], crds::labels::ADMIN_PORT)))]
    admin: SocketAddr,
    /// Whether sidecars are native ones (init containers that go on running)
    #[arg(long, value_enum, default_value_t = Native::Auto)]
    native_sidecars: Native,
    /// Projected token for the controller
    #[arg(long, default_value = crds::labels::TOKEN_FILE)]
    token: PathBuf,
    /// Trust bundle (PEM)
    #[arg(long, default_value = crds::labels::TRUST_FILE)]
    trust: PathBuf,
}

/// Whether sidecars are native ones.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Native {
    /// As the API server's version says.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The first minor version of an API server beside which every kubelet knows native sidecars (1.29, on by default): a
/// kubelet may be three minor versions older.
const NATIVE_SINCE: u32 = 32;

impl Native {
    async fn decide(self, client: &kube::Client) -> anyhow::Result<bool> {
        match self {
            Self::Always => Ok(true),
            Self::Never => Ok(false),
            Self::Auto => {
                let version = client.apiserver_version().await.context("the API server's version")?;
                Ok(is_native(&version.major, &version.minor))
            }
        }
    }
}

/// Some clouds write a minor version as `32+`.
fn is_native(major: &str, minor: &str) -> bool {
    let minor = minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>();
    match major.parse::<u32>() {
        Ok(1) => minor.is_ok_and(|minor| minor >= NATIVE_SINCE),
        Ok(major) => major > 1,
        Err(_) => false,
    }
}

impl Arguments {
    /// The controller's host as given, which is also the name in its certificate.
    fn controller_host(&self) -> anyhow::Result<&str> {
        let (host, port) = self.controller.rsplit_once(':').context("--controller must be HOST:PORT")?;
        port.parse::<u16>().context("the port of --controller")?;
        Ok(host)
    }

    /// The controller as sidecars call it: a full name costs one DNS question instead of one per search domain.
    /// Certificates hold the full name for `cluster.local` only.
    fn controller_of_sidecars(&self) -> String {
        match self.controller.rsplit_once(':') {
            Some((host, port)) if host.ends_with(".svc") && self.cluster_domain == "cluster.local" => {
                format!("{host}.cluster.local:{port}")
            }
            _ => self.controller.clone(),
        }
    }

    fn settings(&self, native_sidecars: bool, secret: Secret) -> Settings {
        let controller = self.controller_of_sidecars();
        let settings = Settings::new(&self.mesh, &self.namespace, &self.revision, &controller, &self.image);
        Settings { native_sidecars, secret, ..settings }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    runtime::install_default();
    runtime::logging::init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "meshwright-injector cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signal(DRAIN).context("signal handlers")?;
    let readiness = Readiness::new();
    let mut registry = Registry::default();
    let metrics = metrics::Metrics::register(&mut registry);
    let tls_metrics = tls::Metrics::register(&mut registry, "meshwright_injector_webhook");

    let certificates = certificates::Client::new(certificates::Settings {
        controller: Peer {
            address: arguments.controller.clone(),
            server_name: arguments.controller_host()?.to_owned(),
        },
        token: TokenSource::File(arguments.token.clone()),
        trust: TrustSource::File(arguments.trust.clone()),
    });
    let config = certificates.identity().server_config_without_clients().context("TLS")?;
    let client = kube::Client::try_default().await.context("no way to reach the Kubernetes API")?;
    let native = arguments.native_sidecars.decide(&client).await?;
    tracing::info!(native, "sidecars");
    let secret = Secret::random()?;
    let facts = watch::start(client, arguments.settings(native, secret), &readiness, &shutdown.stopping);
    let keep = keep_certificate(certificates, readiness.clone(), shutdown.clone());

    let state = facts.clone();
    let admin = Admin::new(registry, readiness, move || state.debug());
    let listener = tokio::net::TcpListener::bind(arguments.listen).await.context("--listen")?;
    tracing::info!(address = %arguments.listen, mesh = arguments.mesh, revision = arguments.revision, "webhooks");
    let router = serve::router(facts, metrics);
    let webhooks = tls::serve(listener, config, router, tls_metrics, shutdown.clone());
    let admin = admin.serve(arguments.admin, shutdown.stopping.clone());
    let (webhooks, admin, ()) = tokio::join!(webhooks, admin, keep);
    webhooks.context("webhooks")?;
    admin.context("--admin")
}

async fn keep_certificate(certificates: certificates::Client, readiness: Readiness, shutdown: Shutdown) {
    const PART: &str = "certificate";
    readiness.not_ready(PART, "not asked for yet");
    let identity = certificates.identity();
    let told = |result: &Result<certificates::Issued, certificates::CertificateError>| match result {
        Ok(_) => readiness.ready(PART),
        // An old certificate still serves while renewal fails; only the first one is waited for.
        Err(error) if !identity.certificate.is_set() => {
            readiness.not_ready(PART, runtime::logging::chain(error));
        }
        Err(_) => {}
    };
    certificates.keep(shutdown.stopping, told).await;
}

#[cfg(test)]
mod tests {
    use super::is_native;

    #[test]
    fn native_sidecars_need_kubelets_that_know_them() {
        for (major, minor, native) in [
            ("1", "20", false),
            ("1", "31", false),
            ("1", "32", true),
            ("1", "33+", true),
            ("2", "0", true),
            ("1", "", false),
            ("x", "40", false),
        ] {
            assert_eq!(is_native(major, minor), native, "{major}.{minor}");
        }
    }
}
