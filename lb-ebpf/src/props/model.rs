//! The flow table against a plain map from flows to what is known of them, with time that does not wrap.
//!
//! The model knows nothing of words, sets and tags. It says which backend a packet must reach, what its flow's
//! rank and age are then, and which entries a new flow may push out. After every event the table must
//! hold exactly the model's entries.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

mod twin;

use std::collections::BTreeMap;

use lb_common::{
    DropReason, Epoch, FlowHash, FlowRank, FlowWord, Permissions,
    counter::Global,
    flow::{EPOCH_SHIFT, IDLE_AFTER},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    fixture::{
        START,
        cast::PLAIN,
        world::{BackendSpec, Change, Ends, Side},
    },
    mem::{self, MemFrame, MemTables},
    schedule,
    tables::CacheLine,
    verdict::Action,
};

/// Backends of the TCP service; as many again are the UDP service's.
const BACKENDS: u32 = 4;
/// Epochs without a packet after which a UDP flow is a new one.
const UDP_IDLE: u64 = 4;
/// The control plane walks the table at least once in this many epochs (103 s).
const SWEEP_WITHIN: u64 = 6;

/// Ports of flows that come often, and of those that are a flood.
const FEW: core::ops::Range<u16> = 1000..1010;
const MANY: core::ops::Range<u16> = 2000..2040;

/// A flow: its client's port, and whether it is UDP.
type Flow = (u16, bool);

#[derive(Clone, Debug)]
enum Event {
    /// A packet with these TCP flags; of UDP with none.
    Packet(Flow, &'static str),
    /// Epochs go by.
    Wait(u64),
    /// The control plane writes down who is idle, and frees the entries of backends that are gone.
    Sweep,
    /// What a backend may do.
    Permissions(u32, u8),
    /// The ring of TCP, or of UDP, which has other backends in the same places.
    Ring(bool, Vec<u32>),
    /// A backend is gone (false), or there is one with its number again.
    Used(u32, bool),
    /// Its next hop is resolved.
    Resolved(u32, bool),
}

/// What the model knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    backend: u32,
    /// Epochs that it was seen in: 1, 2, or 3 for more.
    proof: u8,
    closing: bool,
    /// Its client has sent SYNs only.
    opening: bool,
    /// Written down as idle.
    idle: bool,
    /// When it was last seen, or written down, in epochs from the beginning.
    last: u64,
}

/// How ready an entry is to go, the readiest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Kept,
    Finished(u64),
    Second(u64),
    First(u64),
    Closing(u64),
    Idle,
    Free,
}

impl Known {
    fn class(&self, now: u64) -> Class {
        let age = self.age(now);
        match (self.proof, self.closing) {
            _ if self.idle || age > u64::from(IDLE_AFTER) => Class::Idle,
            (3, true) if age >= 4 => Class::Finished(age),
            (3, _) => Class::Kept,
            (_, true) => Class::Closing(age),
            (2, false) => Class::Second(age),
            (_, false) => Class::First(age),
        }
    }

    fn rank(&self) -> FlowRank {
        match (self.idle, self.proof, self.closing) {
            (true, ..) => FlowRank::Idle,
            _ if self.opening => FlowRank::Opening,
            (_, 1, false) => FlowRank::Probation,
            (_, 2, false) => FlowRank::Probation2,
            (_, _, false) => FlowRank::Proven,
            (_, 3, true) => FlowRank::ClosingProven,
            (_, _, true) => FlowRank::ClosingProbation,
        }
    }

