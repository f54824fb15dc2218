//! What the maps should hold: [`State`] to [`Image`]. Pure.

mod silence;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::{
    Address, BackendEntry, Control, EndpointKey, EndpointKind, Family, Load, NextHop, Rule,
    endpoint::{MAX_TUNNELS, tunnel_key},
    nat::{self, IdleTable},
    quic,
    sources::{Access, V4_BITS},
};

use crate::dataplane::ranges::rank;
use crate::dataplane::{Controls, EndpointTarget, Image, Ranges, ServiceImage, SourceRange};
use crate::ids::hops::NOWHERE;
use crate::ids::{Ids, ServiceId, backend_port, port_of, reach_of, ring_size};
use crate::maglev::{self, Member};
use crate::model::{
    Backend, BackendKey, Config, DaemonConfig, Forwarding, Name, NatIdle, Prefix, Scheduler,
    Service, Sources, WhenDead,
};
use crate::state::{Dirty, State, Word};
use crate::turns;

use silence::silence;

/// Rings as last filled. A ring is filled again only when its members, weights or size changed.
#[derive(Clone, Debug, Default)]
pub struct Rings {
    by_service: BTreeMap<Name, Filled>,
}

#[derive(Clone, Debug)]
struct Filled {
    members: Vec<(u32, u32)>,
    size: u32,
    scheduler: Scheduler,
    ring: Arc<[u32]>,
}

/// The complete image.
pub fn image(state: &State, rings: &mut Rings) -> Image {
    let config = state.config();
    rings
        .by_service
        .retain(|name, _| config.services.contains_key(name));
    let mut image = Image {
        endpoints: endpoints(config, state.ids()),
        ranges: rules(config, state.ids()),
        devices: state.devices().clone(),
        controls: controls(&config.daemon),
        config_revision: config.revision,
        next_hops: BTreeMap::from([(NOWHERE, nowhere())]),
        ..Image::default()
    };
    for (name, service) in &config.services {
        if let Some(numbers) = state.ids().service(name) {
            let ring = rings.of(state, service);
            image
                .services
                .insert(numbers.index, service_image(state, service, numbers, ring));
        }
    }
    for service in config.services.values() {
        for (key, backend) in service.keyed_backends() {
            let Some(numbers) = state.ids().backend(&key) else {
                continue;
            };
            let Some(word) = state.word_of(service, backend, &key) else {
                continue;
            };
            let entry = BackendEntry {
                address: address(backend.address).0,
                next_hop: word.next_hop,
                permissions: word.permissions,
                used: 1,
                forwarding: service.forwarding as u8,
                reserved: 0,
                service: numbers.service,
                port: backend_port(backend).to_be_bytes(),
                reserved2: [0; 2],
                tunnel: service.tunnel(backend.address),
                load: Load::UNKNOWN,
                reserved3: [0; 2],
            };
            image.backends.insert(numbers.id, entry);
            image.next_hops.extend(state.next_hops(backend.address));
        }
    }
    image
}

/// Some service's new flows are scheduled by how many flows backends have.
pub fn schedules_by_counts(config: &Config) -> bool {
    let mut services = config.services.values();
    services.any(|service| service.scheduler == Scheduler::LeastConnections)
}

/// The weights in effect of backends whose flows are counted for their service's scheduler, by BackendId.
pub fn flow_weights(state: &State) -> BTreeMap<u32, u32> {
    let services = state.config().services.values();
    services
        .filter(|service| service.scheduler == Scheduler::LeastConnections)
        .flat_map(Service::keyed_backends)
        .filter_map(|(key, _)| Some((state.ids().backend(&key)?.id, state.weight(&key))))
        .filter(|(_, weight)| *weight > 0)
        .collect()
}

/// What the operator sets for all packets.
fn controls(daemon: &DaemonConfig) -> Controls {
    let mut controls = Controls {
        echo_per_second: daemon.echo_per_second,
        new_flows_per_second: daemon.new_flows_per_second,
        icmp_errors_per_second: daemon.icmp_errors_per_second,
        resets_per_second: daemon.resets_per_second,
        ..Controls::default()
    };
    for source in &daemon.tunnel_source {
        let spread = source.last_host_bits();
        match source.address() {
            IpAddr::V4(address) => {
                (controls.tunnel_v4, controls.tunnel_v4_spread) = (address.octets(), spread);
            }
            IpAddr::V6(address) => {
                (controls.tunnel_v6, controls.tunnel_v6_spread) = (address.octets(), spread);
            }
        }
    }
    for source in &daemon.nat_source {
        let spread = source.last_host_bits();
        match source.address() {
            IpAddr::V4(address) => {
                (controls.nat_v4, controls.nat_v4_spread) = (address.octets(), spread);
            }
            IpAddr::V6(address) => {
                (controls.nat_v6, controls.nat_v6_spread) = (address.octets(), spread);
            }
        }
        controls.nat_ports = nat::ports(daemon.nat_ports.low(), daemon.nat_ports.high());
    }
    controls.nat_idle = port_times(daemon.nat_idle);
    controls
}

