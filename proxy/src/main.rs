//! `meshwright-proxy`: the command line of the sidecar. See the library for the parts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use ipnet::IpNet;
use proxy::certificate::Files;
use proxy::init::rules::{Exclusions, SidecarUser};
use proxy::run::Paths;
use proxy::{environment, init, run, swap, verbs};

/// The sidecar of Meshwright.
#[derive(Parser)]
#[command(name = "meshwright-proxy", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Redirect the pod's traffic to Envoy (init container; needs NET_ADMIN)
    Init(InitArguments),
    /// Run the sidecar: certificate, Envoy, probes, drain
    Run(RunArguments),
    /// Wait until the sidecar is ready (postStart)
    Wait {
        /// Seconds to wait at most
        #[arg(long, default_value_t = 60)]
        deadline_seconds: u64,
    },
    /// Wait until the pod's traffic has ended (preStop)
    Drain {
        /// Grace period of the pod in seconds
        #[arg(long, env = names::GRACE_ENV, default_value_t = 30)]
        grace_seconds: u64,
        #[arg(long, hide = true, env = names::SLOT_ENV)]
        slot: Option<String>,
        #[arg(long, hide = true, default_value = names::RUN_DIR)]
        run_dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct InitArguments {
    /// Destination ports that the application calls directly
    #[arg(long, value_delimiter = ',', num_args = 0.., value_name = "PORT,…")]
    exclude_outbound_ports: Vec<u16>,
    /// Destination networks that the application calls directly
    #[arg(long, value_delimiter = ',', num_args = 0.., value_name = "CIDR,…")]
    exclude_outbound_cidrs: Vec<IpNet>,
    /// Ports of the application that are reached directly
    #[arg(long, value_delimiter = ',', num_args = 0.., value_name = "PORT,…")]
    exclude_inbound_ports: Vec<u16>,
    /// User id of this pod's sidecar, whose traffic is not redirected; if left out, any of 20000 to 59999
    // By environment too: an init container of a release before this one knows no such argument, and would fail.
    #[arg(long, env = names::PROXY_USER_ENV, value_parser = clap::value_parser!(u32).range(1..), value_name = "UID")]
    proxy_user: Option<u32>,
}

#[derive(clap::Args)]
struct RunArguments {
    #[arg(long, hide = true, default_value = names::RUN_DIR)]
    run_dir: PathBuf,
    #[arg(long, hide = true, default_value = names::TOKEN_FILE)]
    token_file: PathBuf,
    #[arg(long, hide = true, default_value = names::TRUST_FILE)]
    trust_file: PathBuf,
    #[arg(long, hide = true, default_value = names::POD_DIR)]
    pod_dir: PathBuf,
    #[arg(long, hide = true, default_value = "/usr/local/bin/envoy")]
    envoy: PathBuf,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    match execute(Arguments::parse().verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("meshwright-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Init(arguments) => redirect(arguments),
        Verb::Run(arguments) => run_sidecar(arguments),
        Verb::Wait { deadline_seconds } => {
            runtime()?.block_on(verbs::wait(Duration::from_secs(deadline_seconds)))?;
            Ok(0)
        }
        // The hook of a slot's container also runs when its image is changed, and then the pod goes on.
        Verb::Drain { slot: Some(slot), run_dir, .. } if !swap::is_live(&run_dir, &slot) => {
            println!("slot {slot} is parked");
            Ok(0)
        }
        Verb::Drain { grace_seconds, .. } => {
            println!("{}", runtime()?.block_on(verbs::drain(Duration::from_secs(grace_seconds)))?);
            Ok(0)
        }
    }
}

fn redirect(arguments: InitArguments) -> anyhow::Result<u8> {
    let exclusions = Exclusions {
        outbound_ports: BTreeSet::from_iter(arguments.exclude_outbound_ports),
        outbound_networks: BTreeSet::from_iter(arguments.exclude_outbound_cidrs),
        inbound_ports: BTreeSet::from_iter(arguments.exclude_inbound_ports),
    };
    let user = arguments.proxy_user.map_or(SidecarUser::AnyOfRange, SidecarUser::This);
    let families = init::redirect(&exclusions, user).context("cannot redirect the pod's traffic to Envoy")?;
    tracing::info!(?families, ?user, "the pod's traffic goes through Envoy");
    Ok(0)
}

fn run_sidecar(arguments: RunArguments) -> anyhow::Result<u8> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let environment = environment::parse(|name| std::env::var(name).ok())?;
    let paths = Paths {
        run: arguments.run_dir,
        files: Files { token: arguments.token_file, trust: arguments.trust_file },
        pod: arguments.pod_dir,
        envoy: arguments.envoy,
    };
    let code = runtime()?.block_on(run::run(environment, paths))?;
    Ok(u8::try_from(code).unwrap_or(1))
}

/// One thread is enough: this program waits nearly always, and every sidecar of the mesh pays for it.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}
