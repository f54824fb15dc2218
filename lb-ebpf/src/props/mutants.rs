//! Packets of the fixtures, changed in every way that a line, a bug or an attacker may change them.
//!
//! Whatever comes in: nothing panics, every packet is counted once, what passes or is dropped is
//! untouched, and what is sent on is the same packet with other ends, its checksum as right or as
//! wrong as it was.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use std::sync::LazyLock;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    fixture::{
        self, Fixture, START,
        packet::with_ip_sum,
        run_step,
        world::{Ends, Side, address, is_nat, our_mac},
    },
    mem::{self, MemFrame},
    verdict::{Action, Verdict},
};

mod clamped;
mod option;
mod piece;
mod tunnel;

use clamped::{is_clamped, unsent};
use piece::{piece, piece_holds};
use tunnel::unwrapped;

static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(fixture::all);

/// One change of a frame.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Word(Index, [u8; 2]),
    Cut(Index),
    Grow(Vec<u8>),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    /// From another fixture's packet, from there on.
    Splice(Index, Index),
    /// A header field that decides about the way, with a value that decides otherwise.
    Field(usize, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let any_index = any::<Index>;
    let telling = prop_oneof![
        Just(0_u8),
        Just(1),
        Just(4),
        Just(5),
        Just(6),
        Just(8),
        Just(11),
        Just(17),
        Just(44),
        Just(58),
        Just(0x45),
        Just(0x60),
        Just(0x80),
        Just(0xff),
        any::<u8>()
    ];
    prop_oneof![
        3 => (any_index(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        2 => (any_index(), any::<u8>()).prop_map(|(at, to)| Mutation::Set(at, to)),
        2 => (any_index(), any::<[u8; 2]>()).prop_map(|(at, to)| Mutation::Word(at, to)),
        1 => any_index().prop_map(Mutation::Cut),
        1 => vec(any::<u8>(), 1..40).prop_map(Mutation::Grow),
        1 => (any_index(), 1..30_usize).prop_map(|(at, n)| Mutation::Remove(at, n)),
        1 => (any_index(), vec(any::<u8>(), 1..30)).prop_map(|(at, b)| Mutation::Insert(at, b)),
        1 => (any_index(), any_index()).prop_map(|(from, at)| Mutation::Splice(from, at)),
        4 => (12..100_usize, telling).prop_map(|(at, to)| Mutation::Field(at, to)),
    ]
}

fn mutate(mut frame: Vec<u8>, mutation: &Mutation) -> Vec<u8> {
    let end = frame.len() + 1;
    match mutation {
        Mutation::Flip(at, bit) => {
            let at = at.index(end);
            frame
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= bit);
        }
        Mutation::Set(at, to) => {
            let at = at.index(end);
            frame
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte = *to);
        }
        Mutation::Field(at, to) => {
            frame
                .iter_mut()
                .skip(*at)
                .take(1)
                .for_each(|byte| *byte = *to);
        }
        Mutation::Word(at, to) => {
            let at = at.index(end) & !1;
            frame
                .iter_mut()
                .skip(at)
                .zip(to)
                .for_each(|(byte, to)| *byte = *to);
        }
        Mutation::Cut(at) => frame.truncate(at.index(end)),
        Mutation::Grow(bytes) => frame.extend(bytes),
        Mutation::Remove(at, count) => {
            let at = at.index(end);
            frame.drain(at..(at + count).min(end - 1));
        }
        Mutation::Insert(at, bytes) => {
            let at = at.index(end);
            frame.splice(at..at, bytes.iter().copied());
        }
        Mutation::Splice(from, at) => {
            let other = &from.get(&FIXTURES).steps[0].packet;
            let at = at.index(end);
            frame.truncate(at);
            frame.extend(other.iter().skip(at));
        }
    }
    frame
}

/// What is kept of a packet on its way, in whichever direction.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    source: Vec<u8>,
    destination: Vec<u8>,
    ports: Option<[u16; 2]>,
    ttl: u8,
    sum: Option<Sum>,
    /// Behind ports and checksum.
    rest: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sum {
    Absent,
    Right,
    Wrong,
}

/// The sum over a transport header and what it covers, the slow way.
fn judge(pseudo: &[u8], covered: &[u8]) -> Sum {
    let mut bytes = [pseudo, covered].concat();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let sum: u64 = bytes
        .chunks(2)
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    match sum % 0xffff {
        0 => Sum::Right,
        _ => Sum::Wrong,
    }
}

