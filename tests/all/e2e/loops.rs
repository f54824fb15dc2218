//! Two balancers that are each other's backends, which no check of either file can see: what comes to them ends with its
//! time to live, in every way to forward.
//!
//! ```text
//!   l2dsr, dnat:   lb <──────> b3
//!   tunnels:       lb ══> b1 ──> b3 ══> b2 ──> lb     b1 and b2 take packets out and route them on
//! ```

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use lb_ebpf::fixture::packet::{Body, Mac, Packet, Sum};
use lb_tests::capture::Capture;
use lb_tests::daemon::{BackendConfig, Config, Daemon, Health, Protocol, Service, Status};
use lb_tests::decap;
use lb_tests::inject::Injector;
use lb_tests::server::ECHO_PORT;
use lb_tests::topology::{
    FAMILIES, Family, Forwarding, PASS, Topology, backend, backend_mac, balancer_back,
    balancer_front, client, vip,
};

use crate::stage::{SHAPES, Turn, figure, wait_until};

const CLIENT: Mac = [0x02, 0xf1, 0, 0, 0, 2];
const BALANCER: Mac = [0x02, 0xf1, 0, 0, 0, 1];
const SOON: Duration = Duration::from_secs(20);

/// Time to live of what a client sends.
const HOPS: u8 = 64;
/// Frames of neighbour discovery that an interface may see besides.
const NOISE: u64 = 30;
/// How long nothing may happen afterwards.
const SILENCE: Duration = Duration::from_millis(500);

/// Where frames of a loop are received by the switch, and for whom they are.
type Place = (&'static str, Mac);

/// How both balancers forward.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    forwarding: Forwarding,
    /// Tunnels of the other family.
    mixed: bool,
}

const WAYS: [Way; 5] = [
    way("l2dsr", Forwarding::L2dsr, false),
    way("dnat", Forwarding::Dnat, false),
    way("ipip", Forwarding::Ipip, false),
    way("ipip-mixed", Forwarding::Ipip, true),
    way("gue", Forwarding::Gue, false),
];

const fn way(name: &'static str, forwarding: Forwarding, mixed: bool) -> Way {
    Way {
        name,
        forwarding,
        mixed,
    }
}

/// A service of both balancers.
#[derive(Clone, Copy, Debug)]
struct Case {
    way: Way,
    family: Family,
    vip: IpAddr,
    protocol: Protocol,
}

fn cases() -> Vec<Case> {
    let ways = (0..).zip(WAYS);
    let each = ways.flat_map(|(number, way)| {
        FAMILIES.map(|family| Case {
            way,
            family,
            vip: vip(family, number),
            protocol: Protocol::Tcp,
        })
    });
    each.flat_map(|case| [Protocol::Tcp, Protocol::Udp].map(|protocol| Case { protocol, ..case }))
        .collect()
}

