//! The flow table: two candidate sets of eight entries, shared by all CPUs without locks.
//!
//! A lookup reads the second set's cache line only when the first set does not know the flow. Entries
//! change by compare-and-exchange. Two CPUs that insert one flow at once may leave an entry in
//! each of its two sets; as the choice is a function of the flow, both name the same backend,
//! and the one that is not found any more ages and goes.

mod anew;
mod apart;
mod aside;
mod choice;
mod origin;
mod seen;
mod usual;

use lb_common::{
    Control, DropReason, Epoch, FlowHash, FlowRank, FlowWord, MidStream, Pick, Spread,
    flow::{FlowSets, Step, WAYS},
    hash::FlowTuple,
};

use crate::{
    admission::{self, Limited},
    eviction,
    parse::Arrival,
    service::{self, Backend, Service},
    tables::{CacheLine, Tables},
};

use anew::starts_anew;
pub use apart::keep as keep_apart;
pub(crate) use apart::note_client;
pub use aside::adopt;
pub use choice::holder;
use choice::{choose, reach, settled};
pub use origin::Origin;
pub use seen::{refresh, refresh_at};
pub use usual::{settle, young};

/// A flow that looks for its backend.
pub struct Seeker<'t> {
    /// The service.
    pub service: Service<'t>,
    /// The flow's hash.
    pub hash: FlowHash,
    /// What it is scheduled by, where that is a hash: [`schedule::group`].
    pub group: FlowHash,
    /// Its candidate sets and tag.
    pub sets: FlowSets,
    /// What the packet means for the flow.
    pub arrival: Arrival,
    /// The time.
    pub epoch: Epoch,
    /// The time, as [`admission::second`].
    pub second: u32,
    /// For [`IdleEpochs::narrowed`](lb_common::flow::IdleEpochs::narrowed): 0, or of which protocols the flow is.
    pub which: u32,
}

impl<'t> Seeker<'t> {
    /// Of a flow that is scheduled by its own hash.
    #[inline(always)]
    pub fn new(
        control: &Control,
        service: Service<'t>,
        hash: u64,
        arrival: Arrival,
        second: u32,
    ) -> Self {
        let hash = FlowHash(hash);
        Self {
            service,
            hash,
            group: hash,
            sets: hash.sets(control.flow_mask, control.flow_base_bits),
            arrival,
            epoch: admission::epoch(second),
            second,
            which: 0,
        }
    }

    /// True when the flow may only begin with a SYN, and this is none.
    #[inline(always)]
    pub fn comes_too_late(&self) -> bool {
        self.service.entry.mid_stream != MidStream::Schedule as u8 && !self.arrival.may_begin()
    }

    /// True when not the ring and a hash name the backend. Those of a segment in the middle of nothing always do: so it comes
    /// to the same backend as the next one, if the flow can have no entry.
    #[inline(always)]
    fn is_free(&self) -> bool {
        self.service.entry.picks() > Pick::Fields as u8 && self.arrival.may_begin()
    }
}

/// An entry and where it stands.
#[derive(Clone, Copy)]
pub struct Entry<'t> {
    /// Its set.
    pub set: u32,
    /// Its set's line.
    pub line: &'t CacheLine,
    /// Its way.
    pub way: u32,
    /// What it said when it was read.
    pub word: FlowWord,
}

/// A flow's backend.
#[derive(Clone, Copy)]
pub struct Assignment<'t> {
    /// Who serves the flow.
    pub backend: Backend<'t>,
    /// How it came about.
    pub origin: Origin,
    /// Set and way of the entry; meaningless for [`Origin::Untracked`].
    pub set: u32,
    /// As `set`.
    pub way: u32,
}

/// What [`assign`] gives, which is a call in the BPF program: an assignment or a refusal in one word,
/// so that it travels in a register.
///
/// Bits 0 to 31: set, or the number of the reason; 32 to 48: BackendId; 49 to 51: way; 52 to 55:
/// origin plus one, 0 for a refusal; 56: [`Self::MAY_CLASH`].
#[derive(Clone, Copy)]
pub struct Assigned(pub u64);

