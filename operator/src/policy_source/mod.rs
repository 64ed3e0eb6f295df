//! Git → policies in the cluster, and the seal over them.
//!
//! ```text
//!  PolicySource ─▶ settings ─▶ fetch ─▶ parse ─▶ look at the cluster ─▶ try (dry run) ─▶ apply ─▶ SEAL ─▶ prune
//!                     │          │        │              │                  │                │
//!                     └──────────┴────────┴── any problem: nothing changes ─┘                └ status.applied, inventory
//!                                             and what is sealed is put back where it differs
//! ```
//!
//! **The order matters.** Controllers count only objects whose content hash the seal lists (DESIGN, rule 3). Before
//! the seal they enforce the old set, whatever of the new one is already there; after it they have everything
//! that it lists, so old and new are swapped at once. Pruning first would close paths that the old commit opens and
//! nothing replaces yet; sealing first would list objects that nobody can see. Killed at any line, the next pass
//! sees the same repository and the same cluster and does what is left.
//!
//! **`prune: false`** leaves objects that vanished from Git in the cluster. The seal does not list them, so they no
//! longer count. The same goes for the objects of a deleted source with `prune: false`.
//!
//! **Whose is it?** An object that was made by hand is taken over only if its spec is what Git says; one of another
//! source never, unless that source is gone. A hand edit of a sealed object is put back, at once by a watch.

mod cluster;
mod conflicts;
mod execute;
mod finalize;
mod report;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crds::PolicySource;
use futures::StreamExt;
use gitops::git::{FetchError, Fetched, Limits, Outcome, Source};
use gitops::{Bundle, Policy, Problem};
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;

use crate::apply;
use crate::context::Context;
use cluster::{Cluster, ClusterError};
use report::Verdict;
use settings::Settings;

/// Tried again after a failure of the API server.
const RETRY: Duration = Duration::from_secs(3);
/// Changes within this time are looked at together.
const BURST: Duration = Duration::from_millis(200);
/// Longest time for one fetch.
const FETCH: Duration = Duration::from_secs(60);
/// A server that fails is asked less and less often, at least this often.
const SLOWEST: Duration = Duration::from_secs(300);

/// The reconciler's own state: nothing that a crash could lose.
struct Reconciler {
    ctx: Arc<Context>,
    /// Temporary files of fetches.
    folder: PathBuf,
    memory: Mutex<HashMap<(String, String), Memory>>,
}

/// What saves requests: the last fetch of a source, and the policies that are sealed.
#[derive(Clone, Default)]
struct Memory {
    fetched: Option<(Source, Arc<Fetched>)>,
    sealed: Option<Arc<Bundle>>,
    failures: u32,
}

/// Runs until the context's shutdown begins.
///
/// # Errors
/// None: what fails is tried again and shown in the sources' status.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    // In a container the process id is the same after each restart, so leftovers are found.
    let folder = std::env::temp_dir().join(format!("meshwright-operator-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    gitops::git::sweep(&folder);
    let stop = ctx.shutdown.stopping.clone();
    let reconciler = Arc::new(Reconciler { ctx: ctx.clone(), folder, memory: Mutex::default() });
    let sources: Api<PolicySource> = Api::all(ctx.client.clone());
    // Our own writes wake us too; they come in bursts, and a pass over what is as it should be writes nothing.
    let settings = kube::runtime::controller::Config::default().debounce(BURST);
    let mut controller = Controller::new(sources, watcher::Config::default()).with_config(settings);
    let ours = watcher::Config::default().labels(crds::labels::SOURCE);
    for resource in cluster::resources() {
        let api: Api<DynamicObject> = Api::all_with(ctx.client.clone(), &resource);
        controller = controller.watches_with(api, resource, ours.clone(), |object| source_of(&object));
    }
    controller
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, |_, error, _| retry(error), reconciler)
        .for_each(|_| futures::future::ready(()))
        .await;
    Ok(())
}

/// The source that an object says it is from.
fn source_of(object: &DynamicObject) -> Option<ObjectRef<PolicySource>> {
    let (namespace, name) = object.labels().get(crds::labels::SOURCE)?.split_once('.')?;
    Some(ObjectRef::new(name).within(namespace))
}

fn retry(error: &ClusterError) -> Action {
    tracing::warn!(error = runtime::logging::chain(error), "policy source: tried again");
    Action::requeue(RETRY)
}

async fn reconcile(source: Arc<PolicySource>, reconciler: Arc<Reconciler>) -> Result<Action, ClusterError> {
    let result = reconciler.reconcile(&source).await;
    reconciler.ctx.metrics.reconciled("policy_source", result.is_ok());
    result
}

