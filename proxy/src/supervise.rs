//! The duties of pid 1: pass signals to Envoy, reap whatever ends, and say how Envoy ended.
//!
//! The standard library starts Envoy, but only this file waits for it: `wait` for any child would otherwise race
//! with whoever waits for one.

use std::process::Child;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// How Envoy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    fn of(status: WaitStatus) -> Self {
        match status.exit_status() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.terminating_signal().unwrap_or_default()),
        }
    }

    /// The exit code to pass on, by the shells' convention for signals.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// The signals that this process reacts to.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    reopen: Stream,
    child: Stream,
}

/// Something that happened to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to end.
    Terminate,
    /// Somebody wants log files to be reopened.
    Reopen,
    /// A child may have ended.
    Child,
}

impl Signals {
    /// Takes over the signals of this process; must come before the first child is started.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// The next one. Safe to cancel.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Terminate,
            _ = self.interrupt.recv() => Event::Terminate,
            _ = self.reopen.recv() => Event::Reopen,
            _ = self.child.recv() => Event::Child,
        }
    }
}

/// The children of this process: Envoys, and as pid 1 every orphan of the container.
#[derive(Debug, Default)]
pub struct Children {
    envoys: Vec<(Pid, Option<Exit>)>,
    leader: Option<Pid>,
}

impl Children {
    /// Notes that a child is an Envoy.
    pub fn adopt(&mut self, envoy: &Child) -> Pid {
        let pid = Pid::from_child(envoy);
        self.envoys.push((pid, None));
        pid
    }

    /// Notes which Envoy serves. The end of another one is no event.
    pub fn lead(&mut self, pid: Pid) {
        self.leader = Some(pid);
    }

    /// Reaps every child that has ended. Says how the Envoy that serves ended, once it has.
    pub fn reap(&mut self) -> Option<Exit> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some((_, exit)) =
                self.envoys.iter_mut().find(|(envoy, exit)| *envoy == pid && exit.is_none())
            {
                *exit = Some(Exit::of(status));
            }
        }
        let leader = self.leader?;
        self.envoys.iter().rev().find(|(pid, _)| *pid == leader)?.1
    }

    /// Reaps, and says how an Envoy ended, once it has.
    pub fn exit_of(&mut self, pid: Pid) -> Option<Exit> {
        self.reap();
        self.envoys.iter().rev().find(|(envoy, _)| *envoy == pid)?.1
    }

    /// Sends the Envoys a signal, those that run.
    pub fn signal(&self, signal: Signal) {
        for (pid, _) in self.envoys.iter().filter(|(_, exit)| exit.is_none()) {
            self.kill(*pid, signal);
        }
    }

    /// Sends one Envoy a signal, if it runs.
    pub fn kill(&self, pid: Pid, signal: Signal) {
        if self.envoys.iter().any(|(envoy, exit)| *envoy == pid && exit.is_none())
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(%error, ?signal, "cannot signal Envoy");
        }
    }
}
