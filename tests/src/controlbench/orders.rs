//! How soon an order is effective in the map that packets read.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::{BackendEntry, header::LAYOUT_VERSION};

use crate::daemon::Daemon;

/// The longest that an order may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rest between two orders, so that the write of the state that the last one caused is over.
const REST: Duration = Duration::from_millis(20);

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

    /// Looks without rest until a backend takes new flows, or takes none; gives the moment.
    fn wait(&self, id: u32, takes_new: bool) -> Result<Instant> {
        let began = Instant::now();
        while self.entry(id)?.permissions.may_take_new() != takes_new {
            ensure!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}");
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

/// Disables, one after the other, the backends of these names and places; gives the time from the first byte of
/// each order to the word that packets read.
pub fn disable(daemon: &Daemon, who: &[(String, [u8; 16], Port)]) -> Result<Vec<Duration>> {
    let backends = Backends::of(daemon.home())?;
    let ids = backends.by_place()?;
    let socket = daemon.home().join("run/fairlead.sock");
    let mut times = Vec::new();
    for (name, address, port) in who {
        let id = *ids
            .get(&(*address, *port))
            .with_context(|| format!("{name} is not in the map"))?;
        // Its neighbour may still be being looked for.
        backends
            .wait(id, true)
            .with_context(|| format!("{name} takes no new flows"))?;
        let mut stream = UnixStream::connect(&socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        let body = format!("{{\"backend\":\"{name}\",\"state\":\"disabled\"}}");
        let request = format!(
            "POST /v1/admin HTTP/1.1\r\nhost: fairlead\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        stream
            .write_all(request.as_bytes())
            .context("send the order")?;
        let took = backends
            .wait(id, false)
            .with_context(|| format!("the order about {name} is not effective"))?
            .duration_since(began);
        times.push(took);
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .context("read the answer")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
        std::thread::sleep(REST);
    }
    Ok(times)
}
