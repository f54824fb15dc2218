//! Services with a prefix of addresses, a range of ports or any protocol: which of two that meet takes a packet, what
//! `dnat` cannot do for them, and what is missing. Pure.
//!
//! Of all services that a packet fits, the one with the longest prefix takes it; of these, one with a protocol of its own
//! before one with any; of these, the one with the fewest ports.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::Family;
use lb_common::rule::{MAX_LENGTHS, MAX_RULES};

use super::codes;
use super::notes::{At, Note, Notes};
use super::service::{PROTOCOLS, ServiceDraft};
use crate::model::{Forwarding, Ports, Prefix, Protocol, endpoint};

/// What a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    prefix: Prefix,
    ports: Ports,
    protocol: Protocol,
}

/// The order in which services that a packet fits are asked: the least first.
type Rank = (Reverse<u8>, bool, u32);

impl Taken {
    fn of(draft: &ServiceDraft) -> Option<Self> {
        Some(Self {
            prefix: draft.address.as_ref()?.value,
            ports: draft.port.as_ref()?.value,
            protocol: draft.protocol.as_ref()?.value,
        })
    }

    /// It is more than one address, port and protocol.
    fn is_range(&self) -> bool {
        !self.prefix.is_host() || self.ports.single().is_none() || self.protocol == Protocol::Any
    }

    fn rank(&self) -> Rank {
        (
            Reverse(self.prefix.length()),
            self.protocol == Protocol::Any,
            self.ports.count(),
        )
    }

    /// It is asked before the other one, and takes some packets that the other one would and some that it would not; and the other one takes
    /// some that it does not.
    fn crosses(&self, other: &Self) -> bool {
        let has = |all: Protocol, one: Protocol| all == one || all == Protocol::Any;
        let (wide, narrow) = (other.protocol, self.protocol);
        let shares = other.prefix.covers(&self.prefix)
            && self.ports.overlaps(other.ports)
            && (has(wide, narrow) || has(narrow, wide));
        let lies_within = other.ports.covers(self.ports) && has(wide, narrow);
        let contains =
            self.prefix == other.prefix && self.ports.covers(other.ports) && has(narrow, wide);
        shares && self.rank() < other.rank() && !lies_within && !contains
    }

    /// It takes packets of this protocol; `None` stands for all protocols without ports.
    fn takes(&self, protocol: Option<Protocol>) -> bool {
        match protocol {
            Some(protocol) => self.protocol == protocol || self.protocol == Protocol::Any,
            None => self.protocol == Protocol::Any && self.ports == Ports::ANY,
        }
    }
}

/// Checks all services with ranges.
pub(super) fn check(drafts: &[ServiceDraft], notes: &mut Notes<'_>) {
    for draft in drafts {
        claim(draft, notes);
        dnat(draft, notes);
        check_port(draft, notes);
    }
    let taken: Vec<(&ServiceDraft, Taken)> = drafts
        .iter()
        .filter_map(|draft| Some((draft, Taken::of(draft)?)))
        .collect();
    if counts(&taken, notes) {
        overlaps(&taken, notes);
        covered(&taken, notes);
        crossing(&taken, notes);
    }
}

fn word(protocol: Protocol) -> &'static str {
    let found = PROTOCOLS.iter().find(|(_, p)| *p == protocol);
    found.map_or("", |(word, _)| word)
}

/// `192.0.2.0/24:any/tcp`
fn shown(taken: &Taken) -> String {
    let protocol = word(taken.protocol);
    format!("{}/{protocol}", endpoint(taken.prefix, taken.ports))
}

fn claim(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let (Some(claim), Some(address)) = (&draft.claim, &draft.address) else {
        return;
    };
    if address.value.is_host() {
        return;
    }
    let message = format!("the prefix {} cannot be claimed", address.value);
    let key = format!("{}claim", draft.path);
    let note = Note::new(&codes::CLAIM_PREFIX, &claim.span, &key, message);
    notes.add(note.label(&address.span, "more than one address"));
}

