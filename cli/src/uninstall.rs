//! `meshwright uninstall`: the mesh, then what runs it, then its kinds. Leaves nothing behind, also when the
//! operator is dead, and can be run again after being interrupted.

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Context;
use crds::MeshConfig;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::cluster::{self, LOOK};
use crate::install::OPERATOR;
use crate::output::{self, advise};
use crate::progress::Progress;
use crate::{Outcome, sweep};

/// How long the operator gets to clean up before this command does it.
const OPERATOR_TIME: Duration = Duration::from_secs(90);

/// Arguments of `uninstall`.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// Namespace of the control plane
    #[arg(long, default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Keep the definitions of all kinds, and with them every policy
    #[arg(long)]
    keep_crds: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only list what would be removed
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for everything to be gone
    #[arg(long, default_value = "5m", value_parser = crds::duration::parse)]
    timeout: Duration,
}

/// Runs the verb.
pub async fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let client = cluster::connect().await?;
    let listed = inventory(&client, &arguments).await?;
    if listed.is_empty() {
        output::print("There is nothing of Meshwright in this cluster.\n")?;
        return Ok(Outcome::Done);
    }
    output::print(&format!("To be removed:\n{}", lines(&listed)))?;
    if arguments.dry_run {
        return Ok(Outcome::Done);
    }
    if !arguments.yes {
        confirm()?;
    }
    let deadline = Instant::now() + arguments.timeout;
    let mut progress = Progress::begin();
    remove_meshes(&client, &arguments.namespace, deadline, &mut progress).await?;
    remove_operator(&client, &arguments.namespace, deadline, &mut progress).await?;
    remove_objects(&client, &arguments, deadline, &mut progress).await?;
    remove_namespace(&client, &arguments.namespace, deadline, &mut progress).await?;
    let left = sweep::sidecars(&client).await?;
    progress.end();
    if left > 0 {
        output::print(&format!(
            "{left} pods still run with their sidecar, without a control plane; restart their workloads:\n  \
             kubectl rollout restart deployment -n NAMESPACE\n"
        ))?;
    }
    Ok(Outcome::Done)
}

/// Everything that would be removed, as it is now.
async fn inventory(client: &Client, arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let mut listed = Vec::new();
    listed.extend(sweep::finalized(client).await?.iter().map(sweep::Found::describe));
    listed.extend(sweep::objects(client, &arguments.namespace).await?.iter().map(sweep::Found::describe));
    if !arguments.keep_crds {
        listed.extend(sweep::definitions(client).await?.iter().map(sweep::Found::describe));
    }
    let labelled = sweep::labelled(client).await?;
    listed.extend(labelled.iter().map(|namespace| format!("labels of Namespace {}", namespace.name_any())));
    if Api::<Namespace>::all(client.clone()).get_opt(&arguments.namespace).await?.is_some() {
        listed.push(format!("Namespace {} with everything in it", arguments.namespace));
    }
    Ok(listed)
}

fn lines(listed: &[String]) -> String {
    listed.iter().map(|line| format!("  {line}\n")).collect()
}

fn confirm() -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(advise("nobody is there to ask", "add --yes"));
    }
    output::print("Remove all of it? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("standard input")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(advise("nothing was removed", "answer y, or add --yes")),
    }
}

/// MeshConfigs first: the operator removes what it made. When it is dead or takes too long, its finalizers are
/// taken away and the rest of this command removes the same things.
async fn remove_meshes(
    client: &Client,
    namespace: &str,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    let Some(meshes) = cluster::list(&api, &ListParams::default()).await? else { return Ok(()) };
    if meshes.is_empty() {
        return Ok(());
    }
    for mesh in &meshes {
        cluster::delete(&api, &mesh.name_any()).await?;
    }
    let alive = operator_is_alive(client, namespace).await;
    let patience = if alive { OPERATOR_TIME } else { Duration::ZERO };
    let until = deadline.min(Instant::now() + patience);
    for mesh in &meshes {
        let name = mesh.name_any();
        progress.waiting(&format!("the operator cleans up after mesh {name}"));
        if cluster::gone(&api, &name, until).await? {
            progress.done(&format!("mesh {name} is gone"));
        } else {
            let why = if alive { "takes too long" } else { "does not run" };
            progress.done(&format!("the operator {why}; cleaning up after mesh {name} without it"));
        }
    }
    Ok(())
}

async fn operator_is_alive(client: &Client, namespace: &str) -> bool {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let status = api.get(OPERATOR).await.ok().and_then(|deployment| deployment.status);
    status.and_then(|status| status.ready_replicas).unwrap_or(0) > 0
}

/// The operator goes before what it would put back.
async fn remove_operator(
    client: &Client,
    namespace: &str,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    if cluster::delete(&api, OPERATOR).await? {
        progress.waiting("the operator ends");
        cluster::gone(&api, OPERATOR, deadline).await?;
        progress.done("the operator is gone");
    }
    Ok(())
}

async fn remove_objects(
    client: &Client,
    arguments: &Arguments,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    for object in sweep::objects(client, &arguments.namespace).await? {
        progress.waiting(&format!("removing {}", object.describe()));
        object.delete().await?;
    }
    // Nobody is left to act on finalizers; without this, the kinds could never be deleted.
    for object in sweep::finalized(client).await? {
        progress.waiting(&format!("removing {}", object.describe()));
        object.delete().await?;
        object.release().await?;
    }
    for namespace in sweep::labelled(client).await? {
        sweep::unlabel(client, &namespace.name_any()).await?;
    }
    progress.done("webhooks, roles, trust bundles and labels are gone");
    if arguments.keep_crds {
        return Ok(());
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definitions = sweep::definitions(client).await?;
    for definition in &definitions {
        definition.delete().await?;
    }
    for crd in crds::all() {
        let name = crd.name_any();
        progress.waiting(&format!("the API server forgets {name}"));
        if !cluster::gone(&api, &name, deadline).await? {
            return Err(advise(format!("{name} is still there"), format!("kubectl describe crd {name}")));
        }
    }
    progress.done("the kinds are gone");
    Ok(())
}

async fn remove_namespace(
    client: &Client,
    namespace: &str,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    if cluster::delete(&api, namespace).await? {
        progress.waiting(&format!("namespace {namespace} empties"));
        if !cluster::gone(&api, namespace, deadline).await? {
            let next = format!("kubectl get namespace {namespace} -o yaml");
            return Err(advise(format!("namespace {namespace} is still there"), next));
        }
        progress.done(&format!("namespace {namespace} is gone"));
    }
    // The controller-manager may have been about to copy or make something while its owner went away.
    loop {
        let left = sweep::objects(client, namespace).await?;
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(());
        }
        for object in &left {
            object.delete().await?;
        }
        tokio::time::sleep(LOOK).await;
    }
}
