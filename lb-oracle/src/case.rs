//! A case: what the maps hold, and what happens then; and its run through the library, beside the oracle.

use std::fmt;

use lb_common::{
    Device, FlowWord, Nanos,
    counter::{CounterLine, Handshake, lines_per_cpu},
    timing,
};
use lb_ebpf::{
    fixture::{
        tagging::Tagging,
        world::{Change, Ends, GEOMETRY, Side, World},
    },
    mem::{self, Geometry, MemFrame, MemTables},
    verdict::Verdict,
};

use crate::{
    frames,
    oracle::{Opinion, Oracle},
    shrink,
    tally::Tally,
};

/// Sets of the flow table: room for every flow of a case, so that none is evicted.
pub const FLOW_SETS: u32 = 128;

/// Entries of `nat_flows`: with all ports in use one is always free among those that a flow looks at.
pub const NAT_FLOWS: u32 = 512;

/// What the maps hold, and what happens then.
#[derive(Clone, Debug)]
pub struct Case {
    /// What the maps hold at first.
    pub world: World,
    /// MTU of every next hop at first, and of the clients' interface, in bytes.
    pub mtu: u32,
    /// What frames carry on each side.
    pub tagging: Tagging,
    /// Bytes that a frame may grow by in front.
    pub room: u16,
    /// What happens, in order.
    pub scenes: Vec<Scene>,
}

/// Packets of one moment, after changes by the control plane.
#[derive(Clone, Debug)]
pub struct Scene {
    /// When; never earlier than the scene before.
    pub at: Nanos,
    /// What the control plane changes first.
    pub changes: Vec<Change>,
    /// The frames, and where they come in.
    pub packets: Vec<Arrival>,
}

/// A frame on its way in.
#[derive(Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Whose card it comes in by.
    pub ingress: Side,
    /// Its bytes.
    pub frame: Vec<u8>,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.ingress)?;
        self.frame
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where the library and the oracle, or a sent frame and the rules, differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Scene and packet; the number of packets: after the scene's last.
    pub at: (usize, usize),
    /// What differs.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scene, packet) = self.at;
        write!(f, "scene {scene}, packet {packet}: {}", self.what)
    }
}

impl Case {
    /// The size of the maps.
    pub const GEOMETRY: Geometry = Geometry {
        flow_sets: FLOW_SETS,
        nat_flows: NAT_FLOWS,
        ..GEOMETRY
    };

    /// The maps as they are at first; `ends`: with the case's tags.
    pub fn tables(&self, ends: &Ends) -> MemTables {
        let mut tables = self.world.tables_of(Self::GEOMETRY, ends);
        for hop in &mut tables.next_hops {
            hop.mtu = self.mtu;
        }
        let slot = &mut tables.devices[ends.slot(Side::Client) as usize];
        // A change may have taken it away; and another's number may stand there.
        if slot.ifindex == ends.ifindex(Side::Client) {
            *slot = Device {
                mtu: self.mtu,
                ..*slot
            };
        }
        tables
    }

    /// Packets in all scenes.
    pub fn packets(&self) -> usize {
        self.scenes.iter().map(|scene| scene.packets.len()).sum()
    }
}

