//! Tests of the mesh model: pure tables, goldens, properties, and real Envoys.
#![allow(clippy::unwrap_used, missing_docs)]
// Literals read better without a & before each.
#![allow(clippy::needless_pass_by_value)]

mod addresses;
mod authors;
mod bombs;
mod budgets;
mod corpus;
mod decide;
mod dual;
mod envoy;
mod floors;
mod hostile;
mod incremental;
mod index;
mod ingest;
mod order;
mod osm;
mod pure;
mod render;
mod seal;
mod services;
mod view;
mod watches;
mod world;
