//! Fairlead's control plane.
//!
//! `foo.rs` decides and is pure: no clock, socket, file, environment or randomness. `foo/*.rs` acts.
//! Dependencies point one way: `model <- {maglev, health, state} <- desired <- plan <- reconcile
//! <- daemon <- main`.

// The fuzzers' code names this crate, here as elsewhere.
#[cfg(test)]
extern crate self as lb_userspace;

pub mod agent;
pub mod announce;
mod apart;
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod decap;
pub mod desired;
pub mod embedded;
pub mod event;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod fixture;
pub mod health;
pub mod hooks;
pub mod ids;
pub mod latency;
pub mod load;
pub mod logging;
pub mod maglev;
pub mod metrics;
pub mod model;
pub mod neigh;
pub mod passive;
pub mod plan;
mod pool;
pub mod privileges;
pub mod reconcile;
pub mod rota;
pub mod saving;
pub mod slow_start;
pub mod state;
pub mod status;
pub mod store;
pub mod tiers;
pub mod turns;
pub mod velocity;
pub mod why;
