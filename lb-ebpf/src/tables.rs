//! Every map that the data plane may touch.

#[cfg(not(all(test, loom)))]
use core::sync::atomic::AtomicU64;
#[cfg(all(test, loom))]
use loom::sync::atomic::AtomicU64;

use lb_common::{
    Address, BackendEntry, Control, Device, EndpointKey, EndpointSlot, FlowWord, Header, Nanos,
    NextHop, ReturnHop, Rule, ServiceEntry, Tunnel, hash::FlowTuple,
};

use crate::{frame::Frame, mss, path, service::Backend};

mod state;

pub use state::{BackendState, load_state};

/// A line of eight words that the data plane writes: a set of `flows` or `return_hops`, or a line
/// of `counters`. Only the provided methods of [`Tables`] write to it.
#[repr(C, align(8))]
pub struct CacheLine([AtomicU64; 8]);

impl CacheLine {
    /// A line with these words.
    pub fn new(words: [u64; 8]) -> Self {
        Self(words.map(AtomicU64::new))
    }

    /// Word 0 to 7 (taken modulo eight). One load.
    #[inline(always)]
    pub fn word(&self, position: u32) -> u64 {
        atomic::load(self.at(position))
    }

    /// Replaces `current` by `new`; false when another CPU was faster.
    #[inline(always)]
    pub(crate) fn exchange(&self, position: u32, current: u64, new: u64) -> bool {
        atomic::exchange(self.at(position), current, new)
    }

    /// All eight, each one load.
    pub fn words(&self) -> [u64; 8] {
        core::array::from_fn(|position| self.word(position as u32))
    }

    /// The mask makes the index right for the compiler and the verifier alike.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is masked to the array's length"
    )]
    fn at(&self, position: u32) -> &AtomicU64 {
        &self.0[position as usize & 7]
    }
}

/// An address, and port, protocol and another port in one word each: what travels in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedKey {
    /// As [`lb_common::Address::words`].
    pub address: [u64; 2],
    /// Port (network order), protocol, a byte of [`crate::reply`]'s own; then, for replies, the client's port.
    pub tail: u64,
}

impl PackedKey {
    /// Packs a key; `other` is a second port.
    #[inline(always)]
    pub fn new(key: &EndpointKey, other: [u8; 2]) -> Self {
        let [a, b] = key.port;
        let [c, d] = other;
        Self {
            address: key.address.words(),
            tail: u64::from_ne_bytes([a, b, key.protocol, 0, c, d, 0, 0]),
        }
    }

    /// The key and the second port.
    #[inline(always)]
    pub fn unpack(self) -> (EndpointKey, [u8; 2]) {
        let [a, b, protocol, _, c, d, _, _] = self.tail.to_ne_bytes();
        let key = EndpointKey {
            address: Address::from_words(self.address),
            port: [a, b],
            protocol,
        };
        (key, [c, d])
    }
}

/// The maps. In the kernel they are map statics, on the host plain collections. Lookups that leave
/// a map's bounds give `None`.
pub trait Tables {
    /// True when nothing may be written: the program runs to explain, not to forward.
    fn read_only(&self) -> bool;
    /// Map `header`.
    fn header(&self) -> Option<&Header>;
    /// Map `control`.
    fn control(&self) -> Option<&Control>;
    /// Map `endpoints`.
    fn endpoint(&self, index: u32) -> Option<&EndpointSlot>;
    /// Map `rules`: a rule, or [`lb_common::rule::Lengths`].
    fn rule(&self, index: u32) -> Option<&Rule>;
    /// Map `services`.
    fn service(&self, index: u32) -> Option<&ServiceEntry>;
    /// Map `rings`: two BackendIds.
    fn ring(&self, index: u32) -> Option<&[u32; 2]>;
    /// Map `backends`.
    fn backend(&self, id: u32) -> Option<&BackendEntry>;
    /// How packets are put into others for a backend, and what is known of the path: `BackendEntry::tunnel`, read once.
    #[inline(always)]
    fn tunnel(&self, backend: Backend<'_>) -> Tunnel {
        let Tunnel(word) = &backend.entry.tunnel;
        Tunnel(load(word))
    }
    /// Replaces `current` by `new`, which differ in what the data plane writes; false when another CPU was faster. A read-only program
    /// answers true and writes nothing.
    fn exchange_tunnel(&self, backend: u32, current: Tunnel, new: Tunnel) -> bool;
    /// Map `next_hops`.
    fn next_hop(&self, index: u32) -> Option<&NextHop>;
    /// Map `devices`.
    fn device(&self, slot: u32) -> Option<&Device>;
    /// Map `flows`: one set of [`FlowWord`].
    fn flows(&self, set: u32) -> Option<&CacheLine>;
    /// Map `return_hops`: one set of [`ReturnHop`].
    fn return_hops(&self, set: u32) -> Option<&CacheLine>;
    /// Index of this CPU's first line in map `counters`, given `Control::lines_per_cpu`.
    fn first_counter(&self, lines_per_cpu: u32) -> u32;
    /// Map `counters`, by index.
    fn counter(&self, index: u32) -> Option<&CacheLine>;
    /// Map `notes`: a line of this CPU's own, for what one step notes of its packet for another.
    fn notes(&self) -> Option<&CacheLine>;

