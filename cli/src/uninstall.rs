//! `meshwright uninstall`: the mesh, then what runs it, then its kinds. Removes what Meshwright made and nothing else,
//! also when the operator is dead, and can be run again after being interrupted.
//!
//! | stays | unless |
//! |---|---|
//! | everything, while a sidecar runs | `--force` |
//! | the root of trust, while a sidecar runs that trusts it | `--with-root` |
//! | definitions of SMI and OSM, and the policies in them | `--with-policies`, and we made them |
//! | the control plane's namespace, if somebody else made it | |

use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Context;
use crds::MeshConfig;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cluster::{self, LOOK};
use crate::install::OPERATOR;
use crate::output::{self, advise};
use crate::progress::Progress;
use crate::{Outcome, ours, root, sweep};

/// How long the operator gets to clean up before this command does it.
const OPERATOR_TIME: Duration = Duration::from_secs(90);

/// Arguments of `uninstall`.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// Namespace of the control plane
    #[arg(long, default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Also remove the definitions of SMI and OSM that were installed with the mesh, and with them every policy
    #[arg(long, conflicts_with = "keep_crds")]
    with_policies: bool,
    /// Keep the definitions of all kinds
    #[arg(long)]
    keep_crds: bool,
    /// Go on although sidecars run: they keep the configuration that they have, and lose it, and their certificates
    /// within a day, when they end
    #[arg(long)]
    force: bool,
    /// With --force: also destroy the root of trust, so that running sidecars never trust a new installation
    #[arg(long, requires = "force")]
    with_root: bool,
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

/// What there is, as it is now.
struct Inventory {
    gone: Vec<String>,
    left: Vec<String>,
    sidecars: Vec<String>,
    keeps_root: bool,
    owns_namespace: bool,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let found = Inventory::take(&client, &arguments).await?;
    if found.gone.is_empty() {
        output::print(&format!("There is nothing of Meshwright in this cluster.\n{}", found.leftovers()))?;
        return Ok(Outcome::Done);
    }
    output::print(&format!("To be removed:\n{}{}", lines(&found.gone), found.leftovers()))?;
    found.warn(arguments.force)?;
    if arguments.dry_run {
        return Ok(Outcome::Done);
    }
    if !found.sidecars.is_empty() && !arguments.force {
        return Err(refusal(&found.sidecars));
    }
    if !arguments.yes {
        confirm()?;
    }
    let deadline = Instant::now() + arguments.timeout;
    let mut progress = Progress::begin();
    root::disown(&client, &arguments.namespace).await?;
    remove_meshes(&client, &arguments.namespace, deadline, &mut progress).await?;
    remove_operator(&client, &arguments.namespace, deadline, &mut progress).await?;
    remove_objects(&client, &arguments, deadline, &mut progress).await?;
    remove_inside(&client, &arguments.namespace, &found, deadline, &mut progress).await?;
    progress.end();
    output::print(&found.afterwards(&arguments.namespace))?;
    Ok(Outcome::Done)
}

impl Inventory {
    async fn take(client: &Client, arguments: &Arguments) -> anyhow::Result<Self> {
        let namespace = &arguments.namespace;
        let sidecars = live_sidecars(client).await?;
        let mut gone: Vec<String> =
            sweep::finalized(client).await?.iter().map(sweep::Found::describe).collect();
        gone.extend(sweep::objects(client, namespace).await?.iter().map(sweep::Found::describe));
        let mut left = sweep::unmarked(client).await?;
        if !arguments.keep_crds {
            let (definitions, stay) = sweep::definitions(client, arguments.with_policies).await?;
            gone.extend(definitions.iter().map(sweep::Found::describe));
            left.extend(stay);
        }
        let labelled = sweep::labelled(client).await?;
        gone.extend(labelled.iter().map(|one| format!("labels of Namespace {}", one.name)));
        let keeps_root = !sidecars.is_empty() && !arguments.with_root;
        let roots = sweep::roots(client, namespace).await?;
        let roots: Vec<_> =
            roots.iter().map(|root| format!("Secret {namespace}/{}", root.name_any())).collect();
        let keeps_root = keeps_root && !roots.is_empty();
        let home = Api::<Namespace>::all(client.clone()).get_opt(namespace).await?;
        let owns_namespace = home.as_ref().is_some_and(|home| ours::is_created(&home.metadata));
        match &home {
            Some(_) if owns_namespace && !keeps_root => {
                gone.push(format!("Namespace {namespace} with everything in it, the root of trust too"));
            }
            Some(_) => {
                gone.extend(sweep::inside(client, namespace).await?.iter().map(sweep::Found::describe));
                if keeps_root {
                    left.extend(roots);
                } else {
                    gone.extend(roots);
                }
                left.push(format!("Namespace {namespace}"));
            }
            None => {}
        }
        // A namespace alone is nothing of ours.
        Ok(Self { gone, left, sidecars, keeps_root, owns_namespace })
    }

