//! The HTTPS probe against a server that speaks HTTP/1.1 over TLS.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::health::tls::fixture::{Authority, serve};

const TIMEOUT: Duration = Duration::from_secs(5);
const NAME: &str = "www.example.org";

fn check(expect_body: Option<&str>) -> HttpCheck {
    HttpCheck {
        method: "GET".to_owned(),
        path: "/healthz".to_owned(),
        host: None,
        expect_status: vec![(200, 299)],
        expect_body: expect_body.map(ToOwned::to_owned),
    }
}

/// Answers with this status line and the request as the body.
async fn echo(mut stream: TlsStream<TcpStream>, status: &'static str) {
    let mut request = vec![0; 4096];
    let read = stream.read(&mut request).await.unwrap();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {read}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&request[..read]).await.unwrap();
    let _closed_by_client = stream.shutdown().await;
}

async fn run(ca: &Authority, target: SocketAddr, check: &HttpCheck) -> ProbeVerdict {
    let with = ca.check(Some(NAME));
    probe(
        target,
        check,
        &with,
        &Clients::default(),
        TIMEOUT,
        &mut Hearing::default(),
    )
    .await
}

#[tokio::test]
async fn status_and_body_are_judged_and_the_host_is_the_name() {
    let ca = Authority::new();
    let target = serve(ca.server(&[NAME], 90, &["http/1.1"], false), |stream| {
        echo(stream, "200 OK")
    })
    .await;
    let named = check(Some("host: www.example.org\r\n"));
    assert_eq!(run(&ca, target, &named).await, ProbeVerdict::Good);
    assert_eq!(
        run(&ca, target, &check(Some("ready"))).await,
        ProbeVerdict::Bad("body lacks 'ready'".into())
    );
}

#[tokio::test]
async fn bad_status_is_bad_and_a_certificate_that_ends_soon_only_a_warning() {
    let ca = Authority::new();
    let server = |status| {
        let acceptor = ca.server(&[NAME], 5, &[], false);
        serve(acceptor, move |stream| echo(stream, status))
    };
    assert_eq!(
        run(&ca, server("503 Busy").await, &check(None)).await,
        ProbeVerdict::Bad("status 503, expected 200-299".into())
    );
    assert_eq!(
        run(&ca, server("200 OK").await, &check(None)).await,
        ProbeVerdict::Expiring("the certificate expires in 5days".into())
    );
}

#[tokio::test]
async fn server_that_speaks_no_http_1_1_is_refused_by_alpn() {
    let ca = Authority::new();
    let acceptor = ca.server(&[NAME], 90, &["h2"], false);
    let target = serve(acceptor, |stream| echo(stream, "200 OK")).await;
    assert_eq!(
        run(&ca, target, &check(None)).await,
        ProbeVerdict::Bad("tls: the target answered with the alert NoApplicationProtocol".into())
    );
}
