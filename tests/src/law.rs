//! The conservation law: every packet that was sent was received, or somebody says that he dropped
//! it. `law/*.rs` counts.
//!
//! **Traffic** is an IPv4 or IPv6 packet of which one end is the client and the other a VIP or a
//! backend, or one is what stands for the client (`fullnat`) and the other a backend. That leaves out ARP, neighbour discovery and what the balancer itself sends and is
//! sent, such as probes. Of a packet in a tunnel the inner one counts. It is counted, in frames as they would be on a wire, where it has nothing
//! to do with what the balancer says about itself: at the hosts and at the switch ports that face
//! the balancer. Beside that stand the counters of the driver and those of the data plane:
//!
//! 1. at the balancer: in = out + drops + driver drops + kept by its kernel;
//! 2. at the hosts: sent = received + drops + driver drops + kept by its kernel + sent to a MAC
//!    address that nobody has, unless the network itself lost frames because a cable was cut;
//! 3. driver and data plane count the same packets in, and the same ones dropped: more dropped by
//!    the driver would be packets for which the program was aborted (`xdp:xdp_exception`). Not in
//!    this are packets that the driver got before it had the program;
//! 4. in the data plane: rx = pass + tx + redirect + drops.

use std::collections::BTreeMap;
use std::fmt;

use crate::daemon::DataPlane;

pub(crate) mod driver;
pub(crate) mod filter;
mod meter;

pub use meter::Meter;

/// Packets of the traffic, counted at one kind of place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// At hosts: sent. At the balancer's ports: on their way into the balancer.
    pub sent: u64,
    /// At hosts: received. At the balancer's ports: come out of the balancer.
    pub received: u64,
}

/// Everything that was counted by one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// At the interfaces of the client and of the backends.
    pub hosts: Flow,
    /// At the switch ports that face the balancer.
    pub ports: Flow,
    /// The driver's counters of the balancer's interfaces (`ethtool -S`, summed over queues and
    /// interfaces) and `tx_dropped` of the ports that face it.
    pub driver: BTreeMap<String, u64>,
    /// True when a cable was cut or an interface deleted: frames may be lost without a counter,
    /// in the network, and the driver's counters may have gone with their interface.
    pub broken: bool,
}

/// What a test lets happen to packets that nobody drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Excused {
    /// Packets of the traffic that the balancer's kernel may have got and kept: so many at most.
    pub kept: u64,
    /// Packets of the traffic that left the balancer for a MAC address that nobody has any more: so
    /// many at most.
    pub astray: u64,
    /// Packets, of the traffic or others, that the driver counted before it had the program: a veth
    /// begins to count a moment earlier (drivers/net/veth.c, `veth_enable_xdp`).
    pub early: u64,
    /// Packets that came to the balancer as a router's and left it as the traffic's, which are its ICMP errors that `fullnat`
    /// sends on from what stands for clients: just so many.
    pub adopted: u64,
}

/// What kept the law from holding.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    /// What did not add up, for people.
    pub complaints: Vec<String>,
    counters: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "packets are not conserved: {}; {}",
            self.complaints.join("; "),
            self.counters
        )
    }
}

impl std::error::Error for Violation {}

impl Reading {
    fn driver(&self, name: &str) -> u64 {
        self.driver.get(name).copied().unwrap_or_default()
    }

    /// What was counted since an earlier reading.
    #[must_use]
    pub fn since(mut self, base: &Self) -> Self {
        for (flow, base) in [(&mut self.hosts, base.hosts), (&mut self.ports, base.ports)] {
            flow.sent -= base.sent;
            flow.received -= base.received;
        }
        for (name, value) in &mut self.driver {
            // An interface that was made anew has counted nothing yet.
            *value = value.saturating_sub(base.driver(name));
        }
        self
    }

    /// For a base: leaves out what hosts and ports counted between two readings. What the balancer's
    /// driver and data plane counted meanwhile stays.
    pub fn leave_out(&mut self, before: &Self, after: &Self) {
        let hosts = (&mut self.hosts, before.hosts, after.hosts);
        let ports = (&mut self.ports, before.ports, after.ports);
        for (flow, before, after) in [hosts, ports] {
            flow.sent += after.sent - before.sent;
            flow.received += after.received - before.received;
        }
    }

    /// Packets that the driver's interfaces counted in.
    pub fn driver_packets(&self) -> u64 {
        self.driver("xdp_packets")
    }

    /// Packets of the traffic that the driver lost in the balancer and on the way out of it, by
    /// the name of its counter.
    pub fn driver_drops(&self) -> BTreeMap<&'static str, u64> {
        let redirected = self.driver("xdp_redirect");
        let given = self.driver("xdp_xmit") + self.driver("xdp_xmit_errors");
        BTreeMap::from([
            // The other end's ring was full.
            ("xdp_tx_errors", self.driver("xdp_tx_errors")),
            ("xdp_xmit_errors", self.driver("xdp_xmit_errors")),
            // The other end was down (xdp:xdp_devmap_xmit).
            (
                "redirected to a link that is down",
                redirected.saturating_sub(given),
            ),
        ])
    }

    /// Packets that the driver lost, of the traffic or others.
    pub fn driver_drops_of_any(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([
            // On the way in: the ring was full, or the balancer's end down.
            ("tx_dropped", self.driver("tx_dropped")),
            // No memory, or a redirect to nowhere (xdp:xdp_redirect_err).
            ("drops", self.driver("drops")),
        ])
    }

    /// Checks the law.
    pub fn check(&self, plane: &DataPlane, excused: Excused) -> Result<(), Violation> {
        let mut wrong = vec![];
        let lost = plane.dropped() + self.driver_drops().values().sum::<u64>();
        let perhaps = excused.kept + self.driver_drops_of_any().values().sum::<u64>();
        let mut balance = |place: &str, flow: Flow, perhaps: u64| {
            let (sent, out) = (flow.sent + excused.adopted, flow.received + lost);
            if sent < out || sent > out + perhaps {
                wrong.push(format!(
                    "{place}: {flow:?} with {lost} dropped, and up to {perhaps} more"
                ));
            }
        };
        balance("at the balancer", self.ports, perhaps);
        if !self.broken {
            balance("at the hosts", self.hosts, perhaps + excused.astray);
            let mut same = |what: &str, driver: u64, ours: u64| {
                if driver != ours {
                    wrong.push(format!("{what}: driver {driver}, data plane {ours}"));
                }
            };
            let in_time = self.driver_packets().saturating_sub(excused.early);
            same("packets in", in_time, plane.rx);
            same("packets dropped", self.driver("xdp_drops"), plane.dropped());
        }
        if !plane.conserved() {
            wrong.push("in the data plane".to_owned());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Violation {
            complaints: wrong,
            counters: format!("driver: {:?}; {plane:?}", self.driver),
        })
    }
}