    /// Notes what a step needs of the packet, also in a read-only program.
    #[inline(always)]
    fn note(&self, words: [u64; 3]) {
        if let Some(line) = self.notes() {
            for (word, position) in words.into_iter().zip(0..) {
                atomic::store(line.at(position), word);
            }
        }
    }

    /// [`mss::largest`].
    #[inline(always)]
    fn largest_mss(&self, backend: u32, came: u32, mtu: u32, headers: u32, now: u64) -> u32
    where
        Self: Sized,
    {
        mss::largest(self, backend, came, mtu, headers, now)
    }

    /// [`path::note`].
    #[inline(always)]
    fn note_path(&self, address: [u64; 2], said: u64, now: u64) -> u32
    where
        Self: Sized,
    {
        path::note(self, address, said, now)
    }

    /// [`path::note_next`].
    #[inline(always)]
    fn note_path_next(&self, address: [u64; 2], said: u64, now: u64, told: u64) -> u64
    where
        Self: Sized,
    {
        path::note_next(self, address, said, now, told)
    }

    /// [`mss::lower`].
    #[inline(always)]
    fn lower_mss<F: Frame>(&self, frame: &mut F, most: u32)
    where
        Self: Sized,
    {
        mss::lower(frame, self, most);
    }

    /// [`mss::after`].
    #[inline(always)]
    fn after_option(&self, kind: u32, length: u32, place: u32) -> u32 {
        mss::after(kind, length, place)
    }

    /// Map `counters`: a line of this CPU, given `Control::lines_per_cpu`.
    #[inline(always)]
    fn counters(&self, lines_per_cpu: u32, line: u32) -> Option<&CacheLine> {
        self.counter(self.first_counter(lines_per_cpu).wrapping_add(line))
    }

    /// [`crate::service::endpoint`]. In the kernel these are functions of their own, which the verifier checks
    /// once and whose results it knows nothing about: inlined, each of the sixteen places of a
    /// flow is followed through the rest of the program ("BPF program is too large", Linux 6.18).
    #[inline(always)]
    fn find_endpoint(&self, key: PackedKey, kind: u32, live: u64) -> u32
    where
        Self: Sized,
    {
        crate::service::endpoint(self, key, kind, live)
    }

    /// [`crate::ranges::find`].
    #[inline(always)]
    fn find_range(&self, key: PackedKey, live: u64) -> u32
    where
        Self: Sized,
    {
        crate::ranges::find(self, key, live)
    }

    /// [`crate::ranges::find_rule`].
    #[inline(always)]
    fn find_rule(&self, first: u32, tail: u64, generation: u32) -> u32
    where
        Self: Sized,
    {
        crate::ranges::find_rule(self, first, tail, generation)
    }

    /// Map `fragments`: one set.
    fn fragments(&self, set: u32) -> Option<&CacheLine>;

    /// [`crate::fragment::find`].
    #[inline(always)]
    fn find_fragment(&self, hash: u64, second: u32) -> u64
    where
        Self: Sized,
    {
        crate::fragment::find(self, hash, second)
    }

    /// [`crate::fragment::learn`].
    #[inline(always)]
    fn learn_fragment(&self, hash: u64, payload: u64, second: u32)
    where
        Self: Sized,
    {
        crate::fragment::learn(self, hash, payload, second);
    }

    /// Map `nat_flows`: one flow of `fullnat`.
    fn nat_flow(&self, slot: u32) -> Option<&CacheLine>;

    /// [`crate::nat::find`].
    #[inline(always)]
    fn find_nat(&self, hash: u64, backend: u32, second: u32) -> u64
    where
        Self: Sized,
    {
        crate::nat::find(self, hash, backend, second)
    }

    /// [`crate::nat::note`].
    #[inline(always)]
    fn note_nat(&self, slot: u32, seen: u64, event: u32, second: u32) -> u32
    where
        Self: Sized,
    {
        crate::nat::note(self, slot, seen, event, second)
    }

