//! Makes a [`Shape`] real: namespaces, bridges, veth pairs, addresses, routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope, CacheInfo,
};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, State};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::bpf;

use super::{
    Cable, FAMILIES, Family, Namespace, Process, Shape, VIPS, cleanup, ethtool, nat_source,
    require_root, steer, vip,
};

/// The smallest XDP program, `return XDP_PASS`, as `struct bpf_insn`s.
///
/// What an XDP program sends out of a veth arrives only if the other end has an XDP program too
/// (drivers/net/veth.c, `veth_xdp_xmit`), so the switch ports that face the balancer get this one.
pub const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// A running network. Dropping it removes it, with every process in it.
pub struct Topology {
    shape: Shape,
    prefix: String,
    directory: PathBuf,
    namespaces: BTreeMap<String, Namespace>,
    pub(super) cables: Vec<Cable>,
    /// By switch port.
    pass: BTreeMap<String, OwnedFd>,
    /// A cable was cut or an interface deleted, once at least.
    pub(super) broken: AtomicBool,
    /// Every flow is received on one CPU at its host.
    steered: bool,
}

/// Settings of every host. Addresses work at once without duplicate address detection, nobody
/// learns routes by itself, and nobody filters by the way back.
const EVERY_HOST: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/core/somaxconn", "8192"),
];

/// Settings that not every kernel has (`tcp_rto_min_us` came with Linux 6.11). A busy machine may not
/// run a host for 200 ms; a segment that is sent again then says nothing.
const EVERY_HOST_IF_KNOWN: &[(&str, &str)] = &[("net/ipv4/tcp_rto_min_us", "600000")];

/// A client makes many connections: all ports, and those in TIME_WAIT again after a second.
const CLIENT: &[(&str, &str)] = &[
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
];

const BALANCER: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
];

/// A backend that has the VIP on its loopback keeps silent about it (arp_ignore, arp_announce in
/// Documentation/networking/ip-sysctl.rst).
const DIRECT_RETURN: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
];

/// The switch has no addresses of its own.
const SWITCH: &[(&str, &str)] = &[("net/ipv6/conf/default/disable_ipv6", "1")];

/// And no firewall, where the kernel would have one for bridges.
const SWITCH_IF_KNOWN: &[(&str, &str)] = &[
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];

impl Topology {
    /// Builds the network; every flow is received on one CPU at its host.
    pub fn build(shape: Shape) -> Result<Self> {
        Self::make(shape, true)
    }

    /// Builds the network for measurements of what goes through: hosts receive where the sender runs, which is
    /// faster, and loses nothing in a queue between CPUs (net.core.netdev_max_backlog).
    pub fn build_for_throughput(shape: Shape) -> Result<Self> {
        Self::make(shape, false)
    }

    fn make(shape: Shape, steered: bool) -> Result<Self> {
        require_root()?;
        let prefix = cleanup::next_prefix();
        let directory = cleanup::make_directory(&prefix)?;
        let mut topology = Self {
            shape,
            prefix,
            directory,
            namespaces: BTreeMap::new(),
            cables: shape.cables(),
            pass: BTreeMap::new(),
            broken: AtomicBool::new(false),
            steered,
        };
        topology
            .make_hosts()
            .context("make the hosts of the topology")?;
        for cable in topology.cables.clone() {
            topology.plug(&cable)?;
        }
        topology.wait_until_up(&topology.cables)?;
        Ok(topology)
    }

    /// What was built.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// True when a cable was ever cut or an interface deleted: the network itself may have lost
    /// frames.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Begins the name of every namespace.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A directory for files of this topology; owned by root, removed at the end with all mounts.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The namespace of a host: `client`, `lb`, `switch`, `b1`, ...
    pub fn namespace(&self, host: &str) -> &Namespace {
        match self.namespaces.get(host) {
            Some(namespace) => namespace,
            None => panic!("no host {host} among {:?}", self.namespaces.keys()),
        }
    }

    /// Runs a closure on a thread inside a host.
    pub fn run_in<R: Send>(&self, host: &str, work: impl FnOnce() -> R + Send) -> R {
        self.namespace(host).run(work)
    }

