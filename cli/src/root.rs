//! `meshwright root`: the root of trust as a file, and back into a cluster.
//!
//! ```text
//!  backup:   Secrets meshwright-root-ca, meshwright-root-ca-b ──▶ Root (read, paired) ──▶ file 0600 | pipe
//!  restore:  file ──▶ Root (read, paired) ──compare with what is there──▶ Secrets
//! ```
//! The file holds the key with which any identity of the mesh can be made, so it is never written where others may read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Subcommand;
use crds::{MeshConfig, labels};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::output::{self, advise};
use crate::progress::Progress;
use crate::{Outcome, cluster, leaving, manifests, sweep};

mod file;

/// How long a namespace that is being deleted is waited for.
const LEAVING: Duration = Duration::from_secs(300);

/// Arguments of `root`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Write the root of trust, with its key, into a file that only you can read
    Backup(Backup),
    /// Put a root of trust from a backup into the cluster, before or after the mesh is installed anew
    Restore(Restore),
}

#[derive(clap::Args, Debug)]
struct Backup {
    /// File to make, or - for a pipe (meshwright root backup - | age -p > root.age)
    file: String,
    /// Namespace of the control plane
    #[arg(long, default_value = labels::SYSTEM_NAMESPACE)]
    namespace: String,
}

#[derive(clap::Args, Debug)]
struct Restore {
    /// File that backup wrote, or - for standard input
    file: String,
    /// Namespace of the control plane, when it is another one now
    #[arg(long)]
    namespace: Option<String>,
    /// Replace another root that the mesh has now: sidecars that trust that one are cut off until they are restarted
    #[arg(long)]
    force: bool,
}

/// One root of trust, read and found whole.
#[derive(Clone, PartialEq)]
struct Root {
    name: String,
    namespace: String,
    mesh: Option<String>,
    generation: Option<String>,
    data: BTreeMap<String, ByteString>,
    /// SHA-256 of the root's certificate, as `status.certificateAuthority` has it.
    fingerprint: String,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    match arguments.verb {
        Verb::Backup(arguments) => backup(&arguments, access).await,
        Verb::Restore(arguments) => restore(&arguments, access).await,
    }
}

async fn backup(arguments: &Backup, access: &cluster::Access) -> anyhow::Result<Outcome> {
    file::check_target(&arguments.file)?;
    let client = cluster::connect(access).await?;
    let roots = live(&client, &arguments.namespace).await?;
    if roots.is_empty() {
        return Err(advise(
            format!("there is no root of trust in namespace {}", arguments.namespace),
            "meshwright status; add --namespace NAMESPACE",
        ));
    }
    let documents: anyhow::Result<Vec<_>> = roots.iter().map(|root| output::yaml(&root.object())).collect();
    file::write(&arguments.file, &documents?.join("---\n"))?;
    for root in &roots {
        eprintln!("saved {}/{}: root {}", root.namespace, root.name, short(&root.fingerprint));
    }
    eprintln!(
        "Who has this file can pose as any workload of the mesh. Encrypt it, keep it outside of the cluster, and make a \
         new one after each rotation of the root."
    );
    Ok(Outcome::Done)
}

async fn restore(arguments: &Restore, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let text = file::read(&arguments.file)?;
    let mut roots = parse(&text)?;
    for root in &mut roots {
        if let Some(namespace) = &arguments.namespace {
            root.namespace.clone_from(namespace);
        }
    }
    let namespace = roots[0].namespace.clone();
    if roots.iter().any(|root| root.namespace != namespace) {
        return Err(advise("the roots of the file are of different namespaces", "add --namespace NAMESPACE"));
    }
    let client = cluster::connect(access).await?;
    let mut progress = Progress::begin();
    leaving::wait(&client, &namespace, Instant::now() + LEAVING, &mut progress).await?;
    progress.end();
    let there = live_secrets(&client, &namespace).await?;
    let conflicts = conflicts(&roots, &there, signing(&client, &namespace).await?.as_deref());
    if !conflicts.is_empty() && !arguments.force {
        return Err(advise(
            format!("the mesh has another root of trust: {}", conflicts.join("; ")),
            "if the backup is the one to keep, add --force: sidecars that trust only the other root are cut off until \
             they are restarted",
        ));
    }
    make_namespace(&client, &namespace).await?;
    write(&client, &namespace, &roots, &there).await?;
    disown(&client, &namespace).await?;
    output::print("If the mesh is not installed: meshwright install finds this root and uses it.\n")?;
    Ok(Outcome::Done)
}

