//! The controller.

pub mod certificates;
pub mod xds;
