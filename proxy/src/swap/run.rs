//! The launcher of one of two slots: parks, takes over, serves, drains, and parks again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::task::JoinHandle;

use super::gate::Gate;
use super::launch::{Attempt, Failure, Launched};
use super::region::{Region, base_id};
use super::shared::{Live, Lock, Shared, now, retired_path};
use super::{FAILED, Slot, shall_serve};
use crate::certificate::Identity;
use crate::drain::drain_limit;
use crate::envoy::{HotRestart, StartError};
use crate::http_client::chain;
use crate::pod::Wanted;
use crate::run::{self, Paths, RunError};
use crate::sds;
use crate::server::Server;
use crate::sidecar::Sidecar;
use crate::supervise::{Children, Event, Signals};
use crate::upkeep::Upkeep;

/// How often a parked slot looks what is wanted of it. An idle slot costs this and nothing else.
const PARKED: Duration = Duration::from_millis(500);
/// How often a live slot looks whether the other one has taken over.
const LIVE: Duration = Duration::from_millis(250);
/// Between two attempts to hot-restart the own Envoy.
const HEAL_AGAIN: Duration = Duration::from_secs(10);
/// How long a certificate is waited for while the other slot serves.
const CERTIFICATE: Duration = Duration::from_secs(60);
const SHARED_MEMORY: &str = "/dev/shm";

struct Launcher {
    sidecar: Arc<Sidecar>,
    paths: Paths,
    slot: Slot,
    shared: Shared,
    region: Region,
    base_id: u32,
    gate: Gate,
    signals: Signals,
    children: Children,
    server: Option<Server>,
    renewal: Option<JoinHandle<()>>,
    alive: Option<Lock>,
}

enum Next {
    /// Go on with the next phase.
    On,
    /// Park (again).
    Park,
    /// End with this code.
    End(i32),
}

/// Runs a slot. Returns the exit code of the process.
///
/// # Errors
/// When it can't even start.
pub async fn run(sidecar: Arc<Sidecar>, paths: Paths, slot: Slot, signals: Signals) -> Result<i32, RunError> {
    let base_id = base_id(&sidecar.environment().workload.uid);
    let mut launcher = Launcher {
        shared: Shared::new(&paths.run).map_err(RunError::Slots)?,
        region: Region::new(Path::new(SHARED_MEMORY), base_id),
        gate: Gate::start(slot).await.map_err(RunError::Slots)?,
        base_id,
        sidecar,
        paths,
        slot,
        signals,
        children: Children::default(),
        server: None,
        renewal: None,
        alive: None,
    };
    tracing::info!(%slot, live = ?launcher.shared.live(), "slot");
    loop {
        if let Next::End(code) = launcher.park().await {
            return Ok(code);
        }
        match launcher.take_over().await? {
            Next::End(code) => return Ok(code),
            Next::Park => continue,
            Next::On => {}
        }
        if let Next::End(code) = launcher.serve().await {
            return Ok(code);
        }
    }
}

impl Launcher {
    async fn park(&mut self) -> Next {
        loop {
            if self.is_wanted() {
                return Next::On;
            }
            match tokio::time::timeout(PARKED, self.signals.next()).await {
                Ok(Event::Terminate) => return Next::End(0),
                Ok(Event::Child) => {
                    self.children.reap();
                }
                Ok(Event::Reopen) | Err(_) => {}
            }
        }
    }

    fn is_wanted(&self) -> bool {
        let wanted = Wanted::read(&self.paths.pod);
        let desired = wanted.and_then(|wanted| wanted.for_slot(self.slot, self.release()));
        let other_alive = self.shared.is_alive(self.slot.other());
        let live = self.shared.live();
        let failures = self.shared.failures(self.slot).pause(self.release(), now());
        let drain = live.map(|live| live.pause(self.sidecar.environment().swap_drain, now()));
        let pause = failures.max(drain.unwrap_or_default());
        let live = live.map(|live| live.slot);
        shall_serve(self.slot, desired, live, other_alive) && (!other_alive || pause.is_zero())
    }

    fn release(&self) -> &str {
        &self.sidecar.environment().workload.revision
    }