impl Reconciler {
    async fn reconcile(&self, cached: &PolicySource) -> Result<Action, ClusterError> {
        let cluster = Cluster::new(&self.ctx, cached);
        // The cache may not have our last seal yet, and an old seal would be put back.
        let Some(source) = cluster.read_source().await? else {
            self.memory.lock().remove(&cluster.id);
            return Ok(Action::await_change());
        };
        if source.metadata.deletion_timestamp.is_some() {
            return finalize::finalize(&self.ctx, &cluster, &source).await;
        }
        if source.spec.suspend {
            self.report(&source, &Verdict::Suspended).await?;
            return Ok(Action::await_change());
        }
        finalize::guard(&cluster, &source).await?;
        let result = self.pass(&cluster, &source).await;
        if let Err(error) = &result {
            let message = runtime::logging::chain(error);
            self.report(&source, &Verdict::Failed { message }).await?;
        }
        result.map(Action::requeue)
    }

    /// One attempt at the newest commit; when nothing comes of it, at what is sealed. Returns when to look again.
    async fn pass(&self, cluster: &Cluster, source: &PolicySource) -> Result<Duration, ClusterError> {
        let settings = match settings::gather(&self.ctx.client, source).await? {
            Ok(settings) => settings,
            Err(invalid) => {
                self.keep(cluster, source, None, Verdict::Invalid(invalid)).await?;
                return Ok(SLOWEST);
            }
        };
        let fetched = match self.fetch(cluster, &settings).await {
            Ok(fetched) => fetched,
            Err(error) => {
                let after = self.back_off(cluster, &settings, &error);
                self.keep(cluster, source, Some(&settings), Verdict::FetchFailed(error)).await?;
                return Ok(after);
            }
        };
        self.attempted(source, &fetched).await?;
        match self.bring(cluster, source, &settings, &fetched).await? {
            Ok(bundle) => self.memory.lock().entry(cluster.id.clone()).or_default().sealed = Some(bundle),
            Err(problems) => {
                let commit = fetched.commit.clone();
                let verdict = Verdict::InvalidCommit { commit, problems };
                self.keep(cluster, source, Some(&settings), verdict).await?;
            }
        }
        Ok(settings.interval)
    }

