//! From `fairlead run` to the first forwarded connection: nothing is there before, no map, no pin, no
//! state, no neighbour entry of a backend.
//!
//! The client connects again and again, each time with a new port and little patience, and speaks HTTP to the first
//! that answers. What the daemon did when is read from the time stamps of its log.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::daemon::{Config, Daemon, Health};
use crate::server::Server;
use crate::topology::{Shape, Topology};

/// After this the balancer does not forward.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of one attempt to connect; namespaces of one machine answer sooner.
const ATTEMPT: Duration = Duration::from_millis(4);

/// What the log says at the end of each part of a start, and what the part is.
const PARTS: [(&str, &str); 5] = [
    ("data plane created", "program verified, maps made"),
    ("configuration applied", "configuration taken in"),
    ("attached interface", "maps written, interfaces attached"),
    ("resolved (NTF_EXT_MANAGED)", "neighbours resolved"),
    ("to=Up", "a backend is up"),
];
const FORWARDED: &str = "a connection is forwarded";

/// One moment of a start, in milliseconds since the process was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// What was reached.
    pub what: String,
    /// Over all starts.
    pub median_ms: f64,
    /// The fastest.
    pub min_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Starts a daemon so many times: the moments in their order; the last one is the first connection.
pub fn run(starts: u32, tell: impl Fn(&str)) -> Result<Vec<Moment>> {
    let topology = Topology::build(Shape::default())?;
    let _servers = Server::threads(&topology)?;
    let mut config = Config::lab(&topology);
    for service in &mut config.services {
        // As without a word in the file.
        service.health = Health {
            interval_ms: 1000,
            timeout_ms: 500,
            jitter_ms: 100,
            rise: 2,
            fall: 3,
            ..service.health.clone()
        };
    }
    let target = config.service("web4").target();
    let mut times = vec![Vec::new(); PARTS.len() + 1];
    for number in 1..=starts {
        tell(&format!("start {number} of {starts}"));
        let mut daemon = Daemon::prepare(&topology, config.clone())?;
        let logged = daemon.log().len();
        let (began, at) = (Instant::now(), since_midnight(SystemTime::now())?);
        daemon.spawn()?;
        topology
            .run_in("client", || first_connection(target, began))
            .with_context(|| daemon.log())?;
        let forwarded = began.elapsed();
        daemon.stop()?;
        let log = daemon.log().split_off(logged);
        for ((mark, what), times) in PARTS.iter().zip(&mut times) {
            let moment = logged_at(&log, mark).with_context(|| format!("{what}: {log}"))?;
            times.push((moment - at).rem_euclid(86_400.0) * 1e3);
        }
        if let Some(last) = times.last_mut() {
            last.push(forwarded.as_secs_f64() * 1e3);
        }
        daemon.unload()?;
        topology.flush_neighbours("lb", "eth1")?;
        fs::remove_dir_all(daemon.home().join("state")).context("remove the daemon's state")?;
    }
    let names = PARTS.iter().map(|(_, what)| *what).chain([FORWARDED]);
    Ok(names
        .zip(times)
        .map(|(what, times)| moment(what, times))
        .collect())
}

fn moment(what: &str, mut times: Vec<f64>) -> Moment {
    times.sort_by(f64::total_cmp);
    Moment {
        what: what.to_owned(),
        median_ms: times[times.len() / 2],
        min_ms: times[0],
        max_ms: times[times.len() - 1],
    }
}

/// For people.
pub fn render(moments: &[Moment]) -> String {
    let mut out = "ms since 'fairlead run'                 median      min      max\n".to_owned();
    for moment in moments {
        out.push_str(&format!(
            "{:<36} {:>9.1} {:>8.1} {:>8.1}\n",
            moment.what, moment.median_ms, moment.min_ms, moment.max_ms
        ));
    }
    out
}

/// Returns when a connection has been answered.
fn first_connection(target: SocketAddr, began: Instant) -> Result<()> {
    while began.elapsed() < PATIENCE {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        if socket.connect_timeout(&target.into(), ATTEMPT).is_err() {
            // Refused, or there is no way yet.
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
        bail!("the first connection was answered with {answer:?}");
    }
    bail!("no connection was forwarded within {PATIENCE:?}")
}

/// Seconds of the day, UTC.
fn since_midnight(time: SystemTime) -> Result<f64> {
    let since = time.duration_since(UNIX_EPOCH)?;
    Ok(since.as_secs_f64() % 86_400.0)
}

/// When the first line with this mark was logged, in seconds of the day: `2026-11-21T11:11:52.523141Z`.
fn logged_at(log: &str, mark: &str) -> Option<f64> {
    let line = log.lines().find(|line| line.contains(mark))?;
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_from_the_log() {
        let log = "2026-11-21T00:01:02.500000Z  INFO data plane created\n2026-11-21T11:11:52.595906Z  INFO other\n";
        assert_eq!(logged_at(log, "created"), Some(62.5));
        assert_eq!(logged_at(log, "missing"), None);
        let moment = moment("x", vec![3.0, 1.0, 2.0]);
        assert_eq!(
            (moment.median_ms, moment.min_ms, moment.max_ms),
            (2.0, 1.0, 3.0)
        );
    }
}
