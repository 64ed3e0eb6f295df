//! The injector's tests over its public functions.

mod golden;
mod rules;
