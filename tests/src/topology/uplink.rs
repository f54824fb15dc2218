//! A second way from the client to the balancer, apart from the switch: made and taken away while
//! everything runs.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::build::{PASS, add_address, index_of};
use super::{Topology, ethtool};
use crate::bpf;

/// Its name at the client.
const AT_CLIENT: &str = "uplink";
/// Its name at the balancer.
pub const UPLINK: &str = "eth2";
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 9, 2));
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 9, 1));

/// While it lives, what the balancer sends through the link arrives.
pub struct Uplink {
    _pass: OwnedFd,
}

impl Topology {
    /// Makes the link, [`UPLINK`] at the balancer, and leads the client's packets to `vip` through it.
    pub fn make_uplink(&self, vip: IpAddr) -> Result<Uplink> {
        let (client, balancer) = (self.namespace("client"), self.namespace("lb"));
        client.netlink(async |handle| {
            let peer = LinkUnspec::new_with_name(UPLINK)
                .setns_by_fd(balancer.fd().as_raw_fd())
                .build();
            let pair = LinkVeth::new(AT_CLIENT, UPLINK)
                .set_info_data(netlink_packet_route::link::InfoData::Veth(
                    netlink_packet_route::link::InfoVeth::Peer(peer),
                ))
                .build();
            let made = handle.link().add(pair).execute().await;
            made.context("make the second link between client and balancer")
        })?;
        for (namespace, device, address) in
            [(balancer, UPLINK, BALANCER), (client, AT_CLIENT, CLIENT)]
        {
            namespace.netlink(async |handle| {
                let up = LinkUnspec::new_with_name(device).up().build();
                let set = handle.link().set(up).execute().await;
                set.with_context(|| format!("set {device} up"))?;
                let index = index_of(&handle, device).await?;
                add_address(&handle, index, address, 24).await
            })?;
        }
        client.netlink(async |handle| {
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(vip, 32)?
                .gateway(BALANCER)?
                .build();
            let added = handle.route().add(route).execute().await;
            added.with_context(|| format!("add the client's route to {vip}"))
        })?;
        let pass = client.run(|| {
            ethtool::switch_off(AT_CLIENT)?;
            bpf::attach_xdp(nix::net::if_::if_nametoindex(AT_CLIENT)?, &PASS)
        })?;
        Ok(Uplink { _pass: pass })
    }
}
