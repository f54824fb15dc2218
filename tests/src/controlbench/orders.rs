//! How soon an order is effective in the map that packets read.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::{BackendEntry, header::LAYOUT_VERSION};

use crate::daemon::Daemon;

/// The longest that an order may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest between two orders, so that the write of the state that the last one caused is over.
const REST: Duration = Duration::from_millis(20);

/// Between two looks at the map: who looks without rest takes a CPU from the daemon whose work he waits for. The figures
/// are too large by at most this and the timer's slack, together about 0.1 ms.
const LOOK: Duration = Duration::from_micros(50);

/// A backend's own port tells it from all others here.
pub type Port = u16;

/// The map `backends` of a daemon.
struct Backends(Array<MapData, [u8; size_of::<BackendEntry>()]>);

impl Backends {
    fn of(home: &Path) -> Result<Self> {
        let pin = home.join(format!("bpf/v{LAYOUT_VERSION}/backends"));
        let data = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
        let map = Array::try_from(Map::Array(data)).context("the map 'backends'")?;
        Ok(Self(map))
    }

    fn entry(&self, id: u32) -> Result<BackendEntry> {
        let bytes = self
            .0
            .get(&id, 0)
            .with_context(|| format!("read backends[{id}]"))?;
        Ok(bytemuck::pod_read_unaligned(&bytes))
    }

    /// Looks every [`LOOK`] until a backend takes new flows, or takes none; gives the moment.
    fn wait(&self, id: u32, takes_new: bool) -> Result<Instant> {
        let began = Instant::now();
        while self.entry(id)?.permissions.may_take_new() != takes_new {
            ensure!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
        Ok(Instant::now())
    }

    fn by_place(&self) -> Result<HashMap<([u8; 16], Port), u32>> {
        (0..self.0.len())
            .map(|id| (id, self.entry(id)))
            .filter_map(|(id, entry)| match entry {
                Ok(entry) if entry.used == 1 => {
                    Some(Ok(((entry.address, u16::from_be_bytes(entry.port)), id)))
                }
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            })
            .collect()
    }
}

/// Does something while somebody asks for the status, again as soon as he has it; gives how long he waited each time.
pub fn while_asked<T>(
    daemon: &Daemon,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Duration>)> {
    let done = AtomicBool::new(false);
    let socket = socket(daemon);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            while times.is_empty() || !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                ask(&socket, "GET", "status", "")?;
                times.push(began.elapsed());
            }
            Ok(times)
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        let times = asker.join().expect("asking does not panic");
        Ok((outcome?, times?))
    })
}

fn socket(daemon: &Daemon) -> PathBuf {
    daemon.home().join("run/fairlead.sock")
}

/// Sends a request.
fn send(socket: &Path, method: &str, what: &str, body: &str) -> Result<UnixStream> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let request = format!(
        "{method} /v1/{what} HTTP/1.1\r\nhost: fairlead\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream
        .write_all(request.as_bytes())
        .context("send a request")?;
    Ok(stream)
}

/// Reads the whole answer, which has to be a good one.
fn answer(mut stream: UnixStream) -> Result<()> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer[..answer.len().min(500)])
    );
    Ok(())
}

fn ask(socket: &Path, method: &str, what: &str, body: &str) -> Result<()> {
    answer(send(socket, method, what, body)?)
}

/// Disables, one after the other, the backends of these names and places; gives the time from the first byte of
/// each order to the word that packets read.
pub fn disable(daemon: &Daemon, who: &[(String, [u8; 16], Port)]) -> Result<Vec<Duration>> {
    let backends = Backends::of(daemon.home())?;
    let ids = backends.by_place()?;
    let socket = socket(daemon);
    let find = |name: &str, place| {
        let id = ids.get(&place).copied();
        id.with_context(|| format!("{name} is not in the map"))
    };
    // Neighbours may still be being looked for, and what follows from them be under way.
    for (name, address, port) in who {
        backends
            .wait(find(name, (*address, *port))?, true)
            .with_context(|| format!("{name} takes no new flows"))?;
    }
    ask(&socket, "GET", "status", "")?;
    let mut times = Vec::new();
    for (name, address, port) in who {
        let id = find(name, (*address, *port))?;
        let body = format!("{{\"backend\":\"{name}\",\"state\":\"disabled\",\"force\":true}}");
        let began = Instant::now();
        let stream = send(&socket, "POST", "admin", &body)?;
        let took = backends
            .wait(id, false)
            .with_context(|| format!("the order about {name} is not effective"))?
            .duration_since(began);
        times.push(took);
        answer(stream).with_context(|| name.clone())?;
        std::thread::sleep(REST);
    }
    Ok(times)
}
