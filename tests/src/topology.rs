//! The network of the lab and of the end-to-end tests, as plain values: which namespaces there
//! are, which cables, which addresses. `topology/*.rs` makes it real.
//!
//! ```text
//!   client ──┐ front                      back ┌── b1
//!            ├───────── switch ════════════════┼── b2
//!   lb  eth0 ┘            (two bridges)        ├── b3
//!   lb  eth1 ──────────────────────────────────┘
//! ```
//!
//! Every host hangs on a bridge in the namespace `switch`. So a backend's link can go down without
//! the balancer losing carrier, as with a real switch, and what the balancer sends toward a dead
//! host is still seen on the switch port. With [`Arms::One`] everything hangs on one bridge and the
//! balancer answers out of the interface a packet came in by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use lb_common::service::{Family, Forwarding};

mod build;
mod cleanup;
pub(crate) mod ethtool;
mod fault;
pub(crate) mod namespace;
mod spawn;
mod steer;
mod uplink;

pub use build::{PASS, Topology};
pub(crate) use cleanup::unmount_below;
pub use cleanup::{interrupted, remove_owned_by, sweep, take_over_interrupts};
pub use fault::has_xdp;
pub use namespace::{Namespace, require_root};
pub use spawn::Process;
pub use steer::cpu_mask;
pub use uplink::{UPLINK, Uplink};

/// A MAC address.
pub type Mac = [u8; 6];

/// How many interfaces the balancer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// One: clients and backends on the same segment, packets leave where they came in (`XDP_TX`).
    One,
    /// Two: clients on one, backends on the other (redirect).
    Two,
}

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Backends `b1` to `bN`; at most 200.
    pub backends: u8,
    /// Interfaces of the balancer.
    pub arms: Arms,
    /// How replies return: through the balancer, or straight to the client with the VIPs on the
    /// backends' loopback.
    pub forwarding: Forwarding,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            backends: 3,
            arms: Arms::Two,
            forwarding: Forwarding::Dnat,
        }
    }
}

/// VIPs that are routed to the balancer, in each family.
pub const VIPS: u8 = 28;

/// The `n`th VIP of a family, `n` below [`VIPS`]: 10.10.0.100, ... or fd00:10::100, ...
/// Clients have a route to all of them through the balancer, so that none must be claimed.
pub fn vip(family: Family, n: u8) -> IpAddr {
    assert!(n < VIPS, "there are {VIPS} VIPs, not {n}");
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 0, 100 + n).into(),
        Family::V6 => front6(0x100 + u16::from(n)).into(),
    }
}

/// The client's address.
pub fn client(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 0, 2).into(),
        Family::V6 => front6(2).into(),
    }
}

/// The address of backend `b<n>`, from 1.
pub fn backend(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 1, n).into(),
        Family::V6 => back6(u16::from(n)).into(),
    }
}

/// What stands for clients among the backends.
pub fn nat_source(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 1, 253).into(),
        Family::V6 => back6(0xfd).into(),
    }
}

/// The balancer's address among the clients.
pub fn balancer_front(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 0, 1).into(),
        Family::V6 => front6(1).into(),
    }
}

/// The balancer's address among the backends.
pub fn balancer_back(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 1, 254).into(),
        Family::V6 => back6(0xfe).into(),
    }
}

/// The MAC address of backend `b<n>`, until a test changes it.
pub const fn backend_mac(n: u8) -> Mac {
    [0x02, 0xf1, 0, 0, 1, n]
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn front6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, host)
}

fn back6(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 1, 0, 0, 0, 0, host)
}

fn direct(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10, 0, 200u8.saturating_add(n)).into(),
        Family::V6 => front6(0x200 + u16::from(n)).into(),
    }
}

/// An address or network with its prefix length.
pub type Prefix = (IpAddr, u8);

/// A route of a host.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where to; prefix length 0 is the default route.
    pub to: Prefix,
    /// The router.
    pub via: IpAddr,
}

/// A host's interface and the switch port it is plugged into.
#[derive(Clone, Debug)]
pub struct Cable {
    /// The host: the last part of its namespace's name.
    pub host: String,
    /// The interface in the host.
    pub device: &'static str,
    /// Its MAC address.
    pub mac: Mac,
    /// The interface in the switch.
    pub port: String,
    /// The bridge it belongs to.
    pub bridge: &'static str,
    /// Addresses of `device`.
    pub addresses: Vec<Prefix>,
    /// Routes through `device`.
    pub routes: Vec<Route>,
}

impl Shape {
    /// Backends have the VIPs on their loopback and answer clients themselves.
    pub fn returns_directly(&self) -> bool {
        !self.forwarding.translates()
    }

    /// The hosts besides the switch.
    pub fn hosts(&self) -> Vec<String> {
        let backends = (1..=self.backends).map(|n| format!("b{n}"));
        ["client".to_owned(), "lb".to_owned()]
            .into_iter()
            .chain(backends)
            .collect()
    }

