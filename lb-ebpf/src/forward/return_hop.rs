//! Where a client's packets come from, which is where replies go.

use lb_common::{DropReason, backend::device_slot};

use crate::{
    frame::Frame,
    tables::{CacheLine, Tables},
    wire::{Mac, MacWords},
};

/// Notes where a client's packets come from. The usual case writes nothing.
#[inline(always)]
pub fn learn_return_hop<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    set: u32,
    way: u32,
) -> Result<(), DropReason> {
    let line: &CacheLine = tables.return_hops(set).ok_or(DropReason::MapInconsistent)?;
    learn_hop(frame, tables, line, way)
}

/// The same in this line.
#[inline(always)]
pub fn learn_hop<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    line: &CacheLine,
    position: u32,
) -> Result<(), DropReason> {
    let words = frame.header::<MacWords>(0).ok_or(DropReason::Truncated)?;
    let device = u64::from(device_slot(frame.ingress_ifindex()));
    let hop = (Mac::source(words).0 | device << 48).to_le();
    if line.word(position) != hop {
        is_ours(frame, tables, device as u32)?;
        tables.set_return_hop(line, position, bytemuck::cast(hop));
    }
    Ok(())
}

/// Another interface may have the slot: replies would leave by it.
#[inline(always)]
pub(crate) fn is_ours<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    device: u32,
) -> Result<(), DropReason> {
    match tables.device(device) {
        Some(known) if known.ifindex == frame.ingress_ifindex() => Ok(()),
        _ => Err(DropReason::NoReturnHop),
    }
}
