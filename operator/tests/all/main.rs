//! Tests of the operator against a real API server. They fail, with words, when there is none.

mod cluster;
mod control_plane;
mod lease;
mod policy_source;
mod upgrade;