    /// [`crate::nat::read_options`].
    #[inline(always)]
    fn read_options(&self, bytes: u32, state: u64) -> u64
    where
        Self: Sized,
    {
        crate::nat::read_options(bytes, state)
    }

    /// Replaces `current` by `new` in a line of `nat_flows` or `handshakes`; false when another CPU was faster. A read-only program
    /// answers true and writes nothing.
    #[inline(always)]
    fn exchange(&self, line: &CacheLine, position: u32, current: u64, new: u64) -> bool {
        self.read_only() || line.exchange(position, current, new)
    }

    /// Map `handshakes`: one line.
    fn handshakes(&self, line: u32) -> Option<&CacheLine>;

    /// The time to the microsecond, which costs a call.
    fn precise_now(&self) -> Nanos;

    /// [`crate::timing::note`].
    #[inline(always)]
    fn time_handshake(&self, key: u32, backend: u32, event: u32)
    where
        Self: Sized,
    {
        crate::timing::note(self, key, backend, event);
    }

    /// Map `affinities`: one set.
    fn affinities(&self, set: u32) -> Option<&CacheLine>;

    /// [`crate::verdict::count_handshake`].
    #[inline(always)]
    fn count_handshake(&self, backend: u32, which: u32)
    where
        Self: Sized,
    {
        crate::verdict::count_handshake(self, backend, which);
    }

    /// [`crate::pipeline::count_outcome`].
    #[inline(always)]
    fn count_outcome(&self, outcome: u64, bytes: u64)
    where
        Self: Sized,
    {
        crate::pipeline::count_outcome(self, outcome, bytes);
    }

    /// [`crate::pipeline::count_parcel`].
    #[inline(always)]
    fn count_parcel(&self, parcel: u64, bytes: u64)
    where
        Self: Sized,
    {
        crate::pipeline::count_parcel(self, parcel, bytes);
    }

    /// [`crate::affinity::find`].
    #[inline(always)]
    fn find_affinity(&self, service: u32, group: u64, second: u32) -> u32
    where
        Self: Sized,
    {
        crate::affinity::find(self, service, group, second)
    }

    /// [`crate::affinity::note`].
    #[inline(always)]
    fn note_affinity(&self, service: u32, group: u64, backend: u32, second: u32)
    where
        Self: Sized,
    {
        crate::affinity::note(self, service, group, backend, second);
    }

    /// Map `source_ranges`: what the longest prefix of a set that holds the address says; 0: none holds it.
    fn source_range(&self, set: u32, address: [u64; 2]) -> u32;

    /// [`crate::flow::hash`].
    #[inline(always)]
    fn hash_flow(&self, tuple: &FlowTuple) -> u64
    where
        Self: Sized,
    {
        crate::flow::hash(self, tuple)
    }

    /// [`crate::flow::assign`].
    #[inline(always)]
    fn assign_flow(&self, service: u32, hash: u64, arrival: u32, second: u32, group: u64) -> u64
    where
        Self: Sized,
    {
        crate::flow::assign(self, service, hash, arrival, second, group)
    }

    /// [`crate::flow::adopt`].
    #[inline(always)]
    fn adopt_flow(&self, service: u32, hash: u64, backend: u32, second: u32) -> u64
    where
        Self: Sized,
    {
        crate::flow::adopt(self, service, hash, backend, second)
    }

    /// [`crate::flow::find_in`].
    #[inline(always)]
    fn find_flow(&self, set: u32, tag: u64) -> u64
    where
        Self: Sized,
    {
        crate::flow::find_in(self, set, tag)
    }

    /// [`crate::eviction::victim`].
    #[inline(always)]
    fn find_victim(&self, set: u32, floor: u32, epoch: u32) -> u32
    where
        Self: Sized,
    {
        crate::eviction::victim(self, set, floor, epoch)
    }

    /// [`crate::schedule::choose`].
    #[inline(always)]
    fn choose_backend(&self, service: u32, hash: u64) -> u32
    where
        Self: Sized,
    {
        crate::schedule::choose(self, service, hash)
    }

    /// [`crate::schedule::pick`].
    #[inline(always)]
    fn pick_backend(&self, service: u32, hash: u64) -> u32
    where
        Self: Sized,
    {
        crate::schedule::pick(self, service, hash)
    }

    /// [`crate::flow::holder`].
    #[inline(always)]
    fn flow_holder(&self, service: u32, hash: u64, group: u64) -> u32
    where
        Self: Sized,
    {
        crate::flow::holder(self, service, hash, group)
    }

