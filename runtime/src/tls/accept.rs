//! Takes connections off the kernel's queue in a thread of its own.
//!
//! Thousands of peers that come back in one moment keep every worker busy with handshakes. An acceptor that is one task
//! among theirs then gets its turn too seldom, the kernel's queue overflows, and each connection that the kernel drops
//! costs its peer a retry of one, three, seven … seconds.

use std::io;
use std::time::Duration;

use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Connections that the kernel may keep until they are taken. It keeps at most `net.core.somaxconn` (4096 unless the
/// node says otherwise); what listens by default asks for 1024.
const QUEUE: i32 = 65_535;
/// Pause when the process is out of file descriptors; accepting at full speed would only burn the CPU.
const PAUSE: Duration = Duration::from_millis(100);

/// Hands every connection to `take`, which runs in the acceptor's thread within the caller's runtime and must be quick.
/// When `stopping` is cancelled the listener is closed and whoever waits for the connections is returned.
///
/// # Errors
/// When no thread can be started, or the listener cannot be moved to it.
pub(super) async fn accept(
    listener: TcpListener,
    stopping: CancellationToken,
    mut take: impl FnMut(TcpStream, std::net::SocketAddr, Watcher) + Send + 'static,
) -> io::Result<GracefulShutdown> {
    socket2::SockRef::from(&listener).listen(QUEUE)?;
    let listener = listener.into_std()?;
    let workers = Handle::current();
    let own = Builder::new_current_thread().enable_all().build()?;
    // Whoever drops this future wants no connections any more.
    let stopping = stopping.child_token();
    let _dropped = stopping.clone().drop_guard();
    let (done, graceful) = oneshot::channel();
    let accepting = move || {
        let graceful = GracefulShutdown::new();
        let accepted = own.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let accepted = tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    accepted = listener.accept() => accepted,
                };
                let moved = accepted.and_then(|(stream, address)| {
                    let stream = stream.into_std()?;
                    let _workers = workers.enter();
                    Ok((TcpStream::from_std(stream)?, address))
                });
                match moved {
                    Ok((stream, address)) => take(stream, address, graceful.watcher()),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        // Nobody listens when the server is gone.
        let _ = done.send(accepted.map(|()| graceful));
    };
    std::thread::Builder::new().name("accept".to_owned()).spawn(accepting)?;
    graceful.await.map_err(io::Error::other)?
}
