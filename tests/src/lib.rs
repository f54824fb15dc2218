//! The lab and the test support.