/// Runs a case through the library and asks the oracle about each packet: verdict, bytes and all counters after each,
/// the flow table at the end, and what another parser makes of each sent frame.
pub fn run(case: &Case) -> Result<Tally, Difference> {
    let ends = &Ends::HOST.tagged(case.tagging);
    let mut tables = case.tables(ends);
    let mut oracle = Oracle::new(&case.world, case.mtu, case.tagging).with_room(case.room);
    let mut tally = Tally::default();
    for (number, scene) in case.scenes.iter().enumerate() {
        for change in &scene.changes {
            change.apply(&mut tables, ends);
            oracle.change(change);
        }
        for (packet, arrival) in scene.packets.iter().enumerate() {
            let mut frame = MemFrame::new(arrival.frame.clone(), ends.port(arrival.ingress));
            frame.room = case.room;
            let verdict = mem::process(&mut frame, &tables, scene.at);
            let opinion = oracle.process(&arrival.frame, &frame.bytes, arrival.ingress, scene.at);
            let left = (verdict, &frame.bytes[..]);
            let expected = opinion.fate.verdict(ends);
            let compared = compare(&tables, arrival, left, (&opinion, expected), &oracle);
            compared.map_err(|what| Difference {
                at: (number, packet),
                what,
            })?;
            tally.note(&opinion, &arrival.frame);
        }
    }
    let clients = mem::words(&tables.affinities);
    let mut clients: Vec<u64> = clients.concat().into_iter().filter(|w| *w != 0).collect();
    clients.sort_unstable();
    if clients != oracle.client_words() {
        return Err(Difference {
            at: (case.scenes.len(), 0),
            what: format!(
                "clients that stay\n    library {clients:x?}\n    oracle  {:x?}",
                oracle.client_words()
            ),
        });
    }
    let entries = live_words(&mem::words(&tables.flows));
    if entries != oracle.flow_words() {
        return Err(Difference {
            at: (case.scenes.len(), 0),
            what: format!(
                "the flow table\n    library {entries:x?}\n    oracle  {:x?}",
                oracle.flow_words()
            ),
        });
    }
    Ok(tally)
}

/// What is wrong with a case: the smallest one like it that fails.
pub fn explain(case: &Case) -> String {
    let small = shrink::shrink(case, &mut |case| run(case).is_err());
    match run(&small) {
        Ok(_) => "the case does not fail again".into(),
        Err(difference) => format!("made smaller: {difference}\n{small:#?}"),
    }
}

/// The entries in use of a flow table, sorted.
pub fn live_words(lines: &[[u64; 8]]) -> Vec<u64> {
    let words = lines.iter().flatten().copied();
    let mut live: Vec<u64> = words.filter(|word| FlowWord(*word).is_live()).collect();
    live.sort_unstable();
    live
}

fn compare(
    tables: &MemTables,
    arrival: &Arrival,
    (verdict, left): (Verdict, &[u8]),
    (opinion, expected): (&Opinion, Verdict),
    oracle: &Oracle,
) -> Result<(), String> {
    let output = opinion.output.as_ref().unwrap_or(&arrival.frame);
    if verdict != expected {
        let reasons = (verdict.reason(), expected.reason());
        return Err(format!(
            "verdict\n    library {verdict:?} {:?}\n    oracle  {expected:?} {:?}",
            reasons.0, reasons.1
        ));
    }
    // Nobody sees what becomes of a packet that is dropped.
    if verdict.reason().is_none() && left != *output {
        return Err(format!(
            "bytes\n    before  {:02x?}\n    library {left:02x?}\n    oracle  {output:02x?}",
            arrival.frame
        ));
    }
    let counters = oracle.ledger().lines();
    let differs =
        counters
            .iter()
            .zip(&tables.counters)
            .enumerate()
            .find(|(number, (expected, line))| {
                !is_limiter(*number) && !is_counted(*number, expected, line.words())
            });
    if let Some((number, (expected, line))) = differs {
        return Err(format!(
            "counters, line {number}\n    library {:?}\n    oracle  {expected:?}",
            line.words()
        ));
    }
    frames::check(&arrival.frame, opinion)
}

/// That a line says what it must. Which answers to SYNs are timed is a matter of the table that they are timed by, which the oracle does not
/// know; their number has a bound.
fn is_counted(number: usize, expected: &CounterLine, line: CounterLine) -> bool {
    let lines = lines_per_cpu(GEOMETRY.backends, GEOMETRY.services);
    let handshakes = (lines - GEOMETRY.backends) as usize;
    let mut counted = line;
    if number >= handshakes {
        let [sum, count] = [timing::SUM, timing::COUNT].map(|at| at as usize);
        if line[count] > line[Handshake::Answered as usize] {
            return false;
        }
        (counted[sum], counted[count]) = (0, 0);
    }
    counted == *expected
}

/// Lines of bookkeeping that are not counters.
fn is_limiter(line: usize) -> bool {
    lb_common::counter::is_bookkeeping(line as u32)
}
