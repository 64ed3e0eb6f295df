//! What the two slots know of each other: a directory in the pod's memory.
//!
//! | file | meaning |
//! |---|---|
//! | `live.json` | the slot whose Envoy took over last, and its epoch; replaced by rename |
//! | `alive-<slot>` | locked while that slot has an Envoy that serves or drains |
//! | `attempt` | locked while a slot tries to take over |
//! | `failures-<slot>.json` | how often in a row a slot failed, so that it waits longer each time |
//! | `retired-<epoch>.json` | read by the Envoy of that epoch: 1 once another one has taken over, until then 0 |

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Slot;
use crate::sds;

/// After the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
const DIRECTORY: &str = "slots";

/// The slot that took over last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Which slot.
    pub slot: Slot,
    /// Restart epoch of its Envoy.
    pub epoch: u32,
    /// Until when (seconds since 1970) the Envoy before it keeps its connections. They would be cut by a further
    /// takeover, for an Envoy knows no more than one before it.
    #[serde(default)]
    pub drains_until: u64,
}

impl Live {
    /// How long the other slot waits before it takes over. A clock that was put back must not hold it for ever.
    #[must_use]
    pub fn pause(&self, drain: Duration, now: u64) -> Duration {
        Duration::from_secs(self.drains_until.saturating_sub(now)).min(drain)
    }
}

/// Failures in a row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// Release that failed; another one is tried at once.
    pub release: String,
    /// Seconds since 1970 of the last one.
    pub at: u64,
}

impl Failures {
    /// How long to wait still.
    #[must_use]
    pub fn pause(&self, release: &str, now: u64) -> Duration {
        if self.count == 0 || self.release != release {
            return Duration::ZERO;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (self.count - 1).min(8)).min(LONGEST_PAUSE);
        // A clock that was put back must not hold a slot for ever.
        pause.saturating_sub(Duration::from_secs(now.saturating_sub(self.at)))
    }
}

/// A lock that is given back when it is dropped, or when its process ends in any way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The shared directory.
#[derive(Debug, Clone)]
pub struct Shared {
    directory: PathBuf,
}

impl Shared {
    /// Makes the directory below `run`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(run: &Path) -> io::Result<Self> {
        let directory = run.join(DIRECTORY);
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// The slot that took over last; none in a pod that has just begun.
    #[must_use]
    pub fn live(&self) -> Option<Live> {
        self.read("live.json")
    }

    /// Notes a takeover.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn set_live(&self, live: Live) -> io::Result<()> {
        self.write("live.json", &live)
    }

    /// Notes that a slot lives, until the lock is dropped.
    ///
    /// # Errors
    /// When the file can't be opened or locked.
    pub fn live_on(&self, slot: Slot) -> io::Result<Lock> {
        self.lock(&alive(slot), FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether a slot has an Envoy.
    #[must_use]
    pub fn is_alive(&self, slot: Slot) -> bool {
        self.is_locked(&alive(slot))
    }

    /// Begins to take over; nothing while the other slot tries.
    #[must_use]
    pub fn attempt(&self) -> Option<Lock> {
        self.lock("attempt", FlockOperation::NonBlockingLockExclusive).ok()
    }

    /// Whether a slot tries to take over now.
    #[must_use]
    pub fn is_attempted(&self) -> bool {
        self.is_locked("attempt")
    }

    /// A slot's failures in a row.
    #[must_use]
    pub fn failures(&self, slot: Slot) -> Failures {
        self.read(&failures(slot)).unwrap_or_default()
    }

    /// Notes one more failure, or none any more.
    pub fn note(&self, slot: Slot, release: &str, failed: bool) {
        let before = self.failures(slot);
        let count = if before.release == release { before.count.saturating_add(1) } else { 1 };
        let now = Failures { count: if failed { count } else { 0 }, release: release.to_owned(), at: now() };
        // Worst is a slot that tries again too soon.
        let _ = self.write(&failures(slot), &now);
    }

    /// What an Envoy of this epoch reads before it starts: it is not retired.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn introduce(&self, epoch: u32) -> io::Result<()> {
        // An Envoy knows one before it; those before that one are gone.
        if let Some(gone) = epoch.checked_sub(2) {
            let _ = std::fs::remove_file(self.directory.join(retired(gone)));
        }
        self.write(&retired(epoch), &0)
    }

    /// Tells the Envoy of this epoch that another one has taken over.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn retire(&self, epoch: u32) -> io::Result<()> {
        self.write(&retired(epoch), &1)
    }

    fn lock(&self, name: &str, operation: FlockOperation) -> io::Result<Lock> {
        let path = self.directory.join(name);
        let file = File::options().create(true).append(true).open(path)?;
        flock(file.as_fd(), operation)?;
        Ok(Lock { _file: file })
    }

    /// Asks with a shared lock, which those who only ask may hold together.
    fn is_locked(&self, name: &str) -> bool {
        self.lock(name, FlockOperation::NonBlockingLockShared).is_err()
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&std::fs::read(self.directory.join(name)).ok()?).ok()
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        sds::replace(&self.directory.join(name), &serde_json::to_value(value)?)
    }
}

