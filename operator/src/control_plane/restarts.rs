//! Pods that escaped injection are restarted, if the MeshConfig says so: looked at with an upgrade's facts, planned by
//! `upgrades::uninjected`, written down in the MeshConfig's status, and only then done.

use std::collections::BTreeMap;

use crds::MeshConfig;
use crds::mesh_config::{RestartStatus, RestartUninjected};
use kube::ResourceExt;
use upgrades::facts::{Kind, WorkloadId};
use upgrades::records::State;
use upgrades::uninjected::{self, Record, Restart, Restarts};
use upgrades::waiting::Place;

use super::facts::Facts;
use super::plan::Plan;
use crate::context::Context;
use crate::events::Weight;
use crate::upgrade::execute::{self, Done};
use crate::upgrade::gather::{self, Gathered};
use crate::upgrade::records;

/// What was looked at.
#[derive(Default)]
pub struct Looked {
    /// For the MeshConfig's status.
    pub entries: Vec<RestartStatus>,
    /// Whether it is worth looking again soon.
    pub moving: bool,
    /// What to do once the status says it.
    work: Option<(Restarts, Gathered)>,
}

/// Looks at the pods that escaped; at nothing where they are not to be restarted or where there are none.
pub async fn look(ctx: &Context, mesh: &MeshConfig, facts: &Facts, plan: &Plan) -> Looked {
    let before = mesh.status.as_ref().map(|status| status.restarts.as_slice()).unwrap_or_default();
    let none = facts.escaped(&plan.membership.members).next().is_none() && before.is_empty();
    if none || mesh.spec.upgrade.restart_uninjected == RestartUninjected::Never {
        return Looked::default();
    }
    let gathered = match gather::world(ctx, mesh, facts.fleet.as_ref()).await {
        Ok(gathered) => gathered,
        Err(error) => {
            // Nothing is planned on half the facts, and what was written down stays.
            tracing::warn!(error = runtime::logging::chain(&error), "pods that escaped cannot be looked at");
            return Looked { entries: before.to_vec(), moving: true, work: None };
        }
    };
    let restarts = uninjected::plan(&wishes(mesh, facts, plan, &gathered, before));
    Looked {
        entries: restarts.workloads.iter().map(entry).collect(),
        moving: restarts.workloads.iter().any(|restart| restart.state.is_moving()),
        work: Some((restarts, gathered)),
    }
}

/// What the plan is made of.
fn wishes(
    mesh: &MeshConfig,
    facts: &Facts,
    plan: &Plan,
    gathered: &Gathered,
    before: &[RestartStatus],
) -> uninjected::Facts {
    let escaped = facts.escaped(&plan.membership.members).filter_map(|(pod, _)| {
        let namespace = gathered.observed.namespaces.get(&pod.namespace)?;
        let found = namespace.workloads.values().find_map(|workload| workload.pods.get(&pod.name))?;
        // The list may be older: a later pod of the same name is another.
        let same = found.uid == pod.uid && found.revision.is_none();
        let made = u64::try_from(pod.made?.as_second()).ok()?;
        same.then(|| ((pod.namespace.clone(), pod.name.clone()), made))
    });
    let word = |namespace: &super::facts::NamespaceFact| {
        Some((namespace.name.clone(), namespace.restart_word.clone()?))
    };
    let running = facts.upgrades.iter().find(|upgrade| records::fact(upgrade).state == State::Running);
    uninjected::Facts {
        escaped: escaped.collect(),
        observed: gathered.observed.clone(),
        approval: mesh.spec.upgrade.approval,
        words: facts.namespaces.iter().filter_map(word).collect(),
        upgrade: running.map(ResourceExt::name_any),
        records: before.iter().filter_map(record).collect::<BTreeMap<_, _>>(),
    }
}

/// What an entry of the status says was done.
fn record(entry: &RestartStatus) -> Option<(Place, Record)> {
    let (kind, name) = entry.workload.split_once('/')?;
    let workload = WorkloadId { name: name.to_owned(), kind: Kind::named(kind) };
    let place = Place { namespace: entry.namespace.clone(), workload };
    let since = u64::try_from(entry.since?).ok()?;
    let again = u32::try_from(entry.again).unwrap_or(u32::MAX);
    Some((place, Record { since, again, last: entry.last.clone() }))
}

fn entry(restart: &Restart) -> RestartStatus {
    let done = restart.record.as_ref();
    RestartStatus {
        namespace: restart.place.namespace.clone(),
        workload: restart.place.workload.to_string().replace(' ', "/"),
        pods: i32::try_from(restart.pods).unwrap_or(i32::MAX),
        since: done.map(|record| i64::try_from(record.since).unwrap_or(i64::MAX)),
        again: done.map_or(0, |record| i32::try_from(record.again).unwrap_or(i32::MAX)),
        last: done.map(|record| record.last.clone()).unwrap_or_default(),
        reason: restart.state.reason().to_owned(),
        message: restart.state.to_string(),
    }
}

/// Does what was planned. The status must say it by now: what is done twice is bounded by what is written down.
pub async fn act(ctx: &Context, mesh: &MeshConfig, looked: &Looked) {
    let Some((Restarts { action: Some(action), .. }, gathered)) = &looked.work else { return };
    let (done, workload) = execute::one(ctx, action, gathered).await;
    let (weight, reason, note) = match done {
        Done::Yes => {
            let note =
                format!("{action} (it ran without a sidecar, and spec.upgrade.restartUninjected is Planned)");
            (Weight::Normal, "UninjectedRestarted", note)
        }
        Done::Changed => return,
        Done::Busy(why) | Done::Refused(why) | Done::Unknown(why) => {
            (Weight::Warning, "RestartRefused", format!("{action}: {why}"))
        }
    };
    tracing::info!(reason, mesh = mesh.name_any(), "{note}");
    match workload {
        Some(workload) => ctx.events.tell_about(&workload, weight, reason, "Restart", &note).await,
        None => ctx.events.tell(mesh, weight, reason, "Restart", &note).await,
    }
}

#[cfg(test)]
mod tests {
    use upgrades::uninjected::State;

    use super::*;

    #[test]
    fn what_the_status_says_is_read_as_it_was_written() {
        let workload = WorkloadId { name: "db/odd".to_owned(), kind: Kind::StatefulSet };
        let restart = Restart {
            place: Place { namespace: "shop".to_owned(), workload },
            pods: 2,
            record: Some(Record { since: 7, again: 1, last: "uid".to_owned() }),
            state: State::Paused,
        };
        let written = entry(&restart);
        assert_eq!((written.workload.as_str(), written.reason.as_str()), ("StatefulSet/db/odd", "Paused"));
        assert_eq!(record(&written), Some((restart.place.clone(), restart.record.clone().unwrap())));
        let never = entry(&Restart { record: None, ..restart });
        assert_eq!(record(&never), None);
    }
}
