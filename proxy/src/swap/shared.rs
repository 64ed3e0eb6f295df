//! What the two slots know of each other: a directory in the pod's memory.
//!
//! | file | meaning |
//! |---|---|
//! | `live.json` | the slot whose Envoy took over last, and its epoch; replaced by rename |
//! | `alive-<slot>` | locked while that slot has an Envoy that serves or drains |
//! | `attempt` | locked while a slot tries to take over |
//! | `failures-<slot>.json` | how often in a row a slot failed, so that it waits longer each time |
//! | `launcher-<slot>` | locked as long as a launcher of that slot runs whose locks can be asked about |
//! | `retired-<epoch>.json` | read by the Envoy of that epoch: 1 once another one has taken over, until then 0 |
//!
//! A lock is two: one that the launchers of 0.2.0 know (`flock`), and a record lock, which others can ask about without
//! taking it for a moment (`fcntl`, F_GETLK). To ask about the first kind one has to try, and whoever wants it just then
//! does not get it; so that is done only where no launcher runs that has the second kind, and whoever wants a lock tries
//! more than once. A record lock ends when its process closes *any* file descriptor of the file, so a launcher never asks
//! about its own.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::{Flock, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};

use super::Slot;
use crate::sds;

#[cfg(test)]
mod tests;

/// After the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Times that a lock is tried for, a millisecond apart: somebody may be asking about it just then.
const TRIES: u32 = 10;
const DIRECTORY: &str = "slots";
const ATTEMPT: &str = "attempt";

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
    /// How long to wait in all.
    #[must_use]
    pub fn longest(&self, release: &str) -> Duration {
        if self.count == 0 || self.release != release {
            return Duration::ZERO;
        }
        FIRST_PAUSE.saturating_mul(1 << (self.count - 1).min(8)).min(LONGEST_PAUSE)
    }

    /// How long to wait still.
    #[must_use]
    pub fn pause(&self, release: &str, now: u64) -> Duration {
        // Where the clock was put back, this is as long as the longest; `state` bounds it by a clock that never is.
        self.longest(release).saturating_sub(Duration::from_secs(now.saturating_sub(self.at)))
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
    me: Option<Slot>,
    _launcher: Option<Arc<File>>,
}

impl Shared {
    /// Makes the directory below `run`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(run: &Path) -> io::Result<Self> {
        let directory = run.join(DIRECTORY);
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory, me: None, _launcher: None })
    }

    /// The same for the launcher of a slot, of which there is one.
    ///
    /// # Errors
    /// When it can't be made, or another launcher of this slot runs.
    pub fn of(run: &Path, me: Slot) -> io::Result<Self> {
        let shared = Self::new(run)?;
        let launcher = shared.open(&launcher(me))?;
        fcntl_lock(launcher.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { me: Some(me), _launcher: Some(Arc::new(launcher)), ..shared })
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
        self.lock(&alive(slot))
    }

    /// Whether a slot has an Envoy. Not to be asked by a launcher about its own.
    #[must_use]
    pub fn is_alive(&self, slot: Slot) -> bool {
        self.is_locked(&alive(slot), &[slot])
    }

    /// Begins to take over; nothing while the other slot tries.
    #[must_use]
    pub fn attempt(&self) -> Option<Lock> {
        // Not even a try where it is known to be in vain.
        let others = self.me.map(|me| launcher(me.other()));
        if others.is_some_and(|other| self.is_recorded(&other)) && self.is_recorded(ATTEMPT) {
            return None;
        }
        self.lock(ATTEMPT).ok()
    }

    /// Whether a slot tries to take over now. Not to be asked by a launcher that does.
    #[must_use]
    pub fn is_attempted(&self) -> bool {
        match self.me {
            Some(me) => self.is_locked(ATTEMPT, &[me.other()]),
            None => self.is_locked(ATTEMPT, &[Slot::A, Slot::B]),
        }
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

    fn open(&self, name: &str) -> io::Result<File> {
        File::options().create(true).append(true).open(self.directory.join(name))
    }

    fn lock(&self, name: &str) -> io::Result<Lock> {
        let file = self.open(name)?;
        let mut tried = 1;
        while let Err(error) = flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            if tried == TRIES {
                return Err(error.into());
            }
            tried += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        fcntl_lock(file.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock { _file: file })
    }

    /// Whether another process holds it, whose slot is one of these.
    fn is_locked(&self, name: &str, holders: &[Slot]) -> bool {
        if self.is_recorded(name) {
            return true;
        }
        let can_be_asked = holders.iter().all(|slot| self.is_recorded(&launcher(*slot)));
        if can_be_asked {
            return false;
        }
        // With a shared lock, which those who only ask may hold together.
        let asked = self.open(name).and_then(|file| {
            flock(file.as_fd(), FlockOperation::NonBlockingLockShared).map_err(io::Error::from)
        });
        asked.is_err()
    }

    /// Whether another process has a record lock on it. Changes nothing.
    fn is_recorded(&self, name: &str) -> bool {
        let held = self.open(name).and_then(|file| {
            fcntl_getlk(file.as_fd(), &Flock::from(FlockType::WriteLock)).map_err(io::Error::from)
        });
        held.is_ok_and(|held| held.is_some())
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

fn launcher(slot: Slot) -> String {
    format!("launcher-{slot}")
}

fn failures(slot: Slot) -> String {
    format!("failures-{slot}.json")
}

fn retired(epoch: u32) -> String {
    format!("retired-{epoch}.json")
}