    fn leftovers(&self) -> String {
        if self.left.is_empty() { String::new() } else { format!("Left:\n{}", lines(&self.left)) }
    }

    fn warn(&self, force: bool) -> anyhow::Result<()> {
        if self.sidecars.is_empty() || !force {
            return Ok(());
        }
        let fate = if self.keeps_root {
            "The root of trust stays: an installation later finds it, and they connect again."
        } else {
            "The root of trust goes too: they never trust a new installation and must be restarted."
        };
        output::print(&format!(
            "{} sidecars run and lose their control plane: {}.\n  No policy and no endpoint reaches them any more, their \
             certificates end within spec.certificateAuthority.workloadTTL, and after that every call between them \
             fails. {fate}\n",
            self.sidecars.len(),
            few(&self.sidecars),
        ))
    }

    fn afterwards(&self, namespace: &str) -> String {
        let mut text = self.leftovers();
        if self.keeps_root {
            text.push_str(&format!(
                "The root of trust is still in namespace {namespace}; meshwright install uses it.\n"
            ));
        }
        if !self.sidecars.is_empty() {
            text.push_str(&format!(
                "{} pods still run with their sidecar, without a control plane; restart their workloads:\n  \
                 kubectl rollout restart deployment -n NAMESPACE\n",
                self.sidecars.len()
            ));
        }
        text
    }
}

fn refusal(sidecars: &[String]) -> anyhow::Error {
    advise(
        format!("{} sidecars still run: {}", sidecars.len(), few(sidecars)),
        concat!(
            "take their namespaces out of the mesh (kubectl label namespace NAMESPACE ",
            crds::labels::in_domain!("mesh"),
            "-) and restart their workloads; or add --force, which says what will break"
        ),
    )
}

fn few(names: &[String]) -> String {
    const NAMED: usize = 5;
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

/// `namespace/pod` of every pod that runs with a sidecar, in order.
async fn live_sidecars(client: &Client) -> anyhow::Result<Vec<String>> {
    let injected = ListParams::default().labels(crds::labels::MESH);
    let pods = cluster::list(&Api::<Pod>::all(client.clone()), &injected).await?.unwrap_or_default();
    let live = pods.iter().filter(|pod| ours::has_live_sidecar(pod));
    let mut names: Vec<_> =
        live.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect();
    names.sort();
    Ok(names)
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
        // Whether sidecars live by it was looked at just now; its status may be older.
        let allow = json!({"metadata": {"annotations": {crds::labels::ALLOW_DELETION: "true"}}});
        match api.patch(&mesh.name_any(), &PatchParams::default(), &Patch::Merge(allow)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error).context("preparing the MeshConfig's deletion"),
        }
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
        namespace.unlabel(client).await?;
    }
    progress.done("webhooks, roles, trust bundles and labels are gone");
    if arguments.keep_crds {
        return Ok(());
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let (definitions, _) = sweep::definitions(client, arguments.with_policies).await?;
    for definition in &definitions {
        definition.delete().await?;
    }
    for definition in &definitions {
        let name = definition.name();
        progress.waiting(&format!("the API server forgets {name}"));
        if !cluster::gone(&api, name, deadline).await? {
            return Err(advise(format!("{name} is still there"), format!("kubectl describe crd {name}")));
        }
    }
    progress.done("the kinds are gone");
    Ok(())
}

/// The control plane's namespace, or in one that is not ours what is ours.
async fn remove_inside(
    client: &Client,
    namespace: &str,
    found: &Inventory,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    if found.owns_namespace && !found.keeps_root {
        return remove_namespace(client, namespace, deadline, progress).await;
    }
    loop {
        let left = sweep::inside(client, namespace).await?;
        for object in &left {
            progress.waiting(&format!("removing {}", object.describe()));
            object.delete().await?;
        }
        if left.is_empty() || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    if !found.keeps_root {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for root in sweep::roots(client, namespace).await? {
            cluster::delete(&api, &root.name_any()).await?;
        }
    }
    progress.done(&format!("what Meshwright made in namespace {namespace} is gone"));
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
