//! What checks say that failed, against servers that hear only small requests, or answer large ones in their own way.

use std::sync::Mutex;

use lb_common::probe::ProbePath;
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::model::{AgentSource, Check, FullSize, HttpCheck};

fn path(source: u64) -> RealPath {
    RealPath {
        mark: 1,
        vip: "192.0.2.1".parse().unwrap(),
        only: false,
        path: ProbePath {
            source: [source; 2],
            ..ProbePath::NONE
        },
    }
}

#[test]
fn what_the_own_address_says_tells_a_dead_server_from_a_way_that_is_broken() {
    let timed_out = "connect: timed out after 500 ms";
    let refused = ProbeVerdict::Bad("connect: refused".to_owned());
    let dead = ProbeVerdict::Bad("connect: timed out after 250 ms".to_owned());
    let good = ProbeVerdict::Good;
    for (own, source, expected) in [
        (None, 0, timed_out.to_owned()),
        (Some(&dead), 0, timed_out.to_owned()),
        (
            Some(&refused),
            0,
            format!("{timed_out}; at its own address: connect: refused"),
        ),
    ] {
        assert_eq!(told(timed_out, own, Some(&path(source))), expected);
    }
    let words = told(timed_out, Some(&good), Some(&path(0)));
    assert!(words.contains("192.0.2.1 is missing on it"), "{words}");
    let words = told(timed_out, Some(&good), Some(&path(1)));
    assert!(words.contains("takes nothing out of the tunnel"), "{words}");
    assert!(
        words.len() <= crate::health::verdict::REASON_BYTES,
        "{words}"
    );
}

/// What a server does with a request that fills a packet. It answers all others with 200.
#[derive(Clone, Copy, Debug)]
enum Large {
    /// It does not come.
    Lost,
    /// It does not come, and when so many milliseconds are over, the server says this and closes.
    LostThen(u64, &'static str),
    /// Nothing.
    Silence,
    /// Answers with this status.
    Status(u16),
    /// The same after so many milliseconds, as it answers all others.
    Slow(u16, u64),
    /// Closes, without a word.
    Close,
}

struct Server {
    port: u16,
    /// Heads of the requests.
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(large: Large) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        if matches!(large, Large::Lost | Large::LostThen(..)) {
            // Load the length; above 1000 keep nothing, else all.
            let filter = [
                (0x80, 0, 0, 0),
                (0x25, 0, 1, 1000),
                (6, 0, 0, 0),
                (6, 0, 0, u32::MAX),
            ];
            let filter = filter.map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k));
            SockRef::from(&listener).attach_filter(&filter).unwrap();
        }
        let port = listener.local_addr().unwrap().port();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut head = vec![];
                    let patience = match large {
                        Large::LostThen(after, _) => Duration::from_millis(after),
                        _ => Duration::from_secs(60),
                    };
                    while !head.ends_with(b"\r\n\r\n") {
                        match timeout(patience, stream.read_buf(&mut head)).await {
                            Ok(Ok(1..)) => {}
                            Ok(_) => return,
                            Err(_) => {
                                if let Large::LostThen(_, words) = large {
                                    stream.write_all(words.as_bytes()).await.unwrap();
                                }
                                return;
                            }
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let is_large = head.contains("x-fairlead-padding");
                    seen.lock().unwrap().push(head);
                    let status = match large {
                        Large::Slow(status, after) => {
                            tokio::time::sleep(Duration::from_millis(after)).await;
                            if is_large { status } else { 200 }
                        }
                        _ if !is_large => 200,
                        Large::Status(status) => status,
                        Large::Close => return,
                        Large::Lost | Large::LostThen(..) => unreachable!("it came"),
                        Large::Silence => return std::future::pending().await,
                    };
                    let answer = format!("HTTP/1.1 {status} So\r\nx-fairlead-weight: 50%\r\n\r\n");
                    // Who has asked may be gone.
                    let _told = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { port, heads, task }
    }

    /// Lengths of the requests.
    fn lengths(&self) -> Vec<usize> {
        self.heads.lock().unwrap().iter().map(String::len).collect()
    }
}

