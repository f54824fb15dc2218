//! Frames changed in every way that a line, a bug or an attacker may change them.

use super::Choices;

/// Values of header fields that decide about a packet's way.
const TELLING: [u8; 18] = [
    0, 1, 4, 5, 6, 8, 11, 14, 17, 44, 47, 58, 132, 0x45, 0x60, 0x80, 0x81, 0xff,
];
/// The least that a kernel takes for a frame.
const SHORTEST: usize = 14;

/// The frame with one to three changes; at least an Ethernet header long.
pub(super) fn mutate(choices: &mut Choices<'_>, mut frame: Vec<u8>) -> Vec<u8> {
    for _ in 0..1 + choices.below(3) {
        change(choices, &mut frame);
    }
    if frame.len() < SHORTEST {
        frame.resize(SHORTEST, 0);
    }
    frame
}

/// The frame with a change in what is before an IP header.
pub(super) fn mutate_head(choices: &mut Choices<'_>, mut frame: Vec<u8>) -> Vec<u8> {
    let at = choices.below(24);
    let byte = match choices.one_in(2) {
        true => choices.byte(),
        false => *choices.of(&[0, 8, 0x81, 0x86, 0x88, 0xa8, 0xdd]),
    };
    if let Some(place) = frame.get_mut(at) {
        *place = byte;
    }
    frame
}

fn change(choices: &mut Choices<'_>, frame: &mut Vec<u8>) {
    let length = frame.len().max(1);
    let at = match choices.below(4) {
        // Mostly headers, where it matters.
        0..=2 => choices.below(length.min(90)),
        _ => choices.below(length),
    };
    let put = |frame: &mut Vec<u8>, at: usize, byte: u8| {
        if let Some(place) = frame.get_mut(at) {
            *place = byte;
        }
    };
    match choices.below(16) {
        0..=3 => {
            let bit = 1 << choices.below(8);
            let byte = frame.get(at).copied().unwrap_or_default();
            put(frame, at, byte ^ bit);
        }
        4..=6 => put(frame, at, choices.byte()),
        7..=10 => put(frame, at, *choices.of(&TELLING)),
        11 => {
            let word = (choices.word() as u16).to_be_bytes();
            put(frame, at & !1, word[0]);
            put(frame, at | 1, word[1]);
        }
        12 => frame.truncate(at.max(SHORTEST)),
        13 => {
            let byte = choices.byte();
            let longer = frame.len() + choices.below(64);
            frame.resize(longer, byte);
        }
        14 => {
            let end = (at + 1 + choices.below(24)).min(frame.len());
            frame.drain(at.min(end)..end);
        }
        _ => {
            let count = 1 + choices.below(24);
            let bytes: Vec<u8> = (0..count).map(|_| choices.byte()).collect();
            let at = at.min(frame.len());
            frame.splice(at..at, bytes);
        }
    }
}
