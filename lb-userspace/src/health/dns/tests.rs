//! The DNS probe against a server in this process.

use std::net::SocketAddr;
use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA, TXT};
use proptest::prelude::*;
use tokio::net::{TcpListener, UdpSocket};

use super::*;

const TIMEOUT: Duration = Duration::from_millis(300);
const SEVEN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

fn check(kind: DnsType) -> DnsCheck {
    DnsCheck {
        name: "www.example.org".to_owned(),
        kind,
        rcode: DnsRcode::NoError,
        address: None,
        tcp: false,
    }
}

/// Answers one query, over UDP or TCP, with what `answer` makes of it.
async fn serve(tcp: bool, answer: impl FnOnce(Message) -> Vec<u8> + Send + 'static) -> SocketAddr {
    if tcp {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut query).await.unwrap();
            let bytes = answer(Message::from_vec(&query).unwrap());
            stream
                .write_u16(bytes.len().try_into().unwrap())
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
        });
        return address;
    }
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        let (read, from) = socket.recv_from(&mut query).await.unwrap();
        let bytes = answer(Message::from_vec(&query[..read]).unwrap());
        socket.send_to(&bytes, from).await.unwrap();
    });
    address
}

fn reply(query: &Message, code: ResponseCode, data: Vec<RData>) -> Message {
    let mut message = Message::response(query.metadata.id, query.metadata.op_code);
    message.metadata.response_code = code;
    message.add_queries(query.queries.iter().cloned());
    let name = query.queries[0].name().clone();
    for data in data {
        message.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
    message
}

/// Probes a server that gives this code and data.
async fn ask(check: DnsCheck, code: ResponseCode, data: Vec<RData>) -> ProbeVerdict {
    let target = serve(check.tcp, move |query| {
        assert!(query.metadata.recursion_desired);
        reply(&query, code, data).to_vec().unwrap()
    })
    .await;
    probe(target, &check, TIMEOUT).await
}

fn a(address: Ipv4Addr) -> RData {
    RData::A(A(address))
}

fn bad_as(words: &str) -> ProbeVerdict {
    ProbeVerdict::Bad(words.to_owned())
}

#[tokio::test]
async fn record_of_the_type_is_good_over_udp_and_tcp() {
    for tcp in [false, true] {
        let check = DnsCheck {
            tcp,
            address: Some(SEVEN.into()),
            ..check(DnsType::A)
        };
        let data = vec![a(Ipv4Addr::LOCALHOST), a(SEVEN)];
        let verdict = ask(check, ResponseCode::NoError, data).await;
        assert_eq!(verdict, ProbeVerdict::Good);
    }
    let data = vec![RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))];
    let verdict = ask(check(DnsType::Aaaa), ResponseCode::NoError, data).await;
    assert_eq!(verdict, ProbeVerdict::Good);
    let data = vec![RData::TXT(TXT::new(vec!["x".to_owned()]))];
    let verdict = ask(check(DnsType::Txt), ResponseCode::NoError, data).await;
    assert_eq!(verdict, ProbeVerdict::Good);
}

#[tokio::test]
async fn other_code_other_address_and_no_record_are_told() {
    assert_eq!(
        ask(check(DnsType::A), ResponseCode::ServFail, vec![]).await,
        bad_as("rcode SERVFAIL, expected NOERROR")
    );
    assert_eq!(
        ask(check(DnsType::A), ResponseCode::NoError, vec![]).await,
        bad_as("answer has no A record")
    );
    let wanted = DnsCheck {
        address: Some(SEVEN.into()),
        ..check(DnsType::A)
    };
    assert_eq!(
        ask(wanted, ResponseCode::NoError, vec![a(Ipv4Addr::LOCALHOST)]).await,
        bad_as("answer is 127.0.0.1, expected 192.0.2.7")
    );
}

