//! The ICMP probe on loopback, and the messages as bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Needs CAP_NET_RAW or a group within `net.ipv4.ping_group_range`; says so if neither is there.
#[tokio::test]
async fn host_that_answers_is_good_in_both_families() {
    for address in [V4, V6] {
        let verdict = probe(address, Duration::from_secs(2)).await;
        assert_eq!(verdict, ProbeVerdict::Good, "{address}");
    }
}

/// Whether ping sockets are allowed or not: a raw one knows the MTU too.
#[tokio::test]
async fn a_large_request_is_answered_in_both_families() {
    let size = crate::model::FullSize {
        most: 1500,
        growth: 0,
        backend: 1,
    };
    for address in [V4, V6] {
        let trial = std::sync::Arc::new(Trial::new(size, None, false));
        let peer = Peer {
            trial: Some(trial),
            ..address.into()
        };
        let verdict = probe(peer, Duration::from_secs(2)).await;
        assert_eq!(verdict, ProbeVerdict::Good, "{address}");
        let (domain, protocol) = match address {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        // Only who may open one gets one.
        if let Ok(raw) = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol)) {
            let raw = connected(raw, address).unwrap();
            assert!(mtu(&raw, address).unwrap() >= 1500, "{address}");
        }
    }
}

/// The loopback device answers for all of 127/8 and for ::1 only.
#[tokio::test]
async fn many_at_once_do_not_take_each_others_answers() {
    let probes: Vec<_> = (1..=100)
        .map(|n| {
            let address = IpAddr::from([127, 0, 0, n]);
            tokio::spawn(probe(address, Duration::from_secs(5)))
        })
        .collect();
    for probe in probes {
        assert_eq!(probe.await.unwrap(), ProbeVerdict::Good);
    }
}

#[test]
fn checksum_is_that_of_rfc_1071_and_verifies() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum(&bytes), !0xddf2);
    assert_eq!(checksum(&request(V4, [0xff; 16], 0)), 0);
}

#[test]
fn tokens_differ() {
    let tokens: std::collections::BTreeSet<_> = (0..1000).map(|_| token()).collect();
    assert_eq!(tokens.len(), 1000);
}

/// The answer to a request: its type, and whatever identifier the kernel put in.
fn answer(address: IpAddr, token: [u8; 16]) -> Vec<u8> {
    let mut message = request(address, token, 0);
    message[0] = types(address).1;
    message[4] = 0x77;
    message
}

#[test]
fn only_the_answer_to_this_request_counts() {
    let (mine, other) = ([1; 16], [2; 16]);
    for address in [V4, V6] {
        assert!(is_answer(address, &answer(address, mine), mine));
        assert!(!is_answer(address, &answer(address, other), mine));
        // A raw socket on loopback sees the request too.
        assert!(!is_answer(address, &request(address, mine, 0), mine));
        assert!(!is_answer(address, &answer(address, mine)[..20], mine));
        assert!(!is_answer(address, &[], mine));
    }
    // A raw IPv4 socket: with the IP header, with options or not.
    for words in [5, 8] {
        let mut message = vec![0; words * 4];
        message[0] = 0x40 | words as u8;
        message.extend(answer(V4, mine));
        assert!(is_answer(V4, &message, mine));
    }
}
