//! Every scheduler with real connections: who of the servers answers how many of them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lb_tests::daemon::{Config, Protocol, Service, Status};
use lb_tests::server::{ECHO_PORT, MESSAGE_BYTES, Server, signature};
use lb_tests::topology::{Family, Topology};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::stage::{SHAPES, Stage};

/// Of the backends, where they count.
const WEIGHTS: [u16; 3] = [3, 2, 1];
/// Whole rounds of all turns.
const FLOWS: u64 = 600;
/// More addresses of the client, for who looks at nothing else.
const CLIENTS: std::ops::Range<u8> = 10..74;

/// Connections that stay open on one backend, more of them on any, and those that come after: not so many that the
/// others of weight 3 would have as many for theirs.
const HELD: [usize; 2] = [400, 100];
const LATER: u64 = 200;

/// One service for each: a server's port stands in at most four services of a family.
const SERVICES: [(&str, Family); 7] = [
    ("round-robin", Family::V4),
    ("weighted-round-robin", Family::V4),
    ("random", Family::V4),
    ("source-hash", Family::V4),
    ("maglev", Family::V6),
    ("least-connections", Family::V6),
    ("affinity", Family::V6),
];

fn config(mut config: Config, topology: &Topology) -> Config {
    let service = |(number, &(name, family)): (u8, &(&str, Family))| {
        let mut service = Service::new(topology, name, family, number, Protocol::Tcp, ECHO_PORT);
        for (backend, weight) in service.backends.iter_mut().zip(WEIGHTS) {
            backend.weight = weight;
        }
        service.extra += &match name {
            "affinity" => "\nscheduler = \"round-robin\"\naffinity-timeout = \"10m\"".to_owned(),
            name => format!("\nscheduler = \"{name}\""),
        };
        service
    };
    // Walked through at once, so that the flows that are counted are those of one moment.
    config.flows = 1 << 16;
    config.services = (0..).zip(&SERVICES).map(service).collect();
    config
}

/// How many connections of a storm each backend answers; all of them are answered.
fn spread(stage: &Stage, name: &str) -> [u64; 3] {
    // A backend could not tell connections of two services apart that come from the same port of a client.
    let number = SERVICES.iter().position(|(other, _)| *other == name);
    spread_from(stage, name, 1024 + 9_000 * number.unwrap(), 9_000)
}

/// The same from so many ports of the client.
fn spread_from(stage: &Stage, name: &str, first: usize, count: usize) -> [u64; 3] {
    let ports = format!("{first} {}", first + count - 1);
    let own = [("net/ipv4/ip_local_port_range", ports.as_str())];
    stage.topology.namespace("client").sysctl(&own).unwrap();
    let report = stage.storm(&[name], FLOWS);
    report.assert_clean(usize::try_from(FLOWS).unwrap());
    let found = report.backends();
    [1, 2, 3].map(|n| found.get(&n).copied().unwrap_or(0))
}

/// Shares by weight, as chance has it: within six standard deviations, which two of a thousand million runs are not.
#[track_caller]
fn check_by_chance(found: [u64; 3], flows: u64, weights: [u16; 3]) {
    let (flows, all) = (flows as f64, f64::from(weights.iter().sum::<u16>()));
    for (count, weight) in found.into_iter().zip(weights) {
        let share = f64::from(weight) / all;
        let deviation = (flows * share * (1.0 - share)).sqrt();
        let off = (count as f64 - flows * share).abs();
        assert!(off <= 6.0 * deviation, "{found:?} for {weights:?}");
    }
}

/// Opens connections, each with an answer, and keeps them.
fn hold(stage: &Stage, target: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let patience = Duration::from_secs(10);
        let mut stream = TcpStream::connect_timeout(&target, patience).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut message = [0; MESSAGE_BYTES];
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut message).unwrap();
        stream
    };
    let topology = &stage.topology;
    topology.run_in("client", || (0..count).map(open).collect())
}

/// Long connections on one backend: new ones go to the others, as soon as they take some.
fn long_ones_keep_new_ones_away(stage: &Stage) {
    const NAME: &str = "least-connections";
    let order = |verb: &str, backend: &str| {
        let whom = format!("{NAME}/{backend}");
        let told = stage.daemon.cli(&[verb, &whom]).unwrap();
        told.succeeded().unwrap();
    };
    let counted = |status: &Status| {
        let flows = |n| status.backend(&format!("{NAME}/b{n}")).traffic.live_flows;
        [1, 2, 3].map(flows)
    };
    let before = |held: usize| {
        let what = format!("{held} connections are counted");
        let all = |status: &Status| counted(status).iter().sum::<u64>() >= held as u64;
        let found = stage.daemon.wait_until(&what, Duration::from_secs(20), all);
        counted(&found.unwrap())
    };
    order("drain", "b2");
    order("drain", "b3");
    let target = stage.targets(&[NAME])[0];
    let [first, more] = HELD;
    let mut held = hold(stage, target, first);
    assert_eq!(before(first), [first as u64, 0, 0]);
    order("enable", "b2");
    order("enable", "b3");
    // With these all are counted, and so is who takes flows now.
    held.extend(hold(stage, target, more));
    before(first + more);
    let report = stage.storm(&[NAME], LATER);
    report.assert_clean(usize::try_from(LATER).unwrap());
    let found = report.backends().get(&1).copied().unwrap_or(0);
    println!("the one with long connections got {found} of {LATER} new ones");
    // Weight 3 of 6: both of the two that chance names are this one for a quarter of them. Its share were half.
    let later = LATER as f64;
    let most = later / 4.0 + 5.0 * (later * 3.0 / 16.0).sqrt();
    assert!((found as f64) <= most, "{found} of {LATER}");
    drop(held);
}

