//! A second VIP before the servers of a service, and clients that use one port to both. Chosen after all else, as what is in
//! [`super::around`].

use lb_common::{Forwarding, Permissions, Protocol, Spread, quic::Lengths};
use lb_ebpf::fixture::{
    packet::Body,
    tagging::Tagging,
    world::{BackendSpec, GEOMETRY, ServiceSpec, Side, World},
};

use super::{Choices, packet, sctp, tags, world};
use crate::case::{Arrival, Scene};

/// The second VIP: no other service has it.
const VIP: u8 = 2;
/// A server that no other service has.
const SERVER: u8 = 3;
/// Slots of its ring.
const RING: usize = 4;

/// Changes some cases.
pub(super) fn add(
    choices: &mut Choices<'_>,
    world: &mut World,
    tagging: &Tagging,
    scenes: &mut [Scene],
) {
    if !choices.one_in(4) {
        return;
    }
    let Some(one) = world.services.iter().position(can_have_one) else {
        return;
    };
    let other = world.services.len();
    if other >= GEOMETRY.services as usize {
        return;
    }
    let own: Vec<BackendSpec> = (world.backends.iter())
        .filter(|backend| backend.service as usize == one)
        .copied()
        .collect();
    let mut elsewhere = own.first().copied();
    if let Some(backend) = &mut elsewhere {
        let v4 = backend.address.is_ipv4();
        let host = world::address(v4, world::BACKENDS, SERVER);
        backend.address.set_ip(host);
        backend.permissions = match world.services[one].sources.is_empty() {
            true => Permissions::ALL,
            false => Permissions::ALL.asking(),
        };
        // The second one's as well.
        if world.backends.len() < GEOMETRY.backends as usize {
            let id = world.backends.len() as u32;
            put(&mut world.services[one].ring, id);
            world.backends.push(*backend);
        }
    }
    let first = world.backends.len() as u32;
    for backend in own.into_iter().chain(elsewhere) {
        let here = world.backends.iter();
        let here = here.filter(|other| other.address == backend.address);
        let full = here.count() >= world::SAME_KEY;
        if !full && world.backends.len() < GEOMETRY.backends as usize {
            world.backends.push(BackendSpec {
                service: other as u32,
                ..backend
            });
        }
    }
    let ids: Vec<u32> = (first..world.backends.len() as u32).collect();
    if ids.is_empty() {
        return;
    }
    let mut spec = world.services[one].clone();
    let v4 = spec.vip.is_ipv4();
    spec.vip.set_ip(world::address(v4, world::VIPS, VIP));
    spec.ring = (0..RING).map(|_| *choices.of(&ids)).collect();
    // In some cases nobody has noted it.
    let noted = !choices.one_in(6);
    (spec.shares, world.services[one].shares) = (noted, noted);
    world.services.push(spec);
    for scene in scenes {
        for _ in 0..choices.below(12) {
            let to = *choices.of(&[one, other]);
            scene.packets.push(arrival(choices, world, to, tagging));
        }
    }
}

/// A service with one address and port whose flows can be taken for another's.
fn can_have_one(service: &ServiceSpec) -> bool {
    service.forwarding == Forwarding::Dnat
        && service.reach.is_none()
        && service.spread == Spread::Flow
        && service.quic == Lengths::NONE
}

/// A packet that may begin a flow, or belong to one, or a reply.
fn arrival(choices: &mut Choices<'_>, world: &World, to: usize, tagging: &Tagging) -> Arrival {
    let service = &world.services[to];
    let (ingress, packet) = match choices.one_in(4) {
        true => (Side::Backend, packet::reply(choices, world)),
        false => {
            let source = world::client(choices, service.vip.is_ipv4());
            let data = vec![choices.byte(); 4];
            let body = match service.protocol {
                Protocol::Tcp => Body::Tcp {
                    flags: choices.of::<&str>(&["S", "S", "S", "A", "FA", "R"]),
                    options: Vec::new(),
                    data: Vec::new(),
                },
                Protocol::Sctp => sctp::sctp(choices, source.port(), service.vip.port(), &data),
                Protocol::Udp | Protocol::Any => Body::Udp { data },
            };
            let packet = packet::from_client(choices, source, service.vip, body);
            (Side::Client, packet)
        }
    };
    let frame = tags::tag(choices, tagging, ingress, packet.bytes());
    Arrival { ingress, frame }
}

/// Gives a backend a slot of a ring that has room for so many.
fn put(ring: &mut Vec<u32>, id: u32) {
    if ring.len() < world::RING {
        ring.push(id);
    }
}
