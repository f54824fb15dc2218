//! The TCP probe against real sockets on loopback.

use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::TcpListener;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn listening_target_is_good_in_both_families() {
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let verdict = probe(
            listener.local_addr().unwrap(),
            TIMEOUT,
            &mut Hearing::default(),
        )
        .await;
        assert_eq!(verdict, ProbeVerdict::Good);
    }
}

#[tokio::test]
async fn closed_port_is_refused() {
    // Bound but not listening: nobody else can take the port meanwhile.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    assert_eq!(
        probe(
            socket.local_addr().unwrap(),
            TIMEOUT,
            &mut Hearing::default()
        )
        .await,
        ProbeVerdict::Bad("connect: refused".into())
    );
}

/// A listener whose accept queue is full, and what fills it.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = timeout_at(deadline(TIMEOUT), TcpStream::connect(address)).await {
        held.push(stream.unwrap());
        assert!(held.len() < 100, "the accept queue takes everything");
    }
    (listener, held)
}

#[tokio::test]
async fn full_accept_queue_times_out() {
    let (listener, _held) = full().await;
    let began = Instant::now();
    assert_eq!(
        probe(
            listener.local_addr().unwrap(),
            TIMEOUT,
            &mut Hearing::default()
        )
        .await,
        ProbeVerdict::Bad("connect: timed out after 200 ms".into())
    );
    assert!(began.elapsed() < TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn target_sees_a_reset_so_that_no_time_wait_is_left() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(
        probe(address, TIMEOUT, &mut Hearing::default()).await,
        ProbeVerdict::Good
    );
    let (stream, _) = listener.accept().await.unwrap();
    stream.readable().await.unwrap();
    let error = stream.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
}

#[tokio::test]
async fn an_agent_is_heard_until_its_line_ends_and_silence_is_good_and_says_nothing() {
    for (says, heard) in [
        ("75% up\nmore", Some("75% up")),
        // Perhaps the first half of it.
        ("30%", None),
        ("", None),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let speaking = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, says.as_bytes())
                .await
                .unwrap();
            // Not closed before the end of the check.
            let _reset = stream.read(&mut [0; 1]).await;
        });
        let mut hearing = Hearing::to(Some(AgentSource::Line));
        assert_eq!(
            probe(address, TIMEOUT, &mut hearing).await,
            ProbeVerdict::Good
        );
        let said = hearing.said();
        assert_eq!(said, heard.map(|heard| Some(heard.to_owned())));
        speaking.await.unwrap();
    }
}