fn target(port: u16, growth: u32) -> Target {
    Target {
        backend: "web/b1".parse().unwrap(),
        address: "127.0.0.1".parse().unwrap(),
        port,
        real_path: None,
        full_size: Some(FullSize {
            most: 1500,
            growth,
            backend: 7,
        }),
        check: Check::Http(HttpCheck {
            method: "GET".to_owned(),
            path: "/healthz".to_owned(),
            host: None,
            expect_status: vec![(200, 299)],
            expect_body: None,
        }),
        agent: Some(AgentSource::Header),
        interval: Duration::from_secs(1),
        fast_interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        jitter: Duration::ZERO,
        rise: 1,
        fall: 1,
        opening: 1,
    }
}

/// The verdict, and what the agent said.
async fn probed(target: &Target, tools: &Tools) -> (ProbeVerdict, Option<Option<String>>) {
    let mut hearing = Hearing::to(target.agent);
    let verdict = probe(target, tools, &mut hearing).await;
    (verdict, hearing.said())
}

#[tokio::test]
async fn a_request_fills_one_packet_and_is_the_only_one_while_all_is_well() {
    let server = Server::start(Large::Status(200)).await;
    let half = Some(Some("50%".to_owned()));
    let (verdict, said) = probed(&target(server.port, 0), &Tools::default()).await;
    assert_eq!((verdict, said), (ProbeVerdict::Good, half));
    // 1500 bytes less the headers of IP and TCP, and of timestamps where this machine has them.
    let lengths = server.lengths();
    assert!(matches!(lengths[..], [1448 | 1460]), "{lengths:?}");
}

/// The words of a check that fails.
async fn words(target: &Target, tools: &Tools) -> String {
    match probed(target, tools).await.0 {
        ProbeVerdict::Bad(words) => words,
        verdict => panic!("{verdict:?}"),
    }
}

#[tokio::test]
async fn a_server_that_large_packets_do_not_reach_is_told_from_a_dead_one() {
    const MTU: &str = "; it answers small packets, but not those of 1500 bytes: check the MTU between here and it";
    for (large, begin) in [
        (Large::Lost, "headers: timed out after 1000 ms"),
        // Servers have limits of their own, and some say so.
        (
            Large::LostThen(300, ""),
            "headers: closed by the target before the end",
        ),
        (
            Large::LostThen(300, "HTTP/1.1 408 Slow\r\n\r\n"),
            "status 408, expected 200-299",
        ),
    ] {
        let server = Server::start(large).await;
        let told = words(&target(server.port, 0), &Tools::default()).await;
        assert_eq!(told, format!("{begin}{MTU}"), "{large:?}");
        let lengths = server.lengths();
        assert!(matches!(lengths[..], [1..500]), "{lengths:?}");

        // Off, nothing is filled.
        let off = Target {
            full_size: None,
            ..target(server.port, 0)
        };
        let (verdict, _) = probed(&off, &Tools::default()).await;
        assert_eq!(verdict, ProbeVerdict::Good);
    }
}

#[tokio::test]
async fn a_server_that_hears_a_request_and_never_answers_is_not_told_from_others_by_its_size() {
    let server = Server::start(Large::Silence).await;
    let tools = Tools::default();
    for _ in 0..2 {
        let told = words(&target(server.port, 0), &tools).await;
        assert_eq!(told, "headers: timed out after 1000 ms");
    }
}

#[tokio::test]
async fn what_routers_said_meanwhile_takes_nobody_out() {
    let server = Server::start(Large::Lost).await;
    let tools = Tools::default();
    let asked = std::sync::atomic::AtomicU32::new(0);
    // Before the first packet nobody has said anything.
    let told = move |id: u32| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => None,
        _ => (id == 7).then_some(1400),
    };
    assert!(
        tools
            .paths
            .set(crate::health::runner::Paths(Box::new(told)))
            .is_ok()
    );
    let (verdict, said) = probed(&target(server.port, 20), &tools).await;
    assert_eq!(verdict, ProbeVerdict::Good);
    assert_eq!(said, Some(Some("50%".to_owned())));
    // From then on nothing larger is sent: what is lost now is a fault.
    let (verdict, _) = probed(&target(server.port, 20), &tools).await;
    let ProbeVerdict::Bad(words) = verdict else {
        panic!("{verdict:?}");
    };
    assert!(words.contains("not those of 1400 bytes"), "{words}");
}

