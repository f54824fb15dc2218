//! All tests that need namespaces, root or the compiled data plane: one binary.

mod bench;
mod bpf;
mod controlbench;
#[cfg(feature = "devices")]
mod devices;
mod e2e;
mod failoverbench;
mod fault;
mod flood;
mod lab_test;
mod law_test;
mod load_test;
mod net_test;
mod netbench;
mod ops;
mod prog;
mod races;
mod reflect;
mod soak;
mod spread;
mod stage;
mod storm;
mod topology_test;
