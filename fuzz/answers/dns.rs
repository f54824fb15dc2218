//! Answers to checks by DNS.

use std::net::Ipv4Addr;

use lb_userspace::health::recorded::{DNS_ID, dns};
use lb_userspace::model::{DnsCheck, DnsRcode, DnsType, ProbeVerdict};

use super::checked;

/// The bytes choose a check and what the target says.
pub(super) fn run(bytes: &[u8]) {
    let Some((choice, answer)) = bytes.split_first() else {
        return;
    };
    let check = DnsCheck {
        name: "a.example".to_owned(),
        kind: match choice & 7 {
            0 | 1 => DnsType::A,
            2 => DnsType::Aaaa,
            3 => DnsType::Ns,
            4 => DnsType::Soa,
            5 => DnsType::Txt,
            _ => DnsType::Srv,
        },
        rcode: match choice & 8 {
            0 => DnsRcode::NoError,
            _ => DnsRcode::NxDomain,
        },
        address: (choice & 16 != 0).then_some(Ipv4Addr::new(192, 0, 2, 7).into()),
        tcp: choice & 32 != 0,
    };
    let verdict = dns(answer, &check);
    checked::verdict(&verdict);
    if verdict == ProbeVerdict::Good {
        // An answer to this query, with the code that is good (RFC 1035 section 4.1.1).
        assert_eq!(answer[..2], DNS_ID.to_be_bytes());
        assert!(answer[2] & 0x80 != 0, "{answer:?}");
        assert_eq!(answer[3] & 15, (choice >> 3 & 1) * 3, "{answer:?}");
    }
}
