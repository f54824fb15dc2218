//! What the maps hold, as plain values.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{
    Address, Control, DropReason, Fields, FlowHash, FlowKey, FlowRank, Forwarding, HashKey, Load,
    MidStream, Nanos, Permissions, Reach, Scheduling, Spread, Tunnel, hash::FlowTuple,
    quic::Lengths, sources::Access,
};
use lb_ebpf::fixture::{
    tagging::Tagging,
    world::{Change, FLOW_KEY, ServerId, Side, World, backend_mac, our_mac},
};

use super::{
    flow::Tuple,
    link::{Link, Links},
    packet::Mac,
    path::Path,
};

/// A service.
pub(super) struct Service {
    /// With port 0, and the first address of a prefix, where it has a reach.
    pub(super) vip: SocketAddr,
    pub(super) reach: Option<Reach>,
    pub(super) protocol: u8,
    pub(super) forwarding: Option<Forwarding>,
    pub(super) idle_epochs: u64,
    pub(super) ring: Vec<u32>,
    pub(super) mid_stream: MidStream,
    pub(super) mss: u16,
    /// How long its backends take to answer SYNs is measured.
    pub(super) times: bool,
    /// New flows are kept apart from those of other services to the same server.
    pub(super) shares: bool,
    pub(super) spread: Spread,
    pub(super) scheduling: Scheduling,
    pub(super) quic: Lengths,
    sources: Vec<(IpAddr, u32, Access)>,
}

impl Service {
    /// Epochs of silence after which flows of a kind begin anew: datagrams, connections in their handshake, established and
    /// closing ones, SCTP, and what is neither UDP, TCP nor SCTP. 0: never.
    fn silence(&self, kind: u32) -> u64 {
        self.idle_epochs / 16_u64.pow(kind) % 16
    }

    /// The same for a packet of a protocol that may begin a flow anew which has this rank; `None`: it may not.
    pub(super) fn silent_for(&self, protocol: u8, opens: bool, rank: FlowRank) -> Option<u64> {
        let own_or_usual = |own| match self.silence(own) {
            0 => self.silence(0),
            own => own,
        };
        let epochs = match (protocol, opens) {
            (6, true) => self.silence(match rank {
                FlowRank::Opening => 1,
                rank if rank.is_closing() => 3,
                _ => 2,
            }),
            // An INIT of SCTP, or TCP in the middle of a connection.
            (_, true) | (6, false) => 0,
            (17, false) => self.silence(0),
            (132, false) => own_or_usual(4),
            _ => own_or_usual(5),
        };
        (epochs != 0).then_some(epochs)
    }
}

/// A backend.
#[derive(Clone, Copy)]
pub(super) struct Backend {
    /// With port 0 where it gets packets with the port that the client chose.
    pub(super) address: SocketAddr,
    pub(super) service: usize,
    pub(super) permissions: Permissions,
    pub(super) forwarding: Option<Forwarding>,
    pub(super) tunnel: Tunnel,
    pub(super) next_hop: usize,
    /// Its flows when they were counted, and what each weighs.
    pub(super) counted: Option<(u32, u32)>,
    pub(super) used: bool,
    server_id: Option<ServerId>,
    /// The service whose connection ids name it.
    named_in: usize,
    /// Its packets are looked for by (address, port, protocol): only where they are translated.
    replies: Option<u8>,
    /// It is looked for by its address: only where packets went into a tunnel from the beginning.
    pub(super) tunnelled: bool,
    /// What routers said of the path to it.
    pub(super) path: Option<Path>,
}

/// A next hop.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    pub(super) mac: Mac,
    side: Side,
    resolved: bool,
    /// Bytes that fit on the way there.
    mtu: u32,
}

impl Hop {
    pub(super) fn our_mac(&self) -> Mac {
        our_mac(self.side)
    }

    pub(super) fn link(&self) -> Link {
        Link::Of(self.side)
    }
}