#[tokio::test]
async fn refusal_is_good_if_it_is_expected() {
    let refused = DnsCheck {
        rcode: DnsRcode::Refused,
        ..check(DnsType::Soa)
    };
    assert_eq!(
        ask(refused.clone(), ResponseCode::Refused, vec![]).await,
        ProbeVerdict::Good
    );
    assert_eq!(
        ask(refused, ResponseCode::NoError, vec![]).await,
        bad_as("rcode NOERROR, expected REFUSED")
    );
}

/// Probes a server that gives these bytes.
async fn ask_raw(make: impl FnOnce(Message) -> Vec<u8> + Send + 'static) -> ProbeVerdict {
    let target = serve(false, make).await;
    probe(target, &check(DnsType::A), TIMEOUT).await
}

#[tokio::test]
async fn garbage_and_answers_to_others_are_bad() {
    let ProbeVerdict::Bad(reason) = ask_raw(|_| b"hello".to_vec()).await else {
        panic!("garbage is taken");
    };
    assert!(
        reason.starts_with("answer: not a DNS message: "),
        "{reason}"
    );
    let other_number = |query: Message| {
        let mut answer = reply(&query, ResponseCode::NoError, vec![a(SEVEN)]);
        answer.metadata.id ^= 1;
        answer.to_vec().unwrap()
    };
    assert_eq!(
        ask_raw(other_number).await,
        bad_as("answer: to another query")
    );
    let echo = |query: Message| query.to_vec().unwrap();
    assert_eq!(ask_raw(echo).await, bad_as("answer: to another query"));
}

#[tokio::test]
async fn truncated_answer_proves_a_record_but_no_address() {
    let cut = |query: Message| {
        let mut answer = reply(&query, ResponseCode::NoError, vec![]);
        answer.metadata.truncation = true;
        answer.to_vec().unwrap()
    };
    assert_eq!(ask_raw(cut).await, ProbeVerdict::Good);
    let target = serve(false, cut).await;
    let wanted = DnsCheck {
        address: Some(SEVEN.into()),
        ..check(DnsType::A)
    };
    assert_eq!(
        probe(target, &wanted, TIMEOUT).await,
        bad_as(
            "answer has no A record (the answer is truncated; `transport = \"tcp\"` gets all of it)"
        )
    );
}

#[tokio::test]
async fn silence_closed_ports_and_torn_streams_are_told() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = socket.local_addr().unwrap();
    assert_eq!(
        probe(target, &check(DnsType::A), TIMEOUT).await,
        bad_as("answer: timed out after 300 ms")
    );
    drop(socket);
    assert_eq!(
        probe(target, &check(DnsType::A), TIMEOUT).await,
        bad_as("answer: port unreachable (ICMP)")
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut query = [0; 512];
        let _some = stream.read(&mut query).await.unwrap();
        stream.write_all(&[0xff, 0xff, 1]).await.unwrap();
    });
    let over_tcp = DnsCheck {
        tcp: true,
        ..check(DnsType::A)
    };
    assert_eq!(
        probe(target, &over_tcp, TIMEOUT).await,
        bad_as("answer: closed by the target before the end")
    );
}

proptest! {
    /// Threat 20: whatever a target answers is understood or refused.
    #[test]
    fn random_and_damaged_answers_are_understood_or_refused(
        junk in proptest::collection::vec(any::<u8>(), 0..600),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        length in 0_usize..200,
    ) {
        let check = check(DnsType::A);
        let (query, _) = query(&check).unwrap();
        let mut answer = reply(&query, ResponseCode::NoError, vec![a(SEVEN); 4]).to_vec().unwrap();
        for (at, byte) in damage {
            *at.get_mut(&mut answer) = byte;
        }
        answer.truncate(length.max(12));
        // With the head of an answer to this query, what follows is looked at.
        let joined = [&answer[..12], &junk].concat();
        for bytes in [&junk, &answer, &joined] {
            match understood(&query, bytes) {
                Ok(answer) => prop_assert!(!matches!(judge(&answer, &check), ProbeVerdict::Void(_))),
                Err(verdict) => prop_assert!(matches!(verdict, ProbeVerdict::Bad(_))),
            }
        }
    }
}
