//! Faults: what breaks in a network, done to a running [`Topology`].

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkXdp};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::build::{add_address, index_of};
use super::{Cable, Mac, Namespace, Topology};

impl Topology {
    /// A host loses power: its switch port goes down. The host loses carrier; nobody else notices.
    pub fn cut_power(&self, host: &str, device: &str) -> Result<()> {
        self.set_port(host, device, false)
    }

    /// The port comes up again; it forwards when this returns.
    pub fn restore_power(&self, host: &str, device: &str) -> Result<()> {
        self.set_port(host, device, true)?;
        self.wait_until_up(&[self.cable(host, device)])
    }

    fn set_port(&self, host: &str, device: &str, up: bool) -> Result<()> {
        self.broken.store(true, Ordering::Relaxed);
        let port = self.cable(host, device).port;
        self.namespace("switch").netlink(async |handle| {
            let link = LinkUnspec::new_with_name(&port);
            let link = if up { link.up() } else { link.down() };
            handle
                .link()
                .set(link.build())
                .execute()
                .await
                .with_context(|| {
                    format!("set switch port {port} {}", if up { "up" } else { "down" })
                })
        })
    }

    /// Gives an interface another MAC address, as a replaced network card would.
    pub fn change_mac(&self, host: &str, device: &str, mac: Mac) -> Result<()> {
        self.namespace(host).netlink(async |handle| {
            let link = LinkUnspec::new_with_name(device)
                .address(mac.to_vec())
                .build();
            handle
                .link()
                .set(link)
                .execute()
                .await
                .with_context(|| format!("change the MAC address of {device} at {host}"))
        })
    }

    /// Sets how large an IP packet an interface sends, in bytes.
    pub fn set_mtu(&self, host: &str, device: &str, mtu: u32) -> Result<()> {
        self.namespace(host).netlink(async |handle| {
            let link = LinkUnspec::new_with_name(device).mtu(mtu).build();
            let set = handle.link().set(link).execute();
            set.await
                .with_context(|| format!("set the MTU of {device} at {host} to {mtu}"))
        })
    }