impl Case {
    fn name(&self) -> String {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            _ => "udp",
        };
        format!("{}{family}-{protocol}", self.way.name)
    }

    fn outer(&self) -> Family {
        match (self.family, self.way.mixed) {
            (family, false) => family,
            (Family::V4, true) => Family::V6,
            (Family::V6, true) => Family::V4,
        }
    }

    /// The VIP and the backend of one balancer.
    fn ends(&self, host: &str) -> (IpAddr, IpAddr) {
        let (family, outer) = (self.family, self.outer());
        match (self.way.forwarding, host) {
            (Forwarding::L2dsr, "lb") => (self.vip, backend(family, 3)),
            (Forwarding::L2dsr, _) => (self.vip, balancer_back(family)),
            (Forwarding::Dnat, "lb") => (self.vip, backend(family, 3)),
            (Forwarding::Dnat, _) => (backend(family, 3), self.vip),
            (_, "lb") => (self.vip, backend(outer, 1)),
            (..) => (self.vip, backend(outer, 2)),
        }
    }

    fn service(&self, topology: &Topology, host: &str) -> Service {
        let (vip, backend) = self.ends(host);
        let service = Service::new(
            topology,
            &self.name(),
            self.family,
            0,
            self.protocol,
            ECHO_PORT,
        );
        Service {
            address: vip,
            forwarding: self.way.forwarding,
            health: Health {
                kind: "none",
                port: None,
                ..Health::LAB
            },
            backends: vec![BackendConfig {
                name: "other".to_owned(),
                address: backend,
                port: ECHO_PORT,
                weight: 1,
                extra: String::new(),
            }],
            ..service
        }
    }

    /// What the client sends: a SYN or a datagram.
    fn frame(&self, port: u16) -> Vec<u8> {
        let body = match self.protocol {
            Protocol::Tcp => Body::Tcp {
                flags: "S",
                options: vec![],
                data: vec![],
            },
            _ => Body::Udp {
                data: b"round and round".to_vec(),
            },
        };
        let packet = Packet {
            to: BALANCER,
            from: CLIENT,
            source: SocketAddr::new(client(self.family), port),
            destination: SocketAddr::new(self.vip, ECHO_PORT),
            ttl: HOPS,
            body,
            sum: Sum::Right,
            class: 0,
            padding: vec![],
        };
        packet.bytes()
    }

    /// Frames of the loop by where they are seen. Whoever takes a packet out of a tunnel drops it when it could not send it on,
    /// which is one hop before a balancer would.
    fn expected(&self) -> Vec<(Place, usize)> {
        match self.way.forwarding.is_tunnel() {
            false => vec![(PLACES[0], 32), (PLACES[1], 31)],
            true => vec![
                (PLACES[2], 16),
                (PLACES[3], 16),
                (PLACES[4], 16),
                (PLACES[5], 15),
            ],
        }
    }
}

const PLACES: [Place; 6] = [
    ("lb", backend_mac(3)),
    ("b3", BALANCER),
    ("lb", backend_mac(1)),
    ("b1", backend_mac(3)),
    ("b3", backend_mac(2)),
    ("b2", BALANCER),
];

fn start(topology: &Topology, cases: &[Case]) -> [Daemon; 2] {
    let mut both = ["lb", "b3"].map(|host| {
        let config = Config {
            services: cases.iter().map(|c| c.service(topology, host)).collect(),
            interfaces: vec!["eth0".to_owned()],
            flows: 1 << 12,
            ..Config::lab(topology)
        };
        Daemon::prepare_at(topology, host, config).unwrap()
    });
    for daemon in &mut both {
        daemon.spawn().unwrap();
    }
    let is_ready = |status: &Status| {
        let mut backends = status.services.iter().flat_map(|s| &s.backends);
        status.ready && backends.all(|b| b.route.starts_with("eth0 "))
    };
    for daemon in &both {
        daemon
            .wait_until("it forwards, and all next hops are known", SOON, is_ready)
            .unwrap();
    }
    both
}

/// Makes `b1` and `b2` routers that take packets out of tunnels and have no VIP, and `b3` one who does not answer for those of
/// `dnat`.
fn wire(topology: &Topology, cases: &[Case]) {
    let (mut routed, mut elsewhere) = (vec![], vec![]);
    for case in cases {
        match case.way.forwarding {
            Forwarding::Dnat => elsewhere.push((case.family, case.vip)),
            way if way.is_tunnel() => routed.push((case.family, case.vip)),
            _ => {}
        }
    }
    for list in [&mut routed, &mut elsewhere] {
        list.dedup();
    }
    let send = |host: &str, vip: IpAddr, via: IpAddr| {
        topology.remove_address(host, "lo", vip).unwrap();
        topology.add_host_route(host, vip, via).unwrap();
    };
    for (family, vip) in routed {
        send("b1", vip, backend(family, 3));
        send("b2", vip, balancer_front(family));
    }
    for (family, vip) in elsewhere {
        send("b3", vip, balancer_front(family));
    }
    for host in ["b1", "b2"] {
        let forward = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ];
        topology.namespace(host).sysctl(&forward).unwrap();
        decap::attach(topology, host).unwrap();
    }
}

