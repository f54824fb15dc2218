//! The balancer with real traffic: what it does on a good day.

mod change;
mod restart;
mod traffic;