/// Reads a frame with another parser.
fn read(frame: &[u8]) -> Result<Seen, String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let (source, destination, ttl, payload, v6) = match packet.net.ok_or("no network layer")? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let ends = (header.source().to_vec(), header.destination().to_vec());
            (ends.0, ends.1, header.ttl(), ip.payload().clone(), false)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let ends = (header.source().to_vec(), header.destination().to_vec());
            (
                ends.0,
                ends.1,
                header.hop_limit(),
                ip.payload().clone(),
                true,
            )
        }
        _ => return Err("not IP".into()),
    };
    let pseudo = |length: usize| {
        let length = (length as u32).to_be_bytes();
        let next = [0, 0, 0, payload.ip_number.0];
        [&source[..], &destination, &length, &next].concat()
    };
    let bytes = payload.payload;
    let Some(transport) = packet.transport else {
        return match payload.fragmented {
            true => Err("a fragment".into()),
            // Another protocol: its bytes must stay as they are.
            false => Ok(Seen {
                source: source.clone(),
                destination: destination.clone(),
                ports: None,
                ttl,
                sum: None,
                rest: bytes.to_vec(),
            }),
        };
    };
    let (ports, sum, rest) = match transport {
        TransportSlice::Tcp(tcp) => {
            let ports = [tcp.source_port(), tcp.destination_port()];
            let sum = judge(&pseudo(bytes.len()), bytes);
            (Some(ports), sum, [&bytes[4..16], &bytes[18..]].concat())
        }
        TransportSlice::Udp(udp) => {
            let ports = [udp.source_port(), udp.destination_port()];
            let length = usize::from(udp.length());
            let sum = match udp.checksum() {
                0 => Sum::Absent,
                _ => judge(&pseudo(length), &bytes[..length]),
            };
            (Some(ports), sum, [&bytes[4..6], &bytes[8..]].concat())
        }
        TransportSlice::Icmpv4(_) if !v6 => (None, judge(&[], bytes), vec![]),
        TransportSlice::Icmpv6(_) if v6 => (None, judge(&pseudo(bytes.len()), bytes), vec![]),
        // ICMP of the other family: another protocol.
        _ => {
            return Ok(Seen {
                source: source.clone(),
                destination: destination.clone(),
                ports: None,
                ttl,
                sum: None,
                rest: bytes.to_vec(),
            });
        }
    };
    Ok(Seen {
        source: source.clone(),
        destination: destination.clone(),
        ports,
        ttl,
        sum: Some(sum),
        rest,
    })
}

