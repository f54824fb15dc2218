//! Answers to checks by gRPC.
#![no_main]

#[path = "answers/checked.rs"]
mod checked;
#[path = "answers/frames.rs"]
mod frames;
#[path = "answers/grpc.rs"]
mod grpc;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| grpc::run(bytes));
