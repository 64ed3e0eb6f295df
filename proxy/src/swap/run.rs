//! The launcher of one of two slots: performs what [`super::state`] says, and tells it what happened.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{Held, Identity};
use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::Slot;
use super::gate::Gate;
use super::launch::Newcomer;
use super::region::{Region, base_id};
use super::shared::{Live, Lock, Shared, now};
use super::state::{self, Action, Event, Known, Look, Me, Memory, Purpose, Start, State, Why};
use crate::envoy::HotRestart;
use crate::http_client::chain;
use crate::pod::Wanted;
use crate::run::{self, Paths, RunError};
use crate::sds;
use crate::server::Server;
use crate::sidecar::Sidecar;
use crate::supervise::{Children, Event as Signalled, Signals};
use crate::upkeep::Upkeep;

const SHARED_MEMORY: &str = "/dev/shm";
/// Where the kubelet reads why a container ended. Where it cannot be written, the end of the log counts.
const TERMINATION_LOG: &str = "/dev/termination-log";

struct Launcher {
    me: Me,
    sidecar: Arc<Sidecar>,
    paths: Paths,
    shared: Shared,
    region: Region,
    base_id: u32,
    gate: Gate,
    signals: Signals,
    children: Children,
    began: Instant,
    attempt: Option<Lock>,
    alive: Option<Lock>,
    asking: Option<JoinHandle<Identity>>,
    identity: Option<Identity>,
    held: Option<Held>,
    newcomer: Option<Newcomer>,
    server: Option<Server>,
    upkeep: Option<JoinHandle<()>>,
}

/// What came of an action.
enum Outcome {
    Done,
    Event(Event),
    End(i32),
}

/// Runs a slot. Returns the exit code of the process.
///
/// # Errors
/// When it can't even start.
pub async fn run(sidecar: Arc<Sidecar>, paths: Paths, slot: Slot, signals: Signals) -> Result<i32, RunError> {
    let environment = sidecar.environment();
    let base_id = base_id(&environment.workload.uid);
    let me = Me {
        slot,
        release: environment.workload.revision.clone(),
        swap_drain: environment.swap_drain,
        grace: environment.grace,
    };
    let mut launcher = Launcher {
        me,
        shared: Shared::of(&paths.run, slot).map_err(RunError::Slots)?,
        region: Region::new(Path::new(SHARED_MEMORY), base_id),
        gate: Gate::start(slot).await.map_err(RunError::Slots)?,
        base_id,
        sidecar,
        paths,
        signals,
        children: Children::default(),
        began: Instant::now(),
        attempt: None,
        alive: None,
        asking: None,
        identity: None,
        held: None,
        newcomer: None,
        server: None,
        upkeep: None,
    };
    tracing::info!(%slot, live = ?launcher.shared.live(), "slot");
    Ok(launcher.work().await)
}

impl Launcher {
    async fn work(&mut self) -> i32 {
        let mut state = State::Parked(Known::default());
        let mut events = VecDeque::from([self.tick()]);
        loop {
            let event = match events.pop_front() {
                Some(event) => event,
                None => self.next(state).await,
            };
            let (next, actions) = state::step(&self.me, state, self.began.elapsed(), event);
            if std::mem::discriminant(&next) != std::mem::discriminant(&state) {
                tracing::info!(slot = %self.me.slot, state = ?next, "slot");
            }
            state = next;
            for action in actions {
                match self.perform(action.clone()).await {
                    Ok(Outcome::Done) => {}
                    Ok(Outcome::Event(event)) => events.push_back(event),
                    Ok(Outcome::End(code)) => return code,
                    Err(reason) => {
                        tracing::warn!(?action, reason, "not done");
                        events.push_back(Event::Failed(reason));
                        break;
                    }
                }
            }
        }
    }

