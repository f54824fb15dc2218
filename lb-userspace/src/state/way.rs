//! Ways to addresses: routes and interfaces as netlink tells them, and the next hops that follow.

use std::net::IpAddr;

use lb_common::NextHop;
use lb_common::backend::{DEVICES, device_slot};

use super::{State, devices, members, record};
use crate::event::{Effect, Record};
use crate::ids::hops::NOWHERE;
use crate::model::{Link, Route, link};

/// The way to an address now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index into `next_hops`.
    pub index: u32,
    /// Or why it cannot be used, for people.
    pub resolved: Result<Hop, String>,
}

/// A usable way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Interface to leave by.
    pub ifindex: u32,
    /// Its MAC address.
    pub source: [u8; 6],
    /// The neighbour's.
    pub destination: [u8; 6],
}

impl State {
    /// The way to an address.
    pub fn way(&self, address: IpAddr) -> Way {
        let nowhere = |reason: &str| Way {
            index: NOWHERE,
            resolved: Err(reason.to_owned()),
        };
        let (ifindex, source, destination) = match self.routes.get(&address) {
            None => return nowhere("not looked up yet"),
            // The last hop keeps its index, so that the way back is one store.
            Some(route @ (Route::Unresolved(_) | Route::Elsewhere { .. })) => {
                let last = self.hops.range(address).next();
                return Way {
                    index: last.map_or(NOWHERE, |(_, index)| index),
                    resolved: Err(route.to_string()),
                };
            }
            Some(Route::Resolved {
                ifindex,
                source,
                destination,
            }) => (*ifindex, *source, *destination),
        };
        let Some(index) = self.hops.get(&(address, ifindex)) else {
            return nowhere("no next hop is left (raise [limits] next-hops)");
        };
        let unusable = |reason: String| Way {
            index,
            resolved: Err(reason),
        };
        match self.links.get(&ifindex) {
            None if self.adopted.contains_key(&ifindex) => {}
            None => return unusable(format!("interface {ifindex} is not known")),
            Some(link) if !link.up => return unusable(format!("interface {} is down", link.name)),
            Some(link) => {
                if let Err(why) = link::port(link, |ifindex| self.links.get(&ifindex)) {
                    return unusable(why);
                }
                if let Some(bar) = self.barred.get(&ifindex) {
                    return unusable(bar.to_string());
                }
            }
        }
        match self.devices.get(&device_slot(ifindex)) {
            Some(device) if device.ifindex == ifindex => {}
            other => {
                let theirs = other.map_or(0, |device| device.ifindex);
                return unusable(format!(
                    "interface {ifindex} has the slot of interface {theirs} (recreate one, so that their indexes differ modulo {DEVICES})"
                ));
            }
        }
        Way {
            index,
            resolved: Ok(Hop {
                ifindex,
                source,
                destination,
            }),
        }
    }

    /// The next hops of an address as the maps should hold them.
    pub(crate) fn next_hops(&self, address: IpAddr) -> impl Iterator<Item = (u32, NextHop)> {
        let way = self.way(address);
        let all = self.hops.range(address);
        all.map(move |((_, ifindex), index)| (index, self.next_hop(&way, ifindex)))
    }

    pub(super) fn routed(
        &mut self,
        now: u64,
        address: IpAddr,
        route: Route,
        effects: &mut Vec<Effect>,
    ) {
        if !self.at.contains_key(&address) || self.routes.get(&address) == Some(&route) {
            return;
        }
        if let Route::Resolved { ifindex, .. } = &route {
            let ifindex = *ifindex;
            // When there is none left, `way` says so.
            let _none_left = self
                .hops
                .assign((address, ifindex), self.sizes.next_hops, now);
            self.dirty.image |= self.hops.only(address, ifindex);
        }
        record(
            effects,
            Record::Route {
                address,
                route: route.clone(),
            },
        );
        let after = interface(&route);
        let before = self.routes.insert(address, route);
        let before = before.as_ref().and_then(interface);
        if before != after && self.passes(before, after) {
            self.refresh_devices();
            self.egress_changed = true;
        }
        self.mark_address(address);
    }