/// A reply must tell which address and port its client has sent to.
fn dnat(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let Some(forwarding) = draft.forwarding.as_ref() else {
        return;
    };
    let is_dnat = forwarding.value == Forwarding::Dnat;
    let mut refuse = |at: std::ops::Range<usize>, key: &str, message: String| {
        let note = Note::new(
            &codes::DNAT_RANGE,
            &at,
            &format!("{}{key}", draft.path),
            message,
        );
        notes.add(note.label(&forwarding.span, "dnat"));
    };
    if let Some(address) = draft
        .address
        .as_ref()
        .filter(|at| is_dnat && !at.value.is_host())
    {
        let message = format!(
            "dnat for the prefix {}: a reply does not tell which of its addresses the client sent to",
            address.value
        );
        refuse(address.span.clone(), "address", message);
    }
    let protocol = draft.protocol.as_ref();
    if let Some(protocol) = protocol.filter(|at| is_dnat && at.value == Protocol::Any) {
        let message =
            "dnat for any protocol: only TCP, UDP and SCTP have ports that tell flows apart"
                .to_owned();
        refuse(protocol.span.clone(), "protocol", message);
    }
    let Some(ports) = &draft.port else { return };
    for backend in &draft.backends {
        let Some(Some(own)) = &backend.port else {
            continue;
        };
        let key = format!("{}port", backend.path);
        if ports.value.single().is_none() {
            let message = format!(
                "the service has more than one port, {}: its backends get packets with the port that the client chose",
                ports.value
            );
            let note = Note::new(&codes::RANGE_BACKEND_PORT, &own.span, &key, message);
            notes.add(note.label(&ports.span, "the service's ports"));
        } else if is_dnat
            && protocol.is_some_and(|at| at.value == Protocol::Sctp)
            && ports.value.single() != Some(own.value)
        {
            let message = format!(
                "the backend's port is {}, and the service's {}: another port needs another CRC32c over the whole SCTP packet",
                own.value, ports.value
            );
            let note = Note::new(&codes::SCTP_PORT, &own.span, &key, message);
            notes.add(note.label(&ports.span, "the service's port"));
        }
    }
}

/// A check needs one port.
fn check_port(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let Some(ports) = &draft.port else { return };
    let health = &draft.health;
    if ports.value.single().is_some() || !health.check.has_port() || health.port.is_some() {
        return;
    }
    if draft.health_port_is_wrong {
        return;
    }
    let message = format!(
        "the service has more than one port, {}, and `health.port` does not say which one is checked",
        ports.value
    );
    let key = format!("{}health.port", draft.path);
    notes.add(Note::new(
        &codes::RANGE_CHECK_PORT,
        &ports.span,
        &key,
        message,
    ));
}

/// A packet looks for so many lengths, and at so many rules. True when it can.
fn counts(taken: &[(&ServiceDraft, Taken)], notes: &mut Notes<'_>) -> bool {
    let mut fine = true;
    let mut rules: BTreeMap<Prefix, u32> = BTreeMap::new();
    let mut lengths: BTreeMap<Family, BTreeSet<u8>> = BTreeMap::new();
    for (draft, taken) in taken.iter().filter(|(_, taken)| taken.is_range()) {
        let prefix = taken.prefix;
        let count = rules.entry(prefix).or_default();
        *count = count.saturating_add(1);
        let of = lengths.entry(prefix.family()).or_default();
        let message = if *count == MAX_RULES.saturating_add(1) {
            format!("more than {MAX_RULES} services with ranges at {prefix}")
        } else if of.insert(prefix.length()) && of.len() == (MAX_LENGTHS as usize).saturating_add(1)
        {
            format!(
                "more than {MAX_LENGTHS} different prefix lengths of one family among services with ranges"
            )
        } else {
            continue;
        };
        fine = false;
        let span = draft.address.as_ref().map_or(&draft.span, |at| &at.span);
        let key = format!("{}address", draft.path);
        notes.add(Note::new(&codes::TOO_MANY_RANGES, span, &key, message));
    }
    fine
}

/// Two services that are as specific and share some packets, not all: which of them takes these cannot be known.
fn overlaps(taken: &[(&ServiceDraft, Taken)], notes: &mut Notes<'_>) {
    let mut ranges: Vec<_> = taken.iter().filter(|(_, t)| t.is_range()).collect();
    let class = |t: &Taken| (t.prefix, t.protocol, t.ports.count());
    ranges.sort_by_key(|(draft, t)| (class(t), t.ports.low(), draft.span.start));
    for pair in ranges.windows(2) {
        let [(first, one), (second, other)] = pair else {
            continue;
        };
        // The same twice is told elsewhere.
        if class(one) != class(other) || one == other || !one.ports.overlaps(other.ports) {
            continue;
        }
        let (Some(at), Some(before)) = (&second.port, &first.port) else {
            continue;
        };
        let message = format!(
            "{} and {} share ports, and neither is more specific",
            shown(one),
            shown(other)
        );
        let key = format!("{}port", second.path);
        let note = Note::new(&codes::OVERLAP, &at.span, &key, message);
        notes.add(note.label(&before.span, "the other one"));
    }
}

