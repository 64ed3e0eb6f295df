//! What the benchmarks share: meshes of any size, certificates, processes as the kernel counts them, the report and its figures.

pub mod authority;
pub mod control;
pub mod figures;
pub mod process;
pub mod report;
pub mod world;
