//! The lab itself: without a balancer, plain forwarding in both families.

use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::capture::{Capture, Frame};
use lb_tests::load::Udp;
use lb_tests::server::{ECHO_PORT, HTTP_PORT, Nginx, Server};
use lb_tests::topology::{
    Arms, FAMILIES, Forwarding, Namespace, Shape, Topology, backend, backend_mac, balancer_front,
    client, sweep, vip,
};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const DNAT_TWO: Shape = Shape {
    backends: 3,
    arms: Arms::Two,
    forwarding: Forwarding::Dnat,
};

/// What curl gets from a URL, asked from the client.
#[track_caller]
fn curl(topology: &Topology, host: std::net::IpAddr, path: &str) -> String {
    let url = format!(
        "http://{}{path}",
        std::net::SocketAddr::from((host, HTTP_PORT))
    );
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--max-time", "3", "--noproxy", "*", &url])
        .stdout(Stdio::piped());
    let process = topology.spawn_in("client", command).unwrap();
    read_all(process)
}

fn read_all(mut process: lb_tests::topology::Process) -> String {
    let mut text = String::new();
    let mut out = process.child().stdout.take().unwrap();
    std::io::Read::read_to_string(&mut out, &mut text).unwrap();
    assert!(
        process.wait(Duration::from_secs(5)).unwrap().success(),
        "curl failed"
    );
    text
}

#[track_caller]
fn check_every_backend_is_reached(shape: Shape) {
    let topology = Topology::build(shape).unwrap();
    let _servers = Server::threads(&topology).unwrap();
    for family in FAMILIES {
        for n in 1..=shape.backends {
            assert_eq!(curl(&topology, backend(family, n), "/"), format!("b{n}"));
        }
    }
}

#[test]
fn cpus_are_written_as_the_kernel_reads_them() {
    use lb_tests::topology::cpu_mask;
    assert_eq!(cpu_mask(|cpu| cpu == 1), "00000002");
    assert_eq!(cpu_mask(|cpu| cpu < 2), "00000003");
    assert_eq!(cpu_mask(|cpu| matches!(cpu, 0 | 33)), "00000002,00000001");
}

#[test]
fn client_reaches_every_backend_through_a_balancer_with_two_arms() {
    check_every_backend_is_reached(DNAT_TWO);
}

#[test]
fn client_reaches_every_backend_through_a_balancer_with_one_arm() {
    check_every_backend_is_reached(Shape {
        arms: Arms::One,
        ..DNAT_TWO
    });
}

#[test]
fn client_reaches_every_backend_that_replies_directly() {
    for arms in [Arms::One, Arms::Two] {
        check_every_backend_is_reached(Shape {
            arms,
            forwarding: Forwarding::L2dsr,
            backends: 2,
        });
    }
}

/// Plain routing toward one backend is a balancer with direct return, if a poor one.
#[test]
fn backend_that_owns_the_vip_answers_straight_to_the_client() {
    for arms in [Arms::One, Arms::Two] {
        let shape = Shape {
            arms,
            forwarding: Forwarding::L2dsr,
            backends: 2,
        };
        let topology = Topology::build(shape).unwrap();
        let _servers = Server::threads(&topology).unwrap();
        for family in FAMILIES {
            let address = vip(family, 0);
            topology
                .add_host_route("lb", address, backend(family, 2))
                .unwrap();
            assert_eq!(curl(&topology, address, "/"), "b2");
            let target = [std::net::SocketAddr::from((address, ECHO_PORT))];
            let tick = Duration::from_millis(10);
            let udp = Udp::start(&topology, &target, 5, tick, Duration::from_secs(1)).unwrap();
            let flows = udp.wait();
            assert!(
                flows
                    .iter()
                    .all(|f| f.lost.is_empty() && f.backends.contains_key(&2))
            );
        }
        // One MAC address: nobody but the balancer answers for the VIP.
        let seen = topology.run_in("client", || {
            std::fs::read_to_string("/proc/thread-self/net/arp")
        });
        assert!(
            !seen.unwrap().contains("10.10.0.100 "),
            "a backend answered ARP for the VIP"
        );
    }
}