const NO_BACKEND: u64 = DropReason::NoBackend as u64;
const UNRESOLVED: u64 = DropReason::NextHopUnresolved as u64;
const MID_STREAM: u64 = DropReason::MidStream as u64;
const BACKEND_LEFT: u64 = DropReason::BackendLeft as u64;

impl Assigned {
    #[inline(always)]
    pub(crate) const fn refused(reason: DropReason) -> Self {
        Self(reason as u64)
    }

    /// True for a refusal, whose reason is the whole word.
    #[inline(always)]
    pub(crate) const fn is_refused(self) -> bool {
        self.0 >> 52 == 0
    }

    #[inline(always)]
    const fn to(backend: u32, origin: Origin, set: u32, way: u32) -> Self {
        let origin = (origin as u64).wrapping_add(1);
        Self(set as u64 | (backend as u64) << 32 | (way as u64) << 49 | origin << 52)
    }

    /// The backend of what is no refusal.
    #[inline(always)]
    pub(crate) const fn backend(self) -> u32 {
        (self.0 >> 32) as u32 & 0x1_ffff
    }

    #[inline(always)]
    const fn origin(self) -> Option<Origin> {
        match self.0 >> 52 {
            0 => None,
            number => Some(Origin::of(number.wrapping_sub(1))),
        }
    }

    /// The assignment that the word says.
    #[inline(always)]
    pub fn assignment<T: Tables>(self, tables: &T) -> Result<Assignment<'_>, DropReason> {
        let origin = match self.0 >> 52 {
            0 => {
                // The only reasons for a refusal.
                return Err(match self.0 {
                    NO_BACKEND => DropReason::NoBackend,
                    UNRESOLVED => DropReason::NextHopUnresolved,
                    MID_STREAM => DropReason::MidStream,
                    BACKEND_LEFT => DropReason::BackendLeft,
                    _ => DropReason::MapInconsistent,
                });
            }
            number => Origin::of(number.wrapping_sub(1)),
        };
        let backend =
            service::backend(tables, self.backend()).ok_or(DropReason::MapInconsistent)?;
        Ok(Assignment {
            backend,
            origin,
            set: self.0 as u32,
            way: (self.0 >> 49) as u32 & 7,
        })
    }
}

/// The hash of a flow under the secret key. Without maps any hash will do: nothing can be found by it.
#[inline(always)]
pub fn hash<T: Tables>(tables: &T, tuple: &FlowTuple) -> u64 {
    match tables.control() {
        Some(control) => tuple.hash(&control.multipliers).0,
        None => 0,
    }
}

/// No entry: what [`find_in`] gives then.
pub const NONE: u64 = u64::MAX;

/// The entry with this tag in one set: way in bits 24 and up, the low 24 bits of the entry below; or
/// [`NONE`].
#[inline(always)]
pub fn find_in<T: Tables>(tables: &T, set: u32, tag: u64) -> u64 {
    let Some(line) = tables.flows(set) else {
        return NONE;
    };
    let mut way = 0;
    while way < WAYS as u32 {
        let word = FlowWord(line.word(way));
        if word.matches(tag) {
            return u64::from(way) << 24 | word.0 & 0xff_ffff;
        }
        way = way.wrapping_add(1);
    }
    NONE
}

/// The same as an [`Entry`].
#[inline(always)]
fn entry_in<'t, T: Tables>(tables: &'t T, set: u32, tag: u64) -> Option<Entry<'t>> {
    let found = tables.find_flow(set, tag);
    if found == NONE {
        return None;
    }
    Some(Entry {
        set,
        line: tables.flows(set)?,
        way: (found >> 24) as u32 & 7,
        word: FlowWord(tag << 24 | found & 0xff_ffff),
    })
}

/// The entry of a flow.
#[inline(always)]
fn find<'t, T: Tables>(tables: &'t T, sets: FlowSets) -> Option<Entry<'t>> {
    match entry_in(tables, sets.first, sets.tag) {
        Some(entry) => Some(entry),
        None => entry_in(tables, sets.second, sets.tag),
    }
}

