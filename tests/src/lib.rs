//! The lab and the test support: networks made of namespaces, servers, load, faults, observation.

pub mod bench;
mod bpf;
pub mod capture;
pub mod controlbench;
pub mod daemon;
pub mod decap;
pub mod disk;
pub mod failoverbench;
pub mod inject;
pub mod inventory;
pub mod kernel;
pub mod lab;
pub mod law;
pub mod load;
pub mod netbench;
pub mod saved_syn;
pub mod server;
pub mod soak;
pub mod stalls;
pub mod topology;
