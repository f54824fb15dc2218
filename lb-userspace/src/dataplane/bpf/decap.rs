//! The decapsulator of a backend in the kernel: loaded with its rules, attached by a pinned link, which outlives
//! whoever attached it. Other rules are another program with maps of its own, which takes the old one's place on the
//! link in one step; the counters are kept.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::decap::{AddressPrefix, Fate, TRUSTED_SOURCES, VIP_PREFIXES};

use super::error::BpfError;
use super::links::{self, Attached, Links, ModeChange};
use super::netdev;
use super::place::{self, Place, link_pin};
use super::program::{Program, refused};
use super::{AttachmentState, check_machine, sys};
use crate::decap::Rules;
use crate::model::{AttachMode, XdpMode};

/// The name of the XDP program in the object.
const PROGRAM: &str = "fairlead_decap";
/// The map that is kept over a change of the rules.
const FATES: &str = "fates";

/// The decapsulator of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whether packets pass through the program.
    pub state: AttachmentState,
    /// In driver or stack, while it is attached.
    pub mode: Option<AttachMode>,
    /// Packets since it was first attached, by [`Fate`].
    pub fates: Vec<(Fate, u64)>,
}

fn fates_pin(directory: &Path, interface: &str) -> PathBuf {
    let link = link_pin(interface);
    let name = link.strip_prefix("link-").unwrap_or(&link);
    directory.join(format!("{FATES}-{name}"))
}

/// Puts the decapsulator on an interface, or gives the one that is there these rules.
pub fn attach(
    object: &[u8],
    bpffs: &Path,
    interface: &str,
    rules: &Rules,
    mode: XdpMode,
) -> Result<Attached, BpfError> {
    if object.is_empty() {
        return Err(BpfError::NotBuilt);
    }
    check_machine()?;
    if netdev::ifindex(interface).is_none() {
        return Err(BpfError::NoInterface {
            interface: interface.to_owned(),
        });
    }
    Place::prepare(bpffs)?;
    let program = load(object, &fates_pin(bpffs, interface), rules)?;
    let program = (program.fd(), program.id());
    Links::default().attach(bpffs, program, interface, mode, ModeChange::Changed)
}

fn load(object: &[u8], fates: &Path, rules: &Rules) -> Result<Program, BpfError> {
    let mut loader = EbpfLoader::new();
    loader.map_pin_path(FATES, fates);
    let mut object = loader.load(object).map_err(refused)?;
    fill(&mut object, rules).map_err(|error| refused(EbpfError::MapError(error)))?;
    let xdp: &mut Xdp = object
        .program_mut(PROGRAM)
        .ok_or_else(|| BpfError::Object {
            why: format!("the object has no program '{PROGRAM}'"),
        })?
        .try_into()
        .map_err(|error| refused(EbpfError::ProgramError(error)))?;
    xdp.load()
        .map_err(|error| refused(EbpfError::ProgramError(error)))?;
    xdp.fd()
        .map_err(|error| refused(EbpfError::ProgramError(error)))?
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| Program::of(fd, None))
        .map_err(BpfError::system("keep the loaded program"))
}

/// Writes the rules into maps that no packet reads yet.
fn fill(object: &mut Ebpf, rules: &Rules) -> Result<(), MapError> {
    let missing = |name: &str| MapError::InvalidName {
        name: name.to_owned(),
    };
    let map = object
        .map_mut("trusted")
        .ok_or_else(|| missing("trusted"))?;
    let mut trusted = Array::<_, [u8; size_of::<AddressPrefix>()]>::try_from(map)?;
    for (slot, source) in (0..TRUSTED_SOURCES).zip(&rules.trusted) {
        trusted.set(slot, bytemuck::cast::<AddressPrefix, [u8; 32]>(*source), 0)?;
    }
    let map = object
        .map_mut("vip_prefixes")
        .ok_or_else(|| missing("vip_prefixes"))?;
    let mut vips = Array::<_, [u8; size_of::<AddressPrefix>()]>::try_from(map)?;
    for (slot, prefix) in (0..VIP_PREFIXES).zip(&rules.vip_prefixes) {
        vips.set(slot, bytemuck::cast::<AddressPrefix, [u8; 32]>(*prefix), 0)?;
    }
    let map = object
        .map_mut("gue_port")
        .ok_or_else(|| missing("gue_port"))?;
    Array::<_, u32>::try_from(map)?.set(0, u32::from(rules.gue_port), 0)?;
    let map = object
        .map_mut("addresses")
        .ok_or_else(|| missing("addresses"))?;
    let mut addresses = HashMap::<_, [u8; 16], u32>::try_from(map)?;
    for (address, standing) in &rules.addresses {
        addresses.insert(address.0, *standing as u32, 0)?;
    }
    Ok(())
}

/// What the decapsulator of an interface is and did; `None`: there is none.
pub fn show(bpffs: &Path, interface: &str) -> Result<Option<Shown>, BpfError> {
    let path = bpffs.join(link_pin(interface));
    if !path.exists() {
        return Ok(None);
    }
    let what = || format!("look at {}", path.display());
    let link = sys::open_pin(&path).map_err(BpfError::system(what()))?;
    let on = sys::link_info(link.as_fd()).map_err(BpfError::system(what()))?;
    let now = netdev::ifindex(interface);
    let state = match now {
        None => AttachmentState::Missing,
        Some(now) if now == on.ifindex => AttachmentState::Attached,
        Some(_) => AttachmentState::Defunct,
    };
    let mode = match (state, now) {
        (AttachmentState::Attached, Some(now)) => netdev::xdp_state(now)?.map(|found| found.mode),
        _ => None,
    };
    let fates = fates(&fates_pin(bpffs, interface)).map_err(|error| BpfError::Object {
        why: format!("read the decapsulator's counters: {error}"),
    })?;
    Ok(Some(Shown { state, mode, fates }))
}

fn fates(pin: &Path) -> Result<Vec<(Fate, u64)>, MapError> {
    let map = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(MapData::from_pin(pin)?))?;
    Fate::ALL
        .iter()
        .map(|fate| {
            let counts = map.get(&(*fate as u32), 0)?;
            let sum = counts.iter().fold(0_u64, |sum, n| sum.wrapping_add(*n));
            Ok((*fate, sum))
        })
        .collect()
}

/// Takes the decapsulator off an interface, with its counters; false: there was none.
pub fn detach(bpffs: &Path, interface: &str) -> Result<bool, BpfError> {
    let Some(place) = Place::existing(bpffs)? else {
        return Ok(false);
    };
    let there = bpffs.join(link_pin(interface)).exists();
    links::release(bpffs, &link_pin(interface))?;
    place::unlink(&fates_pin(bpffs, interface))?;
    place.leave()?;
    Ok(there)
}
