//! `meshwright install`: kinds, operator and one MeshConfig by server-side apply; then wait until it is ready.
//!
//! Doing it again changes nothing that was not asked for: on a mesh that exists only the flags that were given
//! are written, so that a forgotten flag takes no namespace out of the mesh and starts no upgrade. What somebody else
//! made (definitions of SMI and OSM, the namespace) stays theirs.

use std::time::{Duration, Instant};

use anyhow::Context;
use crds::MeshConfig;
use crds::mesh_config::{self, Authorization, CaProvider, Mtls};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{self, MANAGER};
use crate::definitions::{self, Step};
use crate::manifests::{self, Options};
use crate::output::{self, Format, advise};
use crate::progress::Progress;
use crate::{Outcome, leaving, ours, root, supported};

mod ready;

pub use ready::is_ready;

/// Name of the operator's Deployment.
pub use crds::labels::OPERATOR;

/// Prefix of images that nobody publishes: nodes must hold them already.
const LOCAL_PREFIX: &str = "meshwright/";

/// Arguments of `install`.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// Name of the mesh
    #[arg(long, default_value = "meshwright")]
    mesh: String,
    /// Namespace of the control plane
    #[arg(long, default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// Release of the mesh; this command's own when left out
    #[arg(long)]
    version: Option<String>,
    /// Who makes the root of trust: built-in, or secret (you put it into the Secret meshwright-root-ca)
    #[arg(long, value_enum)]
    ca_provider: Option<Provider>,
    /// What no MeshPolicy of a new mesh may be below (spec.traffic.floor)
    #[arg(long, value_enum, default_value_t = Floor::Strict)]
    floor: Floor,
    /// Namespace to watch; may be given several times
    #[arg(long = "watch", value_name = "NAMESPACE")]
    watch: Vec<String>,
    /// Prefix of all images
    #[arg(long, default_value = LOCAL_PREFIX)]
    image_prefix: String,
    /// Overwrite definitions of SMI and OSM that somebody else installed, where they are different from ours
    #[arg(long)]
    force_conflicts: bool,
    /// Only show what would be applied; asks no cluster
    #[arg(long)]
    dry_run: bool,
    /// Format of --dry-run
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Wait until the mesh is ready
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "5m", value_parser = crds::duration::parse)]
    timeout: Duration,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Provider {
    /// The operator makes it once
    BuiltIn,
    /// You put it into a Secret
    Secret,
}

impl Provider {
    fn name(self) -> &'static str {
        let provider = match self {
            Self::BuiltIn => CaProvider::BuiltIn,
            Self::Secret => CaProvider::Secret,
        };
        match provider {
            CaProvider::BuiltIn => "BuiltIn",
            CaProvider::Secret => "Secret",
        }
    }
}

/// What no MeshPolicy may be below.
#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Floor {
    /// mtls Strict and authorization Enforce
    Strict,
    /// MeshPolicies may say anything
    None,
}

