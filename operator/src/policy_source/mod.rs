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
//! longer count. What the seal of a deleted source lists becomes its author's (`finalize`).
//!
//! **Nobody else's word counts.** Each write carries what was read: an object that somebody wrote meanwhile is looked at
//! again, not overwritten, so two sources cannot both take one; and what the API server stored is compared with what
//! was meant (`ContentChanged`).
//!
//! **Whose is it?** An object that was made by hand is taken over only if its spec is what Git says; one of another
//! source never, unless that source is gone. A hand edit of a sealed object is put back, at once by a watch.

mod cluster;
mod conflicts;
mod execute;
mod fetching;
mod finalize;
mod intake;
mod queue;
mod report;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::PolicySource;
use futures::StreamExt;
use gitops::git::{Fetched, Outcome, Source};
use gitops::{Bundle, Policy, Problem};
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, watcher};
use kube::{Api, ResourceExt};

use crate::apply::Reported;
use crate::context::Context;
use cluster::{Cluster, ClusterError};
use fetching::{Fetching, Id, Memories, SLOWEST, back_off, jitter};
use intake::parse;
use report::Verdict;
use settings::Settings;

/// Tried again after a failure of the API server.
const RETRY: Duration = Duration::from_secs(3);
/// Looked at again when somebody wrote meanwhile.
const SOON: Duration = Duration::from_millis(300);

/// The reconciler's own state: nothing that a crash could lose.
struct Reconciler {
    ctx: Arc<Context>,
    fetching: Fetching,
    memories: Memories,
    sources: Store<PolicySource>,
}

