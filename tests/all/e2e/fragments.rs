//! Datagrams larger than the network's packets.

use std::net::UdpSocket;
use std::time::Duration;

use lb_tests::topology::Forwarding;

use crate::stage::{FULLNAT, SHAPES, Stage, UDP};

/// Largest datagram that the network takes in one piece is below 1,500 bytes.
const SIZES: [usize; 4] = [1_600, 8_000, 30_000, 60_000];

#[test]
fn datagrams_in_pieces_are_answered_whole_in_both_directions() {
    for shape in SHAPES.into_iter().chain(FULLNAT) {
        let stage = Stage::new(shape);
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
                        panic!("{shape:?} {service} {size} bytes: {error}; {plane:?}")
                    });
                    assert_eq!(got, size, "{shape:?} {service}");
                    // The server writes its name over the beginning.
                    let same = |n: usize| heard[n] == said[n];
                    assert!((64..size).all(same), "{shape:?} {service} {size} bytes");
                }
            }
        }
        let drops = stage.daemon.status().unwrap().data_plane.drops;
        assert_eq!(drops["fragment"], 0, "{drops:?}");
        stage.end();
    }
}
