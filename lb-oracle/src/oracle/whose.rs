//! Whose packet it is: the most specific service that takes it (README.md, "Ranges"; `docs/ranges.md`).

use std::{
    cmp::Reverse,
    net::{IpAddr, SocketAddr},
};

use lb_common::{Protocol, Reach, Spread, quic::Lengths};

use super::known::{Maps, Service, starts_alike};

/// What a packet says of the service that it is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    /// 0 where its protocol has none.
    pub(super) port: u16,
    pub(super) protocol: u8,
}

impl Target {
    pub(super) fn new(to: SocketAddr, protocol: u8) -> Self {
        Self {
            address: to.ip(),
            port: to.port(),
            protocol,
        }
    }
}

/// True for TCP, UDP and SCTP.
pub(super) fn has_ports(protocol: u8) -> bool {
    [6, 17, 132].contains(&protocol)
}

impl Service {
    /// Bits of the address that count, of its family.
    fn bits(&self) -> u32 {
        match (self.reach, self.vip.ip()) {
            (Some(reach), IpAddr::V4(_)) => u32::from(reach.length) - 96,
            (Some(reach), IpAddr::V6(_)) => reach.length.into(),
            (None, _) => 128,
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        match self.reach {
            Some(_) => starts_alike(self.vip.ip(), address, self.bits()),
            None => self.vip.ip() == address,
        }
    }

    /// First and last port.
    fn ports(&self) -> (u16, u16) {
        let port = self.vip.port();
        self.reach
            .map_or((port, port), |Reach { low, high, .. }| (low, high))
    }

    fn takes(&self, target: &Target) -> bool {
        let (low, high) = self.ports();
        let any = self.protocol == Protocol::Any as u8;
        let fits = match has_ports(target.protocol) {
            true => {
                (any || self.protocol == target.protocol) && (low..=high).contains(&target.port)
            }
            // Only who takes everything takes what has no ports.
            false => any && (low, high) == (0, u16::MAX),
        };
        fits && self.holds(target.address)
    }

    /// The least is the most specific.
    fn rank(&self) -> (Reverse<u32>, bool, u16) {
        let bits = match self.reach {
            None => 128,
            Some(reach) => reach.length.into(),
        };
        let (low, high) = self.ports();
        (
            Reverse(bits),
            self.protocol == Protocol::Any as u8,
            high - low,
        )
    }

    /// It has one address, one port and one protocol, and nothing about it is unusual: a reply does not go before it.
    fn is_usual(&self) -> bool {
        self.reach.is_none() && self.spread == Spread::Flow && self.quic == Lengths::NONE
    }

    /// The address and port that a client of it has sent to, where a backend's packet, or a client's, has this port.
    pub(super) fn front(&self, port: u16) -> Option<SocketAddr> {
        match self.reach {
            None => Some(self.vip),
            Some(reach) => (reach.low..=reach.high)
                .contains(&port)
                .then(|| SocketAddr::new(self.vip.ip(), port)),
        }
    }
}

impl Maps {
    /// A VIP, or one of a prefix, whatever is served there.
    pub(super) fn is_vip(&self, address: IpAddr) -> bool {
        self.services.iter().any(|service| service.holds(address))
    }

    /// How many services fit.
    pub(super) fn takers(&self, target: &Target) -> usize {
        let all = self.services.iter();
        all.filter(|service| service.takes(target)).count()
    }

    /// The service.
    pub(super) fn service_at(&self, target: &Target) -> Option<usize> {
        let all = self.services.iter().enumerate();
        let fits = all.filter(|(_, service)| service.takes(target));
        fits.min_by_key(|(_, service)| service.rank())
            .map(|(at, _)| at)
    }

    /// The service, if it is asked before it is known whether the packet is a reply.
    pub(super) fn usual_at(&self, target: &Target) -> Option<usize> {
        self.service_at(target)
            .filter(|at| self.services[*at].is_usual())
    }

    /// Packets of this protocol to the service go the long way, on which some things are looked at in another order.
    pub(super) fn is_aside(&self, service: usize, protocol: u8) -> bool {
        !self.services[service].is_usual() || !matches!(protocol, 6 | 17)
    }
}
