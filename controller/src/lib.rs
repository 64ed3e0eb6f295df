//! The controller.

pub mod xds;
