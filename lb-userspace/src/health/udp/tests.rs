//! The UDP probe against sockets on loopback.

use super::*;

const TIMEOUT: Duration = Duration::from_millis(300);

fn check(send: &[u8], expect: &[u8]) -> UdpCheck {
    UdpCheck {
        send: send.to_vec(),
        expect: expect.to_vec(),
    }
}

/// A server that answers the first datagram with these bytes, and gives what it got.
async fn answering(
    ip: IpAddr,
    answer: &'static [u8],
) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut request = [0; 2048];
        let (read, from) = socket.recv_from(&mut request).await.unwrap();
        socket.send_to(answer, from).await.unwrap();
        request[..read].to_vec()
    });
    (address, task)
}

#[tokio::test]
async fn answer_that_begins_as_expected_is_good_in_both_families() {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let (target, server) = answering(ip, b"pong 42").await;
        let verdict = probe(target, &check(b"ping\x00", b"pong"), TIMEOUT).await;
        assert_eq!(verdict, ProbeVerdict::Good);
        assert_eq!(server.await.unwrap(), b"ping\x00");
    }
}

#[tokio::test]
async fn any_answer_is_good_where_nothing_is_expected() {
    let (target, _server) = answering(Ipv4Addr::LOCALHOST.into(), b"").await;
    assert_eq!(
        probe(target, &check(b"x", b""), TIMEOUT).await,
        ProbeVerdict::Good
    );
}

#[tokio::test]
async fn other_answer_is_shown() {
    let answer = b"error: \x01 no such thing, and a long story about why that is";
    let (target, _server) = answering(Ipv4Addr::LOCALHOST.into(), answer).await;
    assert_eq!(
        probe(target, &check(b"x", b"ok"), TIMEOUT).await,
        ProbeVerdict::Bad(
            "answer is 'error: \\x01 no such thing, and a lo...', expected it to begin with 'ok'"
                .into()
        )
    );
}

#[tokio::test]
async fn huge_answer_is_read_up_to_the_bound() {
    static HUGE: [u8; 60_000] = [b'a'; 60_000];
    let (target, _server) = answering(Ipv4Addr::LOCALHOST.into(), &HUGE).await;
    let verdict = probe(target, &check(b"x", b"aa"), TIMEOUT).await;
    assert_eq!(verdict, ProbeVerdict::Good);
}

#[tokio::test]
async fn closed_port_is_unreachable_and_silence_times_out() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = socket.local_addr().unwrap();
    assert_eq!(
        probe(target, &check(b"x", b""), TIMEOUT).await,
        ProbeVerdict::Bad("answer: timed out after 300 ms".into())
    );
    drop(socket);
    assert_eq!(
        probe(target, &check(b"x", b""), TIMEOUT).await,
        ProbeVerdict::Bad("answer: port unreachable (ICMP)".into())
    );
}
