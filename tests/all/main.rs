//! All tests that need namespaces, root or the compiled data plane: one binary.

mod topology_test;
