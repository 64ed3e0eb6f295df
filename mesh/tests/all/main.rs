//! Tests of the mesh model: pure tables, goldens, properties, and real Envoys.
#![allow(clippy::unwrap_used, missing_docs)]

mod decide;
mod envoy;
mod index;
mod ingest;
mod order;
mod pure;
mod render;
mod seal;
mod view;
mod world;
