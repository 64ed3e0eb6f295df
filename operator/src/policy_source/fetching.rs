//! Fetching for sources: in turns, in a process without rights, remembered, and less often where it fails.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gitops::git::{FetchError, Fetched, Outcome, Source};
use gitops::worker::{Confinement, Enforced, Limits, Worker};
use gitops::{Bundle, Key};
use parking_lot::Mutex;

use super::queue::{Lane, Queue};
use super::settings::Settings;
use crate::context::Context;

/// Longest time for one fetch.
const FETCH: Duration = Duration::from_secs(60);
/// A server that fails is asked less and less often, at least this often.
pub const SLOWEST: Duration = Duration::from_secs(300);
/// Changes that come within this time after a pass are looked at together.
const BURST: Duration = Duration::from_millis(500);

/// Namespace and name of a source.
pub type Id = (String, String);

/// What saves requests, and what keeps a source from being looked at for ever: nothing that a crash could lose.
#[derive(Clone, Default)]
pub struct Memory {
    /// The last fetch.
    pub fetched: Option<(Source, Arc<Fetched>)>,
    /// The policies that are sealed.
    pub sealed: Option<Arc<Bundle>>,
    /// A sealed commit that Git does not have (like that) any more, and when it was asked for.
    pub lost: Option<(String, Instant)>,
    /// Objects that the API server stores in another way than they were meant, until when that is believed.
    pub altered: HashMap<Key, Altered>,
    /// When the last pass began.
    begun: Option<Instant>,
    failures: u32,
    timed_out: bool,
}

/// An object that is stored in another way than it was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// Content hash of what Git says.
    pub meant: String,
    /// Content hash of what is stored; none when it no longer fits the kind.
    pub stored: Option<String>,
    /// The first field that differs.
    pub field: String,
    /// When that was seen.
    pub since: Instant,
}

/// The memories of all sources.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<Id, Memory>>);

impl Memories {
    /// A copy of a source's.
    pub fn of(&self, id: &Id) -> Memory {
        self.0.lock().get(id).cloned().unwrap_or_default()
    }

    /// Changes a source's.
    pub fn change<T>(&self, id: &Id, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.0.lock().entry(id.clone()).or_default())
    }

    /// Forgets every source that does not exist any more. Where there are no more memories than sources, none is stale
    /// or the next source to come will tell.
    pub fn keep(&self, count: usize, exists: impl Fn(&Id) -> bool) {
        let mut memories = self.0.lock();
        if memories.len() > count {
            memories.retain(|id, _| exists(id));
        }
    }

    /// Forgets a source.
    pub fn forget(&self, id: &Id) {
        self.0.lock().remove(id);
    }

    /// Whether a pass may begin at `now`; if not, when it may. The first change is looked at at once, and however many
    /// follow, the next pass is not later than that: nobody can hold a source up by touching its objects.
    pub fn begin(&self, id: &Id, now: Instant) -> Result<(), Duration> {
        self.change(id, |memory| match memory.begun.map(|begun| begun + BURST) {
            Some(next) if next > now => Err(next - now),
            _ => {
                memory.begun = Some(now);
                Ok(())
            }
        })
    }
}

/// Fetches for all sources.
pub struct Fetching {
    worker: Worker,
    queue: Arc<Queue>,
    told: AtomicBool,
}

impl Fetching {
    /// With children that work below a folder.
    pub fn new(ctx: &Context, folder: PathBuf) -> Self {
        let (program, addresses) = (ctx.git.program.clone(), ctx.git.addresses.clone());
        let worker = Worker { program, folder, addresses };
        Self { worker, queue: Arc::default(), told: AtomicBool::new(false) }
    }

    /// The files of the newest commit; an unchanged head costs one request and no memory.
    pub async fn fetch(
        &self,
        ctx: &Context,
        memories: &Memories,
        id: &Id,
        settings: &Settings,
    ) -> Result<Arc<Fetched>, FetchError> {
        let remembered = memories.of(id).fetched.filter(|(source, _)| *source == settings.source);
        let remembered = remembered.map(|(_, fetched)| fetched);
        let known = remembered.as_ref().map(|fetched| fetched.commit.id.clone());
        let answer = self.ask(ctx, memories, id, settings.source.clone(), known).await?;
        let fetched = match (answer, remembered) {
            (Outcome::Unchanged, Some(fetched)) => fetched,
            (Outcome::Unchanged, None) => return Err(FetchError::Broken),
            (Outcome::Fetched(fetched), _) => Arc::new(*fetched),
        };
        memories.change(id, |memory| {
            memory.failures = 0;
            memory.fetched = Some((settings.source.clone(), fetched.clone()));
        });
        Ok(fetched)
    }

