//! The demo's application: a store, its warehouse, callers and a load generator, in one small binary.
//!
//! ```text
//!  bookbuyer, bookthief, load ──GET /books──▶ bookstore (v1, v2) ──POST /restock──▶ warehouse
//! ```
//!
//! It knows nothing of the mesh. It shuts down as a well-behaved Kubernetes application does: after SIGTERM it
//! finishes what it has begun.

mod call;
mod load;
mod server;
mod streams;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serves books.
    Store(server::Store),
    /// Restocks stores.
    Warehouse(server::Warehouse),
    /// Does nothing until it is told to end; a place to run `bookstore call` in.
    Idle,
    /// Calls a URL a number of times and prints who answered what, as JSON.
    Call(call::Call),
    /// Gives back whatever it gets: raw TCP, WebSocket, gRPC streams.
    Echo,
    /// Says a word to an `echo` over TCP and prints what came of it, as JSON.
    Say(streams::Say),
    /// Holds connections of every kind to an `echo` until SIGTERM, and prints counters.
    Talk(streams::Talk),
    /// Calls a URL over and over until SIGTERM, on short and on kept-alive connections, and prints counters.
    Load(load::Load),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().role {
        Role::Store(store) => server::store(store).await,
        Role::Warehouse(warehouse) => server::warehouse(warehouse).await,
        Role::Idle => terminated().await,
        Role::Call(call) => call::run(call).await,
        Role::Load(load) => load::run(load).await,
        Role::Echo => streams::echo().await,
        Role::Say(say) => streams::say(say).await,
        Role::Talk(talk) => streams::talk(talk).await,
    }
}

/// Completes at SIGTERM or SIGINT.
async fn terminated() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
