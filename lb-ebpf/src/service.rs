//! Whose packet is it? Bounded lookups in the live generation of `endpoints`, and of `rules` where it has some.

use lb_common::{
    Address, BackendEntry, Control, DropReason, EndpointKey, EndpointKind, Forwarding, Protocol,
    ServiceEntry, endpoint::MAX_PROBES,
};

use crate::{
    ranges,
    tables::{BackendState, PackedKey, Tables, load, load_state},
};

/// A service and its index.
#[derive(Clone, Copy)]
pub struct Service<'t> {
    /// Index into `services`.
    pub index: u32,
    /// Its entry.
    pub entry: &'t ServiceEntry,
}

/// A backend and its BackendId.
#[derive(Clone, Copy)]
pub struct Backend<'t> {
    /// Index into `backends`.
    pub id: u32,
    /// Its entry.
    pub entry: &'t BackendEntry,
    /// The part of the entry that changes, read once.
    pub state: BackendState,
}

impl Backend<'_> {
    /// Its answers come back through us.
    #[inline(always)]
    pub const fn answers_through_us(&self) -> bool {
        matches!(Forwarding::from_u8(self.entry.forwarding), Some(way) if way.translates())
    }
}

/// The live generation and its seed, as `Control::live`: read once, so that what one packet asks, one generation
/// answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live(pub u64);

impl Live {
    /// As it is now.
    #[inline(always)]
    pub fn of(control: &Control) -> Self {
        Self(load(&control.live))
    }

    /// 0 or 1.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 as u32 & 1
    }

    /// True when there are rules: [`lb_common::header::RANGES`].
    #[inline(always)]
    pub const fn has_ranges(self) -> bool {
        (self.0 as i64) < 0
    }
}

/// Where a key's slots begin, and in which generation.
#[derive(Clone, Copy)]
pub struct Probe {
    base: u32,
    home: u32,
    mask: u32,
}

impl Probe {
    /// The slots of a key.
    #[inline(always)]
    pub fn new(control: &Control, live: Live, key: &EndpointKey) -> Self {
        let mask = control.endpoint_mask;
        let base = mask.wrapping_add(1).wrapping_mul(live.generation());
        let seed = live.0 >> 1;
        Self {
            base,
            home: key.home(seed, mask),
            mask,
        }
    }

    /// Index of the slot at a distance from home; it wraps within the generation.
    #[inline(always)]
    pub const fn index(self, distance: u32) -> u32 {
        self.base
            .wrapping_add(self.home.wrapping_add(distance) & self.mask)
    }
}

/// The key of a bare VIP address.
#[inline(always)]
const fn address_key(address: Address) -> EndpointKey {
    EndpointKey {
        address,
        port: [0, 0],
        protocol: 0,
    }
}

/// No endpoint: what [`endpoint`] gives then.
pub const NOWHERE: u32 = u32::MAX;

/// What the first slot that holds the key with this kind leads to, or [`NOWHERE`]. An empty slot ends the
/// search. `live`: a [`Live`].
#[inline(always)]
pub fn endpoint<T: Tables>(tables: &T, key: PackedKey, kind: u32, live: u64) -> u32 {
    let Some(control) = tables.control() else {
        return NOWHERE;
    };
    let (key, _) = key.unpack();
    let probe = Probe::new(control, Live(live), &key);
    let mut distance = 0;
    while distance < MAX_PROBES {
        let Some(slot) = tables.endpoint(probe.index(distance)) else {
            return NOWHERE;
        };
        if slot.kind == 0 {
            return NOWHERE;
        }
        if u32::from(slot.kind) == kind && slot.matches(&key) {
            return slot.index;
        }
        distance = distance.wrapping_add(1);
    }
    NOWHERE
}

/// The index of the service at a key, or [`NOWHERE`]. Looks at the key's home slot itself and goes on with a call
/// only when another key stands there. Services with ranges are not among them.
#[inline(always)]
pub fn vip<T: Tables>(tables: &T, control: &Control, live: Live, key: &EndpointKey) -> u32 {
    let Some(slot) = tables.endpoint(Probe::new(control, live, key).index(0)) else {
        return NOWHERE;
    };
    if slot.holds(key, EndpointKind::Vip) {
        return slot.index;
    }
    if slot.kind == 0 {
        return NOWHERE;
    }
    tables.find_endpoint(
        PackedKey::new(key, [0, 0]),
        EndpointKind::Vip as u32,
        live.0,
    )
}

/// False when no backend has this key, by its home slot alone; where there are ranges, by that of the key
/// without port too.
#[inline(always)]
pub fn may_be_backend<T: Tables>(
    tables: &T,
    control: &Control,
    live: Live,
    key: &EndpointKey,
) -> bool {
    let taken = |key: &EndpointKey| {
        let slot = tables.endpoint(Probe::new(control, live, key).index(0));
        slot.is_some_and(|slot| slot.kind != 0)
    };
    taken(key) || live.has_ranges() && taken(&any_port(key))
}

/// The key of a backend that keeps the port that the client chose.
#[inline(always)]
pub const fn any_port(key: &EndpointKey) -> EndpointKey {
    EndpointKey {
        port: [0, 0],
        ..*key
    }
}

/// The service that takes packets to (address, port, protocol), by its index, or [`NOWHERE`].
#[inline(always)]
pub fn find<T: Tables>(tables: &T, control: &Control, key: &EndpointKey) -> u32 {
    let live = Live::of(control);
    let packed = PackedKey::new(key, [0, 0]);
    // Only packets with ports have a VIP of their own.
    if Protocol::has_ports(key.protocol) {
        let index = tables.find_endpoint(packed, EndpointKind::Vip as u32, live.0);
        if index != NOWHERE {
            return index;
        }
    }
    match live.has_ranges() {
        true => tables.find_range(packed, live.0),
        false => NOWHERE,
    }
}

/// The service at (address, port, protocol), or `None` when nobody serves there.
#[inline(always)]
pub fn at<'t, T: Tables>(
    tables: &'t T,
    key: &EndpointKey,
) -> Option<Result<Service<'t>, DropReason>> {
    match find(tables, tables.control()?, key) {
        NOWHERE => None,
        index => Some(by_index(tables, index)),
    }
}

/// A service in use, by its index.
#[inline(always)]
pub fn by_index<T: Tables>(tables: &T, index: u32) -> Result<Service<'_>, DropReason> {
    match tables.service(index) {
        Some(entry) if entry.used == 1 => Ok(Service { index, entry }),
        _ => Err(DropReason::MapInconsistent),
    }
}

/// A backend in use, by its id.
#[inline(always)]
pub fn backend<T: Tables>(tables: &T, id: u32) -> Option<Backend<'_>> {
    let entry = tables.backend(id)?;
    let state = load_state(entry);
    state.is_used().then_some(Backend { id, entry, state })
}

/// True when the address is a VIP of any service, or one of its prefix.
#[inline(always)]
pub fn is_vip<T: Tables>(tables: &T, address: Address) -> bool {
    let Some(control) = tables.control() else {
        return false;
    };
    let live = Live::of(control);
    let packed = PackedKey::new(&address_key(address), [0, 0]);
    tables.find_endpoint(packed, EndpointKind::VipAddress as u32, live.0) != NOWHERE
        || live.has_ranges() && tables.find_range(ranges::any(address), live.0) != NOWHERE
}
