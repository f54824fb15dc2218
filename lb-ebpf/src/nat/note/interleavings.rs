//! Two CPUs that note packets of one flow at once, in every order that their loads and exchanges can take (loom).

use lb_common::{
    BackendEntry, Control, Device, EndpointSlot, FlowHash, Header, NextHop, Rule, ServiceEntry,
    nat::Stage,
};
use loom::{sync::Arc, thread};

use super::*;
use crate::{tables::CacheLine, wire::flag};

/// One entry, and nothing else.
#[derive(Clone)]
struct Cpu(Arc<CacheLine>);

impl Tables for Cpu {
    fn read_only(&self) -> bool {
        false
    }
    fn header(&self) -> Option<&Header> {
        None
    }
    fn control(&self) -> Option<&Control> {
        None
    }
    fn endpoint(&self, _: u32) -> Option<&EndpointSlot> {
        None
    }
    fn rule(&self, _: u32) -> Option<&Rule> {
        None
    }
    fn service(&self, _: u32) -> Option<&ServiceEntry> {
        None
    }
    fn ring(&self, _: u32) -> Option<&[u32; 2]> {
        None
    }
    fn backend(&self, _: u32) -> Option<&BackendEntry> {
        None
    }
    fn next_hop(&self, _: u32) -> Option<&NextHop> {
        None
    }
    fn device(&self, _: u32) -> Option<&Device> {
        None
    }
    fn flows(&self, _: u32) -> Option<&CacheLine> {
        None
    }
    fn return_hops(&self, _: u32) -> Option<&CacheLine> {
        None
    }
    fn first_counter(&self, _: u32) -> u32 {
        0
    }
    fn nat_flow(&self, slot: u32) -> Option<&CacheLine> {
        (slot == 0).then_some(&self.0)
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
    fn affinities(&self, _: u32) -> Option<&CacheLine> {
        None
    }
    fn fragments(&self, _: u32) -> Option<&CacheLine> {
        None
    }
    fn source_range(&self, _: u32, _: [u64; 2]) -> u32 {
        0
    }
    fn counter(&self, _: u32) -> Option<&CacheLine> {
        None
    }
}

const HASH: FlowHash = FlowHash(0x1234_5678_9abc_def0);
const OTHER: FlowHash = FlowHash(0x0fed_cba9_8765_4321);
const SECOND: u32 = 1000;

/// What a CPU does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Packet(Event),
    /// Another flow takes the entry, as [`super::super::entry`] does.
    Evict,
}

impl Deed {
    fn act(self, cpu: &Cpu, seen: State) -> Option<u32> {
        match self {
            Self::Packet(event) => Some(note(cpu, 0, seen.0, event.0, SECOND)),
            Self::Evict => {
                let writing = State::new(OTHER, Stage::Writing, SECOND);
                if cpu.exchange(&cpu.0, word::STATE, seen.0, writing.0) {
                    let new = State::new(OTHER, Stage::Opening, SECOND);
                    assert!(
                        cpu.exchange(&cpu.0, word::STATE, writing.0, new.0),
                        "it is written by nobody else"
                    );
                }
                None
            }
        }
    }

    /// What the entry is when nobody else does anything at once.
    fn after(self, state: State, seen: State) -> State {
        match self {
            Self::Packet(event) if state.is_still(seen) => event.after(state, SECOND),
            Self::Packet(_) => state,
            Self::Evict if state == seen => State::new(OTHER, Stage::Opening, SECOND),
            Self::Evict => state,
        }
    }
}

fn deeds() -> Vec<Deed> {
    let mut all = vec![Deed::Evict];
    for side in [Event::CLIENT, Event::BACKEND] {
        for flags in [flag::ACK, flag::SYN, flag::FIN | flag::ACK, flag::RST] {
            all.push(Deed::Packet(Event::of(Arrival::segment(flags), side)));
        }
        all.push(Deed::Packet(Event::of(Arrival::DATAGRAM, side)));
    }
    all
}

/// What comes out is what comes out of one after the other: no FIN, RST or answer is lost.
#[test]
fn two_cpus_lose_nothing_that_a_packet_says() {
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (deeds, mut meetings) = (deeds(), 0);
    for stage in [
        Stage::Opening,
        Stage::Established,
        Stage::Closing,
        Stage::Asking,
        Stage::Datagrams,
        Stage::Again,
    ] {
        let seen = State::new(HASH, stage, SECOND - 5);
        for (number, first) in deeds.iter().enumerate() {
            for second in &deeds[number..] {
                meetings += 1;
                let (counted, mine, other) = (std::sync::Arc::clone(&orders), *first, *second);
                loom::model(move || {
                    counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let mut words = [0; 8];
                    words[word::STATE as usize] = seen.0;
                    let here = Cpu(Arc::new(CacheLine::new(words)));
                    let there = here.clone();
                    let handle = thread::spawn(move || other.act(&there, seen));
                    let got = [mine.act(&here, seen), handle.join().unwrap()];
                    let found = State(here.0.word(word::STATE));
                    let in_turn = [
                        other.after(mine.after(seen, seen), seen),
                        mine.after(other.after(seen, seen), seen),
                    ];
                    assert!(
                        in_turn.contains(&found),
                        "{mine:?} and {other:?} of {seen:?}: {found:?}, {got:?}"
                    );
                });
            }
        }
    }
    let orders = orders.load(std::sync::atomic::Ordering::Relaxed);
    println!("{orders} orders of {meetings} meetings");
    assert!(orders > 2 * meetings, "nothing was interleaved");
}
