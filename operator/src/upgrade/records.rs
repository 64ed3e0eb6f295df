//! The `MeshUpgrade`s of a mesh: found, begun, ended. What to do about them is decided in `upgrades::records`.

use crds::mesh_upgrade::{MeshUpgradeSpec, MeshUpgradeStatus, UpgradePhase};
use crds::{MeshConfig, MeshUpgrade, labels};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use upgrades::records::{Record, State};

use super::Error;
use crate::conditions::{self, Conditions};
use crate::context::Context;

/// Reason of the condition `Ready` of a record that is over for good.
const CLOSED: &str = "Closed";

/// The records of a mesh, by name.
///
/// # Errors
/// When they cannot be listed.
pub async fn list(ctx: &Context, mesh: &str) -> Result<Vec<MeshUpgrade>, kube::Error> {
    let api: Api<MeshUpgrade> = Api::all(ctx.client.clone());
    let mut records = api.list(&ListParams::default()).await?.items;
    records.retain(|record| record.spec.mesh == mesh && record.metadata.deletion_timestamp.is_none());
    records.sort_by_key(ResourceExt::name_any);
    Ok(records)
}

/// A record as far as the decision needs it.
#[must_use]
pub fn fact(record: &MeshUpgrade) -> Record {
    let status = record.status.clone().unwrap_or_default();
    let closed =
        status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.reason == CLOSED);
    let state = match status.phase {
        Some(UpgradePhase::Complete) => State::Over,
        Some(UpgradePhase::Aborted) if record.spec.abort && !closed => State::Aborted,
        Some(UpgradePhase::Aborted) => State::Over,
        None
        | Some(
            UpgradePhase::AwaitingApproval
            | UpgradePhase::ControlPlane
            | UpgradePhase::Moving
            | UpgradePhase::Retiring
            | UpgradePhase::Paused
            | UpgradePhase::Aborting,
        ) => State::Running,
    };
    Record { name: record.name_any(), from: record.spec.from.clone(), to: record.spec.to.clone(), state }
}

/// Forgets records that are over and too many.
///
/// # Errors
/// When the API server says no.
pub async fn forget(ctx: &Context, records: impl Iterator<Item = &MeshUpgrade>) -> Result<(), kube::Error> {
    let api: Api<MeshUpgrade> = Api::all(ctx.client.clone());
    for old in records {
        let preconditions = Preconditions { uid: old.uid(), resource_version: old.resource_version() };
        match api.delete(&old.name_any(), &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a record. It belongs to the MeshConfig and goes with it.
///
/// # Errors
/// When the API server says no. That it is there already is fine.
pub async fn begin(
    ctx: &Context,
    mesh: &MeshConfig,
    name: &str,
    (from, to): (&str, &str),
) -> Result<(), kube::Error> {
    let api: Api<MeshUpgrade> = Api::all(ctx.client.clone());
    let spec = MeshUpgradeSpec {
        mesh: mesh.name_any(),
        from: from.to_owned(),
        to: to.to_owned(),
        approved: false,
        paused: false,
        abort: false,
    };
    let mut record = MeshUpgrade::new(name, spec);
    record.labels_mut().insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    record.labels_mut().insert(labels::MESH.to_owned(), mesh.name_any());
    record.metadata.owner_references = mesh.controller_owner_ref(&()).map(|owner| vec![owner]);
    match api.create(&PostParams::default(), &record).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends a record for good.
///
/// # Errors
/// When its status cannot be written.
pub async fn close(ctx: &Context, record: &MeshUpgrade, message: &str) -> Result<(), Error> {
    let before = record.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let mut conditions = Conditions::from(&before.conditions, record.metadata.generation, now);
    conditions.set("Ready", conditions::State::True, CLOSED, message);
    conditions.set("Reconciling", conditions::State::False, CLOSED, message);
    conditions.set("Stalled", conditions::State::False, CLOSED, message);
    let after = MeshUpgradeStatus {
        conditions: conditions.finish(),
        phase: Some(UpgradePhase::Aborted),
        waiting_on: String::new(),
        finished: before.finished.clone().or_else(|| Some(super::report::text(now))),
        ..before.clone()
    };
    // Whoever wrote meanwhile wakes this reconciler, which looks again.
    super::report::write(ctx, record, after).await?;
    Ok(())
}