    /// Starts a process inside a host.
    pub fn spawn_in(&self, host: &str, command: Command) -> Result<Process> {
        self.namespace(host).spawn(command)
    }

    /// Attaches an XDP program, given as `struct bpf_insn`s, while the returned link lives.
    pub fn attach_xdp(&self, host: &str, device: &str, program: &[u64]) -> Result<OwnedFd> {
        self.run_in(host, || {
            bpf::attach_xdp(nix::net::if_::if_nametoindex(device)?, program)
        })
    }

    /// Takes the program from a switch port that faces the balancer, to make room for another one.
    pub fn free_port(&mut self, port: &str) {
        self.pass.remove(port);
    }

    pub(super) fn cable(&self, host: &str, device: &str) -> Cable {
        let found = self
            .cables
            .iter()
            .find(|c| c.host == host && c.device == device);
        found
            .unwrap_or_else(|| panic!("no interface {device} at {host}"))
            .clone()
    }

    fn make_hosts(&mut self) -> Result<()> {
        for host in self.shape.hosts().into_iter().chain(["switch".to_owned()]) {
            let namespace = Namespace::create(&format!("{}-{host}", self.prefix))?;
            namespace.sysctl(EVERY_HOST)?;
            namespace.sysctl_if_known(EVERY_HOST_IF_KNOWN)?;
            self.namespaces.insert(host, namespace);
        }
        self.namespace("client").sysctl(CLIENT)?;
        self.namespace("lb").sysctl(BALANCER)?;
        self.namespace("switch").sysctl(SWITCH)?;
        self.namespace("switch").sysctl_if_known(SWITCH_IF_KNOWN)?;
        if self.shape.returns_directly() {
            for n in 1..=self.shape.backends {
                let namespace = self.namespace(&format!("b{n}"));
                namespace.sysctl(DIRECT_RETURN)?;
                namespace.netlink(own_all_vips)?;
            }
        }
        self.namespace("switch").netlink(async |handle| {
            for name in ["front", "back"] {
                let bridge = LinkBridge::new(name).mcast_snooping(false).build();
                handle
                    .link()
                    .add(bridge)
                    .execute()
                    .await
                    .with_context(|| format!("make bridge {name}"))?;
            }
            Ok(())
        })
    }

    /// Makes a cable: used at the start and after a test has deleted the interface.
    pub(super) fn plug(&mut self, cable: &Cable) -> Result<()> {
        let host = self.namespace(&cable.host).clone();
        let switch = self.namespace("switch").clone();
        let at = || format!("plug {} of {} into the switch", cable.device, cable.host);
        switch
            .netlink(async |handle| make_pair(&handle, cable, &host).await)
            .with_context(at)?;
        host.netlink(async |handle| configure(&handle, cable).await)
            .with_context(at)?;
        if cable.host == "lb" {
            let link = switch
                .run(|| {
                    ethtool::switch_off(&cable.port)?;
                    bpf::attach_xdp(nix::net::if_::if_nametoindex(cable.port.as_str())?, &PASS)
                })
                .with_context(at)?;
            self.pass.insert(cable.port.clone(), link);
        } else if self.steered {
            steer::by_flow(&host, cable.device, &self.directory).with_context(at)?;
        }
        if self.steered {
            steer::by_flow(&switch, &cable.port, &self.directory).with_context(at)?;
        }
        Ok(())
    }
}

impl Topology {
    /// From now on VLAN tags travel in the frames themselves on all cables.
    pub fn keep_tags_in_frames(&self) -> Result<()> {
        for cable in &self.cables {
            let ends = [
                ("switch", cable.port.as_str()),
                (cable.host.as_str(), cable.device),
            ];
            for (host, device) in ends {
                self.run_in(host, || ethtool::keep_tags_in_frames(device))?;
            }
        }
        Ok(())
    }

