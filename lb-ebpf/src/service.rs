//! Whose packet is it? Bounded lookups in the live generation of `endpoints`.

use lb_common::{
    Address, BackendEntry, Control, DropReason, EndpointKey, EndpointKind, ServiceEntry,
    endpoint::MAX_PROBES,
};

use crate::tables::{BackendState, PackedKey, Tables, load, load_state};

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
    pub fn new(control: &Control, key: &EndpointKey) -> Self {
        let mask = control.endpoint_mask;
        let live = load(&control.live);
        let base = mask.wrapping_add(1).wrapping_mul(live as u32 & 1);
        let seed = live >> 1;
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
/// search.
#[inline(always)]
pub fn endpoint<T: Tables>(tables: &T, key: PackedKey, kind: u32) -> u32 {
    let Some(control) = tables.control() else {
        return NOWHERE;
    };
    let (key, _) = key.unpack();
    let probe = Probe::new(control, &key);
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
/// only when another key stands there.
#[inline(always)]
pub fn vip<T: Tables>(tables: &T, control: &Control, key: &EndpointKey) -> u32 {
    let Some(slot) = tables.endpoint(Probe::new(control, key).index(0)) else {
        return NOWHERE;
    };
    if slot.holds(key, EndpointKind::Vip) {
        return slot.index;
    }
    if slot.kind == 0 {
        return NOWHERE;
    }
    tables.find_endpoint(PackedKey::new(key, [0, 0]), EndpointKind::Vip as u32)
}

/// False when no backend has this key, by its home slot alone.
#[inline(always)]
pub fn may_be_backend<T: Tables>(tables: &T, control: &Control, key: &EndpointKey) -> bool {
    let slot = tables.endpoint(Probe::new(control, key).index(0));
    slot.is_some_and(|slot| slot.kind != 0)
}

/// The service at (address, port, protocol), or `None` when nobody serves there.
#[inline(always)]
pub fn at<'t, T: Tables>(
    tables: &'t T,
    key: &EndpointKey,
) -> Option<Result<Service<'t>, DropReason>> {
    let packed = PackedKey::new(key, [0, 0]);
    match tables.find_endpoint(packed, EndpointKind::Vip as u32) {
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

/// True when the address is a VIP of any service.
#[inline(always)]
pub fn is_vip<T: Tables>(tables: &T, address: Address) -> bool {
    let packed = PackedKey::new(&address_key(address), [0, 0]);
    tables.find_endpoint(packed, EndpointKind::VipAddress as u32) != NOWHERE
}

/// The backend whose endpoint stands `distance` slots from home; `None` when that slot is another's,
/// `Err` at the end of the search. A server that stands in several services has several.
#[inline(always)]
pub fn candidate<'t, T: Tables>(
    tables: &'t T,
    probe: Probe,
    key: &EndpointKey,
    distance: u32,
) -> Result<Option<Backend<'t>>, EndOfSearch> {
    let slot = tables.endpoint(probe.index(distance)).ok_or(EndOfSearch)?;
    if slot.kind == 0 {
        return Err(EndOfSearch);
    }
    if slot.kind != EndpointKind::Backend as u8 || !slot.matches(key) {
        return Ok(None);
    }
    Ok(backend(tables, slot.index))
}

/// No further slot can hold the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfSearch;
