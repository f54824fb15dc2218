//! Two CPUs that work on the same sets at once, in every order that their loads and exchanges can take
//! (loom; relaxed atomics, which is weaker than what the kernel's are).
//!
//! Built and run by `cargo xtask test` with `--cfg loom`.

use bytemuck::Zeroable;
use lb_common::{
    BackendEntry, Control, Device, EndpointSlot, Header, NextHop, Permissions, Rule, ServiceEntry,
    flow::EPOCHS,
};
use loom::{sync::Arc, thread};

use super::*;
use crate::{eviction::QUOTA_FROM, wire::flag};

/// Everybody's time.
const SECOND: u32 = 0x1234_5670;
/// Sets of the table minus one.
const MASK: u32 = 1;

/// Flows with both sets in another order and tags of their own.
const A: u64 = 0x0000_1111_2222_3330;
const B: u64 = 0x0000_4444_5555_6660;
/// A flow that is in the table from the beginning.
const P: u64 = 0x0000_7777_8888_9990;
/// The backend that [`P`] has. The ring names the other two.
const OLD: u32 = 2;

/// What both CPUs see.
struct Shared {
    control: Control,
    service: ServiceEntry,
    ring: [u32; 2],
    backends: [BackendEntry; 3],
    hop: NextHop,
    flows: [CacheLine; 2],
}

/// One CPU.
#[derive(Clone)]
struct Cpu {
    shared: Arc<Shared>,
    counters: Arc<CacheLine>,
}

fn now() -> Epoch {
    admission::epoch(SECOND)
}

fn sets(hash: u64) -> FlowSets {
    FlowHash(hash).sets(MASK, 1)
}

fn word(hash: u64, backend: u32, rank: FlowRank, age: u8) -> u64 {
    let stamp = Epoch(now().0.wrapping_sub(age) & (EPOCHS - 1));
    FlowWord::new(sets(hash).tag, backend, rank, stamp).0
}

impl Cpu {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            counters: Arc::new(CacheLine::new([0; 8])),
        }
    }

    /// As a packet goes: its backend.
    fn packet(&self, hash: u64, arrival: Arrival) -> u32 {
        let control = &self.shared.control;
        if let Some(known) = young(self, control, 0, FlowHash(hash), arrival, now()) {
            return known.backend.id;
        }
        let seeker = seeker(self, 0, hash, arrival, SECOND).unwrap();
        match settle(self, control, &seeker) {
            Some(new) => new.backend.id,
            None => {
                assign_for(self, &seeker)
                    .assignment(self)
                    .unwrap()
                    .backend
                    .id
            }
        }
    }

    /// The control plane's walk: as `Sweep` in lb-userspace. `gone`: a backend whose entries are freed.
    fn sweep(&self, gone: Option<u32>) {
        for line in &self.shared.flows {
            for way in 0..WAYS as u32 {
                let word = FlowWord(line.word(way));
                let new = match word.is_live() && gone == Some(word.backend_id()) {
                    true => Some(FlowWord::FREE),
                    false => word.settled(now()),
                };
                if let Some(new) = new {
                    line.exchange(way, word.0, new.0);
                }
            }
        }
    }
}