/// For how long ports of `fullnat` are kept, as the data plane counts it.
fn port_times(times: NatIdle) -> IdleTable {
    let seconds = |time: Duration| nat::seconds(time.as_nanos());
    nat::Idle {
        handshake: seconds(times.handshake),
        established: seconds(times.established),
        closing: seconds(times.closing),
        datagrams: seconds(times.datagrams),
        unanswered: seconds(times.unanswered),
    }
    .table()
}

/// What `Control::alive_until` is to be while the daemon lives.
pub fn alive_until(daemon: &DaemonConfig, now: u64) -> u64 {
    let after = u64::try_from(daemon.dead_after.as_nanos()).unwrap_or(u64::MAX);
    let until = now.saturating_add(after);
    match daemon.when_dead {
        WhenDead::Forward => Control::ALWAYS_ALIVE,
        WhenDead::Pass => until & !Control::DROP_WHEN_DEAD,
        WhenDead::Drop => until | Control::DROP_WHEN_DEAD,
    }
}

/// The services whose rings may have changed, by index.
pub fn services(state: &State, dirty: &Dirty, rings: &mut Rings) -> BTreeMap<u32, ServiceImage> {
    let of_backends = dirty.backends.iter().map(|key| &key.service);
    let names: BTreeSet<&Name> = dirty.services.iter().chain(of_backends).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let service = state.config().services.get(name)?;
            let numbers = state.ids().service(name)?;
            let ring = rings.of(state, service);
            Some((numbers.index, service_image(state, service, numbers, ring)))
        })
        .collect()
}

/// The words of the backends that changed, by BackendId.
pub fn words(state: &State, dirty: &Dirty) -> BTreeMap<u32, Word> {
    let whole = dirty
        .services
        .iter()
        .filter_map(|name| state.config().services.get(name))
        .flat_map(|service| service.keyed_backends().map(|(key, _)| key));
    whole
        .chain(dirty.backends.iter().cloned())
        .filter_map(|key| Some((state.ids().backend(&key)?.id, state.word(&key)?)))
        .collect()
}

/// The next hops of some addresses, by index.
pub fn next_hops<'a>(
    state: &State,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> BTreeMap<u32, NextHop> {
    addresses
        .into_iter()
        .flat_map(|address| state.next_hops(*address))
        .collect()
}

/// The rules of a configuration.
pub fn rules(config: &Config, ids: &Ids) -> Ranges {
    let mut ranges = Ranges::new();
    for service in config.services.values() {
        let (Some(numbers), Some(reach)) = (ids.service(&service.name), service.reach()) else {
            continue;
        };
        let prefix = (address(service.address.address()), reach.length);
        ranges.entry(prefix).or_default().push(Rule {
            service: numbers.index,
            low: reach.low,
            high: reach.high,
            protocol: service.protocol as u8,
            last: 0,
            reserved: [0; 6],
        });
    }
    for rules in ranges.values_mut() {
        rules.sort_by_key(rank);
    }
    ranges
}

/// The endpoint table of a configuration.
pub fn endpoints(config: &Config, ids: &Ids) -> BTreeMap<EndpointKey, Vec<EndpointTarget>> {
    let mut endpoints: BTreeMap<EndpointKey, Vec<EndpointTarget>> = BTreeMap::new();
    let mut add = |key, target| {
        let targets = endpoints.entry(key).or_default();
        if !targets.contains(&target) {
            targets.push(target);
        }
    };
    let mut marked = BTreeSet::new();
    let mut tunnels: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
    for service in config.services.values() {
        let Some(numbers) = ids.service(&service.name) else {
            continue;
        };
        let key = |address, port: u16, protocol| EndpointKey {
            address,
            port: port.to_be_bytes(),
            protocol,
        };
        let protocol = service.protocol as u8;
        if service.reach().is_none() {
            let vip = address(service.address.address());
            let kind = match service.is_aside() {
                false => EndpointKind::Vip,
                true => EndpointKind::Aside,
            };
            add(key(vip, port_of(service), protocol), (kind, numbers.index));
            add(key(vip, 0, 0), (EndpointKind::VipAddress, 0));
        }
        let quic = service.quic();
        for (name, backend) in service.keyed_backends() {
            let (Some(id), Some(of)) = (ids.backend(&name), backend.server_id) else {
                continue;
            };
            for config in service.config_ids.iter() {
                let connection_id = of.connection_id(config);
                let key = quic::key(numbers.index, connection_id, quic.of(config << 5));
                add(key, (EndpointKind::ServerId, id.id));
            }
        }
        for (name, backend) in service.keyed_backends() {
            let Some(numbers) = ids.backend(&name) else {
                continue;
            };
            if service.forwarding.is_tunnel() {
                let there = tunnels.entry(backend.address).or_default();
                there.insert(numbers.id);
            }
            if !service.forwarding.translates() {
                continue;
            }
            let key = key(address(backend.address), backend_port(backend), protocol);
            // A reply says by its destination which flow of `fullnat` it belongs to: the endpoint only tells it from what is
            // nobody's, and one does that for all services.
            if service.forwarding != Forwarding::Fullnat || marked.insert(key) {
                add(key, (EndpointKind::Backend, numbers.id));
            }
        }
    }
    for (ip, ids) in tunnels {
        for (place, id) in (0..MAX_TUNNELS).zip(ids) {
            let key = tunnel_key(address(ip), place);
            add(key, (EndpointKind::Tunnel, id));
        }
    }
    for targets in endpoints.values_mut() {
        targets.sort_unstable();
    }
    endpoints
}