impl Floor {
    fn modes(self) -> Option<mesh_config::Floor> {
        let strict =
            mesh_config::Floor { mtls: Some(Mtls::Strict), authorization: Some(Authorization::Enforce) };
        match self {
            Self::Strict => Some(strict),
            Self::None => None,
        }
    }
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let catalogue = upgrades::Catalogue::embedded();
    let version = arguments.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    catalogue
        .get(&version)
        .map_err(|unknown| advise(unknown.to_string(), "choose one of them with --version"))?;
    let options = Options {
        mesh: arguments.mesh.clone(),
        namespace: arguments.namespace.clone(),
        version,
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        image_prefix: arguments.image_prefix.clone(),
        ca_provider: arguments.ca_provider.map(Provider::name),
        watch: arguments.watch.clone(),
        floor: arguments.floor.modes(),
    };
    let system = manifests::system(&options)?;
    if arguments.dry_run {
        return dry_run(&system, &manifests::mesh_config(&options), arguments.output);
    }
    if !manifests::is_complete() {
        anyhow::bail!(
            "this build holds no operator (config/operator was missing); build it from a whole checkout"
        );
    }
    let client = cluster::connect(access).await?;
    let deadline = Instant::now() + arguments.timeout;
    let mut progress = Progress::begin();
    supported::check(&client, &mut progress).await?;
    sole_mesh(&client, &options).await?;
    leaving::wait(&client, &options.namespace, deadline, &mut progress).await?;
    let system = without_others(&client, system, arguments.force_conflicts, &mut progress).await?;
    apply_system(&client, &system, &mut progress).await?;
    // Releases before let the garbage collector take the root of trust together with the MeshConfig.
    root::disown(&client, &options.namespace).await?;
    apply_mesh(&client, &options, arguments.version.is_some(), &mut progress).await?;
    if arguments.wait {
        ready::wait(&client, &options, deadline, &mut progress).await?;
    }
    progress.end();
    output::print(&next_steps(&arguments))?;
    Ok(Outcome::Done)
}

fn dry_run(system: &[Value], mesh: &Value, format: Format) -> anyhow::Result<Outcome> {
    let objects = system.iter().chain([mesh]);
    let text = match format {
        Format::Table => objects.map(|object| format!("{}\n", cluster::describe(object))).collect(),
        Format::Json => {
            let items: Vec<_> = objects.collect();
            format!(
                "{}\n",
                serde_json::to_string_pretty(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?
            )
        }
        Format::Yaml => {
            let documents: anyhow::Result<Vec<_>> = objects.map(output::yaml).collect();
            documents?.join("---\n")
        }
    };
    output::print(&text)?;
    Ok(Outcome::Done)
}

/// One control plane has one mesh: a second MeshConfig in its namespace would only stall.
async fn sole_mesh(client: &Client, options: &Options) -> anyhow::Result<()> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    let meshes = cluster::list(&api, &ListParams::default()).await?.unwrap_or_default();
    let other = meshes
        .iter()
        .find(|mesh| mesh.spec.namespace == options.namespace && mesh.name_any() != options.mesh)
        .filter(|_| !meshes.iter().any(|mesh| mesh.name_any() == options.mesh));
    match other {
        None => Ok(()),
        Some(other) => Err(advise(
            format!(
                "mesh {} lives in namespace {} already; mesh {} would be a second one there",
                other.name_any(),
                options.namespace,
                options.mesh
            ),
            format!("add --mesh {}, or another --namespace", other.name_any()),
        )),
    }
}

/// The objects to apply, without those that are somebody else's. Decided before anything is written.
async fn without_others(
    client: &Client,
    system: Vec<Value>,
    force: bool,
    progress: &mut Progress,
) -> anyhow::Result<Vec<Value>> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (mut apply, mut refused) = (Vec::new(), Vec::new());
    for mut object in system {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match object["kind"].as_str() {
            Some("CustomResourceDefinition") => {
                let live = definitions.get_opt(&name).await.context("reading definitions")?;
                match definitions::decide(&object, live.as_ref(), force) {
                    Step::Apply => apply.push(object),
                    Step::Leave(differences) => leave(&name, &differences, progress),
                    Step::Refuse(missing) => refused.push(format!("{name}: {}", missing.join(", "))),
                    Step::Overwrite(differences) => {
                        progress.done(&format!("{name} is somebody else's and is overwritten:"));
                        differences.iter().for_each(|difference| progress.done(&format!("  {difference}")));
                        // Without our mark, so that uninstalling never takes it away.
                        object["metadata"]["labels"] = json!({});
                        if let Some(live) = &live {
                            object["spec"]["versions"] = definitions::versions_to_write(&object, live);
                        }
                        apply.push(object);
                    }
                }
            }
            Some("Namespace") => match namespaces.get_opt(&name).await.context("reading the namespace")? {
                Some(there) if !ours::is_created(&there.metadata) => {
                    progress.done(&format!("namespace {name} was there; it stays as it is"));
                }
                _ => apply.push(object),
            },
            _ => apply.push(object),
        }
    }
    if refused.is_empty() {
        return Ok(apply);
    }
    Err(advise(
        format!("definitions of somebody else do not serve what the mesh reads: {}", refused.join("; ")),
        "update them, or add --force-conflicts to overwrite them; nothing was applied",
    ))
}