/// What is said of a server that refuses long requests.
#[track_caller]
fn assert_refused(verdict: &ProbeVerdict, large: Large) {
    let told = matches!(verdict, ProbeVerdict::Warned(words) if words.contains("not tested"));
    assert!(told, "{large:?}: {verdict:?}");
}

#[tokio::test]
async fn a_server_that_does_not_like_long_requests_is_judged_by_a_short_one() {
    for large in [
        Large::Status(431),
        Large::Status(404),
        Large::Status(302),
        Large::Status(502),
        Large::Close,
    ] {
        let server = Server::start(large).await;
        let tools = Tools::default();
        // However many others are under way.
        let all = u32::try_from(crate::health::runner::SECOND_CHECKS).unwrap();
        let taken = tools.second_checks.try_acquire_many(all).unwrap();
        let (verdict, said) = probed(&target(server.port, 0), &tools).await;
        assert_refused(&verdict, large);
        assert_eq!(said, Some(Some("50%".to_owned())), "{large:?}");
        drop(taken);
        let other = Tools::default();
        for _ in 0..2 {
            let (verdict, said) = probed(&target(server.port, 0), &other).await;
            assert_refused(&verdict, large);
            assert_eq!(said, Some(Some("50%".to_owned())), "{large:?}");
        }
        // From then on it gets short ones alone.
        let before = server.lengths().len();
        let (verdict, said) = probed(&target(server.port, 0), &other).await;
        assert_refused(&verdict, large);
        assert_eq!(said, Some(Some("50%".to_owned())), "{large:?}");
        let lengths = server.lengths();
        assert!(matches!(lengths[before..], [1..500]), "{lengths:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_expected_may_be_for_the_long_request() {
    // The answers have no body at all: what is expected is in none.
    let server = Server::start(Large::Status(200)).await;
    let mut target = target(server.port, 0);
    if let Check::Http(check) = &mut target.check {
        check.expect_body = Some("ready".to_owned());
    }
    let told = words(&target, &Tools::default()).await;
    assert_eq!(told, "body lacks 'ready'");
    let lengths = server.lengths();
    assert!(matches!(lengths[..], [1448 | 1460, 1..500]), "{lengths:?}");
}

#[tokio::test]
async fn a_server_that_refuses_slowly_is_up_from_its_second_check_on() {
    let large = Large::Slow(403, 600);
    let server = Server::start(large).await;
    let tools = Tools::default();
    let told = words(&target(server.port, 0), &tools).await;
    assert_eq!(told, "status 403, expected 200-299");
    let (verdict, _) = probed(&target(server.port, 0), &tools).await;
    assert_refused(&verdict, large);
    // Later both are sent at once.
    let old = Instant::now().checked_sub(Duration::from_mins(11)).unwrap();
    tools
        .refusals
        .remember(&"web/b1".parse().unwrap(), old, Sure::Yes);
    let (verdict, _) = probed(&target(server.port, 0), &tools).await;
    assert_refused(&verdict, large);
    assert_eq!(server.lengths().len(), 5);
}

#[tokio::test]
async fn a_target_that_takes_long_requests_again_is_tested_with_them_alone() {
    let server = Server::start(Large::Status(200)).await;
    let tools = Tools::default();
    let backend = "web/b1".parse().unwrap();
    let old = Instant::now().checked_sub(Duration::from_mins(11)).unwrap();
    tools.refusals.remember(&backend, old, Sure::Yes);
    let (verdict, _) = probed(&target(server.port, 0), &tools).await;
    assert_eq!(verdict, ProbeVerdict::Good);
    assert_eq!(tools.refusals.of(&backend, old), Refusal::Never);
}
