//! `meshwright status`. Exits with 1 while a mesh that it shows is not Ready for its newest spec, so that scripts can wait.

use crds::MeshConfig;
use crds::mesh_config::{MeshConfigStatus, RotationStep};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::install::is_ready;
use crate::output::{self, Format, FormatArgument};
use crate::table::{Cell, Table, Tone};
use crate::{Outcome, cluster};

/// Arguments of `status`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Name of the mesh; all meshes when left out
    #[arg(long)]
    mesh: Option<String>,
    #[command(flatten)]
    format: FormatArgument,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let meshes = match &arguments.mesh {
        Some(name) => vec![cluster::mesh(&client, Some(name)).await?],
        None => cluster::meshes(&client).await?,
    };
    match arguments.format.output {
        Format::Table => {
            let texts: Vec<_> = meshes.iter().map(|mesh| text(mesh, output::colour())).collect();
            output::print(&texts.join("\n"))?;
        }
        format => output::print_value(&meshes, format)?,
    }
    Ok(if meshes.iter().all(is_ready) { Outcome::Done } else { Outcome::No })
}

/// The whole status of a mesh for people.
fn text(mesh: &MeshConfig, colour: bool) -> String {
    let none = MeshConfigStatus::default();
    let status = mesh.status.as_ref().unwrap_or(&none);
    let mut text = overview(mesh, status).render(colour);
    if status.observed_generation.is_none() {
        text.push_str("\nThe operator has not looked at this mesh yet: kubectl get pods -n ");
        text.push_str(&mesh.spec.namespace);
        text.push('\n');
    }
    let parts = [
        ("Conditions", conditions(&status.conditions)),
        ("Control plane", revisions(status)),
        ("Root of trust", root(status)),
        ("Policy sources", sources(status)),
    ];
    for (title, table) in parts.into_iter().filter(|(_, table)| !table.is_empty()) {
        text.push_str(&format!("\n{title}\n{}", indented(&table.render(colour))));
    }
    if let Some(upgrade) = &status.upgrade {
        text.push_str(&format!("\nUpgrade {upgrade}: meshwright upgrade status\n"));
    }
    text
}

fn overview(mesh: &MeshConfig, status: &MeshConfigStatus) -> Table {
    let mut table = Table::new([
        "MESH",
        "READY",
        "DESIRED",
        "EFFECTIVE",
        "PROXIES",
        "CONNECTED",
        "REJECTED",
        "NAMESPACES",
    ]);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let proxies = status.proxies.clone().unwrap_or_default();
    let version = status.version.clone().unwrap_or_default();
    let moving = version.effective != mesh.spec.version;
    let rejected = if proxies.rejected > 0 { Tone::Bad } else { Tone::Plain };
    table.row([
        mesh.name_any().into(),
        Cell::new(ready.map_or("Unknown", |condition| condition.status.as_str()), tone(ready)),
        mesh.spec.version.as_str().into(),
        Cell::new(version.effective, if moving { Tone::Busy } else { Tone::Plain }),
        proxies.total.to_string().into(),
        proxies.connected.to_string().into(),
        Cell::new(proxies.rejected.to_string(), rejected),
        status.namespaces.join(",").into(),
    ]);
    table
}

fn conditions(conditions: &[Condition]) -> Table {
    let mut table = Table::new(["TYPE", "STATUS", "REASON", "MESSAGE"]);
    for condition in conditions {
        let tone = match condition.type_.as_str() {
            "Reconciling" | "Stalled" if condition.status == "False" => Tone::Plain,
            "Reconciling" => Tone::Busy,
            "Stalled" => Tone::Bad,
            _ => tone(Some(condition)),
        };
        table.row([
            condition.type_.as_str().into(),
            Cell::new(&condition.status, tone),
            condition.reason.as_str().into(),
            condition.message.as_str().into(),
        ]);
    }
    table
}

fn revisions(status: &MeshConfigStatus) -> Table {
    let mut table = Table::new(["REVISION", "READY", "PROXIES"]);
    for revision in &status.control_plane {
        let (text, tone) = if revision.ready { ("True", Tone::Good) } else { ("False", Tone::Busy) };
        table.row([
            revision.version.as_str().into(),
            Cell::new(text, tone),
            revision.proxies.to_string().into(),
        ]);
    }
    table
}