    /// The interfaces of the balancer that want a data plane.
    pub fn balancer_devices(&self) -> &'static [&'static str] {
        match self.arms {
            Arms::One => &["eth0"],
            Arms::Two => &["eth0", "eth1"],
        }
    }

    /// The interface of the balancer toward the backends.
    pub fn balancer_back_device(&self) -> &'static str {
        match self.arms {
            Arms::One => "eth0",
            Arms::Two => "eth1",
        }
    }

    /// The switch port that carries what the balancer sends to the backends.
    pub fn back_port(&self) -> &'static str {
        match self.arms {
            Arms::One => "lb",
            Arms::Two => "lb1",
        }
    }

    fn back_bridge(&self) -> &'static str {
        match self.arms {
            Arms::One => "front",
            Arms::Two => "back",
        }
    }

    /// Every cable.
    pub fn cables(&self) -> Vec<Cable> {
        let mut cables = vec![self.client_cable()];
        cables.extend(self.balancer_cables());
        for n in 1..=self.backends {
            cables.push(self.backend_cable(n));
            if self.returns_directly() && self.arms == Arms::Two {
                cables.push(direct_cable(n));
            }
        }
        cables
    }

    fn client_cable(&self) -> Cable {
        let mut routes = vec![
            Route {
                to: vip_range(Family::V4),
                via: balancer_front(Family::V4),
            },
            Route {
                to: vip_range(Family::V6),
                via: balancer_front(Family::V6),
            },
        ];
        for family in FAMILIES {
            routes.push(Route {
                to: back_net(family),
                via: balancer_front(family),
            });
        }
        Cable {
            host: "client".to_owned(),
            device: "eth0",
            mac: [0x02, 0xf1, 0, 0, 0, 2],
            port: "client".to_owned(),
            bridge: "front",
            addresses: FAMILIES.map(|f| (client(f), front_length(f))).to_vec(),
            routes,
        }
    }

    fn balancer_cables(&self) -> Vec<Cable> {
        let mut front = Cable {
            host: "lb".to_owned(),
            device: "eth0",
            mac: [0x02, 0xf1, 0, 0, 0, 1],
            port: "lb".to_owned(),
            bridge: "front",
            addresses: FAMILIES
                .map(|f| (balancer_front(f), front_length(f)))
                .to_vec(),
            routes: vec![],
        };
        let mut back = FAMILIES
            .map(|f| (balancer_back(f), front_length(f)))
            .to_vec();
        if self.forwarding == Forwarding::Fullnat {
            back.extend(FAMILIES.map(|f| (nat_source(f), front_length(f))));
        }
        match self.arms {
            Arms::One => {
                front.addresses.extend(back);
                vec![front]
            }
            Arms::Two => {
                let back = Cable {
                    device: "eth1",
                    mac: [0x02, 0xf1, 0, 0, 1, 0xfe],
                    port: "lb1".to_owned(),
                    bridge: "back",
                    addresses: back,
                    ..front.clone()
                };
                vec![front, back]
            }
        }
    }

    fn backend_cable(&self, n: u8) -> Cable {
        let routes = match self.forwarding {
            Forwarding::Dnat => FAMILIES
                .map(|f| Route {
                    to: (unspecified(f), 0),
                    via: balancer_back(f),
                })
                .to_vec(),
            // That it reaches nobody but its neighbours is what `fullnat` is for.
            Forwarding::Fullnat | Forwarding::L2dsr | Forwarding::Ipip | Forwarding::Gue => vec![],
        };
        let mut addresses = FAMILIES.map(|f| (backend(f, n), front_length(f))).to_vec();
        if self.returns_directly() && self.arms == Arms::One {
            addresses.extend(FAMILIES.map(|f| (direct(f, n), front_length(f))));
        }
        Cable {
            host: format!("b{n}"),
            device: "eth0",
            mac: backend_mac(n),
            port: format!("b{n}"),
            bridge: self.back_bridge(),
            addresses,
            routes,
        }
    }
}

/// With two arms and direct return a backend has a second interface, among the clients.
fn direct_cable(n: u8) -> Cable {
    Cable {
        host: format!("b{n}"),
        device: "eth1",
        mac: [0x02, 0xf1, 0, 0, 2, n],
        port: format!("b{n}d"),
        bridge: "front",
        addresses: FAMILIES.map(|f| (direct(f, n), front_length(f))).to_vec(),
        routes: vec![],
    }
}

fn front_length(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

fn back_net(family: Family) -> Prefix {
    match family {
        Family::V4 => (Ipv4Addr::new(10, 10, 1, 0).into(), 24),
        Family::V6 => (back6(0).into(), 64),
    }
}

fn vip_range(family: Family) -> Prefix {
    match family {
        Family::V4 => (Ipv4Addr::new(10, 10, 0, 96).into(), 27),
        Family::V6 => (front6(0x100).into(), 120),
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
