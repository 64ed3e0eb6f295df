//! One thread owns the mesh: it takes what changed, computes each audience that has a stream, and publishes what
//! differs.
//!
//! ```text
//!  watch ──Input──▶ queue ──▶ owner thread: apply all that is queued ─▶ mesh::Incremental ─▶ what differs for whom
//!  xds ───attach──▶                                                                                   │
//!                     every stream of that audience ◀── watch channel (newest state only) ◀───────────┘
//! ```
//! There is no debounce: what arrives while a batch is computed is the next batch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use crds::MeshConfigSpec;
use crds::fleet::ProblemReport;
use futures::future::BoxFuture;
use mesh::ingest::ServiceAccount;
use mesh::{Audience, Delta, Mesh, NotOurs, Object, ObjectRef, PodFacts, Problem, ResourceType, Settings};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::certificates::endpoint::Policy;
use crate::metrics::Metrics;
use crate::xds::served::Served;
use owner::Owner;

mod owner;
mod pods;
mod waiting;

/// Changes that may be queued before the watches are held back.
const QUEUE: usize = 4096;

/// A change, or a stream that comes or goes.
pub enum Input {
    /// A new or changed object.
    Apply(Box<Object>),
    /// An object that is gone.
    Delete(ObjectRef),
    /// An object that cannot be decoded; its last good version stays.
    Undecodable(Problem),
    /// The MeshConfig.
    Settings(Box<MeshConfigSpec>),
    /// Something wrong with the MeshConfig; the last good one stays. `None`: all is well again.
    SettingsProblem(Option<ProblemReport>),
    /// How this replica stands; `None`: well.
    Standing(Option<ProblemReport>),
    /// Everything that existed at the start has been applied.
    Synced,
    /// To be answered when all that came before is computed and published.
    Flush(oneshot::Sender<()>),
    /// A stream of a sidecar.
    Attach(Attach),
    /// The end of one.
    Detach(StreamId),
    /// Forget what has been computed for nobody since then or longer.
    Expire(Instant),
}

/// A stream, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(pub u64);

/// Changes what an audience is about to be served; tests make it something that Envoy refuses.
pub type Alter = Box<dyn Fn(&Audience, &mut Delta) + Send>;

/// What a stream says that it holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Nothing: its Envoy has just begun.
    Nothing,
    /// Something, of another replica or another time; it goes on with that until it is served.
    Something,
}

/// What a look at the API server found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This replica has everything.
    Current,
    /// It has not, with what is missing.
    Behind(String),
    /// The API server could not be asked.
    Unknown(String),
}

/// Says whether this replica is as new as the API server.
pub trait Gate: Send + Sync + 'static {
    /// Looks, or waits for a look that began after this call.
    fn check(&self) -> BoxFuture<'_, Found>;
}

/// Whom a stream is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A stream that wants to be fed. It is answered when the mesh is synced and the pod is known and ours.
pub struct Attach {
    pod: PodRef,
    reply: oneshot::Sender<Feed>,
}

/// What a stream is fed with. Dropping it ends the feeding.
#[derive(Debug)]
pub struct Feed {
    /// What is known of the pod.
    pub facts: PodFacts,
    /// The newest state.
    pub served: watch::Receiver<Arc<Served>>,
    id: StreamId,
    inputs: mpsc::Sender<Input>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Let go of the state first: the owner forgets bytes when it hears of the end.
        self.served = watch::channel(Arc::default()).1;
        let (inputs, id) = (self.inputs.clone(), self.id);
        // The queue may be full just now; the stream's end must not be lost.
        if let Err(mpsc::error::TrySendError::Full(input)) = inputs.try_send(Input::Detach(id))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { inputs.send(input).await.is_ok() });
        }
    }
}

/// What other tasks may read.
struct Shared {
    mesh: RwLock<Mesh>,
    synced: AtomicBool,
    /// Since when the owner has been at the batch that it works on.
    busy: Mutex<Option<Instant>>,
    /// Cancelled when the owner's thread has panicked.
    died: CancellationToken,
    gate: OnceLock<Arc<dyn Gate>>,
    /// Moves with every batch.
    ticks: watch::Sender<u64>,
    policy: Arc<ArcSwapOption<Policy>>,
    problems: RwLock<Arc<Vec<ProblemReport>>>,
    groups: RwLock<BTreeMap<Audience, Arc<Served>>>,
}

/// The handle: cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    inputs: mpsc::Sender<Input>,
    shared: Arc<Shared>,
}

