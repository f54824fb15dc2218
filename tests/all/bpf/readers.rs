//! Counters and the flow table through shared memory.

use std::collections::{BTreeMap, BTreeSet};

use bytemuck::Zeroable;
use lb_common::counter::{BACKEND_LINE, MORE_LINE, service_line};
use lb_common::flow::{FlowRank, FlowWord};
use lb_common::{Control, Epoch, Load, Permissions};

use lb_userspace::dataplane::bpf::{Bpf, Settings};
use lb_userspace::dataplane::{Dataplane, MapOp};

use super::room::{LIMITS, Room, in_room};
use super::writes::prepare;

fn add(room: &Room, line: u32, position: usize, value: u64) {
    room.poke("counters", line, |bytes: &mut [u8; 64]| {
        bytes[position * 8..position * 8 + 8].copy_from_slice(&value.to_ne_bytes());
    });
}

#[test]
fn counters_are_summed_over_all_cpus() {
    in_room(|room| {
        prepare(room);
        let (bpf, _) = room.open();
        let reader = bpf.reader();
        let per_cpu = lb_common::counter::lines_per_cpu(LIMITS.backends, LIMITS.services);
        let cpus = bpf.geometry().cpus;
        for cpu in 0..cpus {
            let first = cpu * per_cpu;
            let n = u64::from(cpu) + 1;
            add(room, first, 0, 10 * n);
            add(room, first + 1, 3, 100 * n);
            add(room, first + 4, 7, 5 * n);
            add(room, first + BACKEND_LINE + 31, 1, 7 * n);
            add(room, first + MORE_LINE, 1, 11 * n);
            let service = first + service_line(LIMITS.backends, 7);
            add(room, service, 0, 2 * n);
            add(room, service + 3, 6, 3 * n);
            // Whose turn it is, and when flows were counted: no counters.
            add(room, first + BACKEND_LINE + 31, 7, 13 * n);
            add(room, service + 3, 7, 9 * n);
        }
        let sum: u64 = (1..=u64::from(cpus)).sum();
        let totals = reader.totals();
        assert_eq!(totals.global[0], 10 * sum);
        assert_eq!((totals.drops[3], totals.drops[31]), (100 * sum, 5 * sum));
        assert_eq!(reader.backend(31), [0, 7 * sum, 0, 0, 0, 0, 0, 0]);
        let drops = reader.service_drops(7);
        assert_eq!((drops[0], drops[30], drops[31]), (2 * sum, 3 * sum, 0));
        assert_eq!(drops.iter().sum::<u64>(), 5 * sum);
        assert_eq!(reader.backend(LIMITS.backends), [0; 8]);
        assert_eq!(reader.service_drops(LIMITS.services), [0; 32]);
        let all = reader.counters(0, [30, 31], [7]);
        assert_eq!(all.totals, totals);
        assert_eq!(all.more, [0, 11 * sum, 0, 0, 0, 0, 0, 0]);
        assert_eq!(all.backends[&31], reader.backend(31));
        assert_eq!(all.backends[&30], [0; 8]);
        assert_eq!(all.service_drops, BTreeMap::from([(7, drops)]));
    });
}

fn entry(room: &Room, set: u32, way: usize) -> FlowWord {
    let mut word = 0;
    room.poke("flows", set, |bytes: &mut [u8; 64]| {
        word = u64::from_ne_bytes(bytes[way * 8..way * 8 + 8].try_into().unwrap());
    });
    FlowWord(word)
}

fn put(room: &Room, set: u32, way: usize, word: FlowWord) {
    room.poke("flows", set, |bytes: &mut [u8; 64]| {
        bytes[way * 8..way * 8 + 8].copy_from_slice(&word.0.to_ne_bytes());
    });
}

#[test]
fn a_sweep_counts_settles_and_forgets_in_slices() {
    in_room(|room| {
        prepare(room);
        let (bpf, _) = room.open();
        let now = Epoch(12);
        let sets = bpf.geometry().flow_sets;
        let word = |id, rank, epoch| FlowWord::new(0x55, id, rank, Epoch(epoch));
        put(room, 0, 0, word(1, FlowRank::Probation, 12));
        put(room, 5, 7, word(1, FlowRank::Proven, 4));
        put(room, 6, 1, word(1, FlowRank::Proven, 3));
        put(room, 7, 2, word(2, FlowRank::Idle, 12));
        put(room, 8, 3, word(3, FlowRank::ClosingProven, 11));
        put(room, sets - 1, 7, word(3, FlowRank::Proven, 0));
        put(room, 9, 0, word(31, FlowRank::Proven, 13));
        put(room, 10, 0, word(30, FlowRank::ClosingProven, 12));
        put(room, 10, 1, word(30, FlowRank::ClosingProbation, 11));
        let mut sweep = bpf.reader().sweep(BTreeSet::from([3]));
        let mut slices = 1;
        let counts = loop {
            match sweep.slice(now, 100) {
                Some(counts) => break counts,
                None => slices += 1,
            }
        };
        assert_eq!(slices, sets.div_ceil(100));
        assert_eq!(counts.live, BTreeMap::from([(1, 2), (30, 1), (31, 1)]));
        // What a FIN has closed is no load any more.
        assert_eq!(counts.open, BTreeMap::from([(1, 2), (31, 1)]));
        assert_eq!(counts.idle, BTreeMap::from([(1, 1), (2, 1), (30, 1)]));
        assert_eq!(counts.freed, 2);
        assert_eq!(entry(room, 0, 0), word(1, FlowRank::Probation, 12));
        assert_eq!(entry(room, 6, 1), word(1, FlowRank::Idle, 12));
        assert_eq!(entry(room, 8, 3), FlowWord::FREE);
        assert_eq!(entry(room, sets - 1, 7), FlowWord::FREE);
    });
}

