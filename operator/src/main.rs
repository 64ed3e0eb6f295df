//! `meshwright-operator`: parses flags, waits to lead, runs the three reconcilers.
fn main() {}