impl Tables for Cpu {
    fn read_only(&self) -> bool {
        false
    }
    fn header(&self) -> Option<&Header> {
        None
    }
    fn control(&self) -> Option<&Control> {
        Some(&self.shared.control)
    }
    fn endpoint(&self, _: u32) -> Option<&EndpointSlot> {
        None
    }
    fn rule(&self, _: u32) -> Option<&Rule> {
        None
    }
    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        (index == 0).then_some(&self.shared.service)
    }
    fn ring(&self, index: u32) -> Option<&[u32; 2]> {
        (index == 0).then_some(&self.shared.ring)
    }
    fn backend(&self, id: u32) -> Option<&BackendEntry> {
        self.shared.backends.get(id as usize)
    }
    fn next_hop(&self, index: u32) -> Option<&NextHop> {
        (index == 0).then_some(&self.shared.hop)
    }
    fn device(&self, _: u32) -> Option<&Device> {
        None
    }
    fn flows(&self, set: u32) -> Option<&CacheLine> {
        self.shared.flows.get(set as usize)
    }
    fn return_hops(&self, _: u32) -> Option<&CacheLine> {
        None
    }
    fn first_counter(&self, _: u32) -> u32 {
        0
    }
    fn nat_flow(&self, _slot: u32) -> Option<&CacheLine> {
        None
    }

    fn exchange_tunnel(&self, _: u32, _: lb_common::Tunnel, _: lb_common::Tunnel) -> bool {
        false
    }
    fn handshakes(&self, _: u32) -> Option<&CacheLine> {
        None
    }
    fn notes(&self) -> Option<&CacheLine> {
        None
    }
    fn precise_now(&self) -> lb_common::Nanos {
        0
    }
    fn affinities(&self, _set: u32) -> Option<&CacheLine> {
        None
    }

    fn fragments(&self, _set: u32) -> Option<&CacheLine> {
        None
    }

    fn source_range(&self, _set: u32, _address: [u64; 2]) -> u32 {
        0
    }

    fn counter(&self, _: u32) -> Option<&CacheLine> {
        Some(&self.counters)
    }

    /// Watches what becomes of entries: nothing that may not go is pushed out, whatever was read before.
    fn exchange_flow(&self, set: &CacheLine, way: u32, current: FlowWord, new: FlowWord) -> bool {
        let done = set.exchange(way, current.0, new.0);
        if done && current.is_live() && current.tag() != new.tag() {
            let readiness = current.eviction(now());
            assert!(readiness > 0, "{current:x?} was pushed out by {new:x?}");
            assert!(
                way >= QUOTA_FROM || readiness >= 512 || new.tag() != sets(DATAGRAMS).tag,
                "a datagram took way {way} from {current:x?}"
            );
        }
        done
    }
}

/// A flow of datagrams only.
const DATAGRAMS: u64 = 0x0000_aaaa_bbbb_ccc0;

/// What a CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// A packet of a flow.
    Packet(u64, Arrival),
    /// The control plane's walk; `true`: [`OLD`] is gone.
    Sweep(bool),
}

const OPENS: Arrival = Arrival::segment(flag::SYN);
const CUTS: Arrival = Arrival::segment(flag::RST);

const DEEDS: [Deed; 9] = [
    Deed::Packet(A, OPENS),
    Deed::Packet(A, Arrival::MIDDLE),
    Deed::Packet(B, OPENS),
    Deed::Packet(B, CUTS),
    Deed::Packet(DATAGRAMS, Arrival::DATAGRAM),
    Deed::Packet(P, Arrival::MIDDLE),
    Deed::Packet(P, CUTS),
    Deed::Sweep(false),
    Deed::Sweep(true),
];

/// What the table holds at the beginning, where nobody cares: entries that never go.
fn kept(number: u64) -> u64 {
    word(0x0100_0000_0000 + (number << 20), 0, FlowRank::Proven, 1)
}

/// Tables that two CPUs meet over. The first set of all flows is 0.
fn beginnings() -> Vec<(&'static str, [[u64; 8]; 2])> {
    let full = [0, 1].map(|set| core::array::from_fn(|way| kept(set * 8 + way as u64)));
    let with = |places: &[(usize, usize, u64)]| {
        let mut table: [[u64; 8]; 2] = full;
        for (set, way, word) in places {
            table[*set][*way] = *word;
        }
        table
    };
    let p = |rank, age| word(P, OLD, rank, age);
    let other = |rank, age| word(0x0200_0000_0000, 1, rank, age);
    let mut upper_free = with(&[(0, 1, 0), (0, 2, p(FlowRank::Proven, 1))]);
    upper_free[0][4..].fill(0);
    vec![
        ("empty", [[0; 8]; 2]),
        ("a gap before P", upper_free),
        (
            "two free places",
            with(&[(0, 3, 0), (1, 6, 0), (0, 5, p(FlowRank::Probation2, 1))]),
        ),
        ("P is idle unseen", with(&[(0, 4, p(FlowRank::Proven, 9))])),
        ("P is idle", with(&[(0, 4, p(FlowRank::Idle, 3))])),
        (
            "P and another are young",
            with(&[
                (0, 6, p(FlowRank::Probation2, 0)),
                (1, 2, other(FlowRank::Probation, 0)),
            ]),
        ),
        (
            "P stands twice",
            with(&[
                (0, 4, p(FlowRank::Probation, 1)),
                (1, 4, p(FlowRank::Probation, 0)),
            ]),
        ),
        (
            "P has closed",
            with(&[(0, 7, p(FlowRank::ClosingProven, 5)), (1, 1, 0)]),
        ),
        ("full", full),
    ]
}

