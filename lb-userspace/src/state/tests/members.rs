//! Interfaces come to a bond and leave it.

use super::*;
use crate::model::Link;

const BOND: u32 = 1;

fn member(ifindex: u32, bond: Option<u32>) -> Link {
    Link {
        ifindex,
        name: format!("eth{ifindex}"),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: bond.is_some(),
        bond,
        ..Link::default()
    }
}

/// Each interface of the map and the one that its frames leave by.
fn ports(state: &State) -> Vec<(u32, u32)> {
    let devices = state.devices().values();
    devices
        .map(|device| (device.ifindex, device.port))
        .collect()
}

#[test]
fn replies_find_the_bond_where_an_interface_was_that_has_left_it() {
    let mut sim = running(config(WEB));
    for ifindex in [5, 6] {
        sim.event(Event::Link(member(ifindex, Some(BOND))));
    }
    let all = [(BOND, BOND), (5, BOND), (6, BOND)];
    assert_eq!(ports(&sim.state), all);
    // One leaves, the other is deleted.
    sim.event(Event::Link(member(5, None)));
    sim.event(Event::LinkGone { ifindex: 6 });
    assert_eq!(ports(&sim.state), all);
    // An interface of its own: the way to a backend leaves by it.
    sim.event(Event::Link(Link {
        up: true,
        ..member(5, None)
    }));
    sim.route(ip("10.0.0.2"), 5, 7);
    assert_eq!(ports(&sim.state), [(BOND, BOND), (5, 5), (6, BOND)]);
    sim.route(ip("10.0.0.2"), BOND, 7);
    assert_eq!(ports(&sim.state), all);
    // Without the bond there is no way out.
    sim.event(Event::LinkGone { ifindex: BOND });
    assert_eq!(ports(&sim.state), []);
    sim.event(Event::Link(link(1, true)));
    assert_eq!(ports(&sim.state), [(BOND, BOND)]);
}

#[test]
fn what_has_left_a_bond_is_known_after_a_restart() {
    let mut sim = running(config(WEB));
    for bond in [Some(BOND), None] {
        sim.event(Event::Link(member(5, bond)));
    }
    let mut again = sim.restarted(config(WEB), sim.now);
    for link in [member(5, None), link(1, true)] {
        again.event(Event::Link(link));
        assert_eq!(ports(&again.state), [(BOND, BOND), (5, BOND)]);
    }
}
