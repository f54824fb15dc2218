//! Fairlead's data plane as a library: the whole path of a packet, generic over packet memory
//! ([`frame::Frame`]) and maps ([`tables::Tables`]), so that the same source runs under
//! `cargo test` and under the kernel's verifier.
#![cfg_attr(not(any(test, feature = "mem")), no_std)]

pub mod frame;
pub mod tables;
pub mod verdict;
