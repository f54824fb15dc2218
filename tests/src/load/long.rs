//! Long connections: a message every 100 ms, each answer compared, always by the same backend.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::pace::{client_thread, join};
use super::{LATE, short};
use crate::topology::Topology;

/// Time between two messages.
const INTERVAL: Duration = Duration::from_millis(100);

/// One connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client's side; unset when it could not be made.
    pub local: Option<SocketAddr>,
    /// When it was begun.
    pub started: Instant,
    /// `n` of the backend `b<n>`; 0 until the first answer.
    pub backend: u8,
    /// Messages answered rightly.
    pub messages: u64,
    /// When and why it failed. None: it lives, or was ended by the load.
    pub failed: Option<(Instant, String)>,
}

/// Running connections; closed when dropped.
pub struct Long {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    targets: Vec<SocketAddr>,
    end: Instant,
    stop: AtomicBool,
    /// For each thread its connections: the last one lives, those before have failed.
    connections: Vec<Mutex<Vec<Connection>>>,
}

impl Long {
    /// Starts connections from the client, spread over the targets. One that fails is made anew
    /// after 100 ms, and the failed one stays in the report. All end after `at_most`.
    pub fn start(
        topology: &Topology,
        targets: &[SocketAddr],
        connections: usize,
        at_most: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            targets: targets.to_vec(),
            end: Instant::now() + at_most,
            stop: AtomicBool::new(false),
            connections: (0..connections).map(|_| Mutex::default()).collect(),
        });
        let mut long = Self {
            shared: shared.clone(),
            threads: vec![],
        };
        for index in 0..connections {
            let shared = shared.clone();
            long.threads
                .push(client_thread(topology, move || shared.work(index))?);
        }
        Ok(long)
    }

    /// Waits until every connection has had an answer.
    pub fn wait_until_established(&self, at_most: Duration) -> Result<()> {
        let deadline = Instant::now() + at_most;
        loop {
            let report = self.connections();
            let established = report
                .iter()
                .filter(|c| c.failed.is_none() && c.messages > 0);
            let established = established.count();
            if established == self.shared.connections.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let reason = report.iter().find_map(|c| c.failed.clone());
                bail!(
                    "{established} of {} long connections established after {at_most:?}; first \
                     failure: {reason:?}",
                    self.shared.connections.len()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All connections as they are now, failed ones included.
    pub fn connections(&self) -> Vec<Connection> {
        let lists = self.shared.connections.iter();
        lists
            .flat_map(|list| list.lock().expect("a list of connections").clone())
            .collect()
    }

    /// Living connections by backend.
    pub fn living(&self) -> BTreeMap<u8, usize> {
        let mut counts = BTreeMap::new();
        for connection in self.connections().iter().filter(|c| c.failed.is_none()) {
            *counts.entry(connection.backend).or_default() += 1;
        }
        counts
    }

    /// Closes all connections.
    pub fn stop(mut self) -> Vec<Connection> {
        self.shared.stop.store(true, Ordering::Relaxed);
        join(&mut self.threads);
        self.connections()
    }
}

impl Long {
    /// Waits until the time given at the start has passed.
    pub fn wait(mut self) -> Vec<Connection> {
        join(&mut self.threads);
        self.connections()
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        join(&mut self.threads);
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let Some(list) = self.connections.get(index) else {
            return;
        };
        let target = self.targets[index % self.targets.len()];
        // Spread over the interval.
        self.rest(INTERVAL * (index % 100) as u32 / 100);
        while !self.over() {
            let started = Instant::now();
            let stream = TcpStream::connect_timeout(&target, LATE);
            let local = stream.as_ref().ok().and_then(|s| s.local_addr().ok());
            list.lock()
                .expect("a list of connections")
                .push(Connection {
                    local,
                    started,
                    backend: 0,
                    messages: 0,
                    failed: None,
                });
            let failed = match stream {
                Ok(stream) => self.talk(stream, list, index as u64),
                Err(e) => Err(format!("connect: {e}")),
            };
            if let Err(reason) = failed {
                update(list, |c| c.failed = Some((Instant::now(), reason)));
                self.rest(INTERVAL);
            }
        }
    }

    fn talk(
        &self,
        mut stream: TcpStream,
        list: &Mutex<Vec<Connection>>,
        index: u64,
    ) -> Result<(), String> {
        let mut backend = 0;
        stream
            .set_nodelay(true)
            .map_err(|e| format!("set nodelay: {e}"))?;
        for number in 0.. {
            let started = Instant::now();
            let answered = short::echo(&mut stream, started + LATE, index << 32 | number)?;
            if started.elapsed() > LATE {
                return Err(format!("message {number} was answered too late"));
            }
            if backend != 0 && backend != answered {
                return Err(format!("answered by b{backend}, then by b{answered}"));
            }
            backend = answered;
            update(list, |c| {
                c.backend = backend;
                c.messages = number + 1;
            });
            if self.over() {
                break;
            }
            self.rest(INTERVAL.saturating_sub(started.elapsed()));
        }
        Ok(())
    }

    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.end
    }

    fn rest(&self, time: Duration) {
        if !self.over() {
            std::thread::sleep(time);
        }
    }
}

fn update(list: &Mutex<Vec<Connection>>, change: impl FnOnce(&mut Connection)) {
    if let Some(last) = list.lock().expect("a list of connections").last_mut() {
        change(last);
    }
}
