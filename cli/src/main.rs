//! `meshwright`: install, look, ask why, upgrade. One file per verb.
//!
//! ```text
//!  main ──▶ install, uninstall ──▶ manifests (pure: flags → objects), definitions, ours (pure: what is whose)
//!       ──▶ check ──▶ findings (pure) of what the cluster says
//!       ──▶ root ──▶ a file with the key of the mesh, and back
//!       ──▶ status, sources, proxies, upgrade ──▶ table (pure: objects → rows)
//!       ──▶ why ──▶ mesh::decide          validate ──▶ gitops::parse, mesh::ingest
//!       ──▶ inject ──▶ injector::inject (offline)
//!  cluster: the client; supported: which Kubernetes;  output: formats and colour;  progress: what is being waited for
//! ```
//!
//! Exit codes: 0 done (for `why`: allowed; for `status`: every mesh is Ready), 1 failed or not so (for `why`: denied, or no
//! such caller or callee; for `status`: a mesh is not Ready), 2 wrong usage.

mod check;
mod cluster;
mod completion;
mod definitions;
mod inject;
mod install;
mod leaving;
mod manifests;
mod nearest;
mod ours;
mod output;
mod progress;
mod proxies;
mod root;
mod sources;
mod status;
mod supported;
mod sweep;
mod table;
mod uninstall;
mod upgrade;
mod validate;
mod version;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// GitOps-driven service mesh for Kubernetes.
#[derive(Parser)]
#[command(name = "meshwright", version, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    access: cluster::Access,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Put the mesh into the cluster and wait until it is ready
    Install(install::Arguments),
    /// Take the mesh out of the cluster: what Meshwright made, and nothing else
    Uninstall(uninstall::Arguments),
    /// Save the root of trust, and bring it back
    Root(root::Arguments),
    /// Whether the mesh is well, or (--pre) whether this cluster can take one
    Check(check::Arguments),
    /// How the mesh is doing; exits with 1 while it is not Ready
    Status(status::Arguments),
    /// Every pod of the mesh: injected, skipped or why not
    Proxies(proxies::Arguments),
    /// The Git repositories that policies come from
    Sources(sources::Arguments),
    /// Start, see and steer an upgrade
    Upgrade(upgrade::Arguments),
    /// May one workload call another, and which object says so
    Why(why::Arguments),
    /// Check policy files before they are committed
    Validate(validate::Arguments),
    /// Show what injection would do to the pods of a file
    Inject(inject::Arguments),
    /// Versions of this command and of the meshes in the cluster
    Version(version::Arguments),
    /// Completion script for a shell
    Completion(completion::Arguments),
}

/// What a verb found, beside failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// As asked.
    Done,
    /// The answer is no: a denied call, a file with problems.
    No,
}

#[tokio::main]
async fn main() -> ExitCode {
    // With no TLS provider selected the Kubernetes client could not connect; a second selection is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Arguments { access, verb } = Arguments::parse();
    match run(verb, &access).await {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::FAILURE,
        Err(error) => {
            eprint!("{}", output::failure(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb, access: &cluster::Access) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Install(arguments) => install::run(arguments, access).await,
        Verb::Uninstall(arguments) => uninstall::run(arguments, access).await,
        Verb::Root(arguments) => root::run(arguments, access).await,
        Verb::Check(arguments) => check::run(arguments, access).await,
        Verb::Status(arguments) => status::run(arguments, access).await,
        Verb::Proxies(arguments) => proxies::run(arguments, access).await,
        Verb::Sources(arguments) => sources::run(arguments, access).await,
        Verb::Upgrade(arguments) => upgrade::run(arguments, access).await,
        Verb::Why(arguments) => why::run(arguments, access).await,
        Verb::Validate(arguments) => validate::run(&arguments),
        Verb::Inject(arguments) => inject::run(&arguments),
        Verb::Version(arguments) => version::run(arguments, access).await,
        Verb::Completion(arguments) => completion::run(&arguments),
    }
}