    fn see(&mut self, now: u64, closes: bool, opens: bool) {
        // How long ago an entry was written down as idle is not kept: its stamp wraps, and may then read as
        // one of a clock that is an epoch ahead.
        if self.idle {
            let turn = (now + 1 - self.last) / 16 * 16;
            self.last += turn;
        }
        let later = now > self.last;
        let over = self.idle || self.closing && self.proof < 3;
        if opens && (over || self.opening) {
            *self = Self {
                opening: true,
                proof: 1,
                closing: false,
                idle: false,
                last: now.max(self.last),
                ..*self
            };
            return;
        }
        self.opening = false;
        self.proof = match self.idle {
            true => 1 + u8::from(later),
            false => (self.proof + u8::from(later)).min(3),
        };
        // Within its epoch a close stays one: the other side's last ACK is no revival.
        self.closing = closes || self.closing && !later;
        if self.closing && self.proof < 3 {
            self.proof = 1;
        }
        (self.idle, self.last) = (false, now.max(self.last));
    }

    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.last)
    }
}

/// What must become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    To(u32),
    Refused(DropReason),
}

struct Model {
    flows: BTreeMap<Flow, Known>,
    now: u64,
    swept: u64,
    rings: [Vec<u32>; 2],
    permissions: Vec<Permissions>,
    used: Vec<bool>,
    resolved: Vec<bool>,
    untracked: u64,
    evicted: u64,
}

impl Model {
    fn new() -> Self {
        let count = BACKENDS as usize * 2;
        Self {
            flows: BTreeMap::new(),
            now: 0,
            swept: 0,
            rings: [(0..BACKENDS).collect(), (BACKENDS..2 * BACKENDS).collect()],
            permissions: vec![Permissions(Permissions::ALL.0); count],
            used: vec![true; count],
            resolved: vec![true; count],
            untracked: 0,
            evicted: 0,
        }
    }

    /// Whom the ring gives a new flow.
    fn schedule(&self, flow: Flow, hash: FlowHash) -> Fate {
        let ring = &self.rings[usize::from(flow.1)];
        let takes = |id: &u32| {
            let id = *id as usize;
            self.used[id] && self.permissions[id].may_take_new()
        };
        let tried = (0..schedule::ATTEMPTS)
            .map(|attempt| ring[hash.ring_slot(ring.len() as u32, attempt) as usize])
            .find(takes);
        match tried {
            None => Fate::Refused(DropReason::NoBackend),
            Some(id) if !self.resolved[id as usize] => Fate::Refused(DropReason::NextHopUnresolved),
            Some(id) => Fate::To(id),
        }
    }

    /// True when a known flow is scheduled again.
    fn is_rescheduled(&self, flow: Flow, known: &Known, flags: &str) -> bool {
        let id = known.backend as usize;
        let leaves = !self.used[id] || !self.permissions[id].may_keep();
        let ended = known.closing && known.class(self.now) != Class::Kept;
        let begins = flags == "S" && !self.permissions[id].may_take_new();
        let in_vain =
            (known.opening || known.idle) && self.permissions[id].0 & Permissions::DOWN != 0;
        let reopened = begins && (ended || in_vain);
        let silent = flow.1 && (known.idle || known.age(self.now) > UDP_IDLE);
        leaves || reopened || silent
    }

    /// A packet of a flow that has an entry.
    fn meet(&mut self, flow: Flow, hash: FlowHash, flags: &str) -> Fate {
        let known = self.flows[&flow];
        let closes = flags.contains(['F', 'R']);
        if self.is_rescheduled(flow, &known, flags) {
            let Fate::To(backend) = self.schedule(flow, hash) else {
                return self.schedule(flow, hash);
            };
            let id = known.backend as usize;
            let moved = !self.used[id] || !self.permissions[id].may_keep();
            let proof = match known.rank() == FlowRank::Proven && moved {
                true => 3,
                false => 1,
            };
            let new = Known {
                backend,
                proof,
                closing: closes,
                opening: flags == "S" && proof == 1,
                idle: false,
                last: self.now,
            };
            self.flows.insert(flow, new);
            return Fate::To(backend);
        }
        let mut seen = known;
        seen.see(self.now, closes, flags == "S");
        self.flows.insert(flow, seen);
        match self.resolved[known.backend as usize] {
            true => Fate::To(known.backend),
            false => Fate::Refused(DropReason::NextHopUnresolved),
        }
    }
}
