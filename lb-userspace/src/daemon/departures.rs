//! How interfaces are left that are no longer configured. One that VIPs were claimed on is left when they are no
//! longer there, else the kernel would answer packets to them with resets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::owner::Owner;
use crate::announce::Report;
use crate::health::runner::now_ns;
use crate::model::link;

/// How long claims of an interface that is to be left may take to be given up.
const GIVING_UP: u64 = 2_000_000_000;

/// Between two tries to detach from an interface.
const RETRY: u64 = 1_000_000_000;

/// An interface that is no longer configured.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) interface: String,
    /// VIPs that are still claimed there.
    claims: BTreeSet<IpAddr>,
    /// When it is left even if they still are.
    deadline: u64,
    /// When to try again, after it could not be left.
    retry: Option<u64>,
}

impl Departure {
    /// The program could not be taken off it just now.
    pub(super) fn failed(interface: String) -> Self {
        Self {
            interface,
            claims: BTreeSet::new(),
            deadline: 0,
            retry: Some(now_ns().saturating_add(RETRY)),
        }
    }

    fn is_ready(&self, now: u64) -> bool {
        match self.retry {
            Some(retry) => retry <= now,
            None => self.claims.is_empty() || self.deadline <= now,
        }
    }
}

impl Owner<'_> {
    pub(super) fn is_departing(&self, interface: &str) -> bool {
        let mut departures = self.departures.iter();
        departures.any(|departure| departure.interface == interface)
    }

    /// Leaves interfaces: at once, or when the VIPs claimed there are given up.
    pub(super) fn depart(&mut self, interfaces: Vec<String>) {
        let deadline = now_ns().saturating_add(GIVING_UP);
        for interface in interfaces {
            let claims = self.parts.claimed.iter();
            let names = [interface.clone()];
            let claims =
                claims.filter(|(i, _)| *i == interface || link::is_named_as_vlan_of(i, &names));
            let claims = claims.map(|(_, address)| *address).collect();
            self.departures.push(Departure {
                interface,
                claims,
                deadline,
                retry: None,
            });
        }
        self.parts.claimed.clear();
        self.tell_also_attached([]);
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
        let (ready, waiting): (Vec<_>, Vec<_>) = departures
            .into_iter()
            .partition(|departure| departure.is_ready(now));
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
            if !self.detach(&interface, "not in the configuration") {
                self.departures.push(Departure::failed(interface));
            }
        }
        self.tell_also_attached([]);
        self.report_attachments();
    }

    /// False: the program may still be on it.
    pub(super) fn detach(&mut self, interface: &str, why: &str) -> bool {
        match self.parts.reconciler.dataplane().detach(interface) {
            Ok(true) => tracing::info!(%interface, "detached: {why}"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%interface, %error, "detach; it is tried again");
                return false;
            }
        }
        true
    }
}
