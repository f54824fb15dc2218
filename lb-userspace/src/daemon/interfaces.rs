//! The interfaces that run the program: at start, when netlink tells of one, and when a reload names
//! others or another mode.
//!
//! A reload attaches what is new before anything else changes, so that it can be refused whole. The maps
//! name a new interface before it is attached, and an old one until it is detached: no packet meets
//! half of them.

use super::attach::{self, Vlans};
use super::departures::Departure;
use super::owner::Owner;
use std::collections::BTreeMap;

use lb_common::backend::DEVICES;
use nix::net::if_::if_nametoindex;

use crate::dataplane::bpf::{AttachedHow, BpfError};
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::{DaemonConfig, XdpMode};
use crate::neigh::requests::Requests;

/// What a reload has changed, to be taken back if it is refused later.
#[derive(Debug, Default)]
pub(super) struct Changed {
    attached: Vec<String>,
    moded: Vec<String>,
    /// These were to be left.
    staying: Vec<Departure>,
}

impl Owner<'_> {
    /// At start.
    pub(super) fn attach_all(&mut self) {
        let daemon = self.config().daemon.clone();
        // The last good configuration is not replaced yet.
        let before = self.parts.mode_before;
        let bpf = self.parts.reconciler.dataplane();
        for interface in &daemon.interfaces {
            let mode = daemon.xdp_mode;
            let attached = match before {
                Some(before) if before == mode => bpf.resume(interface, mode),
                Some(_) => bpf.change_mode(interface, mode),
                None => bpf.attach(interface, mode),
            };
            attach::tell(interface, mode, attached);
        }
        let gone = self.not_configured();
        self.depart(gone);
        self.report_attachments();
    }

    /// At start, before the first netlink event is looked at: what an earlier daemon attached to stays in the maps until
    /// it is left.
    pub(super) fn keep_not_configured(&mut self) {
        let gone = self.not_configured();
        self.tell_also_attached(gone);
    }

    fn not_configured(&mut self) -> Vec<String> {
        let config = self.config();
        match self.parts.reconciler.dataplane().pinned_interfaces() {
            Ok(mut pinned) => {
                pinned.retain(|interface| !config.daemon.interfaces.contains(interface));
                pinned
            }
            Err(error) => {
                tracing::error!(%error, "list pinned links");
                Vec::new()
            }
        }
    }

    /// Pins removed by hand are put back, lost attachments made again.
    pub(super) fn keep_pins(&mut self) {
        let mode = self.config().daemon.xdp_mode;
        let bpf = self.parts.reconciler.dataplane();
        match bpf.repin() {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                tracing::error!(
                    "pins were removed by somebody and made again: {}",
                    missing.join(", ")
                );
            }
            Err(error) => tracing::error!(%error, "look after the pins"),
        }
        self.report_attachments();
        let lost = self
            .attachments
            .iter()
            .filter(|a| a.ifindex != 0 && a.state != "attached");
        let lost = lost.map(|a| a.interface.clone());
        let lost: Vec<String> = lost
            .filter(|interface| !self.is_departing(interface))
            .collect();
        for interface in lost {
            let bpf = self.parts.reconciler.dataplane();
            attach::again(bpf, &interface, mode);
            self.report_attachments();
        }
    }

    /// What status shows of them.
    pub(super) fn report_attachments(&mut self) {
        let state = self.parts.reconciler.state();
        let mut vlans: BTreeMap<String, Vlans> = BTreeMap::new();
        for (port, link, served) in state.vlans() {
            let of = vlans.entry(port.name.clone()).or_insert_with(|| Vlans {
                cards: state.cards(port),
                ..Vlans::default()
            });
            match served {
                true => of.served.push(link.name.clone()),
                false => of.left.push(link.name.clone()),
            }
        }
        let bpf = self.parts.reconciler.dataplane();
        self.attachments = attach::report(bpf, vlans, &self.attachments);
        self.attached = true;
    }

    /// Where the program runs, for the state, if that may have changed since it was told: a way by another interface may be none.
    pub(super) fn runs_on(&mut self) -> Option<Event> {
        if !std::mem::take(&mut self.attached) {
            return None;
        }
        match self.parts.reconciler.dataplane().running() {
            Ok(running) => Some(Event::Running(running)),
            Err(error) => {
                tracing::error!(%error, "look where the program runs; what was seen last counts");
                None
            }
        }
    }

    /// Netlink told of an interface.
    pub(super) fn look_at_link(&mut self, name: &str) {
        if self.vlans().iter().any(|vlan| vlan == name) {
            self.report_attachments();
            self.keep_probing();
        }
        let daemon = &self.config().daemon;
        if daemon.interfaces.iter().any(|interface| interface == name) {
            let bpf = self.parts.reconciler.dataplane();
            attach::again(bpf, name, daemon.xdp_mode);
            self.report_attachments();
            self.keep_probing();
        }
    }

    /// Interfaces of VLANs whose packets are looked at.
    pub(super) fn vlans(&self) -> Vec<String> {
        let vlans = self.parts.reconciler.state().vlans();
        let served = vlans.filter(|(_, _, served)| *served);
        served.map(|(_, link, _)| link.name.clone()).collect()
    }

    /// The programs for checks are where they belong.
    pub(super) fn keep_probing(&mut self) {
        let daemon = self.config().daemon.clone();
        let vlans = self.vlans();
        self.probing.keep(&daemon, vlans, self.parts.runner);
    }

    /// Attaches what a configuration names anew, and changes modes. `Err`: why not; all is as it was.
    /// The outer `Err` ends the daemon.
    pub(super) fn attach_new(
        &mut self,
        wanted: &DaemonConfig,
    ) -> anyhow::Result<Result<Changed, String>> {
        let running = self.config().daemon.clone();
        let added = wanted.interfaces.iter();
        let added: Vec<String> = added
            .filter(|interface| !running.interfaces.contains(interface))
            .cloned()
            .collect();
        // One that is to be left stays instead.
        let departures = std::mem::take(&mut self.departures);
        let (staying, departures) = departures
            .into_iter()
            .partition(|departure| added.contains(&departure.interface));
        self.departures = departures;
        let mut changed = Changed {
            staying,
            ..Changed::default()
        };
        if !added.is_empty() {
            self.tell_also_attached(added.iter().cloned());
            self.look_for(&added)?;
        }
        for interface in added {
            if let Err(why) = self.is_in_the_maps(&interface) {
                return self.give_up(changed, format!("attach to {interface}: {why}"));
            }
            let attached = self
                .parts
                .reconciler
                .dataplane()
                .attach(&interface, wanted.xdp_mode);
            // Also if it was refused: it is not wanted any more.
            changed.attached.push(interface.clone());
            match attached {
                Ok(attached) => attach::tell(&interface, wanted.xdp_mode, Ok(attached)),
                Err(error) => return self.give_up(changed, error.to_string()),
            }
        }
        if wanted.xdp_mode != running.xdp_mode {
            let kept = wanted.interfaces.iter();
            for interface in kept.filter(|i| running.interfaces.contains(i)) {
                match self.change_mode(interface, wanted.xdp_mode) {
                    Ok(true) => changed.moded.push(interface.clone()),
                    Ok(false) => {}
                    Err(error) => return self.give_up(changed, error.to_string()),
                }
            }
        }
        self.report_attachments();
        Ok(Ok(changed))
    }

    /// True: its link was made anew. An interface that is not there gets the mode when it appears.
    fn change_mode(&mut self, interface: &str, mode: XdpMode) -> Result<bool, BpfError> {
        let bpf = self.parts.reconciler.dataplane();
        match bpf.change_mode(interface, mode) {
            Ok(attached) => {
                let moded = attached.how == AttachedHow::OtherMode;
                attach::tell(interface, mode, Ok(attached));
                Ok(moded)
            }
            Err(BpfError::NoInterface { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings interfaces into the maps; what netlink told of new ones may not have been looked at yet.
    fn look_for(&mut self, interfaces: &[String]) -> anyhow::Result<()> {
        let links = Requests::open().and_then(|mut requests| requests.links());
        let links = links.unwrap_or_else(|error| {
            tracing::error!(%error, "look for the interfaces of a reload");
            Vec::new()
        });
        let links = links.into_iter().map(|state| state.link);
        let links = links.filter(|link| interfaces.contains(&link.name));
        self.take(links.map(|link| (now_ns(), Event::Link(link))).collect())
    }

    /// Packets can leave by it as soon as they come in by it.
    fn is_in_the_maps(&self, interface: &str) -> Result<(), String> {
        let Ok(ifindex) = if_nametoindex(interface) else {
            return Err("no interface has this name (see 'ip link')".to_owned());
        };
        let reconciler = &self.parts.reconciler;
        if !self.written || reconciler.is_unsaved() {
            return Err(
                "the maps, which must know it first, cannot be written now: see the log, and reload again"
                    .to_owned(),
            );
        }
        let mut devices = reconciler.state().devices().values();
        match devices.any(|device| device.ifindex == ifindex) {
            true => Ok(()),
            false => Err(format!(
                "interface {ifindex} has the slot of another (recreate it, so that their indexes differ modulo {DEVICES}), or was made this moment (reload again)"
            )),
        }
    }

    fn give_up(
        &mut self,
        changed: Changed,
        why: String,
    ) -> anyhow::Result<Result<Changed, String>> {
        let otherwise = self.take_back(changed)?;
        Ok(Err(format!("{why}; {}", summary(&otherwise))))
    }

    /// A reload was refused after it had changed attachments. What is not as it was, for people.
    pub(super) fn take_back(&mut self, changed: Changed) -> anyhow::Result<Vec<String>> {
        let running = self.config().daemon.clone();
        let mut otherwise = Vec::new();
        for interface in &changed.moded {
            if let Err(error) = self.change_mode(interface, running.xdp_mode) {
                tracing::error!(%interface, "take the change of its mode back: {error}");
                otherwise.push(format!(
                    "{interface} does not run in the mode it had: {error}"
                ));
            }
        }
        let bpf = self.parts.reconciler.dataplane();
        for interface in &running.interfaces {
            bpf.set_wanted_mode(interface, running.xdp_mode);
        }
        self.departures.extend(changed.staying);
        for interface in changed.attached {
            if self.is_departing(&interface) {
                continue;
            }
            if !self.detach(&interface, "the reload that named it was refused") {
                otherwise.push(format!(
                    "{interface} is still attached, which is ended later"
                ));
                self.departures.push(Departure::failed(interface));
            }
        }
        self.parts.claimed.clear();
        self.tell_also_attached([]);
        self.report_attachments();
        let lost = self.attachments.iter().filter(|a| {
            a.ifindex != 0 && a.state != "attached" && running.interfaces.contains(&a.interface)
        });
        otherwise.extend(
            lost.map(|a| format!("{} has no program now, which is tried again", a.interface)),
        );
        self.write()?;
        Ok(otherwise)
    }

    /// Before a configuration takes effect: the interfaces that it does not name stay in the maps until they
    /// are left.
    pub(super) fn part_from(&mut self, wanted: &DaemonConfig) -> Vec<String> {
        let running = &self.config().daemon;
        let gone = running.interfaces.iter();
        let gone: Vec<String> = gone
            .filter(|interface| !wanted.interfaces.contains(interface))
            .cloned()
            .collect();
        self.tell_also_attached(gone.iter().cloned());
        self.parts.claimed = self.parts.reconciler.state().claims().clone();
        gone
    }

    /// These and those that are to be left.
    pub(super) fn tell_also_attached(&mut self, interfaces: impl IntoIterator<Item = String>) {
        let departures = self.departures.iter();
        let departures = departures.map(|departure| departure.interface.clone());
        let event = Event::AlsoAttached(departures.chain(interfaces).collect());
        // It has no effects and is never refused.
        let _folded = self.parts.reconciler.fold([(now_ns(), event)]);
    }
}

/// What became of a refused reload.
pub(super) fn summary(otherwise: &[String]) -> String {
    match otherwise {
        [] => "nothing changed".to_owned(),
        some => format!("the configuration did not change, but {}", some.join("; ")),
    }
}