/// All maps but flows and counters.
pub(super) struct Maps {
    pub(super) services: Vec<Service>,
    pub(super) backends: Vec<Backend>,
    pub(super) alive_until: Nanos,
    /// Of every next hop of which nothing else is said.
    mtu: u32,
    /// The endpoints have been written anew.
    pub(super) republished: bool,
    /// CPUs that new flows spread over.
    pub(super) flow_cpus: u32,
    pub(super) links: Links,
    hops: Vec<Hop>,
    key: FlowKey,
}

impl Maps {
    pub(super) fn new(world: &World, mtu: u32, tagging: Tagging) -> Self {
        let services = world.services.iter().map(|spec| Service {
            vip: spec.vip,
            reach: spec.reach,
            protocol: spec.protocol as u8,
            forwarding: Some(spec.forwarding),
            idle_epochs: spec.idle_epochs.into(),
            ring: spec.ring.clone(),
            mid_stream: spec.mid_stream,
            mss: spec.mss,
            times: spec.times,
            shares: spec.shares,
            spread: spec.spread,
            scheduling: spec.scheduling,
            quic: spec.quic,
            sources: spec.sources.clone(),
        });
        let backends = world.backends.iter().enumerate().map(|(id, spec)| {
            let service = &world.services[spec.service as usize];
            let translated = service.forwarding.translates();
            Backend {
                address: spec.address,
                service: spec.service as usize,
                permissions: spec.permissions,
                forwarding: Some(service.forwarding),
                tunnel: spec.tunnel,
                next_hop: id,
                counted: None,
                used: true,
                server_id: spec.server_id,
                named_in: spec.service as usize,
                replies: translated.then_some(service.protocol as u8),
                tunnelled: service.forwarding.is_tunnel(),
                path: None,
            }
        });
        let hops = world.backends.iter().zip(0..).map(|(spec, id)| Hop {
            mac: backend_mac(id),
            side: spec.side,
            resolved: true,
            mtu,
        });
        Self {
            services: services.collect(),
            backends: backends.collect(),
            alive_until: world.alive_until.unwrap_or(Control::ALWAYS_ALIVE),
            mtu,
            republished: false,
            flow_cpus: 1,
            hops: hops.collect(),
            links: Links::new(tagging, mtu),
            key: HashKey(FLOW_KEY).expand(),
        }
    }

    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Permissions(id, permissions) => {
                self.backends[*id as usize].permissions = *permissions;
            }
            Change::Ring(service, ring) => self.services[*service as usize].ring.clone_from(ring),
            Change::Retire(id) => {
                let backend = &mut self.backends[*id as usize];
                backend.used = false;
                backend.permissions = Permissions::NONE;
            }
            Change::Reassign(id, service) => {
                self.backends[*id as usize].service = *service as usize;
            }
            Change::Unresolved(hop) => self.hops[*hop as usize].resolved = false,
            Change::Neighbour(hop, mac) => self.hops[*hop as usize].mac = *mac,
            Change::Mtu(hop, mtu) => self.hops[*hop as usize].mtu = *mtu,
            // Where they stand makes no difference.
            Change::Republish => self.republished = true,
            Change::NextHop(id, hop) => self.backends[*id as usize].next_hop = *hop as usize,
            Change::NoDevice(side) => self.links.lose(*side),
            Change::Sources(service, _, sources) => {
                self.services[*service as usize].sources.clone_from(sources);
            }
            // Of `nat`, which is told itself.
            Change::NatPorts(_) | Change::NatIdle(_) => {}
            Change::Forwarding(service, number) => {
                let forwarding = Forwarding::from_u8(*number);
                let service = *service as usize;
                self.services[service].forwarding = forwarding;
                let backends = self.backends.iter_mut();
                for backend in backends.filter(|backend| backend.service == service) {
                    backend.forwarding = forwarding;
                }
            }
            Change::Load(id, Load(word), cpus) => {
                let (flows, cost) = (*word as u32, (word >> 32) as u32);
                self.backends[*id as usize].counted = (cost != 0).then_some((flows, cost));
                self.flow_cpus = (*cpus).max(1);
            }
            Change::Unused(_) => unimplemented_by_design(change),
        }
    }

    /// The backend that a server id of a service names, if it may keep flows.
    pub(super) fn named(&self, service: usize, server_id: &[u8]) -> Option<usize> {
        self.backends.iter().position(|backend| {
            let same = |id: ServerId| id.starts_with(server_id);
            backend.used
                && backend.service == service
                && backend.named_in == service
                && backend.permissions.may_keep()
                && backend.server_id.is_some_and(same)
        })
    }

    /// The backends that may have sent a packet to be translated, by id; those with a port of their own first.
    pub(super) fn senders(
        &self,
        address: SocketAddr,
        protocol: u8,
    ) -> impl Iterator<Item = (usize, &Backend)> {
        let at = move |address| {
            let all = self.backends.iter().enumerate();
            all.filter(move |(_, backend)| {
                backend.used && backend.replies == Some(protocol) && backend.address == address
            })
        };
        at(address).chain(at(SocketAddr::new(address.ip(), 0)))
    }

    /// The next hop, if a packet can go there.
    pub(super) fn hop(&self, index: usize) -> Result<&Hop, DropReason> {
        let hop = self.hops.get(index).ok_or(DropReason::MapInconsistent)?;
        match hop.resolved {
            true => Ok(hop),
            false => Err(DropReason::NextHopUnresolved),
        }
    }

    /// Bytes that fit on the way to a next hop, whether a packet can go there or not.
    pub(super) fn mtu(&self, index: usize) -> u32 {
        self.hops.get(index).map_or(self.mtu, |hop| hop.mtu)
    }

    /// The longest prefix that holds the client says no.
    pub(super) fn denies(&self, service: usize, client: IpAddr) -> bool {
        let sources = self.services[service].sources.iter();
        // Of the same prefix twice, the last counts.
        let longest = sources
            .filter(|(prefix, bits, _)| starts_alike(*prefix, client, *bits))
            .max_by_key(|(_, bits, _)| *bits);
        matches!(longest, Some((_, _, Access::Deny)))
    }

    pub(super) fn hash(&self, tuple: &Tuple) -> FlowHash {
        let address = |address: IpAddr| match address {
            IpAddr::V4(a) => Address::v4(a.octets()),
            IpAddr::V6(a) => Address::v6(a.octets()),
        };
        self.hash_of(&FlowTuple {
            client: address(tuple.client.ip()),
            vip: address(tuple.vip.ip()),
            client_port: tuple.client.port().to_be_bytes(),
            vip_port: tuple.vip.port().to_be_bytes(),
            protocol: tuple.protocol,
        })
    }

    /// Which of 256 groups of networks a sender is in, for what is limited so.
    pub(super) fn group_of(&self, limit: Limit, sender: IpAddr) -> u64 {
        let kind = match limit {
            Limit::IcmpError => 2,
            Limit::TooBig => 3,
            _ => panic!("senders have no share of {limit:?}"),
        };
        let network = match sender {
            IpAddr::V4(a) => Address::v4([a.octets()[0], a.octets()[1], a.octets()[2], 0]),
            IpAddr::V6(a) => {
                let mut octets = [0; 16];
                octets[..7].copy_from_slice(&a.octets()[..7]);
                Address::v6(octets)
            }
        };
        let hash = self.hash_of(&FlowTuple {
            client: network,
            vip: Address::v6([0; 16]),
            client_port: [kind, 0],
            vip_port: [0, 0],
            protocol: 0,
        });
        hash.0 % 256
    }

    /// The hash that a flow is scheduled by: its own, or that of the fields that its service keeps together.
    pub(super) fn group(&self, service: usize, tuple: &Tuple) -> FlowHash {
        let Scheduling {
            fields,
            client_bits,
            ..
        } = self.services[service].scheduling;
        let (client, vip) = (tuple.client, tuple.vip);
        let bits = match (client_bits, client.ip()) {
            (0, IpAddr::V4(_)) => 32,
            (0, IpAddr::V6(_)) => 128,
            (bits, IpAddr::V4(_)) => u32::from(bits).saturating_sub(96),
            (bits, IpAddr::V6(_)) => u32::from(bits),
        };
        let nobody: IpAddr = match client {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let prefix = SocketAddr::new(first_bits(client.ip(), bits), 0);
        let (vip, protocol) = match fields {
            Fields::All => return self.hash(tuple),
            Fields::Client => (SocketAddr::new(nobody, 0), 0),
            Fields::Vip => (SocketAddr::new(vip.ip(), 0), 0),
            Fields::Service => (vip, tuple.protocol),
        };
        self.hash(&Tuple {
            client: prefix,
            vip,
            protocol,
        })
    }

    /// The documented hash, under the key of the maps.
    pub(super) fn hash_of(&self, tuple: &FlowTuple) -> FlowHash {
        tuple.hash(&self.key)
    }

    /// What of a hash may be shown.
    pub(super) fn shown(&self, hash: FlowHash) -> u64 {
        hash.shown(&self.key)
    }
}

