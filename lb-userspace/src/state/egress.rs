//! By which interfaces packets can be sent.
//!
//! A program in native mode hands a frame for another interface to the driver there (`ndo_xdp_xmit`), and many drivers take none
//! unless a program runs there in native mode, too: the frame is lost, and no counter of ours says so. A program in generic mode sends through the
//! network stack, which every interface takes. So while the program runs somewhere in native mode, a way that leaves by an interface
//! where none runs, ours or another's, is no way. One that leaves by an interface in generic mode may be right or not, as frames come in by
//! one of either kind: that is told (`attach.rs`), and cuts nothing. Until somebody has looked where programs run, all ways can be used: nor
//! does a restart cut anything.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::way::interface;
use super::{State, record};
use crate::event::{Effect, Record};
use crate::model::{AttachMode, BackendKey, Link, ProbeResult, ProbeVerdict, Route, link};

/// Why no packet can be sent by an interface, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) what: String,
    pub(super) cure: String,
}

impl Bar {
    /// The interface that is to be configured is `port`. (The words of [`Route::Elsewhere`].)
    fn unlisted(interface: &str, port: &str) -> Self {
        Self {
            what: nothing_runs(interface),
            cure: format!("add {port} to `interfaces`"),
        }
    }
}

fn nothing_runs(interface: &str) -> String {
    format!("packets would leave by {interface}, where no program is attached")
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cure)
    }
}

impl State {
    /// The program runs on these interfaces now.
    pub(super) fn runs_on(&mut self, running: BTreeMap<u32, AttachMode>) {
        self.egress_changed |= self.running.as_ref() != Some(&running);
        self.running = Some(running);
    }

    /// Looks anew which ways can be used, if anything has changed that this follows from.
    pub(super) fn look_at_egress(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.egress_changed) {
            return;
        }
        let leaving = self.leaving.keys();
        let barred = leaving.filter_map(|ifindex| Some((*ifindex, self.bar(*ifindex)?)));
        let barred: BTreeMap<u32, Bar> = barred.collect();
        if barred == self.barred {
            return;
        }
        let before = std::mem::replace(&mut self.barred, barred);
        let differs = |ifindex: &u32| before.get(ifindex) != self.barred.get(ifindex);
        for ifindex in self.leaving.keys().filter(|ifindex| differs(ifindex)) {
            record(
                effects,
                Record::Barred {
                    interface: self.interface(*ifindex),
                    reason: self.barred.get(ifindex).map(Bar::to_string),
                },
            );
        }
        let touched = self
            .routes
            .iter()
            .filter(|(_, route)| interface(route).is_some_and(|ifindex| differs(&ifindex)));
        let touched: Vec<IpAddr> = touched.map(|(address, _)| *address).collect();
        for address in touched {
            self.mark_address(address);
        }
    }

    /// Why no packet can be sent by an interface; `None`: it can, or nobody can tell yet, or [`link::port`] says why.
    fn bar(&self, ifindex: u32) -> Option<Bar> {
        let running = self.running.as_ref()?;
        // After a restart netlink has not told of all of them yet.
        if running.keys().any(|on| self.adopted.contains_key(on)) {
            return None;
        }
        if !running.values().any(|mode| *mode == AttachMode::Native) {
            return None;
        }
        let find = |ifindex| self.links.get(&ifindex);
        let port = link::port(find(ifindex)?, find).ok()?;
        let port = find(port.ifindex)?;
        let name = &port.name;
        if self.has_program(port, running) {
            return None;
        }
        Some(match self.config.daemon.interfaces.contains(name) {
            true => Bar {
                what: nothing_runs(name),
                cure: format!("see in the log why {name} has none"),
            },
            false => Bar::unlisted(name, name),
        })
    }

    /// A program runs there; of a bond, there or on all that belongs to it.
    fn has_program(&self, port: &Link, running: &BTreeMap<u32, AttachMode>) -> bool {
        let runs = |ifindex: u32| running.contains_key(&ifindex);
        let members = self.links.values();
        let mut members = members
            .filter(|link| link.bond == Some(port.ifindex))
            .peekable();
        runs(port.ifindex) || members.peek().is_some() && members.all(|member| runs(member.ifindex))
    }

    /// Why packets to an address cannot be sent by the interface that they would leave by.
    pub(super) fn bar_to(&self, address: IpAddr) -> Option<Bar> {
        match self.routes.get(&address)? {
            Route::Elsewhere { interface, port } => Some(Bar::unlisted(interface, port)),
            route => self.barred.get(&interface(route)?).cloned(),
        }
    }

    /// What a check says: a good one of a backend that clients' packets cannot be sent to says nothing. (It is a packet of the network
    /// stack, which is sent all the same.)
    pub fn judged(&self, key: &BackendKey, result: &ProbeResult) -> ProbeResult {
        let bar = self.config.backend(key);
        let bar = bar.and_then(|(_, backend)| self.bar_to(backend.address));
        let verdict = match (&result.verdict, bar) {
            (
                ProbeVerdict::Good | ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_),
                Some(bar),
            ) => ProbeVerdict::Void(bar.to_string()),
            (verdict, _) => verdict.clone(),
        };
        ProbeResult {
            verdict,
            ..result.clone()
        }
    }
}
