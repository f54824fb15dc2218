//! Answers to checks by HTTP/1.1.
#![no_main]

#[path = "answers/checked.rs"]
mod checked;
#[path = "answers/http.rs"]
mod http;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| http::run(bytes));