    async fn take_over(&mut self) -> Result<Next, RunError> {
        let Some(attempt) = self.shared.attempt() else {
            tokio::time::sleep(LIVE).await;
            return Ok(Next::Park);
        };
        // The other slot may still drain connections from before; what counts is who takes new ones.
        let live = self.shared.live().map(|live| live.slot);
        let contested = live == Some(self.slot.other()) && self.shared.is_alive(self.slot.other());
        if !contested {
            self.answer().await?;
            self.alive = self.shared.live_on(self.slot).ok();
        }
        let identity = match self.certificate(contested).await {
            Ok(Some(identity)) => identity,
            Ok(None) => return Ok(Next::End(0)),
            Err(failure) => return Ok(self.failed(&failure, contested)),
        };
        let held =
            self.sidecar.install(&identity, &identity.trust(), &self.paths).map_err(RunError::Secrets)?;
        let epoch = self.next_epoch();
        let (pid, asked_to_end) = match self.launch(epoch, contested).await {
            Launched::Live { pid, asked_to_end } => (pid, asked_to_end),
            Launched::AskedToEnd => return Ok(Next::End(0)),
            Launched::Failed(failure) => return Ok(self.failed(&failure, contested)),
        };
        if contested {
            self.sidecar.proven();
        }
        self.settle(pid, epoch, contested).await?;
        drop(attempt);
        if asked_to_end {
            return Ok(Next::End(self.terminate().await));
        }
        self.shared.note(self.slot, self.release(), false);
        let (sidecar, paths) = (Arc::clone(&self.sidecar), self.paths.clone());
        self.renewal = Some(tokio::spawn(async move { Upkeep::new(&sidecar, &paths, held).run().await }));
        tracing::info!(slot = %self.slot, epoch, "live");
        Ok(Next::On)
    }

    /// Epoch of an Envoy that takes over from whichever was started last; the first, where none ever was or its
    /// memory is gone with the pod's sandbox.
    fn next_epoch(&self) -> u32 {
        match self.shared.live() {
            Some(live) if self.region.exists() => live.epoch + 1,
            _ => 0,
        }
    }

    async fn launch(&mut self, epoch: u32, contested: bool) -> Launched {
        if let Err(source) = self.shared.introduce(epoch) {
            let path = retired_path(&self.paths.run, epoch);
            return Launched::Failed(StartError::Write { path, source }.into());
        }
        let attempt = Attempt {
            sidecar: &self.sidecar,
            paths: &self.paths,
            region: &self.region,
            gate: &self.gate,
            restart: HotRestart { slot: self.slot, base_id: self.base_id, epoch },
            contested,
        };
        attempt.run(&mut self.signals, &mut self.children).await
    }

    /// Makes it known that this slot is live.
    async fn settle(&mut self, pid: Pid, epoch: u32, contested: bool) -> Result<(), RunError> {
        self.children.lead(pid);
        self.sidecar.serves(epoch);
        self.sidecar.freeze(false);
        if self.alive.is_none() {
            self.alive = self.shared.live_on(self.slot).ok();
        }
        self.answer().await?;
        if let Some(before) = epoch.checked_sub(1)
            && let Err(error) = self.shared.retire(before)
        {
            tracing::warn!(%error, "the Envoy before this one is not told to let its connections go; it does so later");
        }
        let drain = self.sidecar.environment().swap_drain;
        let drains_until = if contested { now().saturating_add(drain.as_secs()) } else { 0 };
        self.shared.set_live(Live { slot: self.slot, epoch, drains_until }).map_err(RunError::Slots)
    }

    async fn answer(&mut self) -> Result<(), RunError> {
        if self.server.is_none() {
            self.server = Some(Server::start(Arc::clone(&self.sidecar)).await.map_err(RunError::Listen)?);
        }
        Ok(())
    }

