//! The map `source_ranges`: the one that is read and written by system calls.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use lb_common::sources::{self, Access};

use super::maps::Maps;
use super::sys;
use crate::dataplane::{DataplaneError, SourceRange};

const MAP: &str = "source_ranges";

fn refused(call: String) -> impl FnOnce(std::io::Error) -> DataplaneError {
    move |source| DataplaneError::Kernel { call, source }
}

/// All keys.
fn keys(maps: &Maps) -> Result<Vec<sources::Key>, DataplaneError> {
    let map = maps.source_ranges.as_fd();
    let mut keys: Vec<sources::Key> = Vec::new();
    loop {
        let next = sys::source_after(map, keys.last());
        match next.map_err(refused(format!("list {MAP}")))? {
            Some(key) => keys.push(key),
            None => return Ok(keys),
        }
    }
}

/// Everything that the map holds.
pub(super) fn read(maps: &Maps) -> Result<BTreeMap<sources::Key, Access>, DataplaneError> {
    let map = maps.source_ranges.as_fd();
    let mut found = BTreeMap::new();
    for key in keys(maps)? {
        let value = sys::source_get(map, &key).map_err(refused(format!("read {MAP}")))?;
        let access = Access::from_u32(value).ok_or_else(|| DataplaneError::Invalid {
            map: MAP,
            index: key.set(),
            why: format!("a range of this set says {value}"),
        })?;
        found.insert(key, access);
    }
    Ok(found)
}

/// Removes a set.
pub(super) fn clear(maps: &Maps, set: u32) -> Result<(), DataplaneError> {
    let map = maps.source_ranges.as_fd();
    for key in keys(maps)?.iter().filter(|key| key.set() == set) {
        let call = || format!("remove a range of set {set} from {MAP}");
        sys::source_clear(map, key).map_err(refused(call()))?;
    }
    Ok(())
}

/// Writes a set that holds nothing. It is not cleared first: that looks at all ranges, which for many services with
/// ranges would take seconds.
pub(super) fn write(maps: &Maps, set: u32, ranges: &[SourceRange]) -> Result<(), DataplaneError> {
    let map = maps.source_ranges.as_fd();
    for range in ranges {
        match sys::source_set(map, &range.key(set), range.access) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                return Err(DataplaneError::OutOfRange {
                    map: MAP,
                    index: maps.geometry.source_ranges,
                    size: maps.geometry.source_ranges,
                });
            }
            other => other.map_err(refused(format!("write a range of set {set} into {MAP}")))?,
        }
    }
    Ok(())
}
