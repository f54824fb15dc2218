//! Fairlead's data plane as a library: the whole path of a packet, generic over packet memory
//! ([`frame::Frame`]) and maps ([`tables::Tables`]), so that the same source runs under
//! `cargo test` and under the kernel's verifier.
//!
//! Start reading at [`pipeline::process`].
#![cfg_attr(not(any(test, feature = "mem")), no_std)]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics, asm_experimental_arch),
    allow(internal_features)
)]

pub mod admission;
pub mod affinity;
pub mod bench;
pub mod checksum;
pub mod decap;
pub mod eviction;
#[cfg(feature = "mem")]
pub mod fixture;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod frame;
pub mod icmp;
#[cfg(feature = "mem")]
pub mod mem;
mod message;
pub mod mss;
pub mod nat;
mod other;
pub mod parse;
pub mod path;
pub mod pipeline;
pub mod probe;
#[cfg(test)]
mod props;
pub mod quic;
pub mod ranges;
pub mod reply;
pub mod reset;
pub mod schedule;
mod segment;
pub mod service;
pub mod tables;
pub mod timing;
pub mod tunnel;
pub mod verdict;
pub mod vlan;
pub mod wire;
