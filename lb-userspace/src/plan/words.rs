//! The fast path of a plan: what live backends may do and which way leads to them. One store each,
//! in time that grows with what changed, never with the rings.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Device, NextHop, Permissions};

use crate::dataplane::{Image, MapOp};
use crate::state::Word;

/// Operations for the words in `wanted` of backends that are live, and for the next hops and
/// interfaces they need. Losses first, but for those that wait (see [`late`]).
pub fn plan_words(
    from: &Image,
    wanted: &BTreeMap<u32, Word>,
    next_hops: &BTreeMap<u32, NextHop>,
    devices: &BTreeMap<u32, Device>,
) -> Vec<MapOp> {
    let waiting = waiting(from, wanted);
    let mut ops = Vec::new();
    let mut rest = Vec::new();
    for (&id, word) in wanted {
        let Some(entry) = from.backends.get(&id) else {
            continue;
        };
        let before = Word {
            permissions: entry.permissions,
            next_hop: entry.next_hop,
        };
        let waits = waiting.contains(&entry.service);
        let (had, has) = (before.permissions.0, word.permissions.0);
        let lost = lost(before.permissions, word.permissions);
        let kept = match lost != 0 && !waits {
            true => Word {
                permissions: Permissions(had & has & !SIGNS | has & SIGNS),
                ..before
            },
            false => before,
        };
        if kept != before {
            ops.push(set(id, kept));
        }
        let late = if waits { lost } else { 0 };
        let full = Word {
            permissions: Permissions(has | late),
            next_hop: word.next_hop,
        };
        if full != kept {
            rest.push(set(id, full));
        }
    }
    for (&slot, device) in devices {
        if from.devices.get(&slot) != Some(device) {
            ops.push(MapOp::WriteDevice {
                slot,
                device: *device,
            });
        }
    }
    for (&index, hop) in next_hops {
        if from.next_hops.get(&index) != Some(hop) {
            ops.push(MapOp::WriteNextHop { index, hop: *hop });
        }
    }
    ops.extend(rest);
    ops
}

/// The image after operations of [`plan_words`].
pub fn take_words(image: &mut Image, ops: &[MapOp]) {
    for op in ops {
        match op {
            MapOp::SetBackendWord {
                id,
                permissions,
                next_hop,
            } => {
                if let Some(entry) = image.backends.get_mut(id) {
                    entry.permissions = *permissions;
                    entry.next_hop = *next_hop;
                }
            }
            MapOp::WriteNextHop { index, hop } => {
                image.next_hops.insert(*index, *hop);
            }
            MapOp::WriteDevice { slot, device } => {
                image.devices.insert(*slot, *device);
            }
            _ => {}
        }
    }
}

/// The losses that [`plan_words`] left out, for the time after the rings have been switched.
pub(super) fn late(from: &Image, wanted: &BTreeMap<u32, Word>) -> Vec<MapOp> {
    let waiting = waiting(from, wanted);
    let lost = |id: &u32, word: &Word| {
        from.backends.get(id).is_some_and(|entry| {
            waiting.contains(&entry.service) && lost(entry.permissions, word.permissions) != 0
        })
    };
    wanted
        .iter()
        .filter(|(id, word)| lost(id, word))
        .map(|(&id, word)| set(id, *word))
        .collect()
}

/// Services whose live ring would have nobody who takes new flows, while there is somebody who will be in
/// the new ring.
fn waiting(from: &Image, wanted: &BTreeMap<u32, Word>) -> BTreeSet<u32> {
    let mut candidates = BTreeSet::new();
    for (id, word) in wanted {
        if let Some(entry) = from.backends.get(id)
            && entry.permissions.may_take_new()
            && !word.permissions.may_take_new()
        {
            candidates.insert(entry.service);
        }
    }
    candidates.retain(|service| {
        let Some(image) = from.services.get(service) else {
            return false;
        };
        let takes_new = |id: &u32| {
            let word = wanted.get(id).map(|word| word.permissions);
            let now = from.backends.get(id).map(|entry| entry.permissions);
            word.or(now).is_some_and(Permissions::may_take_new)
        };
        let belongs = |id: &u32| {
            let entry = from.backends.get(id);
            // One that is not in the maps yet belongs to some service that is not waiting for it, or
            // to this one: to wait a millisecond in vain does no harm.
            entry.is_none_or(|entry| entry.service == *service)
        };
        let successor = wanted
            .iter()
            .any(|(id, word)| word.permissions.may_take_new() && belongs(id));
        // Usually the first slots settle it.
        successor && !image.ring.is_empty() && !image.ring.iter().any(takes_new)
    });
    candidates
}

/// What says how something is lost comes with the loss, and goes with the gain.
const SIGNS: u8 = Permissions::RESET | Permissions::DOWN;

/// What a backend no longer may.
fn lost(before: Permissions, after: Permissions) -> u8 {
    before.0 & !after.0 & !SIGNS
}

fn set(id: u32, word: Word) -> MapOp {
    MapOp::SetBackendWord {
        id,
        permissions: word.permissions,
        next_hop: word.next_hop,
    }
}