impl Rings {
    /// The ring of a service as it is to be now.
    fn of(&mut self, state: &State, service: &Service) -> Arc<[u32]> {
        let takes_new = |key: &BackendKey, backend: &Backend| {
            let word = state.word_of(service, backend, key);
            word.is_some_and(|word| word.permissions.may_take_new())
        };
        let keys: Vec<(BackendKey, u32)> = service
            .keyed_backends()
            .filter(|(key, backend)| takes_new(key, backend))
            .map(|(key, _)| {
                let weight = state.weight(&key);
                (key, weight)
            })
            .collect();
        let ids = keys
            .iter()
            .filter_map(|(key, weight)| Some((state.ids().backend(key)?.id, *weight)));
        let members: Vec<(u32, u32)> = ids.collect();
        let size = ring_size(service);
        if let Some(filled) = self.by_service.get(&service.name)
            && filled.members == members
            && filled.size == size
            && filled.scheduler == service.scheduler
        {
            return Arc::clone(&filled.ring);
        }
        let names: Vec<String> = keys.iter().map(|(key, _)| key.to_string()).collect();
        let named: Vec<Member<'_>> = members
            .iter()
            .zip(&names)
            .map(|(&(id, weight), name)| Member { id, name, weight })
            .collect();
        let ring: Arc<[u32]> = match service.scheduler {
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin => turns::fill(&named, size),
            _ => maglev::fill(&named, size, state.ring_key()),
        }
        .into();
        let filled = Filled {
            members,
            size,
            scheduler: service.scheduler,
            ring: Arc::clone(&ring),
        };
        self.by_service.insert(service.name.clone(), filled);
        ring
    }
}

fn service_image(
    state: &State,
    service: &Service,
    numbers: &ServiceId,
    ring: Arc<[u32]>,
) -> ServiceImage {
    ServiceImage {
        address: address(service.address.address()).0,
        port: port_of(service),
        reach: reach_of(service),
        protocol: service.protocol as u8,
        forwarding: service.forwarding as u8,
        family: service.address.family() as u8,
        idle_epochs: silence(service).0,
        mid_stream: service.mid_stream as u8,
        mss: service.mss,
        times: service.times_handshakes(),
        shares: state.shares_server(&service.name),
        spread: service.spread as u8,
        scheduling: service.scheduling(),
        quic: service.quic(),
        sources: ranges(&service.sources),
        ring_base: numbers.ring_base,
        ring_capacity: numbers.ring_capacity,
        ring,
    }
}

/// The entries of a service's set. Where somebody is allowed, nobody else is, by an entry of no bits.
fn ranges(sources: &Sources) -> Arc<[SourceRange]> {
    let range = |prefix: &Prefix, access| SourceRange {
        address: address(prefix.address()),
        bits: u32::from(prefix.length()).saturating_add(match prefix.family() {
            Family::V4 => V4_BITS,
            Family::V6 => 0,
        }),
        access,
    };
    let others = SourceRange {
        address: Address([0; 16]),
        bits: 0,
        access: Access::Deny,
    };
    let allowed = sources.allow.iter().map(|p| range(p, Access::Allow));
    let denied = sources.deny.iter().map(|p| range(p, Access::Deny));
    let mut ranges: Vec<SourceRange> = allowed.chain(denied).collect();
    let all = ranges.iter().any(|range| range.bits == 0);
    if !sources.allow.is_empty() && !all {
        ranges.push(others);
    }
    ranges.sort_unstable();
    ranges.into()
}

