//! What routers say of packets in tunnels.

use lb_common::Family;
use lb_ebpf::fixture::{
    packet::{Body, Packet},
    world::{Side, World, backend_mac, our_mac, tunnel_source},
};

use super::{
    Choices,
    packet::{backend, error, from_client, other, request, router},
};

/// A router between balancer and backend complains of a packet in a tunnel; where the backend has none, another packet.
pub(super) fn complaint(choices: &mut Choices<'_>, world: &World, mtu: u32) -> Packet {
    let (mut server, _, id) = backend(choices, world);
    let spec = world.backends.get(id as usize);
    let Some((spec, service)) = spec.map(|b| (b, &world.services[b.service as usize])) else {
        return other(choices, world);
    };
    if !service.forwarding.is_tunnel() {
        return other(choices, world);
    }
    let outer = match server.is_ipv4() {
        true => Family::V4,
        false => Family::V6,
    };
    let shown = choices.word();
    let mut source = tunnel_source(outer, shown);
    let mut inner = request(choices, world, 1500);
    inner.padding = Vec::new();
    if let Body::Tcp { data, .. } | Body::Udp { data } = &mut inner.body {
        data.resize(choices.below(1500), 7);
    }
    let inner = Box::new(inner);
    let label = 0;
    let body = match spec.tunnel.gue_port() {
        0 => Body::Tunnel { label, inner },
        port => {
            let other = choices.one_in(16);
            server.set_port(port ^ u16::from(other));
            source.set_port(0xc000 | shown as u16);
            let variant = spec.tunnel.variant();
            Body::Gue {
                label,
                variant,
                inner,
            }
        }
    };
    let about = from_client(choices, source, server, body);
    let fits = *choices.of(&[
        0,
        68,
        576,
        600,
        700,
        1006,
        1200,
        1280,
        1300,
        1320,
        1400,
        mtu - 1,
    ]);
    let mut message = error(choices, about);
    if let Body::Error { rest, kind, .. } | Body::Icmp { rest, kind, .. } = &mut message
        && matches!(kind, [3, 4] | [2, 0])
    {
        *rest = fits.to_be_bytes();
    }
    let reporter = router(choices, server.is_ipv4());
    let packet = from_client(choices, reporter, source, message);
    Packet {
        to: our_mac(Side::Backend),
        from: backend_mac(id),
        ..packet
    }
}
