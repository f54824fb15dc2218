//! Stories of claims, and frames byte by byte.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "an overflow in a test is a failed test"
)]

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const VIP: &str = "192.0.2.1";

/// Something that happens.
enum Do {
    Want(&'static [&'static str]),
    /// `eth0` has this index, and is up or not.
    Link(u32, bool),
    LinkGone(u32),
    /// The operator adds or removes an address of interface 1.
    Address(&'static str, u8),
    AddressGone(&'static str, u8),
    /// The next addition or removal is refused.
    Refuse,
    Pass(u64),
}
use Do::*;

fn claim(address: &str) -> Claim {
    Claim {
        interface: "eth0".to_owned(),
        address: address.parse().unwrap(),
    }
}

struct Story {
    claiming: Claiming,
    now: u64,
    refuse: bool,
}

impl Story {
    fn run(&mut self, what: &Do) {
        let (claiming, now) = (&mut self.claiming, self.now);
        let at = |address: &str, prefix| InterfaceAddress {
            ifindex: 1,
            address: address.parse().unwrap(),
            prefix,
        };
        match *what {
            Want(vips) => claiming.want(vips.iter().map(|a| claim(a)).collect()),
            Link(ifindex, up) => claiming.link(link(ifindex, up), now),
            LinkGone(ifindex) => claiming.link_gone(ifindex),
            Address(address, prefix) => claiming.address(at(address, prefix)),
            AddressGone(address, prefix) => claiming.address_gone(at(address, prefix)),
            Refuse => self.refuse = true,
            Pass(ms) => self.now += ms * 1_000_000,
        }
    }

    fn ended(&mut self) -> Result<(), String> {
        match std::mem::take(&mut self.refuse) {
            true => Err("no".to_owned()),
            false => Ok(()),
        }
    }

    /// Carries out all steps; what was done and reported, as text.
    fn done(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        while let Some(step) = self.claiming.next_step(self.now) {
            match step {
                Step::Add(claim, at) => {
                    let ended = self.ended();
                    done.push(format!(
                        "add {}/{} to {}",
                        at.address, at.prefix, at.ifindex
                    ));
                    self.claiming.added(claim, at, ended, self.now);
                }
                Step::Remove(claim, at) => {
                    done.push(format!(
                        "remove {}/{} from {}",
                        at.address, at.prefix, at.ifindex
                    ));
                    let ended = self.ended();
                    self.claiming.removed(claim, at, ended, self.now);
                }
                Step::Announce(claim, frames) if !frames.is_empty() => {
                    done.push(format!("announce {}", claim.address));
                }
                Step::Announce(..) => {}
            }
        }
        for report in self.claiming.reports() {
            done.push(match report {
                Report::Added(_) => "added".to_owned(),
                Report::Repaired(_) => "repaired".to_owned(),
                Report::Found(_) => "found".to_owned(),
                Report::Released(_) => "released".to_owned(),
                Report::Failed { reason, .. } => format!("failed: {reason}"),
                Report::NoInterface(_) => "no interface".to_owned(),
            });
        }
        done
    }
}

fn link(ifindex: u32, up: bool) -> LinkState {
    LinkState {
        link: crate::model::Link {
            ifindex,
            name: "eth0".to_owned(),
            mac: MAC,
            mtu: 1500,
            up,
            ..Default::default()
        },
        ethernet: true,
    }
}

#[track_caller]
fn check_from(record: Claims, steps: &[(Do, &[&str])]) -> Claims {
    let mut story = Story {
        claiming: Claiming::new(record),
        now: 5,
        refuse: false,
    };
    for (n, (what, expected)) in steps.iter().enumerate() {
        story.run(what);
        assert_eq!(story.done(), *expected, "after step {n}");
        // Else the claimer would call again at once, for ever.
        let due = story.claiming.deadline();
        assert!(due.is_none_or(|due| due > story.now), "after step {n}");
    }
    story.claiming.record().clone()
}

#[track_caller]
fn check(steps: &[(Do, &[&str])]) -> Claims {
    check_from(Claims::default(), steps)
}

const ADDED: &[&str] = &["add 192.0.2.1/32 to 1", "announce 192.0.2.1", "added"];

#[test]
fn claimed_vip_is_added_and_announced_three_times() {
    let record = check(&[
        (Link(1, true), &[]),
        (Want(&[VIP]), ADDED),
        (Pass(999), &[]),
        (Pass(1), &["announce 192.0.2.1"]),
        (Pass(1_000), &["announce 192.0.2.1"]),
        (Pass(60_000), &[]),
    ]);
    assert_eq!(record.0, BTreeMap::from([(claim(VIP), Origin::Daemon)]));
}

#[test]
fn released_vip_is_removed() {
    let record = check(&[
        (Link(1, true), &[]),
        (Want(&[VIP]), ADDED),
        (Want(&[]), &["remove 192.0.2.1/32 from 1", "released"]),
        (Pass(60_000), &[]),
    ]);
    assert_eq!(record, Claims::default());
}

#[test]
fn operators_address_is_announced_but_never_removed() {
    let record = check(&[
        (Link(1, true), &[]),
        (Address(VIP, 24), &[]),
        (Want(&[VIP]), &["announce 192.0.2.1", "found"]),
        (Want(&[]), &["released"]),
    ]);
    assert_eq!(record, Claims::default());
}

#[test]
fn vip_removed_by_hand_is_added_again_and_reported() {
    check(&[
        (Link(1, true), &[]),
        (
            Want(&["2001:db8::1"]),
            &["add 2001:db8::1/128 to 1", "announce 2001:db8::1", "added"],
        ),
        (
            AddressGone("2001:db8::1", 128),
            &[
                "add 2001:db8::1/128 to 1",
                "announce 2001:db8::1",
                "repaired",
            ],
        ),
    ]);
}

#[test]
fn restarted_daemon_releases_nothing_before_it_knows_its_configuration() {
    let record = Claims(BTreeMap::from([(claim(VIP), Origin::Daemon)]));
    let same = check_from(
        record.clone(),
        &[
            (Link(1, true), &[]),
            (Address(VIP, 32), &[]),
            (Pass(60_000), &[]),
            (Want(&[VIP]), &["announce 192.0.2.1"]),
        ],
    );
    assert_eq!(same, record);
}

#[test]
fn restarted_daemon_still_knows_which_address_is_its_own() {
    for (origin, done) in [
        (
            Origin::Daemon,
            &["remove 192.0.2.1/32 from 1", "released"][..],
        ),
        (Origin::Operator, &["released"][..]),
    ] {
        let record = Claims(BTreeMap::from([(claim(VIP), origin)]));
        let steps = [
            (Link(1, true), &[][..]),
            (Address(VIP, 32), &[]),
            (Want(&[]), done),
        ];
        check_from(record, &steps);
    }
}

#[test]
fn link_that_comes_up_is_announced_on() {
    check(&[
        (Link(1, true), &[]),
        (Want(&[VIP]), ADDED),
        (Link(1, false), &[]),
        (Pass(10_000), &[]),
        (Link(1, true), &["announce 192.0.2.1"]),
        (Pass(1_000), &["announce 192.0.2.1"]),
    ]);
}

#[test]
fn recreated_interface_gets_its_vip_again() {
    check(&[
        (Want(&[VIP]), &["no interface"]),
        (Link(1, true), ADDED),
        (LinkGone(1), &["no interface"]),
        (
            Link(2, true),
            &["add 192.0.2.1/32 to 2", "announce 192.0.2.1", "repaired"],
        ),
    ]);
}

#[test]
fn refused_removal_is_tried_again_after_a_second() {
    let record = check(&[
        (Link(1, true), &[]),
        (Want(&[VIP]), ADDED),
        (Refuse, &[]),
        (Want(&[]), &["remove 192.0.2.1/32 from 1", "failed: no"]),
        (Pass(999), &[]),
        (Pass(1), &["remove 192.0.2.1/32 from 1", "released"]),
        (Pass(60_000), &[]),
    ]);
    assert_eq!(record, Claims::default());
}

#[test]
fn refused_addition_to_an_interface_that_goes_leaves_nothing_due() {
    check(&[
        (Link(1, true), &[]),
        (Refuse, &[]),
        (Want(&[VIP]), &["add 192.0.2.1/32 to 1", "failed: no"]),
        (LinkGone(1), &["no interface"]),
        (Pass(1_000), &[]),
        (
            Link(2, true),
            &["add 192.0.2.1/32 to 2", "announce 192.0.2.1", "added"],
        ),
    ]);
}

#[test]
fn refused_addition_is_tried_again_after_a_second() {
    check(&[
        (Link(1, true), &[]),
        (Refuse, &[]),
        (Want(&[VIP]), &["add 192.0.2.1/32 to 1", "failed: no"]),
        (Pass(999), &[]),
        (Pass(1), ADDED),
    ]);
}

#[test]
fn record_survives_its_stored_form() {
    let record = Claims(BTreeMap::from([
        (claim(VIP), Origin::Daemon),
        (claim("2001:db8::1"), Origin::Operator),
    ]));
    let stored = serde_json::to_string(&record).unwrap();
    assert_eq!(
        stored,
        r#"[{"interface":"eth0","address":"192.0.2.1","origin":"daemon"},{"interface":"eth0","address":"2001:db8::1","origin":"operator"}]"#
    );
    assert_eq!(serde_json::from_str::<Claims>(&stored).unwrap(), record);
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let byte = |n| u8::from_str_radix(&digits[n..n + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn ipv4_is_announced_by_a_request_and_a_reply() {
    let request = "ffffffffffff 020000000009 0806  0001 0800 06 04 0001
                   020000000009 c0000201  000000000000 c0000201";
    let reply = "ffffffffffff 020000000009 0806  0001 0800 06 04 0002
                 020000000009 c0000201  020000000009 c0000201";
    assert_eq!(
        frames(MAC, VIP.parse().unwrap()),
        [hex(request), hex(reply)]
    );
}

#[test]
fn ipv6_is_announced_to_all_nodes_with_the_override_flag() {
    // Checksum by hand: 2001 + 0db8 + 0001 (source), ff02 + 0001 (destination), 0020, 003a,
    // 8800, 2000, 2001 + 0db8 + 0001 (target), 0201 + 0200 + 0000 + 0009 sum to 0x206db,
    // folded 0x06dd, inverted 0xf922.
    let frame = "333300000001 020000000009 86dd  60000000 0020 3a ff
                 20010db8000000000000000000000001  ff020000000000000000000000000001
                 88 00 f922 20000000 20010db8000000000000000000000001  02 01 020000000009";
    assert_eq!(frames(MAC, "2001:db8::1".parse().unwrap()), [hex(frame)]);
}