    /// A way leaves by another interface than before. True: an interface is used for the first time or
    /// not any more.
    fn passes(&mut self, before: Option<u32>, after: Option<u32>) -> bool {
        let mut changed = false;
        if let Some(after) = after {
            let ways = self.leaving.entry(after).or_default();
            changed |= *ways == 0;
            *ways = ways.saturating_add(1);
        }
        if let Some(before) = before
            && let Some(ways) = self.leaving.get_mut(&before)
        {
            *ways = ways.saturating_sub(1);
            if *ways == 0 {
                self.leaving.remove(&before);
                changed = true;
            }
        }
        changed
    }

    /// Counts anew how many ways leave by each interface.
    pub(super) fn count_leaving(&mut self) {
        self.egress_changed = true;
        self.leaving.clear();
        for ifindex in self.routes.values().filter_map(interface) {
            let ways = self.leaving.entry(ifindex).or_default();
            *ways = ways.saturating_add(1);
        }
    }

    pub(super) fn linked(&mut self, link: Link, effects: &mut Vec<Effect>) {
        let adopted = self.adopted.remove(&link.ifindex);
        let before = self.links.insert(link.ifindex, link.clone());
        if before.as_ref() == Some(&link) {
            return;
        }
        self.egress_changed = true;
        let bond = match &before {
            Some(before) => before.bond,
            None => adopted.as_ref().and_then(members::bond_of),
        };
        self.changes_bond(link.ifindex, bond, link.bond);
        let adopted = adopted.is_some();
        let ours = |link: &Link| self.may_send_by(link);
        if !adopted && !ours(&link) && !before.as_ref().is_some_and(ours) {
            if self.carries(link.ifindex) {
                self.refresh_devices();
            }
            return;
        }
        let what = match (&before, link.up) {
            (None, true) => "appeared, up",
            (None, false) => "appeared, down",
            (Some(old), true) if !old.up => "up",
            (Some(old), false) if old.up => "down",
            (Some(_), _) => "changed",
        };
        record(
            effects,
            Record::Link {
                name: link.name.clone(),
                what: what.to_owned(),
            },
        );
        self.link_changed(link.ifindex);
    }

    pub(super) fn unlinked(&mut self, ifindex: u32, effects: &mut Vec<Effect>) {
        let adopted = self.adopted.remove(&ifindex).is_some();
        let link = self.links.remove(&ifindex);
        self.egress_changed = true;
        self.forget_bond(ifindex);
        let bond = link.as_ref().and_then(|link| link.bond);
        self.changes_bond(ifindex, bond, None);
        if adopted && link.is_none() {
            self.link_changed(ifindex);
        }
        if let Some(link) = link
            && self.may_send_by(&link)
        {
            record(
                effects,
                Record::Link {
                    name: link.name,
                    what: "gone".to_owned(),
                },
            );
            self.link_changed(ifindex);
        }
    }

    /// The interface of a VLAN is built on this one.
    fn carries(&self, ifindex: u32) -> bool {
        let mut vlans = self.links.values().filter_map(|link| link.vlan);
        vlans.any(|vlan| vlan.lower == Some(ifindex))
    }

    fn link_changed(&mut self, ifindex: u32) {
        let slot = device_slot(ifindex);
        self.refresh_devices();
        let through = |route: &Route| interface(route).map(device_slot) == Some(slot);
        let touched: Vec<IpAddr> = self
            .routes
            .iter()
            .filter(|(_, route)| through(route))
            .map(|(address, _)| *address)
            .collect();
        for address in touched {
            self.mark_address(address);
        }
    }

    pub(super) fn mark_address(&mut self, address: IpAddr) {
        self.dirty.hops.insert(address);
        for key in self.at.get(&address).into_iter().flatten() {
            self.dirty.backends.insert(key.clone());
        }
    }