    /// [`crate::reply::candidate`].
    #[inline(always)]
    fn find_candidate(&self, backend: PackedKey, live: u64, distance: u32) -> u32
    where
        Self: Sized,
    {
        crate::reply::candidate(self, backend, live, distance)
    }

    /// [`crate::reply::outdate`].
    #[inline(always)]
    fn outdate_flow(&self, flow: u64, tail: u64)
    where
        Self: Sized,
    {
        crate::reply::outdate(self, flow, tail);
    }

    /// [`crate::flow::keep_apart`].
    #[inline(always)]
    fn keep_apart(&self, assigned: u64, hash: u64) -> u64
    where
        Self: Sized,
    {
        crate::flow::keep_apart(self, assigned, hash)
    }

    /// [`crate::reply::owner`].
    #[inline(always)]
    fn reply_owner(&self, backend: PackedKey, client: [u64; 2]) -> u64
    where
        Self: Sized,
    {
        crate::reply::owner(self, backend, client)
    }

    /// Replaces `current` by `new`; false when another CPU was faster. A read-only program
    /// answers true and writes nothing.
    #[inline(always)]
    fn exchange_flow(&self, set: &CacheLine, way: u32, current: FlowWord, new: FlowWord) -> bool {
        self.read_only() || set.exchange(way, current.0, new.0)
    }

    /// Writes a return hop as one word. Nothing in a read-only program.
    #[inline(always)]
    fn set_return_hop(&self, set: &CacheLine, way: u32, hop: ReturnHop) {
        if !self.read_only() {
            atomic::store(set.at(way), bytemuck::cast(hop));
        }
    }

    /// Adds to a counter. A line belongs to one CPU, so a load and a store are enough. Nothing in
    /// a read-only program.
    #[inline(always)]
    fn add(&self, line: &CacheLine, position: u32, by: u64) {
        if !self.read_only() {
            let counter = line.at(position);
            atomic::store(counter, atomic::load(counter).wrapping_add(by));
        }
    }

    /// [`Self::add`], several times.
    #[inline(always)]
    fn add_all<const N: usize>(&self, counts: [(&CacheLine, u32, u64); N]) {
        if !self.read_only() {
            for (line, position, by) in counts {
                let counter = line.at(position);
                atomic::store(counter, atomic::load(counter).wrapping_add(by));
            }
        }
    }

    /// Sets a word of this CPU's lines (limiters), or of `fragments`, `affinities`, `handshakes` and `nat_flows`. Nothing in a read-only program.
    #[inline(always)]
    fn set(&self, line: &CacheLine, position: u32, value: u64) {
        if !self.read_only() {
            atomic::store(line.at(position), value);
        }
    }
}

/// What every processor does to a word in one step. LLVM selects no instructions for relaxed
/// atomic loads and stores on BPF's cpu v3, and `core` offers compare-and-exchange there only
/// as an intrinsic; an aligned volatile access is one instruction and so just as whole.
#[cfg(not(target_arch = "bpf"))]
mod atomic {
    use core::sync::atomic::Ordering::Relaxed;

    use super::AtomicU64;

    pub(super) fn load(word: &AtomicU64) -> u64 {
        word.load(Relaxed)
    }

    pub(super) fn store(word: &AtomicU64, value: u64) {
        word.store(value, Relaxed);
    }

    pub(super) fn exchange(word: &AtomicU64, current: u64, new: u64) -> bool {
        word.compare_exchange(current, new, Relaxed, Relaxed)
            .is_ok()
    }
}

/// As above.
#[cfg(target_arch = "bpf")]
mod atomic {
    use core::{
        intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg},
        sync::atomic::AtomicU64,
    };

    #[inline(always)]
    pub(super) fn load(word: &AtomicU64) -> u64 {
        // SAFETY: the pointer comes from a live atomic, so it is valid and aligned.
        unsafe { word.as_ptr().read_volatile() }
    }

    #[inline(always)]
    pub(super) fn store(word: &AtomicU64, value: u64) {
        // SAFETY: as above, and the atomic may be written through a shared reference.
        unsafe { word.as_ptr().write_volatile(value) }
    }

    #[inline(always)]
    pub(super) fn exchange(word: &AtomicU64, current: u64, new: u64) -> bool {
        // SAFETY: as above.
        let (_, done) =
            unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word.as_ptr(), current, new) };
        done
    }
}

/// Reads a word of a map that the control plane may be changing: once, and whole.
#[inline(always)]
pub fn load(word: &u64) -> u64 {
    // SAFETY: the reference is valid and aligned; volatile keeps the load single and unsplit.
    unsafe { core::ptr::read_volatile(word) }
}
