//! The keys of DNS checks. Pure.

use std::net::IpAddr;

use crate::config::codes;
use crate::config::notes::{Note, Notes};
use crate::config::reader::Reader;
use crate::config::value;
use crate::model::{DnsCheck, DnsRcode, DnsType};

/// Words of `query-type`.
pub(in crate::config) const TYPES: &[(&str, DnsType)] = &[
    ("A", DnsType::A),
    ("AAAA", DnsType::Aaaa),
    ("NS", DnsType::Ns),
    ("SOA", DnsType::Soa),
    ("TXT", DnsType::Txt),
    ("SRV", DnsType::Srv),
];

/// Words of `expect-rcode` (the mnemonics of the IANA registry).
pub(in crate::config) const RCODES: &[(&str, DnsRcode)] = &[
    ("NOERROR", DnsRcode::NoError),
    ("FORMERR", DnsRcode::FormErr),
    ("SERVFAIL", DnsRcode::ServFail),
    ("NXDOMAIN", DnsRcode::NxDomain),
    ("NOTIMP", DnsRcode::NotImp),
    ("REFUSED", DnsRcode::Refused),
];

/// Query and expected answer.
pub(super) fn check(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> DnsCheck {
    reader.require("query", notes);
    let kind = reader.word("query-type", TYPES, notes);
    let kind = kind.map_or(DnsType::A, |at| at.value);
    let rcode = reader.word("expect-rcode", RCODES, notes);
    let rcode = rcode.map_or(DnsRcode::NoError, |at| at.value);
    let transport = reader.word("transport", &[("udp", false), ("tcp", true)], notes);
    DnsCheck {
        name: name(reader, notes).unwrap_or_default(),
        kind,
        rcode,
        address: address(reader, kind, rcode, notes),
        tcp: transport.is_some_and(|at| at.value),
    }
}

fn name(reader: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    const KEY: &str = "query";
    let found = reader.string(KEY, notes)?;
    if let Some(fault) = value::dns_fault(found.value).filter(|_| found.value != ".") {
        let message = format!(
            "{} is not a name in the DNS: {fault}",
            value::quote_text(found.value)
        );
        let note = Note::new(&codes::BAD_TEXT, &found.span, &reader.name(KEY), message);
        notes.add(note.help("write a name such as \"www.example.org\", or \".\" for the root"));
    }
    Some(found.value.to_owned())
}

fn address(
    reader: &Reader<'_, '_>,
    kind: DnsType,
    rcode: DnsRcode,
    notes: &mut Notes<'_>,
) -> Option<IpAddr> {
    const KEY: &str = "expect-address";
    let found = reader.string(KEY, notes)?;
    let useless = match (kind, rcode) {
        (_, rcode) if rcode != DnsRcode::NoError => "an answer with such a code has no address",
        (DnsType::A | DnsType::Aaaa, _) => "",
        _ => "such a query is not answered with addresses",
    };
    if !useless.is_empty() {
        let help = "remove it, or ask for \"A\" or \"AAAA\" and expect \"NOERROR\"";
        reader.without_effect(&[KEY], useless, help, notes);
        return None;
    }
    let wanted = match kind {
        DnsType::Aaaa => "IPv6",
        _ => "IPv4",
    };
    let fault = match value::address(found.value) {
        Ok(address) if address.is_ipv6() == (kind == DnsType::Aaaa) => return Some(address),
        Ok(_) => "it is of the other family".to_owned(),
        Err((fault, _)) => fault,
    };
    let message = format!(
        "{} is not an {wanted} address: {fault}",
        value::quote_text(found.value)
    );
    let note = Note::new(&codes::BAD_ADDRESS, &found.span, &reader.name(KEY), message);
    notes.add(note.help("\"A\" is answered with IPv4 addresses, \"AAAA\" with IPv6 ones"));
    None
}
