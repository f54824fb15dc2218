//! The pinned maps, opened and mapped: what the writer and all readers share.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use lb_common::Header;
use lb_common::header::{LAYOUT_VERSION, MAGIC};

use super::error::BpfError;
use super::geometry::{
    self, Geometry, REDIRECTS, SOURCE_RANGES, check_control, check_header, check_maps,
};
use super::mapped::Mapped;
use super::sys::{self, MapInfo};

/// All maps.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) geometry: Geometry,
    pub(crate) header: Mapped,
    pub(crate) control: Mapped,
    pub(crate) endpoints: Mapped,
    pub(crate) rules: Mapped,
    pub(crate) services: Mapped,
    pub(crate) rings: Mapped,
    pub(crate) backends: Mapped,
    pub(crate) next_hops: Mapped,
    pub(crate) devices: Mapped,
    pub(crate) flows: Mapped,
    pub(crate) return_hops: Mapped,
    pub(crate) nat_flows: Mapped,
    pub(crate) fragments: Mapped,
    pub(crate) handshakes: Mapped,
    pub(crate) affinities: Mapped,
    pub(crate) counters: Mapped,
    pub(crate) redirects: OwnedFd,
    pub(crate) source_ranges: OwnedFd,
}

fn unusable(directory: &Path, differences: Vec<String>) -> BpfError {
    BpfError::Unusable {
        path: directory.to_owned(),
        differences,
    }
}

/// Opens a pinned map and asks the kernel about it; `Ok(None)`: there is no such pin.
fn open_map(directory: &Path, name: &str) -> Result<Option<(OwnedFd, MapInfo)>, BpfError> {
    let path = directory.join(name);
    let fd = match sys::open_pin(&path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(directory, vec![format!("map {name}: {error}")])),
    };
    match sys::map_info(fd.as_fd()) {
        Ok(info) => Ok(Some((fd, info))),
        Err(error) => Err(unusable(directory, vec![format!("map {name}: {error}")])),
    }
}

/// The header as it is pinned, before it is judged; `None`: there is no such pin.
pub(crate) fn pinned_header(directory: &Path) -> Result<Option<Header>, BpfError> {
    let Some((fd, info)) = open_map(directory, "header")? else {
        return Ok(None);
    };
    let shape = geometry::Shape {
        name: "header",
        value_size: size_of::<Header>(),
        entries: 1,
    };
    let differences = geometry::check_array(&shape, &info);
    if !differences.is_empty() {
        return Err(unusable(directory, differences));
    }
    let mapped = Mapped::new(fd, 1, size_of::<Header>())
        .map_err(BpfError::system("map the header into memory"))?;
    Ok(mapped.read::<Header>(0))
}

/// The header, judged: first of all that is read.
fn judged_header(directory: &Path) -> Result<Header, BpfError> {
    let header = pinned_header(directory)?
        .ok_or_else(|| unusable(directory, vec!["map header: its pin is missing".into()]))?;
    if header.magic == MAGIC && header.layout_version != LAYOUT_VERSION {
        return Err(BpfError::ForeignLayout {
            path: directory.to_owned(),
            found: header.layout_version,
            known: LAYOUT_VERSION,
        });
    }
    let differences = check_header(&header);
    if !differences.is_empty() {
        return Err(unusable(directory, differences));
    }
    Ok(header)
}

impl Maps {
    /// Opens what stands in the header's geometry. Nothing is written.
    pub(crate) fn open(directory: &Path) -> Result<Self, BpfError> {
        let header = judged_header(directory)?;
        let geometry = Geometry::from_header(&header);
        let maps = Self::with_geometry(directory, geometry)?;
        let control = maps.control.read(0).ok_or_else(|| short("control"))?;
        let differences = check_control(&control, &header);
        if !differences.is_empty() {
            return Err(unusable(directory, differences));
        }
        Ok(maps)
    }

    /// Opens maps of known sizes whose contents are not yet, or already, judged.
    pub(crate) fn with_geometry(directory: &Path, geometry: Geometry) -> Result<Self, BpfError> {
        let mut infos = BTreeMap::new();
        let mut fds = BTreeMap::new();
        for name in geometry
            .arrays()
            .iter()
            .map(|shape| shape.name)
            .chain([REDIRECTS, SOURCE_RANGES])
        {
            if let Some((fd, info)) = open_map(directory, name)? {
                infos.insert(name, info);
                fds.insert(name, fd);
            }
        }
        let differences = check_maps(&geometry, &infos);
        if !differences.is_empty() {
            return Err(unusable(directory, differences));
        }
        let mut mapped = |name: &'static str| -> Result<Mapped, BpfError> {
            let (Some(fd), Some(shape)) = (fds.remove(name), geometry.array(name)) else {
                return Err(short(name));
            };
            Mapped::new(fd, shape.entries, shape.value_size)
                .map_err(BpfError::system(format!("map {name} into memory")))
        };
        Ok(Self {
            geometry,
            header: mapped("header")?,
            control: mapped("control")?,
            endpoints: mapped("endpoints")?,
            rules: mapped("rules")?,
            services: mapped("services")?,
            rings: mapped("rings")?,
            backends: mapped("backends")?,
            next_hops: mapped("next_hops")?,
            devices: mapped("devices")?,
            flows: mapped("flows")?,
            return_hops: mapped("return_hops")?,
            nat_flows: mapped("nat_flows")?,
            fragments: mapped("fragments")?,
            handshakes: mapped("handshakes")?,
            affinities: mapped("affinities")?,
            counters: mapped("counters")?,
            redirects: fds.remove(REDIRECTS).ok_or_else(|| short(REDIRECTS))?,
            source_ranges: fds
                .remove(SOURCE_RANGES)
                .ok_or_else(|| short(SOURCE_RANGES))?,
        })
    }

    /// Every map with its name, for pinning anew.
    pub(crate) fn named(&self) -> [(&'static str, std::os::fd::BorrowedFd<'_>); 18] {
        [
            ("header", self.header.fd()),
            ("control", self.control.fd()),
            ("endpoints", self.endpoints.fd()),
            ("rules", self.rules.fd()),
            ("services", self.services.fd()),
            ("rings", self.rings.fd()),
            ("backends", self.backends.fd()),
            ("next_hops", self.next_hops.fd()),
            ("devices", self.devices.fd()),
            ("flows", self.flows.fd()),
            ("return_hops", self.return_hops.fd()),
            ("nat_flows", self.nat_flows.fd()),
            ("fragments", self.fragments.fd()),
            ("handshakes", self.handshakes.fd()),
            ("affinities", self.affinities.fd()),
            ("counters", self.counters.fd()),
            (REDIRECTS, self.redirects.as_fd()),
            (SOURCE_RANGES, self.source_ranges.as_fd()),
        ]
    }
}

fn short(name: &str) -> BpfError {
    BpfError::Object {
        why: format!("map {name} is missing or shorter than its geometry says"),
    }
}