    /// What happens next in this state.
    async fn next(&mut self, state: State) -> Event {
        if let Some(event) = self.ended(state) {
            return event;
        }
        let asking = &mut self.asking;
        let certified = async move {
            match asking {
                Some(asking) => asking.await,
                None => std::future::pending().await,
            }
        };
        let signalled = tokio::select! {
            signalled = self.signals.next() => Some(signalled),
            identity = certified => {
                self.asking = None;
                // The task neither panics nor is it aborted.
                self.identity = identity.ok();
                return Event::Certified(Box::new(self.look()));
            }
            () = tokio::time::sleep(state.pause()) => None,
        };
        match signalled {
            Some(Signalled::Terminate) => Event::Asked,
            Some(Signalled::Reopen) => {
                self.children.signal(Signal::USR1);
                self.tick()
            }
            Some(Signalled::Child) | None => match (self.ended(state), &mut self.newcomer) {
                (Some(event), _) => event,
                (None, Some(newcomer)) if matches!(state, State::Starting { .. }) => {
                    Event::Seen(newcomer.look(&self.sidecar).await)
                }
                _ => self.tick(),
            },
        }
    }

    /// The end of the Envoy that this state is about.
    fn ended(&mut self, state: State) -> Option<Event> {
        let exit = self.children.reap();
        match (state, &self.newcomer) {
            (State::Starting { .. }, Some(newcomer)) => {
                self.children.exit_of(newcomer.pid).map(Event::NewcomerEnded)
            }
            (State::Serving(..) | State::Retiring(_) | State::Settling(_), _) => exit.map(Event::Ended),
            _ => None,
        }
    }

    fn tick(&self) -> Event {
        Event::Tick(Box::new(self.look()))
    }

    fn look(&self) -> Look {
        let wanted = Wanted::read(&self.paths.pod);
        Look {
            desired: wanted.and_then(|wanted| wanted.for_slot(self.me.slot, &self.me.release)),
            live: self.shared.live(),
            other_alive: self.shared.is_alive(self.me.slot.other()),
            attempted: self.attempt.is_none() && self.shared.is_attempted(),
            failures: self.shared.failures(self.me.slot),
            memory: self.memory(),
            lost_admin: self.sidecar.has_lost_admin(),
            wall: now(),
        }
    }

    fn memory(&self) -> Memory {
        match self.region.inspect() {
            Ok(None) => Memory::Absent,
            Ok(Some(_)) => Memory::Usable,
            Err(error) => Memory::Unusable(chain(&error)),
        }
    }

    async fn perform(&mut self, action: Action) -> Result<Outcome, String> {
        match action {
            Action::Lock => {
                self.attempt = self.shared.attempt();
                let look = self.attempt.is_some().then(|| Box::new(self.look()));
                return Ok(Outcome::Event(look.map_or(Event::NotLocked, Event::Locked)));
            }
            Action::Unlock => self.attempt = None,
            Action::HoldAlive => {
                if self.alive.is_none() {
                    let lock = self.shared.live_on(self.me.slot);
                    self.alive =
                        Some(lock.map_err(|error| format!("cannot say that this slot lives: {error}"))?);
                }
            }
            Action::ReleaseAlive => self.alive = None,
            Action::Listen => self.listen().await?,
            Action::StopListening => {
                if let Some(server) = self.server.take() {
                    server.stop().await;
                }
            }
            Action::AskCertificate => self.ask_certificate(),
            Action::Install => self.install()?,
            Action::InstallIfWorthless => {
                if !sds::is_usable(&self.paths.run) {
                    self.install()?;
                }
            }
            Action::Forget => self.region.forget().map_err(|error| chain(&error))?,
            Action::Introduce(epoch) => {
                let written = self.shared.introduce(epoch);
                written
                    .map_err(|error| format!("cannot write what Envoy reads of its retirement: {error}"))?;
            }
            Action::Start(start) => self.start(start)?,
            Action::OpenGate => self.gate.open(),
            Action::KillNewcomer => self.kill_newcomer().await,
            Action::Lead(start) => self.lead(start),
            Action::Retire(epoch) => {
                if let Err(error) = self.shared.retire(epoch) {
                    tracing::warn!(%error, "the Envoy before this one is not told to let its connections go; it does so later");
                }
            }
            Action::SetLive { epoch, drain } => {
                // Whole seconds, rounded up.
                let end = now().saturating_add(drain.as_secs()).saturating_add(1);
                let drains_until = if drain.is_zero() { 0 } else { end };
                let live = Live { slot: self.me.slot, epoch, drains_until };
                self.shared.set_live(live).map_err(|error| format!("cannot note who is live: {error}"))?;
                return Ok(Outcome::Event(Event::Noted));
            }
            Action::NoteFailure(failed) => self.shared.note(self.me.slot, &self.me.release, failed),
            Action::StartUpkeep => self.start_upkeep(),
            Action::StopUpkeep => self.stop_upkeep(),
            Action::Freeze(frozen) => self.sidecar.freeze(frozen),
            Action::AskAdmin => return Ok(Outcome::Event(Event::Admin(self.sidecar.admin_answers().await))),
            Action::Explain(why) => self.explain(why),
            Action::Terminate => {
                return Ok(Outcome::End(
                    run::terminate(&self.sidecar, &mut self.signals, &mut self.children).await,
                ));
            }
            Action::Stop => return Ok(Outcome::End(run::stop(&mut self.signals, &mut self.children).await)),
            Action::End(code) => return Ok(Outcome::End(code)),
        }
        Ok(Outcome::Done)
    }

