//! What is around packets: how large they may be on their ways, the room before their frames, and where the control plane has written what they are looked up by.
//! Chosen after all else, so that the bytes of a fuzzer that chose a case before there was this choose it still.

use lb_ebpf::{
    fixture::{
        tagging::Tagging,
        world::{Change, World},
    },
    mem::MemFrame,
};

use super::{Choices, packet};
use crate::case::Scene;

/// MTUs of next hops, in bytes.
const MTUS: [u32; 10] = [1500, 1501, 1499, 2900, 2999, 9000, 65_535, 1280, 600, 120];
/// The largest packet that is drawn here is somewhat larger than this: `BPF_PROG_TEST_RUN` takes frames of about 3500 bytes.
const LARGE: u32 = 3000;

/// Changes some scenes.
pub(super) fn change(
    choices: &mut Choices<'_>,
    world: &World,
    tagging: &Tagging,
    scenes: &mut [Scene],
) {
    if world.backends.is_empty() {
        return;
    }
    if choices.one_in(3) {
        for scene in scenes.iter_mut() {
            sizes(choices, world, tagging, scene);
        }
    }
    for scene in scenes {
        if choices.one_in(4) {
            scene.changes.push(Change::Republish);
        }
    }
}

/// Bytes before each frame: mostly enough, or too few for some of what is put there, which is a multiple of four bytes.
pub(super) fn room(choices: &mut Choices<'_>) -> u16 {
    match choices.one_in(6) {
        true => 4 * choices.below(16) as u16,
        false => MemFrame::ROOM,
    }
}

/// Some next hops get an MTU of their own, and packets come that are about as large.
fn sizes(choices: &mut Choices<'_>, world: &World, tagging: &Tagging, scene: &mut Scene) {
    for _ in 0..choices.below(4) {
        let hop = choices.below(world.backends.len()) as u32;
        let mtu = *choices.of(&MTUS);
        scene.changes.push(Change::Mtu(hop, mtu));
        for _ in 0..choices.below(4) {
            let size = mtu.min(LARGE);
            scene
                .packets
                .push(packet::large(choices, world, size, tagging));
        }
    }
}
