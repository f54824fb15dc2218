//! The interfaces that run the program: at start, when netlink tells of one, and when a reload names
//! others or another mode.
//!
//! A reload attaches what is new before anything else changes, so that it can be refused whole. The maps
//! name a new interface before it is attached, and an old one until it is detached: no packet meets
//! half of them. An interface that VIPs were claimed on is left when they are no longer there, else the kernel
//! would answer packets to them with resets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::attach;
use super::owner::Owner;
use crate::announce::Report;
use crate::dataplane::bpf::{AttachedHow, BpfError};
use crate::event::Event;
use crate::health::runner::now_ns;
use crate::model::{DaemonConfig, XdpMode};

/// How long claims of an interface that is to be left may take to be given up.
const GIVING_UP: u64 = 2_000_000_000;

/// An interface that is no longer configured.
#[derive(Debug)]
pub(super) struct Departure {
    interface: String,
    /// VIPs that are still claimed there.
    claims: BTreeSet<IpAddr>,
    since: u64,
}

/// What a reload has changed, to be taken back if it is refused later.
#[derive(Debug, Default)]
pub(super) struct Changed {
    attached: Vec<String>,
    moded: Vec<String>,
}

impl Owner<'_> {
    /// At start.
    pub(super) fn attach_all(&mut self) {
        let daemon = self.config().daemon.clone();
        // The last good configuration is not replaced yet.
        let before = self.parts.mode_before.filter(|m| *m != daemon.xdp_mode);
        let bpf = self.parts.reconciler.dataplane();
        for interface in &daemon.interfaces {
            let attached = match before {
                Some(_) => bpf.change_mode(interface, daemon.xdp_mode),
                None => bpf.attach(interface, daemon.xdp_mode),
            };
            attach::tell(interface, daemon.xdp_mode, attached);
        }
        match bpf.pinned_interfaces() {
            Ok(pinned) => {
                let gone = pinned.into_iter();
                let gone = gone.filter(|interface| !daemon.interfaces.contains(interface));
                self.depart(gone.collect());
            }
            Err(error) => tracing::error!(%error, "list pinned links"),
        }
        self.attachments = attach::report(self.parts.reconciler.dataplane());
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
        self.attachments = attach::report(bpf);
        let lost = self
            .attachments
            .iter()
            .filter(|a| a.ifindex != 0 && a.state != "attached");
        let lost: Vec<String> = lost.map(|a| a.interface.clone()).collect();
        for interface in lost {
            attach::again(bpf, &interface, mode);
            self.attachments = attach::report(bpf);
        }
    }

    /// Netlink told of an interface.
    pub(super) fn look_at_link(&mut self, name: &str) {
        let daemon = &self.config().daemon;
        if daemon.interfaces.iter().any(|interface| interface == name) {
            let bpf = self.parts.reconciler.dataplane();
            attach::again(bpf, name, daemon.xdp_mode);
            self.attachments = attach::report(bpf);
        }
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
        self.departures
            .retain(|departure| !added.contains(&departure.interface));
        let mut changed = Changed::default();
        if !added.is_empty() {
            self.tell_also_attached(added.iter().cloned());
            self.write()?;
        }
        for interface in added {
            let attached = self
                .parts
                .reconciler
                .dataplane()
                .attach(&interface, wanted.xdp_mode);
            // Also if it was refused: it is not wanted any more.
            changed.attached.push(interface.clone());
            match attached {
                Ok(attached) => attach::tell(&interface, wanted.xdp_mode, Ok(attached)),
                Err(error) => return self.give_up(changed, error),
            }
        }
        if wanted.xdp_mode != running.xdp_mode {
            let kept = wanted.interfaces.iter();
            for interface in kept.filter(|i| running.interfaces.contains(i)) {
                match self.change_mode(interface, wanted.xdp_mode) {
                    Ok(true) => changed.moded.push(interface.clone()),
                    Ok(false) => {}
                    Err(error) => return self.give_up(changed, error),
                }
            }
        }
        self.attachments = attach::report(self.parts.reconciler.dataplane());
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

    fn give_up(
        &mut self,
        changed: Changed,
        error: BpfError,
    ) -> anyhow::Result<Result<Changed, String>> {
        let why = match error {
            BpfError::NoInterface { interface } => format!(
                "attach to {interface}: no interface has this name (see 'ip link'); nothing changed"
            ),
            other => format!("{other}; nothing changed"),
        };
        self.take_back(changed)?;
        Ok(Err(why))
    }

    /// A reload was refused after it had changed attachments.
    pub(super) fn take_back(&mut self, changed: Changed) -> anyhow::Result<()> {
        let mode = self.config().daemon.xdp_mode;
        for interface in &changed.moded {
            if let Err(error) = self.change_mode(interface, mode) {
                tracing::error!(%interface, "take the change of its mode back: {error}");
            }
        }
        for interface in &changed.attached {
            self.detach(interface, "the reload that named it was refused");
        }
        self.parts.claimed.clear();
        self.tell_also_attached([]);
        self.attachments = attach::report(self.parts.reconciler.dataplane());
        self.write()
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
        self.parts.claimed = self.claims();
        gone
    }

    /// Leaves interfaces: at once, or when the VIPs claimed there are given up.
    pub(super) fn depart(&mut self, interfaces: Vec<String>) {
        let since = now_ns();
        for interface in interfaces {
            let claims = self.parts.claimed.iter();
            let claims = claims.filter(|(i, _)| *i == interface);
            let claims = claims.map(|(_, address)| *address).collect();
            self.departures.push(Departure {
                interface,
                claims,
                since,
            });
        }
        self.parts.claimed.clear();
        self.leave();
    }

    /// The claimer told something.
    pub(super) fn reported(&mut self, report: &Report) -> anyhow::Result<()> {
        tracing::info!(?report, "claim");
        if let Report::Released(claim) | Report::NoInterface(claim) = report {
            for departure in &mut self.departures {
                if departure.interface == claim.interface {
                    departure.claims.remove(&claim.address);
                }
            }
            return self.look_at_departures();
        }
        Ok(())
    }

    pub(super) fn look_at_departures(&mut self) -> anyhow::Result<()> {
        if !self.departures.is_empty() {
            self.leave();
            self.write()?;
        }
        Ok(())
    }

    /// Detaches from all interfaces that need not be waited for.
    fn leave(&mut self) {
        let now = now_ns();
        let departures = std::mem::take(&mut self.departures);
        let (ready, waiting): (Vec<_>, Vec<_>) = departures.into_iter().partition(|departure| {
            departure.claims.is_empty() || now.saturating_sub(departure.since) >= GIVING_UP
        });
        self.departures = waiting;
        if ready.is_empty() {
            return;
        }
        for Departure {
            interface, claims, ..
        } in ready
        {
            for address in claims {
                tracing::warn!(%interface, %address, "the claim is not given up after 2 s: detached all the same, the kernel may answer packets to it");
            }
            self.detach(&interface, "not in the configuration");
        }
        self.tell_also_attached([]);
        self.attachments = attach::report(self.parts.reconciler.dataplane());
    }

    fn detach(&mut self, interface: &str, why: &str) {
        match self.parts.reconciler.dataplane().detach(interface) {
            Ok(()) => tracing::info!(%interface, "detached: {why}"),
            Err(error) => tracing::error!(%interface, %error, "detach"),
        }
    }

    /// These and those that are to be left.
    fn tell_also_attached(&mut self, interfaces: impl IntoIterator<Item = String>) {
        let departures = self.departures.iter();
        let departures = departures.map(|departure| departure.interface.clone());
        let event = Event::AlsoAttached(departures.chain(interfaces).collect());
        // It has no effects and is never refused.
        let _folded = self.parts.reconciler.fold([(now_ns(), event)]);
    }

    fn claims(&self) -> BTreeSet<(String, IpAddr)> {
        let config = self.config();
        let services = config.services.values();
        services
            .filter_map(|service| Some((service.claim.clone()?, service.address)))
            .collect()
    }
}