impl Snapshots {
    /// Starts the owner of the mesh called `mesh`, empty and denying everything. Its thread ends when every handle
    /// is gone.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mesh: Mesh, metrics: Metrics) -> std::io::Result<Self> {
        Self::start_with(mesh, metrics, None)
    }

    /// As [`Snapshots::start`]; `alter` is asked about every audience in every batch.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_with(mesh: Mesh, metrics: Metrics, alter: Option<Alter>) -> std::io::Result<Self> {
        let (inputs, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            mesh: RwLock::new(mesh),
            synced: AtomicBool::new(false),
            busy: Mutex::default(),
            died: CancellationToken::new(),
            gate: OnceLock::new(),
            ticks: watch::Sender::new(0),
            policy: Arc::default(),
            problems: RwLock::default(),
            groups: RwLock::default(),
        });
        let owner = Owner::new(shared.clone(), inputs.downgrade(), metrics, alter);
        std::thread::Builder::new().name("mesh".to_owned()).spawn(move || owner.run(queue))?;
        Ok(Self { inputs, shared })
    }

    /// Hands over a change, waiting while the queue is full.
    pub async fn send(&self, input: Input) {
        // The owner only ends when every handle is gone, and this is one.
        let _ = self.inputs.send(input).await;
    }

    /// Feeds a stream. Waits until the pod is known and ours: the caller sets the limit by dropping the future.
    pub async fn attach(&self, pod: PodRef) -> Option<Feed> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Attach(Attach { pod, reply })).await;
        answer.await.ok()
    }

    /// From now on streams are served only when `gate` says so; the first one counts.
    pub fn guard(&self, gate: Arc<dyn Gate>) {
        if self.shared.gate.set(gate).is_err() {
            tracing::error!("the mesh is guarded twice");
        }
    }

    /// Waits until this replica is as new as the API server was at the time of the call. A sidecar that holds nothing
    /// is better served with the last good than with nothing while nobody can be asked; one that holds something keeps
    /// that, and asks another replica.
    ///
    /// # Errors
    /// Why it must not be served here, for a person.
    pub async fn current(&self, holds: Holds) -> Result<(), String> {
        let Some(gate) = self.shared.gate.get() else { return Ok(()) };
        match (gate.check().await, holds) {
            (Found::Current, _) | (Found::Unknown(_), Holds::Nothing) => Ok(()),
            (Found::Behind(what), _) => Err(format!("this replica is behind: {what}; ask another one")),
            (Found::Unknown(why), Holds::Something) => {
                Err(format!("this replica cannot know whether it is behind ({why}); ask another one"))
            }
        }
    }

    /// Waits until all that was sent before is computed and published.
    pub async fn flushed(&self) {
        let (done, flushed) = oneshot::channel();
        self.send(Input::Flush(done)).await;
        // No answer: the owner has died, and so will this process.
        let _ = flushed.await;
    }

    /// Waits until everything that existed at the start has been taken in.
    pub async fn taken_in(&self) {
        let mut ticks = self.ticks();
        while !self.synced() && ticks.changed().await.is_ok() {}
    }

    /// How long the owner has been at the batch that it works on.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        self.shared.busy.lock().map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Cancelled when the owner's thread has panicked: nothing is computed any more, and what readers see may be half of
    /// a change. The process must end.
    #[must_use]
    pub fn died(&self) -> CancellationToken {
        self.shared.died.clone()
    }

    /// Git sources of whose sealed commit not everything has been seen since the start.
    #[must_use]
    pub fn unsealed(&self) -> Vec<ObjectRef> {
        self.shared.mesh.read().unsealed()
    }

    /// The pods behind a service of the control plane, and whether its slices say that they are ready.
    #[must_use]
    pub fn replicas(&self, namespace: &str, service: &str) -> BTreeMap<String, bool> {
        self.shared.mesh.read().replicas(namespace, service)
    }

    /// How many pods are of the mesh.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.shared.mesh.read().pods().count()
    }

    /// Whether everything that existed at the start has been applied.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.shared.synced.load(Ordering::Acquire)
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.shared.mesh.read().settings().clone()
    }

    /// What is known of a pod.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        self.shared.mesh.read().pod(namespace, name)
    }

    /// Which objects shaped a resource of a pod's sidecar; the MeshConfig if none did.
    #[must_use]
    pub fn authors(&self, pod: &PodRef, kind: ResourceType, resource: &str) -> Vec<(String, String, String)> {
        let mesh = self.shared.mesh.read();
        let account = mesh.pod(&pod.namespace, &pod.name).map(|facts| facts.service_account);
        let owner = ServiceAccount::new(&pod.namespace, &account.unwrap_or_default());
        let found: Vec<_> = mesh::authors(&mesh, kind, resource, &owner)
            .into_iter()
            .map(|object| (object.kind.as_str().to_owned(), object.namespace, object.name))
            .collect();
        if found.is_empty() {
            return vec![("MeshConfig".to_owned(), String::new(), mesh.settings().mesh.clone())];
        }
        found
    }

    /// Why a pod gets no configuration, for messages.
    #[must_use]
    pub fn why_not(&self, pod: &PodRef) -> Option<NotOurs> {
        self.shared.mesh.read().audience(&pod.namespace, &pod.name).err()
    }

    /// What the MeshConfig says of certificates, once it has been seen.
    #[must_use]
    pub fn policy(&self) -> Arc<ArcSwapOption<Policy>> {
        self.shared.policy.clone()
    }

    /// Everything wrong with objects that people wrote, sorted.
    #[must_use]
    pub fn problems(&self) -> Arc<Vec<ProblemReport>> {
        self.shared.problems.read().clone()
    }

    /// Moves with every batch of changes.
    #[must_use]
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.shared.ticks.subscribe()
    }

    /// Every audience with a stream and what it is served, sorted.
    #[must_use]
    pub fn audiences(&self) -> Vec<(Audience, Arc<Served>)> {
        let groups = self.shared.groups.read();
        groups.iter().map(|(audience, served)| (audience.clone(), served.clone())).collect()
    }
}
