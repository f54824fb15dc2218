//! The counters of one CPU, as they must stand.

use lb_common::{
    DropReason,
    counter::{
        CounterLine, Global, Handshake, More, PATH_LINE, PathError, PerBackend, Rest, TURN,
        lines_per_cpu,
    },
};
use lb_ebpf::fixture::{Counter, world::GEOMETRY};

use super::{flow::Origin, link::Fate};

/// Counters by line and position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger(Vec<CounterLine>);

impl Ledger {
    pub(super) fn new() -> Self {
        let lines = lines_per_cpu(GEOMETRY.backends, GEOMETRY.services);
        Self(vec![[0; 8]; lines as usize])
    }

    /// All lines.
    pub fn lines(&self) -> &[CounterLine] {
        &self.0
    }

    fn add(&mut self, Counter(line, position): Counter, by: u64) {
        self.0[line as usize][position as usize] += by;
    }

    pub(super) fn received(&mut self) {
        self.add(Counter::global(Global::Rx), 1);
    }

    /// Packets so far.
    pub(super) fn packets(&self) -> u64 {
        let Counter(line, position) = Counter::global(Global::Rx);
        self.0[line as usize][position as usize]
    }

    pub(super) fn ended(&mut self, fate: Fate) {
        let counter = match fate {
            Fate::Pass => Counter::global(Global::Pass),
            Fate::Tx => Counter::global(Global::Tx),
            Fate::Redirect(_) => Counter::global(Global::Redirect),
            Fate::Drop(reason) => Counter::drop(reason),
        };
        self.add(counter, 1);
    }

    pub(super) fn dropped_of(&mut self, service: usize, reason: DropReason) {
        self.add(Counter::service(service as u32, reason), 1);
    }

    /// A service's last turn was this slot's.
    pub(super) fn turn(&mut self, service: usize, slot: usize) {
        let Counter(line, _) = Counter::service(service as u32, DropReason::ALL[0]);
        let place = &mut self.0[(line + TURN / 8) as usize][(TURN % 8) as usize];
        *place = slot as u64 + 1;
    }

    /// New flows of a backend, and those moved to it, since its flows were counted.
    pub(super) fn since_counted(&self, id: usize) -> u64 {
        let read = |which| {
            let Counter(line, position) = Counter::backend(id as u32, which);
            self.0[line as usize][position as usize]
        };
        read(PerBackend::NewFlows) + read(PerBackend::MovedIn) - read(PerBackend::Counted)
    }

    /// The flows of a backend have been counted.
    pub(super) fn counted(&mut self, id: usize) {
        let since = self.since_counted(id);
        self.backend(id, PerBackend::Counted, since);
    }

    pub(super) fn backend(&mut self, id: usize, which: PerBackend, by: u64) {
        self.add(Counter::backend(id as u32, which), by);
    }

    /// What a segment of a connection that its backend has says of its handshake. Where answers are not seen, the client's next
    /// segment stands for one, and of a connection from the port of one that was proven nothing can be told.
    pub(super) fn shown(&mut self, id: usize, origin: Origin, sees_answers: bool) {
        let (begun, answered, resent) = match origin {
            Origin::Resent => (false, false, true),
            Origin::Reopened => (true, false, false),
            Origin::ReopenedProven => (sees_answers, false, false),
            Origin::WentOn => (false, true, false),
            _ => return,
        };
        for (which, happened) in [
            (Handshake::Begun, begun),
            (Handshake::Answered, answered && !sees_answers),
            (Handshake::Resent, resent),
        ] {
            if happened {
                self.handshake(id, which);
            }
        }
    }

    /// A new flow of TCP that begins no handshake of which more can be told.
    pub(super) fn other_flow(&mut self, id: usize) {
        self.add(Counter::other_flows(id as u32), 1);
    }

    pub(super) fn handshake(&mut self, id: usize, which: Handshake) {
        self.add(Counter::handshake(id as u32, which), 1);
    }

    /// A complaint about a packet in a tunnel.
    pub(super) fn path(&mut self, which: PathError) {
        self.add(Counter(PATH_LINE, which as u32), 1);
    }

    pub(super) fn rest(&mut self, which: Rest) {
        self.add(Counter::rest(which), 1);
    }

    pub(super) fn more(&mut self, which: More) {
        self.add(Counter::more(which), 1);
    }

    /// How a flow came to its backend; `connection`: the packet opens one, or has none.
    pub(super) fn came(&mut self, id: usize, origin: Origin, connection: bool) {
        match origin {
            Origin::Known
            | Origin::WentOn
            | Origin::Resent
            | Origin::Reopened
            | Origin::ReopenedProven
            | Origin::Alone => {}
            Origin::New => {
                if connection {
                    self.backend(id, PerBackend::NewFlows, 1);
                } else {
                    self.other_flow(id);
                }
            }
            Origin::Moved => self.backend(id, PerBackend::MovedIn, 1),
            Origin::NotAdmitted => {
                self.more(More::NotAdmitted);
                self.add(Counter::global(Global::Untracked), 1);
                self.backend(id, PerBackend::NewFlows, u64::from(connection));
            }
        }
    }
}
