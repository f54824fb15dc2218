//! The balancer on a bad day. Names begin with the number in the fault catalogue.

mod backend;
mod config;
mod link;
mod operator;
mod process;
