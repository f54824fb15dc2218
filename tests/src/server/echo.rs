//! TCP and UDP echo.

use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{MESSAGE_BYTES, sign};

/// Echoes whole messages on every connection until its other end closes.
pub(super) async fn tcp(listener: TcpListener, name: Rc<str>) {
    loop {
        // A failed accept concerns one connection, or a lack of descriptors that will pass.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            continue;
        };
        tokio::task::spawn_local(connection(stream, name.clone()));
    }
}

async fn connection(mut stream: TcpStream, name: Rc<str>) {
    let _ = stream.set_nodelay(true);
    let mut message = [0; MESSAGE_BYTES];
    // An error or the end: the client sees it and counts it.
    while stream.read_exact(&mut message).await.is_ok() {
        sign(&mut message, &name);
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

/// Echoes datagrams.
pub(super) async fn udp(socket: UdpSocket, name: Rc<str>) {
    let mut datagram = vec![0; 65_536];
    loop {
        // Errors are ICMP answers to earlier datagrams.
        if let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            sign(&mut datagram[..length], &name);
            let _ = socket.send_to(&datagram[..length], from).await;
        }
    }
}
