//! Stories of links, routes and neighbours, and the ways that follow.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test is a failed test"
)]

use std::net::Ipv4Addr;

use super::NeighbourState::{Failed, Fixed, Pending, Usable};
use super::hops::spread;
use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUTER: &str = "10.0.0.254";
const NEAR: &str = "10.0.0.1";
const FAR: &str = "10.9.0.1";

/// Something that happens.
enum Do {
    /// Complete set of addresses.
    Follow(&'static [&'static str]),
    /// Interface 7 is called so, and is up or not.
    Link(&'static str, bool),
    LinkGone,
    /// Ways may leave by this interface alone.
    LeaveBy(&'static str),
    /// The interface has this address, ready for use.
    Own(&'static str),
    /// The kernel's routing now sends the address to this one, through interface 7.
    Via(&'static str, &'static str),
    /// ... or nowhere.
    Nowhere(&'static str, &'static str),
    /// Routes to a prefix changed: what is asked again.
    Routes(&'static str, u8, &'static [&'static str]),
    Near(&'static str, NeighbourState, [u8; 6]),
    /// Resolved and kept by the kernel.
    Kept(&'static str, [u8; 6]),
    NearGone(&'static str),
    /// So many milliseconds pass.
    Pass(u64),
}
use Do::*;

struct Story {
    ways: Ways,
    now: u64,
}

impl Story {
    fn run(&mut self, what: &Do) {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let hop = |text: &str| (7, ip(text));
        let entry = |state, mac, managed| Neighbour {
            state,
            mac: Some(mac),
            managed,
        };
        let (ways, now) = (&mut self.ways, self.now);
        match *what {
            Follow(set) => {
                ways.follow(set.iter().map(|a| ip(a)).collect());
                while ways.next_ask().is_some() {}
            }
            Link(name, up) => ways.link(link(name, up), now),
            Own(address) => {
                let address = ip(address);
                let at = InterfaceAddress {
                    ifindex: 7,
                    address,
                    prefix: 64,
                };
                ways.speaks(at, now);
            }
            LinkGone => ways.link_gone(7, now),
            LeaveBy(name) => ways.leave_by([name.to_owned()].into()),
            Via(to, via) => ways.answer(ip(to), Answer::Via(hop(via)), now),
            Nowhere(to, why) => ways.answer(ip(to), Answer::None(why.to_owned()), now),
            Routes(prefix, length, asked) => {
                while ways.next_ask().is_some() {}
                ways.routes_changed(Some((ip(prefix), length)));
                let asks: Vec<_> = std::iter::from_fn(|| ways.next_ask()).collect();
                assert_eq!(asks, asked.iter().map(|a| ip(a)).collect::<Vec<_>>());
            }
            Near(at, state, mac) => ways.neighbour(hop(at), entry(state, mac, false), now),
            Kept(at, mac) => ways.neighbour(hop(at), entry(Usable, mac, true), now),
            NearGone(at) => ways.neighbour_gone(hop(at), now),
            Pass(ms) => self.now += ms * MILLISECOND,
        }
    }

    /// Solicitations that are due and changes, as text.
    fn heard(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        while let Some(Solicit {
            hop,
            managed,
            restart,
        }) = self.ways.next_solicit(self.now)
        {
            let word = match (managed, restart) {
                (true, false) => "solicit",
                (true, true) => "restart",
                (false, _) => "release",
            };
            heard.push(format!("{word} {}", hop.1));
            self.ways.solicited(hop, None);
        }
        for event in self.ways.changes(self.now) {
            heard.push(match event {
                Event::Route { address, route } => match route {
                    Route::Resolved {
                        ifindex,
                        destination,
                        ..
                    } => {
                        format!("{address}: {ifindex} {}", destination[5])
                    }
                    why => format!("{address}: {why}"),
                },
                Event::Link(l) => format!("{} {}", l.name, if l.up { "up" } else { "down" }),
                Event::LinkGone { ifindex } => format!("link {ifindex} gone"),
                other => panic!("no event of ways: {other:?}"),
            });
        }
        heard
    }
}

fn link(name: &str, up: bool) -> LinkState {
    LinkState {
        link: crate::model::Link {
            ifindex: 7,
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 0, 0xee],
            mtu: 1500,
            up,
            ..Default::default()
        },
        ethernet: true,
    }
}

/// After each thing that happens, what is heard.
#[track_caller]
fn check(steps: &[(Do, &[&str])]) {
    let mut story = Story {
        ways: Ways::new(["eth0".to_owned()]),
        now: 1_000_000 * MILLISECOND,
    };
    for (n, (what, expected)) in steps.iter().enumerate() {
        story.run(what);
        assert_eq!(story.heard(), *expected, "after step {n}");
    }
}

const UP: (Do, &[&str]) = (Link("eth0", true), &["eth0 up"]);

#[test]
fn backend_on_link_has_its_own_mac() {
    check(&[
        UP,
        (Follow(&[NEAR]), &[]),
        (Via(NEAR, NEAR), &["solicit 10.0.0.1"]),
        (Kept(NEAR, MAC), &["10.0.0.1: 7 1"]),
        (Kept(NEAR, OTHER), &["10.0.0.1: 7 2"]),
        (Kept(NEAR, OTHER), &[]),
    ]);
}

#[test]
fn backend_behind_a_router_has_the_routers_mac_and_moves_with_the_route() {
    check(&[
        UP,
        (Near(ROUTER, Fixed, MAC), &[]),
        (Near(NEAR, Fixed, OTHER), &[]),
        (Follow(&[FAR]), &[]),
        (Via(FAR, ROUTER), &["10.9.0.1: 7 1"]),
        (Via(FAR, NEAR), &["10.9.0.1: 7 2"]),
        (Nowhere(FAR, "no route"), &["10.9.0.1: no route"]),
    ]);
}

#[test]
fn ipv6_backend_uses_a_link_local_router() {
    check(&[
        UP,
        (Follow(&["fd00::1"]), &[]),
        // Not before our own address can be used: the kernel could not send it.
        (Via("fd00::1", "fe80::9"), &[]),
        (Own("fe80::1"), &["solicit fe80::9"]),
        (Kept("fe80::9", MAC), &["fd00::1: 7 1"]),
    ]);
}

/// A known backend, kept by the kernel.
const KNOWN: [(Do, &[&str]); 4] = [
    UP,
    (Follow(&[NEAR]), &[]),
    (Via(NEAR, NEAR), &["solicit 10.0.0.1"]),
    (Kept(NEAR, MAC), &["10.0.0.1: 7 1"]),
];

#[track_caller]
fn check_known(steps: Vec<(Do, &[&str])>) {
    check(&KNOWN.into_iter().chain(steps).collect::<Vec<_>>());
}

#[test]
fn failed_neighbour_is_unresolved_within_two_milliseconds_and_asked_for_again() {
    check_known(vec![
        (Near(NEAR, Failed, MAC), &[]),
        (Pass(2), &["10.0.0.1: 10.0.0.1 does not answer on eth0"]),
        (Pass(17), &[]),
        (Pass(1), &["solicit 10.0.0.1"]),
        (Near(NEAR, Pending, MAC), &[]),
        (Pass(2_000), &["restart 10.0.0.1"]),
        (Near(NEAR, Failed, MAC), &[]),
        (Kept(NEAR, OTHER), &["10.0.0.1: 7 2"]),
    ]);
}

#[test]
fn never_resolved_neighbour_that_fails_is_unresolved_at_once() {
    check(&[
        UP,
        (Follow(&[NEAR]), &[]),
        (Via(NEAR, NEAR), &["solicit 10.0.0.1"]),
        (Near(NEAR, Pending, MAC), &[]),
        (
            Near(NEAR, Failed, MAC),
            &["10.0.0.1: 10.0.0.1 does not answer on eth0"],
        ),
    ]);
}

#[test]
fn flushed_neighbour_keeps_its_mac_while_it_is_asked_for() {
    check_known(vec![
        (Near(NEAR, Failed, MAC), &[]),
        (NearGone(NEAR), &["solicit 10.0.0.1"]),
        (Near(NEAR, Pending, MAC), &[]),
        (Pass(900), &["restart 10.0.0.1"]),
        (Kept(NEAR, MAC), &[]),
    ]);
}

#[test]
fn flushed_neighbour_that_stays_away_is_unresolved_after_the_grace_time() {
    check_known(vec![
        (NearGone(NEAR), &["solicit 10.0.0.1"]),
        (Pass(999), &["restart 10.0.0.1"]),
        (Pass(1), &["10.0.0.1: 10.0.0.1 does not answer on eth0"]),
    ]);
}

#[test]
fn lost_question_is_asked_again_after_20_60_140_and_300_ms_and_then_by_the_kernel() {
    check(&[
        UP,
        (Follow(&[NEAR]), &[]),
        (Via(NEAR, NEAR), &["solicit 10.0.0.1"]),
        (Pass(20), &["restart 10.0.0.1"]),
        (Pass(39), &[]),
        (Pass(1), &["restart 10.0.0.1"]),
        (Pass(80), &["restart 10.0.0.1"]),
        (Pass(160), &["restart 10.0.0.1"]),
        (Pass(320), &["solicit 10.0.0.1"]),
    ]);
}

#[test]
fn link_down_is_unresolved_at_once_and_up_again_starts_anew() {
    check_known(vec![
        (NearGone(NEAR), &["solicit 10.0.0.1"]),
        (
            Link("eth0", false),
            &[
                "eth0 down",
                "10.0.0.1: interface eth0 is down or has no carrier",
            ],
        ),
        (Pass(5_000), &[]),
        // Who was there before is taken to be there still.
        (
            Link("eth0", true),
            &["restart 10.0.0.1", "eth0 up", "10.0.0.1: 7 1"],
        ),
        (Near(NEAR, Failed, MAC), &[]),
        (Pass(3), &[]),
        (NearGone(NEAR), &[]),
        (Kept(NEAR, OTHER), &["10.0.0.1: 7 2"]),
        // Only the first time.
        (NearGone(NEAR), &["solicit 10.0.0.1"]),
    ]);
}

#[test]
fn who_does_not_answer_on_a_link_that_returned_is_unresolved_after_the_grace_time() {
    check_known(vec![
        (NearGone(NEAR), &["solicit 10.0.0.1"]),
        (
            Link("eth0", false),
            &[
                "eth0 down",
                "10.0.0.1: interface eth0 is down or has no carrier",
            ],
        ),
        (
            Link("eth0", true),
            &["restart 10.0.0.1", "eth0 up", "10.0.0.1: 7 1"],
        ),
        (Pass(999), &["restart 10.0.0.1"]),
        (Pass(1), &["10.0.0.1: 10.0.0.1 does not answer on eth0"]),
    ]);
}

#[test]
fn who_was_gone_before_its_link_is_not_taken_to_be_back() {
    check_known(vec![
        (NearGone(NEAR), &["solicit 10.0.0.1"]),
        (
            Pass(1_000),
            &[
                "restart 10.0.0.1",
                "10.0.0.1: 10.0.0.1 does not answer on eth0",
            ],
        ),
        (
            Link("eth0", false),
            &[
                "eth0 down",
                "10.0.0.1: interface eth0 is down or has no carrier",
            ],
        ),
        (Link("eth0", true), &["restart 10.0.0.1", "eth0 up"]),
        (Kept(NEAR, MAC), &["10.0.0.1: 7 1"]),
    ]);
}

#[test]
fn deleted_and_renamed_links_are_gone() {
    check_known(vec![(
        LinkGone,
        &["link 7 gone", "10.0.0.1: interface 7 of the route is gone"],
    )]);
    check_known(vec![(
        Link("eth9", true),
        &[
            "eth9 up",
            "10.0.0.1: packets would leave by eth9, where no program is attached: add eth9 to `interfaces`",
        ],
    )]);
}

#[test]
fn ways_follow_the_interfaces_they_may_leave_by() {
    check_known(vec![
        (
            LeaveBy("eth9"),
            &[
                "10.0.0.1: packets would leave by eth0, where no program is attached: add eth0 to `interfaces`",
            ],
        ),
        (LeaveBy("eth0"), &["10.0.0.1: 7 1"]),
    ]);
}

#[test]
fn entry_that_the_kernel_does_not_keep_is_used_every_fifteen_to_twenty_seconds() {
    check(&[
        UP,
        (Follow(&[NEAR]), &[]),
        (Via(NEAR, NEAR), &["solicit 10.0.0.1"]),
        (Near(NEAR, Usable, MAC), &["10.0.0.1: 7 1"]),
        (Pass(14_999), &[]),
        (Pass(5_000), &["solicit 10.0.0.1"]),
        (Pass(14_999), &[]),
        (Pass(5_000), &["solicit 10.0.0.1"]),
    ]);
}

#[test]
fn permanent_entry_is_never_used_by_name() {
    check(&[
        UP,
        (Near(NEAR, Fixed, MAC), &[]),
        (Follow(&[NEAR]), &[]),
        (Via(NEAR, NEAR), &["10.0.0.1: 7 1"]),
        (Pass(100_000), &[]),
    ]);
}

#[test]
fn next_hop_that_was_just_asked_for_is_released_too() {
    check(&[
        UP,
        (Follow(&[NEAR]), &[]),
        (Via(NEAR, NEAR), &["solicit 10.0.0.1"]),
        (Near(NEAR, Usable, MAC), &["10.0.0.1: 7 1"]),
        (Follow(&[]), &["release 10.0.0.1"]),
    ]);
}

#[test]
fn next_hop_without_users_is_released() {
    check_known(vec![
        (Follow(&[]), &["release 10.0.0.1"]),
        (Kept(NEAR, OTHER), &[]),
    ]);
}

#[test]
fn group_and_zero_addresses_are_no_destinations() {
    for mac in [[0; 6], [1, 0, 0x5e, 0, 0, 1], [0xff; 6]] {
        check(&[
            UP,
            (Near(NEAR, Fixed, mac), &[]),
            (Follow(&[NEAR]), &[]),
            (Via(NEAR, NEAR), &[]),
            (Pass(1_000), &["10.0.0.1: 10.0.0.1 does not answer on eth0"]),
        ]);
    }
}

#[test]
fn changed_route_asks_again_for_the_addresses_in_it_only() {
    let all: &[&str] = &["10.0.0.1", "10.0.0.2", "10.9.0.1", "fd00::1", "fd00:1::1"];
    check(&[
        (Follow(all), &[]),
        (Routes("10.0.0.2", 32, &["10.0.0.2"]), &[]),
        (Routes("10.0.0.0", 24, &["10.0.0.1", "10.0.0.2"]), &[]),
        (
            Routes("0.0.0.0", 0, &["10.0.0.1", "10.0.0.2", "10.9.0.1"]),
            &[],
        ),
        (Routes("::", 0, &["fd00::1", "fd00:1::1"]), &[]),
        (Routes("fd00::", 64, &["fd00::1"]), &[]),
        (Routes("192.0.2.0", 24, &[]), &[]),
    ]);
}

#[test]
fn reading_everything_anew_finds_what_was_missed() {
    let mut story = Story {
        ways: Ways::new([]),
        now: 1,
    };
    for (what, _) in &KNOWN {
        story.run(what);
    }
    story.heard();
    let hop = (7, NEAR.parse().unwrap());
    let changed = Neighbour {
        state: Usable,
        mac: Some(OTHER),
        managed: true,
    };
    story
        .ways
        .replace(vec![link("eth0", true)], vec![(hop, changed)], 2);
    assert_eq!(story.heard(), ["10.0.0.1: 7 2"]);
    assert_eq!(
        story.ways.next_ask(),
        Some(hop.1),
        "routes may have changed too"
    );
    story.ways.replace(vec![], vec![], 3);
    assert_eq!(
        story.heard(),
        ["link 7 gone", "10.0.0.1: interface 7 of the route is gone"]
    );
}

#[test]
fn refused_solicitation_is_the_reason() {
    let mut story = Story {
        ways: Ways::new([]),
        now: 1,
    };
    for (what, _) in &KNOWN[..3] {
        story.run(what);
    }
    let hop = story.ways.next_solicit(1).unwrap().hop;
    story.ways.solicited(hop, Some("table full".to_owned()));
    assert_eq!(
        story.ways.changes(1).last(),
        Some(&Event::Route {
            address: hop.1,
            route: Route::Unresolved("10.0.0.1 cannot be resolved on eth0: table full".to_owned()),
        })
    );
}

#[test]
fn ten_thousand_backends_are_used_spread_over_seconds() {
    let mut by_second = BTreeMap::<u64, u32>::new();
    for n in 0..10_000u32 {
        let due = spread(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)));
        *by_second.entry(due / (1_000 * MILLISECOND)).or_default() += 1;
    }
    let counts: Vec<_> = by_second.range(..4).map(|(_, n)| *n).collect();
    assert_eq!(counts.len(), 4);
    assert!(
        counts.iter().all(|n| (2_000..3_000).contains(n)),
        "{counts:?}"
    );
}
