//! Two hosts that take packets out of tunnels, route, and forge tunnels at each other: from a source that both allow, with a
//! tunnel back in it, and in that one back again. Open decapsulators would throw such a packet to and fro (CERT VU#199397).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_common::GueVariant;
use lb_common::tunnel::GUE_PORT;
use lb_ebpf::fixture::packet::{Body, Packet, Sum};
use lb_tests::decap;
use lb_tests::inject::Injector;
use lb_tests::topology::{FAMILIES, Family, Shape, Topology, backend, backend_mac, client, vip};

use super::loops::packets;
use crate::stage::{SHAPES, Turn, figure, wait_until};

/// Who forge.
const HOSTS: [&str; 2] = ["b1", "b2"];
/// Frames of neighbour discovery that an interface may see besides.
const NOISE: u64 = 30;

/// Tunnels in one packet.
const DEPTH: u8 = 12;
/// So many of each kind in either direction.
const TIMES: usize = 20;
/// How long nothing may happen afterwards.
const SILENCE: Duration = Duration::from_millis(500);

/// What the tunnels are of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Ipip,
    Gue(GueVariant),
}

/// To whom the packet in the first tunnel is.
#[derive(Clone, Copy, Debug)]
enum Aim {
    /// To the host that sent it, which takes out the next.
    Back,
    /// To a VIP that both have.
    Vip,
}

const KINDS: [Kind; 3] = [
    Kind::Ipip,
    Kind::Gue(GueVariant::Direct),
    Kind::Gue(GueVariant::Header),
];

/// Somebody whom both hosts take for a balancer.
fn balancer(family: Family) -> IpAddr {
    match family {
        Family::V4 => "10.9.0.5".parse().unwrap(),
        Family::V6 => "fd00:9::5".parse().unwrap(),
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// A tunnel to an address.
fn around(kind: Kind, family: Family, to: IpAddr, inner: Packet) -> Packet {
    let inner = Box::new(inner);
    let (body, port) = match kind {
        Kind::Ipip => (Body::Tunnel { label: 0, inner }, 0),
        Kind::Gue(variant) => (
            Body::Gue {
                label: 0,
                variant,
                inner,
            },
            GUE_PORT,
        ),
    };
    Packet {
        to: [0; 6],
        from: [0; 6],
        source: SocketAddr::new(balancer(family), port),
        destination: SocketAddr::new(to, port),
        ttl: 64,
        body,
        sum: Sum::Right,
        class: 0,
        padding: vec![],
    }
}

/// A client's datagram.
fn datagram(family: Family, to: IpAddr) -> Packet {
    Packet {
        to: [0; 6],
        from: [0; 6],
        source: SocketAddr::new(client(family), 5353),
        destination: SocketAddr::new(to, 7000),
        ttl: 64,
        body: Body::Udp {
            data: b"to and fro".to_vec(),
        },
        sum: Sum::Right,
        class: 0,
        padding: vec![],
    }
}

/// The frame of a packet from one host to the other.
fn frame(packet: Packet, [from, to]: [u8; 2]) -> Vec<u8> {
    let packet = Packet {
        to: backend_mac(to),
        from: backend_mac(from),
        ..packet
    };
    packet.bytes()
}

/// Tunnels to and fro around a client's datagram to a VIP. `mixed`: each is of the other family than the one around it.
fn forged(kind: Kind, family: Family, aim: Aim, mixed: bool, [from, to]: [u8; 2]) -> Packet {
    let innermost = datagram(family, vip(family, 0));
    (0..DEPTH).rev().fold(innermost, |inner, depth| {
        let odd = depth % 2 == 1;
        let family = if mixed && odd { other(family) } else { family };
        let to = match (aim, odd) {
            (_, false) => backend(family, to),
            (Aim::Back, true) => backend(family, from),
            (Aim::Vip, true) => vip(family, 0),
        };
        around(kind, family, to, inner)
    })
}

/// All of them, each with what it is dropped for.
fn all(hosts: [u8; 2]) -> Vec<(Vec<u8>, &'static str)> {
    let mut frames = vec![];
    for kind in KINDS {
        for family in FAMILIES {
            for mixed in [false, true] {
                for (aim, why) in [(Aim::Back, "unknown_destination"), (Aim::Vip, "nested")] {
                    let packet = forged(kind, family, aim, mixed, hosts);
                    frames.push((frame(packet, hosts), why));
                }
            }
        }
    }
    frames
}

/// What a host's decapsulator has counted, and packets that its interface has sent.
fn counted(topology: &Topology, host: &str) -> (BTreeMap<String, u64>, u64) {
    let [_, sent] = packets(topology, host);
    (decap::show(topology, host).unwrap().packets, sent)
}

#[test]
fn two_hosts_that_forge_tunnels_at_each_other_drop_them_all_and_send_nothing_more() {
    let _turn = Turn::shared();
    let shape = Shape {
        backends: 2,
        ..SHAPES[5]
    };
    let topology = Topology::build(shape).unwrap();
    for host in HOSTS {
        let forward = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ];
        topology.namespace(host).sysctl(&forward).unwrap();
        decap::attach(&topology, host).unwrap();
    }
    let injectors = HOSTS.map(|host| Injector::open(topology.namespace(host), "eth0").unwrap());
    // That they would send on what comes out of a tunnel and is the other's: a datagram without one comes back.
    for family in FAMILIES {
        let here = backend(family, 1);
        let socket = topology.run_in("b1", || UdpSocket::bind((here, 7000)).unwrap());
        let patience = Some(Duration::from_secs(5));
        socket.set_read_timeout(patience).unwrap();
        let round = frame(datagram(family, here), [1, 2]);
        injectors[0].send(&round).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from.ip(), client(family));
    }
    let frames = [all([1, 2]), all([2, 1])];
    let count = |why: &str| {
        let of = frames[0].iter().filter(|(_, reason)| *reason == why);
        (of.count() * TIMES) as u64
    };
    let injected = (frames[0].len() * TIMES) as u64;
    let before = HOSTS.map(|host| counted(&topology, host));
    let dropped = || HOSTS.map(|host| decap::dropped(&topology, host).unwrap());
    let mut expected = dropped();
    for _ in 0..TIMES {
        for (injector, frames) in injectors.iter().zip(&frames) {
            let mut frames = frames.iter();
            frames
                .try_for_each(|(frame, _)| injector.send(frame))
                .unwrap();
        }
        expected = expected.map(|count| count + frames[0].len() as u64);
        wait_until("they have arrived", Duration::from_secs(5), || {
            let now = dropped();
            now.iter()
                .zip(expected)
                .all(|(now, expected)| *now >= expected)
        });
    }
    std::thread::sleep(SILENCE);
    for (host, (fates, sent)) in HOSTS.into_iter().zip(before) {
        let (now, sent_now) = counted(&topology, host);
        let more: BTreeMap<&str, u64> = now
            .iter()
            .map(|(fate, count)| (fate.as_str(), count - fates[fate]))
            .filter(|(_, more)| *more > 0)
            .collect();
        let sent = sent_now - sent;
        figure!("{host}: {injected} forged, {sent} sent in all, at its decapsulator {more:?}");
        for (fate, more) in more {
            match fate {
                "passed" => assert!(more <= NOISE, "{host}: {more} passed"),
                fate => assert_eq!(more, count(fate), "{host}: {fate}"),
            }
        }
        assert!(
            (injected..=injected + NOISE).contains(&sent),
            "{host}: {sent} sent"
        );
    }
}
