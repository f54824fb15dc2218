//! Services that one server stands behind at the same address and port, in a way in which it knows clients by their own addresses: it
//! cannot tell one client's connections to the two apart if they come from one port. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use lb_common::quic::Lengths;

use super::{Config, Forwarding, Name, Protocol, Service};

/// Where a server is asked; no port: the one that the client chose.
type Place = (IpAddr, Protocol, Option<NonZeroU16>);

/// Who stands at a place: the first one, and whether there is another.
type Found<'c> = (&'c Name, bool);

fn add<'c, K: Ord>(all: &mut BTreeMap<K, Found<'c>>, key: K, name: &'c Name) {
    let (first, several) = all.entry(key).or_insert((name, false));
    *several |= *first != name;
}

impl Service {
    /// Its flows can be kept apart from another's. Packets of QUIC may name their server themselves.
    fn can_clash(&self) -> bool {
        self.forwarding == Forwarding::Dnat && self.quic() == Lengths::NONE
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let all = self.backends.values();
        all.map(|backend| (backend.address, self.protocol, backend.port))
    }
}

impl Config {
    /// The services that share a server with another one.
    pub fn services_that_share(&self) -> BTreeSet<Name> {
        let services = || self.services.values().filter(|service| service.can_clash());
        let (mut exact, mut any) = (BTreeMap::new(), BTreeMap::new());
        // A server that gets the port that the client chose may meet whoever stands there at one.
        let mut open = BTreeSet::new();
        for service in services() {
            for place in service.places() {
                let (address, protocol, port) = place;
                add(&mut exact, place, &service.name);
                add(&mut any, (address, protocol), &service.name);
                if port.is_none() {
                    open.insert((address, protocol));
                }
            }
        }
        let several = |place: &Place| {
            let at = (place.0, place.1);
            exact.get(place).is_some_and(|(_, several)| *several)
                || open.contains(&at) && any.get(&at).is_some_and(|(_, several)| *several)
        };
        let all = services().filter(|service| service.places().any(|place| several(&place)));
        all.map(|service| service.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// A service for each of these: its name, and what else is said of it.
    fn sharing(services: &[(&str, Forwarding, Protocol, &str)]) -> Vec<String> {
        let with = |(name, forwarding, protocol, place): &(&str, Forwarding, Protocol, &str)| {
            let (address, port) = place.split_once(' ').unwrap();
            let line = format!("{name} 192.0.2.1:80 b={address}:80*1");
            let mut service = fixture::service(&line);
            (service.forwarding, service.protocol) = (*forwarding, *protocol);
            for backend in service.backends.values_mut() {
                backend.port = port.parse().ok();
            }
            (service.name.clone(), service)
        };
        let config = fixture::with_services(services.iter().map(with).collect());
        let found = config.services_that_share();
        found.iter().map(Name::to_string).collect()
    }

    const DNAT: Forwarding = Forwarding::Dnat;
    const TCP: Protocol = Protocol::Tcp;
    const HERE: &str = "10.0.0.1 8080";

    #[test]
    fn a_server_at_one_address_and_port_is_shared() {
        let one = ("a", DNAT, TCP, HERE);
        let two = ("b", DNAT, TCP, HERE);
        assert_eq!(sharing(&[one]), [""; 0]);
        assert_eq!(sharing(&[one, two]), ["a", "b"]);
        assert_eq!(
            sharing(&[one, two, ("c", DNAT, TCP, "10.0.0.2 8080")]),
            ["a", "b"]
        );
        assert_eq!(sharing(&[one, ("c", DNAT, TCP, "10.0.0.1 8081")]), [""; 0]);
        assert_eq!(sharing(&[one, ("c", DNAT, Protocol::Udp, HERE)]), [""; 0]);
        for way in [Forwarding::L2dsr, Forwarding::Ipip, Forwarding::Fullnat] {
            assert_eq!(sharing(&[one, ("c", way, TCP, HERE)]), [""; 0]);
        }
    }

    #[test]
    fn a_server_that_gets_the_clients_port_meets_all_at_its_address() {
        let one = ("a", DNAT, TCP, HERE);
        let any = ("b", DNAT, TCP, "10.0.0.1 -");
        assert_eq!(sharing(&[any]), [""; 0]);
        assert_eq!(sharing(&[one, any]), ["a", "b"]);
        assert_eq!(
            sharing(&[one, any, ("c", DNAT, Protocol::Udp, HERE)]),
            ["a", "b"]
        );
    }
}
