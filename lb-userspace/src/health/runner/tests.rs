//! The runner against real sockets on loopback.

use std::net::{IpAddr, Ipv4Addr};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::health::{Evidence, Thresholds, Tracker};
use crate::model::{BackendKey, ExecCheck};

mod twice;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Probes at once, as with the usual limit of descriptors.
const CONCURRENCY: usize = 512;

/// Longer than any wait here takes; ends a test that hangs.
const FOREVER: Duration = Duration::from_secs(20);

fn target(n: u64, port: u16, interval_ms: u64, timeout_ms: u64) -> Target {
    Target {
        backend: format!("web/b{n}").parse().unwrap(),
        address: V4,
        port,
        real_path: None,
        full_size: None,
        check: Check::Tcp,
        agent: None,
        interval: Duration::from_millis(interval_ms),
        fast_interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(timeout_ms),
        rise: 1,
        fall: 1,
        opening: 1,
        jitter: Duration::from_millis(interval_ms / 10),
    }
}

/// A server that accepts and closes.
async fn accepting() -> (u16, JoinHandle<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((V4, 0).into()).unwrap();
    let listener = socket.listen(4096).unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        loop {
            // A client that has reset already is gone: nothing to do.
            let _closed = listener.accept().await;
        }
    });
    (port, task)
}

