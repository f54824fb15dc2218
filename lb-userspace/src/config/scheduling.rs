//! Reads `scheduler` and what goes with it, and checks them against each other. Pure.

use std::num::NonZeroU16;
use std::ops::Range;
use std::time::Duration;

use lb_common::{Family, Fields, Forwarding, Protocol, Spread, affinity};

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::ServiceDraft;
use crate::model::{Check, Scheduler, Together};

const SCHEDULER: &str = "scheduler";
const HASH_FIELDS: &str = "hash-fields";
const CLIENT_PREFIX: &str = "client-prefix";
const AFFINITY: &str = "affinity-timeout";

/// Longer would need more bits in each entry.
const LONGEST: Duration = Duration::from_secs(affinity::LONGEST as u64);

/// How many fields are hashed, and which.
pub(super) const FIELDS: &[(u64, Fields)] = &[
    (1, Fields::Client),
    (2, Fields::Vip),
    (3, Fields::Service),
    (5, Fields::All),
];

/// What a service says.
#[derive(Debug)]
pub(super) struct SchedulingDraft {
    scheduler: Option<At<Scheduler>>,
    fields: Option<At<Fields>>,
    prefix: Option<At<u8>>,
    affinity: Option<At<NonZeroU16>>,
    /// The key for it.
    prefix_key: Option<Range<usize>>,
    /// Clients are to stay, if only the time for that were right.
    stays: bool,
}

impl SchedulingDraft {
    pub(super) fn scheduler(&self) -> Scheduler {
        let at = self.scheduler.as_ref();
        at.map_or(Scheduler::Maglev, |at| at.value)
    }

    pub(super) fn together(&self) -> Together {
        Together {
            hash_fields: self.fields.as_ref().map_or(Fields::All, |at| at.value),
            client_prefix: self.prefix.as_ref().map(|at| at.value),
            affinity: self.affinity.as_ref().map(|at| at.value),
        }
    }
}

