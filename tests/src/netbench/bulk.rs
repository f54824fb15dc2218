//! As many bytes as go through: a client writes, the backend counts and says how many came.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::backend_number;
use crate::server::{NAME_BYTES, signature};
use crate::topology::Topology;

/// The backends' port.
pub const PORT: u16 = 7100;
/// Bytes of one write.
const BLOCK: usize = 128 * 1024;
/// Who hears nothing from the other side for this long gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the proof.
const PROOF: u64 = 3 * BLOCK as u64;

/// A backend's counter: it says its name, reads until the client has closed its half, and answers with the number of
/// bytes (8 bytes, network order). Ended when dropped.
pub struct Server {
    listener: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at backend `b<n>`.
    pub fn start(topology: &Topology, n: u8) -> Result<Self> {
        let name = format!("b{n}");
        let listener = topology.run_in(&name, || -> Result<Socket> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_only_v6(false)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
            socket.listen(128)?;
            Ok(socket)
        });
        let listener = listener.with_context(|| format!("listen on port {PORT} at {name}"))?;
        let accepting: TcpListener = listener.try_clone()?.into();
        let thread = std::thread::Builder::new()
            .name(format!("bulk {name}"))
            .spawn(move || accept(&accepting, &name))
            .context("start a bulk server")?;
        Ok(Self {
            listener: Arc::new(listener),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes who waits in accept(2), with an error.
        drop(self.listener.shutdown(Shutdown::Both));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a bulk server panicked");
        }
    }
}

fn accept(listener: &TcpListener, name: &str) {
    std::thread::scope(|scope| {
        while let Ok((stream, _)) = listener.accept() {
            // The client sees what went wrong: its bytes are not confirmed.
            scope.spawn(move || drop(count(stream, name)));
        }
    });
}

fn count(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut hello = [0; NAME_BYTES];
    crate::server::sign(&mut hello, name);
    stream.write_all(&hello)?;
    let mut block = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut block) {
            Ok(0) => return stream.write_all(&total.to_be_bytes()),
            Ok(length) => total += length as u64,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// When a client stops writing.
#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Bytes(u64),
}

/// Writes until then; the backend's number and the bytes that it confirmed.
fn write(to: SocketAddr, until: Until) -> Result<(u8, u64)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut hello = [0; NAME_BYTES];
    stream.read_exact(&mut hello).context("read the name")?;
    let block = vec![0x5a; BLOCK];
    let mut sent = 0_u64;
    while match until {
        Until::Time(end) => Instant::now() < end,
        Until::Bytes(bytes) => sent < bytes,
    } {
        stream.write_all(&block).context("write")?;
        sent += BLOCK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).context("read the count")?;
    let counted = u64::from_be_bytes(answer);
    ensure!(
        counted == sent,
        "{counted} of {sent} bytes came to {to}: a proxy or a balancer lost some"
    );
    Ok((backend_number(signature(&hello)), counted))
}

/// One connection to each target carries a few blocks to a backend.
pub(super) fn prove(topology: &Topology, targets: &[SocketAddr]) -> Result<()> {
    for target in targets {
        let (backend, _) = topology.run_in("client", || write(*target, Until::Bytes(PROOF)))?;
        ensure!(backend > 0, "{target} is answered by no backend");
    }
    Ok(())
}

/// Bits per second, confirmed by the backends, of this many connections at once to the targets in turn.
pub(super) fn bits_per_second(
    topology: &Topology,
    targets: &[SocketAddr],
    connections: usize,
    time: Duration,
) -> Result<f64> {
    let begin = Instant::now();
    let until = Until::Time(begin + time);
    let counts = std::thread::scope(|scope| -> Result<Vec<u64>> {
        let threads: Vec<_> = targets
            .iter()
            .cycle()
            .take(connections)
            .map(|target| scope.spawn(|| topology.run_in("client", || write(*target, until))))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result.map(|(_, bytes)| bytes),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(counts.iter().sum::<u64>() as f64 * 8.0 / seconds)
}
