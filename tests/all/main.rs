//! All tests that need namespaces, root or the compiled data plane: one binary.

mod lab_test;
mod bpf;
mod load_test;
mod net_test;
mod reflect;
mod topology_test;