/// The entry of a flow, if it names this backend: how replies find their flow.
#[inline(always)]
pub fn find_backend<'t, T: Tables>(tables: &'t T, sets: FlowSets, id: u32) -> Option<Entry<'t>> {
    match entry_in(tables, sets.first, sets.tag) {
        Some(entry) if entry.word.backend_id() == id => Some(entry),
        _ => entry_in(tables, sets.second, sets.tag).filter(|entry| entry.word.backend_id() == id),
    }
}

/// Finds the backend of a flow with this hash, or chooses one and enters it. `arrival`: [`Arrival::word`];
/// `second`: an [`admission::second`]; `group`: a [`schedule::group`]. An [`Assigned`] in one word.
#[inline(always)]
pub fn assign<T: Tables>(
    tables: &T,
    service: u32,
    hash: u64,
    arrival: u32,
    second: u32,
    group: u64,
) -> u64 {
    let (arrival, which) = Arrival::of_word(arrival);
    match seeker(tables, service, hash, arrival, second) {
        Ok(seeker) if seeker.service.entry.spread == Spread::Datagram as u8 => {
            aside::alone(tables, &seeker).0
        }
        Ok(seeker) => {
            let group = FlowHash(group);
            let assigned = assign_for(
                tables,
                &Seeker {
                    group,
                    which,
                    ..seeker
                },
            );
            apart::doubted(&seeker, assigned).0
        }
        Err(reason) => Assigned::refused(reason).0,
    }
}

/// [`Seeker`] of a flow that is scheduled by its own hash.
#[inline(always)]
pub fn seeker<T: Tables>(
    tables: &T,
    service: u32,
    hash: u64,
    arrival: Arrival,
    second: u32,
) -> Result<Seeker<'_>, DropReason> {
    let control = tables.control().ok_or(DropReason::MapInconsistent)?;
    let service = service::by_index(tables, service)?;
    Ok(Seeker::new(control, service, hash, arrival, second))
}

#[inline(always)]
fn assign_for<T: Tables>(tables: &T, seeker: &Seeker<'_>) -> Assigned {
    let Some(entry) = find(tables, seeker.sets) else {
        if seeker.comes_too_late() {
            return Assigned::refused(DropReason::MidStream);
        }
        return match choose(tables, seeker) {
            Ok(backend) => settled(tables, seeker, enter(tables, seeker, backend)),
            Err(reason) => Assigned::refused(reason),
        };
    };
    let backend = match owner(tables, seeker, entry.word) {
        Owner::Keeps(backend) => backend,
        Owner::LosesFlows => return replace(tables, seeker, &entry, Origin::Moved),
        Owner::Resets => return Assigned::refused(DropReason::BackendLeft),
        Owner::Elsewhere if seeker.comes_too_late() => {
            return Assigned::refused(DropReason::MidStream);
        }
        Owner::Elsewhere => return replace(tables, seeker, &entry, Origin::New),
    };
    if starts_anew(seeker, entry.word, backend) {
        return replace(tables, seeker, &entry, Origin::New);
    }
    let changed = refresh(tables, &entry, seeker.epoch, seeker.arrival.step());
    let known = Assigned::to(backend.id, Origin::Known, entry.set, entry.way);
    if apart::opens_another(seeker, entry.word) {
        return known.doubted();
    }
    origin::handshake(tables, seeker, entry.word, backend, changed);
    known
}

/// What an entry's backend is to the flow.
enum Owner<'t> {
    /// It goes on serving it.
    Keeps(Backend<'t>),
    /// It is gone or may not keep flows.
    LosesFlows,
    /// The same, and this segment, which opens nothing, is to be answered with a reset.
    Resets,
    /// It belongs to another service: the entry is another flow's or of another time.
    Elsewhere,
}

#[inline(always)]
fn owner<'t, T: Tables>(tables: &'t T, seeker: &Seeker<'_>, word: FlowWord) -> Owner<'t> {
    let Some(backend) = service::backend(tables, word.backend_id()) else {
        return Owner::LosesFlows;
    };
    if backend.entry.service != seeker.service.index {
        return Owner::Elsewhere;
    }
    let permissions = backend.state.permissions();
    if permissions.may_keep() {
        return Owner::Keeps(backend);
    }
    let arrival = seeker.arrival;
    match permissions.resets() && !arrival.is_opening() && !arrival.is_datagram() {
        true => Owner::Resets,
        false => Owner::LosesFlows,
    }
}

