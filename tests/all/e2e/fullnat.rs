//! `fullnat`: backends without a route to clients serve them, and know them by an address of the balancer's.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lb_tests::daemon::{Config, Health, Protocol, Service};
use lb_tests::load::{Long, Udp};
use lb_tests::server::Server;
use lb_tests::topology::{
    FAMILIES, Family, Shape, Topology, backend, balancer_back, client, nat_source,
};
use socket2::{Domain, Socket, Type};

use crate::ops::text;
use crate::stage::{ECHO, FULLNAT, Stage, UDP, WEB, wait_until};

pub(super) mod witness;

use witness::{OPTION, WITNESS, Witness};

const SOON: Duration = Duration::from_secs(15);
/// The balancer drops, and TCP asks again after a second.
const REFUSED_AFTER: Duration = Duration::from_millis(700);

/// Connects from a host's address and port.
pub(super) fn connect(
    topology: &Topology,
    host: &str,
    from: (IpAddr, u16),
    to: SocketAddr,
) -> std::io::Result<TcpStream> {
    topology.run_in(host, || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(from).into())?;
        socket.connect_timeout(&to.into(), REFUSED_AFTER)?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    })
}

#[track_caller]
pub(super) fn says(stream: &mut TcpStream, byte: u8) {
    stream.write_all(&[byte]).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [byte]);
}

/// Waits until no connection from or to a port of a host goes on.
#[track_caller]
fn wait_for_the_end(stage: &Stage, host: &str, port: u16) {
    let of_port = format!("( sport = :{port} or dport = :{port} )");
    wait_until("the connections have ended", SOON, || {
        let left = text(&stage.topology, host, &["ss", "-Htan", &of_port]);
        left.lines().all(|line| line.starts_with("TIME-WAIT"))
    });
}

/// Services of the witness at `b1`: two VIPs over TCP and one over UDP, in each family.
fn with_witness(mut config: Config, topology: &Topology) -> Config {
    for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
        for (name, number, protocol) in [
            ("one", 1, Protocol::Tcp),
            ("two", 2, Protocol::Tcp),
            ("datagrams", 1, Protocol::Udp),
        ] {
            let name = format!("{name}{digit}");
            let mut service = Service::new(topology, &name, family, number, protocol, WITNESS);
            service.backends.truncate(1);
            if name.starts_with("one") {
                service.extra += &format!("\nclient-option = {OPTION}");
            }
            config.services.push(service);
        }
    }
    config
}

/// Puts `b3` behind `b2`: it reaches the balancer's two addresses through it, and nobody else.
fn put_behind_a_router(topology: &Topology) {
    let ip = |host: &str, words: &str| {
        let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
        text(topology, host, &words);
    };
    let set = |host: &str, settings: &[(&str, &str)]| {
        topology.namespace(host).sysctl(settings).unwrap();
    };
    set(
        "b2",
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/eth0/send_redirects", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ],
    );
    for host in ["b3", "lb"] {
        set(host, &[("net/ipv6/conf/all/accept_redirects", "0")]);
    }
    let device = topology.shape().balancer_back_device();
    set(
        "lb",
        &[(&format!("net/ipv6/conf/{device}/accept_redirects"), "0")],
    );
    set("b3", &[("net/ipv6/conf/eth0/accept_redirects", "0")]);
    for (family, network, host) in [(Family::V4, 24, 32), (Family::V6, 64, 128)] {
        let (here, router) = (backend(family, 3), backend(family, 2));
        let quickly = if family == Family::V6 { " nodad" } else { "" };
        ip("b3", &format!("address delete {here}/{network} dev eth0"));
        ip(
            "b3",
            &format!("address add {here}/{host} dev eth0{quickly}"),
        );
        ip("b3", &format!("route add {router} dev eth0"));
        for address in [nat_source(family), balancer_back(family)] {
            ip("b3", &format!("route add {address} via {router}"));
        }
        topology.add_host_route("lb", here, router).unwrap();
    }
}

#[track_caller]
fn check_short_connections(shape: Shape) {
    let stage = Stage::new(shape);
    for names in [ECHO, WEB] {
        let report = stage.storm(&names, 3000);
        report.assert_clean(3000);
        let counts = report.backends();
        // A third each; six standard deviations of 3000 draws are 155.
        assert!(
            (1..=3).all(|n| counts.get(&n).is_some_and(|c| *c > 800)),
            "{report}"
        );
    }
    stage.end();
}

#[test]
fn short_connections_over_fullnat_and_one_arm_reach_every_backend() {
    check_short_connections(FULLNAT[1]);
}