/// Packets that an interface has counted in and out.
pub(super) fn packets(topology: &Topology, host: &str) -> [u64; 2] {
    let show = || {
        let mut ip = Command::new("ip");
        ip.args(["-j", "-s", "link", "show", "eth0"]).output()
    };
    let output = topology.run_in(host, show).unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    ["rx", "tx"].map(|way| shown[0]["stats64"][way]["packets"].as_u64().unwrap())
}

fn rise(before: [u64; 2], after: [u64; 2]) -> [u64; 2] {
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn what_two_balancers_send_each_other_ends_within_its_time_to_live() {
    let _turn = Turn::shared();
    // No decapsulator but those of the two routers.
    let topology = Topology::build(SHAPES[3]).unwrap();
    let cases = cases();
    wire(&topology, &cases);
    // What the other balancer sends arrives, as at the ports of the usual one.
    let _port = topology.attach_xdp("switch", "b3", &PASS).unwrap();
    let balancers = start(&topology, &cases);
    let switch = topology.namespace("switch");
    let captures = PLACES.map(|(port, to)| Capture::start(switch, port, to).unwrap());
    let injector = Injector::open(topology.namespace("client"), "eth0").unwrap();
    let expired = || {
        let of = |daemon: &Daemon| daemon.status().unwrap().data_plane.drops["ttl_expired"];
        let taken_out = |host: &str| decap::dropped(&topology, host).unwrap();
        balancers.iter().map(of).sum::<u64>() + taken_out("b1") + taken_out("b2")
    };
    // Frames with the client's packet, at every place.
    let seen = || {
        captures.each_ref().map(|capture| {
            let frames = capture.frames();
            let ours = frames.iter();
            ours.filter(|f| FAMILIES.map(client).contains(&f.source))
                .count()
        })
    };
    let ended = expired();
    for (number, case) in (0..).zip(&cases) {
        let name = case.name();
        let begun = seen();
        let before = ["lb", "b3"].map(|host| packets(&topology, host));
        injector.send(&case.frame(40_000 + number)).unwrap();
        let hops = usize::from(HOPS) - 1;
        let all = |counts: [usize; PLACES.len()]| counts.iter().sum::<usize>();
        wait_until(&format!("{name}: it ends"), SOON, || {
            all(seen()) >= all(begun) + hops
        });
        // A copy would still be under way.
        std::thread::sleep(Duration::from_millis(20));
        let after = ["lb", "b3"].map(|host| packets(&topology, host));
        let [lb, b3] = [0, 1].map(|n| rise(before[n], after[n]));
        let now = seen();
        let fresh: [usize; PLACES.len()] = std::array::from_fn(|n| now[n] - begun[n]);
        figure!("{name}: one packet in, hops {fresh:?}, lb in and out {lb:?}, b3 {b3:?}");
        let expected = PLACES.map(|place| {
            let mut of_case = case.expected().into_iter();
            let found = of_case.find(|(p, _)| *p == place);
            found.map_or(0, |(_, count)| count)
        });
        assert_eq!(fresh, expected, "{name}");
        assert_eq!(all(fresh), hops, "{name}");
        let at_each = if case.way.forwarding.is_tunnel() {
            16
        } else {
            32
        };
        for count in [lb[0], lb[1], b3[0]] {
            assert!(
                (at_each..=at_each + NOISE).contains(&count),
                "{name}: {count}"
            );
        }
    }
    let over = seen();
    let before = ["lb", "b3"].map(|host| packets(&topology, host));
    std::thread::sleep(SILENCE);
    assert_eq!(seen(), over, "it is not over");
    for (host, before) in ["lb", "b3"].into_iter().zip(before) {
        let more = rise(before, packets(&topology, host));
        assert!(more.iter().all(|n| *n <= NOISE), "{host}: {more:?}");
    }
    assert_eq!(expired(), ended + cases.len() as u64);
    for daemon in &balancers {
        daemon.check_conservation().unwrap();
    }
}