fn leave(name: &str, differences: &[String], progress: &mut Progress) {
    if differences.is_empty() {
        progress.done(&format!("{name} is somebody else's and says what ours says; it stays"));
        return;
    }
    progress.done(&format!(
        "{name} is somebody else's and stays (--force-conflicts overwrites it); different are:"
    ));
    differences.iter().for_each(|difference| progress.done(&format!("  {difference}")));
}

async fn apply_system(client: &Client, system: &[Value], progress: &mut Progress) -> anyhow::Result<()> {
    for object in system {
        progress.waiting(&format!("applying {}", cluster::describe(object)));
        cluster::apply(client, object).await?;
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds::all() {
        let name = crd.name_any();
        progress.waiting(&format!("waiting for the API server to serve {name}"));
        let served = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(Duration::from_secs(60), served)
            .await
            .map_err(|_| {
                advise(
                    format!("the API server does not serve {name}"),
                    format!("kubectl describe crd {name}"),
                )
            })?
            .context("watching definitions")?;
    }
    progress.done(&format!("{} objects applied: kinds, roles, operator", system.len()));
    Ok(())
}

/// Creates the mesh, or writes the flags that were given into the one there is.
async fn apply_mesh(
    client: &Client,
    options: &Options,
    version: bool,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    let mut wanted = manifests::mesh_config(options);
    let Some(known) = api.get_opt(&options.mesh).await.context("reading the MeshConfig")? else {
        cluster::apply(client, &wanted).await?;
        progress.done(&format!("MeshConfig {} created, release {}", options.mesh, options.version));
        return Ok(());
    };
    if known.spec.namespace != options.namespace {
        let next = format!("add --namespace {}", known.spec.namespace);
        return Err(advise(
            format!("mesh {} lives in namespace {}", options.mesh, known.spec.namespace),
            next,
        ));
    }
    if let Some(spec) = wanted["spec"].as_object_mut() {
        // A mesh that runs keeps the floor that it has, or has none.
        spec.remove("traffic");
        if !version {
            spec.remove("version");
        }
    }
    if !options.watch.is_empty() {
        let mut names = known.spec.watched_namespaces.names.clone();
        names.extend(
            options.watch.iter().filter(|name| !known.spec.watched_namespaces.names.contains(name)).cloned(),
        );
        wanted["spec"]["watchedNamespaces"] = json!({"names": names});
    }
    let patch = Patch::Merge(json!({"spec": wanted["spec"]}));
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&options.mesh, &params, &patch).await.context("editing the MeshConfig")?;
    progress
        .done(&format!("MeshConfig {} was there; only the flags that were given are changed", options.mesh));
    Ok(())
}

fn next_steps(arguments: &Arguments) -> String {
    let mesh = &arguments.mesh;
    let mut text = String::new();
    if arguments.image_prefix == LOCAL_PREFIX {
        // A node without them would ask a public registry, where that name may be anybody's.
        text.push_str(
            "\nThe images are taken by the local name meshwright/..., which is not ours on any registry: every node must \
             hold them.\nFor images in a registry of yours: --image-prefix registry.example/meshwright/\n",
        );
    }
    text.push_str("\nWhat next:\n  meshwright status\n");
    if arguments.watch.is_empty() {
        text.push_str(&format!("  kubectl label namespace NAMESPACE {}={mesh}\n", crds::labels::MESH));
    }
    text.push_str("  meshwright proxies\n");
    text
}
