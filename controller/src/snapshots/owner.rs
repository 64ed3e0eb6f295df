//! The thread that owns the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crds::MeshConfigSpec;
use crds::fleet::ProblemReport;
use mesh::{Audience, Changed, Delta, Incremental, Kind, Mesh, Problem, Reason, Settings, What};
use parking_lot::RwLockWriteGuard;
use tokio::sync::{mpsc, oneshot, watch};

use super::waiting::Waiting;
use super::{Alter, Attach, Input, PodRef, Shared, StreamId};
use crate::certificates::endpoint::Policy;
use crate::metrics::Metrics;
use crate::xds::served::{Pool, Served};

mod streams;

/// Inputs handled as one batch; more only makes the batch longer, not cheaper.
const BATCH: usize = 1024;
/// Shortest life of a certificate: shorter ones would be renewed all the time.
const SHORTEST_TTL: Duration = Duration::from_secs(60);
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Audiences without a stream that are kept up to date for a while: a sidecar that comes back, or comes back again and
/// again, costs no computation from nothing.
const LINGERING: usize = 64;

struct Stream {
    pod: PodRef,
    audience: Audience,
    out: watch::Sender<Arc<Served>>,
}

struct Group {
    served: Arc<Served>,
    streams: BTreeSet<StreamId>,
    /// Its place among those without a stream.
    idle: Option<u64>,
}

/// What a batch touches.
#[derive(Default)]
struct Touched {
    what: BTreeSet<What>,
    problems: bool,
    synced: bool,
}

pub(super) struct Owner {
    shared: Arc<Shared>,
    inputs: mpsc::WeakSender<Input>,
    metrics: Metrics,
    alter: Option<Alter>,
    incremental: Incremental,
    pool: Pool,
    streams: BTreeMap<StreamId, Stream>,
    groups: BTreeMap<Audience, Group>,
    /// Audiences without a stream, the one that has been so for longest first.
    idle: BTreeMap<u64, (Instant, Audience)>,
    waiting: Waiting,
    /// Streams that came with this batch.
    arrived: Vec<Attach>,
    settings_problem: Option<ProblemReport>,
    standing: Option<ProblemReport>,
    flushes: Vec<oneshot::Sender<()>>,
    last_id: u64,
    /// Whether an audience came or went since that was last described.
    regrouped: bool,
}

/// Tells when the thread ends in a panic.
struct LastWords(Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.died.cancel();
        }
    }
}