fn holds(fixture: &Fixture, verdict: Verdict, before: &[u8], after: &[u8]) -> Result<(), String> {
    let sent = matches!(verdict.action, Action::Tx | Action::Redirect);
    if !sent {
        return unsent(fixture, verdict, before, after);
    }
    let has_nat = option::may_stand(fixture);
    if before.len() < after.len() && has_nat {
        return holds(fixture, verdict, before, &option::taken_out(before, after)?);
    }
    if before.len() < after.len() {
        let inner = unwrapped(fixture, after)?;
        return holds(fixture, verdict, before, &inner);
    }
    if is_reset(before, after) {
        return Ok(());
    }
    if before.len() > after.len() {
        let quote = if after[12..14] == [8, 0] { 42 } else { 62 };
        return match before[14..].starts_with(&after[quote..]) {
            true => Ok(()),
            false => Err("shorter, and not an error that quotes it".into()),
        };
    }
    if let Some(rest) = piece(before) {
        return piece_holds(before, after, rest);
    }
    if ![our_mac(Side::Client), our_mac(Side::Backend)]
        .iter()
        .any(|mac| after[6..12] == *mac)
    {
        // An answer to an echo request comes from the address that it was sent to.
        if after[6..12] != before[..6] {
            return Err("sent with a MAC address that is not ours".into());
        }
    }
    let old = read(before).map_err(|error| format!("before: {error}"))?;
    let new = read(after).map_err(|error| format!("after: {error}"))?;
    if old.sum != new.sum {
        return Err(format!(
            "the checksum was {:?} and is {:?}",
            old.sum, new.sum
        ));
    }
    if old.rest != new.rest && !is_clamped(fixture, before) {
        return Err("what stands behind ports and checksum changed".into());
    }
    let echoed = old.source == new.destination && old.destination == new.source;
    if echoed && old.ports.is_none() && new.ttl == 64 {
        return Ok(());
    }
    if new.ttl != old.ttl - 1 {
        return Err(format!("TTL {} became {}", old.ttl, new.ttl));
    }
    let is_vip = |bytes: &[u8]| {
        let services = fixture.world.services.iter();
        services.clone().any(|service| {
            let vip = address(service.vip).0;
            let length = service.reach.map_or(128, |reach| u32::from(reach.length));
            let rest = |address: &[u8]| {
                let mut whole = [0; 16];
                whole[16 - address.len()..].copy_from_slice(address);
                u128::from_be_bytes(whole)
                    .checked_shr(128 - length)
                    .unwrap_or(0)
            };
            let four = vip[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
            let own = if four { &vip[12..] } else { &vip[..] };
            own.len() == bytes.len() && rest(own) == rest(bytes)
        })
    };
    let to_vip = is_vip(&old.destination);
    let client = |seen: &Seen| match to_vip {
        true => (seen.source.clone(), seen.ports.map(|[source, _]| source)),
        false => (seen.destination.clone(), seen.ports.map(|[_, to]| to)),
    };
    if has_nat {
        if to_vip && !is_nat(&new.source) {
            return Err(format!("sent, but not as one of ours: {new:?}"));
        }
    } else if client(&old) != client(&new) {
        return Err(format!("the client's end changed: {old:?} to {new:?}"));
    }
    if !to_vip && old.ports.is_some() && !is_vip(&new.source) {
        return Err(format!("returned, but not as a VIP: {new:?}"));
    }
    Ok(())
}

/// A segment was answered with the reset that it asks for (RFC 9293 section 3.10.7.1).
fn is_reset(before: &[u8], after: &[u8]) -> bool {
    let (Ok(old), Ok(new)) = (read(before), read(after)) else {
        return false;
    };
    let (Some([a, b]), Some([c, d])) = (old.ports, new.ports) else {
        return false;
    };
    let is_tcp = |frame: &[u8]| frame[if frame[12..14] == [8, 0] { 23 } else { 20 }] == 6;
    if !is_tcp(before) || !is_tcp(after) {
        return false;
    }
    let word = |seen: &Seen, at: usize| {
        u32::from_be_bytes(seen.rest[at..at + 4].try_into().expect("four bytes"))
    };
    // What stands behind the ports: numbers, offset, flags, window; urgent pointer and the rest.
    let (flags, header) = (old.rest[9], usize::from(old.rest[8] >> 4) * 4);
    let taken = old.rest.len() + 6 - header + usize::from(flags & 1) + usize::from(flags >> 1 & 1);
    let numbers = match flags & 16 != 0 {
        true => [word(&old, 4), 0],
        false => [0, word(&old, 0).wrapping_add(taken as u32)],
    };
    let echoed = old.source == new.destination && old.destination == new.source;
    let said = if flags & 16 != 0 { 4 } else { 20 };
    echoed
        && [a, b] == [d, c]
        && flags & 4 == 0
        && new.sum == Some(Sum::Right)
        && new.rest
            == [
                &numbers[0].to_be_bytes()[..],
                &numbers[1].to_be_bytes(),
                &[0x50, said, 0, 0, 0, 0],
            ]
            .concat()
        && new.ttl == 64
        && after[..6] == before[6..12]
        && after[6..12] == before[..6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_changed_packet_is_still_one_packet(
        which: Index,
        step: Index,
        mutations in vec(mutation(), 0..4),
        mend: bool,
        behind in prop::bool::weighted(0.2),
        later in 0..20_u64,
    ) {
        let ends = &Ends::HOST;
        let fixture = which.get(&FIXTURES);
        let mut tables = fixture.world.tables(ends);
        let step = step.index(fixture.steps.len().min(8));
        for earlier in &fixture.steps[..step] {
            run_step(&mut tables, earlier, ends);
        }
        let step = &fixture.steps[step];
        let mut packet = mutations.iter().fold(step.packet.clone(), mutate);
        if mend && packet.len() >= 14 + 60 && packet[12..14] == [8, 0] {
            packet = with_ip_sum(packet);
        }
        let side = if behind { Side::Backend } else { step.ingress };
        let mut frame = MemFrame::new(packet.clone(), ends.ifindex(side));
        let at = START + (later << lb_common::flow::EPOCH_SHIFT) / 4;
        let verdict = mem::process(&mut frame, &tables, at);
        prop_assert!(mem::conserves(&tables.totals()), "{:?}", tables.totals());
        let holds = holds(fixture, verdict, &packet, &frame.bytes);
        prop_assert!(
            holds.is_ok(),
            "{}: {:?}: {}\nbefore {:02x?}\nafter  {:02x?}",
            fixture.name, verdict, holds.unwrap_err(), packet, frame.bytes
        );
    }

    #[test]
    fn noise_is_still_one_packet(bytes in vec(any::<u8>(), 0..200), ether_type in 0..3_usize) {
        let fixture = &FIXTURES[0];
        let tables = fixture.world.tables(&Ends::HOST);
        let mut packet = bytes;
        let ether_type = [[8, 0], [0x86, 0xdd], [0, 0]][ether_type];
        packet.iter_mut().skip(12).zip(ether_type).for_each(|(byte, to)| *byte = to);
        let mut frame = MemFrame::new(packet.clone(), Ends::HOST.client);
        let verdict = mem::process(&mut frame, &tables, START);
        prop_assert_eq!(verdict, Verdict::PASS);
        prop_assert_eq!(frame.bytes, packet);
        prop_assert!(mem::conserves(&tables.totals()));
    }
}
