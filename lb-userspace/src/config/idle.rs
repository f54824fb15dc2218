//! Reads after how much silence connections are scheduled anew: `tcp-handshake-idle`, `tcp-idle` and `tcp-closing-idle`. Pure.

use std::fmt::{self, Write};
use std::time::Duration;

use super::canonical::text;
use super::notes::Notes;
use super::reader::Reader;
use super::value::duration;
use crate::model::{Protocol, Service, TcpIdle};

const KEYS: [&str; 3] = ["tcp-handshake-idle", "tcp-idle", "tcp-closing-idle"];

/// What an entry of the flow table can tell of its age, in seconds (`IDLE_AFTER` epochs).
pub(super) const MOST: u64 = 137;

/// What a service says; `kind`: its protocol.
pub(super) fn of_service(
    reader: &Reader<'_, '_>,
    kind: Option<Protocol>,
    notes: &mut Notes<'_>,
) -> TcpIdle {
    let why = "the service's protocol is not tcp";
    if matches!(kind, Some(Protocol::Udp | Protocol::Sctp)) {
        reader.without_effect(&["mid-stream"], why, "remove the key", notes);
    }
    // An INIT of SCTP in a service of all protocols would go by them as well.
    if kind.is_some_and(|kind| kind != Protocol::Tcp) {
        reader.without_effect(&KEYS, why, "remove the key", notes);
    }
    let [handshake, established, closing] = KEYS.map(|key| {
        let range = Duration::from_secs(1)..=Duration::from_secs(MOST);
        let at = reader.duration(key, range, notes);
        at.map(|at| at.value)
    });
    match kind {
        Some(Protocol::Tcp) | None => TcpIdle {
            handshake,
            established,
            closing,
        },
        Some(_) => TcpIdle::default(),
    }
}

/// The lines of a service.
pub(super) fn write(out: &mut String, service: &Service) -> fmt::Result {
    let TcpIdle {
        handshake,
        established,
        closing,
    } = service.tcp_idle;
    for (key, value) in KEYS.into_iter().zip([handshake, established, closing]) {
        if let Some(value) = value {
            writeln!(out, "{key} = {}", text(&duration(value)))?;
        }
    }
    Ok(())
}
