//! Reads `nat-source` and `nat-ports`, and checks them against the services that need them. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use toml::de::DeValue;

use super::codes;
use super::notes::{Note, Notes};
use super::reader::Reader;
use super::service::ServiceDraft;
use super::tunnel;
use super::value;
use crate::model::{DaemonConfig, Forwarding, Ports, PortsError, Prefix, Protocol};

const KEY: &str = "nat-source";
const PORTS: &str = "nat-ports";

/// Not those that a client of an old protocol could take for trusted.
pub(super) fn default_ports() -> Ports {
    let first = NonZeroU16::new(1024).unwrap_or(NonZeroU16::MIN);
    Ports::range(first, NonZeroU16::MAX).unwrap_or(Ports::ANY)
}

/// The prefixes that could be read, IPv4 first.
pub(super) fn sources(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<Prefix> {
    let what = "an address that stands for clients";
    tunnel::prefixes(reader, KEY, &codes::BAD_NAT_SOURCE, what, notes)
}

/// The ports.
pub(super) fn ports(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Ports {
    let Some(found) = reader.get(PORTS) else {
        return default_ports();
    };
    let DeValue::String(text) = found.get_ref() else {
        reader.wrong_type(PORTS, "a text", found, notes);
        return default_ports();
    };
    let error = match text.parse::<Ports>() {
        Ok(ports) if ports.low() > 0 => return ports,
        Ok(_) => PortsError::Malformed,
        Err(error) => error,
    };
    let message = format!(
        "{} names no ports that can stand for clients",
        value::quote_text(text)
    );
    let note = Note::new(
        &codes::BAD_PORT,
        &found.span(),
        &reader.name(PORTS),
        message,
    );
    notes.add(match error {
        PortsError::Downwards(meant) => note.suggest(format!("\"{meant}\"")),
        PortsError::Malformed => note.suggest(format!("\"{}\"", default_ports())),
    });
    default_ports()
}

/// What is doubtful on a machine with these addresses, by interface, whose own connections take these ports.
pub(super) fn on_host(
    daemon: &DaemonConfig,
    addresses: &[(String, IpAddr)],
    local_ports: Option<(u16, u16)>,
) -> Vec<String> {
    let mut remarks = Vec::new();
    for source in &daemon.nat_source {
        let own = |address: &IpAddr| source.covers(&Prefix::from(*address));
        let here: Vec<_> = addresses.iter().filter(|(_, at)| own(at)).collect();
        if here.is_empty() {
            remarks.push(format!(
                "no interface of this machine has an address of `{KEY}`, {source}: backends' replies must be routed to it"
            ));
        } else if let Some(missing) = missing_here(source, &here) {
            remarks.push(format!(
                "`{KEY}`, {source}, is only partly on this machine: {missing} on no interface, and flows take every address of a prefix; add what is missing, or have it routed here"
            ));
        }
        let Some((first, last)) = local_ports else {
            continue;
        };
        if daemon.nat_ports.low() > last || daemon.nat_ports.high() < first {
            continue;
        }
        for (interface, address) in here {
            let speaks_for_itself = addresses.iter().any(|(name, other)| {
                name == interface
                    && other.is_ipv4() == address.is_ipv4()
                    && !own(other)
                    && !is_link_local(other)
            });
            if !speaks_for_itself {
                remarks.push(format!(
                    "{interface} has no other address than {address} of `{KEY}`, so this machine's own connections, such as checks, come from it, by ports from {first} to {last}, which `{PORTS}`, {}, has too: give it another address, or `{PORTS}` others",
                    daemon.nat_ports
                ));
            }
        }
    }
    remarks
}

/// So many addresses are named.
const NAMED: usize = 4;

/// The addresses of a prefix that are not among these, in words; `None`: they are all here.
fn missing_here(source: &Prefix, here: &[&(String, IpAddr)]) -> Option<String> {
    let here: BTreeSet<IpAddr> = here.iter().map(|(_, address)| *address).collect();
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let address = |bits: u128| match u32::try_from(bits) {
        Ok(v4) if source.address().is_ipv4() => IpAddr::from(Ipv4Addr::from(v4)),
        _ => IpAddr::from(Ipv6Addr::from(bits)),
    };
    let (first, last) = (bits(source.address()), bits(source.last()));
    let missing = (first..=last).map(address).filter(|at| !here.contains(at));
    let named: Vec<String> = missing.take(NAMED).map(|at| at.to_string()).collect();
    let here = u128::try_from(here.len()).unwrap_or(u128::MAX);
    let all = last
        .saturating_sub(first)
        .saturating_add(1)
        .saturating_sub(here);
    let more = all.saturating_sub(NAMED as u128);
    let verb = if all == 1 { "is" } else { "are" };
    match (named.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("{} {verb}", named.join(", "))),
        (false, more) => Some(format!("{} and {more} more {verb}", named.join(", "))),
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Services that need a source have one, nothing else lies within it, and they are such as can be translated.
pub(super) fn check(sources: &[Prefix], drafts: &[ServiceDraft], notes: &mut Notes<'_>) {
    for draft in drafts {
        if draft
            .forwarding
            .as_ref()
            .is_some_and(|at| at.value == Forwarding::Fullnat)
        {
            missing(sources, draft, notes);
            translatable(draft, notes);
        }
        overlaps(sources, draft, notes);
    }
}

fn missing(sources: &[Prefix], draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let (Some(forwarding), Some(address)) = (&draft.forwarding, &draft.address) else {
        return;
    };
    let family = address.value.family();
    if sources.iter().any(|source| source.family() == family) || is_wrong(notes) {
        return;
    }
    let (version, such) = match family {
        crate::model::Family::V4 => ("IPv4", "198.51.100.0/30"),
        crate::model::Family::V6 => ("IPv6", "2001:db8:9::/126"),
    };
    let message = format!(
        "fullnat needs an {version} address that stands for clients, and [daemon] has none"
    );
    let key = format!("{}forwarding", draft.path);
    let note = Note::new(&codes::NO_NAT_SOURCE, &forwarding.span, &key, message);
    let note = note.help(format!(
        "add `{KEY} = [\"{such}\"]` (addresses that backends reach by this machine, and nobody else has) to [daemon]"
    ));
    notes.add(note.label(&address.span, format!("an {version} address")));
}

/// A reply tells its client by ports alone, and each client has one address and port.
fn translatable(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let Some(forwarding) = &draft.forwarding else {
        return;
    };
    let mut refuse = |at: &std::ops::Range<usize>, key: &str, message: String| {
        let key = format!("{}{key}", draft.path);
        let note = Note::new(&codes::FULLNAT_RANGE, at, &key, message);
        notes.add(note.label(&forwarding.span, "fullnat"));
    };
    if let Some(at) = draft.address.as_ref().filter(|at| !at.value.is_host()) {
        let message = format!("fullnat for the prefix {}: it takes one address", at.value);
        refuse(&at.span, "address", message);
    }
    if let Some(at) = draft.port.as_ref().filter(|at| at.value.single().is_none()) {
        let message = format!("fullnat for the ports {}: it takes one port", at.value);
        refuse(&at.span, "port", message);
    }
    if let Some(at) = draft
        .protocol
        .as_ref()
        .filter(|at| !matches!(at.value, Protocol::Tcp | Protocol::Udp))
    {
        let message =
            "fullnat changes ports, and only TCP and UDP have such that can be changed".to_owned();
        refuse(&at.span, "protocol", message);
    }
}

fn overlaps(sources: &[Prefix], draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let vip = draft
        .address
        .iter()
        .map(|at| (at.value, &at.span, &draft.path));
    let backends = draft.backends.iter().filter_map(|backend| {
        let at = backend.address.as_ref()?;
        Some((Prefix::from(at.value), &at.span, &backend.path))
    });
    for (address, span, path) in vip.chain(backends) {
        let meets = |source: &&Prefix| source.covers(&address) || address.covers(source);
        if let Some(source) = sources.iter().find(meets) {
            let message = match source.covers(&address) {
                true => format!("{address} lies within `{KEY}`, {source}"),
                false => format!("`{KEY}`, {source}, lies within {address}"),
            };
            let key = format!("{path}address");
            notes.add(Note::new(&codes::NAT_OVERLAP, span, &key, message));
        }
    }
}

/// A source that could not be read, or whose key is misspelt: it has been noted, and nothing is missing besides.
fn is_wrong(notes: &Notes<'_>) -> bool {
    notes.found.iter().any(|d| {
        let meant = d.suggestion.as_ref().is_some_and(|s| s.replacement == KEY);
        meant || d.key == "daemon.nat-source"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remarks(ports: &str, addresses: &[(&str, &str)]) -> Vec<String> {
        let mut daemon = crate::fixture::with_services(Default::default())
            .daemon
            .clone();
        daemon.nat_source = vec!["198.51.100.8/30".parse().unwrap()];
        daemon.nat_ports = ports.parse().unwrap();
        let of = |(name, address): &(&str, &str)| ((*name).to_owned(), address.parse().unwrap());
        let addresses: Vec<_> = addresses.iter().map(of).collect();
        on_host(&daemon, &addresses, Some((32_768, 60_999)))
    }

    #[test]
    fn a_source_that_is_elsewhere_or_the_hosts_own_is_remarked() {
        let elsewhere = remarks("1024-65535", &[("eth0", "192.0.2.1"), ("eth1", "fe80::1")]);
        assert!(elsewhere[0].contains("must be routed"), "{elsewhere:?}");
        let alone = [
            ("eth0", "192.0.2.1"),
            ("eth1", "198.51.100.8"),
            ("eth1", "198.51.100.9"),
            ("eth1", "198.51.100.10"),
            ("eth1", "198.51.100.11"),
            ("eth1", "fe80::1"),
        ];
        let own = remarks("60000-65535", &alone);
        assert!(
            own[0].contains("eth1") && own[0].contains("198.51.100.8"),
            "{own:?}"
        );
        assert_eq!((elsewhere.len(), own.len()), (1, 4));
        assert_eq!(remarks("1024-32767", &alone), [""; 0]);
        let mut apart = alone.to_vec();
        apart.push(("eth1", "198.51.100.1"));
        assert_eq!(remarks("1024-65535", &apart), [""; 0]);
    }

    #[test]
    fn addresses_of_a_source_that_are_missing_here_are_named() {
        let some = ["198.51.100.8", "198.51.100.9", "198.51.100.11"];
        let there = some.map(|address| ("eth1", address));
        let one = remarks("1024-32767", &there);
        assert!(one[0].contains(": 198.51.100.10 is on no"), "{one:?}");
        let two = remarks("1024-32767", &there[1..]);
        let named = ": 198.51.100.8, 198.51.100.10 are on no";
        assert!(two[0].contains(named), "{two:?}");
        assert_eq!((one.len(), two.len()), (1, 1));
        let of = |source: &str| {
            let at = ("eth1".to_owned(), "2001:db8::3".parse().unwrap());
            missing_here(&source.parse().unwrap(), &[&at])
        };
        let many = of("2001:db8::/96").unwrap();
        assert_eq!(
            many,
            "2001:db8::, 2001:db8::1, 2001:db8::2, 2001:db8::4 and 4294967291 more are"
        );
        assert_eq!(of("2001:db8::3/128"), None);
    }
}
