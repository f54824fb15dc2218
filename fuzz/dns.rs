//! Answers to checks by DNS.
#![no_main]

#[path = "answers/checked.rs"]
mod checked;
#[path = "answers/dns.rs"]
mod dns;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dns::run(bytes));
