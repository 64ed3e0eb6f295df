//! injector
fn main() {}
