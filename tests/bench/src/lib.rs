//! What the benchmarks share: meshes of any size, certificates, processes as the kernel counts them, and the report.

pub mod authority;
pub mod control;
pub mod process;
pub mod report;
pub mod world;