/// The maps never hold an endpoint of a service that is not in use; what the data plane makes of it is a fixture's.
fn unimplemented_by_design(change: &Change) {
    panic!("the oracle knows no {change:?}");
}

/// The first address with the same first bits.
fn first_bits(address: IpAddr, bits: u32) -> IpAddr {
    let keep = |byte: usize| {
        let left = bits.saturating_sub(8 * byte as u32).min(8);
        !(0xff_u16 >> left) as u8
    };
    match address {
        IpAddr::V4(a) => {
            let mut bytes = a.octets();
            (0..4).for_each(|n| bytes[n] &= keep(n));
            bytes.into()
        }
        IpAddr::V6(a) => {
            let mut bytes = a.octets();
            (0..16).for_each(|n| bytes[n] &= keep(n));
            bytes.into()
        }
    }
}

/// True when two addresses of a family have the same first bits.
pub(super) fn starts_alike(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    let differ = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => return false,
    };
    differ >= bits
}

/// What is limited per second.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Echo,
    NewFlow,
    IcmpError,
    TooBig,
    Reset,
    Path,
}

/// Allowances: how many in which second.
pub(super) struct Limits {
    most: [u64; 6],
    spent: [(u64, u64); 6],
    /// What networks of senders have had: by their group.
    senders: BTreeMap<u64, (u64, u64)>,
}

