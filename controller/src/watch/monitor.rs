//! Looks at the watches and the mesh's thread again and again, and says how this replica stands: to the probe, to the
//! operator (a problem of the MeshConfig), and as numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::fleet::ProblemReport;
use kube::Client;
use mesh::Kind;
use parking_lot::Mutex;
use runtime::admin::Readiness;
use tokio_util::sync::CancellationToken;

use super::pulse::{OVERDUE, Pulse};
use super::settings;
use super::standing::{Replicas, STUCK, Standing, judge, not_ready};
use crate::metrics::{Metrics, PerKind};
use crate::snapshots::{Input, Snapshots};

/// The part of readiness that this is.
const OWN_PART: &str = "watches";
const EVERY: Duration = Duration::from_secs(2);
/// How long what was computed for streams that have all left is kept up to date.
const LINGER: Duration = Duration::from_secs(60);

/// The watches of this replica.
#[derive(Clone, Default)]
pub struct Monitor {
    watches: Arc<Mutex<BTreeMap<&'static str, Arc<Pulse>>>>,
}

/// Which replica this is.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Service of its revision.
    pub service: String,
    /// Its pod.
    pub pod: String,
}

impl Monitor {
    /// A client to watch a kind with.
    pub(super) fn listen(&self, kind: &'static str, client: &Client) -> (Arc<Pulse>, Client) {
        let pulse = Pulse::new();
        let client = pulse.listen(client);
        self.watches.lock().insert(kind, pulse.clone());
        (pulse, client)
    }

    fn ages(&self) -> Vec<(&'static str, Duration)> {
        let now = Instant::now();
        self.watches.lock().iter().map(|(kind, pulse)| (*kind, pulse.age(now))).collect()
    }

    /// Whether every watch has been heard of lately.
    #[must_use]
    pub fn hears_all(&self) -> bool {
        self.ages().iter().all(|(_, age)| *age < OVERDUE)
    }

    /// Looks until `stop` is cancelled.
    pub async fn run(
        self,
        replica: Replica,
        snapshots: Snapshots,
        readiness: Readiness,
        metrics: Metrics,
        stop: CancellationToken,
    ) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => {}
            }
            let ages = self.ages();
            for (kind, age) in &ages {
                let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
                metrics.watch_age.get_or_create(&PerKind { kind: (*kind).to_owned() }).set(seconds);
            }
            if !snapshots.synced() {
                continue;
            }
            if let Some(before) = Instant::now().checked_sub(LINGER) {
                snapshots.send(Input::Expire(before)).await;
            }
            let standing = judge(&ages, snapshots.busy_for());
            let slices =
                ages.iter().any(|(kind, age)| *kind == Kind::EndpointSlice.as_str() && *age < OVERDUE);
            say(&standing, &replicas(&snapshots, &replica, slices), &readiness);
            let problem = problem(&standing, &snapshots, &replica);
            if told != problem {
                tracing::warn!(?standing, "this replica stands otherwise now");
                told.clone_from(&problem);
                snapshots.send(Input::Standing(problem)).await;
            }
        }
    }
}

fn say(standing: &Standing, replicas: &Replicas, readiness: &Readiness) {
    match not_ready(standing, replicas) {
        Some(reason) => readiness.not_ready(OWN_PART, reason),
        None => readiness.ready(OWN_PART),
    }
}

/// The replicas of the Service as its slices have them. When these are not heard of any more, the first one by name
/// stays whatever they said.
fn replicas(snapshots: &Snapshots, replica: &Replica, slices_are_current: bool) -> Replicas {
    let all = snapshots.replicas(&replica.namespace, &replica.service);
    let rank = all.keys().filter(|name| **name < replica.pod).count();
    let another = all.iter().any(|(name, ready)| *ready && *name != replica.pod);
    Replicas {
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        another_ready: another && (slices_are_current || rank > 0),
    }
}

/// What the operator is told. The reason holds no number that goes up: it is told once.
fn problem(standing: &Standing, snapshots: &Snapshots, replica: &Replica) -> Option<ProblemReport> {
    let what = match standing {
        Standing::Current => return None,
        Standing::Behind(..) => "hears nothing of some of its watches, or works at changes for too long",
        Standing::CutOff(_) => "hears nothing of the API server",
    };
    let message = format!(
        "controller {} {what}; its sidecars keep what they have, and sidecars that hold something go to another \
         replica; see its log, /readyz and meshwright_watch_age_seconds",
        replica.pod
    );
    Some(ProblemReport {
        kind: settings::KIND.to_owned(),
        namespace: String::new(),
        name: snapshots.settings().mesh,
        reason: "ReplicaBehind".to_owned(),
        message,
    })
}

/// Why the process is not live any more, if so.
///
/// # Errors
/// The reason.
pub fn live(snapshots: &Snapshots) -> Result<(), String> {
    if snapshots.died().is_cancelled() {
        return Err("the mesh's thread has died".to_owned());
    }
    let busy = snapshots.busy_for();
    if busy >= STUCK {
        return Err(format!("the mesh's thread has been at one batch of changes for {} s", busy.as_secs()));
    }
    Ok(())
}
