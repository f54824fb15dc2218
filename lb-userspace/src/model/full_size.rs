//! How large the packets of clients may be on their way to a backend, as checks are to prove it. Pure.

use lb_common::Family;

use super::{Backend, FITTING_MSS, Protocol, Service, family};

/// What clients' packets have at most nearly everywhere, in bytes: the MTU of Ethernet.
pub const USUAL_SIZE: u16 = 1500;

/// The largest packet that a check sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullSize {
    /// Of a client, with its IP header, in bytes.
    pub most: u32,
    /// What the tunnel to the backend adds, in bytes; 0: there is none.
    pub growth: u32,
    /// Whose path the data plane may have learned.
    pub backend: u32,
}

/// Bytes of an IP header without options or extensions.
pub const fn ip_header(family: Family) -> u32 {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Bytes of a TCP header without options.
pub const TCP_HEADER: u32 = 20;

impl Service {
    /// What its checks of a backend with this id prove; `None`: nothing about sizes.
    pub fn full_size(&self, backend: &Backend, id: u32) -> Option<FullSize> {
        let most = u32::from(self.health.full_size?);
        let own = family(backend.address);
        // Where the backend's SYN+ACK passes the balancer, clients learn there how large their segments may be.
        let limited = self.forwarding.translates()
            && matches!(self.protocol, Protocol::Tcp | Protocol::Any)
            && !matches!(self.mss, 0 | FITTING_MSS);
        let segment = u32::from(self.mss).saturating_add(ip_header(own));
        Some(FullSize {
            most: match limited {
                true => most.min(segment.saturating_add(TCP_HEADER)),
                false => most,
            },
            growth: match self.forwarding.is_tunnel() {
                true => self.tunnel(backend.address).growth(own),
                false => 0,
            },
            backend: id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::model::Forwarding;

    fn of(change: impl FnOnce(&mut Service)) -> Option<FullSize> {
        let mut service = fixture::service("web 192.0.2.1:80 b1=192.0.2.11:80");
        service.health.full_size = Some(USUAL_SIZE);
        change(&mut service);
        let backend = service.backends.values().next()?;
        service.full_size(backend, 7)
    }

    #[test]
    fn a_tunnel_adds_its_headers_and_mss_counts_only_where_clients_hear_of_it() {
        let size = |most, growth| {
            Some(FullSize {
                most,
                growth,
                backend: 7,
            })
        };
        for (forwarding, mss, expected) in [
            (Forwarding::Dnat, 0, size(1500, 0)),
            (Forwarding::Dnat, 1400, size(1440, 0)),
            (Forwarding::Fullnat, 1400, size(1440, 0)),
            (Forwarding::Dnat, FITTING_MSS, size(1500, 0)),
            (Forwarding::Dnat, 9000, size(1500, 0)),
            (Forwarding::L2dsr, 1400, size(1500, 0)),
            (Forwarding::Ipip, 1400, size(1500, 20)),
            (Forwarding::Gue, 0, size(1500, 28)),
        ] {
            let found = of(|service| {
                service.forwarding = forwarding;
                service.mss = mss;
            });
            assert_eq!(found, expected, "{forwarding:?} {mss}");
        }
        assert_eq!(of(|service| service.health.full_size = None), None);
    }
}
