//! Packets with what must become of them, as values: verdict, bytes and counters, step by step.
//!
//! The same list runs against the library ([`run_host`]) and against the compiled program in the
//! kernel. Interfaces are named by side and times are relative to [`START`], so that a kernel
//! with its own interfaces and its own clock can run them: rebase the flow table between the
//! clocks with [`crate::mem::MemTables::flows_at`].
//!
//! For a new case, add a value to one of the lists below `fixture/`.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test data: a fixture that is wrong must fail loudly"
)]

use lb_common::{
    DropReason, Nanos,
    counter::{self, Global, Handshake, More, PerBackend},
    flow::EPOCH_SHIFT,
};

use crate::{
    mem::{self, MemFrame, MemTables},
    verdict::Verdict,
};

pub mod accepting;
pub mod cast;
mod counters;
pub mod cut;
pub mod echo;
pub mod errors;
pub mod flows;
pub mod forwarding;
pub mod fragments;
pub mod fullnat;
mod handshake;
mod handshakes;
pub mod idle;
pub mod limits;
pub mod loops;
pub mod mss;
pub mod odd;
pub mod other_pieces;
pub mod packet;
pub mod path;
pub mod policies;
pub mod quic;
pub mod quoted_pieces;
pub mod ranges;
pub mod refused;
mod reopening;
pub mod room;
pub mod scheduling;
pub mod sctp;
pub mod shared;
pub mod tagging;
pub mod world;

pub use counters::{Changes, Counter, changes};

use world::{Change, Ends, GEOMETRY, Side, World};

/// When fixtures begin: in the middle of an epoch, not the first one.
pub const START: Nanos = (100 << EPOCH_SHIFT) + (1 << (EPOCH_SHIFT - 1));

/// A number of epochs after [`START`].
pub const fn epochs(count: u64) -> Nanos {
    START + (count << EPOCH_SHIFT)
}

/// What becomes of a packet, with interfaces by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To the kernel.
    Pass,
    /// Back out of the same interface.
    Tx,
    /// Out of a side's interface.
    Redirect(Side),
    /// Dropped.
    Drop(DropReason),
}

impl Fate {
    /// With real interfaces.
    pub const fn verdict(self, ends: &Ends) -> Verdict {
        match self {
            Self::Pass => Verdict::PASS,
            Self::Tx => Verdict::TX,
            Self::Redirect(side) => Verdict::redirect(ends.slot(side)),
            Self::Drop(reason) => Verdict::drop(reason),
        }
    }
}

/// Lines of each CPU.
const LINES: u32 = counter::lines_per_cpu(GEOMETRY.backends, GEOMETRY.services);

/// How a flow came to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It had an entry and keeps it.
    Known,
    /// The same, and its client has said nothing but SYNs before.
    WentOn,
    /// The same as known, and a connection was seen to end that came from its port.
    Reopened,
    /// The same of one that was proven, where that leaves no sign of the new one's handshake.
    ReopenedProven,
    /// It was scheduled.
    New,
    /// It was scheduled, and pushed another flow out of the table.
    Evicting,
    /// Its backend may not keep it.
    Moved,
    /// It was scheduled, and there is no room for it; the packet opens a connection or has none.
    Untracked,
    /// The same in the middle of a connection.
    UntrackedMiddle,
    /// It was scheduled, and no more flows are entered in this second; the packet opens a connection or has
    /// none.
    NotAdmitted,
    /// Its service schedules each datagram by itself.
    Alone,
}

/// One packet and what must become of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Changes of the maps before it.
    pub before: Vec<Change>,
    /// The frame.
    pub packet: Vec<u8>,
    /// Where it comes in.
    pub ingress: Side,
    /// When; compare with [`START`].
    pub at: Nanos,
    /// What becomes of it.
    pub fate: Fate,
    /// The frame afterwards.
    pub output: Vec<u8>,
    /// How the counters change.
    pub counters: Changes,
}

impl Step {
    /// A frame that passes.
    pub fn new(ingress: Side, packet: Vec<u8>) -> Self {
        let mut step = Self {
            before: Vec::new(),
            output: packet.clone(),
            packet,
            ingress,
            at: START,
            fate: Fate::Pass,
            counters: Changes::new(),
        };
        step.count(Counter::global(Global::Rx), 1);
        step.count(Counter::global(Global::Pass), 1);
        step
    }

    fn count(&mut self, counter: Counter, by: u64) {
        *self.counters.entry(counter).or_default() += by;
    }

    /// At this time.
    #[must_use]
    pub fn at(mut self, at: Nanos) -> Self {
        self.at = at;
        self
    }