    /// Packets come or leave by an interface of this name.
    pub(crate) fn uses(&self, name: &str) -> bool {
        let mut named = self.links.values().filter(|link| link.name == name);
        named.any(|link| self.may_send_by(link))
    }

    /// Packets may leave by this interface: packets come in by it, or a way leads there.
    fn may_send_by(&self, link: &Link) -> bool {
        self.leaving.contains_key(&link.ifindex) || self.is_attached(link)
    }

    /// True for one that we are attached to, for the VLANs on it, and for what belongs to a bond of ours.
    fn is_attached(&self, link: &Link) -> bool {
        let named = |link: &Link| {
            self.config.daemon.interfaces.contains(&link.name)
                || self.also_attached.contains(&link.name)
        };
        if named(link)
            || link
                .bond
                .and_then(|bond| self.links.get(&bond))
                .is_some_and(named)
        {
            return true;
        }
        let port = link
            .vlan
            .and_then(|_| link::port(link, |ifindex| self.links.get(&ifindex)).ok());
        port.and_then(|port| self.links.get(&port.ifindex))
            .is_some_and(named)
    }

    /// Interfaces of VLANs that are up and whose frames come in by one that we are attached to: that, they, and whether packets
    /// find them.
    pub(crate) fn vlans(&self) -> impl Iterator<Item = (&Link, &Link, bool)> {
        let vlans = self.links.values();
        let vlans = vlans.filter(|link| link.vlan.is_some() && link.up && self.is_attached(link));
        vlans.filter_map(|link| {
            let port = link::port(link, |ifindex| self.links.get(&ifindex)).ok()?;
            let led = devices::leads_to(&self.devices, link.ifindex);
            Some((self.links.get(&port.ifindex)?, link, led))
        })
    }

    /// The cards that an interface's frames come by, by name.
    pub(crate) fn cards(&self, of: &Link) -> Vec<String> {
        let members = self.links.values();
        let members = members.filter(|link| link.bond == Some(of.ifindex));
        let members: Vec<String> = members.map(|link| link.name.clone()).collect();
        match members.is_empty() {
            true => vec![of.name.clone()],
            false => members,
        }
    }

    /// Interfaces that packets may leave by: those we are attached to, for replies to clients, and those that
    /// a way uses. Of two in one slot, the smaller index stays.
    pub(super) fn refresh_devices(&mut self) {
        let ours = self.links.values().filter(|link| self.may_send_by(link));
        let ours = ours.filter_map(|link| devices::device(link, &self.links));
        let adopted = self.adopted.values().copied();
        let mut all: Vec<_> = adopted.chain(ours).collect();
        all.extend(members::devices(&self.departed, &all));
        let devices = devices::arrange(all, &self.devices);
        if devices != self.devices {
            self.devices = devices;
            self.dirty.image = true;
        }
    }
}

/// The interface of a resolved route.
pub(super) fn interface(route: &Route) -> Option<u32> {
    match route {
        Route::Resolved { ifindex, .. } => Some(*ifindex),
        Route::Unresolved(_) | Route::Elsewhere { .. } => None,
    }
}

impl State {
    /// An entry of `next_hops`: of the interface that the hop leaves by, resolved or not.
    fn next_hop(&self, way: &Way, ifindex: u32) -> NextHop {
        let device = self.devices.get(&device_slot(ifindex));
        let hop = way
            .resolved
            .as_ref()
            .ok()
            .filter(|hop| hop.ifindex == ifindex);
        NextHop {
            destination: hop.map_or([0; 6], |hop| hop.destination),
            resolved: hop.is_some().into(),
            source: hop.map_or([0; 6], |hop| hop.source),
            reserved: 0,
            ifindex,
            used: 1,
            mtu: device
                .filter(|device| device.ifindex == ifindex)
                .map_or(0, |device| device.mtu),
            reserved2: 0,
        }
    }
}
