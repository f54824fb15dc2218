//! Where the packets of a check go: to a backend's own address, or to the VIP on it as clients' packets do. Pure.

use std::net::IpAddr;

use lb_common::Address;
use lb_common::probe::ProbePath;

use super::{Backend, Check, Forwarding, Prefix, Service, family};

/// What a check is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The VIP, on that very backend.
    Vip,
    /// The backend's own address.
    Backend,
}

/// How a check's packets go to the VIP on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealPath {
    /// The mark of its socket.
    pub mark: u32,
    /// The VIP.
    pub vip: IpAddr,
    /// What becomes of packets with that mark.
    pub path: ProbePath,
    /// The operator wants the VIP checked and nothing else: `target = "vip"`.
    pub only: bool,
}

/// An address as the maps have it.
fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::v4(address.octets()),
        IpAddr::V6(address) => Address::v6(address.octets()),
    }
}

impl Service {
    /// Why checks of it cannot go to the VIP, for people; `None`: they can.
    pub fn without_real_path(&self) -> Option<&'static str> {
        if matches!(
            self.health.check,
            Check::None | Check::Icmp | Check::Exec(_)
        ) {
            return Some("a check of this type has no connection to a port of the service");
        }
        no_real_path(self.forwarding, self.address)
    }

    /// What a backend's checks are addressed to.
    pub fn aim(&self, backend: &Backend) -> Aim {
        let port = self.health.port.or(backend.port);
        // A port that is no client's need not be open at the VIP.
        let serves = port.is_some_and(|port| self.port.contains(port));
        let mixed = family(backend.address) != self.address.family();
        match self.health.target {
            _ if mixed || self.without_real_path().is_some() => Aim::Backend,
            None if !serves => Aim::Backend,
            None => Aim::Vip,
            Some(aim) => aim,
        }
    }

    /// How a backend's checks go to the VIP; `None`: they do not. `sources`: of tunnels.
    pub fn probe_path(&self, backend: &Backend, sources: &[Prefix]) -> Option<ProbePath> {
        if self.aim(backend) != Aim::Vip {
            return None;
        }
        let vip = mapped(self.address.address()).words();
        let path = ProbePath {
            vip,
            ..ProbePath::NONE
        };
        if !self.forwarding.is_tunnel() {
            return Some(path);
        }
        let ours = |source: &&Prefix| source.family() == family(backend.address);
        let source = sources.iter().find(ours)?;
        Some(ProbePath {
            source: mapped(source.address()).words(),
            spread: u64::from(source.last_host_bits()),
            tunnel: self.tunnel(backend.address).0,
            ..path
        })
    }
}

/// Why checks of a service cannot go to the VIP, whichever type they have, for people; `None`: they can.
pub fn no_real_path(forwarding: Forwarding, address: Prefix) -> Option<&'static str> {
    if forwarding.translates() {
        return Some(
            "in dnat and fullnat a client's packet is addressed to the backend when it reaches it, as a check is",
        );
    }
    (!address.is_host()).then_some("of a prefix, no address is sure to be on a backend")
}