/// The keys of a service.
pub(super) fn of_service(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> SchedulingDraft {
    let scheduler = reader.word(SCHEDULER, Scheduler::ALL, notes);
    let known = scheduler.is_some() || !reader.has(SCHEDULER);
    let word = scheduler.as_ref().map_or(Scheduler::Maglev, |at| at.value);
    if known && !word.hashes_fields() {
        let why = format!("`{SCHEDULER}` is \"{}\"", word.word());
        let help = "remove the key, or use scheduler \"maglev\"";
        reader.without_effect(&[HASH_FIELDS], &why, help, notes);
    }
    let prefix = reader.integer(CLIENT_PREFIX, 1..=128, notes);
    let affinity = reader.duration(AFFINITY, Duration::from_secs(1)..=LONGEST, notes);
    SchedulingDraft {
        affinity: affinity.and_then(|at| {
            let seconds = at.value.as_millis().div_ceil(1000);
            let value = u16::try_from(seconds).ok().and_then(NonZeroU16::new);
            value.map(|value| At {
                value,
                span: at.span,
            })
        }),
        fields: fields(reader, notes),
        prefix: prefix.and_then(|at| {
            u8::try_from(at.value).ok().map(|value| At {
                value,
                span: at.span,
            })
        }),
        stays: reader.has(AFFINITY),
        prefix_key: reader.entry(CLIENT_PREFIX).map(|(key, _)| key),
        scheduler,
    }
}

fn fields(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<At<Fields>> {
    let at = reader.integer(HASH_FIELDS, 1..=5, notes)?;
    match FIELDS.iter().find(|(number, _)| *number == at.value) {
        Some((_, value)) => Some(At {
            value: *value,
            span: at.span,
        }),
        None => {
            let message = format!("`{HASH_FIELDS}` cannot be {}", at.value);
            let path = reader.name(HASH_FIELDS);
            notes.add(Note::new(&codes::BAD_HASH_FIELDS, &at.span, &path, message));
            None
        }
    }
}

/// Answers to SYNs are measured, as of [`crate::model::Service::times_handshakes`].
fn sees_answers(draft: &ServiceDraft) -> bool {
    let translates = |at: &At<Forwarding>| at.value.translates();
    let is_tcp = |at: &At<Protocol>| at.value == Protocol::Tcp;
    draft.forwarding.as_ref().is_some_and(translates) && draft.protocol.as_ref().is_some_and(is_tcp)
}

/// What the keys of a service say against each other.
pub(super) fn check(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let scheduling = &draft.scheduling;
    let (scheduler, together) = (scheduling.scheduler(), scheduling.together());
    let fields = together.fields(scheduler);
    if let Some(key) = &scheduling.prefix_key
        && fields == Fields::All
        && !scheduling.stays
    {
        let path = format!("{}{CLIENT_PREFIX}", draft.path);
        let message =
            format!("`{CLIENT_PREFIX}` has no effect: flows of a client are not kept together");
        let note = Note::new(&codes::KEY_WITHOUT_EFFECT, key, &path, message);
        let help = format!(
            "remove the key, or use scheduler \"source-hash\", `{HASH_FIELDS}` 1, 2 or 3, or `{AFFINITY}`"
        );
        notes.add(note.help(help));
    }
    if let (Some(prefix), Some(address)) = (&scheduling.prefix, &draft.address)
        && address.value.family() == Family::V4
        && prefix.value > 32
    {
        let path = format!("{}{CLIENT_PREFIX}", draft.path);
        let message = format!("an IPv4 address has no {} bits", prefix.value);
        let note = Note::new(&codes::BAD_CLIENT_PREFIX, &prefix.span, &path, message);
        notes.add(note.label(&address.span, "clients of this address have IPv4"));
    }
    if scheduler == Scheduler::LeastResponseTime
        && draft.health.check == Check::None
        && !sees_answers(draft)
        && let Some(at) = &scheduling.scheduler
    {
        let path = format!("{}{SCHEDULER}", draft.path);
        let message = format!(
            "`{SCHEDULER}` has no effect: without checks, and where answers to SYNs are not seen, no time is measured"
        );
        let note = Note::new(&codes::KEY_WITHOUT_EFFECT, &at.span, &path, message);
        notes.add(
            note.help(
                "use a type of check that takes time, such as \"http\", or protocol \"tcp\" with forwarding \"dnat\" or \"fullnat\", or another scheduler",
            ),
        );
    }
    if scheduler == Scheduler::LeastConnections
        && draft.quic.spread() == Spread::Datagram
        && let Some(at) = &scheduling.scheduler
    {
        let path = format!("{}{SCHEDULER}", draft.path);
        let message = format!(
            "`{SCHEDULER}` has no effect: datagrams that are scheduled one by one are no flows that could be counted"
        );
        let note = Note::new(&codes::KEY_WITHOUT_EFFECT, &at.span, &path, message);
        notes.add(note.help("use udp-spread \"flow\", or another scheduler"));
    }
    if draft.quic.spread() == Spread::Datagram
        && fields != Fields::All
        && let Some(span) = scheduling.cause()
    {
        let path = match scheduling.affinity {
            Some(_) => format!("{}{AFFINITY}", draft.path),
            None => format!("{}{SCHEDULER}", draft.path),
        };
        let message = "datagrams cannot both be scheduled one by one and kept together".to_owned();
        notes.add(Note::new(&codes::SPREAD_TOGETHER, span, &path, message));
    }
}

impl SchedulingDraft {
    /// Why flows are kept together.
    fn cause(&self) -> Option<&Range<usize>> {
        let fields = self.fields.as_ref().map(|at| &at.span);
        let affinity = self.affinity.as_ref().map(|at| &at.span);
        affinity
            .or(fields)
            .or(self.scheduler.as_ref().map(|at| &at.span))
    }
}
