//! Where a packet leaves, with which Ethernet addresses, and how large it may be there.

use lb_common::DropReason;

use super::{
    Fate, Oracle,
    flow::Tuple,
    known::Backend,
    link::{Link, Links},
    packet::Mac,
};

/// New Ethernet addresses.
pub(super) struct Macs {
    pub(super) to: Mac,
    pub(super) from: Mac,
}

impl Macs {
    pub(super) fn on(&self, mut frame: Vec<u8>) -> Vec<u8> {
        frame[..6].copy_from_slice(&self.to);
        frame[6..12].copy_from_slice(&self.from);
        frame
    }
}

impl Oracle {
    /// The way to a backend, and the MTU there.
    pub(super) fn way_to(
        &self,
        backend: &Backend,
        ingress: Link,
    ) -> Result<(Fate, Macs, u32), DropReason> {
        let hop = self.maps.hop(backend.next_hop)?;
        let macs = Macs {
            to: hop.mac,
            from: hop.our_mac(),
        };
        let fate = match hop.link() == ingress {
            true => Fate::Tx,
            false if self.maps.links.has(hop.link()) => Fate::Redirect(hop.link()),
            false => return Err(DropReason::MapInconsistent),
        };
        Ok((fate, macs, self.maps.mtu(backend.next_hop)))
    }

    /// The way to the client of a flow, and the MTU there.
    pub(super) fn way_back(
        &self,
        tuple: &Tuple,
        ingress: Link,
    ) -> Result<(Fate, Macs, u32), DropReason> {
        self.way_out(self.flows.hop(tuple), ingress)
    }

    /// The way to a client whose packets come from there, and the MTU there.
    pub(super) fn way_out(
        &self,
        hop: Option<(Mac, Link)>,
        ingress: Link,
    ) -> Result<(Fate, Macs, u32), DropReason> {
        let (mac, link) = hop.ok_or(DropReason::NoReturnHop)?;
        if !self.maps.links.has(link) || mac == [0; 6] {
            return Err(DropReason::NoReturnHop);
        }
        let macs = Macs {
            to: mac,
            from: Links::mac(link),
        };
        let fate = match link == ingress {
            true => Fate::Tx,
            false => Fate::Redirect(link),
        };
        Ok((fate, macs, self.maps.links.mtu(link)))
    }
}
