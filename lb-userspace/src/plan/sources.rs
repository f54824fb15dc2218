//! Who may come: a service's changed sources go into its set that is not in use, before the store that names it; the
//! old set goes when nothing names it any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::sources;

use crate::dataplane::{Actual, Image, MapOp, ServiceImage};

/// Writes a service's sources where they are not yet what they should be: into its other set. Which of them is in use
/// then.
pub(super) fn write(
    actual: &Actual,
    index: u32,
    service: &ServiceImage,
    ops: &mut Vec<MapOp>,
) -> u8 {
    let live = actual.source_half.get(&index).copied();
    let before = actual.image.services.get(&index);
    if before.is_some_and(|before| before.sources == service.sources) {
        return live.unwrap_or(0);
    }
    let half = live.map_or(0, |half| 1_u8.saturating_sub(half));
    if !service.sources.is_empty() {
        let set = sources::set(index, half);
        if actual.stray_sources.contains(&set) {
            ops.push(MapOp::ClearSources { set });
        }
        ops.push(MapOp::WriteSources {
            set,
            ranges: Arc::clone(&service.sources),
        });
    }
    half
}

/// Removes sets of sources that no service names any more, and those that none named before and none does now.
pub(super) fn clear(actual: &Actual, desired: &Image, ops: &mut Vec<MapOp>) {
    let written: BTreeSet<u32> = ops
        .iter()
        .filter_map(|op| match op {
            MapOp::WriteSources { set, .. } => Some(*set),
            _ => None,
        })
        .collect();
    let left = actual.source_half.iter().filter(|(index, _)| {
        let before = actual.image.services.get(index).map(|s| &s.sources);
        before != desired.services.get(index).map(|s| &s.sources)
    });
    let left: Vec<u32> = left
        .map(|(&index, &half)| sources::set(index, half))
        .chain(actual.stray_sources.iter().copied())
        .filter(|set| !written.contains(set))
        .collect();
    ops.extend(left.into_iter().map(|set| MapOp::ClearSources { set }));
}

/// Which set of sources each service names after `ops`, and which are left without one; `actual.image` is what the
/// maps hold then.
pub(super) fn take_halves(actual: &mut Actual, ops: &[MapOp]) {
    for op in ops {
        match op {
            MapOp::WriteService {
                service,
                source_half,
                ..
            } => {
                actual.source_half.insert(*service, *source_half);
            }
            MapOp::WriteSources { set, .. } | MapOp::ClearSources { set } => {
                actual.stray_sources.remove(set);
            }
            _ => {}
        }
    }
    let services = &actual.image.services;
    actual
        .source_half
        .retain(|index, _| services.get(index).is_some_and(|s| !s.sources.is_empty()));
}