/// Services that share packets with a more or less specific one, and neither lies within the other: that may be meant, or not. One is told
/// for each.
fn crossing(taken: &[(&ServiceDraft, Taken)], notes: &mut Notes<'_>) {
    let mut by_address: BTreeMap<IpAddr, Vec<(&ServiceDraft, Taken)>> = BTreeMap::new();
    for (draft, taken) in taken {
        let here = by_address.entry(taken.prefix.address()).or_default();
        here.push((draft, *taken));
    }
    for (draft, own) in taken.iter().filter(|(_, taken)| taken.is_range()) {
        let within = own.prefix.address()..=own.prefix.last();
        let mut before = by_address.range(within).flat_map(|(_, all)| all);
        let Some((first, other)) = before.find(|(_, other)| other.crosses(own)) else {
            continue;
        };
        let message = format!(
            "{} and {} share packets, and neither lies within the other: the first takes them",
            shown(other),
            shown(own)
        );
        let place = |draft: &ServiceDraft| {
            let at = draft.port.as_ref().map(|at| at.span.clone());
            at.unwrap_or_else(|| draft.span.clone())
        };
        let key = format!("{}port", draft.path);
        let note = Note::new(&codes::SHARED_PACKETS, &place(draft), &key, message);
        notes.add(note.label(&place(first), "the first"));
    }
}

/// Services that no packet reaches, because more specific ones take all that they would.
fn covered(taken: &[(&ServiceDraft, Taken)], notes: &mut Notes<'_>) {
    let mut by_address: BTreeMap<IpAddr, Vec<Taken>> = BTreeMap::new();
    for (_, taken) in taken {
        by_address
            .entry(taken.prefix.address())
            .or_default()
            .push(*taken);
    }
    for (draft, own) in taken.iter().filter(|(_, taken)| taken.is_range()) {
        let within = own.prefix.address()..=own.prefix.last();
        let before: Vec<Taken> = by_address
            .range(within)
            .flat_map(|(_, all)| all)
            .filter(|other| other.rank() < own.rank() && own.prefix.covers(&other.prefix))
            .copied()
            .collect();
        if before.is_empty() || !is_covered(own, &before) {
            continue;
        }
        let message = format!(
            "no packet reaches {}: more specific services take all that it would",
            shown(own)
        );
        let span = draft
            .address
            .as_ref()
            .map_or(&draft.span, |at: &At<_>| &at.span);
        let key = format!("{}address", draft.path);
        notes.add(Note::new(&codes::COVERED, span, &key, message));
    }
}

/// `before`: services that are asked first, all within its prefix.
fn is_covered(own: &Taken, before: &[Taken]) -> bool {
    let protocols = [
        Some(Protocol::Tcp),
        Some(Protocol::Udp),
        Some(Protocol::Sctp),
        None,
    ];
    let own_protocols = protocols.into_iter().filter(|p| own.takes(*p));
    own_protocols.into_iter().all(|protocol| {
        let of: Vec<Taken> = before
            .iter()
            .filter(|other| other.takes(protocol) && other.ports.overlaps(own.ports))
            .copied()
            .collect();
        are_ports_covered(own, &of)
    })
}

/// How many addresses a prefix has, and their share of these ports.
fn volume(taken: &Taken) -> u128 {
    addresses(&taken.prefix).saturating_mul(u128::from(taken.ports.count()))
}

fn addresses(prefix: &Prefix) -> u128 {
    let host = 128_u32.saturating_sub(u32::from(prefix.length_of_128()));
    1_u128.checked_shl(host).unwrap_or(u128::MAX)
}

fn are_ports_covered(own: &Taken, of: &[Taken]) -> bool {
    // Nearly always too few, and that is soon seen.
    let all = of.iter().map(volume).fold(0, u128::saturating_add);
    if all < volume(own) {
        return false;
    }
    // Between two of these ports, nothing changes.
    let begins = of.iter().map(|other| other.ports.low());
    let ends = of
        .iter()
        .filter_map(|other| other.ports.high().checked_add(1));
    let inner = |port: &u16| (own.ports.low()..=own.ports.high()).contains(port);
    let mut edges: BTreeSet<u16> = begins.chain(ends).filter(inner).collect();
    edges.insert(own.ports.low());
    edges.iter().all(|port| {
        let here = of
            .iter()
            .filter(|other| (other.ports.low()..=other.ports.high()).contains(port));
        let prefixes: BTreeSet<Prefix> = here.map(|other| other.prefix).collect();
        is_prefix_covered(&own.prefix, &prefixes)
    })
}

/// The prefixes, which lie in this one, make it up together.
fn is_prefix_covered(own: &Prefix, prefixes: &BTreeSet<Prefix>) -> bool {
    let mut sum = 0_u128;
    // By address, then by length: what lies in another one comes behind it.
    let mut last: Option<&Prefix> = None;
    for prefix in prefixes {
        if last.is_some_and(|outer| outer.covers(prefix)) {
            continue;
        }
        sum = sum.saturating_add(addresses(prefix));
        last = Some(prefix);
    }
    sum >= addresses(own)
}
