//! What belonged to a bond and does not any more. Clients whose packets came by it are the bond's still: until their next packet says
//! so, their replies find, in the slot of the interface that left, the way out by the bond.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{Device, Tags, backend::device_slot};

use super::State;

/// The bond of an interface that the maps name.
pub(super) fn bond_of(device: &Device) -> Option<u32> {
    (device.tags == Tags::NONE && device.port != device.ifindex).then_some(device.port)
}

/// What the map holds for interfaces that left a bond, `departed`: by index, with the bond's. They leave as that one of `others` does, and
/// none of them takes a slot of these; of two in one slot, the later one stays.
pub(super) fn devices(departed: &BTreeMap<u32, u32>, others: &[Device]) -> Vec<Device> {
    let slots = others.iter().map(|device| device_slot(device.ifindex));
    let mut taken: BTreeSet<u32> = slots.collect();
    let mut found = Vec::new();
    for (ifindex, bond) in departed.iter().rev() {
        if let Some(bond) = others.iter().find(|device| device.ifindex == *bond)
            && taken.insert(device_slot(*ifindex))
        {
            found.push(Device {
                ifindex: *ifindex,
                ..*bond
            });
        }
    }
    found
}

impl State {
    /// An interface belonged to the first bond, and belongs to the second now.
    pub(super) fn changes_bond(&mut self, ifindex: u32, before: Option<u32>, now: Option<u32>) {
        match (before, now) {
            (_, Some(_)) => drop(self.departed.remove(&ifindex)),
            (Some(bond), None) => drop(self.departed.insert(ifindex, bond)),
            (None, None) => {}
        }
    }

    /// An interface is gone: if it was a bond, nothing leaves by it any more.
    pub(super) fn forget_bond(&mut self, ifindex: u32) {
        self.departed.retain(|_, bond| *bond != ifindex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_left_gives_way_to_who_is_there_and_to_who_left_later() {
        let (old, new, other, elsewhere) = (5, 5 + 4096, 6 + 4096, 7);
        let departed = BTreeMap::from([(old, 3), (new, 3), (6, 3), (elsewhere, 4)]);
        let bond = Device::plain(3, 9000, [2; 6]);
        let there = Device::plain(other, 1500, [1; 6]);
        let found = devices(&departed, &[bond, there]);
        let expected = Device::plain(new, 9000, [2; 6]).through(3, Tags::NONE);
        assert_eq!(found, [expected]);
        assert_eq!(bond_of(&expected), Some(3));
        assert_eq!(bond_of(&there), None);
    }
}