fn root(status: &MeshConfigStatus) -> Table {
    let mut table = Table::new(["ROOT", "STEP", "TRUSTED", "UNTIL", "MESSAGE"]);
    if let Some(root) = &status.certificate_authority {
        let tone = if root.step == RotationStep::Stable { Tone::Good } else { Tone::Busy };
        table.row([
            format!("{} ({})", root.generation, short_commit(&root.signing)).into(),
            Cell::new(root.step.as_str(), tone),
            root.trusted.len().to_string().into(),
            root.not_after.as_str().into(),
            root.message.as_str().into(),
        ]);
    }
    table
}

fn sources(status: &MeshConfigStatus) -> Table {
    let mut table = Table::new(["SOURCE", "APPLIED", "ATTEMPTED", "MESSAGE"]);
    for source in &status.policy_sources {
        let behind = if source.applied == source.attempted { Tone::Good } else { Tone::Busy };
        table.row([
            source.name.as_str().into(),
            Cell::new(short_commit(&source.applied), behind),
            short_commit(&source.attempted).into(),
            source.message.as_str().into(),
        ]);
    }
    table
}

/// The first characters of a commit, as git shows it, or of another hash.
pub fn short_commit(commit: &str) -> String {
    commit.chars().take(12).collect()
}

/// How a condition that should be `True` reads.
pub fn tone(condition: Option<&Condition>) -> Tone {
    match condition.map(|condition| condition.status.as_str()) {
        Some("True") => Tone::Good,
        Some("False") => Tone::Bad,
        _ => Tone::Busy,
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> MeshConfig {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books", "generation": 2},
            "spec": {"version": "0.2.0"},
            "status": {
                "observedGeneration": 2,
                "conditions": [{
                    "type": "Ready", "status": "False", "reason": "Upgrading", "message": "3 of 9 pods moved",
                    "lastTransitionTime": "2026-11-23T00:00:00Z"
                }],
                "version": {"desired": "0.2.0", "effective": "0.1.0"},
                "controlPlane": [
                    {"version": "0.1.0", "ready": true, "proxies": 6}, {"version": "0.2.0", "ready": true, "proxies": 3}
                ],
                "proxies": {"total": 9, "connected": 9, "rejected": 0, "byVersion": {"0.1.0": 6, "0.2.0": 3}},
                "certificateAuthority": {
                    "step": "TrustingBoth", "generation": 1, "serial": 2, "signing": "c".repeat(64),
                    "trusted": ["c".repeat(64), "d".repeat(64)], "since": "2026-11-23T00:00:00Z",
                    "notAfter": "2036-11-20T00:00:00Z", "secret": "meshwright-root-ca",
                    "message": "step 2 of 4 towards root 2"
                },
                "policySources": [{"name": "bookstore", "applied": "a".repeat(40), "attempted": "b".repeat(40),
                                   "message": "policies/x.yaml:3: not YAML"}],
                "upgrade": "books-0-1-0-to-0-2-0",
                "namespaces": ["bookbuyer", "bookstore"]
            }
        }))
        .unwrap()
    }

    #[test]
    fn a_mesh_in_the_middle_of_an_upgrade() {
        let expected = "\
MESH    READY   DESIRED   EFFECTIVE   PROXIES   CONNECTED   REJECTED   NAMESPACES
books   False   0.2.0     0.1.0       9         9           0          bookbuyer,bookstore

Conditions
  TYPE    STATUS   REASON      MESSAGE
  Ready   False    Upgrading   3 of 9 pods moved

Control plane
  REVISION   READY   PROXIES
  0.1.0      True    6
  0.2.0      True    3

Root of trust
  ROOT               STEP           TRUSTED   UNTIL                  MESSAGE
  1 (cccccccccccc)   TrustingBoth   2         2036-11-20T00:00:00Z   step 2 of 4 towards root 2

Policy sources
  SOURCE      APPLIED        ATTEMPTED      MESSAGE
  bookstore   aaaaaaaaaaaa   bbbbbbbbbbbb   policies/x.yaml:3: not YAML

Upgrade books-0-1-0-to-0-2-0: meshwright upgrade status
";
        assert_eq!(text(&mesh(), false), expected);
    }

    #[test]
    fn a_mesh_that_nobody_has_looked_at_says_so() {
        let mesh = MeshConfig { status: None, ..mesh() };
        let text = text(&mesh, false);
        assert!(text.contains("books   Unknown   0.2.0"), "{text}");
        assert!(text.contains("kubectl get pods -n meshwright-system"), "{text}");
    }
}