/// Runs until the context's shutdown begins.
///
/// # Errors
/// None: what fails is tried again and shown in the sources' status.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    // In a container the process id is the same after each restart, so leftovers are found.
    let folder = std::env::temp_dir().join(format!("meshwright-operator-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    gitops::worker::sweep(&folder);
    let stop = ctx.shutdown.stopping.clone();
    let sources: Api<PolicySource> = Api::all(ctx.client.clone());
    let mut controller = Controller::new(sources, watcher::Config::default());
    let ours = watcher::Config::default().labels(crds::labels::SOURCE);
    for resource in cluster::resources() {
        let api: Api<DynamicObject> = Api::all_with(ctx.client.clone(), &resource);
        controller = controller.watches_with(api, resource, ours.clone(), |object| source_of(&object));
    }
    let reconciler = Arc::new(Reconciler {
        fetching: Fetching::new(&ctx, folder),
        memories: Memories::default(),
        sources: controller.store(),
        ctx,
    });
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
    if let ClusterError::Raced(what) = error {
        tracing::info!(what, "policy source: somebody wrote meanwhile; looked at again");
        return Action::requeue(SOON);
    }
    tracing::warn!(error = runtime::logging::chain(error), "policy source: tried again");
    Action::requeue(RETRY)
}

async fn reconcile(source: Arc<PolicySource>, reconciler: Arc<Reconciler>) -> Result<Action, ClusterError> {
    let id = (source.namespace().unwrap_or_default(), source.name_any());
    // Our own writes wake us too; they come in bursts, and a pass over what is as it should be writes nothing.
    if let Err(wait) = reconciler.memories.begin(&id, Instant::now()) {
        return Ok(Action::requeue(wait));
    }
    let result = reconciler.reconcile(&source, &id).await;
    let exists = |id: &Id| reconciler.sources.get(&ObjectRef::new(&id.1).within(&id.0)).is_some();
    reconciler.memories.keep(reconciler.sources.len(), exists);
    reconciler.ctx.metrics.reconciled("policy_source", result.is_ok());
    result
}

impl Reconciler {
    async fn reconcile(&self, cached: &PolicySource, id: &Id) -> Result<Action, ClusterError> {
        let cluster = Cluster::new(&self.ctx, cached);
        // The cache may not have our last seal yet, and an old seal would be put back.
        let Some(source) = cluster.read_source().await? else {
            self.memories.forget(id);
            return Ok(Action::await_change());
        };
        if source.metadata.deletion_timestamp.is_some() {
            self.memories.forget(id);
            return finalize::finalize(&self.ctx, &cluster, &source).await;
        }
        let source = finalize::guard(&cluster, source).await?;
        if source.spec.suspend {
            self.report(&source, &Verdict::Suspended).await?;
            return Ok(Action::await_change());
        }
        let result = self.pass(&cluster, &source).await;
        if let Err(error) = &result {
            self.failed(&cluster, error).await?;
        }
        result.map(Action::requeue)
    }

    /// Says what failed, over what the source says by now: a seal that was written in this pass stays.
    async fn failed(&self, cluster: &Cluster, error: &ClusterError) -> Result<(), ClusterError> {
        if matches!(error, ClusterError::Raced(_)) {
            return Ok(());
        }
        let Some(source) = cluster.read_source().await? else { return Ok(()) };
        let message = runtime::logging::chain(error);
        self.report(&source, &Verdict::Failed { message }).await.map(|_| ())
    }

    /// One attempt at the newest commit; when nothing comes of it, at what is sealed. Returns when to look again.
    async fn pass(&self, cluster: &Cluster, source: &PolicySource) -> Result<Duration, ClusterError> {
        let claimed = self.claim(source).await?;
        let source = claimed.as_ref().unwrap_or(source);
        let settings = match settings::gather(&self.ctx.client, source).await? {
            Ok(settings) => settings,
            Err(invalid) => {
                self.keep(cluster, source, None, Verdict::Invalid(invalid)).await?;
                return Ok(SLOWEST);
            }
        };
        let fetched = match self.fetching.fetch(&self.ctx, &self.memories, &cluster.id, &settings).await {
            Ok(fetched) => fetched,
            Err(error) => {
                let after = back_off(&self.memories, &cluster.id, &settings, &error);
                self.keep(cluster, source, Some(&settings), Verdict::FetchFailed(error)).await?;
                return Ok(self.jittered(cluster, after));
            }
        };
        let attempted = self.attempted(source, &fetched).await?;
        let source = attempted.as_ref().unwrap_or(source);
        match self.bring(cluster, source, &settings, &fetched).await? {
            Ok(bundle) => self.memories.change(&cluster.id, |memory| memory.sealed = Some(bundle)),
            Err(problems) => {
                let commit = fetched.commit.clone();
                let verdict = Verdict::InvalidCommit { commit, problems };
                self.keep(cluster, source, Some(&settings), verdict).await?;
            }
        }
        Ok(self.jittered(cluster, settings.interval))
    }

    fn jittered(&self, cluster: &Cluster, time: Duration) -> Duration {
        jitter(time, &cluster.id, Timestamp::now().as_second().unsigned_abs())
    }

    /// Writes our term into a source that an earlier leader wrote last, before anything else: whatever that one still
    /// has on its way to the source is refused from now on.
    async fn claim(&self, source: &PolicySource) -> Result<Option<PolicySource>, ClusterError> {
        let Some(status) = &source.status else { return Ok(None) };
        let mine = self.ctx.writer.yield_to(&source.name_any(), status.leader_term)?;
        if status.leader_term == Some(mine) {
            return Ok(None);
        }
        self.write(source, status).await
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
        problems.extend(self.altered(cluster, &bundle, &live));
        let changes: Vec<&Policy> =
            bundle.policies.iter().filter(|policy| cluster.differs(policy, &live)).collect();
        if problems.is_empty() && bundle.inventory() != sealed {
            problems = execute::try_out(cluster, &bundle, &changes, &live).await?;
        }
        if problems.is_empty() {
            let altered = execute::apply(&self.ctx, cluster, &bundle, &changes, &live).await?;
            problems = self.remember(cluster, &altered);
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        let told = self.report(source, &Verdict::InForce { bundle: &bundle }).await?;
        let source = told.as_ref().unwrap_or(source);
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
        let told = self.report(source, &verdict).await?;
        let source = told.as_ref().unwrap_or(source);
        let (sealed, Some(settings)) = (report::inventory(source), settings) else { return Ok(()) };
        let keys = cluster::keys(&sealed);
        let live = cluster.look(&settings.scope, keys.iter().map(|(key, _)| key)).await?;
        let differing: Vec<_> = keys.iter().filter(|(key, hash)| !cluster.holds(key, hash, &live)).collect();
        if !differing.is_empty() {
            let Some(bundle) = self.sealed(cluster, source, settings).await else { return Ok(()) };
            let altered = self.altered(cluster, &bundle, &live);
            let changes: Vec<&Policy> = bundle
                .policies
                .iter()
                .filter(|policy| differing.iter().any(|(key, _)| *key == policy.key))
                .filter(|policy| !altered.iter().any(|problem| problem.is_about(&policy.key)))
                .collect();
            let altered = execute::apply(&self.ctx, cluster, &bundle, &changes, &live).await?;
            self.remember(cluster, &altered);
            execute::tell_put_back(&self.ctx, source, &changes, &sealed).await;
        }
        execute::prune(&self.ctx, cluster, source, &live, &sealed).await
    }

    /// Objects that are known to be stored in another way than they are meant: they are not written again and again.
    fn altered(&self, cluster: &Cluster, bundle: &Bundle, live: &cluster::Live) -> Vec<Problem> {
        let known = self.memories.of(&cluster.id).altered;
        let still = |policy: &&Policy| {
            known.get(&policy.key).filter(|altered| {
                altered.meant == policy.hash
                    && altered.since.elapsed() < SLOWEST
                    && live.get(&policy.key).is_none_or(|found| found.hash == altered.stored)
            })
        };
        let problem =
            |policy: &Policy| still(&policy).map(|altered| execute::changed(policy, &altered.field));
        bundle.policies.iter().filter_map(problem).collect()
    }

    fn remember(&self, cluster: &Cluster, altered: &[execute::Changed<'_>]) -> Vec<Problem> {
        self.memories.change(&cluster.id, |memory| {
            memory.altered.retain(|_, altered| altered.since.elapsed() < SLOWEST);
            let known = |(policy, altered): &execute::Changed<'_>| (policy.key.clone(), altered.clone());
            memory.altered.extend(altered.iter().map(known));
        });
        altered.iter().map(|(policy, altered)| execute::changed(policy, &altered.field)).collect()
    }

    /// The policies that are sealed: from memory, else from Git by the commit's id.
    async fn sealed(
        &self,
        cluster: &Cluster,
        source: &PolicySource,
        settings: &Settings,
    ) -> Option<Arc<Bundle>> {
        let inventory = report::inventory(source);
        let memory = self.memories.of(&cluster.id);
        if let Some(bundle) = memory.sealed.filter(|bundle| report::is_of(bundle, &inventory)) {
            return Some(bundle);
        }
        let commit = source.status.as_ref()?.applied.as_ref()?.commit.clone();
        // The whole history was asked for and it was not there: not again at each interval.
        if memory.lost.is_some_and(|(lost, since)| lost == commit && since.elapsed() < SLOWEST) {
            return None;
        }
        let reference = gitops::git::Reference::Commit(commit.clone());
        let wanted = Source { reference, ..settings.source.clone() };
        let found = self.fetching.ask(&self.ctx, &self.memories, &cluster.id, wanted, None).await;
        let bundle = match found {
            Ok(Outcome::Fetched(fetched)) => Some(Arc::new(parse(&Arc::new(*fetched), settings).await.0)),
            Ok(Outcome::Unchanged) => None,
            Err(error) => {
                tracing::warn!(source = cluster.label, commit, %error, "the sealed commit cannot be put back");
                None
            }
        };
        // Anything else (a new limit, another path) would not be what is sealed.
        let bundle = bundle.filter(|bundle| report::is_of(bundle, &inventory));
        self.memories.change(&cluster.id, |memory| match &bundle {
            Some(bundle) => memory.sealed = Some(bundle.clone()),
            None => memory.lost = Some((commit, Instant::now())),
        });
        bundle
    }

    /// Says at once which commit is being looked at.
    async fn attempted(
        &self,
        source: &PolicySource,
        fetched: &Fetched,
    ) -> Result<Option<PolicySource>, ClusterError> {
        let shown = source.status.as_ref().and_then(|status| status.attempted.as_ref());
        if shown.is_some_and(|shown| shown.commit == fetched.commit.id) {
            return Ok(None);
        }
        self.report(source, &Verdict::Attempting { commit: &fetched.commit }).await
    }

    /// Writes what a pass came to; returns the source as it is then, if it was written.
    async fn report(
        &self,
        source: &PolicySource,
        verdict: &Verdict<'_>,
    ) -> Result<Option<PolicySource>, ClusterError> {
        let status = report::status(source, verdict, Timestamp::now());
        let written = self.write(source, &status).await?;
        if let Some((weight, reason, note)) = report::event(source, verdict) {
            self.ctx.events.tell(source, weight, reason, "Reconcile", &note).await;
        }
        Ok(written)
    }

    async fn write(
        &self,
        source: &PolicySource,
        status: &crds::policy_source::PolicySourceStatus,
    ) -> Result<Option<PolicySource>, ClusterError> {
        let namespace = source.namespace().unwrap_or_default();
        let api: Api<PolicySource> = Api::namespaced(self.ctx.client.clone(), &namespace);
        match self.ctx.writer.status(&api, source, source.status.as_ref(), status).await? {
            Reported::Unchanged => Ok(None),
            Reported::Changed(now) => Ok(Some(*now)),
            Reported::Raced | Reported::Gone => {
                Err(ClusterError::Raced(format!("PolicySource {namespace}/{}", source.name_any())))
            }
        }
    }
}