/// What would be lost: roots that are there and not in the backup, and the one that the mesh signs with by its status.
fn conflicts(roots: &[Root], there: &[Secret], signing: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    for secret in there {
        let name = secret.name_any();
        let same = roots.iter().any(|root| root.name == name && secret.data.as_ref() == Some(&root.data));
        if !same {
            let print = Root::of(secret).map(|root| short(&root.fingerprint));
            let print = print.unwrap_or_else(|_| "which cannot be read".to_owned());
            found.push(format!("Secret {name} holds root {print}, which is not in the backup"));
        }
    }
    if let Some(signing) = signing.filter(|signing| !roots.iter().any(|root| root.fingerprint == *signing)) {
        found.push(format!("by the MeshConfig's status its root is {}", short(signing)));
    }
    found
}

/// The root that signs, by the status of the MeshConfig of a namespace. `None` without one.
async fn signing(client: &Client, namespace: &str) -> anyhow::Result<Option<String>> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    let meshes = cluster::list(&api, &ListParams::default()).await?.unwrap_or_default();
    let mesh = meshes.into_iter().find(|mesh| mesh.spec.namespace == namespace);
    let authority = mesh.and_then(|mesh| mesh.status).and_then(|status| status.certificate_authority);
    Ok(authority.map(|authority| authority.signing).filter(|signing| !signing.is_empty()))
}

async fn make_namespace(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    if api.get_opt(namespace).await.context("reading the namespace")?.is_none() {
        cluster::apply(client, &manifests::home(namespace)?).await?;
    }
    Ok(())
}

async fn write(client: &Client, namespace: &str, roots: &[Root], there: &[Secret]) -> anyhow::Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for root in roots {
        let words = format!("{namespace}/{}: root {}", root.name, short(&root.fingerprint));
        let old = there.iter().find(|secret| secret.name_any() == root.name);
        if old.is_some_and(|old| old.data.as_ref() == Some(&root.data)) {
            eprintln!("unchanged {words}");
            continue;
        }
        if let Some(old) = old {
            remove(&api, old).await?;
        }
        let secret: Secret = serde_json::from_value(root.object()).context("a root")?;
        api.create(&PostParams::default(), &secret).await.with_context(|| format!("cannot write {words}"))?;
        eprintln!("restored {words}");
    }
    for old in there.iter().filter(|old| !roots.iter().any(|root| root.name == old.name_any())) {
        remove(&api, old).await?;
        eprintln!("removed {namespace}/{}, which is not in the backup", old.name_any());
    }
    Ok(())
}

/// Removes exactly the Secret that was looked at.
async fn remove(api: &Api<Secret>, old: &Secret) -> anyhow::Result<()> {
    let only = Preconditions { uid: old.uid(), resource_version: old.resource_version() };
    let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    api.delete(&old.name_any(), &params)
        .await
        .with_context(|| format!("cannot replace {}", old.name_any()))?;
    Ok(())
}

async fn live_secrets(client: &Client, namespace: &str) -> anyhow::Result<Vec<Secret>> {
    sweep::roots(client, namespace).await.context("reading the Secrets of the root of trust")
}

async fn live(client: &Client, namespace: &str) -> anyhow::Result<Vec<Root>> {
    live_secrets(client, namespace).await?.iter().map(Root::of).collect()
}

