//! Whether what was read back can be true: every index leads to an entry in use, of the right owner. Pure.
//!
//! Every prefix of every plan keeps this, so a daemon that finds otherwise has found somebody
//! else's writes, and must not plan from them (RELIABILITY.md K3). Values that are wrong by themselves are found
//! by whoever reads them.

use std::collections::BTreeSet;

use lb_common::EndpointKind;

use super::{Actual, DataplaneError};

/// The first place that contradicts another.
pub fn check(actual: &Actual) -> Result<(), DataplaneError> {
    let image = &actual.image;
    let wrong = |map, index: u32, why: String| Err(DataplaneError::Invalid { map, index, why });
    for (index, service) in &image.services {
        let ids: BTreeSet<u32> = service.ring.iter().copied().collect();
        for id in ids {
            let member = image.backends.get(&id);
            if member.is_none_or(|backend| backend.service != *index) {
                let why =
                    format!("its ring names BackendId {id}, which is not one of its backends");
                return wrong("services", *index, why);
            }
        }
    }
    for (id, backend) in &image.backends {
        if !image.next_hops.contains_key(&backend.next_hop) {
            let why = format!("its next hop {} is not in use", backend.next_hop);
            return wrong("backends", *id, why);
        }
    }
    for targets in image.endpoints.values() {
        for (kind, index) in targets {
            match kind {
                EndpointKind::Vip => {
                    let Some(service) = image.services.get(index) else {
                        let why = "an endpoint leads here, and it is not in use".to_owned();
                        return wrong("services", *index, why);
                    };
                    let tunnel = service.tunnel();
                    if tunnel.is_some_and(|family| !image.controls.has_tunnel(family)) {
                        let why =
                            "its packets need a tunnel, and there is no source for it".to_owned();
                        return wrong("services", *index, why);
                    }
                }
                EndpointKind::Backend if !image.backends.contains_key(index) => {
                    let why = "an endpoint leads here, and it is not in use".to_owned();
                    return wrong("backends", *index, why);
                }
                EndpointKind::Backend | EndpointKind::VipAddress => {}
            }
        }
    }
    Ok(())
}
