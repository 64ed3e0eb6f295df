//! Shutdown: a signal becomes a token, and the time left to drain becomes another.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How a daemon learns that it must go.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled at the first SIGTERM or SIGINT, or by [`Shutdown::begin`]: take nothing new, finish what runs.
    pub stopping: CancellationToken,
    /// Cancelled when the time to drain is over, or at a second signal: drop what still runs.
    pub overdue: CancellationToken,
}

impl Shutdown {
    /// Waits for signals in the background; `drain` runs from the moment that `stopping` is cancelled.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signal(drain: Duration) -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::default();
        let handle = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = handle.stopping.cancelled() => {}
            }
            tracing::info!(drain_seconds = drain.as_secs(), "stopping");
            handle.stopping.cancel();
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = tokio::time::sleep(drain) => {}
            }
            handle.overdue.cancel();
        });
        Ok(shutdown)
    }

    /// Begins the shutdown from within, for example when leadership is lost.
    pub fn begin(&self) {
        self.stopping.cancel();
    }
}
