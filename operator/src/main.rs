//! `meshwright-operator`: parses flags, waits to lead, runs the reconcilers until it must stop.
//!
//! ```text
//!  flags ──▶ Context ──▶ lease ──▶ control_plane + policy_source + upgrade + completion
//!                          └─ lost ──▶ exit: another replica leads, and nothing may be written twice
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use gitops::worker::{Addresses, Program, Range, child};
use operator::apply;
use operator::context::{Context, Git, OPERATOR, OwnPod, Settings};
use prometheus_client::registry::Registry;
use runtime::admin::{Admin, Readiness};
use runtime::lease::{Election, Mandate, Timing};
use runtime::shutdown::Shutdown;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use upgrades::Catalogue;

/// Reconciles are short; what is not done by then is done by the next leader.
const DRAIN: Duration = Duration::from_secs(10);

/// Makes the cluster look like its MeshConfigs say.
#[derive(Parser, Debug, Clone)]
#[command(name = "meshwright-operator", version)]
struct Arguments {
    /// The operator's own namespace, with its Lease
    #[arg(long, env = "POD_NAMESPACE", default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Prefix of the images of controller, injector and sidecar
    #[arg(long, env = crds::labels::IMAGE_PREFIX_ENV, default_value = "meshwright/")]
    image_prefix: String,
    /// Directory of release files that replaces the built-in catalogue
    #[arg(long)]
    catalogue: Option<PathBuf>,
    /// Address of the admin port
    #[arg(long, default_value_t = SocketAddr::from(([0, 0, 0, 0], crds::labels::ADMIN_PORT)))]
    admin: SocketAddr,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Name of the operator's pod; the lease's holder
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// Addresses that repositories may have although they are loopback, link-local or the like, as in 127.0.0.0/8
    #[arg(long, value_delimiter = ',')]
    git_allow: Vec<Range>,
    /// How long the leader's lease lasts; the same for every replica
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300))]
    lease_seconds: u64,
    /// Uid of the operator's pod, to which its tokens are bound
    #[arg(long, env = "POD_UID")]
    pod_uid: Option<String>,
}

impl Arguments {
    fn settings(&self) -> anyhow::Result<Settings> {
        let catalogue = match &self.catalogue {
            None => Catalogue::embedded(),
            Some(directory) => catalogue(directory)?,
        };
        let pod = self.pod_name.clone().zip(self.pod_uid.clone()).map(|(name, uid)| OwnPod { name, uid });
        Ok(Settings {
            namespace: self.namespace.clone(),
            image_prefix: self.image_prefix.clone(),
            catalogue,
            cluster_domain: self.cluster_domain.clone(),
            pod,
            git: Git { program: Program::this(), addresses: self.addresses() },
        })
    }

    /// The API server is no Git server, whatever a source says.
    fn addresses(&self) -> Addresses {
        let api = std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse().ok());
        Addresses { allowed: self.git_allow.clone(), refused: api.into_iter().collect() }
    }

    /// Different for every process that may run at one time.
    fn identity(&self) -> String {
        self.pod_name.clone().unwrap_or_else(|| format!("{OPERATOR}-{}", std::process::id()))
    }
}

/// The releases of a directory; a mounted ConfigMap has hidden entries beside its files.
fn catalogue(directory: &Path) -> anyhow::Result<Catalogue> {
    let mut files = BTreeMap::new();
    let what = || format!("--catalogue {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(what)? {
        let path = entry.with_context(what)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with('.') || !(name.ends_with(".yaml") || name.ends_with(".yml")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        files.insert(name, text);
    }
    if files.is_empty() {
        bail!("{}: no .yaml file in it", what());
    }
    Catalogue::load(&files).with_context(what)
}

fn main() -> ExitCode {
    // Before there is any thread: what confines the process that fetches holds for the thread that asks for it.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == child::VERB) {
        return child::serve();
    }
    daemon()
}

#[tokio::main]
async fn daemon() -> ExitCode {
    runtime::install_default();
    runtime::logging::init();
    // What runs as the same user beside it (the processes that fetch) must not look into this one's memory.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user may look into this one");
    }
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "meshwright-operator cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signal(DRAIN).context("signal handlers")?;
    let settings = arguments.settings()?;
    let mut config = kube::Config::infer().await.context("no way to reach the Kubernetes API")?;
    // Reconcilers try again themselves, on new facts. By default the client repeats what was answered with 429 for
    // minutes, and so it would an eviction that a budget refuses.
    config.default_retry = false;
    let no_client = "no client for the Kubernetes API";
    let electing = kube::Client::try_from(config.clone()).context(no_client)?;
    let mandate = Mandate::default();
    let client = apply::fence::client(config, &mandate).context(no_client)?;
    let mut registry = Registry::default();
    let ctx = Context::new(client, mandate.clone(), settings, &mut registry, shutdown.clone());
    let identity = arguments.identity();
    let state = serde_json::json!({"identity": identity, "namespace": arguments.namespace});
    // A follower is ready: it does its job, which is to wait.
    let admin = Admin::new(registry, Readiness::new(), move || state.clone());
    let admin = tokio::spawn(admin.serve(arguments.admin, shutdown.overdue.clone()));
    let timing = Timing::of(Duration::from_secs(arguments.lease_seconds));
    let election =
        Election::new(electing, &arguments.namespace, OPERATOR, &identity, timing).granting(mandate);
    let result = tokio::select! {
        result = lead(election, ctx) => result,
        result = admin => result.context("admin port")?.context("--admin"),
    };
    shutdown.begin();
    result
}

async fn lead(election: Election, ctx: Arc<Context>) -> anyhow::Result<()> {
    let Some(term) = election.acquire(&ctx.shutdown.stopping).await else { return Ok(()) };
    let lost = term.lost();
    tokio::select! {
        () = lost.cancelled() => bail!("leadership lost"),
        result = reconcilers(ctx) => {
            term.release().await;
            result
        }
    }
}

/// All of them, until shutdown begins; the first error ends all.
async fn reconcilers(ctx: Arc<Context>) -> anyhow::Result<()> {
    let overdue = ctx.shutdown.overdue.clone();
    let all = async {
        operator::own::guard(&ctx).await;
        tokio::try_join!(
            operator::control_plane::run(ctx.clone()),
            operator::policy_source::run(ctx.clone()),
            operator::upgrade::run(ctx.clone()),
            operator::completion::run(ctx.clone()),
        )
    };
    tokio::select! {
        result = all => result.map(|_| ()),
        () = overdue.cancelled() => Ok(()),
    }
}