    /// Brings a commit into force, or says why not and changes nothing.
    async fn bring(
        &self,
        cluster: &Cluster,
        source: &PolicySource,
        settings: &Settings,
        fetched: &Arc<Fetched>,
    ) -> Result<Result<Arc<Bundle>, Vec<Problem>>, ClusterError> {
        let (bundle, mut problems) = parse(fetched, settings).await;
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        let live = cluster.look(&settings.scope, bundle.policies.iter().map(|policy| &policy.key)).await?;
        let sealed = report::inventory(source);
        problems = conflicts::find(cluster, &bundle, &live, &sealed).await?;
        let changes: Vec<&Policy> =
            bundle.policies.iter().filter(|policy| cluster.differs(policy, &live)).collect();
        if problems.is_empty() && bundle.inventory() != sealed {
            problems = execute::try_out(cluster, &bundle, &changes).await?;
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        execute::apply(&self.ctx, cluster, &bundle, &changes).await?;
        self.report(source, &Verdict::InForce { bundle: &bundle }).await?;
        execute::tell_put_back(&self.ctx, source, &changes, &sealed).await;
        execute::prune(&self.ctx, cluster, source, &live, &bundle.inventory()).await?;
        Ok(Ok(Arc::new(bundle)))
    }

    /// Nothing new comes into force; what is sealed is put back where it differs.
    async fn keep(
        &self,
        cluster: &Cluster,
        source: &PolicySource,
        settings: Option<&Settings>,
        verdict: Verdict<'_>,
    ) -> Result<(), ClusterError> {
        self.report(source, &verdict).await?;
        let (sealed, Some(settings)) = (report::inventory(source), settings) else { return Ok(()) };
        let keys = cluster::keys(&sealed);
        let live = cluster.look(&settings.scope, keys.iter().map(|(key, _)| key)).await?;
        let differing: Vec<_> = keys.iter().filter(|(key, hash)| !cluster.holds(key, hash, &live)).collect();
        if !differing.is_empty() {
            let Some(bundle) = self.sealed(cluster, source, settings).await else { return Ok(()) };
            let changes: Vec<&Policy> = bundle
                .policies
                .iter()
                .filter(|policy| differing.iter().any(|(key, _)| *key == policy.key))
                .collect();
            execute::apply(&self.ctx, cluster, &bundle, &changes).await?;
            execute::tell_put_back(&self.ctx, source, &changes, &sealed).await;
        }
        execute::prune(&self.ctx, cluster, source, &live, &sealed).await
    }

    /// The policies that are sealed: from memory, else from Git by the commit's id.
    async fn sealed(
        &self,
        cluster: &Cluster,
        source: &PolicySource,
        settings: &Settings,
    ) -> Option<Arc<Bundle>> {
        let inventory = report::inventory(source);
        let known = self.memory.lock().get(&cluster.id).and_then(|memory| memory.sealed.clone());
        if let Some(bundle) = known.filter(|bundle| bundle.inventory() == inventory) {
            return Some(bundle);
        }
        let commit = source.status.as_ref()?.applied.as_ref()?.commit.clone();
        let reference = gitops::git::Reference::Commit(commit.clone());
        let wanted = Source { reference, ..settings.source.clone() };
        let found = match self.ask(wanted, None).await {
            Ok(Outcome::Fetched(fetched)) => parse(&Arc::new(*fetched), settings).await.0,
            Ok(Outcome::Unchanged) => return None,
            Err(error) => {
                tracing::warn!(source = cluster.label, commit, %error, "the sealed commit cannot be put back");
                return None;
            }
        };
        // Anything else (a new limit, another path) would not be what is sealed.
        (found.inventory() == inventory).then(|| Arc::new(found))
    }

    /// The files of the newest commit; an unchanged head costs one request and no memory.
    async fn fetch(&self, cluster: &Cluster, settings: &Settings) -> Result<Arc<Fetched>, FetchError> {
        let remembered = self.memory.lock().get(&cluster.id).and_then(|memory| memory.fetched.clone());
        let remembered =
            remembered.filter(|(source, _)| *source == settings.source).map(|(_, fetched)| fetched);
        let known = remembered.as_ref().map(|fetched| fetched.commit.id.clone());
        let fetched = match (self.ask(settings.source.clone(), known).await?, remembered) {
            (Outcome::Unchanged, Some(fetched)) => fetched,
            (Outcome::Unchanged, None) => return Err(FetchError::Broken),
            (Outcome::Fetched(fetched), _) => Arc::new(*fetched),
        };
        let mut memory = self.memory.lock();
        let memory = memory.entry(cluster.id.clone()).or_default();
        memory.failures = 0;
        memory.fetched = Some((settings.source.clone(), fetched.clone()));
        Ok(fetched)
    }

    /// Fetches on a thread that may block; ends early when the operator must stop.
    async fn ask(&self, source: Source, known: Option<String>) -> Result<Outcome, FetchError> {
        let limits = Limits::within(FETCH);
        let (cancel, folder) = (limits.cancel.clone(), self.folder.clone());
        let mut task = tokio::task::spawn_blocking(move || {
            gitops::git::fetch(&source, known.as_deref(), &folder, &limits)
        });
        let joined = tokio::select! {
            joined = &mut task => joined,
            () = self.ctx.shutdown.stopping.cancelled() => {
                cancel.store(true, std::sync::atomic::Ordering::Relaxed);
                task.await
            }
        };
        joined.unwrap_or(Err(FetchError::Broken))
    }

    /// When to ask again after a failure: later each time, if nobody has to do anything about it.
    fn back_off(&self, cluster: &Cluster, settings: &Settings, error: &FetchError) -> Duration {
        if !error.is_passing() {
            return settings.interval;
        }
        let mut memory = self.memory.lock();
        let memory = memory.entry(cluster.id.clone()).or_default();
        memory.failures = memory.failures.saturating_add(1);
        let factor = 1 << memory.failures.saturating_sub(1).min(8);
        settings.interval.saturating_mul(factor).min(SLOWEST.max(settings.interval))
    }

    /// Says at once which commit is being looked at.
    async fn attempted(&self, source: &PolicySource, fetched: &Fetched) -> Result<(), ClusterError> {
        let shown = source.status.as_ref().and_then(|status| status.attempted.as_ref());
        if shown.is_some_and(|shown| shown.commit == fetched.commit.id) {
            return Ok(());
        }
        self.report(source, &Verdict::Attempting { commit: &fetched.commit }).await
    }

    async fn report(&self, source: &PolicySource, verdict: &Verdict<'_>) -> Result<(), ClusterError> {
        let status = report::status(source, verdict, Timestamp::now());
        let namespace = source.namespace().unwrap_or_default();
        let api: Api<PolicySource> = Api::namespaced(self.ctx.client.clone(), &namespace);
        apply::status(&api, source, source.status.as_ref(), &status).await.map_err(ClusterError::Report)?;
        if let Some((weight, reason, note)) = report::event(source, verdict) {
            self.ctx.events.tell(source, weight, reason, "Reconcile", &note).await;
        }
        Ok(())
    }
}

/// Parses off the async threads: a large commit takes a while.
async fn parse(fetched: &Arc<Fetched>, settings: &Settings) -> (Bundle, Vec<Problem>) {
    let (fetched, scope) = (fetched.clone(), settings.scope.clone());
    let commit = fetched.commit.clone();
    let parsed = tokio::task::spawn_blocking(move || {
        let (bundle, mut problems) = gitops::parse(fetched.commit.clone(), &fetched.files, &scope);
        problems.extend(fetched.problems.iter().cloned());
        problems.sort();
        (bundle, problems)
    });
    parsed.await.unwrap_or_else(|_| {
        let what =
            gitops::What::Syntax("the parser failed; this is a mistake of ours, please report it".to_owned());
        (Bundle { commit, policies: Vec::new() }, vec![Problem::of_commit(what)])
    })
}

/// Labels and annotations that tie an object to its source.
fn marks(
    cluster: &Cluster,
    bundle: &Bundle,
    policy: &Policy,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let labels = BTreeMap::from([pair(crds::labels::SOURCE, cluster.label.clone())]);
    let annotations = BTreeMap::from([
        pair(crds::labels::COMMIT, bundle.commit.id.clone()),
        pair(crds::labels::FILE, policy.place()),
    ]);
    (labels, annotations)
}