#[test]
fn client_reaches_nginx_and_a_server_process() {
    let topology = Topology::build(DNAT_TWO).unwrap();
    let nginx = Nginx::start(&topology, "b1").unwrap();
    nginx.add_file("hello", 3000, 7).unwrap();
    let config = lb_tests::server::Config::backend(&topology, 2);
    let _server = Server::process(topology.namespace("b2"), &config).unwrap();
    for family in FAMILIES {
        assert_eq!(curl(&topology, backend(family, 1), "/"), "b1");
        assert_eq!(curl(&topology, backend(family, 2), "/health"), "ok\n");
    }
}

/// Names in a directory that begin with a prefix.
fn left_in(directory: &str, prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return vec![];
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

#[track_caller]
fn check_nothing_is_left(prefix: &str) {
    assert_eq!(
        left_in("/run/netns", &format!("{prefix}-")),
        Vec::<String>::new()
    );
    assert_eq!(left_in("/run/fairlead-lab", prefix), Vec::<String>::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&format!("/{prefix}/")), "{mounts}");
}

/// Processes that a process started.
fn children_of(lab: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return vec![];
    };
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.to_owned())
            .unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&lab.to_string())
    })
    .collect()
}

#[test]
fn nothing_is_left_of_a_dropped_topology() {
    let topology = Topology::build(DNAT_TWO).unwrap();
    let servers = Server::processes(&topology).unwrap();
    let prefix = topology.prefix().to_owned();
    assert_eq!(left_in("/run/netns", &format!("{prefix}-")).len(), 6);
    drop(topology);
    drop(servers);
    check_nothing_is_left(&prefix);
}

/// The first `ip netns add` of a machine mounts something over the directory of names. As if the
/// machine had just started: in a mount namespace with an empty /run.
#[test]
fn namespace_made_before_the_first_ip_netns_add_can_be_removed_after_it() {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let change = |source: Option<&str>, target, kind: Option<&str>, flags| {
            mount(source, target, kind, flags, None::<&str>).unwrap();
        };
        change(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        change(Some("none"), "/run", Some("tmpfs"), MsFlags::empty());
        let add_and_list = |name: &str| {
            let added = Command::new("ip").args(["netns", "add", name]).status();
            assert!(added.unwrap().success(), "ip netns add {name}");
            left_in("/run/netns", "")
        };
        let first = Namespace::create("first").unwrap();
        assert_eq!(add_and_list("second"), ["first", "second"]);
        drop(first);
        let third = Namespace::create("third").unwrap();
        assert_eq!(left_in("/run/netns", ""), ["second", "third"]);
        assert_eq!(add_and_list("fourth"), ["fourth", "second", "third"]);
        drop(third);
        assert_eq!(left_in("/run/netns", ""), ["fourth", "second"]);
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        // Not those of the machine, below the empty /run.
        let ours = |line: &&str| line.contains(" - tmpfs ");
        let over = |line: &&str| line.split(' ').nth(4) == Some("/run/netns") && ours(line);
        assert_eq!(mounts.lines().filter(over).count(), 1, "{mounts}");
    })
    .join()
    .unwrap();
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let topology = Topology::build(DNAT_TWO).unwrap();
        sender.send(topology.prefix().to_owned()).unwrap();
        panic!("this panic is part of a test");
    });
    let prefix = receiver.recv().unwrap();
    assert!(panicked.join().is_err());
    check_nothing_is_left(&prefix);
}

/// The lab's network in a process of its own.
struct Network {
    lab: std::process::Child,
    prefix: String,
    /// Open, or its next line would kill it.
    _lines: std::io::BufReader<std::process::ChildStdout>,
}