    /// After this change of the maps.
    #[must_use]
    pub fn after(mut self, change: Change) -> Self {
        self.before.push(change);
        self
    }

    /// With this fate, and nothing but its counter.
    #[must_use]
    pub fn ends(mut self, fate: Fate, output: Vec<u8>) -> Self {
        self.fate = fate;
        self.output = output;
        self.counters = Changes::new();
        self.count(Counter::global(Global::Rx), 1);
        self.count(
            match fate {
                Fate::Pass => Counter::global(Global::Pass),
                Fate::Tx => Counter::global(Global::Tx),
                Fate::Redirect(_) => Counter::global(Global::Redirect),
                Fate::Drop(reason) => Counter::drop(reason),
            },
            1,
        );
        self
    }

    /// Dropped before it was known whose it is.
    #[must_use]
    pub fn drops(self, reason: DropReason) -> Self {
        let output = self.packet.clone();
        self.ends(Fate::Drop(reason), output)
    }

    /// Dropped as a service's.
    #[must_use]
    pub fn drops_of(self, service: u32, reason: DropReason) -> Self {
        let mut step = self.drops(reason);
        step.count(Counter::service(service, reason), 1);
        step
    }

    /// Sent to a backend.
    #[must_use]
    pub fn forwarded(self, fate: Fate, output: Vec<u8>, backend: u32, how: How) -> Self {
        let mut step = self.ends(fate, output);
        let bytes = step.packet.len() as u64;
        step.count(Counter::backend(backend, PerBackend::Packets), 1);
        step.count(Counter::backend(backend, PerBackend::Bytes), bytes);
        let new_flow = step.new_flow(backend, matches!(how, How::New | How::Evicting));
        match how {
            How::Known | How::WentOn | How::Reopened | How::ReopenedProven | How::Alone => {}
            How::New => step.count(new_flow, 1),
            How::Evicting => {
                step.count(new_flow, 1);
                step.count(Counter::global(Global::Evicted), 1);
            }
            How::Moved => step.count(Counter::backend(backend, PerBackend::MovedIn), 1),
            How::Untracked => {
                step.count(new_flow, 1);
                step.count(Counter::global(Global::Untracked), 1);
            }
            How::NotAdmitted => {
                step.count(new_flow, 1);
                step.count(Counter::global(Global::Untracked), 1);
                step.count(Counter::more(More::NotAdmitted), 1);
            }
            How::UntrackedMiddle => step.count(Counter::global(Global::Untracked), 1),
        }
        step.begins(backend, how);
        step
    }

    /// Where a flow is counted that was scheduled to a backend: what tells of no handshake, as it has begun before or has no entry, stands apart.
    fn new_flow(&self, backend: u32, has_entry: bool) -> Counter {
        let apart = match has_entry {
            true => handshake::is_middle(&self.packet),
            false => handshake::opens(&self.packet),
        };
        match apart {
            true => Counter::other_flows(backend),
            false => Counter::backend(backend, PerBackend::NewFlows),
        }
    }

    fn begins(&mut self, backend: u32, how: How) {
        let which = match how {
            How::WentOn => Handshake::Answered,
            _ if !handshake::opens(&self.packet) => return,
            How::Known => Handshake::Resent,
            How::Moved | How::Reopened => Handshake::Begun,
            _ => return,
        };
        self.count(Counter::handshake(backend, which), 1);
    }

    /// Sent to the client by a backend.
    #[must_use]
    pub fn returned(self, fate: Fate, output: Vec<u8>, backend: u32) -> Self {
        let mut step = self.ends(fate, output);
        let bytes = step.packet.len() as u64;
        step.count(Counter::backend(backend, PerBackend::ReplyPackets), 1);
        step.count(Counter::backend(backend, PerBackend::ReplyBytes), bytes);
        if let Some(which) = handshake::of_reply(&step.packet) {
            step.count(Counter::handshake(backend, which), 1);
        }
        step
    }

    /// And it was measured how long the backend took.
    #[must_use]
    pub fn timed(mut self, backend: u32) -> Self {
        self.count(Counter::timed(backend), 1);
        self
    }

    /// An ICMP error relayed to a backend.
    #[must_use]
    pub fn relayed(self, fate: Fate, output: Vec<u8>, backend: u32) -> Self {
        let mut step = self.ends(fate, output);
        step.count(Counter::more(More::IcmpRelayed), 1);
        step.count(Counter::backend(backend, PerBackend::IcmpErrors), 1);
        step
    }

