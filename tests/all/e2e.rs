//! The balancer with real traffic: what it does on a good day.

mod agents;
mod change;
mod checks;
mod choices;
mod encapsulation;
pub(crate) mod examples;
mod failover;
mod fragments;
mod fullnat;
mod gigabyte;
mod idle;
mod interfaces;
mod iperf;
mod lab;
mod neighbours;
mod passive;
mod path_mtu;
mod patient;
mod policies;
mod quic;
mod ranges;
mod real_path;
mod restart;
mod schedulers;
mod traffic;
mod tunnel;
