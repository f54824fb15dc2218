//! Answers to checks by HTTP/2.
#![no_main]

#[path = "answers/checked.rs"]
mod checked;
#[path = "answers/frames.rs"]
mod frames;
#[path = "answers/http2.rs"]
mod http2;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http2::run(bytes));
