//! Packets with wrong checksums and packets that end too early, from a client that writes its frames
//! byte by byte (packet(7)).

use std::fs;
use std::net::IpAddr;

use lb_tests::daemon::DataPlane;
use lb_tests::inject::Injector;
use lb_tests::topology::{FAMILIES, client, vip};

use crate::stage::{ECHO, SHAPES, Stage};

const TCP: u8 = 6;
const UDP_PROTOCOL: u8 = 17;
const ETHERNET: usize = 14;

/// The sum of RFC 1071 over big-endian words, not yet inverted.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// A right frame of the client to the echo service: a SYN, or a datagram of eight bytes.
fn frame(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    let mut transport = [port.to_be_bytes(), 7000_u16.to_be_bytes()].concat();
    let checksum = if protocol == TCP {
        transport.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
        16
    } else {
        transport.extend([0, 16, 0, 0]);
        transport.extend(*b"fairlead");
        6
    };
    let length = transport.len() as u16;
    let (from, to) = (octets(source), octets(destination));
    let pseudo = [&from[..], &to[..]].concat();
    let start = u32::from(sum(&pseudo, u32::from(protocol) + u32::from(length)));
    let value = !sum(&transport, start);
    transport[checksum..checksum + 2].copy_from_slice(&value.to_be_bytes());
    let mut frame = vec![0x02, 0xf1, 0, 0, 0, 1, 0x02, 0xf1, 0, 0, 0, 2];
    if source.is_ipv4() {
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(pseudo);
        let value = !sum(&header, 0);
        header[10..12].copy_from_slice(&value.to_be_bytes());
        frame.extend([0x08, 0x00]);
        frame.extend(header);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(pseudo);
    }
    frame.extend(transport);
    frame
}

/// Where the transport checksum of such a frame stands.
fn checksum_at(frame: &[u8], protocol: u8) -> usize {
    let header = if frame[ETHERNET] >> 4 == 4 { 20 } else { 40 };
    ETHERNET + header + if protocol == TCP { 16 } else { 6 }
}

/// Sends frames out of the client's interface.
fn send(stage: &Stage, frames: &[Vec<u8>]) {
    let injector = Injector::open(stage.topology.namespace("client"), "eth0").unwrap();
    for frame in frames {
        injector.send(frame).unwrap();
    }
}

/// What the data plane counted, when it has received so many packets more than before.
#[track_caller]
fn counted(stage: &Stage, before: &DataPlane, packets: usize) -> DataPlane {
    stage.wait("all frames have arrived", |status| {
        status.data_plane.rx >= before.rx + packets as u64
    });
    stage.daemon.counters_at_rest().unwrap()
}

fn grown(before: &DataPlane, after: &DataPlane, reasons: &[&str]) -> u64 {
    reasons
        .iter()
        .map(|r| after.drops[*r] - before.drops[*r])
        .sum()
}

/// Packets of all backends that their kernels found to have a wrong transport checksum.
fn bad_sums(stage: &Stage) -> u64 {
    let one = |host: &str| {
        let (tables, six) = stage.topology.run_in(host, || {
            let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
            (read("snmp"), read("snmp6"))
        });
        let mut total = 0;
        for protocol in ["Tcp: ", "Udp: "] {
            let mut lines = tables
                .lines()
                .filter_map(|line| line.strip_prefix(protocol));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let mut both = names.split(' ').zip(values.split(' '));
            let value = both.find(|(name, _)| *name == "InCsumErrors").unwrap().1;
            total += value.parse::<u64>().unwrap();
        }
        let line = six
            .lines()
            .find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
        total + line.unwrap().trim().parse::<u64>().unwrap()
    };
    ["b1", "b2", "b3"].map(one).iter().sum()
}

#[test]
fn l6_truncated_packets_are_counted_and_wrong_checksums_are_never_repaired() {
    let stage = Stage::new(SHAPES[0]);
    let kinds = FAMILIES
        .map(|f| [TCP, UDP_PROTOCOL].map(|p| (f, p)))
        .concat();
    let right = |port: u16| {
        let frames = kinds
            .iter()
            .map(move |(f, p)| (frame(client(*f), vip(*f, 0), *p, port), *p));
        frames.collect::<Vec<_>>()
    };

    // Cut at every length. Nothing of it may go on. Without its whole IP header it is nobody's, and
    // left to the kernel.
    let mut cut = vec![];
    for (whole, _) in right(20_000) {
        cut.extend((ETHERNET..whole.len()).map(|length| whole[..length].to_vec()));
    }
    let ours = |f: &&Vec<u8>| f.len() >= ETHERNET + if f[12] == 0x08 { 20 } else { 40 };
    let ours = cut.iter().filter(ours).count() as u64;
    let before = stage.daemon.counters_at_rest().unwrap();
    send(&stage, &cut);
    let after = counted(&stage, &before, cut.len());
    assert_eq!(
        (after.redirect, after.tx),
        (before.redirect, before.tx),
        "{after:?}"
    );
    let dropped = grown(&before, &after, &["truncated", "malformed"]);
    assert_eq!(dropped, ours, "{after:?}");

    // One wrong bit in the IPv4 header checksum.
    let mut wrong = vec![];
    for (good, _) in right(20_001)
        .into_iter()
        .filter(|(f, _)| f[ETHERNET] == 0x45)
    {
        for bit in 0..16 {
            let mut bad = good.clone();
            bad[ETHERNET + 10 + bit / 8] ^= 1 << (bit % 8);
            wrong.push(bad);
        }
    }
    let before = stage.daemon.counters_at_rest().unwrap();
    send(&stage, &wrong);
    let after = counted(&stage, &before, wrong.len());
    assert_eq!(after.redirect, before.redirect, "{after:?}");
    let dropped = grown(&before, &after, &["bad_ip_checksum"]);
    assert_eq!(dropped, wrong.len() as u64, "{after:?}");

    // One wrong bit in the transport checksum: rewritten by differences, it stays wrong by the
    // same, and the backend throws the packet away.
    let mut wrong = vec![];
    for bit in 0..16_u16 {
        for (mut bad, protocol) in right(21_000 + bit) {
            let at = checksum_at(&bad, protocol);
            bad[at + usize::from(bit) / 8] ^= 1 << (bit % 8);
            wrong.push(bad);
        }
    }
    let sums = bad_sums(&stage);
    let before = stage.daemon.counters_at_rest().unwrap();
    send(&stage, &wrong);
    let after = counted(&stage, &before, wrong.len());
    let count = wrong.len() as u64;
    assert_eq!(after.redirect - before.redirect, count, "{after:?}");
    crate::stage::wait_until(
        "the backends threw them away",
        std::time::Duration::from_secs(5),
        || bad_sums(&stage) - sums == count,
    );
    stage.storm(&ECHO, 1000).assert_clean(1000);
    stage.end();
}
