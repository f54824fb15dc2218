//! What the maps of a case hold, and its packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use bytemuck::Zeroable;
use lb_common::{
    BackendEntry, Device, EndpointKey, EndpointKind, Family, Forwarding, GueVariant, NextHop,
    OuterTtl, Permissions, Protocol, ServiceEntry, Tunnel, nat, tunnel::GUE_PORT,
};
use lb_ebpf::{
    bench::{self, Plan, Shape},
    fixture::{
        packet::{Body, Packet, Sum},
        world::{CLIENT_MAC, Ends, Side, address, our_mac},
    },
    mem::{Endpoint, Geometry, MemTables},
};

use super::{Case, Traffic};

/// Any key does.
const FLOW_KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
/// The port of every service.
const PORT: u16 = 80;
/// What stands for clients with `fullnat`.
const NAT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const NAT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7);
/// TTL of all packets.
const TTL: u8 = 61;

fn at(family: Family, v4: u32, v6: u128, port: u16) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(v4)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(v6)),
    };
    SocketAddr::new(ip, port)
}

/// A service's address: 192.88.0.0/16 and 2001:db8:5::/64.
pub fn vip(family: Family, service: u32) -> SocketAddr {
    let low = service + 1;
    at(
        family,
        0xc058_0000 + low,
        0x2001_0db8_0005 << 80 | u128::from(low),
        PORT,
    )
}

/// A backend's address: 10.128.0.0/9 and fd00:b::/64.
fn backend(family: Family, id: u32) -> SocketAddr {
    let low = id + 1;
    let v6 = 0xfd00_000b << 96 | u128::from(low);
    at(family, 0x0a80_0000 + low, v6, 80)
}

/// A flow's client: 198.18.0.0/16 and 2001:db8:c1::/64.
pub fn client(family: Family, flow: u64) -> SocketAddr {
    let (low, port) = bench::source(flow);
    let v6 = 0x2001_0db8_00c1 << 80 | u128::from(low);
    at(family, 0xc612_0000 + u32::from(low), v6, port)
}

/// Slots of one endpoint generation for each key, as in the daemon's maps.
const SLOTS_PER_KEY: u32 = 8;

/// The maps of a case: each service has a ring of its own and its backends.
pub fn tables(case: &Case, ends: &Ends) -> Result<MemTables> {
    let ring = case.ring;
    let backends = case.services * case.backends;
    let keys = case.services * 2 + backends;
    let geometry = Geometry {
        flow_sets: case.flow_sets(),
        endpoint_slots: (keys * SLOTS_PER_KEY).next_power_of_two().max(64),
        services: case.services,
        ring_slots: (case.services * ring).next_multiple_of(2),
        backends,
        next_hops: backends,
        nat_flows: case.nat_flows(),
    };
    let mut tables = MemTables::new(geometry, FLOW_KEY);
    for (side, mtu) in [(Side::Client, 1500), (Side::Backend, 9000)] {
        tables.write_device(Device::plain(ends.ifindex(side), mtu, our_mac(side)));
    }
    if case.forwarding == Forwarding::Fullnat {
        tables.control.nat_v4 = NAT_V4.octets();
        tables.control.nat_v6 = NAT_V6.octets();
        tables.control.nat_ports = nat::ports(1024, u16::MAX);
    }
    let mut endpoints = Vec::new();
    for index in 0..case.services {
        let base = index * ring;
        let slice = ServiceEntry::slice(base, ring);
        tables.services[index as usize] = service_entry(case, index, slice);
        tables.write_ring(base, &slots(case, index));
        endpoints.extend(service_endpoints(case, index));
    }
    for id in 0..backends {
        tables.backends[id as usize] = backend_entry(case, id);
        tables.next_hops[id as usize] = NextHop {
            destination: mac(id),
            resolved: 1,
            source: our_mac(Side::Client),
            ifindex: ends.client,
            used: 1,
            mtu: 1500,
            ..NextHop::zeroed()
        };
        if case.forwarding == Forwarding::Dnat {
            let key = key(backend(case.family, id), case.protocol);
            endpoints.push(Endpoint {
                key,
                kind: EndpointKind::Backend,
                index: id,
            });
        }
    }
    tables
        .publish_endpoints(&endpoints)
        .ok()
        .context("no seed places the endpoints")?;
    Ok(tables)
}

/// MAC address of a backend.
fn mac(id: u32) -> [u8; 6] {
    let [_, a, b, c] = id.to_be_bytes();
    [2, 0, 0xbe, a, b, c]
}

