//! Reads after how much silence flows are scheduled anew: `udp-idle`, `sctp-idle` and `other-idle`, `tcp-handshake-idle`, `tcp-idle` and
//! `tcp-closing-idle`. Pure.

use std::fmt::{self, Write};
use std::time::Duration;

use super::canonical::text;
use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::value::duration;
use crate::model::{Ports, Protocol, Service, TcpIdle};

const UDP: &str = "udp-idle";
const SCTP: &str = "sctp-idle";
const OTHER: &str = "other-idle";
const TCP: [&str; 3] = ["tcp-handshake-idle", "tcp-idle", "tcp-closing-idle"];

/// What holds without `udp-idle`, in seconds.
const USUAL: u64 = 60;

/// What an entry of the flow table can tell of its age, in seconds (`IDLE_AFTER` epochs).
const MOST: u64 = 137;

/// What a service says.
#[derive(Debug)]
pub(super) struct IdleDraft {
    pub(super) udp: Duration,
    pub(super) sctp: Option<Duration>,
    pub(super) other: Option<Duration>,
    pub(super) tcp: TcpIdle,
}

/// What a service says; `kind`: its protocol.
pub(super) fn of_service(
    reader: &Reader<'_, '_>,
    kind: Option<Protocol>,
    ports: Option<&At<Ports>>,
    notes: &mut Notes<'_>,
) -> IdleDraft {
    without_effect(reader, kind, notes);
    if let (Some(Protocol::Any), Some(ports)) = (kind, ports) {
        without_others(reader, ports, notes);
    }
    let mut time = |key| {
        let range = Duration::from_secs(1)..=Duration::from_secs(MOST);
        let at = reader.duration(key, range, notes);
        at.map(|at| at.value)
    };
    let (udp, sctp, other) = (time(UDP), time(SCTP), time(OTHER));
    let [handshake, established, closing] = TCP.map(time);
    IdleDraft {
        udp: udp.unwrap_or(Duration::from_secs(USUAL)),
        sctp,
        other,
        tcp: TcpIdle {
            handshake,
            established,
            closing,
        },
    }
}

/// Notes keys that speak of protocols which the service does not take.
fn without_effect(reader: &Reader<'_, '_>, kind: Option<Protocol>, notes: &mut Notes<'_>) {
    let mut none = |keys: &[&str], why| reader.without_effect(keys, why, "remove the key", notes);
    if matches!(kind, Some(Protocol::Udp | Protocol::Sctp)) {
        none(&["mid-stream"], "the service's protocol is not tcp");
        none(&TCP, "the service's protocol is not tcp");
    }
    match kind {
        Some(Protocol::Tcp) => none(&[UDP, SCTP, OTHER], "the service's protocol is tcp"),
        Some(Protocol::Udp) => none(&[SCTP, OTHER], "the service's protocol is udp"),
        Some(Protocol::Sctp) => {
            none(&[OTHER], "the service's protocol is sctp");
            // By itself it speaks for SCTP.
            if reader.has(SCTP) {
                none(&[UDP], "`sctp-idle` says how long flows of SCTP are known");
            }
        }
        Some(Protocol::Any) | None => {}
    }
}

/// Warns where a service of any protocol has ports of its own: what has none does not come to it.
fn without_others(reader: &Reader<'_, '_>, ports: &At<Ports>, notes: &mut Notes<'_>) {
    let Some((span, _)) = reader.entry(OTHER).filter(|_| ports.value != Ports::ANY) else {
        return;
    };
    let message = format!(
        "`{OTHER}` has no effect: the service takes port {}, and what is neither TCP, UDP nor SCTP has no ports",
        ports.value
    );
    let note = Note::new(&codes::NO_OTHERS, &span, &reader.name(OTHER), message);
    notes.add(note.label(&ports.span, "not \"any\""));
}

/// The lines of a service.
pub(super) fn write(out: &mut String, service: &Service) -> fmt::Result {
    let speaks = match service.protocol {
        Protocol::Tcp => false,
        Protocol::Sctp => service.sctp_idle.is_none(),
        Protocol::Udp | Protocol::Any => true,
    };
    let TcpIdle {
        handshake,
        established,
        closing,
    } = service.tcp_idle;
    let keys = [UDP, SCTP, OTHER].into_iter().chain(TCP);
    let values = [
        speaks.then_some(service.udp_idle),
        service.sctp_idle,
        service.other_idle,
        handshake,
        established,
        closing,
    ];
    for (key, value) in keys.zip(values) {
        if let Some(value) = value {
            writeln!(out, "{key} = {}", text(&duration(value)))?;
        }
    }
    Ok(())
}
