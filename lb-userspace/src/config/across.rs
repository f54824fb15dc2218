//! What concerns several services, several backends, or a service and the daemon: duplicates,
//! families, loops, limits. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::Range;

use lb_common::limits;

use super::codes::{self, Code};
use super::notes::{At, Note, Notes};
use super::service::{BackendDraft, PROTOCOLS, ServiceDraft};
use super::{aim, failover, quic, scheduling, sources, value};
use crate::maglev;
use crate::model::{AdminState, Family, Limits, Name, Ports, Prefix, Protocol, family, link};

/// Checks all services against each other, the daemon's interfaces and the limits.
pub(super) fn check(
    drafts: &[ServiceDraft],
    interfaces: &[String],
    limits: &Limits,
    notes: &mut Notes<'_>,
) {
    names(drafts, notes);
    endpoints(drafts, notes);
    let mut vips = Vips::default();
    for at in drafts.iter().filter_map(|d| d.address.as_ref()) {
        vips.first.entry(at.value).or_insert(at);
        vips.lengths.insert(Reverse(at.value.length()));
    }
    for draft in drafts {
        claim(draft, interfaces, notes);
        ring(draft, notes);
        pool(draft, notes);
        sources::check(draft, notes);
        quic::check(draft, notes);
        failover::check(draft, notes);
        scheduling::check(draft, notes);
        aim::check(draft, notes);
        for backend in &draft.backends {
            against_service(draft, backend, notes);
            against_vips(backend, &vips, notes);
        }
    }
    sizes(drafts, limits, notes);
}

/// The addresses of services.
#[derive(Default)]
struct Vips<'a> {
    /// Where each stands first.
    first: BTreeMap<Prefix, &'a At<Prefix>>,
    /// Their lengths, the longest first.
    lengths: BTreeSet<Reverse<u8>>,
}

impl<'a> Vips<'a> {
    /// The longest that an address lies in.
    fn of(&self, address: IpAddr) -> Option<&'a At<Prefix>> {
        let around = |length: &Reverse<u8>| Prefix::around(address, length.0);
        let mut prefixes = self.lengths.iter().filter_map(around);
        prefixes.find_map(|prefix| self.first.get(&prefix).copied())
    }
}

fn duplicate(
    code: &'static Code,
    at: &Range<usize>,
    first: &Range<usize>,
    key: String,
    message: String,
) -> Note {
    Note::new(code, at, &key, message).label(first, "first here")
}

fn names(drafts: &[ServiceDraft], notes: &mut Notes<'_>) {
    let mut services: BTreeMap<&Name, &Range<usize>> = BTreeMap::new();
    for draft in drafts {
        if let Some(name) = &draft.name {
            match services.get(&name.value) {
                Some(first) => {
                    let message = format!("a second service named \"{}\"", name.value);
                    let key = format!("{}name", draft.path);
                    notes.add(duplicate(
                        &codes::DUPLICATE_SERVICE,
                        &name.span,
                        first,
                        key,
                        message,
                    ));
                }
                None => {
                    services.insert(&name.value, &name.span);
                }
            }
        }
        let mut backends: BTreeMap<&Name, &Range<usize>> = BTreeMap::new();
        for backend in &draft.backends {
            let Some(name) = &backend.name else { continue };
            match backends.get(&name.value) {
                Some(first) => {
                    let message =
                        format!("a second backend named \"{}\" in this service", name.value);
                    let key = format!("{}name", backend.path);
                    notes.add(duplicate(
                        &codes::DUPLICATE_BACKEND,
                        &name.span,
                        first,
                        key,
                        message,
                    ));
                }
                None => {
                    backends.insert(&name.value, &name.span);
                }
            }
        }
    }
}

pub(super) fn protocol_word(protocol: Protocol) -> &'static str {
    let found = PROTOCOLS.iter().find(|(_, p)| *p == protocol);
    found.map_or("", |(word, _)| word)
}

fn endpoints(drafts: &[ServiceDraft], notes: &mut Notes<'_>) {
    let mut seen: BTreeMap<(Prefix, Ports, Protocol), &Range<usize>> = BTreeMap::new();
    for draft in drafts {
        let (Some(address), Some(port), Some(protocol)) =
            (&draft.address, &draft.port, &draft.protocol)
        else {
            continue;
        };
        let endpoint = (address.value, port.value, protocol.value);
        match seen.get(&endpoint) {
            Some(first) => {
                let message = format!(
                    "a second service at {} port {} over {}",
                    address.value,
                    port.value,
                    protocol_word(protocol.value)
                );
                let key = format!("{}address", draft.path);
                notes.add(duplicate(
                    &codes::DUPLICATE_VIP,
                    &address.span,
                    first,
                    key,
                    message,
                ));
            }
            None => {
                seen.insert(endpoint, &address.span);
            }
        }
    }
}

