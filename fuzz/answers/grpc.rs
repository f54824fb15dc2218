//! Answers to checks by gRPC: any bytes, and right frames with any message, status and words.

use lb_userspace::health::recorded::{Recorded, grpc};
use lb_userspace::model::GrpcCheck;

use super::checked;
use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, begin, field, frame};

/// The bytes choose a check and what the target says.
pub(super) fn run(bytes: &[u8]) {
    let Some((&[choice, length], said)) = bytes.split_first_chunk() else {
        return;
    };
    let check = GrpcCheck {
        service: String::new(),
        host: None,
    };
    let answer = match choice & 1 {
        0 => said.to_vec(),
        _ => {
            let (message, words) = said.split_at(said.len().min(length.into()));
            let status: &[u8] = match choice >> 1 & 3 {
                0 => b"5",
                1 => b"99",
                _ => b"0",
            };
            let status = field(b"grpc-status", status);
            let trailers = [status, field(b"grpc-message", words)].concat();
            let data = match choice & 8 {
                0 => message.to_vec(),
                // With its head, so that what follows is read.
                _ => [&[0, 0, 0, 0, message.len() as u8], message].concat(),
            };
            [
                begin(),
                frame(DATA, 0, &data),
                frame(HEADERS, END_STREAM | END_HEADERS, &trailers),
            ]
            .concat()
        }
    };
    let target = Recorded::new(&answer, usize::MAX);
    checked::verdict(&checked::wait(grpc(target, &check)));
}
