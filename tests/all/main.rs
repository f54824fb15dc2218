//! All tests that need namespaces, root or the compiled data plane: one binary.

mod load_test;
mod net_test;
mod topology_test;