fn claim(draft: &ServiceDraft, interfaces: &[String], notes: &mut Notes<'_>) {
    let Some(claim) = &draft.claim else { return };
    if interfaces.is_empty()
        || interfaces.contains(&claim.value)
        || link::is_named_as_vlan_of(&claim.value, interfaces)
    {
        return;
    }
    let message = format!(
        "the address is claimed on {}, which is not one of `interfaces`",
        value::quote_text(&claim.value)
    );
    let key = format!("{}claim", draft.path);
    let note = Note::new(&codes::CLAIM_NOT_ATTACHED, &claim.span, &key, message);
    let near = super::keys::nearest(&claim.value, interfaces.iter().map(String::as_str), |_| {
        false
    });
    let near = near.or(match interfaces {
        [only] => Some(only.as_str()),
        _ => None,
    });
    notes.add(match near {
        Some(near) => note
            .help(format!(
                "did you mean \"{near}\"? otherwise add the interface to `interfaces` in [daemon]"
            ))
            .suggest(format!("\"{near}\"")),
        None => note,
    });
}

fn ring(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let Some(ring) = &draft.ring_size else { return };
    let backends = u32::try_from(draft.backends.len()).unwrap_or(u32::MAX);
    let even = backends.saturating_mul(100);
    let code = if ring.value < backends {
        &codes::RING_TOO_SMALL
    } else if ring.value < even {
        &codes::RING_UNEVEN
    } else {
        return;
    };
    let message = format!("a ring of {} slots for {backends} backends", ring.value);
    let key = format!("{}ring-size", draft.path);
    let note = Note::new(code, &ring.span, &key, message);
    notes.add(match prime_from(even) {
        Some(prime) => note
            .help(format!("leave `ring-size` out, or use {prime} or more"))
            .suggest(prime.to_string()),
        None => note,
    });
}

/// The first prime that is not less than `from`. Gaps between 32-bit primes are below 400.
fn prime_from(from: u32) -> Option<u32> {
    let prime =
        |n: u32| n > 1 && (2..=n.isqrt()).all(|d| n.checked_rem(d).is_some_and(|rest| rest != 0));
    (from..=from.saturating_add(400)).find(|&n| prime(n))
}

fn pool(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let key = format!("{}backend", draft.path);
    let shown = draft.name.as_ref().map_or("this service".to_owned(), |n| {
        format!("service \"{}\"", n.value)
    });
    let backends = draft.backends.as_slice();
    let weightless = |b: &BackendDraft| b.weight.as_ref().is_some_and(|w| w.value == 0);
    let closed =
        |b: &BackendDraft| weightless(b) || b.admin.is_some_and(|a| a != AdminState::Enabled);
    let (code, message) = if backends.is_empty() {
        if draft.has_backends {
            return;
        }
        (&codes::NO_BACKEND, format!("{shown} has no backends"))
    } else if backends.iter().all(weightless) {
        (
            &codes::NO_WEIGHT,
            format!("all backends of {shown} have weight 0"),
        )
    } else if backends.iter().all(closed) {
        (
            &codes::NONE_ENABLED,
            format!("no backend of {shown} may take new flows"),
        )
    } else if backends.len() == 1 {
        (&codes::ONE_BACKEND, format!("{shown} has one backend only"))
    } else {
        return;
    };
    notes.add(Note::new(code, &draft.span, &key, message));
}

