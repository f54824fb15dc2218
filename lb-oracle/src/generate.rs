//! Cases out of choices: every field of maps and packets may be anything, but most are what makes sense together,
//! so that packets get far.

mod around;
mod choices;
mod complaint;
mod idle;
mod mutation;
mod packet;
mod reach;
mod sctp;
mod tags;
mod twin;
mod world;

use lb_common::flow::EPOCH_SHIFT;
use lb_ebpf::fixture::START;

use crate::case::{Case, Scene};

pub use choices::Choices;

/// Epochs that a case lasts at most, flows' ages before it included: ages are counted modulo sixteen, and it is the
/// control plane's sweep that keeps old ones from being taken for young.
const MOST_EPOCHS: u64 = 14;
/// The largest age of a flow at the beginning.
const MOST_AGE: u64 = 5;

/// A case by its number: the same in every run and on every machine.
pub fn numbered(number: u64) -> Case {
    case(&mut Choices::numbered(number))
}

/// The case that a fuzzer's bytes choose.
pub fn chosen(bytes: &[u8]) -> Case {
    case(&mut Choices::given(bytes))
}

fn case(choices: &mut Choices<'_>) -> Case {
    let mut world = world::world(choices);
    let mtu = *choices.of(&[1500, 200, 120, 1280]);
    let tagging = tags::tagging(choices);
    let mut changes = world::Changes::of(&world);
    let mut at = START;
    let scenes = 1 + choices.below(10);
    let scenes = (0..scenes).map(|number| {
        if number > 0 {
            at = later(choices, at);
        }
        let changes = match choices.one_in(2) {
            true => changes.some(choices),
            false => Vec::new(),
        };
        let packets = 1 + choices.below(24);
        let arrivals = (0..packets).map(|_| packet::arrival(choices, &world, mtu, &tagging));
        Scene {
            at,
            changes,
            packets: arrivals.collect(),
        }
    });
    let mut scenes: Vec<Scene> = scenes.collect();
    around::change(choices, &world, &tagging, &mut scenes);
    let room = around::room(choices);
    twin::add(choices, &mut world, &tagging, &mut scenes);
    // What is new is drawn last, so that older choices keep their meaning.
    idle::vary(choices, &mut world);
    idle::reload(choices, &world, &mut scenes);
    Case {
        world,
        mtu,
        tagging,
        room,
        scenes,
    }
}

/// Some time later: none, within the second, seconds, epochs.
fn later(choices: &mut Choices<'_>, at: u64) -> u64 {
    let by = match choices.below(6) {
        0 => 0,
        1 => 1 << 20,
        2 => (1 + choices.below(3) as u64) << 30,
        3 => 1 << EPOCH_SHIFT,
        _ => (1 + choices.below(5) as u64) << EPOCH_SHIFT,
    };
    let end = START + ((MOST_EPOCHS - MOST_AGE) << EPOCH_SHIFT);
    (at + by).min(end)
}
