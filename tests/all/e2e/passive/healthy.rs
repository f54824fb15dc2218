//! Nobody who serves is taken out where passive checks are on by default: losses, a busy machine and a server that is slow to
//! accept make suspects, and checks clear them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_tests::daemon::{Config, Health};

use super::{Patient, SERVICE, small_queue};
use crate::stage::{SHAPES, Stage, figure, long, wait_until};

/// Only a suspicion can take somebody out: of turns there is none. A check may take so long that a lost SYN comes again within it:
/// of a suspect's two attempts three SYNs must be lost.
fn by_default(mut config: Config) -> Config {
    config.services.retain(|service| service.name == SERVICE);
    for service in &mut config.services {
        service.health = Health {
            kind: "tcp",
            interval_ms: 600_000,
            timeout_ms: 2000,
            ..Health::LAB
        };
    }
    config
}

/// For `nft -f`: so many of a hundred packets are lost, each way.
fn losses(percent: u8) -> String {
    let lost = format!("meta l4proto tcp numgen random mod 100 < {percent} drop");
    format!(
        "table inet loss {{
    chain in {{ type filter hook input priority 0;
    {lost}
    }}
    chain out {{ type filter hook output priority 0;
    {lost}
    }}
}}"
    )
}

/// Keeps every CPU busy until dropped.
struct Busy {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start() -> Self {
        let over: Arc<AtomicBool> = Arc::default();
        let work = |_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let cpus = std::thread::available_parallelism().unwrap().get();
        let threads = (0..cpus).map(work).collect();
        Self { over, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Lines of the log about the service with these words.
fn lines(stage: &Stage, words: &str) -> usize {
    let log = stage.daemon.log();
    let about = |line: &&str| line.contains(&format!("service={SERVICE} ")) && line.contains(words);
    log.lines().filter(about).count()
}

#[test]
fn losses_busy_cpus_and_a_server_that_is_slow_to_accept_make_suspects_and_take_nobody_out() {
    let stage = Stage::alone_with(SHAPES[0], small_queue, by_default);
    let text = stage.daemon.config().toml(stage.daemon.home());
    assert!(!text.contains("passive"), "{text}");
    stage.topology.nft("client", &losses(3)).unwrap();
    for host in ["b1", "b2", "b3"] {
        stage.topology.nft(host, &losses(1)).unwrap();
    }
    let busy = Busy::start();
    let clients = Patient::start(&stage);
    wait_until("connections are made", Duration::from_secs(30), || {
        clients.made() > 200
    });
    let time = Duration::from_secs(if long() { 600 } else { 20 });
    let began = Instant::now();
    let suspected = || lines(&stage, "suspected by its packets");
    while began.elapsed() < time || suspected() == 0 {
        assert!(
            began.elapsed() < time + Duration::from_secs(120),
            "nobody is suspected: this shows nothing"
        );
        // It accepts nobody for a while, so its queue is full.
        stage.servers[0].freeze().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        stage.servers[0].thaw().unwrap();
        std::thread::sleep(Duration::from_secs(2));
    }
    let made = clients.made();
    clients.stop();
    drop(busy);
    figure!(
        "false falls: {made} connections in {:?}, {} suspicions",
        began.elapsed(),
        suspected()
    );
    assert_eq!(lines(&stage, "to=Down"), 0, "{}", stage.daemon.log());
    assert!(stage.daemon.status().unwrap().all_are("up"));
    stage.end();
}
