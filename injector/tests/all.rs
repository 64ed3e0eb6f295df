//! The injector's tests over its public functions.

mod admission;
mod golden;
mod rules;
mod validate;
