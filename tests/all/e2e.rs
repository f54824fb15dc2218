//! The balancer with real traffic: what it does on a good day.

mod change;
mod lab;
mod patient;
mod restart;
mod traffic;
mod tunnel;
