//! A certificate from the controller, as sidecars and daemons get theirs: everything but the connection.
//!
//! ```text
//!  key_and_request ──▶ POST /v1/certificates ──▶ accept ──▶ Identity {chain, key, roots, renew_at} ─┐
//!        ▲                                         └─▶ AnswerError: the old one stays               │
//!        │ renew_at, or another root shall sign                                                     │
//!        └────────────── Wanted ◀── told ◀── POST /v1/holdings ◀── report ◀── Held ◀────────────────┘
//!                          └─ Heard: a word that is older than one that was heard is not believed at once
//! ```
//!
//! * [`request`]: a new key for every certificate, and what proves who asks.
//! * [`answer`]: what a controller answers is believed only for our key and our name, signed by one of the roots that come
//!   with it, and not over.
//! * [`holding`]: what is held, and what a controller wants to be held (docs/ARCHITECTURE.md, "Root rotation").
//! * [`heard`]: which of two controllers knows better.
//!
//! Pure but for the key: no sockets, no files, no clock. Used by `proxy` and by `runtime` (for the daemons); it depends on
//! none of our crates, and on nothing that a sidecar does not have anyway.

pub mod answer;
pub mod heard;
pub mod holding;
pub mod request;

#[cfg(test)]
mod testing;

pub use answer::{AnswerError, Expected, Identity, PrivateKey, accept, end_of};
pub use heard::Heard;
pub use holding::{Held, Trust, Wanted, report, told};
/// The key of a request, until its answer has come.
pub use rcgen::KeyPair;
pub use request::{RequestError, bearer, key_and_request};

/// Where a certificate is asked for.
pub const CERTIFICATES: &str = "/v1/certificates";
/// Where it is told what is held.
pub const HOLDINGS: &str = "/v1/holdings";
/// Content type of a request for a certificate.
pub const CSR_TYPE: &str = "application/x-pem-file";
/// Longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 256 * 1024;
/// How long a controller may take, from connecting to the last byte.
pub const TIME_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