/// Their connections have ended: everybody gets its share again.
fn shares_return(stage: &Stage) {
    const NAME: &str = "least-connections";
    let ended = |status: &Status| {
        let flows = |n| status.backend(&format!("{NAME}/b{n}")).traffic.live_flows;
        [1, 2, 3].map(flows) == [0; 3]
    };
    let what = "no connection is counted any more";
    let found = stage
        .daemon
        .wait_until(what, Duration::from_secs(60), ended);
    found.unwrap();
    check_by_chance(spread(stage, NAME), FLOWS, WEIGHTS);
}

/// A client has one backend, until that takes no new flows; then another one, and no daemon's restart and nobody's return changes that.
fn a_client_stays(stage: &mut Stage) {
    // Each time from other ports: a known flow has its own backend.
    let mut ports = (55_100..).step_by(1500);
    let mut home = |stage: &Stage| {
        let found = spread_from(stage, "affinity", ports.next().unwrap(), 1500);
        let all = found.iter().position(|count| *count == FLOWS);
        all.unwrap_or_else(|| panic!("a client has several backends: {found:?}")) + 1
    };
    let order = |stage: &Stage, verb: &str, backend: usize| {
        let whom = format!("affinity/b{backend}");
        let told = stage.daemon.cli(&[verb, &whom]).unwrap();
        told.succeeded().unwrap();
    };
    let first = home(stage);
    assert_eq!(home(stage), first);
    order(stage, "drain", first);
    let second = home(stage);
    assert_ne!(second, first);
    order(stage, "enable", first);
    assert_eq!(home(stage), second);
    stage.daemon.kill().unwrap();
    assert_eq!(home(stage), second);
    stage.daemon.restart().unwrap();
    let status = stage.daemon.status().unwrap();
    assert_eq!(status.data_plane.affinity_evicted, 0);
    assert_eq!(home(stage), second);
}

/// The backend that answers a connection from this address of the client.
pub(super) fn answers(topology: &Topology, from: Ipv4Addr, target: SocketAddr) -> u8 {
    topology.run_in("client", || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        let patience = Duration::from_secs(10);
        socket.connect_timeout(&target.into(), patience).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut stream = std::net::TcpStream::from(socket);
        let mut message = [0; MESSAGE_BYTES];
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut message).unwrap();
        let name = signature(&message);
        name.strip_prefix('b').unwrap().parse().unwrap()
    })
}

/// The CPUs that this thread might use.
pub(super) struct Cpus(CpuSet);

impl Cpus {
    /// This thread may use them from now on.
    pub(super) fn allow_again(&self) {
        sched_setaffinity(Pid::from_raw(0), &self.0).unwrap();
    }
}

/// Hosts and switch receive on the CPUs of whoever builds them: so the data plane of a network that this thread builds sees all flows on one.
pub(super) fn see_all_flows_on_one_cpu() -> Cpus {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let first = (0..CpuSet::count()).find(|&cpu| all.is_set(cpu).unwrap());
    let mut one = CpuSet::new();
    one.set(first.unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    Cpus(all)
}

#[test]
fn real_connections_spread_as_their_scheduler_says() {
    let all_cpus = see_all_flows_on_one_cpu();
    let servers = |topology: &Topology| {
        all_cpus.allow_again();
        Server::threads(topology)
    };
    let mut stage = Stage::with_topology(SHAPES[0], servers, config);

    assert_eq!(spread(&stage, "round-robin"), [FLOWS / 3; 3]);
    let by_weight = WEIGHTS.map(|weight| FLOWS / 6 * u64::from(weight));
    assert_eq!(spread(&stage, "weighted-round-robin"), by_weight);
    check_by_chance(spread(&stage, "random"), FLOWS, WEIGHTS);
    check_by_chance(spread(&stage, "maglev"), FLOWS, WEIGHTS);
    long_ones_keep_new_ones_away(&stage);
    a_client_stays(&mut stage);

    // A client, whatever its ports, has one backend; many clients are spread.
    let found = spread(&stage, "source-hash");
    assert_eq!(
        found.iter().filter(|count| **count > 0).count(),
        1,
        "{found:?}"
    );
    shares_return(&stage);
    let target = stage.targets(&["source-hash"])[0];
    let mut clients = BTreeMap::new();
    for last in CLIENTS {
        let from = Ipv4Addr::new(10, 10, 0, last);
        let added = stage
            .topology
            .add_address("client", "eth0", from.into(), 24);
        added.unwrap();
        let backends = [(); 2].map(|()| answers(&stage.topology, from, target));
        assert_eq!(backends[0], backends[1], "{from}");
        *clients.entry(backends[0]).or_default() += 1;
    }
    let found = [1, 2, 3].map(|n| clients.get(&n).copied().unwrap_or(0));
    check_by_chance(found, CLIENTS.len() as u64, WEIGHTS);

    // Who takes no flows has no turn, and then its own again. Until the ring is made anew, hashes tell who of the others
    // has the turns of the one that left.
    let order = |verb: &str| {
        let told = stage.daemon.cli(&[verb, "round-robin/b3"]).unwrap();
        told.succeeded().unwrap();
    };
    order("drain");
    check_by_chance(spread(&stage, "round-robin"), FLOWS, [1, 1, 0]);
    order("enable");
    check_by_chance(spread(&stage, "round-robin"), FLOWS, [1, 1, 1]);
    stage.end();
}