fn word(room: &Room, map: &str, index: u32, position: usize) -> u64 {
    let mut word = 0;
    room.poke(map, index, |bytes: &mut [u8; 64]| {
        word = u64::from_ne_bytes(bytes[position * 8..position * 8 + 8].try_into().unwrap());
    });
    word
}

#[test]
fn loads_are_written_for_packets_and_are_no_part_of_what_is_planned() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let before = bpf.actual().unwrap();
        let control = || {
            let mut found = Control::zeroed();
            room.poke("control", 0, |bytes: &mut [u8; size_of::<Control>()]| {
                found = bytemuck::pod_read_unaligned(bytes);
            });
            found
        };
        let was = control();
        let per_cpu = lb_common::counter::lines_per_cpu(LIMITS.backends, LIMITS.services);
        let line = |cpu: u32, id: u32| cpu * per_cpu + BACKEND_LINE + id;
        let cpus = bpf.geometry().cpus;
        let last = cpus - 1;
        for (position, value) in [(2, 40), (6, 2)] {
            add(room, line(last, 1), position, value);
        }
        // A CPU that never got a packet has no flows.
        add(room, last * per_cpu, 0, 1);
        let loads = BTreeMap::from([(1, Load::new(9, 5)), (2, Load::new(3, 7))]);
        let began = bpf.reader().got([1, 2]);
        add(room, line(last, 1), 2, 60);
        let got = began.half_way(&bpf.reader().got([1, 2]));
        let mut came = vec![0; last as usize + 1];
        came[last as usize] = 10;
        assert_eq!(began.until(&got), came);
        bpf.write_loads(&loads, &got, Some(cpus)).unwrap();
        let load = |id| word(room, "backends", id, 5);
        assert_eq!((load(1), load(2)), (loads[&1].0, loads[&2].0));
        assert_eq!(word(room, "counters", line(last, 1), 7), 52);
        assert_eq!(word(room, "counters", line(last, 2), 7), 0);
        assert_eq!(
            control(),
            Control {
                flow_cpus: cpus,
                ..was
            }
        );
        // Nothing was noted yet: what an earlier daemon knew stays.
        bpf.write_loads(&loads, &got, None).unwrap();
        assert_eq!(control().flow_cpus, cpus);
        // Weights are in other units, and of one that came meanwhile it is not known what it had got.
        let rescaled = BTreeMap::from([(1, Load::new(9, 5000)), (2, Load::new(3, 7000))]);
        let only_two = bpf.reader().got([2]);
        bpf.write_loads(&rescaled, &only_two, Some(cpus)).unwrap();
        assert_eq!((load(1), load(2)), (Load::UNKNOWN.0, rescaled[&2].0));
        bpf.write_loads(&loads, &got, Some(cpus)).unwrap();
        // A plan changes a backend's word, and its load stays; a restart finds nothing to do.
        let op = MapOp::SetBackendWord {
            id: 1,
            permissions: Permissions(Permissions::KEEP),
            next_hop: 1,
        };
        bpf.apply(&[op]).unwrap();
        assert_eq!(load(1), loads[&1].0);
        let mut after = bpf.actual().unwrap();
        after.image.backends.get_mut(&1).unwrap().permissions = Permissions::ALL;
        assert_eq!(after.image, before.image);
        bpf.forget_loads(&BTreeMap::from([(2, loads[&2])])).unwrap();
        assert_eq!((load(1), load(2)), (0, loads[&2].0));
        // Another daemon counts now.
        let settings = Settings {
            run_dir: room.dir().join("run2"),
            ..room.settings()
        };
        let newer = Bpf::open(&settings).unwrap();
        assert!(bpf.write_loads(&loads, &got, Some(1)).is_err());
        assert!(bpf.forget_loads(&BTreeMap::new()).is_err());
        assert_eq!((load(1), load(2)), (0, loads[&2].0));
        drop(newer);
    });
}