/// A listener that answers no SYN: its accept queue is full.
async fn silent() -> (u16, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((V4, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    let wait = Duration::from_millis(100);
    while let Ok(stream) = timeout(wait, TcpStream::connect(address)).await {
        held.push(stream.unwrap());
    }
    (address.port(), listener, held)
}

struct Bench {
    runner: Runner,
    events: mpsc::Receiver<(u64, Event)>,
    cancel: CancellationToken,
}

impl Bench {
    fn new(concurrency: usize) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let cancel = CancellationToken::new();
        Self {
            runner: Runner::spawn(sender, cancel.clone(), concurrency, 1),
            events,
            cancel,
        }
    }

    async fn next(&mut self) -> (BackendKey, ProbeResult) {
        let event = timeout(FOREVER, self.events.recv()).await;
        match event.expect("no result in time").expect("the runner ended") {
            (seen, Event::Probe { backend, result }) => {
                assert_eq!(seen, result.ended);
                assert!(result.scheduled <= result.started && result.started <= result.ended);
                (backend, result)
            }
            other => panic!("not a probe: {other:?}"),
        }
    }

    /// Cancels and gives the results that were on their way.
    async fn end(mut self) -> usize {
        self.cancel.cancel();
        timeout(FOREVER, self.runner.ended())
            .await
            .unwrap()
            .unwrap();
        let mut left = 0;
        while self.events.recv().await.is_some() {
            left += 1;
        }
        left
    }
}

#[tokio::test]
async fn new_target_is_probed_at_once_and_again_at_its_interval() {
    let (port, _server) = accepting().await;
    let mut bench = Bench::new(CONCURRENCY);
    let before = now_ns();
    bench.runner.set_targets(vec![target(1, port, 400, 200)]);
    let (backend, first) = bench.next().await;
    assert_eq!(backend.to_string(), "web/b1");
    assert_eq!(first.verdict, ProbeVerdict::Good);
    assert!(first.scheduled - before < 200_000_000);
    let mut last = bench.next().await.1;
    for _ in 0..3 {
        let (_, next) = bench.next().await;
        let gap = next.scheduled - last.scheduled;
        assert!((360_000_000..=440_000_000).contains(&gap), "{gap}");
        last = next;
    }
    bench.end().await;
}

#[tokio::test]
async fn silent_targets_delay_no_other() {
    let (good, _server) = accepting().await;
    let (silent, _listener, _held) = silent().await;
    let mut bench = Bench::new(CONCURRENCY);
    let mut targets = vec![target(0, good, 100, 50)];
    targets.extend((1..50).map(|n| target(n, silent, 1000, 1000)));
    bench.runner.set_targets(targets);
    let mut seen = 0;
    while seen < 10 {
        let (backend, result) = bench.next().await;
        if backend.backend.as_str() != "b0" {
            assert_ne!(result.verdict, ProbeVerdict::Good);
            continue;
        }
        seen += 1;
        assert_eq!(result.verdict, ProbeVerdict::Good);
        // Far less than one silent probe takes, far more than a busy machine does.
        assert!(result.started - result.scheduled < 500_000_000);
    }
    bench.end().await;
}

#[tokio::test]
async fn probe_that_waits_for_a_permit_shows_its_lateness() {
    let (silent, _listener, _held) = silent().await;
    let mut bench = Bench::new(1);
    let targets = (0..3).map(|n| target(n, silent, 1000, 100)).collect();
    bench.runner.set_targets(targets);
    for n in 0..3 {
        let (_, result) = bench.next().await;
        let late = (result.started - result.scheduled) / 1_000_000;
        assert!(late >= n * 100, "{n}: {late} ms late");
    }
    bench.end().await;
}

#[tokio::test]
async fn removed_target_is_abandoned_and_a_changed_one_begins_anew() {
    let (good, _server) = accepting().await;
    let (silent, _listener, _held) = silent().await;
    let mut bench = Bench::new(CONCURRENCY);
    let slow = target(1, silent, 10_000, 10_000);
    bench
        .runner
        .set_targets(vec![slow, target(2, good, 100, 100)]);
    assert_eq!(bench.next().await.0.to_string(), "web/b2");
    // Its probe is still under way: now it is somewhere else, and b2 is gone.
    bench.runner.set_targets(vec![target(1, good, 100, 100)]);
    let mut seen = 0;
    while seen < 5 {
        let (backend, result) = bench.next().await;
        if backend.to_string() == "web/b1" {
            assert_eq!(result.verdict, ProbeVerdict::Good);
            seen += 1;
        } else {
            assert_eq!(seen, 0, "{backend} was removed");
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn cancelled_runner_ends_with_probes_under_way_and_a_full_channel() {
    let (good, _server) = accepting().await;
    let (silent, _listener, _held) = silent().await;
    let (sender, mut events) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let runner = Runner::spawn(sender, cancel.clone(), CONCURRENCY, 1);
    let mut targets: Vec<Target> = (0..20).map(|n| target(n, good, 100, 100)).collect();
    targets.push(target(99, silent, 10_000, 10_000));
    runner.set_targets(targets);
    // One result fills the channel; the others wait.
    timeout(FOREVER, events.recv()).await.unwrap().unwrap();
    cancel.cancel();
    timeout(FOREVER, runner.ended()).await.unwrap().unwrap();
    while events.recv().await.is_some() {}
}

#[tokio::test]
async fn runner_ends_when_nobody_listens_or_holds_it() {
    let bench = Bench::new(1);
    drop(bench.events);
    timeout(FOREVER, bench.runner.ended())
        .await
        .unwrap()
        .unwrap();

    let mut bench = Bench::new(1);
    drop(bench.runner);
    let ended = timeout(FOREVER, bench.events.recv()).await.unwrap();
    assert_eq!(ended, None);
}

/// The whole runtime stands still for a while, as after SIGSTOP: timers and answers come late.
#[tokio::test]
async fn rounds_in_which_the_prober_was_stopped_take_nobody_down() {
    let (good, _server) = accepting().await;
    let (silent, _listener, _held) = silent().await;
    let mut bench = Bench::new(CONCURRENCY);
    let mut targets: Vec<Target> = (0..20).map(|n| target(n, good, 400, 200)).collect();
    targets.extend((20..40).map(|n| target(n, silent, 400, 200)));
    bench.runner.set_targets(targets);
    let mut trackers: BTreeMap<String, Tracker> = BTreeMap::new();
    let thresholds = Thresholds {
        rise: 1,
        fall: 1,
        interval_ns: 400_000_000,
        timeout_ns: 200_000_000,
        damping: crate::model::Damping::default(),
    };
    let mut void = 0;
    let stop = now_ns() + 500_000_000;
    let mut stopped = None;
    while now_ns() < stop + 2_500_000_000 {
        if now_ns() > stop && stopped.is_none() {
            let from = now_ns();
            std::thread::sleep(Duration::from_millis(1500));
            stopped = Some((from, now_ns()));
        }
        let (backend, result) = bench.next().await;
        let tracker = trackers
            .entry(backend.to_string())
            .or_insert_with(|| Tracker::new(thresholds));
        let seen = tracker.observe(&result, result.ended);
        let Some((from, until)) = stopped else {
            continue;
        };
        // Under way during the stop, or due in it.
        let touched = result.scheduled < until && result.ended > from + 300_000_000;
        if result.verdict == ProbeVerdict::Good || !touched {
            continue;
        }
        assert!(matches!(seen.evidence, Evidence::Void(_)), "{seen:?}");
        void += 1;
    }
    assert!(void >= 15, "{void} void rounds");
    for (backend, tracker) in &trackers {
        let good = backend
            .strip_prefix("web/b")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            < 20;
        assert_eq!(tracker.counts().bad == 0, good, "{backend}");
    }
    assert_eq!(trackers.len(), 40);
    bench.end().await;
}

/// Processor time of this process so far.
fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(
            time.tv_sec().try_into().unwrap(),
            u32::try_from(time.tv_usec()).unwrap() * 1000,
        )
    };
    of(usage.user_time()) + of(usage.system_time())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_targets_a_second_are_probed_in_time() {
    const TARGETS: u64 = 2000;
    const ROUNDS: u64 = 4;
    let (port, _server) = accepting().await;
    let mut bench = Bench::new(256);
    let before = processor();
    let targets = (0..TARGETS).map(|n| target(n, port, 1000, 1000)).collect();
    bench.runner.set_targets(targets);
    let mut seen: BTreeMap<BackendKey, u64> = BTreeMap::new();
    let mut late = Vec::new();
    let end = now_ns() + (ROUNDS + 1) * 1_100_000_000;
    while seen.len() < TARGETS as usize || seen.values().any(|&n| n < ROUNDS) {
        let (backend, result) = bench.next().await;
        assert_eq!(result.verdict, ProbeVerdict::Good, "{backend}");
        let rounds = seen.entry(backend).or_insert(0);
        *rounds += 1;
        if *rounds > 1 {
            late.push(result.started - result.scheduled);
        }
        assert!(
            now_ns() < end,
            "{} of {TARGETS} targets in time",
            seen.len()
        );
    }
    late.sort_unstable();
    let (half, most) = (late[late.len() / 2], late[late.len() * 99 / 100]);
    println!(
        "{} probes: late by {half} ns (median), {most} ns (99 %); processor, server included: {:?}",
        late.len() + TARGETS as usize,
        processor() - before
    );
    // A quarter of the interval is where lateness begins to void a round. (Alone on two cores the
    // median is under a millisecond.)
    assert!(half < 250_000_000, "half are late by more than {half} ns");
    bench.end().await;
}

/// Set in the process whose descriptors are used up.
const ALONE: &str = "FAIRLEAD_TEST_ALONE";

/// A limit concerns the whole process, so the test gets one of its own.
#[test]
fn probe_without_descriptors_is_void() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "health::runner::tests::probe_without_descriptors_alone",
        ])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn probe_without_descriptors_alone() {
    let (port, _server) = accepting().await;
    let target = target(1, port, 1000, 100);
    assert_eq!(
        probe(&target, &Tools::default(), &mut Hearing::default()).await,
        ProbeVerdict::Good
    );
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    assert_eq!(
        probe(&target, &Tools::default(), &mut Hearing::default()).await,
        ProbeVerdict::Void(
            "socket: no file descriptor left in this process (raise LimitNOFILE)".into()
        )
    );
}

#[tokio::test]
async fn commands_that_hang_delay_no_other_target() {
    let (port, _server) = accepting().await;
    let mut bench = Bench::new(64);
    let hanging = |n| Target {
        check: Check::Exec(ExecCheck {
            command: "/bin/sleep".into(),
            arguments: vec!["98765.9".to_owned()],
            user: None,
        }),
        ..target(n, port, 5000, 5000)
    };
    let mut targets: Vec<Target> = (2..42).map(hanging).collect();
    targets.push(target(1, port, 100, 100));
    bench.runner.set_targets(targets);
    // Before the first command is given up.
    for _ in 0..5 {
        let (backend, result) = bench.next().await;
        assert_eq!(backend.backend.as_str(), "b1");
        assert_eq!(result.verdict, ProbeVerdict::Good);
    }
    bench.end().await;
}