    /// A certificate; nothing when this program was asked to end. Without one there is no attempt, and it also shows
    /// that the controller of the new release answers.
    async fn certificate(&mut self, contested: bool) -> Result<Option<Identity>, Failure> {
        let told = sds::read_trust(&self.paths.run).unwrap_or_default();
        let mut certificate = Box::pin(self.sidecar.certificate(&self.paths.files, &told));
        let late = async {
            if !contested {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(CERTIFICATE).await;
        };
        let mut late = Box::pin(late);
        loop {
            tokio::select! {
                identity = &mut certificate => return Ok(Some(identity)),
                () = &mut late => return Err(Failure::Certificate(self.sidecar.certificate_failure())),
                event = self.signals.next() => match event {
                    Event::Terminate => return Ok(None),
                    Event::Child => { self.children.reap(); }
                    Event::Reopen => {}
                },
            }
        }
    }

    /// The container ends with the reason; kubelet starts it again, and it waits before it tries again.
    fn failed(&self, failure: &Failure, contested: bool) -> Next {
        let message =
            format!("slot {} with release {} cannot take over: {failure}", self.slot, self.release());
        tracing::error!(contested, "{message}");
        // Where the file cannot be written, kubelet takes the end of the log.
        let _ = std::fs::write("/dev/termination-log", &message);
        self.shared.note(self.slot, self.release(), contested);
        Next::End(if contested { FAILED } else { 1 })
    }

    /// Serves until the other slot has taken over and the last connection is gone.
    async fn serve(&mut self) -> Next {
        let mut attempted = false;
        let mut heal_at: Option<Instant> = None;
        loop {
            match tokio::time::timeout(LIVE, self.signals.next()).await {
                Ok(Event::Reopen) => self.children.signal(Signal::USR1),
                Ok(Event::Terminate) => return Next::End(self.terminate().await),
                Ok(Event::Child) => {
                    if let Some(exit) = self.children.reap() {
                        tracing::error!(%exit, "Envoy ended by itself; this container ends with it");
                        return Next::End(if exit.code() == 0 { 1 } else { exit.code() });
                    }
                }
                Err(_) => {}
            }
            let is_attempted = self.shared.is_attempted();
            if !is_attempted && self.shared.live().is_some_and(|live| live.slot != self.slot) {
                return self.retire().await;
            }
            if attempted && !is_attempted {
                tracing::warn!("the other slot tried to take over and failed");
            }
            // An attempt may also have come and gone between two looks.
            if (attempted && !is_attempted) || self.sidecar.has_lost_admin() {
                heal_at.get_or_insert_with(Instant::now);
            }
            self.sidecar.freeze(is_attempted || heal_at.is_some());
            attempted = is_attempted;
            if heal_at.is_some_and(|at| Instant::now() >= at) && !is_attempted {
                heal_at = match self.heal().await {
                    Ok(true) => None,
                    Ok(false) => Some(Instant::now() + HEAL_AGAIN),
                    Err(code) => return Next::End(code),
                };
            }
        }
    }

    /// A failed attempt of the other slot may have taken the admin interface away. Then the own Envoy is restarted
    /// hot by a new one of the same slot. Says whether all is well; an error is the code to end with.
    async fn heal(&mut self) -> Result<bool, i32> {
        let answers = self.sidecar.admin_answers().await;
        if answers {
            return Ok(true);
        }
        let Some(attempt) = self.shared.attempt() else { return Ok(false) };
        tracing::warn!("Envoy has lost its admin interface; a new one takes over from it");
        let epoch = self.next_epoch();
        match self.launch(epoch, true).await {
            Launched::Live { pid, asked_to_end } => {
                let settled = self.settle(pid, epoch, true).await;
                drop(attempt);
                if asked_to_end {
                    return Err(self.terminate().await);
                }
                if let Err(error) = &settled {
                    tracing::error!(error = chain(error), "cannot note who is live");
                }
                Ok(settled.is_ok())
            }
            Launched::Failed(failure) => {
                tracing::error!(%failure, "Envoy goes on without its admin interface");
                Ok(false)
            }
            Launched::AskedToEnd => Err(self.terminate().await),
        }
    }

    /// The other slot is live: answer no more, and let Envoy keep its connections until the new one ends it.
    async fn retire(&mut self) -> Next {
        tracing::info!(slot = %self.slot, "the other slot is live; draining");
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        let mut asked: Option<Instant> = None;
        loop {
            if self.children.reap().is_some() {
                break;
            }
            match tokio::time::timeout(PARKED, self.signals.next()).await {
                // Its connections have as long as the pod has to end.
                Ok(Event::Terminate) => {
                    asked.get_or_insert_with(Instant::now);
                }
                Ok(Event::Child | Event::Reopen) | Err(_) => {}
            }
            let limit = drain_limit(self.sidecar.environment().grace);
            if asked.is_some_and(|at| at.elapsed() >= limit) {
                return Next::End(run::stop(&mut self.signals, &mut self.children).await);
            }
        }
        tracing::info!(slot = %self.slot, "drained; parked");
        self.alive = None;
        self.sidecar.freeze(false);
        if asked.is_some() { Next::End(0) } else { Next::Park }
    }

    async fn terminate(&mut self) -> i32 {
        run::terminate(&self.sidecar, &mut self.signals, &mut self.children).await
    }
}
