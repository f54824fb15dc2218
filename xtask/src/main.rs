//! Builds, tests and runs Fairlead.
fn main() {}
