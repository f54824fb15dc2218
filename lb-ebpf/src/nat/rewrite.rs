//! Both ends of a packet change.

use lb_common::{Address, DropReason, backend::device_slot};

use crate::{
    forward::{
        End, address_delta, age_and_patch, change_port, is_ours, patch_transport, put_address,
    },
    frame::Frame,
    parse::{Packet, Transport},
    tables::Tables,
    wire::{L3, Mac, MacWords},
};

/// Where a client's packet comes from: a [`ReturnHop`] in one word.
#[inline(always)]
pub(super) fn hop_of<F: Frame, T: Tables>(frame: &F, tables: &T) -> Result<u64, DropReason> {
    let words = frame.header::<MacWords>(0).ok_or(DropReason::Truncated)?;
    let device = u64::from(device_slot(frame.ingress_ifindex()));
    is_ours(frame, tables, device as u32)?;
    Ok((Mac::source(words).0 | device << 48).to_le())
}

/// Gives both ends of a packet new addresses, and ports where it has a transport header, and the packet one hop less. `transport`: `None` for a
/// later piece of a datagram, whose checksum stands in the first one. A client's port may be 0.
#[inline(always)]
pub(super) fn translate_both<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    source: (Address, [u8; 2]),
    destination: (Address, [u8; 2]),
    transport: Option<Transport>,
) -> Result<(), DropReason> {
    let family = packet.family;
    let delta = address_delta(family, packet.source, source.0).plus(address_delta(
        family,
        packet.destination,
        destination.0,
    ));
    age_and_patch(frame, packet, delta)?;
    put_address(frame, L3, family, End::Source, source.0)?;
    put_address(frame, L3, family, End::Destination, destination.0)?;
    let Some(Transport { at: l4, protocol }) = transport else {
        return Ok(());
    };
    let delta = delta
        .plus(change_port(frame, l4, End::Source, |_| source.1)?)
        .plus(change_port(frame, l4, End::Destination, |_| destination.1)?);
    patch_transport(frame, l4, protocol, delta)
}
