//! The binding of the data plane to XDP.
#![no_std]
#![no_main]
