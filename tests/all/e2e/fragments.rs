//! Datagrams larger than the network's packets.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_ebpf::fixture::fragments::piece;
use lb_ebpf::fixture::packet::{Body, Packet, Sum};
use lb_tests::inject::Injector;
use lb_tests::server::{NAME_BYTES, Server};
use lb_tests::topology::{FAMILIES, Forwarding, client};

use super::encapsulation::{GUE, HEADER, MIXED, MIXED_HEADER};
use crate::stage::{FULLNAT, SHAPES, Stage, UDP};

/// Largest datagram that the network takes in one piece is below 1,500 bytes.
const SIZES: [usize; 4] = [1_600, 8_000, 30_000, 60_000];

#[test]
fn datagrams_in_pieces_are_answered_whole_in_both_directions() {
    let plain = SHAPES.into_iter().chain(FULLNAT).map(|shape| (shape, None));
    let tunnels = [
        (SHAPES[4], Some(GUE)),
        (SHAPES[5], Some(HEADER)),
        (SHAPES[4], Some(MIXED)),
        (SHAPES[5], Some(MIXED_HEADER)),
    ];
    for (shape, way) in plain.chain(tunnels) {
        let stage = Stage::with(shape, Server::threads, |config| match way {
            Some(way) => way.change(config),
            None => config,
        });
        for service in UDP {
            let target = stage.daemon.config().service(service).target();
            let socket = stage.topology.run_in("client", || {
                let socket = UdpSocket::bind(match target.is_ipv4() {
                    true => "0.0.0.0:0",
                    false => "[::]:0",
                })?;
                socket.connect(target)?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                std::io::Result::Ok(socket)
            });
            let socket = socket.unwrap();
            let mut heard = vec![0; 65_536];
            let mut too_big = 0;
            for round in 0..3 {
                for size in SIZES {
                    let said: Vec<u8> = (0..size).map(|n| (n + round) as u8).collect();
                    assert_eq!(socket.send(&said).unwrap(), size);
                    let mut got = socket.recv(&mut heard);
                    // Pieces that do not fit the tunnel: the client is told, and makes smaller ones from then on.
                    let told = got.as_ref().err().and_then(std::io::Error::raw_os_error);
                    if told == Some(libc::EMSGSIZE)
                        && too_big == 0
                        && shape.forwarding == Forwarding::Ipip
                    {
                        too_big += 1;
                        assert_eq!(socket.send(&said).unwrap(), size);
                        got = socket.recv(&mut heard);
                    }
                    let got = got.unwrap_or_else(|error| {
                        let plane = stage.daemon.status().unwrap().data_plane;
                        panic!("{shape:?} {way:?} {service} {size} bytes: {error}; {plane:?}")
                    });
                    assert_eq!(got, size, "{shape:?} {way:?} {service}");
                    // The server writes its name over the beginning.
                    let same = |n: usize| heard[n] == said[n];
                    let all = (64..size).all(same);
                    assert!(all, "{shape:?} {way:?} {service} {size} bytes");
                }
            }
        }
        let drops = stage.daemon.status().unwrap().data_plane.drops;
        assert_eq!(drops["fragment"], 0, "{drops:?}");
        stage.end();
    }
}

/// Where a datagram is cut, and its length, with its header.
const CUT: usize = 104;
const WHOLE: usize = 208;

#[test]
fn a_later_piece_before_its_first_one_is_counted_and_completes_the_datagram_when_it_comes_again() {
    let ways = [
        (SHAPES[0], None),
        (SHAPES[3], None),
        (SHAPES[4], Some(GUE)),
        (FULLNAT[0], None),
    ];
    for (shape, way) in ways {
        let stage = Stage::with(shape, Server::threads, |config| match way {
            Some(way) => way.change(config),
            None => config,
        });
        let injector = Injector::open(stage.topology.namespace("client"), "eth0").unwrap();
        let dropped = || stage.daemon.status().unwrap().data_plane.drops["fragment"];
        for (family, target) in FAMILIES.into_iter().zip(stage.targets(&UDP)) {
            let here = SocketAddr::new(client(family), 0);
            let socket = stage.topology.run_in("client", || UdpSocket::bind(here));
            let socket = socket.unwrap();
            let said: Vec<u8> = (8..WHOLE).map(|n| n as u8).collect();
            let datagram = Packet {
                to: [0x02, 0xf1, 0, 0, 0, 1],
                from: [0x02, 0xf1, 0, 0, 0, 2],
                source: socket.local_addr().unwrap(),
                destination: target,
                ttl: 64,
                body: Body::Udp { data: said.clone() },
                sum: Sum::Right,
                class: 0,
                padding: vec![],
            };
            let frame = datagram.bytes();
            let first = piece(&frame, 77, 0, CUT);
            let later = piece(&frame, 77, CUT, WHOLE);
            let before = dropped();
            injector.send(&later).unwrap();
            stage.wait("the later piece is dropped", |status| {
                status.data_plane.drops["fragment"] == before + 1
            });
            injector.send(&first).unwrap();
            let mut heard = [0; 2 * WHOLE];
            let mut hear = |patience| {
                let patience = Some(Duration::from_millis(patience));
                socket.set_read_timeout(patience).unwrap();
                socket.recv_from(&mut heard)
            };
            assert!(
                hear(200).is_err(),
                "{shape:?} {target}: one piece is enough"
            );
            injector.send(&later).unwrap();
            let (length, from) = hear(5000).unwrap();
            assert_eq!((length, from), (said.len(), target), "{shape:?}");
            assert!(heard[NAME_BYTES..length] == said[NAME_BYTES..], "{shape:?}");
            assert_eq!(dropped(), before + 1, "{shape:?} {target}");
        }
        stage.end();
    }
}
