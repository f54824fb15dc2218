//! UDP flows with numbered datagrams, each answered before the next one is sent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::pace::{client_thread, join};
use super::{LATE, backend_number};
use crate::server::{NAME_BYTES, signature};
use crate::topology::Topology;

/// Bytes of a datagram: a place for the name, the flow, the number.
const DATAGRAM: usize = NAME_BYTES + 16;

/// One flow.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Datagrams sent.
    pub sent: u64,
    /// Answers received, each to its own datagram.
    pub answered: u64,
    /// Datagrams that nobody answered in [`LATE`], or whose sending failed, with the reason.
    pub lost: Vec<(Instant, String)>,
    /// Answers by backend; more than one entry: the flow moved.
    pub backends: BTreeMap<u8, u64>,
}

/// Running flows; stopped when dropped.
pub struct Udp {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    targets: Vec<SocketAddr>,
    interval: Duration,
    end: Instant,
    stop: AtomicBool,
    flows: Vec<Mutex<Flow>>,
}

impl Udp {
    /// Starts flows from the client, spread over the targets, for at most `at_most`.
    pub fn start(
        topology: &Topology,
        targets: &[SocketAddr],
        flows: usize,
        interval: Duration,
        at_most: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            targets: targets.to_vec(),
            interval,
            end: Instant::now() + at_most,
            stop: AtomicBool::new(false),
            flows: (0..flows).map(|_| Mutex::default()).collect(),
        });
        let mut udp = Self {
            shared: shared.clone(),
            threads: vec![],
        };
        for index in 0..flows {
            let shared = shared.clone();
            udp.threads
                .push(client_thread(topology, move || shared.work(index))?);
        }
        Ok(udp)
    }

    /// The flows as they are now.
    pub fn flows(&self) -> Vec<Flow> {
        self.shared
            .flows
            .iter()
            .map(|flow| flow.lock().expect("a flow").clone())
            .collect()
    }

    /// Ends them.
    pub fn stop(mut self) -> Vec<Flow> {
        self.shared.stop.store(true, Ordering::Relaxed);
        join(&mut self.threads);
        self.flows()
    }
}

impl Udp {
    /// Waits until the time given at the start has passed.
    pub fn wait(mut self) -> Vec<Flow> {
        join(&mut self.threads);
        self.flows()
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        join(&mut self.threads);
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let Some(flow) = self.flows.get(index) else {
            return;
        };
        let target = self.targets[index % self.targets.len()];
        let socket = open(target).expect("open a UDP socket");
        std::thread::sleep(self.interval * (index % 100) as u32 / 100);
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) || Instant::now() >= self.end {
                return;
            }
            let started = Instant::now();
            let result = ask(&socket, index as u64, number);
            let mut flow = flow.lock().expect("a flow");
            flow.sent += 1;
            match result {
                Ok(backend) => {
                    flow.answered += 1;
                    *flow.backends.entry(backend).or_default() += 1;
                }
                Err(reason) => flow.lost.push((started, reason)),
            }
            drop(flow);
            std::thread::sleep(self.interval.saturating_sub(started.elapsed()));
        }
    }
}

fn open(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.connect(target)?;
    Ok(socket)
}

fn ask(socket: &UdpSocket, flow: u64, number: u64) -> Result<u8, String> {
    let mut datagram = [0; DATAGRAM];
    datagram[NAME_BYTES..NAME_BYTES + 8].copy_from_slice(&flow.to_be_bytes());
    datagram[NAME_BYTES + 8..].copy_from_slice(&number.to_be_bytes());
    let started = Instant::now();
    socket.send(&datagram).map_err(|e| format!("send: {e}"))?;
    loop {
        let left = LATE
            .saturating_sub(started.elapsed())
            .max(Duration::from_millis(1));
        socket
            .set_read_timeout(Some(left))
            .map_err(|e| format!("set a timeout: {e}"))?;
        let mut answer = [0; DATAGRAM + 1];
        let length = socket
            .recv(&mut answer)
            .map_err(|e| format!("receive: {e}"))?;
        // Answers to datagrams that were given up may still come.
        if length == DATAGRAM && answer[NAME_BYTES..length] == datagram[NAME_BYTES..] {
            return Ok(backend_number(signature(&answer)));
        }
    }
}