impl Limits {
    pub(super) fn new(world: &World) -> Self {
        let any = |limit: Option<u32>| limit.unwrap_or(u32::MAX).into();
        Self {
            most: [
                world.echo_per_second.into(),
                any(world.new_flows_per_second),
                any(world.icmp_errors_per_second),
                any(world.icmp_errors_per_second),
                any(world.resets_per_second),
                any(world.icmp_errors_per_second),
            ],
            spent: [(0, 0); 6],
            senders: BTreeMap::new(),
        }
    }

    /// The same where a network of senders has a share of an eighth. `group`: of 256, by hash.
    pub(super) fn admit_from(&mut self, limit: Limit, group: u64, at: Nanos) -> bool {
        let (second, count) = self.senders.entry(group).or_default();
        if *second != at >> 30 {
            (*second, *count) = (at >> 30, 0);
        }
        if *count >= self.most[limit as usize].div_ceil(8) {
            return false;
        }
        if !self.admit(limit, at) {
            return false;
        }
        if let Some((_, count)) = self.senders.get_mut(&group) {
            *count += 1;
        }
        true
    }

    /// Takes one, if there is one left. A second is 2^30 ns.
    pub(super) fn admit(&mut self, limit: Limit, at: Nanos) -> bool {
        let (second, count) = &mut self.spent[limit as usize];
        if *second != at >> 30 {
            (*second, *count) = (at >> 30, 0);
        }
        *count += 1;
        *count <= self.most[limit as usize]
    }
}
