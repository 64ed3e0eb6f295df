//! `meshwright upgrade`: start one (an edit of the MeshConfig's version), see it, steer it.

use std::collections::BTreeSet;

use anyhow::Context;
use crds::mesh_upgrade::{StepState, UpgradePhase};
use crds::{MeshConfig, MeshUpgrade};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::Outcome;
use crate::cluster::{self, MANAGER};
use crate::output::{self, Format, FormatArgument, advise};
use crate::table::{Cell, Table, Tone};

/// Arguments of `upgrade`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Name of the mesh, when there are several
    #[arg(long, global = true)]
    mesh: Option<String>,
    /// The release to go to
    #[arg(long, required = true)]
    version: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// What an upgrade would do, or the plan of the one that runs
    Plan {
        /// The release to go to
        #[arg(long)]
        version: Option<String>,
    },
    /// How far the current or last upgrade is
    Status(FormatArgument),
    /// Let an upgrade begin that waits for approval
    Approve,
    /// Begin nothing new
    Pause,
    /// Go on
    Resume,
    /// Go back to the release before
    Abort,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let mesh = cluster::mesh(&client, arguments.mesh.as_deref()).await?;
    match (arguments.verb, arguments.version) {
        (None, Some(version)) => start(&client, &mesh, &version).await,
        (None, None) => Err(advise("no release is named", "meshwright upgrade --version VERSION")),
        (Some(Verb::Plan { version: Some(version) }), _) => {
            output::print(&prospect(&mesh, &version)?)?;
            Ok(Outcome::Done)
        }
        (Some(Verb::Plan { version: None }), _) => {
            let upgrade = current(&client, &mesh).await?;
            output::print(&steps(&upgrade).render(output::colour()))?;
            Ok(Outcome::Done)
        }
        (Some(Verb::Status(format)), _) => show(&client, &mesh, format.output).await,
        (Some(Verb::Approve), _) => steer(&client, &mesh, json!({"approved": true}), "approved").await,
        (Some(Verb::Pause), _) => steer(&client, &mesh, json!({"paused": true}), "paused").await,
        (Some(Verb::Resume), _) => steer(&client, &mesh, json!({"paused": false}), "resumed").await,
        (Some(Verb::Abort), _) => steer(&client, &mesh, json!({"abort": true}), "going back").await,
    }
}

async fn start(client: &Client, mesh: &MeshConfig, version: &str) -> anyhow::Result<Outcome> {
    check(mesh, version)?;
    let api: Api<MeshConfig> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"spec": {"version": version}}));
    api.patch(&mesh.name_any(), &params(), &patch).await.context("editing the MeshConfig")?;
    output::print(&format!(
        "mesh {}: {} becomes {version}\n  next: meshwright upgrade status\n",
        mesh.name_any(),
        effective(mesh)
    ))?;
    Ok(Outcome::Done)
}

/// Refuses what the catalogue says cannot be; the operator would refuse it too, but later.
fn check(mesh: &MeshConfig, version: &str) -> anyhow::Result<()> {
    let catalogue = upgrades::Catalogue::embedded();
    let next = "choose another --version; a newer command knows newer releases";
    catalogue.get(version).map_err(|unknown| advise(unknown.to_string(), next))?;
    catalogue.reachable(effective(mesh), version).map_err(|unreachable| advise(unreachable.to_string(), next))
}

fn effective(mesh: &MeshConfig) -> &str {
    let effective =
        mesh.status.as_ref().and_then(|status| status.version.as_ref()).map(|v| v.effective.as_str());
    effective.filter(|version| !version.is_empty()).unwrap_or(&mesh.spec.version)
}

