//! The way to every backend: from the kernel's links, routes and neighbour entries to one
//! [`Route`] per followed address, and what must be asked of the kernel to keep it known.
//!
//! Pure: `neigh/*.rs` feeds it with what netlink says and carries out what it wants.
//! States of a neighbour entry: RFC 4861 section 7.3.2, Linux `include/uapi/linux/neighbour.h`.
//!
//! Packets that XDP sends never pass the kernel's neighbour code, so to the kernel an entry looks
//! unused: it would be left to grow stale and be collected. So each next hop is either `managed`
//! (the kernel itself keeps it resolved, Linux 5.16 and later) or used by name every
//! [`KEEP_ALIVE`]. An entry that a person made permanent is left alone: a use would take that away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::event::Event;
use crate::model::{Link, Route, link};
pub use prefix::host_prefix;
use prefix::range;

pub mod follower;
mod hops;
pub mod netlink;
pub mod notice;
mod prefix;
pub mod release;
pub mod requests;

const MILLISECOND: u64 = 1_000_000;

/// A failed entry is believed after this long. `ip neigh flush` shows an entry as failed for a
/// moment and then removes it; that is no verdict about the host.
pub const SETTLE: u64 = 2 * MILLISECOND;

/// An entry that vanished, or was never there, may be resolved for this long before the address
/// counts as unresolved; until then the last MAC address stays in use.
pub const GRACE: u64 = 1_000 * MILLISECOND;

/// Between two uses of a resolved entry that the kernel does not keep by itself. Up to four
/// seconds are added, different for each address, so that uses spread over time.
pub const KEEP_ALIVE: u64 = 15_000 * MILLISECOND;

/// An entry that is not resolved is asked for at once, and again after this time, which doubles
/// from one attempt to the next ...
pub const RETRY: u64 = 20 * MILLISECOND;

/// So many of these attempts begin anew, the last 300 ms after the first: on a link that has just
/// come up the first question is easily lost. Later ones go at the kernel's own pace.
pub const RESTARTS: u32 = 4;

/// ... up to this.
pub const RETRY_MAX: u64 = 1_000 * MILLISECOND;

/// A neighbour entry's place: interface and address.
pub type Hop = (u32, IpAddr);

/// What the kernel's routing says about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Packets leave by this interface, to the router or to the address itself.
    Via(Hop),
    /// There is no usable way: the reason, for people.
    None(String),
}

/// The state of a neighbour entry, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// `REACHABLE`, `STALE`, `DELAY`, `PROBE`: has a MAC address that may be used.
    Usable,
    /// `PERMANENT`, `NOARP`: the same, and never to be probed.
    Fixed,
    /// `INCOMPLETE`, `NONE`: no answer yet.
    Pending,
    /// `FAILED`: no answer at all.
    Failed,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its state.
    pub state: NeighbourState,
    /// Its MAC address, if it is one of Ethernet.
    pub mac: Option<[u8; 6]>,
    /// The kernel keeps it resolved (`NTF_EXT_MANAGED`).
    pub managed: bool,
}

/// An interface and whether it speaks Ethernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The interface.
    pub link: Link,
    /// `ARPHRD_ETHER`.
    pub ethernet: bool,
}

/// A request to the kernel to resolve a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicit {
    /// Whom.
    pub hop: Hop,
    /// Whether the kernel is to keep it resolved from now on.
    pub managed: bool,
    /// Begin anew: the kernel itself would wait a second before it asks again.
    pub restart: bool,
}

impl Solicit {
    /// A use after which the kernel no longer keeps the entry.
    pub fn release(hop: Hop) -> Self {
        Self {
            hop,
            managed: false,
            restart: false,
        }
    }
}

#[derive(Debug, Default)]
struct Followed {
    answer: Option<Answer>,
    told: Option<Route>,
}

