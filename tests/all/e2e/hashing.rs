//! What flows have in common that go to one backend: `hash-fields` with real connections to a prefix of VIPs and any port.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lb_tests::topology::Family;
use socket2::{Domain, Socket, Type};

use super::ranges;
use crate::stage::{SHAPES, Stage};

/// Addresses of the client: so many that chance brings all flows of each to one backend once in 10^11 runs.
const CLIENTS: std::ops::Range<u8> = 10..18;
const PORTS: [u16; 2] = [ranges::PORTS[0], ranges::PORTS[3]];
/// Connections with the same addresses and the same port of the service.
const AGAIN: usize = 2;

/// The backend that takes a connection.
fn answers(stage: &Stage, from: u8, target: SocketAddr) -> String {
    let text = stage.topology.run_in("client", || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::from((Ipv4Addr::new(10, 10, 0, from), 0));
        socket.bind(&from.into()).unwrap();
        let patience = Duration::from_secs(10);
        socket.connect_timeout(&target.into(), patience).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut text = String::new();
        TcpStream::from(socket).read_to_string(&mut text).unwrap();
        text
    });
    text.split(' ').next().unwrap().to_owned()
}

/// Whether all flows go to one backend that are alike in the client, in both addresses, in these and the service's port.
fn together(stage: &Stage) -> [bool; 3] {
    let one = |homes: &[String]| homes.iter().collect::<BTreeSet<_>>().len() == 1;
    let mut together = [true; 3];
    for client in CLIENTS {
        let mut of_client = Vec::new();
        for vip in ranges::within(Family::V4) {
            let mut of_vip = Vec::new();
            for port in PORTS {
                let target = SocketAddr::from((vip, port));
                let homes = [(); AGAIN].map(|()| answers(stage, client, target));
                together[2] &= one(&homes);
                of_vip.extend(homes);
            }
            together[1] &= one(&of_vip);
            of_client.extend(of_vip);
        }
        together[0] &= one(&of_client);
    }
    together
}

#[test]
fn flows_that_are_alike_in_what_is_hashed_go_together_and_others_do_not() {
    let mut stage = ranges::stage(SHAPES[2]);
    ranges::listen(&stage);
    for last in CLIENTS {
        let from = Ipv4Addr::new(10, 10, 0, last).into();
        let added = stage.topology.add_address("client", "eth0", from, 24);
        added.unwrap();
    }
    let usual = stage.daemon.config().clone();
    for (fields, expected) in [
        ("", [false; 3]),
        ("hash-fields = 5", [false; 3]),
        ("hash-fields = 3", [false, false, true]),
        ("hash-fields = 2", [false, true, true]),
        ("hash-fields = 1", [true; 3]),
        ("scheduler = \"source-hash\"", [true; 3]),
    ] {
        let mut config = usual.clone();
        let service = config.services.iter_mut().find(|s| s.name == "all4");
        service.unwrap().extra += &format!("\n{fields}");
        stage.daemon.reload(config).unwrap();
        assert_eq!(together(&stage), expected, "{fields}");
    }
    stage.end();
}
