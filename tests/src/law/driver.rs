//! The driver's counters of the balancer's interfaces and of the ports that face it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::link::LinkAttribute;

use crate::topology::{Namespace, ethtool};

/// Adds `ethtool -S` of an interface, summed over its queues: `rx_queue_0_xdp_drops` counts as
/// `xdp_drops`.
pub(crate) fn add_statistics(
    sums: &mut BTreeMap<String, u64>,
    namespace: &Namespace,
    device: &str,
) -> Result<()> {
    for (name, value) in namespace.run(|| ethtool::statistics(device))? {
        let short = name
            .strip_prefix("rx_queue_")
            .or_else(|| name.strip_prefix("tx_queue_"))
            .and_then(|rest| rest.split_once('_'))
            .map_or(name.as_str(), |(_, short)| short);
        *sums.entry(short.to_owned()).or_default() += value;
    }
    Ok(())
}

/// Adds `drops` of an interface's queues: what it had received and had no memory for.
pub(crate) fn add_unreceived(
    sums: &mut BTreeMap<String, u64>,
    namespace: &Namespace,
    device: &str,
) -> Result<()> {
    let statistics = namespace.run(|| ethtool::statistics(device))?;
    let drops = statistics
        .into_iter()
        .filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_drops"))
        .filter(|(name, _)| !name.ends_with("_xdp_drops"));
    *sums.entry("drops".to_owned()).or_default() += drops.map(|(_, value)| value).sum::<u64>();
    Ok(())
}

/// Adds `tx_dropped` of an interface: what the veth at its other end had no room for.
pub(crate) fn add_dropped(
    sums: &mut BTreeMap<String, u64>,
    namespace: &Namespace,
    device: &str,
) -> Result<()> {
    let dropped = namespace.netlink(async |handle| {
        let mut links = handle.link().get().match_name(device.to_owned()).execute();
        let link = links.try_next().await?;
        let link = link.with_context(|| format!("no interface {device}"))?;
        let counters = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Stats64(counters) => Some(counters.tx_dropped),
                _ => None,
            });
        counters.with_context(|| format!("{device} has no statistics"))
    })?;
    *sums.entry("tx_dropped".to_owned()).or_default() += dropped;
    Ok(())
}