fn against_service(draft: &ServiceDraft, backend: &BackendDraft, notes: &mut Notes<'_>) {
    let version = |f: Family| match f {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let forwarding = draft.forwarding.as_ref().map(|at| at.value);
    if let (Some(vip), Some(own)) = (&draft.address, &backend.address)
        && forwarding.is_none_or(|forwarding| !forwarding.is_tunnel())
    {
        let (theirs, ours) = (vip.value.family(), family(own.value));
        if theirs != ours {
            let message = format!(
                "{} is an {} address, and the service's is {}",
                own.value,
                version(ours),
                version(theirs)
            );
            let key = format!("{}address", backend.path);
            let note = Note::new(&codes::MIXED_FAMILIES, &own.span, &key, message);
            let note =
                note.help("only forwarding \"ipip\" and \"gue\" lead from one family to the other");
            notes.add(note.label(&vip.span, "the service's address"));
        }
    }
    if let (Some(forwarding), Some(port), Some(Some(own))) =
        (&draft.forwarding, &draft.port, &backend.port)
        && !forwarding.value.translates()
        && port.value.single().is_some_and(|port| port != own.value)
    {
        let word = super::service::forwarding_word(forwarding.value);
        let message = format!(
            "the backend's port is {}, and the service's {}: {word} cannot change it",
            own.value, port.value
        );
        let key = format!("{}port", backend.path);
        let note = Note::new(&codes::L2DSR_PORT, &own.span, &key, message)
            .suggest(port.value.to_string())
            .label(&forwarding.span, word);
        notes.add(note.label(&port.span, "the service's port"));
    }
    same_endpoint(draft, backend, notes);
}

/// Address and port of a backend, as far as known; port 0: the one that the client chose.
fn endpoint(draft: &ServiceDraft, backend: &BackendDraft) -> Option<(IpAddr, u16)> {
    let address = backend.address.as_ref()?.value;
    let port = match backend.port.as_ref()? {
        Some(own) => own.value.get(),
        None => draft
            .port
            .as_ref()?
            .value
            .single()
            .map_or(0, NonZeroU16::get),
    };
    Some((address, port))
}

fn same_endpoint(draft: &ServiceDraft, backend: &BackendDraft, notes: &mut Notes<'_>) {
    let Some(own) = endpoint(draft, backend) else {
        return;
    };
    let first = draft.endpoints.get(&own);
    let (Some(first), Some(at)) = (first, &backend.address) else {
        return;
    };
    if *first != at.span {
        let message = match own {
            (address, 0) => format!("a second backend at {address} in this service"),
            (address, port) => {
                format!("a second backend at {address} port {port} in this service")
            }
        };
        let key = format!("{}address", backend.path);
        notes.add(duplicate(
            &codes::DUPLICATE_ENDPOINT,
            &at.span,
            first,
            key,
            message,
        ));
    }
}

/// Where each endpoint of a pool stands first.
pub(super) fn first_endpoints(draft: &ServiceDraft) -> BTreeMap<(IpAddr, u16), Range<usize>> {
    let mut first = BTreeMap::new();
    for backend in &draft.backends {
        if let (Some(own), Some(at)) = (endpoint(draft, backend), &backend.address) {
            first.entry(own).or_insert_with(|| at.span.clone());
        }
    }
    first
}

fn against_vips(backend: &BackendDraft, vips: &Vips<'_>, notes: &mut Notes<'_>) {
    let Some(own) = &backend.address else { return };
    if let Some(vip) = vips.of(own.value) {
        let message = match vip.value.is_host() {
            true => format!(
                "{} is the address of a service: packets would loop",
                own.value
            ),
            false => format!(
                "{} is one of the addresses of a service, {}: packets would loop",
                own.value, vip.value
            ),
        };
        let key = format!("{}address", backend.path);
        let note = Note::new(&codes::FORWARDING_LOOP, &own.span, &key, message);
        notes.add(note.label(&vip.span, "the service's address"));
    }
}

fn sizes(drafts: &[ServiceDraft], allowed: &Limits, notes: &mut Notes<'_>) {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let pools = || drafts.iter().map(|d| count(d.backends.len()));
    let backends: u64 = pools().sum();
    let largest = drafts.iter().map(|d| count(d.sources.entries())).max();
    let ranges: u64 = drafts.iter().map(|d| count(d.sources.entries())).sum();
    let ranges = ranges.saturating_add(largest.unwrap_or(0));
    // A service has two rings: one serves while the other is filled.
    let slots: u64 = drafts.iter().map(ring_capacity).fold(0, |sum: u64, ring| {
        sum.saturating_add(ring.saturating_mul(2))
    });
    let table = [
        (
            &limits::SERVICES,
            count(drafts.len()),
            allowed.services,
            "services",
        ),
        (&limits::BACKENDS, backends, allowed.backends, "backends"),
        (
            &limits::RING_SLOTS,
            slots,
            allowed.ring_slots,
            "slots in rings (two rings a service)",
        ),
        (
            &limits::SOURCE_RANGES,
            ranges,
            allowed.source_ranges,
            "ranges of sources (a changed list stands twice for a moment)",
        ),
    ];
    let Some(last) = drafts.last() else { return };
    for (limit, used, allowed, what) in table {
        if used <= u64::from(allowed) {
            continue;
        }
        let message = format!("{used} {what}; `{}` allows {allowed}", limit.name);
        let key = format!("limits.{}", limit.name);
        let note = Note::new(&codes::TOO_MANY, &last.span, &key, message);
        let even = used.next_multiple_of(2);
        notes.add(if used <= limit.max {
            note.help(format!(
                "set `{} = {even}` or more in [limits]; a change needs a restart and new maps",
                limit.name
            ))
        } else {
            note.help(format!(
                "no more than {} are possible: {}",
                limit.max, limit.why
            ))
        });
    }
}

/// Slots that a ring of the service takes; rings begin at even slots.
fn ring_capacity(draft: &ServiceDraft) -> u64 {
    let chosen = || maglev::ring_size(draft.backends.len());
    let size = draft.ring_size.as_ref().map_or_else(chosen, |at| at.value);
    u64::from(size).next_multiple_of(2)
}
