//! All tests that need namespaces, root or the compiled data plane: one binary.

mod bench;
mod bpf;
mod e2e;
mod fault;
mod lab_test;
mod load_test;
mod net_test;
mod netbench;
mod ops;
mod prog;
mod reflect;
mod stage;
mod storm;
mod topology_test;