/// Where an Envoy of this epoch reads whether it is retired.
#[must_use]
pub fn retired_path(run: &Path, epoch: u32) -> PathBuf {
    run.join(DIRECTORY).join(retired(epoch))
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn alive(slot: Slot) -> String {
    format!("alive-{slot}")
}

fn failures(slot: Slot) -> String {
    format!("failures-{slot}.json")
}

fn retired(epoch: u32) -> String {
    format!("retired-{epoch}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_slots_and_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::new(directory.path()).unwrap();
        assert!(!shared.is_alive(Slot::A) && !shared.is_attempted());
        let alive = shared.live_on(Slot::A).unwrap();
        assert!(shared.is_alive(Slot::A) && !shared.is_alive(Slot::B));
        drop(alive);
        assert!(!shared.is_alive(Slot::A));
        let attempt = shared.attempt().unwrap();
        assert!(shared.attempt().is_none() && shared.is_attempted());
        drop(attempt);
        assert!(shared.attempt().is_some());
    }

    #[test]
    fn who_is_live_survives_garbage() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::new(directory.path()).unwrap();
        assert_eq!(shared.live(), None);
        let live = Live { slot: Slot::B, epoch: 3, drains_until: 100 };
        shared.set_live(live).unwrap();
        assert_eq!(shared.live(), Some(live));
        let drain = Duration::from_secs(15);
        assert_eq!(live.pause(drain, 90), Duration::from_secs(10));
        assert_eq!((live.pause(drain, 100), live.pause(drain, 0)), (Duration::ZERO, drain));
        std::fs::write(directory.path().join("slots/live.json"), "{").unwrap();
        assert_eq!(shared.live(), None);
    }

    #[test]
    fn pauses_grow_and_are_of_one_release() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::new(directory.path()).unwrap();
        assert_eq!(shared.failures(Slot::B).pause("2", now()), Duration::ZERO);
        shared.note(Slot::B, "2", true);
        let failures = shared.failures(Slot::B);
        assert_eq!(failures.pause("2", failures.at), FIRST_PAUSE);
        assert_eq!(failures.pause("2", failures.at + 60), Duration::ZERO);
        assert_eq!(failures.pause("3", failures.at), Duration::ZERO);
        for _ in 0..40 {
            shared.note(Slot::B, "2", true);
        }
        let failures = shared.failures(Slot::B);
        assert_eq!(failures.pause("2", failures.at), LONGEST_PAUSE);
        assert_eq!(failures.pause("2", 0), LONGEST_PAUSE, "a clock that was put back");
        shared.note(Slot::B, "2", false);
        assert_eq!(shared.failures(Slot::B).pause("2", now()), Duration::ZERO);
    }
}