#[derive(Debug)]
struct HopState {
    users: BTreeSet<IpAddr>,
    /// The last MAC address that could be used.
    last: Option<[u8; 6]>,
    /// Since when it has had no usable entry.
    lost: u64,
    /// When to solicit next, and how often that was in vain.
    solicit: Option<u64>,
    attempts: u32,
    /// The link has just come up. Whoever sent to this address before has left an entry that the kernel will
    /// not ask about for a second, and whose use would change nothing: it must go first.
    anew: bool,
    /// The link has come up, and there was no answer since: who was there before is taken to be there still.
    returned: bool,
    /// The present entry was solicited by us: if it is not `managed`, the kernel cannot do that.
    ours: bool,
    /// What the kernel said to the last solicitation, if it refused.
    refused: Option<String>,
}

enum Verdict {
    Known(Route),
    /// Taken to be so; look again then, unless something happens before.
    Until(u64, Route),
    /// Stay with what was told; look again then, unless something happens before.
    Hold(Option<u64>),
}

/// Everything that is known about ways. Times are nanoseconds of one monotonic clock.
#[derive(Debug)]
pub struct Ways {
    interfaces: BTreeSet<String>,
    links: BTreeMap<u32, LinkState>,
    neighbours: BTreeMap<Hop, Neighbour>,
    hops: BTreeMap<Hop, HopState>,
    followed: BTreeMap<IpAddr, Followed>,
    /// Addresses whose answer must be asked for.
    asks: BTreeSet<IpAddr>,
    /// Addresses whose verdict may have changed.
    dirty: BTreeSet<IpAddr>,
    timers: BTreeSet<(u64, IpAddr)>,
    solicits: BTreeSet<(u64, Hop)>,
    released: BTreeSet<Hop>,
    /// Interfaces whose link-local IPv6 address can be used. Without one, a solicitation is lost.
    speaking: BTreeSet<u32>,
    events: Vec<Event>,
}