/// A new entry.
#[inline(always)]
fn fresh(seeker: &Seeker<'_>, backend: Backend<'_>, proven: bool) -> FlowWord {
    let rank = match seeker.arrival.step() {
        Step::Closes if proven => FlowRank::ClosingProven,
        _ if proven => FlowRank::Proven,
        Step::Opens => FlowRank::Opening,
        Step::Closes => FlowRank::ClosingProbation,
        _ => FlowRank::Probation,
    };
    FlowWord::new(seeker.sets.tag, backend.id, rank, seeker.epoch)
}

/// Schedules a flow anew in the place of its old entry. A moved flow stays proven.
#[inline(always)]
fn replace<T: Tables>(
    tables: &T,
    seeker: &Seeker<'_>,
    entry: &Entry<'_>,
    origin: Origin,
) -> Assigned {
    match choose(tables, seeker) {
        Ok(backend) => replace_by(tables, seeker, entry, backend, origin),
        Err(reason) => Assigned::refused(reason),
    }
}

#[inline(always)]
fn replace_by<T: Tables>(
    tables: &T,
    seeker: &Seeker<'_>,
    entry: &Entry<'_>,
    backend: Backend<'_>,
    origin: Origin,
) -> Assigned {
    let proven = matches!(origin, Origin::Moved) && matches!(entry.word.rank(), FlowRank::Proven);
    let (set, way) = (entry.set, entry.way);
    let new = fresh(seeker, backend, proven);
    if tables.exchange_flow(entry.line, way, entry.word, new) {
        return Assigned::to(backend.id, origin, set, way);
    }
    let untracked = Assigned::to(backend.id, Origin::Untracked, set, way);
    overtaken(tables, seeker, entry.line, set, way).unwrap_or(untracked)
}

/// After a lost race: the winner's backend, if the winner is the same flow.
#[inline(always)]
fn overtaken<T: Tables>(
    tables: &T,
    seeker: &Seeker<'_>,
    line: &CacheLine,
    set: u32,
    way: u32,
) -> Option<Assigned> {
    let winner = FlowWord(line.word(way));
    if !winner.matches(seeker.sets.tag) {
        return None;
    }
    match owner(tables, seeker, winner) {
        Owner::Keeps(backend) => Some(Assigned::to(backend.id, Origin::Known, set, way)),
        Owner::LosesFlows | Owner::Resets | Owner::Elsewhere => None,
    }
}

/// Enters a new flow for a backend.
#[inline(always)]
fn enter<T: Tables>(tables: &T, seeker: &Seeker<'_>, backend: Backend<'_>) -> Assigned {
    let Some(control) = tables.control() else {
        return Assigned::refused(DropReason::MapInconsistent);
    };
    let new = fresh(seeker, backend, false);
    let mut round: u32 = 0;
    while round < 2 {
        let Some(victim) = eviction::choose(tables, seeker) else {
            break;
        };
        // Only who finds a place takes from the allowance, or a flood that finds none would use it up.
        if round == 0 && !admission::admits(tables, control, Limited::NewFlow, seeker.second) {
            return Assigned::to(backend.id, Origin::NotAdmitted, 0, 0);
        }
        let Entry {
            set,
            line,
            way,
            word,
        } = victim.entry;
        if victim.still_stands(seeker.epoch) && tables.exchange_flow(line, way, word, new) {
            let origin = match victim.is_free_or_idle() {
                true => Origin::New,
                false => Origin::NewEvicting,
            };
            return Assigned::to(backend.id, origin, set, way);
        }
        if let Some(assignment) = overtaken(tables, seeker, line, set, way) {
            return assignment;
        }
        round = round.wrapping_add(1);
    }
    Assigned::to(backend.id, Origin::Untracked, 0, 0)
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(all(test, not(loom)))]
mod tests;
