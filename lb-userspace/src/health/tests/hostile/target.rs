//! A server that attacks whoever connects: [`Hostile`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

use super::cases::{Attack, Case};
use crate::health::tls::fixture::Authority;
use crate::model::Check;

/// Written at a time when it goes on without end.
const BLOCK: usize = 16 * 1024;

pub(super) struct Hostile {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
    sent: Arc<AtomicU64>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hostile {
    /// Waits for one client.
    pub(super) async fn start(case: &Case, ca: &Authority) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let (attack, check, count) = (case.attack.clone(), case.check.clone(), sent.clone());
        if let Attack::Datagrams(answer, times) = attack {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = socket.local_addr().unwrap();
            let task = tokio::spawn(async move {
                let mut query = [0; 2048];
                let (read, from) = socket.recv_from(&mut query).await.unwrap();
                let answer = answer(&query[..read]);
                for _ in 0..times {
                    // A prober that has seen enough is gone; nobody keeps what it does not read.
                    let _gone = socket.send_to(&answer, from).await;
                }
            });
            return Self {
                address,
                task,
                sent,
            };
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = case
            .tls
            .then(|| ca.server(&[super::cases::NAME], 90, &[], false));
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            // A client that has seen enough closes: as wanted.
            let _closed = match acceptor {
                None => strike(&mut stream, &check, attack, &count).await,
                Some(acceptor) => {
                    let mut stream = acceptor.accept(stream).await.unwrap();
                    strike(&mut stream, &check, attack, &count).await
                }
            };
        });
        Self {
            address,
            task,
            sent,
        }
    }

    /// Waits until it noticed that its client is gone; what it could send.
    pub(super) async fn ended(mut self) -> u64 {
        let ended = tokio::time::timeout(super::FOREVER, &mut self.task).await;
        ended.expect("the client is still there").unwrap();
        self.sent.load(SeqCst)
    }
}

async fn strike(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    check: &Check,
    attack: Attack,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    let query = match check {
        Check::Tcp | Check::Tls(_) => Vec::new(),
        Check::Http2(..) | Check::Grpc(..) => request_of_http2(stream).await?,
        _ => {
            let mut query = vec![0; 2048];
            let read = stream.read(&mut query).await?;
            query.truncate(read);
            query
        }
    };
    match attack {
        Attack::Once(bytes) => stream.write_all(&bytes).await?,
        Attack::Answer(answer) => stream.write_all(&answer(&query)).await?,
        Attack::Flood(first, again) => {
            stream.write_all(&first).await?;
            let block = again.repeat(BLOCK.div_ceil(again.len()));
            loop {
                stream.write_all(&block).await?;
                sent.fetch_add(block.len() as u64, SeqCst);
            }
        }
        Attack::Drip(first, again) => {
            stream.write_all(&first).await?;
            for byte in again.iter().cycle() {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Attack::Datagrams(..) => unreachable!("not over a stream"),
    }
    stream.flush().await?;
    // It stays until the client goes.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Reads the preface (RFC 9113 section 3.4) and frames until the request is there.
async fn request_of_http2(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] == super::bytes::HEADERS {
            return Ok(payload);
        }
    }
}