#[test]
fn backends_in_other_networks_serve_clients_that_they_have_no_route_to() {
    let mut stage = Stage::with_topology(
        FULLNAT[0],
        |topology| {
            put_behind_a_router(topology);
            Server::threads(topology)
        },
        |mut config, topology| {
            for service in &mut config.services {
                // Not by the flow's hash: the way that is not the usual one.
                if service.name == "web4" {
                    service.extra += "\nscheduler = \"round-robin\"";
                }
            }
            with_witness(config, topology)
        },
    );
    let no_route = text(
        &stage.topology,
        "b3",
        &["ip", "route", "show", "to", "match", "10.10.0.2"],
    );
    assert_eq!(no_route, "");
    for names in [ECHO, WEB] {
        let report = stage.storm(&names, 1500);
        report.assert_clean(1500);
        let counts = report.backends();
        // A third each; six standard deviations of 1500 draws are 110.
        assert!(
            (1..=3).all(|n| counts.get(&n).is_some_and(|c| *c > 380)),
            "{report}"
        );
    }
    let length = Duration::from_secs(2);
    let udp = Udp::start(
        &stage.topology,
        &stage.targets(&UDP),
        60,
        Duration::from_millis(100),
        length,
    );
    let flows = udp.unwrap().wait();
    assert!(
        flows
            .iter()
            .all(|f| f.lost.is_empty() && f.backends.len() == 1 && f.answered > 5),
        "{flows:?}"
    );

    // Flows outlive the daemon and a drain.
    let long = Long::start(&stage.topology, &stage.targets(&ECHO), 24, SOON * 8).unwrap();
    long.wait_until_established(SOON).unwrap();
    stage.daemon.kill().unwrap();
    stage.storm(&ECHO, 300).assert_clean(300);
    stage.daemon.restart().unwrap();
    for service in ECHO {
        let key = format!("{service}/b2");
        stage
            .daemon
            .cli(&["drain", &key])
            .unwrap()
            .succeeded()
            .unwrap();
    }
    let report = stage.storm(&ECHO, 600);
    report.assert_clean(600);
    let counts = report.backends();
    assert_eq!(counts.keys().collect::<Vec<_>>(), [&1, &3], "{report}");
    let before = long.connections();
    let messages = |connections: &[lb_tests::load::Connection]| {
        connections.iter().map(|c| c.messages).collect::<Vec<_>>()
    };
    let then = messages(&before);
    wait_until("all connections have gone on", SOON, || {
        let now = messages(&long.connections());
        now.iter().zip(&then).all(|(now, then)| *now > then + 2)
    });
    assert!(long.living().get(&2).is_some_and(|n| *n > 0));
    let connections = long.stop();
    assert_eq!(connections.len(), 24);
    assert!(
        connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    stage.end();
}

#[test]
fn a_server_sees_our_address_two_vips_do_not_collide_and_it_can_be_its_own_client() {
    let mut stage = Stage::with_topology(FULLNAT[0], Server::threads, with_witness);
    let witness = Witness::start(&stage.topology, "b1");
    for (family, digit) in [(Family::V4, 4), (Family::V6, 6)] {
        let target = |name: &str| {
            stage
                .daemon
                .config()
                .service(&format!("{name}{digit}"))
                .target()
        };
        // One port of the client to two VIPs of one server, at the same time.
        let from = (client(family), 45_000);
        let mut both = ["one", "two"]
            .map(|name| connect(&stage.topology, "client", from, target(name)).unwrap());
        for (byte, stream) in (1..).zip(both.iter_mut()) {
            says(stream, byte);
        }
        both.iter_mut().for_each(|stream| says(stream, 9));
        let seen: BTreeSet<SocketAddr> = witness.seen().into_iter().collect();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(
            seen.iter().all(|end| end.ip() == nat_source(family)),
            "{seen:?}"
        );
        // But the SYN tells, where that is configured.
        let told = std::mem::take(&mut *witness.told.lock().unwrap());
        assert_eq!(told, [Some(SocketAddr::from(from)), None]);

        let datagram = || -> std::io::Result<u8> {
            let socket = UdpSocket::bind(from)?;
            socket.set_read_timeout(Some(SOON))?;
            socket.connect(target("datagrams"))?;
            socket.send(&[5])?;
            let mut byte = [0];
            socket.recv(&mut byte)?;
            Ok(byte[0])
        };
        assert_eq!(stage.topology.run_in("client", datagram).unwrap(), 5);
        let seen = witness.seen();
        assert_eq!(
            seen.iter().map(SocketAddr::ip).collect::<Vec<_>>(),
            [nat_source(family)]
        );
    }

    // What a server sends itself is no traffic between client and servers, of which there is no more.
    wait_for_the_end(&stage, "client", 45_000);
    stage.check_law();
    let targets = stage.targets(&["one4", "one6"]);
    stage.uncounted(|stage| {
        for (family, to) in FAMILIES.into_iter().zip(targets) {
            let (here, via) = (backend(family, 1), balancer_back(family));
            stage.topology.add_host_route("b1", to.ip(), via).unwrap();
            let mut stream = connect(&stage.topology, "b1", (here, 46_000), to).unwrap();
            says(&mut stream, 3);
            let seen = witness.seen();
            assert_eq!(seen.len(), 1, "{seen:?}");
            assert_eq!(seen[0].ip(), nat_source(family));
            stream.write_all(b"q").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            drop(stream);
            wait_for_the_end(stage, "b1", 46_000);
        }
    });
    stage.end();
}

/// As many ports as one server's connections need, and no more.
#[test]
fn a_pool_that_is_exhausted_says_so_and_a_client_may_use_its_port_again() {
    let ports: u16 = 8;
    let stage = Stage::with_topology(FULLNAT[0], Server::threads, |mut config, topology| {
        config.extra += "nat-ports = \"5000-5007\"\n";
        config.services.clear();
        with_witness(config, topology)
    });
    let witness = Witness::start(&stage.topology, "b1");
    for (family, name) in [(Family::V4, "one4"), (Family::V6, "one6")] {
        let to = stage.targets(&[name])[0];
        let open = |port: u16| connect(&stage.topology, "client", (client(family), port), to);
        let mut streams: Vec<TcpStream> = (0..ports).map(|n| open(45_000 + n).unwrap()).collect();
        streams.iter_mut().for_each(|stream| says(stream, 1));
        let seen: BTreeSet<u16> = witness.seen().iter().map(SocketAddr::port).collect();
        assert_eq!(seen, (5000..5008).collect(), "each has a port of its own");
        assert_eq!(open(46_000).unwrap_err().kind(), ErrorKind::TimedOut);
        streams.iter_mut().for_each(|stream| says(stream, 2));

        // The server ends it, and is in TIME_WAIT; nobody else gets its port, but its client may come again.
        let mut first = streams.remove(0);
        first.write_all(b"q").unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        drop(first);
        assert_eq!(open(46_001).unwrap_err().kind(), ErrorKind::TimedOut);
        let again = RefCell::new(None);
        wait_until("the client has its port again", SOON, || {
            *again.borrow_mut() = open(45_000).ok();
            again.borrow().is_some()
        });
        says(&mut again.into_inner().unwrap(), 4);
        streams.iter_mut().for_each(|stream| says(stream, 3));
    }
    // One for each port and family, and none for who was refused.
    let entries = 2 * u64::from(ports);
    wait_until("the flows are counted", SOON, || {
        stage.daemon.status().unwrap().data_plane.nat_flows == entries
    });
    let drops = stage.daemon.status().unwrap().data_plane.drops;
    assert!(drops["nat_ports_exhausted"] >= 4, "{drops:?}");
    let curl = ["curl", "-sSf", "http://127.0.0.1:9460/metrics"];
    let metrics = text(&stage.topology, "lb", &curl);
    let of_service = |line: &&str| {
        line.contains("nat_ports_exhausted") && line.contains("one4") && !line.ends_with(" 0")
    };
    assert!(metrics.lines().any(|line| of_service(&line)), "{metrics}");
    let counted = format!("fairlead_nat_flow_entries {entries}");
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    stage.end();
}

/// What a client's packet is addressed to when it arrives, a check is addressed to: no backend has the VIP.
#[test]
fn servers_on_the_port_of_their_vip_are_checked_at_their_own_addresses() {
    let stage = Stage::with(FULLNAT[0], Server::threads, |mut config| {
        config.services.retain(|s| ECHO.contains(&s.name.as_str()));
        for service in &mut config.services {
            service.health = Health {
                kind: "tcp",
                ..Health::LAB
            };
            assert_eq!(service.backends[0].port, service.port);
        }
        config
    });
    let report = stage.storm(&ECHO, 300);
    report.assert_clean(300);
    assert_eq!(
        report.backends().into_keys().collect::<Vec<_>>(),
        [1, 2, 3],
        "{report}"
    );
    stage.end();
}
