//! The TLS probe against servers with good and bad certificates.

use std::net::SocketAddr;
use tokio::net::TcpListener;

use super::fixture::{Authority, serve};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);
const NAME: &str = "www.example.org";

async fn close(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
    let mut rest = Vec::new();
    let _closed_by_client = stream.read_to_end(&mut rest).await;
    let _closed_by_client = stream.shutdown().await;
}

async fn run(target: SocketAddr, check: &TlsCheck) -> ProbeVerdict {
    probe(target, check, &Clients::default(), TIMEOUT).await
}

#[track_caller]
fn assert_bad(verdict: &ProbeVerdict, words: &str) {
    match verdict {
        ProbeVerdict::Bad(reason) => assert!(reason.contains(words), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn certificate_for_the_name_or_the_address_is_good() {
    let ca = Authority::new();
    let target = serve(ca.server(&[NAME, "127.0.0.1"], 90, &[], false), close).await;
    assert_eq!(run(target, &ca.check(Some(NAME))).await, ProbeVerdict::Good);
    assert_eq!(run(target, &ca.check(None)).await, ProbeVerdict::Good);
}

#[tokio::test]
async fn other_name_other_authority_and_end_of_time_are_bad_unless_nothing_is_verified() {
    let (ca, other) = (Authority::new(), Authority::new());
    let target = serve(ca.server(&[NAME], 90, &[], false), close).await;
    let verdict = run(target, &ca.check(Some("mail.example.org"))).await;
    assert_bad(
        &verdict,
        "tls: invalid peer certificate: certificate not valid for name",
    );
    let verdict = run(target, &other.check(Some(NAME))).await;
    assert_bad(&verdict, "tls: invalid peer certificate: ");
    let unverified = TlsCheck {
        verify: false,
        ..other.check(Some("mail.example.org"))
    };
    assert_eq!(run(target, &unverified).await, ProbeVerdict::Good);
    let expired = serve(ca.server(&[NAME], -3, &[], false), close).await;
    let verdict = run(expired, &ca.check(Some(NAME))).await;
    assert_bad(
        &verdict,
        "tls: invalid peer certificate: certificate expired",
    );
    let unverified = TlsCheck {
        verify: false,
        ..ca.check(Some(NAME))
    };
    assert_eq!(
        run(expired, &unverified).await,
        ProbeVerdict::Expiring("the certificate expired 3days ago".into())
    );
}

#[tokio::test]
async fn certificate_that_ends_soon_is_good_with_a_warning() {
    let ca = Authority::new();
    let target = serve(ca.server(&[NAME], 5, &[], false), close).await;
    assert_eq!(
        run(target, &ca.check(Some(NAME))).await,
        ProbeVerdict::Expiring("the certificate expires in 5days".into())
    );
    let later = TlsCheck {
        warn_before_expiry: Duration::from_secs(86_400),
        ..ca.check(Some(NAME))
    };
    assert_eq!(run(target, &later).await, ProbeVerdict::Good);
}

#[tokio::test]
async fn server_that_asks_for_a_client_certificate_gets_it_or_refuses() {
    let ca = Authority::new();
    let target = serve(ca.server(&[NAME], 90, &[], true), close).await;
    let verdict = run(target, &ca.check(Some(NAME))).await;
    assert_bad(
        &verdict,
        "tls: the target answered with the alert CertificateRequired",
    );
    let known = TlsCheck {
        client: Some(ca.client()),
        ..ca.check(Some(NAME))
    };
    assert_eq!(run(target, &known).await, ProbeVerdict::Good);
}

#[tokio::test]
async fn files_that_cannot_be_used_say_nothing_about_the_target() {
    let ca = Authority::new();
    let void = async |check: TlsCheck| match run(([127, 0, 0, 1], 1).into(), &check).await {
        ProbeVerdict::Void(reason) => reason,
        other => panic!("{other:?}"),
    };
    let missing = TlsCheck {
        ca: "/nonexistent/ca.pem".into(),
        ..ca.check(None)
    };
    let reason = void(missing).await;
    assert!(
        reason.starts_with("tls: ca '/nonexistent/ca.pem': "),
        "{reason}"
    );
    let (certificate, _) = ca.client();
    let no_key = TlsCheck {
        client: Some((certificate.clone(), certificate)),
        ..ca.check(None)
    };
    let reason = void(no_key).await;
    assert!(reason.starts_with("tls: client-key '"), "{reason}");
}

#[tokio::test]
async fn server_without_tls_and_one_that_is_silent_are_bad_in_time() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let ca = Authority::new();
    let check = ca.check(Some(NAME));
    let short = Duration::from_millis(300);
    let silent = probe(target, &check, &Clients::default(), short).await;
    assert_eq!(
        silent,
        ProbeVerdict::Bad("tls: timed out after 300 ms".into())
    );
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Without end, if the client lets it.
            while stream
                .write_all(b"220 mail.example.org ESMTP\r\n")
                .await
                .is_ok()
            {}
        }
    });
    assert_bad(&run(target, &check).await, "tls: received corrupt message");
}

#[tokio::test]
async fn client_is_made_once_for_many_probes() {
    let ca = Authority::new();
    let clients = Clients::default();
    let first = clients.get(&ca.check(None), &[]).await.unwrap();
    let second = clients.get(&ca.check(None), &[]).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    let other = clients.get(&ca.check(None), &["h2"]).await.unwrap();
    assert!(!std::sync::Arc::ptr_eq(&first, &other));
}