    /// Deletes an interface, and its switch port with it.
    pub fn delete_device(&mut self, host: &str, device: &str) -> Result<()> {
        self.broken.store(true, Ordering::Relaxed);
        self.namespace(host).netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            handle
                .link()
                .del(index)
                .execute()
                .await
                .with_context(|| format!("delete {device} of {host}"))
        })
    }

    /// Makes a deleted interface again: same name, MAC address, addresses and routes, new index.
    pub fn recreate_device(&mut self, host: &str, device: &str) -> Result<()> {
        let cable = self.cable(host, device);
        self.plug(&cable)?;
        self.wait_until_up(&[cable])
    }

    /// Plugs another interface in, as the network's own are: of the balancer, the switch port computes checksums and takes
    /// what XDP sends.
    pub fn add_cable(&mut self, cable: Cable) -> Result<()> {
        self.plug(&cable)?;
        self.wait_until_up(std::slice::from_ref(&cable))?;
        self.cables.push(cable);
        Ok(())
    }

    /// Neighbours of an interface whose MAC address is known.
    pub fn neighbours(&self, host: &str, device: &str) -> Result<BTreeSet<IpAddr>> {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        self.namespace(host).netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            let all = handle.neighbours().get().execute();
            let all: Vec<_> = all.try_collect().await.context("list neighbours")?;
            let usable = all.into_iter().filter(|n| {
                let state = n.header.state;
                n.header.ifindex == index
                    && matches!(state, Reachable | Stale | Delay | Probe | Permanent | Noarp)
            });
            let address = |n: NeighbourMessage| {
                n.attributes.into_iter().find_map(|a| match a {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(a.into()),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(a.into()),
                    _ => None,
                })
            };
            Ok(usable.filter_map(address).collect())
        })
    }

    /// Forgets the neighbours of an interface, as `ip neigh flush` does.
    pub fn flush_neighbours(&self, host: &str, device: &str) -> Result<()> {
        self.namespace(host).netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            let all: Vec<_> = handle
                .neighbours()
                .get()
                .execute()
                .try_collect()
                .await
                .context("list neighbours")?;
            for neighbour in all.into_iter().filter(|n| n.header.ifindex == index) {
                match handle.neighbours().del(neighbour).execute().await {
                    // Aged away meanwhile.
                    Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENOENT => {}
                    other => other.context("delete a neighbour")?,
                }
            }
            Ok(())
        })
    }

    /// Removes an address from an interface.
    pub fn remove_address(&self, host: &str, device: &str, address: IpAddr) -> Result<()> {
        self.namespace(host).netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            let mut found = handle
                .address()
                .get()
                .set_link_index_filter(index)
                .set_address_filter(address)
                .execute();
            let found = found.try_next().await.context("look for the address")?;
            let found = found.with_context(|| format!("no address {address} on {device}"))?;
            handle
                .address()
                .del(found)
                .execute()
                .await
                .context("remove the address")
        })
    }

    /// Removes all global addresses of an interface, as `ip addr flush scope global` does.
    pub fn flush_addresses(&self, host: &str, device: &str) -> Result<()> {
        for (address, _) in self.cable(host, device).addresses {
            self.remove_address(host, device, address)?;
        }
        Ok(())
    }

    /// Adds an address to an interface.
    pub fn add_address(&self, host: &str, device: &str, address: IpAddr, length: u8) -> Result<()> {
        self.namespace(host).netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            add_address(&handle, index, address, length).await
        })
    }

    /// [`has_xdp`] of a host.
    pub fn has_xdp(&self, host: &str, device: &str) -> Result<Option<bool>> {
        has_xdp(self.namespace(host), device)
    }

    /// Whether an interface has an address.
    pub fn has_address(&self, host: &str, device: &str, address: IpAddr) -> Result<bool> {
        self.namespace(host).netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            let found = handle.address().get().set_link_index_filter(index);
            let mut found = found.set_address_filter(address).execute();
            Ok(found
                .try_next()
                .await
                .context("look for the address")?
                .is_some())
        })
    }

    /// Adds a route to one address.
    pub fn add_host_route(&self, host: &str, to: IpAddr, via: IpAddr) -> Result<()> {
        self.namespace(host).netlink(async |handle| {
            let length = if to.is_ipv4() { 32 } else { 128 };
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(to, length)?
                .gateway(via)?
                .build();
            let added = handle.route().add(route).execute().await;
            added.with_context(|| format!("add a route to {to} via {via} at {host}"))
        })
    }

    /// Loads firewall rules into a host: the text of an `nft -f` file.
    pub fn nft(&self, host: &str, rules: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = self
            .spawn_in(host, command)
            .context("is nftables installed?")?;
        let mut input = process.child().stdin.take().context("nft has no input")?;
        input
            .write_all(rules.as_bytes())
            .context("give nft its rules")?;
        drop(input);
        let status = process.wait(std::time::Duration::from_secs(10))?;
        if !status.success() {
            let mut message = String::new();
            if let Some(mut errors) = process.child().stderr.take() {
                std::io::Read::read_to_string(&mut errors, &mut message)?;
            }
            bail!("nft refused the rules at {host}: {message}");
        }
        Ok(())
    }
}

/// Whether an interface is there (`None`: it is not) and has an XDP program.
pub fn has_xdp(namespace: &Namespace, device: &str) -> Result<Option<bool>> {
    namespace.netlink(async |handle| {
        let mut links = handle.link().get().match_name(device.to_owned()).execute();
        let link = match links.try_next().await {
            Ok(link) => link,
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => None,
            Err(e) => return Err(e).context("look for the interface"),
        };
        let attributes = link.map(|link| link.attributes);
        Ok(attributes.map(|attributes| attributes.iter().any(names_a_program)))
    })
}

fn names_a_program(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::Xdp(parts) = attribute else {
        return false;
    };
    parts.iter().any(|part| matches!(part, LinkXdp::ProgId(_)))
}
