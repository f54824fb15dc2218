//! A smaller case that fails as well: what is left out, scene by scene, packet by packet, makes no difference.

use crate::case::{Case, Scene};

/// Leaves out what can be left out while the case still fails. `fails` is asked at most some thousand times.
pub fn shrink(case: &Case, fails: &mut dyn FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    loop {
        let mut smaller = false;
        for cut in CUTS {
            let mut index = 0;
            let mut count = best.packets().max(8).div_ceil(2);
            while count > 0 {
                let mut tried = best.clone();
                if !cut(&mut tried, index, count) {
                    (index, count) = (0, count / 2);
                    continue;
                }
                if fails(&tried) {
                    best = tried;
                    smaller = true;
                } else {
                    index += count;
                }
            }
        }
        if !smaller {
            return best;
        }
    }
}

/// Removes up to `count` things from number `index` on; false: there is no such thing.
type Cut = fn(&mut Case, usize, usize) -> bool;

const CUTS: [Cut; 6] = [scenes, packets, changes, first_changes, presets, tails];

fn drain<T>(list: &mut Vec<T>, index: usize, count: usize) -> bool {
    let end = (index + count).min(list.len());
    let any = index < end;
    if any {
        list.drain(index..end);
    }
    any
}

fn scenes(case: &mut Case, index: usize, count: usize) -> bool {
    drain(&mut case.scenes, index, count)
}

/// Removes from what all scenes have of something, as if it were one list.
fn within<T>(
    case: &mut Case,
    index: usize,
    count: usize,
    list: fn(&mut Scene) -> &mut Vec<T>,
) -> bool {
    let mut number = 0;
    for scene in &mut case.scenes {
        list(scene).retain(|_| {
            number += 1;
            !(index..index + count).contains(&(number - 1))
        });
    }
    index < number
}

fn packets(case: &mut Case, index: usize, count: usize) -> bool {
    within(case, index, count, |scene| &mut scene.packets)
}

fn changes(case: &mut Case, index: usize, count: usize) -> bool {
    within(case, index, count, |scene| &mut scene.changes)
}

fn first_changes(case: &mut Case, index: usize, count: usize) -> bool {
    drain(&mut case.world.changes, index, count)
}

fn presets(case: &mut Case, index: usize, count: usize) -> bool {
    drain(&mut case.world.presets, index, count)
}

/// The last bytes of a packet.
fn tails(case: &mut Case, index: usize, count: usize) -> bool {
    let scenes = case.scenes.iter_mut();
    let Some(packet) = scenes.flat_map(|scene| &mut scene.packets).nth(index) else {
        return false;
    };
    let length = packet.frame.len();
    packet.frame.truncate(length.saturating_sub(count).max(14));
    packet.frame.len() < length
}
