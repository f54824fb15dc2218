//! What goes into a tunnel comes out of it: every encapsulated frame is read by another parser, and given back by the
//! decapsulator as it was, one hop older.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use std::{collections::BTreeSet, net::IpAddr, sync::LazyLock};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::{
    Forwarding, OuterTtl,
    decap::{AddressPrefix, Fate, Standing},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    decap::fixture::{MemRules, run_host},
    fixture::{
        START,
        cast::{GUE_PORT, Kind},
        packet::Packet,
        world::{Ends, Side, address, tunnel_prefixes},
    },
    mem::{self, MemFrame},
    verdict::Action,
};

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let all = Kind::all().into_iter();
    all.filter(|kind| kind.forwarding.is_tunnel()).collect()
});

/// The rules of a backend.
fn rules(kind: &Kind) -> MemRules {
    let trusted = tunnel_prefixes().map(|(prefix, length)| AddressPrefix {
        address: prefix.0,
        mask: (u128::MAX << (128 - length)).to_be_bytes(),
    });
    MemRules {
        trusted: trusted.into(),
        addresses: [
            (address(kind.backend(0)), Standing::Own),
            (address(kind.vip()), Standing::Vip),
        ]
        .into(),
        vip_prefixes: Vec::new(),
        gue_port: GUE_PORT,
        fates: Default::default(),
    }
}

/// The outer header as another parser reads it: TTL, class, and the ports and checksum of UDP.
fn outer(frame: &[u8]) -> (u8, u8, Option<(u16, u16, u16)>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (ttl, class) = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(
                header.to_header().calc_header_checksum(),
                header.header_checksum()
            );
            assert!(header.dont_fragment());
            (
                header.ttl(),
                header.dcp().value() << 2 | header.ecn().value(),
            )
        }
        NetSlice::Ipv6(ip) => (ip.header().hop_limit(), ip.header().traffic_class()),
        other => panic!("{other:?}"),
    };
    let udp = match packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            Some((udp.source_port(), udp.destination_port(), udp.checksum()))
        }
        _ => None,
    };
    (ttl, class, udp)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_packet_comes_out_of_every_tunnel_as_it_went_in(
        which: Index,
        ttls in (3_u8.., prop_oneof![Just(OuterTtl::Inherit), (1_u8..).prop_map(OuterTtl::Fixed)]),
        class: u8,
        port in 1_024_u16..,
        data in vec(any::<u8>(), 0..1_300),
    ) {
        let kind = which.get(&KINDS).outer_ttl(ttls.1);
        let request = Packet { ttl: ttls.0, class, ..kind.request(port, "PA", &data) };
        let tables = kind.world(1, &[0]).tables(&Ends::HOST);
        let mut frame = MemFrame::new(request.bytes(), Ends::HOST.ifindex(Side::Client));
        let verdict = mem::process(&mut frame, &tables, START);
        prop_assert!(matches!(verdict.action, Action::Tx | Action::Redirect), "{verdict:?}");
        prop_assert_eq!(frame.bytes.len(), request.bytes().len() + kind.growth());
        let (ttl, outer_class, udp) = outer(&frame.bytes);
        let left = ttls.0 - 1;
        prop_assert_eq!(ttl, match ttls.1 { OuterTtl::Fixed(ttl) => ttl, OuterTtl::Inherit => left });
        prop_assert_eq!(outer_class, class);
        match (kind.forwarding, udp) {
            (Forwarding::Gue, Some((source, destination, check))) => {
                prop_assert!(source >= 0xc000);
                prop_assert_eq!(destination, GUE_PORT);
                prop_assert_eq!(check == 0, matches!(kind.backend(0).ip(), IpAddr::V4(_)));
            }
            (Forwarding::Ipip, None) => {}
            other => prop_assert!(false, "{other:?}"),
        }
        let (fate, bytes) = run_host(&rules(&kind), &frame.bytes);
        prop_assert_eq!(fate, Fate::Delivered);
        let inner = Packet { ttl: left, ..request }.bytes();
        prop_assert_eq!(&bytes[12..], &inner[12..]);
    }
}

/// Flows, as many as make one of sixteen queues that gets 93 more or less than its share a matter of six standard deviations.
const FLOWS: u16 = 4_096;

/// A receiver's card spreads what it gets over queues by addresses, and ports where it knows them (RSS): by bits that differ evenly.
#[test]
fn flows_of_one_client_leave_by_outer_sources_that_spread_evenly() {
    for kind in KINDS.iter() {
        let tables = kind.world(1, &[0]).tables(&Ends::HOST);
        let (mut queues, mut sources) = ([0_u32; 16], BTreeSet::new());
        for port in 0..FLOWS {
            let request = kind.request(1_024 + port, "PA", b"");
            let mut frame = MemFrame::new(request.bytes(), Ends::HOST.ifindex(Side::Client));
            mem::process(&mut frame, &tables, START);
            let source: (Vec<u8>, u16) = match (kind.forwarding, outer(&frame.bytes).2) {
                (Forwarding::Gue, Some((port, ..))) => (vec![], port),
                _ => {
                    let at = if kind.backend(0).is_ipv4() {
                        26..30
                    } else {
                        22..38
                    };
                    let bytes = frame.bytes[at].to_vec();
                    let last = bytes[bytes.len() - 1].into();
                    (bytes, last)
                }
            };
            queues[usize::from(source.1 & 15)] += 1;
            sources.insert(source);
        }
        let share = u32::from(FLOWS) / 16;
        assert!(
            queues.iter().all(|queue| queue.abs_diff(share) < 93),
            "{}: {queues:?}",
            kind.label()
        );
        // As many as the prefix has; of ports, and of addresses of IPv6, as many as so many draws of them find.
        let few = kind.forwarding == Forwarding::Ipip && kind.backend(0).is_ipv4();
        let least = if few { 250 } else { 3_400 };
        assert!(
            sources.len() >= least,
            "{}: {}",
            kind.label(),
            sources.len()
        );
    }
}