fn network() -> Network {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_fairlead-lab"))
        .arg("network")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(lab.stdout.take().unwrap());
    let mut prefix = String::new();
    std::io::BufRead::read_line(&mut lines, &mut prefix).unwrap();
    let prefix = prefix.trim().to_owned();
    assert_eq!(prefix, format!("fl{}", lab.id()));
    assert_eq!(left_in("/run/netns", &format!("{prefix}-")).len(), 6);
    assert_eq!(children_of(lab.id()).len(), 3);
    Network {
        lab,
        prefix,
        _lines: lines,
    }
}

#[test]
fn leftovers_of_a_killed_run_are_swept() {
    let Network {
        mut lab,
        prefix,
        _lines,
    } = network();
    let servers = children_of(lab.id());
    lab.kill().unwrap();
    lab.wait().unwrap();
    // A test that starts just now may have swept already.
    sweep().unwrap();
    check_nothing_is_left(&prefix);
    for pid in servers {
        assert!(is_gone(pid), "server {pid} of the killed lab still runs");
    }
}

/// True when a process ended, even if nobody has reaped it yet.
fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim().starts_with('Z')),
        Err(_) => true,
    }
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
        let Network {
            mut lab,
            prefix,
            _lines,
        } = network();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(lab.id() as i32), signal).unwrap();
        assert!(lab.wait().unwrap().success());
        check_nothing_is_left(&prefix);
    }
}

#[test]
fn the_switch_port_sees_what_the_balancer_sends_to_a_dead_backend() {
    let topology = Topology::build(DNAT_TWO).unwrap();
    let _servers = Server::threads(&topology).unwrap();
    assert_eq!(curl(&topology, backend(FAMILIES[0], 1), "/"), "b1");
    let port = topology.shape().back_port();
    let capture = Capture::start(topology.namespace("switch"), port, backend_mac(1)).unwrap();
    topology.cut_power("b1", "eth0").unwrap();
    let cut = std::time::Instant::now();
    let target = std::net::SocketAddr::from((backend(FAMILIES[0], 1), HTTP_PORT));
    let connect = || std::net::TcpStream::connect_timeout(&target, Duration::from_millis(300));
    assert!(topology.run_in("client", connect).is_err());
    let last = capture.last(Frame::is_syn).expect("no frame captured");
    assert_eq!(last.source, client(FAMILIES[0]));
    assert_eq!(last.destination, target.ip());
    assert!(
        last.at >= cut && last.at.elapsed() < Duration::from_secs(2),
        "{last:?}"
    );
    assert_eq!(capture.lost().unwrap(), 0);
    topology.restore_power("b1", "eth0").unwrap();
    assert_eq!(curl(&topology, backend(FAMILIES[1], 1), "/"), "b1");
}

#[test]
fn what_an_xdp_program_sends_back_arrives_with_a_right_checksum() {
    let mut topology = Topology::build(DNAT_TWO).unwrap();
    for round in 0..2 {
        let link = topology
            .attach_xdp("lb", "eth0", &crate::reflect::REFLECT)
            .unwrap();
        let ask = || {
            let socket = std::net::UdpSocket::bind("10.10.0.2:5000").unwrap();
            socket.connect((balancer_front(FAMILIES[0]), 5000)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            socket.send(b"reflected").unwrap();
            let mut answer = [0; 100];
            socket
                .recv(&mut answer)
                .map(|length| answer[..length].to_vec())
        };
        assert_eq!(
            topology.run_in("client", ask).unwrap(),
            b"reflected",
            "round {round}"
        );
        assert_eq!(topology.has_xdp("lb", "eth0").unwrap(), Some(true));
        drop(link);
        // A child that another test has just forked has the descriptor too, until it executes.
        crate::stage::wait_until("the program is gone", Duration::from_secs(5), || {
            topology.has_xdp("lb", "eth0").unwrap() == Some(false)
        });
        // The same with an interface that was deleted and made again.
        topology.delete_device("lb", "eth0").unwrap();
        assert_eq!(topology.has_xdp("lb", "eth0").unwrap(), None);
        topology.recreate_device("lb", "eth0").unwrap();
    }
}