    /// Waits until cables carry frames: the bridge ports forward and IPv6 has its link-local
    /// addresses. The kernel does both some time after the interface is up, when it has looked at
    /// the carrier.
    pub(super) fn wait_until_up(&self, cables: &[Cable]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        for cable in cables {
            let switch = [(self.namespace("switch"), cable.port.as_str(), false)];
            let ends =
                switch
                    .into_iter()
                    .chain([(self.namespace(&cable.host), cable.device, true)]);
            for (namespace, device, link_local) in ends {
                namespace.netlink(async |handle| {
                    while !is_up(&handle, device, link_local).await? {
                        if Instant::now() > deadline {
                            bail!("{device} of {} does not come up", cable.host);
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}

async fn is_up(handle: &rtnetlink::Handle, device: &str, link_local: bool) -> Result<bool> {
    let mut links = handle.link().get().match_name(device.to_owned()).execute();
    let link = links
        .try_next()
        .await?
        .with_context(|| format!("no interface {device}"))?;
    if !link
        .attributes
        .contains(&LinkAttribute::OperState(State::Up))
    {
        return Ok(false);
    }
    if !link_local {
        return Ok(true);
    }
    let addresses = handle
        .address()
        .get()
        .set_link_index_filter(link.header.index)
        .execute();
    let addresses: Vec<_> = addresses.try_collect().await?;
    Ok(addresses.iter().any(|a| {
        a.header.scope == AddressScope::Link
            && !a.header.flags.contains(AddressHeaderFlags::Tentative)
    }))
}

impl Drop for Topology {
    fn drop(&mut self) {
        for namespace in self.namespaces.values() {
            if let Ok(inode) = namespace.inode() {
                cleanup::kill_inside(inode);
            }
        }
        if let Err(e) = cleanup::remove_directory(&self.directory) {
            eprintln!("{e:#}");
        }
    }
}

/// The veth pair, its near end in the switch and its far end in the host.
async fn make_pair(handle: &rtnetlink::Handle, cable: &Cable, host: &Namespace) -> Result<()> {
    let peer = LinkUnspec::new_with_name(cable.device)
        .address(cable.mac.to_vec())
        .setns_by_fd(host.fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(&cable.port, cable.device)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .context("make a veth pair")?;
    let bridge = index_of(handle, cable.bridge).await?;
    let port = LinkUnspec::new_with_name(&cable.port)
        .controller(bridge)
        .up()
        .build();
    handle
        .link()
        .set(port)
        .execute()
        .await
        .context("add the port to its bridge")
}

async fn configure(handle: &rtnetlink::Handle, cable: &Cable) -> Result<()> {
    let up = LinkUnspec::new_with_name(cable.device).up().build();
    handle
        .link()
        .set(up)
        .execute()
        .await
        .context("set the interface up")?;
    let index = index_of(handle, cable.device).await?;
    for (address, length) in &cable.addresses {
        add_address(handle, index, *address, *length).await?;
    }
    for route in &cable.routes {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(route.to.0, route.to.1)?
            .gateway(route.via)?
            .output_interface(index)
            .build();
        handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("add the route to {}/{}", route.to.0, route.to.1))?;
    }
    Ok(())
}

async fn own_all_vips(handle: rtnetlink::Handle) -> Result<()> {
    let index = index_of(&handle, "lo").await?;
    for family in FAMILIES {
        let length = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        for n in 0..VIPS {
            add_address(&handle, index, vip(family, n), length).await?;
        }
    }
    Ok(())
}

/// Adds an address that works at once.
pub(super) async fn add_address(
    handle: &rtnetlink::Handle,
    index: u32,
    address: IpAddr,
    length: u8,
) -> Result<()> {
    let mut request = handle.address().add(index, address, length);
    if address.is_ipv6() {
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
        if address == nat_source(Family::V6) {
            // The host itself is to speak from another one.
            let mut deprecated = CacheInfo::default();
            deprecated.ifa_valid = u32::MAX;
            message
                .attributes
                .push(AddressAttribute::CacheInfo(deprecated));
        }
    }
    request
        .execute()
        .await
        .with_context(|| format!("add address {address}/{length}"))
}

/// The index of an interface by its name.
pub(super) async fn index_of(handle: &rtnetlink::Handle, name: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("look for interface {name}"))?;
    let link = link.with_context(|| format!("no interface {name}"))?;
    debug_assert!(
        link.attributes
            .contains(&LinkAttribute::IfName(name.to_owned()))
    );
    Ok(link.header.index)
}