    /// An ICMP error about what a backend should have got, relayed to the client.
    #[must_use]
    pub fn relayed_back(self, fate: Fate, output: Vec<u8>, backend: u32) -> Self {
        let mut step = self.ends(fate, output);
        step.count(Counter::more(More::IcmpRelayed), 1);
        if let Some(which) = handshake::of_error(&step.packet) {
            step.count(Counter::handshake(backend, which), 1);
        }
        step
    }

    /// Too big for its tunnel, and its sender is told.
    #[must_use]
    pub fn told(self, output: Vec<u8>) -> Self {
        let mut step = self.ends(Fate::Tx, output);
        step.count(Counter::more(More::TooBigSent), 1);
        step
    }

    /// Of no known flow, and its sender gets a reset.
    #[must_use]
    pub fn reset(self, output: Vec<u8>) -> Self {
        let mut step = self.ends(Fate::Tx, output);
        step.count(Counter::more(More::ResetSent), 1);
        step
    }

    /// And its flow is new, though the packet reaches nobody.
    #[must_use]
    pub fn opening(mut self, backend: u32) -> Self {
        self.count(self.new_flow(backend, true), 1);
        self
    }

    /// And its flow is known in some way, though the packet reaches nobody.
    #[must_use]
    pub fn again(mut self, backend: u32, how: How) -> Self {
        self.begins(backend, how);
        self
    }

    /// An echo request, answered.
    #[must_use]
    pub fn answered(self, output: Vec<u8>) -> Self {
        let mut step = self.ends(Fate::Tx, output);
        step.count(Counter::more(More::EchoReplied), 1);
        step
    }

    /// What must be observed.
    pub fn expected(&self, ends: &Ends) -> Observed {
        let verdict = match self.fate {
            // By the port that it came by.
            Fate::Redirect(side)
                if ends.tagging.leaves(self.ingress, side)
                    && ends.out(side) == ends.port(self.ingress) =>
            {
                Verdict::TX
            }
            fate => fate.verdict(ends),
        };
        Observed {
            verdict,
            output: ends.leaving(self.ingress, self.fate, &self.output),
            counters: self.counters.clone(),
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its verdict.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub output: Vec<u8>,
    /// How the counters changed.
    pub counters: Changes,
}

/// Maps, packets, and what must become of them.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// What it shows; unique.
    pub name: String,
    /// What the maps hold at first.
    pub world: World,
    /// The packets, in order.
    pub steps: Vec<Step>,
}

impl Fixture {
    /// A fixture.
    pub fn new(name: impl Into<String>, world: World, steps: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            world,
            steps,
        }
    }
}

/// Every fixture.
pub fn all() -> Vec<Fixture> {
    [
        forwarding::all(),
        fullnat::all(),
        handshakes::all(),
        flows::all(),
        reopening::all(),
        room::all(),
        echo::all(),
        errors::all(),
        odd::all(),
        cut::all(),
        refused::all(),
        idle::all(),
        shared::all(),
        limits::all(),
        loops::all(),
        mss::all(),
        path::all(),
        policies::all(),
        fragments::all(),
        other_pieces::all(),
        quoted_pieces::all(),
        quic::all(),
        ranges::all(),
        accepting::all(),
        sctp::all(),
        scheduling::all(),
    ]
    .concat()
}

/// What the library made of a fixture, step by step.
pub type Outcome = Vec<Observed>;

/// Runs one step against maps that stand as the steps before left them.
pub fn run_step(tables: &mut MemTables, step: &Step, ends: &Ends) -> Observed {
    run_step_in(tables, step, ends, None).0
}

/// The same with so much room in front of the frame, and whether it was asked for more.
pub fn run_step_in(
    tables: &mut MemTables,
    step: &Step,
    ends: &Ends,
    room: Option<u16>,
) -> (Observed, bool) {
    for change in &step.before {
        change.apply(tables, ends);
    }
    let before = mem::words(&tables.counters);
    let mut frame = MemFrame::new(
        ends.coming(step.ingress, &step.packet),
        ends.port(step.ingress),
    );
    frame.room = room.unwrap_or(frame.room);
    let verdict = mem::process(&mut frame, tables, step.at);
    let observed = Observed {
        verdict,
        output: frame.bytes,
        counters: changes(&before, &mem::words(&tables.counters)),
    };
    (observed, frame.denied)
}

/// Runs a fixture on the host.
pub fn run_host(fixture: &Fixture) -> Outcome {
    let ends = &Ends::HOST;
    let mut tables = fixture.world.tables(ends);
    let run = |step: &Step| run_step(&mut tables, step, ends);
    fixture.steps.iter().map(run).collect()
}

#[cfg(test)]
mod tests;