impl Ways {
    /// Ways that leave by one of `interfaces`, by name; empty: by any.
    pub fn new(interfaces: impl IntoIterator<Item = String>) -> Self {
        Self {
            interfaces: interfaces.into_iter().collect(),
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            hops: BTreeMap::new(),
            followed: BTreeMap::new(),
            asks: BTreeSet::new(),
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            solicits: BTreeSet::new(),
            released: BTreeSet::new(),
            speaking: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// Ways may leave by these interfaces from now on.
    pub fn leave_by(&mut self, interfaces: BTreeSet<String>) {
        if self.interfaces != interfaces {
            self.interfaces = interfaces;
            self.dirty.extend(self.followed.keys().copied());
        }
    }

    /// The complete set of addresses to follow.
    pub fn follow(&mut self, addresses: BTreeSet<IpAddr>) {
        let gone: Vec<_> = self
            .followed
            .keys()
            .filter(|a| !addresses.contains(a))
            .copied()
            .collect();
        for address in gone {
            if let Some(Followed {
                answer: Some(Answer::Via(hop)),
                ..
            }) = self.followed.remove(&address)
            {
                self.leave(hop, address);
            }
            self.asks.remove(&address);
            self.dirty.remove(&address);
        }
        for address in addresses {
            self.followed.entry(address).or_insert_with(|| {
                self.asks.insert(address);
                Followed::default()
            });
        }
    }

    /// An interface appeared or changed.
    pub fn link(&mut self, state: LinkState, now: u64) {
        let index = state.link.ifindex;
        let before = self.links.insert(index, state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        self.events.push(Event::Link(state.link.clone()));
        if before.is_none_or(|b| b.link.up != state.link.up) {
            // IPv4 routes come and go with a link without being announced.
            self.routes_changed(None);
            self.link_turned(index, state.link.up, now);
        }
        self.touch_link(index);
    }

    /// An interface is gone.
    pub fn link_gone(&mut self, ifindex: u32, now: u64) {
        self.speaking.remove(&ifindex);
        if self.links.remove(&ifindex).is_none() {
            return;
        }
        self.events.push(Event::LinkGone { ifindex });
        self.routes_changed(None);
        self.link_turned(ifindex, false, now);
        self.touch_link(ifindex);
    }

    /// An interface has an address that can be used.
    pub fn speaks(&mut self, at: InterfaceAddress, now: u64) {
        if is_link_local(at.address) && self.speaking.insert(at.ifindex) {
            let from = (at.ifindex, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            let hops = self.hops.range(from..).map(|(hop, _)| *hop);
            let waiting: Vec<_> = hops.take_while(|(i, _)| *i == at.ifindex).collect();
            for hop in waiting {
                self.schedule(hop, now);
            }
        }
    }

    /// An interface lost an address.
    pub fn falls_silent(&mut self, at: InterfaceAddress) {
        if is_link_local(at.address) {
            self.speaking.remove(&at.ifindex);
        }
    }

    /// A neighbour entry appeared or changed.
    pub fn neighbour(&mut self, hop: Hop, neighbour: Neighbour, now: u64) {
        let before = self.neighbours.insert(hop, neighbour);
        if before != Some(neighbour) {
            self.hop_changed(hop, now);
        }
    }

    /// A neighbour entry is gone.
    pub fn neighbour_gone(&mut self, hop: Hop, now: u64) {
        if self.neighbours.remove(&hop).is_some() {
            self.hop_changed(hop, now);
        }
    }

    /// After messages were lost: everything that is there now. What is not named is gone.
    pub fn replace(&mut self, links: Vec<LinkState>, neighbours: Vec<(Hop, Neighbour)>, now: u64) {
        let named: BTreeSet<_> = links.iter().map(|l| l.link.ifindex).collect();
        let gone: Vec<_> = self
            .links
            .keys()
            .filter(|i| !named.contains(i))
            .copied()
            .collect();
        for index in gone {
            self.link_gone(index, now);
        }
        for link in links {
            self.link(link, now);
        }
        let named: BTreeSet<_> = neighbours.iter().map(|(hop, _)| *hop).collect();
        let gone: Vec<_> = self
            .neighbours
            .keys()
            .filter(|h| !named.contains(h))
            .copied()
            .collect();
        for hop in gone {
            self.neighbour_gone(hop, now);
        }
        for (hop, neighbour) in neighbours {
            self.neighbour(hop, neighbour, now);
        }
        self.routes_changed(None);
    }

    /// Routes changed: those to this prefix, or any.
    pub fn routes_changed(&mut self, prefix: Option<(IpAddr, u8)>) {
        match prefix {
            Some((address, length)) => {
                let affected = self.followed.range(range(address, length));
                self.asks.extend(affected.map(|(a, _)| *a));
            }
            None => self.asks.extend(self.followed.keys().copied()),
        }
    }

    /// The next address to ask the kernel's routing about.
    pub fn next_ask(&mut self) -> Option<IpAddr> {
        self.asks.pop_first()
    }

    /// What it answered.
    pub fn answer(&mut self, address: IpAddr, answer: Answer, now: u64) {
        let Some(followed) = self.followed.get_mut(&address) else {
            return;
        };
        if followed.answer.as_ref() == Some(&answer) {
            return;
        }
        let before = followed.answer.replace(answer.clone());
        if let Answer::Via(hop) = answer {
            self.join(hop, address, now);
        }
        if let Some(Answer::Via(hop)) = before {
            self.leave(hop, address);
        }
        self.dirty.insert(address);
    }

    /// What changed since the last call: each address and link at most once more than needed.
    pub fn changes(&mut self, now: u64) -> Vec<Event> {
        while let Some((due, address)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            self.dirty.insert(address);
        }
        for address in std::mem::take(&mut self.dirty) {
            let route = match self.verdict(address, now) {
                Verdict::Known(route) => route,
                Verdict::Until(until, route) => {
                    self.timers.insert((until, address));
                    route
                }
                Verdict::Hold(until) => {
                    self.timers.extend(until.map(|u| (u, address)));
                    continue;
                }
            };
            if let Some(followed) = self.followed.get_mut(&address)
                && followed.told.as_ref() != Some(&route)
            {
                followed.told = Some(route.clone());
                self.events.push(Event::Route { address, route });
            }
        }
        std::mem::take(&mut self.events)
    }

    /// When to call [`Self::changes`] and [`Self::next_solicit`] next, if nothing happens.
    pub fn deadline(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(due, _)| *due);
        let solicit = self.solicits.first().map(|(due, _)| *due);
        timer.into_iter().chain(solicit).min()
    }

    /// Next hops that are resolved and that the kernel was asked to keep so.
    pub fn asked_to_keep(&self) -> BTreeSet<Hop> {
        let asked = self.hops.iter().filter(|(hop, state)| {
            let usable = |n: &&Neighbour| n.state == NeighbourState::Usable;
            let entry = self.neighbours.get(hop).filter(usable);
            entry.is_some_and(|entry| entry.managed || state.ours)
        });
        asked.map(|(hop, _)| *hop).collect()
    }

    fn verdict(&self, address: IpAddr, now: u64) -> Verdict {
        let no = |reason: String| Verdict::Known(Route::Unresolved(reason));
        let hop = match self.followed.get(&address).and_then(|f| f.answer.as_ref()) {
            None => return Verdict::Hold(None),
            Some(Answer::None(reason)) => return no(reason.clone()),
            Some(Answer::Via(hop)) => *hop,
        };
        let (ifindex, via) = hop;
        let Some(LinkState { link, ethernet }) = self.links.get(&ifindex) else {
            return no(format!("interface {ifindex} of the route is gone"));
        };
        let name = &link.name;
        let find = |ifindex| self.links.get(&ifindex).map(|state| &state.link);
        let port = match link::port(link, find) {
            Ok(port) => port,
            Err(why) => return no(why),
        };
        let carrier = find(port.ifindex).map_or(name, |carrier| &carrier.name);
        if !self.concerns(name) && !self.concerns(carrier) {
            return Verdict::Known(Route::Elsewhere {
                interface: name.clone(),
                port: carrier.clone(),
            });
        }
        if !link.up {
            return no(format!("interface {name} is down or has no carrier"));
        }
        if !ethernet {
            return no(format!("interface {name} does not carry Ethernet frames"));
        }
        let resolved = |destination| Route::Resolved {
            ifindex,
            source: link.mac,
            destination,
        };
        let neighbour = self.neighbours.get(&hop);
        if let Some(mac) = neighbour.and_then(Neighbour::destination) {
            return Verdict::Known(resolved(mac));
        }
        let Some(state) = self.hops.get(&hop) else {
            return Verdict::Hold(None);
        };
        // An entry that we make anew is shown as failed for a moment, too.
        let failed = neighbour.is_some_and(|n| n.state == NeighbourState::Failed);
        let failed = failed && !state.returned;
        let patience = match (failed, state.last) {
            (true, None) => 0,
            (true, Some(_)) => SETTLE,
            (false, _) => GRACE,
        };
        let until = state.lost.saturating_add(patience);
        if now < until && state.refused.is_none() {
            return match state.last.filter(|_| state.returned) {
                Some(mac) => Verdict::Until(until, resolved(mac)),
                None => Verdict::Hold(Some(until)),
            };
        }
        let who = if via == address {
            via.to_string()
        } else {
            format!("router {via}")
        };
        match &state.refused {
            Some(why) => no(format!("{who} cannot be resolved on {name}: {why}")),
            None => no(format!("{who} does not answer on {name}")),
        }
    }

    fn concerns(&self, name: &str) -> bool {
        self.interfaces.is_empty() || self.interfaces.contains(name)
    }

    fn touch_link(&mut self, ifindex: u32) {
        // Those of VLANs on it, too.
        let on_others = |index| {
            let state: Option<&LinkState> = self.links.get(&index);
            state.is_some_and(|state| state.link.vlan.is_some())
        };
        let hops = self.hops.iter();
        let hops = hops.filter(|((index, _), _)| *index == ifindex || on_others(*index));
        for (_, state) in hops {
            self.dirty.extend(state.users.iter().copied());
        }
    }
}

impl Neighbour {
    /// The MAC address, if frames may go there now.
    fn destination(&self) -> Option<[u8; 6]> {
        let usable = matches!(self.state, NeighbourState::Usable | NeighbourState::Fixed);
        let group = |mac: &[u8; 6]| mac[0] & 1 == 1;
        self.mac
            .filter(|mac| usable && *mac != [0; 6] && !group(mac))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
