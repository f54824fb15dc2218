//! The balancer with real traffic: what it does on a good day.

mod change;
mod lab;
mod restart;
mod traffic;
mod tunnel;
