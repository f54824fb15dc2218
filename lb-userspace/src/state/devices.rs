//! Map `devices`: the interfaces that packets may leave by, where their frames leave the machine, and which tags lead to
//! which of them.
//!
//! Pure, and the same for the same links, but for one thing: what leads to a VLAN's interface stays in its slot, so that
//! no frame misses it while another comes.

use std::collections::BTreeMap;

use bytemuck::Zeroable;
use lb_common::{
    Device, Tags,
    backend::{DEVICES, device_slot},
    vlan,
};

use crate::model::{Link, link};

/// Bytes by which a frame that is redirected may be longer than the interface's MTU and an Ethernet header (`xdp_ok_fwd_dev`:
/// one tag).
const ONE_TAG: u32 = 4;

/// What the map holds for one interface, without what its slot says of others. `None`: its frames neither come nor leave: it is
/// that of a VLAN and down, or stands on nothing here.
pub(super) fn device(link: &Link, links: &BTreeMap<u32, Link>) -> Option<Device> {
    let port = link::port(link, |ifindex| links.get(&ifindex)).ok()?;
    if link.vlan.is_some() && !link.up {
        return None;
    }
    let tags = (port.tags.count() as u32).saturating_mul(ONE_TAG);
    let room = links.get(&port.ifindex).map_or(u32::MAX, |port| port.mtu);
    let room = room
        .saturating_add(ONE_TAG)
        .saturating_sub(tags.max(ONE_TAG));
    // What belongs to a bond leaves by it, as the bond (`fail_over_mac` gives each its own address otherwise).
    let mac = match link.bond {
        Some(bond) => links.get(&bond).map_or(link.mac, |bond| bond.mac),
        None => link.mac,
    };
    let device = Device::plain(link.ifindex, link.mtu.min(room), mac);
    Some(device.through(port.ifindex, port.tags))
}

/// The whole map. `devices`: one for each interface; of two in one slot the first stays, and one without
/// tags before one with. `before`: the map as it was.
pub(super) fn arrange(
    devices: impl IntoIterator<Item = Device>,
    before: &BTreeMap<u32, Device>,
) -> BTreeMap<u32, Device> {
    let mut map: BTreeMap<u32, Device> = BTreeMap::new();
    let (tagged, plain): (Vec<Device>, Vec<Device>) = devices
        .into_iter()
        .partition(|device| device.tags != Tags::NONE);
    for device in plain.into_iter().chain(tagged) {
        let slot = device_slot(device.ifindex);
        map.entry(slot).or_insert(Device { vlan: 0, ..device });
    }
    let mut waiting: BTreeMap<u32, (u32, Tags)> = map
        .values()
        .filter(|device| device.tags != Tags::NONE)
        .map(|device| (device.ifindex, (device.port, device.tags)))
        .collect();
    let mut leads: BTreeMap<u32, u32> = BTreeMap::new();
    for (slot, old) in before {
        if let Some((port, tags)) = waiting.get(&old.vlan)
            && candidates(*port, *tags).any(|candidate| candidate == *slot)
        {
            leads.insert(*slot, old.vlan);
            waiting.remove(&old.vlan);
        }
    }
    for (ifindex, (port, tags)) in waiting {
        // None is free only if eight others lead here: its frames are the kernel's then.
        if let Some(slot) = candidates(port, tags).find(|slot| !leads.contains_key(slot)) {
            leads.insert(slot, ifindex);
        }
    }
    for (slot, ifindex) in leads {
        map.entry(slot).or_insert_with(Device::zeroed).vlan = ifindex;
    }
    map
}

/// True if frames with an interface's tags find it.
pub(super) fn leads_to(map: &BTreeMap<u32, Device>, ifindex: u32) -> bool {
    let stands = map.get(&device_slot(ifindex));
    stands.is_some_and(|device| device.ifindex == ifindex)
        && map.values().any(|device| device.vlan == ifindex)
}

fn candidates(port: u32, tags: Tags) -> impl Iterator<Item = u32> {
    let home = vlan::home(port, tags);
    (0..vlan::PROBES).map(move |probe| home.wrapping_add(probe) & (DEVICES - 1))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "figures of tests are small")]
mod tests {
    use lb_common::vlan::TPID_8021Q;

    use super::*;

    fn vlan_device(port: u32, number: u16) -> Device {
        let tags = Tags([Tags::tag(TPID_8021Q, number), [0; 4]]);
        let ifindex = port * 5000 + u32::from(number);
        Device::plain(ifindex, 1500, [2; 6]).through(port, tags)
    }

    /// Where packets find the interfaces of VLANs.
    fn leads(map: &BTreeMap<u32, Device>) -> BTreeMap<u32, u32> {
        let leads = map.iter().filter(|(_, device)| device.vlan != 0);
        leads.map(|(slot, device)| (device.vlan, *slot)).collect()
    }

    #[test]
    fn every_vlan_is_found_near_its_home_and_stays_there_while_others_come_and_go() {
        let ports = [1, 2].map(|port| Device::plain(port, 1500, [2; 6]));
        let all = |numbers: std::ops::Range<u16>| {
            let vlans = numbers.flat_map(|number| [1, 2].map(|port| vlan_device(port, number)));
            ports.into_iter().chain(vlans).collect::<Vec<_>>()
        };
        let before = arrange(all(1..300), &BTreeMap::new());
        let after = arrange(all(150..450), &before);
        for map in [&before, &after] {
            for device in map.values().filter(|device| device.tags != Tags::NONE) {
                let slot = leads(map)[&device.ifindex];
                assert!(candidates(device.port, device.tags).any(|near| near == slot));
            }
            assert_eq!(
                leads(map).len(),
                map.values().filter(|d| d.tagged != 0).count()
            );
        }
        let (old, new) = (leads(&before), leads(&after));
        let stayed = new
            .iter()
            .filter(|(ifindex, slot)| old.get(ifindex) == Some(slot));
        let kept = new
            .keys()
            .filter(|ifindex| old.contains_key(ifindex))
            .count();
        assert_eq!(stayed.count(), kept);
        assert_eq!(kept, 300);
        // In the order of a restart the map is the same, and nothing is left of those that are gone.
        let mut turned = all(150..450);
        turned.reverse();
        assert_eq!(arrange(turned, &after), after);
        assert_eq!(arrange(ports, &after), arrange(ports, &BTreeMap::new()));
    }

    #[test]
    fn of_two_interfaces_in_one_slot_the_first_stays_and_a_slot_may_lead_elsewhere() {
        let (first, second) = (7, 7 + DEVICES);
        let both = [first, second].map(|ifindex| Device::plain(ifindex, 1500, [2; 6]));
        let map = arrange(both, &BTreeMap::new());
        assert_eq!(map.values().map(|d| d.ifindex).collect::<Vec<_>>(), [first]);
        let tagged = vlan_device(1, 9);
        let home = vlan::home(tagged.port, tagged.tags);
        let at_home = Device::plain(home + DEVICES, 1500, [2; 6]);
        let map = arrange([at_home, tagged], &BTreeMap::new());
        let expected = Device {
            vlan: tagged.ifindex,
            ..at_home
        };
        assert_eq!(map[&home], expected);
    }
}