impl Owner {
    pub(super) fn new(
        shared: Arc<Shared>,
        inputs: mpsc::WeakSender<Input>,
        metrics: Metrics,
        alter: Option<Alter>,
    ) -> Self {
        Self {
            shared,
            inputs,
            metrics,
            alter,
            incremental: Incremental::new(),
            pool: Pool::default(),
            streams: BTreeMap::new(),
            groups: BTreeMap::new(),
            idle: BTreeMap::new(),
            waiting: Waiting::default(),
            arrived: Vec::new(),
            settings_problem: None,
            standing: None,
            flushes: Vec::new(),
            last_id: 0,
            regrouped: false,
        }
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        let mut batch = Vec::with_capacity(BATCH);
        let _last_words = LastWords(self.shared.clone());
        while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            *self.shared.busy.lock() = Some(Instant::now());
            self.metrics.batches.inc();
            let touched = self.take(&mut batch);
            if self.shared.synced.load(Ordering::Acquire) {
                self.compute(&touched.what);
                self.admit(&touched);
            } else {
                for attach in self.arrived.drain(..) {
                    self.waiting.add(attach);
                }
            }
            if touched.problems {
                self.report_problems();
            }
            self.describe();
            *self.shared.busy.lock() = None;
            self.shared.ticks.send_modify(|tick| *tick += 1);
            for flushed in self.flushes.drain(..) {
                // Whoever has gone does not need to know.
                let _ = flushed.send(());
            }
        }
    }

    /// Applies a batch; readers are kept out only for this long.
    fn take(&mut self, batch: &mut Vec<Input>) -> Touched {
        let mut touched = Touched::default();
        let shared = self.shared.clone();
        let mut mesh = shared.mesh.write();
        for input in batch.drain(..) {
            touched.synced |= matches!(input, Input::Synced);
            if let Changed::Something(what) = self.input(&mut mesh, input, &mut touched.problems) {
                touched.problems |= what.iter().any(|what| !matches!(what, What::Endpoints { .. }));
                touched.what.extend(what);
            }
        }
        touched
    }

    fn input(&mut self, mesh: &mut RwLockWriteGuard<'_, Mesh>, input: Input, problems: &mut bool) -> Changed {
        match input {
            Input::Apply(object) => mesh.apply(*object),
            Input::Delete(reference) => mesh.delete(&reference),
            Input::Undecodable(problem) => mesh.refuse(problem),
            Input::Settings(spec) => {
                *problems = true;
                self.settings(mesh, &spec)
            }
            Input::SettingsProblem(problem) => {
                *problems = true;
                self.settings_problem = problem;
                Changed::Nothing
            }
            Input::Standing(problem) => {
                *problems = true;
                self.standing = problem;
                Changed::Nothing
            }
            Input::Flush(done) => {
                self.flushes.push(done);
                Changed::Nothing
            }
            Input::Synced => {
                *problems = true;
                self.shared.synced.store(true, Ordering::Release);
                mesh.synced()
            }
            Input::Attach(attach) => {
                self.arrived.push(attach);
                Changed::Nothing
            }
            Input::Expire(before) => {
                while self.idle.first_key_value().is_some_and(|(_, (since, _))| *since <= before) {
                    self.forget_oldest();
                }
                Changed::Nothing
            }
            Input::Detach(id) => {
                self.detach(id);
                Changed::Nothing
            }
        }
    }

    fn settings(&mut self, mesh: &mut Mesh, spec: &MeshConfigSpec) -> Changed {
        let name = mesh.settings().mesh.clone();
        let text = &spec.certificate_authority.workload_ttl;
        let (ttl, problem) = match crds::duration::parse(text) {
            Ok(ttl) => (ttl.max(SHORTEST_TTL), None),
            Err(error) => (DEFAULT_TTL, Some(error.to_string())),
        };
        self.settings_problem = problem.map(|message| ProblemReport {
            kind: "MeshConfig".to_owned(),
            namespace: String::new(),
            name: name.clone(),
            reason: "BadDuration".to_owned(),
            message: format!("spec.certificateAuthority.workloadTTL: {message}; 24h is used"),
        });
        let policy = Policy { trust_domain: spec.trust_domain.clone(), workload_ttl: ttl };
        self.shared.policy.store(Some(Arc::new(policy)));
        mesh.set_settings(Settings::new(&name, spec))
    }

    /// Publishes what is different for whom, then moves streams whose audience is another now.
    fn compute(&mut self, what: &BTreeSet<What>) {
        if what.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let mesh = shared.mesh.read();
        let mut deltas: BTreeMap<_, _> = self.incremental.update(&mesh, what).into_iter().collect();
        if let Some(alter) = &self.alter {
            for audience in self.groups.keys() {
                alter(audience, deltas.entry(audience.clone()).or_default());
            }
        }
        for (audience, delta) in deltas {
            self.publish(&audience, delta);
        }
        for (id, audience) in self.moved(&mesh, what) {
            self.place(&mesh, id, audience);
        }
        self.count_work();
    }

    fn publish(&mut self, audience: &Audience, delta: Delta) {
        let Some(group) = self.groups.get_mut(audience) else { return };
        let Some(next) = group.served.next(delta, &mut self.pool) else { return };
        self.metrics.published.inc();
        group.served = Arc::new(next);
        if let Some(shown) = self.shared.groups.write().get_mut(audience) {
            *shown = group.served.clone();
        }
        for stream in group.streams.iter().filter_map(|id| self.streams.get(id)) {
            stream.out.send_replace(group.served.clone());
        }
    }

    fn count_work(&self) {
        let work = self.incremental.work();
        let Metrics { computed, encoded, visited, .. } = &self.metrics;
        for (counter, now) in [(computed, work.computed), (encoded, work.encoded), (visited, work.visited)] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }

    fn report_problems(&self) {
        let problems = self.shared.mesh.read().problems();
        let waiting = problems.iter().filter(|one| {
            one.object.kind == Kind::PolicySource
                && matches!(one.reason, Reason::SealBlocked | Reason::SealIncomplete)
        });
        self.metrics.sources_waiting.set(i64::try_from(waiting.count()).unwrap_or(i64::MAX));
        let mut reports: Vec<_> = problems.iter().map(report).collect();
        reports.extend(self.settings_problem.clone().into_iter().chain(self.standing.clone()));
        reports.sort();
        reports.dedup();
        self.metrics.problems.set(i64::try_from(reports.len()).unwrap_or(i64::MAX));
        *self.shared.problems.write() = Arc::new(reports);
    }

    /// Counts what is served now, and forgets the bytes that nobody is served any more.
    fn describe(&mut self) {
        self.pool.sweep(std::mem::take(&mut self.regrouped));
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.audiences.set(count(self.groups.len().saturating_sub(self.idle.len())));
        self.metrics.resources.set(count(self.pool.len()));
    }
}

fn report(problem: &Problem) -> ProblemReport {
    let message = if problem.field.is_empty() {
        problem.message.clone()
    } else {
        format!("{}: {}", problem.field, problem.message)
    };
    ProblemReport {
        kind: problem.object.kind.as_str().to_owned(),
        namespace: problem.object.namespace.clone(),
        name: problem.object.name.clone(),
        reason: problem.reason.as_str().to_owned(),
        message,
    }
}
