//! What can happen, and what follows from it: the closed alphabet between the I/O tasks and
//! [`crate::state`]. Data only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    AdminState, AttachMode, BackendKey, Config, Health, Link, Name, ProbeResult, Route, Target,
};
use crate::passive::Evidence;

/// Something happened. `now` (nanoseconds since boot, monotonic) travels beside it, as the task
/// that saw it read the clock.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A checked configuration is to take effect. The shrink guard has been passed or overruled.
    Config(Arc<Config>),
    /// A probe ended.
    Probe {
        /// Of this backend.
        backend: BackendKey,
        /// With this result.
        result: ProbeResult,
    },
    /// Packets make suspects of backends.
    Suspected {
        /// All of them, with what packets show.
        suspects: Vec<(BackendKey, Evidence)>,
    },
    /// The agent of a backend said something in the answer to a check that was good, or nothing.
    Reported {
        /// The backend.
        backend: BackendKey,
        /// Its words, at most 256 bytes.
        said: Option<String>,
    },
    /// The way to a backend's address is known, changed, or lost.
    Route {
        /// The backend's address.
        address: IpAddr,
        /// The way.
        route: Route,
    },
    /// An interface appeared or changed.
    Link(Link),
    /// An interface is gone.
    LinkGone {
        /// Its index.
        ifindex: u32,
    },
    /// Interfaces that run the program, or soon will, besides the configured ones: the complete set. They
    /// are those that a reload adds or takes away while it does so.
    AlsoAttached(BTreeSet<String>),
    /// The interfaces that run the program, by index, and how: the complete set.
    Running(BTreeMap<u32, AttachMode>),
    /// A person changed an admin state at run time.
    Admin {
        /// Of this backend.
        backend: BackendKey,
        /// To this.
        state: AdminState,
        /// For `Draining`: when the drain policy acts, nanoseconds since boot.
        deadline: Option<u64>,
    },
    /// A sweep of the flow table ended: live flows by BackendId, at most one entry each.
    FlowsCounted {
        /// When the sweep began.
        began: u64,
        /// Entries by BackendId; ids without entries are absent.
        by_backend: BTreeMap<u32, u64>,
        /// Those of them that a FIN or RST has not closed; ids without any are absent.
        open: BTreeMap<u32, u64>,
    },
    /// The data plane has measured how long backends took to answer SYNs, in nanoseconds, in the mean since the last time; those that
    /// have answered none are absent.
    Answered {
        /// By backend.
        means: BTreeMap<BackendKey, u64>,
    },
    /// Time passed: deadlines, velocity windows and quarantines are looked at.
    Tick,
}

/// What is to be done besides writing maps (which follows from the state by itself).
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The complete list of targets to probe; the runner keeps what is unchanged.
    Probe(Vec<Target>),
    /// Targets that are to be probed at once, besides when their turn is.
    ProbeNow(Vec<BackendKey>),
    /// The complete set of addresses to resolve and follow.
    Follow(Vec<IpAddr>),
    /// Interfaces that ways may leave by: the configured ones.
    Interfaces(Vec<String>),
    /// VIPs to claim: (interface, address); complete, what is missing is released.
    Claim(Vec<(String, IpAddr)>),
    /// Something of the state is to be on disk (ids, orders, verdicts). Who waits for that, and for how
    /// long, is [`crate::saving`]'s matter.
    Persist,
    /// For the log, the history and subscribers.
    Record(Record),
}

/// Why a backend loses its flows by and by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A person drains it.
    Drain,
    /// It is down, or no way leads to it.
    Outage,
}

/// Something worth telling a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Record {
    /// A backend's health changed.
    Health {
        /// The backend.
        backend: BackendKey,
        /// Before.
        from: Health,
        /// After.
        to: Health,
        /// Why, with the last probe's words.
        reason: String,
    },
    /// A health change is held back: to `down` by the velocity limit, to `up` by damping.
    Held {
        /// The backend.
        backend: BackendKey,
        /// `velocity`, `checker-suspect` or `damped`, and figures.
        reason: String,
    },
    /// Packets made a suspect of a backend, and the check that was made at once did not take it out.
    Suspected {
        /// The backend.
        backend: BackendKey,
        /// What packets show, what the check said, and what follows.
        reason: String,
    },
    /// A backend's check is good, and something that it depends on expires soon: told once, and again each day.
    Warned {
        /// The backend.
        backend: BackendKey,
        /// What; `None`: nothing, as ten good checks in a row say.
        warning: Option<String>,
    },
    /// What the agent of a backend says is ignored from now on, until it can be used again.
    Agent {
        /// The backend.
        backend: BackendKey,
        /// Why.
        reason: String,
    },
    /// All targets failed within one round: the checker is suspected, nothing more is taken out.
    CheckerSuspect {
        /// True when the suspicion begins, false when it ends.
        suspected: bool,
        /// Figures.
        reason: String,
    },
    /// A probe round was void because the daemon itself was late or could not probe.
    ProbeVoid {
        /// The backend.
        backend: BackendKey,
        /// How late, or what failed.
        reason: String,
    },
    /// An admin state changed.
    Admin {
        /// The backend.
        backend: BackendKey,
        /// Before.
        from: AdminState,
        /// After.
        to: AdminState,
    },
    /// A backend that leaves has lost its flows.
    Drained {
        /// The backend.
        backend: BackendKey,
        /// Flows left at the end: 0, or what the policy acted on.
        left: u64,
        /// Why it leaves.
        cause: Cause,
    },
    /// Other backends get the new flows of a service, or other shares of them.
    Failover {
        /// The service.
        service: Name,
        /// Who got them, as [`crate::tiers::Mode`].
        from: String,
        /// Who gets them.
        to: String,
    },
    /// The way to a backend changed.
    Route {
        /// The address.
        address: IpAddr,
        /// The way now.
        route: Route,
    },
    /// An interface of ours changed.
    Link {
        /// Its name.
        name: String,
        /// What happened.
        what: String,
    },
    /// Packets cannot be sent by an interface that a way leaves by, or can be sent by it again.
    Barred {
        /// Its name.
        interface: String,
        /// Why, and the cure; `None`: they can.
        reason: Option<String>,
    },
    /// On the way to a service's backends fits less than what its clients send, or enough again.
    Narrow {
        /// The service.
        service: Name,
        /// What follows, and the cure; `None`: it is over.
        trouble: Option<String>,
    },
    /// Something was taken over at start in another way than usual.
    Adopted {
        /// What, and why.
        what: String,
    },
    /// A configuration took effect.
    Config {
        /// Its revision, 16 hex digits.
        revision: String,
        /// Services and backends after it.
        services: usize,
        /// Backends after it.
        backends: usize,
    },
}