/// A service's backends over the slots of its ring, without a pattern: what a lookup reads is what counts,
/// not who is there.
fn slots(case: &Case, service: u32) -> Vec<u32> {
    let mix = |slot: u32| (u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    (0..case.ring)
        .map(|slot| service * case.backends + mix(slot) % case.backends)
        .collect()
}

fn key(at: SocketAddr, protocol: Protocol) -> EndpointKey {
    EndpointKey {
        address: address(at),
        port: at.port().to_be_bytes(),
        protocol: protocol as u8,
    }
}

fn service_endpoints(case: &Case, index: u32) -> [Endpoint; 2] {
    let key = key(vip(case.family, index), case.protocol);
    let bare = EndpointKey {
        port: [0, 0],
        protocol: 0,
        ..key
    };
    [
        Endpoint {
            key,
            kind: EndpointKind::Vip,
            index,
        },
        Endpoint {
            key: bare,
            kind: EndpointKind::VipAddress,
            index: 0,
        },
    ]
}

fn service_entry(case: &Case, index: u32, ring: u64) -> ServiceEntry {
    let vip = vip(case.family, index);
    ServiceEntry {
        ring,
        address: address(vip).0,
        port: vip.port().to_be_bytes(),
        protocol: case.protocol as u8,
        forwarding: case.forwarding as u8,
        // A UDP flow that is seen in each pass is never idle.
        idle_epochs: match case.protocol {
            Protocol::Tcp => 0,
            _ => 4,
        },
        family: case.family as u8,
        used: 1,
        ..ServiceEntry::zeroed()
    }
}

fn backend_entry(case: &Case, id: u32) -> BackendEntry {
    let at = backend(case.outer, id);
    BackendEntry {
        address: address(at).0,
        next_hop: id,
        permissions: Permissions::ALL,
        used: 1,
        service: id / case.backends,
        port: at.port().to_be_bytes(),
        forwarding: case.forwarding as u8,
        tunnel: match case.forwarding {
            Forwarding::Ipip => Tunnel::ipip(case.family, case.outer, OuterTtl::DEFAULT),
            Forwarding::Gue => Tunnel::gue(GUE_PORT, GueVariant::Direct, OuterTtl::DEFAULT),
            Forwarding::Dnat | Forwarding::Fullnat | Forwarding::L2dsr => Tunnel::USUAL,
        },
        ..BackendEntry::zeroed()
    }
}

/// The service that a flow belongs to.
pub fn service(case: &Case, flow: u64) -> u32 {
    (flow % u64::from(case.services)) as u32
}

/// A flow's packet, all checksums computed from nothing.
pub fn frame(case: &Case, flow: u64) -> Vec<u8> {
    let shape = case.shape();
    let flags = match case.traffic {
        Traffic::New => "S",
        Traffic::Known | Traffic::NotOurs => "A",
    };
    // Ethernet, IP, transport.
    let headers = match shape {
        Shape::V4Tcp => 14 + 20 + 20,
        Shape::V4Udp => 14 + 20 + 8,
        Shape::V6Tcp => 14 + 40 + 20,
        Shape::V6Udp => 14 + 40 + 8,
    };
    let data = vec![0x5a; shape.bytes() - headers];
    let body = match case.protocol {
        Protocol::Tcp => Body::Tcp {
            flags,
            options: Vec::new(),
            data,
        },
        _ => Body::Udp { data },
    };
    let mut destination = vip(case.family, service(case, flow));
    if case.traffic == Traffic::NotOurs {
        let elsewhere = 0x2001_0db8_ffff << 80 | 1;
        destination = at(case.family, 0xcb00_7101, elsewhere, PORT);
    }
    Packet {
        to: our_mac(Side::Client),
        from: CLIENT_MAC,
        source: client(case.family, flow),
        destination,
        ttl: TTL,
        body,
        sum: Sum::Right,
        class: 0,
        padding: Vec::new(),
    }
    .bytes()
}

/// The driver's plan for a case's packets; nothing is freed.
pub fn plan(case: &Case, packets: u64) -> Plan {
    let services = u64::from(case.services);
    plan_of(case.shape(), &frame(case, 0), case.flows, services, packets)
}

/// The same for packets like this one, which is that of flow 0 to service 0.
pub fn plan_of(shape: Shape, frame: &[u8], flows: u64, services: u64, packets: u64) -> Plan {
    let mut template = [0; bench::V6_BYTES];
    template[..shape.bytes()].copy_from_slice(&frame[..shape.bytes()]);
    let offsets = shape.offsets();
    // What is left of a sum when the words at these offsets, which flow 0 has, are taken out.
    let word = |offset: usize| u16::from_ne_bytes([frame[offset], frame[offset + 1]]);
    let without = |check: usize, stepped: &[usize]| {
        let total = u64::from(!word(check));
        let out: u64 = stepped.iter().map(|offset| u64::from(!word(*offset))).sum();
        total + out
    };
    let addresses = [offsets.source, offsets.destination];
    Plan {
        template: bytemuck::cast(template),
        packets,
        flows,
        services,
        first_service: u64::from(u16::from_be(word(offsets.destination))),
        length: frame.len() as u64,
        ip_sum: offsets
            .ip_check
            .map_or(0, |check| without(check, &addresses)),
        sum: without(
            offsets.check,
            &[offsets.source, offsets.destination, offsets.port],
        ),
        shape: shape as u32,
        ..Plan::zeroed()
    }
}
