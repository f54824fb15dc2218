//! The beginning and the end: how long it takes until packets are forwarded, and what `unload`
//! leaves.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Daemon};
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, Topology, vip};

use crate::stage::{ECHO, SHAPES, Stage, figure, wait_until};

/// Waits for a connection through the balancer; how long it took.
fn until_forwarding(topology: &Topology, target: SocketAddr) -> Duration {
    let connect = || {
        topology.run_in("client", || {
            TcpStream::connect_timeout(&target, Duration::from_millis(5))
        })
    };
    wait_until("it forwards", Duration::from_secs(20), || connect().is_ok())
}

#[test]
fn time_from_run_to_forwarding_is_measured() {
    let topology = Topology::build(SHAPES[0]).unwrap();
    let _servers = Server::threads(&topology).unwrap();
    let config = Config::lab(&topology);
    let target = config.targets(&["echo4"])[0];
    // Without this the first verdict counts in, which is a matter of the configuration.
    let health = "[service.health]\n";
    let trusting = format!("{health}trust-at-start = true\n");
    let text = config
        .toml(&topology.directory().join("fairlead"))
        .replace(health, &trusting);
    let mut daemon = Daemon::prepare(&topology, config).unwrap();
    daemon.write_config(&text).unwrap();
    daemon.spawn().unwrap();
    let first = until_forwarding(&topology, target);
    daemon
        .wait_until("it is ready", Duration::from_secs(10), |s| s.ready)
        .unwrap();
    daemon.stop().unwrap();
    let begin = Instant::now();
    daemon.restart().unwrap();
    let again = begin.elapsed();
    figure!(
        "from `fairlead run` to the first forwarded connection {first:?}; from a restart, with \
         forwarding all the while, to ready {again:?}"
    );
    assert!(first < Duration::from_secs(10) && again < Duration::from_secs(10));
    daemon.check_conservation().unwrap();
}

#[test]
fn unload_leaves_no_program_no_pin_no_mount_and_no_address() {
    let mut stage = Stage::with(SHAPES[0], Server::threads, |mut config| {
        for service in &mut config.services {
            service.extra.push_str("\nclaim = \"eth0\"");
        }
        config
    });
    stage.storm(&ECHO, 200).assert_clean(200);
    let pins = stage.daemon.home().join("bpf");
    let mounted = || {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(pins.to_str().unwrap())
    };
    let here = |stage: &Stage| {
        let addresses =
            FAMILIES.map(|f| stage.topology.has_address("lb", "eth0", vip(f, 0)).unwrap());
        let programs = ["eth0", "eth1"].map(|d| stage.topology.has_xdp("lb", d).unwrap());
        (addresses, programs, mounted())
    };
    let all = ([true; 2], [Some(true); 2], true);
    assert_eq!(here(&stage), all);
    stage.check_law();
    stage.daemon.stop().unwrap();
    // Stopping takes nothing away: that is what `unload` is for.
    assert_eq!(here(&stage), all);
    stage.storm(&ECHO, 500).assert_clean(500);
    stage.unload();
    assert_eq!(here(&stage), ([false; 2], [Some(false); 2], false));
    let left = std::fs::read_dir(&pins).map_or(0, Iterator::count);
    assert_eq!(left, 0, "below {}", pins.display());
    stage.unload();
    stage.load_again();
    stage.storm(&ECHO, 200).assert_clean(200);
    stage.end();
}
