//! Half of a thousand servers die at once and return, and nothing holds health back.

mod ring;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_tests::daemon::{BackendConfig, Config, Daemon, Health};
use lb_tests::topology::{Family, Topology, backend, client};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use self::ring::{Seen, Watch};
use crate::stage::{SHAPES, Turn, figure, wait_until};

const BACKENDS: usize = 1000;
const HALF: usize = BACKENDS / 2;
/// Two hosts have one each of any port.
const HOSTS: [u8; 2] = [1, 2];
const FIRST: u16 = 10_000;
/// Connections that are opened while nothing changes.
const CONNECTIONS: u64 = 6_000;
const SERVICE: &str = "echo4";
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a backend is: one half of them is where the other one is, too.
fn place(n: usize) -> SocketAddr {
    let host = HOSTS[n % 2];
    SocketAddr::new(backend(Family::V4, host), FIRST + (n / 2) as u16)
}

/// Those that die: the lower ports of both hosts.
fn dies(n: usize) -> bool {
    n < HALF
}

/// Servers of a host, which accept, count and close; they refuse when it is dropped.
struct Servers {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Opens the ports of these backends, which are at one host.
    fn open(topology: &Topology, host: u8, of: Vec<usize>, counts: &Arc<Vec<AtomicU32>>) -> Self {
        let listen = |n: &usize| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&place(*n).into()).unwrap();
            socket.listen(128).unwrap();
            socket.set_nonblocking(true).unwrap();
            (*n, socket)
        };
        let sockets: Vec<_> =
            topology.run_in(&format!("b{host}"), || of.iter().map(listen).collect());
        let done = Arc::new(AtomicBool::new(false));
        let (told, counts) = (Arc::clone(&done), Arc::clone(counts));
        let thread = std::thread::spawn(move || serve(&sockets, &told, &counts));
        Self {
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.done.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(sockets: &[(usize, Socket)], done: &AtomicBool, counts: &[AtomicU32]) {
    let client = client(Family::V4);
    let sockets_of = sockets.iter().map(|(_, socket)| socket.as_fd());
    let mut ready: Vec<_> = sockets_of
        .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
        .collect();
    while !done.load(SeqCst) {
        poll(&mut ready, PollTimeout::from(20_u8)).unwrap();
        for (ready, (n, socket)) in ready.iter().zip(sockets) {
            if !ready.any().unwrap_or(false) {
                continue;
            }
            while let Ok((_, from)) = socket.accept() {
                if from.as_socket().is_some_and(|from| from.ip() == client) {
                    counts[*n].fetch_add(1, SeqCst);
                }
            }
        }
    }
}

/// A client that opens one connection after the other until it is told to stop.
struct Client {
    done: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    /// Refused, or reset before they were accepted.
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    fn start(topology: &Topology, target: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (opened, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (told, good, bad) = (done.clone(), opened.clone(), refused.clone());
        let namespace = topology.namespace("client").clone();
        let thread = std::thread::spawn(move || {
            namespace.enter().unwrap();
            while !told.load(SeqCst) {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                // Closed by a reset, so that its port is free at once.
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                match socket.connect_timeout(&target.into(), Duration::from_secs(5)) {
                    Ok(()) => good.fetch_add(1, SeqCst),
                    // Reset: its listener was closed before it was accepted.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                        ) =>
                    {
                        bad.fetch_add(1, SeqCst)
                    }
                    Err(error) => panic!("{error}"),
                };
            }
        });
        Self {
            done,
            opened,
            refused,
            thread: Some(thread),
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.opened.load(SeqCst), self.refused.load(SeqCst))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.done.store(true, SeqCst);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// What a backend's health changed to, one after the other.
fn changes(daemon: &Daemon) -> BTreeMap<usize, Vec<String>> {
    let mut changes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let log = daemon.log();
    for line in log.lines().filter(|line| line.contains("health changed")) {
        let word = |key: &str| {
            let mut words = line.split_whitespace();
            words
                .find_map(|word| word.strip_prefix(key))
                .unwrap()
                .to_owned()
        };
        let number = word("backend=b").parse().unwrap();
        changes.entry(number).or_default().push(word("to="));
    }
    changes
}

/// One service of a thousand, which nothing holds back and whose backends return at once.
fn configured(mut config: Config) -> Config {
    config.extra += "velocity-percent = 100\n";
    config.services.retain(|service| service.name == SERVICE);
    for service in &mut config.services {
        let like = service.backends[0].clone();
        let backend = |n| BackendConfig {
            name: format!("b{n}"),
            address: place(n).ip(),
            port: place(n).port(),
            ..like.clone()
        };
        service.backends = (0..BACKENDS).map(backend).collect();
        service.health = Health {
            kind: "tcp",
            interval_ms: 700,
            timeout_ms: 600,
            port: None,
            ..Health::LAB
        };
    }
    config
}

/// A network with a thousand servers, and a client that never rests.
struct Scene {
    watch: Watch,
    client: Client,
    counts: Arc<Vec<AtomicU32>>,
    daemon: Daemon,
    topology: Topology,
}

impl Scene {
    /// Connections until now: of each backend, opened, refused.
    fn now(&self) -> (Vec<u32>, u64, u64) {
        let each = self.counts.iter().map(|count| count.load(SeqCst)).collect();
        let (opened, refused) = self.client.counts();
        (each, opened, refused)
    }

    /// Goes on until something is over; nobody got more than twice its share of the new connections meanwhile, but for
    /// what chance gives. Gives how many were opened and refused.
    #[track_caller]
    fn during(&self, what: &str, work: impl FnOnce()) -> (u64, u64) {
        let before = self.now();
        work();
        let after = self.now();
        let (opened, refused) = (after.1 - before.1, after.2 - before.2);
        let fair = (opened + refused) as f64 / BACKENDS as f64;
        // Of twice a fair share; six standard deviations. A connection or two may be counted a moment later.
        let most = 2.0 * fair + 6.0 * (2.0 * fair).sqrt() + 2.0;
        let got = after
            .0
            .iter()
            .zip(&before.0)
            .map(|(after, before)| after - before);
        let (n, got) = got.enumerate().max_by_key(|(_, got)| *got).unwrap();
        figure!(
            "{what}: {opened} connections, {refused} refused; the most of a backend {got}, {fair:.1} are fair"
        );
        assert!(
            f64::from(got) <= most,
            "{what}: b{n} got {got}, {fair:.1} are fair"
        );
        (opened, refused)
    }

    /// Nothing changes for so many connections, and none is refused; so often has health changed before.
    #[track_caller]
    fn steady(&self, what: &str, before: usize) {
        // Maps are written first, and then the log.
        wait_until("the log tells all changes", PATIENCE, || {
            changes(&self.daemon).values().map(Vec::len).sum::<usize>() >= before
        });
        let (rings, changed) = (self.watch.seen().rings, changes(&self.daemon));
        let until = self.client.counts().0 + CONNECTIONS;
        let began = Instant::now();
        let (_, refused) = self.during(what, || {
            // Rounds of checks, too.
            while self.client.counts().0 < until || began.elapsed() < Duration::from_millis(1500) {
                assert!(began.elapsed() < PATIENCE, "too few connections");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(refused, 0, "{what}");
        assert_eq!(self.watch.seen().rings, rings, "{what}: another ring");
        assert_eq!(changes(&self.daemon), changed, "{what}");
    }
}

#[test]
fn b1_half_of_a_thousand_die_and_return_without_oscillation_and_nobody_gets_over_twice_its_share() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let counts: Arc<Vec<AtomicU32>> = Arc::new((0..BACKENDS).map(|_| AtomicU32::new(0)).collect());
    let open = |topology: &Topology, mortal: bool| {
        HOSTS.map(|host| {
            let at = |n: &usize| HOSTS[n % 2] == host && dies(*n) == mortal;
            Servers::open(topology, host, (0..BACKENDS).filter(at).collect(), &counts)
        })
    };
    let _turn = Turn::alone();
    let began = Instant::now();
    // Checks leave no moment without a packet, so this is no `Stage`, which counts what goes on before them.
    let topology = Topology::build(SHAPES[0]).unwrap();
    let (mortal, immortal) = (open(&topology, true), open(&topology, false));
    let config = configured(Config::lab(&topology));
    let target = config.service(SERVICE).target();
    let daemon = Daemon::start_up(&topology, config).unwrap();
    let scene = Scene {
        watch: Watch::start(&daemon),
        client: Client::start(&topology, target),
        counts: counts.clone(),
        daemon,
        topology,
    };
    let (daemon, topology) = (&scene.daemon, &scene.topology);
    scene.watch.wait(daemon, BACKENDS);
    figure!("all are up after {:?}", began.elapsed());
    let first = changes(daemon);
    assert!(
        first.len() == BACKENDS && first.values().all(|to| to == &["Up"]),
        "{first:?}"
    );
    scene.steady("all serve", BACKENDS);
    let whole = scene.watch.seen();

    let (_, refused) = scene.during("half die", || {
        drop(mortal);
        let took = scene.watch.wait(daemon, HALF);
        figure!("half of them are out of the ring after {took:?}");
    });
    assert!(refused > 0);
    scene.steady("half serve", BACKENDS + HALF);
    let half = scene.watch.seen();

    let mut again = None;
    scene.during("half return", || {
        again = Some(open(topology, true));
        let took = scene.watch.wait(daemon, BACKENDS);
        figure!("all are in the ring again after {took:?}");
    });
    scene.steady("all serve again", BACKENDS + 2 * HALF);
    let back = scene.watch.seen();

    let slots: u32 = whole.slots.iter().sum();
    let fair = slots / BACKENDS as u32;
    figure!(
        "{} rings while half die, {} while they return; nobody had more than {} of {slots} slots, {fair} are fair; {:?} in all",
        half.rings - whole.rings,
        back.rings - half.rings,
        back.most,
        began.elapsed()
    );
    // Rounding may add a slot to what everybody has.
    assert!(
        back.most <= 2 * (fair + 1),
        "{} slots, {fair} are fair",
        back.most
    );
    assert_eq!(back.slots, whole.slots, "all is as it was");
    // Each left once and came back once, and nobody else moved.
    let turns = |seen: &Seen| seen.turns.iter().sum::<u32>();
    assert_eq!(turns(&back) - turns(&whole), 2 * HALF as u32);
    for (n, to) in changes(daemon) {
        let expected: &[&str] = if dies(n) {
            &["Up", "Down", "Up"]
        } else {
            &["Up"]
        };
        assert_eq!(to, expected, "b{n}");
    }
    let Scene {
        watch,
        client,
        mut daemon,
        topology,
        ..
    } = scene;
    drop((watch, client));
    // At rest, for the conservation law.
    let mut quiet = daemon.config().clone();
    quiet.services[0].health.kind = "none";
    daemon.reload(quiet).unwrap();
    daemon.check_conservation().unwrap();
    drop((again, immortal, daemon, topology));
}