    async fn listen(&mut self) -> Result<(), String> {
        if self.server.is_none() {
            let server = Server::start(Arc::clone(&self.sidecar)).await;
            self.server = Some(server.map_err(|error| chain(&RunError::Listen(error)))?);
        }
        Ok(())
    }

    /// Without a certificate there is no attempt; it also shows that the controller of the new release answers.
    fn ask_certificate(&mut self) {
        let (sidecar, paths) = (Arc::clone(&self.sidecar), self.paths.clone());
        self.asking = Some(tokio::spawn(async move {
            let told = sds::read_trust(&paths.run).map(|trust| trust.bundle).unwrap_or_default();
            sidecar.certificate(&paths.files, &told).await
        }));
    }

    fn install(&mut self) -> Result<(), String> {
        let Some(identity) = &self.identity else {
            return Err("there is no certificate to install".to_owned());
        };
        self.held = Some(self.sidecar.install_first(identity, &self.paths).map_err(|error| chain(&error))?);
        Ok(())
    }

    fn start(&mut self, start: Start) -> Result<(), String> {
        self.region.prepare().map_err(|error| chain(&error))?;
        match start.gate {
            state::Gate::Open => self.gate.open(),
            state::Gate::Closed => self.gate.close(),
        }
        let restart = HotRestart { slot: self.me.slot, base_id: self.base_id, epoch: start.epoch };
        let environment = self.sidecar.environment();
        let newcomer = Newcomer::start(environment, &self.paths, restart, start.purpose, &mut self.children);
        self.newcomer = Some(newcomer.map_err(|error| chain(&error))?);
        Ok(())
    }

    /// Kills an Envoy that serves nobody, and waits until it is gone: its sockets must be free for the next attempt.
    async fn kill_newcomer(&mut self) {
        let Some(newcomer) = self.newcomer.take() else { return };
        while self.children.exit_of(newcomer.pid).is_none() {
            self.children.kill(newcomer.pid, Signal::KILL);
            let _ = tokio::time::timeout(Duration::from_millis(100), self.signals.next()).await;
        }
    }

    fn lead(&mut self, start: Start) {
        let Some(newcomer) = self.newcomer.take() else { return };
        self.children.lead(newcomer.pid);
        if start.purpose == Purpose::TakeOver {
            self.sidecar.proven();
        }
        self.sidecar.serves(start.epoch);
    }

    fn start_upkeep(&mut self) {
        self.stop_upkeep();
        let (sidecar, paths) = (Arc::clone(&self.sidecar), self.paths.clone());
        // What could not be written is written by the upkeep.
        let held = self
            .held
            .take()
            .or_else(|| self.identity.as_ref().map(|identity| Held::new(identity, &identity.trust())));
        let Some(held) = held else { return };
        self.upkeep = Some(tokio::spawn(async move { Upkeep::new(&sidecar, &paths, held).run().await }));
        self.identity = None;
    }

    fn stop_upkeep(&mut self) {
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.abort();
        }
    }

    /// The container ends with the reason; kubelet starts it again.
    fn explain(&self, why: Why) {
        let why = match why {
            Why::NoCertificate => {
                format!("no certificate within {:?}: {}", state::LIMIT, self.sidecar.certificate_failure())
            }
            Why::Late(said) => format!(
                "the new Envoy had not accepted its configuration after {:?}; its last state was {said}",
                state::LIMIT
            ),
            Why::Because(reason) => reason,
        };
        let message =
            format!("slot {} with release {} cannot take over: {why}", self.me.slot, self.me.release);
        tracing::error!("{message}");
        let _ = std::fs::write(TERMINATION_LOG, &message);
    }
}
