//! Fetches one commit in a process of its own, which has no rights and is killed at its deadline.
//!
//! ```text
//!   operator                                         child: the same program with the verb `git-worker`
//!  ┌──────────────────────────┐   stdin: request    ┌──────────────────────────────────────────────┐
//!  │ Worker::fetch            │────────────────────▶│ child::serve: limits, Landlock, seccomp      │
//!  │  addresses: may we?      │   stdout: frames    │  └─ git::fetch (libgit2) ─▶ files, problems  │
//!  │  protocol: every byte of │◀────────────────────│                                              │
//!  │  it is somebody else's   │                     └───────┬──────────────────────────────────────┘
//!  │  relay ◀──────────────────────── loopback ─────────────┘
//!  └────┬─────────────────────┘
//!       └──▶ the one address that was checked
//! ```
//!
//! Whoever takes over the child by a crafted pack finds an empty environment, a folder of its own that goes away, no
//! token, no way to start a program or to reach another process, and a network that consists of one repository's
//! server. What the kernel cannot enforce is told in the answer ([`Confinement`]), never assumed.

mod addresses;
pub mod child;
mod client;
mod confine;
mod head;
mod protocol;
mod relay;
mod server;

pub use addresses::{Addresses, Range};
pub use client::{Ended, Limits, Program, Worker, sweep};
pub use confine::{Confinement, Enforced, Needs, enter};

/// Whether bytes are an answer of a child that the operator takes.
pub(crate) fn is_answer(mut bytes: &[u8]) -> bool {
    protocol::read_answer(&mut bytes).is_ok()
}
