//! The gRPC probe against a real server, and its messages as bytes.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

fn check(service: &str) -> GrpcCheck {
    GrpcCheck {
        service: service.to_owned(),
        host: None,
    }
}

async fn run(target: SocketAddr, check: &GrpcCheck) -> ProbeVerdict {
    probe(target, check, None, &Clients::default(), TIMEOUT).await
}

async fn server() -> (SocketAddr, HealthReporter) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, service) = health_reporter();
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(serving);
    (address, reporter)
}

fn bad_as(words: &str) -> ProbeVerdict {
    ProbeVerdict::Bad(words.to_owned())
}

#[tokio::test]
async fn what_the_server_says_of_the_whole_and_of_a_service_is_the_verdict() {
    let (target, reporter) = server().await;
    assert_eq!(run(target, &check("")).await, ProbeVerdict::Good);
    let long = "a".repeat(200);
    for name in ["my.Service", &long] {
        assert_eq!(
            run(target, &check(name)).await,
            bad_as("SERVICE_UNKNOWN grpc-status 5 NOT_FOUND: service not registered")
        );
        for (status, verdict) in [
            (ServingStatus::Serving, ProbeVerdict::Good),
            (
                ServingStatus::NotServing,
                bad_as("the service is NOT_SERVING"),
            ),
            (ServingStatus::Unknown, bad_as("the service is UNKNOWN")),
        ] {
            reporter.set_service_status(name, status).await;
            assert_eq!(run(target, &check(name)).await, verdict);
        }
    }
}

#[tokio::test]
async fn server_without_the_health_service_is_bad() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder()
        .add_routes(tonic::service::Routes::default())
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(serving);
    let ProbeVerdict::Bad(reason) = run(target, &check("")).await else {
        panic!("good");
    };
    assert!(
        reason.starts_with("grpc-status 12 UNIMPLEMENTED"),
        "{reason}"
    );
}

#[test]
fn answers_are_read_as_protobuf_says() {
    let message = |fields: &[u8]| {
        let mut bytes = vec![0, 0, 0, 0, u8::try_from(fields.len()).unwrap()];
        bytes.extend(fields);
        decoded(&bytes)
    };
    assert_eq!(message(&[]), Some(0));
    assert_eq!(message(&[8, 1]), Some(1));
    // Unknown fields of each wire type before it; the last of two counts.
    assert_eq!(message(&[0x12, 2, 9, 9, 8, 2, 8, 3]), Some(3));
    assert_eq!(message(&[0x15, 1, 2, 3, 4, 8, 1]), Some(1));
    assert_eq!(message(&[0x11, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1]), Some(1));
    assert_eq!(message(&[8, 0xac, 2]), Some(300));
    for torn in [&[8][..], &[8, 0x80], &[0x12, 5, 1], &[0x0b], &[0x15, 1]] {
        assert_eq!(message(torn), None, "{torn:?}");
    }
    assert_eq!(decoded(&[0, 0, 0, 0, 2, 8]), None);
    assert_eq!(decoded(&[1, 0, 0, 0, 2, 8, 1]), None);
    assert_eq!(decoded(&[0, 0]), None);
}

#[test]
fn question_has_the_name_as_field_1() {
    assert_eq!(question("").unwrap().as_ref(), [0, 0, 0, 0, 0]);
    assert_eq!(
        question("ab").unwrap().as_ref(),
        [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
    );
    let long = question(&"a".repeat(200)).unwrap();
    assert_eq!(long[..9], [0, 0, 0, 0, 203, 0x0a, 200, 1, b'a']);
}

#[test]
fn percent_encoding_is_taken_off_where_there_is_one() {
    assert_eq!(plain("a%20b%C3%A4%0a"), "a b\u{e4}\n");
    assert_eq!(plain("100% %2 %zz %"), "100% %2 %zz %");
    assert_eq!(plain(""), "");
}

proptest! {
    /// Threat 20: whatever a target answers is read or refused, and only what says so is good.
    #[test]
    fn random_messages_are_read_or_refused(
        fields in proptest::collection::vec(any::<u8>(), 0..64),
        compressed in 0_u8..3,
        off in -2_i32..3,
        text in ".{0,40}",
    ) {
        let length = i32::try_from(fields.len()).unwrap().wrapping_add(off);
        let mut message = vec![compressed];
        message.extend(length.to_be_bytes());
        message.extend(&fields);
        let read = decoded(&message);
        if compressed != 0 || off != 0 {
            prop_assert_eq!(read, None);
        }
        prop_assert_eq!(serving(&message) == ProbeVerdict::Good, read == Some(1));
        decoded(&fields);
        // What stands for no text becomes a sign of three bytes each.
        prop_assert!(plain(&text).len() <= text.len().saturating_mul(3));
    }
}
