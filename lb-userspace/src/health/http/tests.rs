//! The HTTP probe against servers that answer well, badly, slowly and without end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(300);

/// What a server does after it has read the request's head.
#[derive(Clone, Copy)]
enum Answer {
    /// Sends this and closes.
    Bytes(&'static [u8]),
    /// Closes at once.
    Nothing,
    /// Sends this and then nothing, without closing.
    Hang(&'static [u8]),
    /// Sends the first, then the second again and again as fast as it can.
    Endless(&'static [u8], &'static [u8]),
    /// Sends the bytes one by one, with 20 ms between them.
    Trickle(&'static [u8]),
}

/// A server on loopback; counts connections and bytes, keeps the last request.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    request: Arc<std::sync::Mutex<String>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(ip: IpAddr, answer: Answer) -> Server {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let request = Arc::new(std::sync::Mutex::new(String::new()));
    let (count, bytes, last) = (connections.clone(), sent.clone(), request.clone());
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let head = read_head(&mut stream).await;
            *last.lock().unwrap() = head;
            // A client that has seen enough closes: no error of ours.
            let _closed_by_client = reply(&mut stream, answer, &bytes).await;
        }
    });
    Server {
        address,
        connections,
        sent,
        request,
        task,
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

async fn reply(stream: &mut TcpStream, answer: Answer, sent: &AtomicU64) -> io::Result<()> {
    match answer {
        Answer::Bytes(bytes) => stream.write_all(bytes).await,
        Answer::Nothing => Ok(()),
        Answer::Hang(bytes) => {
            stream.write_all(bytes).await?;
            stream.read_u8().await.map(|_| ())
        }
        Answer::Endless(first, again) => {
            stream.write_all(first).await?;
            loop {
                stream.write_all(again).await?;
                sent.fetch_add(again.len() as u64, Ordering::SeqCst);
            }
        }
        Answer::Trickle(bytes) => {
            stream.set_nodelay(true)?;
            for byte in bytes.iter().cycle() {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
    }
}

fn get(expect_body: Option<&str>) -> HttpCheck {
    HttpCheck {
        method: "GET".into(),
        path: "/healthz?deep=1".into(),
        host: None,
        expect_status: vec![(200, 299)],
        expect_body: expect_body.map(str::to_owned),
    }
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[track_caller]
fn check(answer: Answer, check: HttpCheck, expected: Result<(), &str>) {
    let verdict = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let server = serve(V4, answer).await;
            let began = Instant::now();
            let verdict = probe(server.address, &check, TIMEOUT, &mut Hearing::default()).await;
            assert!(
                began.elapsed() < TIMEOUT + Duration::from_secs(1),
                "took {:?}",
                began.elapsed()
            );
            assert_eq!(server.connections.load(Ordering::SeqCst), 1);
            verdict
        });
    let expected = match expected {
        Ok(()) => ProbeVerdict::Good,
        Err(words) => ProbeVerdict::Bad(words.into()),
    };
    assert_eq!(verdict, expected);
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nit ok";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nit o\r\n1\r\nk\r\n0\r\n\r\n";

#[test]
fn expected_status_and_body_are_good() {
    check(Answer::Bytes(OK), get(None), Ok(()));
    check(Answer::Bytes(OK), get(Some("ok")), Ok(()));
    check(Answer::Bytes(OK), get(Some("")), Ok(()));
    check(Answer::Bytes(CHUNKED), get(Some("t ok")), Ok(()));
    check(Answer::Bytes(b"HTTP/1.0 204 \r\n\r\n"), get(None), Ok(()));
    check(
        Answer::Bytes(b"HTTP/1.0 200 OK\r\n\r\nuntil the end ok"),
        get(Some("ok")),
        Ok(()),
    );
    check(
        Answer::Bytes(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        get(None),
        Ok(()),
    );
}

#[test]
fn head_request_waits_for_no_body() {
    let head = HttpCheck {
        method: "HEAD".into(),
        ..get(None)
    };
    check(
        Answer::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        head,
        Ok(()),
    );
}

#[test]
fn status_alone_decides_without_waiting_for_the_body() {
    check(
        Answer::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        get(None),
        Ok(()),
    );
}

#[test]
fn unexpected_status_is_told_with_the_expected_ones() {
    check(
        Answer::Bytes(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"),
        get(None),
        Err("status 503, expected 200-299"),
    );
    let check_204 = HttpCheck {
        expect_status: vec![(204, 204), (300, 301)],
        ..get(None)
    };
    check(
        Answer::Bytes(OK),
        check_204,
        Err("status 200, expected 204, 300-301"),
    );
}

#[test]
fn missing_body_text_is_told_with_where_it_was_sought() {
    check(Answer::Bytes(OK), get(Some("KO")), Err("body lacks 'KO'"));
    check(
        Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 4096]),
        get(Some("ok")),
        Err("body lacks 'ok' in its first 64 KiB"),
    );
}

#[test]
fn silence_and_trickles_end_at_the_timeout_in_their_phase() {
    check(
        Answer::Hang(b""),
        get(None),
        Err("headers: timed out after 300 ms"),
    );
    check(
        Answer::Trickle(b"HTTP/1.1 200 OK\r\nx-long: 1234567890\r\n"),
        get(None),
        Err("headers: timed out after 300 ms"),
    );
    check(
        Answer::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nit"),
        get(Some("ok")),
        Err("body: timed out after 300 ms"),
    );
}

#[test]
fn early_close_and_garbage_are_bad() {
    for (answer, phase) in [
        (Answer::Nothing, "headers"),
        (Answer::Bytes(b"HTTP/1.1 200 OK\r\nConte"), "headers"),
        (
            Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nit"),
            "body",
        ),
        (
            Answer::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nit"),
            "body",
        ),
    ] {
        check(
            answer,
            get(Some("ok")),
            Err(&format!("{phase}: closed by the target before the end")),
        );
    }
    check(
        Answer::Hang(b"SSH-2.0-OpenSSH_9.2\r\n\x1b[31m\r\n\r\n"),
        get(None),
        Err("headers: not HTTP/1: invalid HTTP version parsed"),
    );
}

#[test]
fn endless_headers_end_at_sixteen_kibibytes() {
    for again in [b"x-header: again\r\n".as_slice(), &[b'x'; 1000]] {
        check(
            Answer::Endless(b"HTTP/1.1 200 OK\r\n", again),
            get(None),
            Err("headers: longer than 16 KiB"),
        );
    }
    check(
        Answer::Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        get(None),
        Err("headers: the target sends more than it may"),
    );
}

#[tokio::test]
async fn redirect_is_bad_and_not_followed() {
    let other = serve(V4, Answer::Bytes(OK)).await;
    let location: &'static str = Box::leak(
        format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n",
            other.address
        )
        .into_boxed_str(),
    );
    let server = serve(V4, Answer::Bytes(location.as_bytes())).await;
    assert_eq!(
        probe(server.address, &get(None), TIMEOUT, &mut Hearing::default()).await,
        ProbeVerdict::Bad("status 302, expected 200-299 (redirects are not followed)".into())
    );
    assert_eq!(other.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn request_is_what_was_configured() {
    let server = serve(Ipv6Addr::LOCALHOST.into(), Answer::Bytes(OK)).await;
    assert_eq!(
        probe(server.address, &get(None), TIMEOUT, &mut Hearing::default()).await,
        ProbeVerdict::Good
    );
    let head = server.request.lock().unwrap().clone();
    let expected = format!(
        "GET /healthz?deep=1 HTTP/1.1\r\nhost: {}\r\nuser-agent: fairlead/{}\r\naccept: */*\r\n\
         accept-encoding: identity\r\nconnection: close\r\n\r\n",
        server.address,
        env!("CARGO_PKG_VERSION")
    );
    assert!(server.address.to_string().starts_with("[::1]:"));
    assert_eq!(head, expected);

    let named = HttpCheck {
        method: "OPTIONS".into(),
        host: Some("web.example".into()),
        ..get(None)
    };
    assert_eq!(
        probe(server.address, &named, TIMEOUT, &mut Hearing::default()).await,
        ProbeVerdict::Good
    );
    let head = server.request.lock().unwrap().clone();
    assert!(head.starts_with("OPTIONS /healthz?deep=1 HTTP/1.1\r\nhost: web.example\r\n"));
}

#[tokio::test]
async fn request_that_cannot_be_written_says_nothing_about_the_target() {
    let check = HttpCheck {
        host: Some("two\r\nlines".into()),
        ..get(None)
    };
    let ProbeVerdict::Void(reason) = probe(
        SocketAddr::from((V4, 1)),
        &check,
        TIMEOUT,
        &mut Hearing::default(),
    )
    .await
    else {
        panic!("not void");
    };
    assert!(reason.starts_with("request: "), "{reason}");
}

/// A field of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Set in the process that runs the measurement alone.
const ALONE: &str = "FAIRLEAD_TEST_ALONE";

/// Other tests share this process and its memory, so the measurement gets one of its own.
#[test]
fn ten_gigabytes_cost_neither_memory_nor_time() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "health::http::tests::ten_gigabytes_alone"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn ten_gigabytes_alone() {
    let runs = match std::env::var_os(ALONE) {
        Some(_) => 100,
        // Beside other tests memory cannot be judged; time and verdict can.
        None => 1,
    };
    let server = serve(
        V4,
        Answer::Endless(
            b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n",
            &[b'x'; 65536],
        ),
    )
    .await;
    let check = get(Some("never there"));
    let run = async || {
        let verdict = probe(server.address, &check, TIMEOUT, &mut Hearing::default()).await;
        assert_eq!(
            verdict,
            ProbeVerdict::Bad("body lacks 'never there' in its first 64 KiB".into())
        );
    };
    // Code that is run for the first time is read from the file, and counts too.
    let warm_up = runs.min(20);
    for _ in 0..warm_up {
        run().await;
    }
    let before = memory("VmRSS");
    for _ in 0..runs {
        run().await;
    }
    if runs > 1 {
        let grown = memory("VmHWM").saturating_sub(before);
        // Some pages of code come in late; 64 KiB kept of each probe would be more than this.
        assert!(grown <= 4 << 20, "grew by {grown} bytes");
    }
    let sent = server.sent.load(Ordering::SeqCst) / (runs + warm_up);
    assert!(
        sent < 16 << 20,
        "the server could send {sent} bytes a probe"
    );
}

proptest! {
    #[test]
    fn text_is_found_however_the_stream_is_cut(
        text in "[ab]{1,4}", stream in "[ab]{0,40}", cut in 1usize..9
    ) {
        let mut needle = Needle::new(text.as_bytes());
        let found = stream.as_bytes().chunks(cut).any(|piece| needle.found_in(piece));
        prop_assert_eq!(found, stream.contains(&text));
    }

    #[test]
    fn reason_is_bounded_printable_and_otherwise_verbatim(words in any::<String>()) {
        let reason = super::super::verdict::bounded(&words);
        prop_assert!(reason.len() <= super::super::verdict::REASON_BYTES);
        prop_assert!(!reason.chars().any(char::is_control));
        if words.len() <= 256 && !words.chars().any(char::is_control) {
            prop_assert_eq!(reason, words);
        }
    }
}

/// Verdict, and what was heard.
async fn heard(answer: Answer, check: HttpCheck, source: AgentSource) -> (bool, Option<String>) {
    let server = serve(V4, answer).await;
    let mut hearing = Hearing::to(Some(source));
    let verdict = probe(server.address, &check, TIMEOUT, &mut hearing).await;
    (verdict == ProbeVerdict::Good, hearing.said().flatten())
}

#[tokio::test]
async fn an_agent_is_heard_in_the_head_or_the_first_line_of_the_body() {
    use AgentSource::{Body, Header};
    let answer: &[u8] = b"HTTP/1.1 200 OK\r\nX-Fairlead-Weight:  75% \r\ncontent-length: 15\r\n\r\nup 50%\nreadiness";
    let some = |text: &str| Some(text.to_owned());
    for (text, good) in [(None, true), (Some("ready"), false), (Some("readi"), true)] {
        let (ok, said) = heard(Answer::Bytes(answer), get(text), Header).await;
        assert_eq!((ok, said), (good, some("75%")), "{text:?}");
        let (ok, said) = heard(Answer::Bytes(answer), get(text), Body).await;
        assert_eq!((ok, said), (good, some("up 50%")), "{text:?}");
    }
    // No report, a body that does not end, one without an end of the line, and one that is no text.
    let silent = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(
        heard(Answer::Bytes(silent), get(None), Header).await,
        (true, None)
    );
    assert_eq!(
        heard(Answer::Bytes(silent), get(None), Body).await,
        (true, None)
    );
    let open = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n30%";
    assert_eq!(
        heard(Answer::Hang(open), get(None), Body).await,
        (true, None)
    );
    let long = Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n", &[b'9'; 1024]);
    assert_eq!(
        heard(long, get(None), Body).await,
        (true, Some("9".repeat(64)))
    );
    let odd = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\x01\xff\n";
    assert_eq!(
        heard(Answer::Bytes(odd), get(None), Body).await,
        (true, some("\\u{1}\u{fffd}"))
    );
}