/// The hop of backends whose way is unknown.
const fn nowhere() -> NextHop {
    NextHop {
        destination: [0; 6],
        resolved: 0,
        source: [0; 6],
        reserved: 0,
        ifindex: 0,
        used: 1,
        mtu: 0,
        reserved2: 0,
    }
}

/// An address as the maps hold it.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

/// An address of the maps as people know it.
pub fn ip(address: Address) -> IpAddr {
    let ip = std::net::Ipv6Addr::from(address.0);
    match ip.to_ipv4_mapped() {
        Some(ip) => IpAddr::V4(ip),
        None => IpAddr::V6(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_of_ports_has_its_place() {
        assert_eq!(port_times(NatIdle::USUAL), IdleTable::default());
        let seconds = |n| Duration::from_secs(n << 4);
        let times = NatIdle {
            handshake: seconds(1),
            established: seconds(2),
            closing: seconds(3),
            datagrams: seconds(4),
            unanswered: seconds(5),
        };
        let at = |n: u64| nat::seconds(seconds(n).as_nanos());
        let table = nat::Idle {
            handshake: at(1),
            established: at(2),
            closing: at(3),
            datagrams: at(4),
            unanswered: at(5),
        };
        assert_eq!(port_times(times), table.table());
    }

    #[test]
    fn a_server_may_stand_in_any_number_of_services_of_fullnat_and_four_of_dnat() {
        use crate::fixture::{service, with_services};
        use crate::ids::Sizes;
        use crate::plan::endpoints::place;
        let placed = |fullnat: u8, dnat: u8| {
            let numbered = |number| {
                let vip = format!("s{number} 192.0.2.{number}:80 b1=10.0.0.1:8080");
                let mut service = service(&vip);
                if number <= fullnat {
                    service.forwarding = Forwarding::Fullnat;
                }
                (service.name.clone(), service)
            };
            let config = with_services((1..=fullnat + dnat).map(numbered).collect());
            let mut ids = Ids::default();
            let sizes = Sizes::from(&config.limits);
            ids.assign(&config, sizes, 1).unwrap();
            let found = endpoints(&config, &ids);
            let of_backend = |targets: &&Vec<EndpointTarget>| targets[0].0 == EndpointKind::Backend;
            let count = found.values().find(of_backend).map_or(0, Vec::len);
            place(&found, &Ranges::new(), sizes.endpoint_slots).map(|_| count)
        };
        assert_eq!(placed(1, 0), Ok(1));
        assert_eq!(placed(6, 0), Ok(1));
        assert_eq!(placed(6, 3), Ok(4));
        assert!(placed(0, 4).is_ok() && placed(0, 5).is_err());
    }

    #[test]
    fn a_server_behind_tunnels_stands_once_for_each_service_up_to_a_limit() {
        use crate::fixture::{service, with_services};
        use crate::ids::Sizes;
        use crate::plan::endpoints::place;
        let numbered = |number: u16| {
            let (high, low) = (number / 256, number % 256);
            let vip = format!("s{number} 192.0.{high}.{low}:80 b1=10.0.0.1:80 b2=10.0.0.2:80");
            let mut service = service(&vip);
            service.forwarding = Forwarding::Ipip;
            (service.name.clone(), service)
        };
        for (services, there) in [(0, 0), (1, 1), (3, 3), (300, 256)] {
            let mut config = with_services((1..=services).map(numbered).collect());
            let limits = &mut Arc::make_mut(&mut config).limits;
            (limits.services, limits.backends, limits.ring_slots) = (512, 1024, 1 << 20);
            let mut ids = Ids::default();
            let sizes = Sizes::from(&config.limits);
            ids.assign(&config, sizes, 1).unwrap();
            let found = endpoints(&config, &ids);
            assert!(place(&found, &Ranges::new(), sizes.endpoint_slots).is_ok());
            for server in ["10.0.0.1", "10.0.0.2"] {
                let at = |place| {
                    let key = tunnel_key(address(server.parse().unwrap()), place);
                    found.get(&key).map(|targets| targets[0])
                };
                let ids: Vec<_> = (0..400).map_while(at).collect();
                assert_eq!(ids.len(), there, "{services} services");
                assert!(ids.iter().all(|(kind, _)| *kind == EndpointKind::Tunnel));
                assert!(ids.is_sorted());
            }
        }
    }

    #[test]
    fn addresses_come_back_as_they_were() {
        for text in ["192.0.2.1", "2001:db8::1", "::", "0.0.0.0"] {
            let there: IpAddr = text.parse().unwrap();
            assert_eq!(ip(address(there)), there);
        }
    }
}