/// Takes the owner off roots of trust that have one. Releases up to 0.2.0 made them children of their MeshConfig, so that
/// the garbage collector destroyed them with it. The operator cannot do this: whoever may patch a Secret is answered with
/// its content, and the operator must not see the key.
pub async fn disown(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for root in live_secrets(client, namespace).await? {
        let (owned, stay): (Vec<_>, Vec<_>) =
            root.owner_references().iter().cloned().partition(|owner| owner.kind == "MeshConfig");
        if owned.is_empty() {
            continue;
        }
        let owners = if stay.is_empty() { Value::Null } else { json!(stay) };
        let patch =
            json!({"metadata": {"ownerReferences": owners, "resourceVersion": root.resource_version()}});
        api.patch_metadata(&root.name_any(), &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("cannot take the owner off Secret {}", root.name_any()))?;
    }
    Ok(())
}

impl Root {
    /// Reads a Secret and checks that key and certificate belong together.
    fn of(secret: &Secret) -> anyhow::Result<Self> {
        let name = secret.name_any();
        let known = [labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET].contains(&name.as_str());
        anyhow::ensure!(known, "Secret {name:?} is no root of trust of a mesh");
        let data = secret.data.clone().unwrap_or_default();
        let part = |key: &str| {
            data.get(key)
                .map(|bytes| bytes.0.as_slice())
                .with_context(|| format!("Secret {name}: {key} is missing"))
        };
        let chain = certificates(part("tls.crt")?).with_context(|| format!("Secret {name}: tls.crt"))?;
        let key = PrivateKeyDer::from_pem_slice(part("tls.key")?)
            .map_err(|_| anyhow::anyhow!("Secret {name}: tls.key is no private key"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| {
            anyhow::anyhow!("Secret {name}: tls.key does not belong to tls.crt ({error})")
        })?;
        let top = match data.get("ca.crt").filter(|ca| !ca.0.is_empty()) {
            Some(ca) => certificates(&ca.0).with_context(|| format!("Secret {name}: ca.crt"))?,
            None => chain,
        };
        let root = top.last().with_context(|| format!("Secret {name}: there is no certificate in it"))?;
        Ok(Self {
            namespace: secret.namespace().unwrap_or_default(),
            mesh: secret.labels().get(labels::MESH).cloned(),
            generation: secret.annotations().get(labels::ROOT_GENERATION).cloned(),
            fingerprint: hex::encode(Sha256::digest(root)),
            name,
            data,
        })
    }

    /// The Secret without what only one cluster knows of it (uid, owner, times).
    fn object(&self) -> Value {
        let mut labels = json!({});
        if let Some(mesh) = &self.mesh {
            labels = json!({labels::MANAGED_BY: labels::MANAGER, labels::MESH: mesh});
        }
        let annotations: BTreeMap<_, _> =
            self.generation.iter().map(|generation| (labels::ROOT_GENERATION, generation)).collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": labels, "annotations": annotations,
            },
            "data": self.data,
        })
    }
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|_| anyhow::anyhow!("is not PEM"))?;
    anyhow::ensure!(!read.is_empty(), "holds no certificate");
    Ok(read)
}

/// Reads a backup. Nothing of its content is repeated in an error.
fn parse(text: &str) -> anyhow::Result<Vec<Root>> {
    let bad = || advise("this is no backup of a root of trust", "meshwright root backup FILE makes one");
    let documents = gitops::yaml::documents(text, gitops::yaml::Format::Yaml).map_err(|_| bad())?;
    let mut roots: Vec<Root> = Vec::new();
    for document in documents {
        let value: Value = document.untyped().map_err(|_| bad())?;
        if value["kind"] != "Secret" || value["apiVersion"] != "v1" {
            return Err(bad());
        }
        let root = Root::of(&serde_json::from_value(value).map_err(|_| bad())?)?;
        anyhow::ensure!(
            !roots.iter().any(|other| other.name == root.name),
            "Secret {} is in it twice",
            root.name
        );
        roots.push(root);
    }
    if roots.is_empty() { Err(bad()) } else { Ok(roots) }
}

fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}

#[cfg(test)]
mod tests;
