//! Fairlead.
fn main() {}