    /// Waits for its turn, then for a child; ends early when the operator must stop.
    pub async fn ask(
        &self,
        ctx: &Context,
        memories: &Memories,
        id: &Id,
        source: Source,
        known: Option<String>,
    ) -> Result<Outcome, FetchError> {
        let lane = if memories.of(id).timed_out { Lane::Suspect } else { Lane::Usual };
        let stopping = &ctx.shutdown.stopping;
        let ticket = tokio::select! {
            ticket = self.queue.enter(&id.0, lane) => ticket,
            () = stopping.cancelled() => return Err(FetchError::Cancelled),
        };
        let (worker, limits) = (self.worker.clone(), Limits::within(FETCH));
        let cancel = limits.cancel.clone();
        let mut task = tokio::task::spawn_blocking(move || {
            let ended = worker.fetch(&source, known.as_deref(), &limits);
            // Only now, when the child is gone, may the next one come.
            drop(ticket);
            ended
        });
        let joined = tokio::select! {
            joined = &mut task => joined,
            () = stopping.cancelled() => {
                cancel.store(true, Ordering::Relaxed);
                task.await
            }
        };
        let Ok(ended) = joined else { return Err(FetchError::Broken) };
        self.tell(ended.confinement);
        memories.change(id, |memory| memory.timed_out = ended.result == Err(FetchError::Timeout));
        ended.result
    }

    /// Says once what this machine's kernel cannot hold a child to.
    fn tell(&self, confinement: Option<Confinement>) {
        let Some(confinement) = confinement else { return };
        let full = confinement.files == Enforced::Fully && confinement.calls == Enforced::Fully;
        if !full && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                files = ?confinement.files,
                calls = ?confinement.calls,
                "this kernel cannot confine the process that reads repositories fully (docs/security/git.md)"
            );
        }
    }
}

/// When to ask again after a failure: later each time, if nobody has to do anything about it.
pub fn back_off(memories: &Memories, id: &Id, settings: &Settings, error: &FetchError) -> Duration {
    if !error.is_passing() {
        return settings.interval;
    }
    let failures = memories.change(id, |memory| {
        memory.failures = memory.failures.saturating_add(1);
        memory.failures
    });
    let factor = 1 << failures.saturating_sub(1).min(8);
    settings.interval.saturating_mul(factor).min(SLOWEST.max(settings.interval))
}

/// A time within a tenth of the given one, another for each source and each round: sources that were made (or
/// begun) together are not asked together for ever.
pub fn jitter(time: Duration, id: &Id, round: u64) -> Duration {
    let mut hasher = DefaultHasher::new();
    (id, round).hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 201).unwrap_or(100);
    time.saturating_mul(900 + thousandths) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        ("shop".to_owned(), name.to_owned())
    }

    #[test]
    fn changes_without_end_hold_nothing_up() {
        let memories = Memories::default();
        let start = Instant::now();
        // Somebody touches an object every 50 ms for a minute.
        let touches = (0..1200u64).map(|n| start + Duration::from_millis(50 * n));
        let passes: Vec<_> = touches.filter(|now| memories.begin(&id("a"), *now).is_ok()).collect();
        assert_eq!(passes[0], start, "the first change is looked at at once");
        let gaps: Vec<_> = passes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (BURST..Duration::from_secs(1)).contains(gap)), "{gaps:?}");
        assert_eq!(memories.begin(&id("b"), start), Ok(()), "another source's are its own");
        assert_eq!(memories.begin(&id("b"), start), Err(BURST));
    }

    #[test]
    fn sources_that_are_gone_are_forgotten() {
        let memories = Memories::default();
        for name in ["a", "b", "c"] {
            memories.change(&id(name), |memory| memory.failures = 1);
        }
        memories.keep(3, |_| unreachable!("as many as there are"));
        memories.keep(1, |id| id.1 == "b");
        assert_eq!(memories.0.lock().keys().collect::<Vec<_>>(), [&id("b")]);
        memories.forget(&id("b"));
        assert!(memories.0.lock().is_empty());
    }

    #[test]
    fn sources_drift_apart() {
        let minute = Duration::from_secs(60);
        let times: std::collections::BTreeSet<_> = (0..50).map(|n| jitter(minute, &id("a"), n)).collect();
        assert!(times.iter().all(|time| (minute * 9 / 10..=minute * 11 / 10).contains(time)), "{times:?}");
        assert!(times.len() > 25, "{times:?}");
        assert_ne!(jitter(minute, &id("a"), 1), jitter(minute, &id("b"), 1));
    }
}
