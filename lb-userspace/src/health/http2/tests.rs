//! The HTTP/2 probe against servers that answer well, badly and without end.

use std::net::Ipv4Addr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::health::tls::fixture::{Authority, serve};

const TIMEOUT: Duration = Duration::from_secs(5);
const NAME: &str = "www.example.org";

fn check(expect_body: Option<&str>) -> HttpCheck {
    HttpCheck {
        method: "GET".to_owned(),
        path: "/healthz?x=1".to_owned(),
        host: None,
        expect_status: vec![(200, 200)],
        expect_body: expect_body.map(ToOwned::to_owned),
    }
}

/// Answers each request with this status, and with what was asked for, so many times.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, status: u16, times: usize) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let response = Response::builder().status(status).body(()).unwrap();
            let text = format!("{} {};", request.method(), request.uri());
            // Many small frames would be taken for an attack.
            let text = Bytes::from(text.repeat(100));
            let Ok(mut body) = respond.send_response(response, false) else {
                return;
            };
            for _ in 0..times {
                body.reserve_capacity(text.len());
                let waits = std::future::poll_fn(|context| body.poll_capacity(context)).await;
                if !matches!(waits, Some(Ok(_))) || body.send_data(text.clone(), false).is_err() {
                    return;
                }
            }
            let _closed_by_client = body.send_data(Bytes::new(), true);
        });
    }
}

async fn plain(status: u16, times: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, status, times));
        }
    });
    address
}

async fn run(target: SocketAddr, check: &HttpCheck) -> ProbeVerdict {
    probe(target, check, None, &Clients::default(), TIMEOUT).await
}

#[tokio::test]
async fn status_and_body_are_judged_by_prior_knowledge() {
    let target = plain(200, 1).await;
    assert_eq!(run(target, &check(None)).await, ProbeVerdict::Good);
    let asked = format!("GET http://{target}/healthz?x=1;");
    assert_eq!(run(target, &check(Some(&asked))).await, ProbeVerdict::Good);
    assert_eq!(
        run(target, &check(Some("ready"))).await,
        ProbeVerdict::Bad("body lacks 'ready'".into())
    );
    assert_eq!(
        run(plain(503, 1).await, &check(None)).await,
        ProbeVerdict::Bad("status 503, expected 200".into())
    );
}

#[tokio::test]
async fn over_tls_the_target_must_choose_it() {
    let ca = Authority::new();
    let with = ca.check(Some(NAME));
    let run = async |target, check: &HttpCheck| {
        probe(target, check, Some(&with), &Clients::default(), TIMEOUT).await
    };
    let target = serve(ca.server(&[NAME], 90, &["h2"], false), |stream| {
        answer(stream, 200, 1)
    })
    .await;
    let asked = check(Some("GET https://www.example.org/healthz?x=1;"));
    assert_eq!(run(target, &asked).await, ProbeVerdict::Good);
    let other = serve(ca.server(&[NAME], 90, &[], false), |stream| {
        answer(stream, 200, 1)
    })
    .await;
    assert_eq!(
        run(other, &check(None)).await,
        ProbeVerdict::Bad("tls: the target does not choose h2 (ALPN)".into())
    );
}

#[tokio::test]
async fn endless_body_is_cut() {
    let target = plain(200, usize::MAX).await;
    assert_eq!(
        run(target, &check(Some("ready"))).await,
        ProbeVerdict::Bad("body lacks 'ready' in its first 64 KiB".into())
    );
}

/// Sends these bytes first and then the others without end.
async fn hostile(first: &'static [u8], again: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = stream.write_all(first).await;
        while sent.is_ok() {
            sent = stream.write_all(again).await;
        }
    });
    address
}

#[track_caller]
fn assert_bad(verdict: &ProbeVerdict) {
    assert!(matches!(verdict, ProbeVerdict::Bad(_)), "{verdict:?}");
}

#[tokio::test]
async fn endless_frames_and_other_protocols_end_the_probe_before_its_time() {
    let began = Instant::now();
    // SETTINGS, then acknowledged PINGs (RFC 9113 section 6.7), which mean nothing.
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let ping = b"\0\0\x08\x06\x01\0\0\0\0abcdefgh";
    assert_bad(&run(hostile(settings, ping).await, &check(None)).await);
    assert_bad(
        &run(
            hostile(b"HTTP/1.1 400 Bad Request\r\n", b"x: y\r\n").await,
            &check(None),
        )
        .await,
    );
    assert!(began.elapsed() < TIMEOUT);
}

#[tokio::test]
async fn silence_times_out() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let short = Duration::from_millis(300);
    assert_eq!(
        probe(target, &check(None), None, &Clients::default(), short).await,
        ProbeVerdict::Bad("headers: timed out after 300 ms".into())
    );
}