fn shared(flows: [[u64; 8]; 2]) -> Arc<Shared> {
    let backend = BackendEntry {
        permissions: Permissions::ALL,
        used: 1,
        ..BackendEntry::zeroed()
    };
    Arc::new(Shared {
        control: Control {
            flow_mask: MASK,
            flow_base_bits: 1,
            new_flows_per_second: u32::MAX,
            ..Control::zeroed()
        },
        service: ServiceEntry {
            ring: ServiceEntry::slice(0, 2),
            used: 1,
            ..ServiceEntry::zeroed()
        },
        ring: [0, 1],
        backends: [backend; 3],
        hop: NextHop {
            used: 1,
            resolved: 1,
            ..NextHop::zeroed()
        },
        flows: flows.map(CacheLine::new),
    })
}

fn act(cpu: &Cpu, deed: Deed) -> Option<u32> {
    match deed {
        Deed::Packet(hash, arrival) => Some(cpu.packet(hash, arrival)),
        Deed::Sweep(gone) => {
            cpu.sweep(gone.then_some(OLD));
            None
        }
    }
}

/// Both CPUs are done: what must hold then.
fn settled(cpu: &Cpu, before: &[[u64; 8]; 2], deeds: [Deed; 2], reached: [Option<u32>; 2]) {
    let words = || {
        cpu.shared
            .flows
            .iter()
            .flat_map(CacheLine::words)
            .map(FlowWord)
    };
    let known = |tag| {
        [A, B, P, DATAGRAMS]
            .iter()
            .any(|hash| sets(*hash).tag == tag)
    };
    for (old, new) in before
        .iter()
        .flatten()
        .map(|word| FlowWord(*word))
        .zip(words())
    {
        // A word is one that was there or one that somebody wrote, whole.
        let tag = new.tag();
        assert!(
            old.tag() == tag || known(tag) || !new.is_live(),
            "{old:x?} became {new:x?}"
        );
        // Who is kept is there; of what a gone backend had nothing need be.
        let kept = old.is_live() && old.eviction(now()) == 0;
        let gone = deeds.contains(&Deed::Sweep(true)) && old.backend_id() == OLD;
        assert!(
            !kept || gone || old.tag() == tag,
            "{old:x?} is lost: {new:x?}"
        );
    }
    for (deed, id) in deeds.into_iter().zip(reached) {
        let (Deed::Packet(hash, _), Some(id)) = (deed, id) else {
            continue;
        };
        // Whatever happened, the next packet goes where the last one did, whichever CPU sees it: but for a
        // flow that lost its entry, to a sweep of its backend or because it might be pushed out.
        let tag = sets(hash).tag;
        let entries: Vec<_> = words().filter(|word| word.matches(tag)).collect();
        let next = cpu.packet(hash, Arrival::MIDDLE);
        if hash != P {
            assert_eq!(next, id, "{deed:?}");
            assert!(
                entries.iter().all(|word| word.backend_id() == id),
                "{deed:?}: {entries:x?}"
            );
        } else if !entries.is_empty() {
            assert_eq!(next, entries[0].backend_id(), "{deed:?}");
        }
    }
}

/// One CPU does the first deed, the other the second. Gives the number of orders.
fn meet(flows: [[u64; 8]; 2], deeds: [Deed; 2]) -> usize {
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let shared = shared(flows);
        let cpus = [Cpu::new(&shared), Cpu::new(&shared)];
        let [here, there] = cpus.clone();
        let [mine, other] = deeds;
        let handle = thread::spawn(move || act(&there, other));
        let reached = [act(&here, mine), handle.join().unwrap()];
        settled(&here, &flows, deeds, reached);
    });
    runs.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn two_cpus_lose_tear_and_split_no_flow_in_any_order() {
    let (mut meetings, mut orders) = (0, 0);
    for (name, flows) in beginnings() {
        let before = orders;
        for (number, first) in DEEDS.into_iter().enumerate() {
            for second in &DEEDS[number..] {
                meetings += 1;
                orders += meet(flows, [first, *second]);
            }
        }
        println!("{name}: {} orders", orders - before);
    }
    println!("{orders} orders of {meetings} meetings");
    // One order for each meeting would mean that nothing was interleaved.
    assert!(orders > 2 * meetings);
}