/// What an upgrade to a release would do, from what the MeshConfig says.
fn prospect(mesh: &MeshConfig, version: &str) -> anyhow::Result<String> {
    check(mesh, version)?;
    let from = effective(mesh);
    if from == version {
        return Ok(format!("{version} is in effect already\n"));
    }
    let mut text = format!("{}: {from} -> {version}\n", mesh.name_any());
    let mut number = 0;
    let mut step = |words: String| {
        number += 1;
        text.push_str(&format!("{number:>3}. {words}\n"));
    };
    if mesh.spec.upgrade.approval == crds::mesh_config::Approval::Manual {
        step("wait for: meshwright upgrade approve".to_owned());
    }
    step(format!("bring up the control plane of {version} beside {from}"));
    for (wave, namespaces) in waves(mesh) {
        for namespace in namespaces {
            step(format!("move namespace {namespace} (wave {wave}) under its PodDisruptionBudgets"));
        }
        step(format!("watch wave {wave} for {}", mesh.spec.upgrade.soak));
    }
    step(format!("remove the control plane of {from}"));
    Ok(text)
}

/// Namespaces of the mesh in the order of the waves; those that no wave names come last, by name.
fn waves(mesh: &MeshConfig) -> Vec<(String, Vec<String>)> {
    let members = mesh.status.as_ref().map(|status| status.namespaces.clone()).unwrap_or_default();
    let mut rest: BTreeSet<String> = members.into_iter().collect();
    let mut waves = Vec::new();
    for wave in &mesh.spec.upgrade.waves {
        let namespaces: Vec<_> = wave.namespaces.iter().filter(|name| rest.remove(*name)).cloned().collect();
        if !namespaces.is_empty() {
            waves.push((wave.name.clone(), namespaces));
        }
    }
    if !rest.is_empty() {
        waves.push(("rest".to_owned(), rest.into_iter().collect()));
    }
    waves
}

/// The upgrade that the mesh's status names, else the newest one.
async fn current(client: &Client, mesh: &MeshConfig) -> anyhow::Result<MeshUpgrade> {
    let api: Api<MeshUpgrade> = Api::all(client.clone());
    let name = mesh.name_any();
    let mut upgrades = cluster::list(&api, &ListParams::default()).await?.unwrap_or_default();
    upgrades.retain(|upgrade| upgrade.spec.mesh == name);
    upgrades.sort_by_key(|upgrade| upgrade.creation_timestamp().map(|time| time.0));
    let named = mesh.status.as_ref().and_then(|status| status.upgrade.clone());
    let position = upgrades.iter().position(|upgrade| Some(upgrade.name_any()) == named);
    let newest = upgrades.len().checked_sub(1);
    match position.or(newest) {
        Some(position) => Ok(upgrades.swap_remove(position)),
        None => {
            Err(advise(format!("mesh {name} has had no upgrade"), "meshwright upgrade --version VERSION"))
        }
    }
}

async fn show(client: &Client, mesh: &MeshConfig, format: Format) -> anyhow::Result<Outcome> {
    let upgrade = current(client, mesh).await?;
    match format {
        Format::Table => output::print(&text(&upgrade, output::colour()))?,
        format => output::print_value(&upgrade, format)?,
    }
    Ok(Outcome::Done)
}

fn text(upgrade: &MeshUpgrade, colour: bool) -> String {
    let status = upgrade.status.clone().unwrap_or_default();
    let mut table = Table::new(["UPGRADE", "FROM", "TO", "PHASE", "PROGRESS", "WAITING FOR"]);
    let (phase, tone) = match status.phase {
        None => ("", Tone::Plain),
        Some(UpgradePhase::AwaitingApproval) => ("AwaitingApproval", Tone::Busy),
        Some(UpgradePhase::ControlPlane) => ("ControlPlane", Tone::Busy),
        Some(UpgradePhase::Moving) => ("Moving", Tone::Busy),
        Some(UpgradePhase::Retiring) => ("Retiring", Tone::Busy),
        Some(UpgradePhase::Complete) => ("Complete", Tone::Good),
        Some(UpgradePhase::Paused) => ("Paused", Tone::Bad),
        Some(UpgradePhase::Aborting) => ("Aborting", Tone::Bad),
        Some(UpgradePhase::Aborted) => ("Aborted", Tone::Plain),
    };
    table.row([
        upgrade.name_any().into(),
        upgrade.spec.from.as_str().into(),
        upgrade.spec.to.as_str().into(),
        Cell::new(phase, tone),
        status.progress.as_str().into(),
        status.waiting_on.as_str().into(),
    ]);
    let steps = steps(upgrade);
    let notices = status.notices.iter().map(|notice| format!("Note: {notice}\n")).collect::<String>();
    let table = format!("{}{notices}", table.render(colour));
    let next = match status.phase {
        Some(UpgradePhase::AwaitingApproval) => "\nNext: meshwright upgrade approve\n",
        Some(UpgradePhase::Paused) if upgrade.spec.paused => "\nNext: meshwright upgrade resume, or abort\n",
        _ => "",
    };
    if steps.is_empty() {
        format!("{table}{next}")
    } else {
        format!("{table}\n{}{next}", steps.render(colour))
    }
}

fn steps(upgrade: &MeshUpgrade) -> Table {
    let mut table = Table::new(["STATE", "STEP", "WHY"]);
    for step in upgrade.status.iter().flat_map(|status| &status.steps) {
        let (state, tone) = match step.state {
            StepState::Pending => ("Pending", Tone::Plain),
            StepState::Running => ("Running", Tone::Busy),
            StepState::Waiting => ("Waiting", Tone::Busy),
            StepState::Done => ("Done", Tone::Good),
        };
        table.row([Cell::new(state, tone), step.step.as_str().into(), step.reason.as_str().into()]);
    }
    table
}

async fn steer(client: &Client, mesh: &MeshConfig, spec: Value, word: &str) -> anyhow::Result<Outcome> {
    let upgrade = current(client, mesh).await?;
    let phase = upgrade.status.as_ref().and_then(|status| status.phase);
    if matches!(phase, Some(UpgradePhase::Complete | UpgradePhase::Aborted)) {
        return Err(advise(format!("{} is over", upgrade.name_any()), "meshwright upgrade status"));
    }
    let api: Api<MeshUpgrade> = Api::all(client.clone());
    api.patch(&upgrade.name_any(), &params(), &Patch::Merge(json!({"spec": spec})))
        .await
        .context("editing the MeshUpgrade")?;
    output::print(&format!("{}: {word}\n  next: meshwright upgrade status\n", upgrade.name_any()))?;
    Ok(Outcome::Done)
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> MeshConfig {
        serde_json::from_value(json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books"},
            "spec": {"version": "0.1.0", "upgrade": {
                "waves": [{"name": "canary", "namespaces": ["thief", "nowhere"]}], "soak": "5m", "approval": "Manual"}},
            "status": {"version": {"desired": "0.1.0", "effective": "0.1.0"}, "namespaces": ["buyer", "store", "thief"]}
        }))
        .unwrap()
    }

    #[test]
    fn the_prospect_follows_the_waves() {
        let expected = "\
books: 0.1.0 -> 0.2.0
  1. wait for: meshwright upgrade approve
  2. bring up the control plane of 0.2.0 beside 0.1.0
  3. move namespace thief (wave canary) under its PodDisruptionBudgets
  4. watch wave canary for 5m
  5. move namespace buyer (wave rest) under its PodDisruptionBudgets
  6. move namespace store (wave rest) under its PodDisruptionBudgets
  7. watch wave rest for 5m
  8. remove the control plane of 0.1.0
";
        assert_eq!(prospect(&mesh(), "0.2.0").unwrap(), expected);
    }

    #[test]
    fn an_unknown_release_is_refused_with_the_known_ones() {
        let error = output::failure(&prospect(&mesh(), "7.0.0").unwrap_err());
        assert!(error.contains("7.0.0") && error.contains("0.1.0") && error.contains("next:"), "{error}");
    }
}
