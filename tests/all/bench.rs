//! The benchmark at small size: every case takes the path that it names, in the kernel as in the library, and
//! its figures are computed right. Nothing here says how long anything takes.

use std::path::PathBuf;

use lb_common::{Family, Protocol};
use lb_ebpf::fixture::world::Ends;
use lb_tests::bench::{
    self, Case, Traffic,
    baseline::Baseline,
    machine::Machine,
    plot,
    results::{FloorResults, Measured, Object, Point, Results, Row, Summary},
    rig::{Rig, Target, driver_bytes, in_namespace},
    run::{Runner, Subject},
    scale::Axis,
    table, world,
};
use lb_tests::kernel;

/// Packets of a timed run.
const PACKETS: u64 = 300;
/// More flows than a set of the table has ways, and no multiple of anything.
const FLOWS: u64 = 77;

fn subject() -> Subject {
    Subject {
        name: "built".to_owned(),
        bytes: kernel::object_bytes().unwrap(),
        is_ours: true,
    }
}

/// The same case with few flows.
fn small(case: Case) -> Case {
    let flows = match case.flows {
        1 => 1,
        _ => FLOWS * u64::from(case.services),
    };
    Case { flows, ..case }
}

/// Proves cases and runs a round of them.
fn measure(cases: &[Case]) -> Vec<Vec<Measured>> {
    let (subjects, driver) = ([subject()], driver_bytes().unwrap());
    in_namespace(|ends| {
        let runner = Runner {
            subjects: &subjects,
            driver: &driver,
            ends,
            packets: PACKETS,
        };
        Ok(runner.measure(cases, 1, "small")?.1)
    })
    .unwrap()
}

#[test]
fn every_case_takes_the_path_that_it_names() {
    let cases: Vec<Case> = bench::cases().into_iter().map(small).collect();
    let measured = measure(&cases);
    assert_eq!(measured.len(), cases.len());
    for (case, measured) in cases.iter().zip(&measured) {
        assert_eq!(measured.len(), 1, "{}", case.name);
        assert_eq!(measured[0].untracked, 0.0, "{}", case.name);
    }
}

#[test]
fn every_curve_takes_the_path_that_it_names() {
    let mut cases = Vec::new();
    for (axis, value) in [
        (Axis::Flows, 10_000),
        (Axis::Services, 10),
        (Axis::Backends, 1000),
    ] {
        assert!(axis.values().contains(&value));
        for traffic in [Traffic::Known, Traffic::New] {
            cases.push(small(axis.case(value, traffic)));
        }
    }
    measure(&cases);
}

#[test]
fn names_of_rows_are_unique() {
    let mut names: Vec<String> = bench::cases().into_iter().map(|case| case.name).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}

/// A rig of one flow, or of many, to three services.
fn rig(family: Family, protocol: Protocol, ends: Ends) -> Rig {
    let case = Case {
        family,
        protocol,
        flows: 3 * 100_000,
        services: 3,
        ring: 1021,
        ..bench::floor_case()
    };
    let driver = driver_bytes().unwrap();
    Rig::new(&subject().bytes, &driver, &case, ends).unwrap()
}

#[test]
fn the_driver_makes_the_packets_that_another_implementation_makes() {
    in_namespace(|ends| {
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut rig = rig(family, protocol, ends);
                // Steps through all low bits of port and address, and through all services.
                for flow in (0..rig.case.flows).step_by(997) {
                    let (_, made) = rig.one(Target::Null, flow).unwrap();
                    let expected = world::frame(&rig.case, flow);
                    assert_eq!(made, expected, "{family:?} {protocol:?} flow {flow}");
                }
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_driver_steps_through_all_flows_and_begins_again() {
    in_namespace(|ends| {
        let mut rig = rig(Family::V4, Protocol::Tcp, ends);
        let flows = 3000;
        rig.plan.flows = flows;
        for packets in [flows - 1, flows, 2 * flows + 1] {
            rig.clear_flows().unwrap();
            let before = rig.counted().unwrap();
            rig.time(Target::DataPlane, 0, packets).unwrap();
            let change = rig.counted().unwrap().since(&before);
            assert_eq!(change.totals.global[0], packets);
            assert_eq!(change.new_flows, packets.min(flows), "{packets} packets");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_entry_that_is_freed_before_each_packet_makes_each_a_new_flow() {
    in_namespace(|ends| {
        let mut rig = rig(Family::V6, Protocol::Tcp, ends);
        rig.plan.flows = 1;
        rig.plan.services = 1;
        rig.one(Target::DataPlane, 0).unwrap();
        rig.clear_before_each().unwrap();
        let before = rig.counted().unwrap();
        rig.time(Target::DataPlane, 0, 50).unwrap();
        assert_eq!(rig.counted().unwrap().since(&before).new_flows, 50);
        Ok(())
    })
    .unwrap();
}

fn summary(median: f64) -> Summary {
    Summary {
        median,
        min: median,
        spread: 0.01,
    }
}

fn measured(multiple: f64) -> Measured {
    Measured {
        nanos: summary(multiple * 30.0),
        multiple: summary(multiple),
        by_first: None,
        line: None,
        untracked: 0.0,
        evicted: 0.0,
    }
}

/// A run in which each row has this multiple.
fn results(rows: &[(&str, u64, f64)]) -> Results {
    let row = |(name, flows, multiple): &(&str, u64, f64)| Row {
        name: (*name).to_owned(),
        flows: *flows,
        goal: Some(1.0),
        measured: vec![measured(*multiple)],
    };
    Results {
        machine: Machine {
            kernel: "6.1".to_owned(),
            cpu: "a processor".to_owned(),
        },
        objects: vec![Object {
            name: "built".to_owned(),
            instructions: 1000,
            verified: 5000,
        }],
        rounds: 15,
        packets: 1_000_000,
        floors: FloorResults {
            null: summary(36.0),
            mac_swap: summary(1.5),
            grow: summary(9.0),
            hash_lookup: summary(30.0),
        },
        rows: rows.iter().map(row).collect(),
        scale: Vec::new(),
    }
}

#[test]
fn quartiles_lie_between_neighbours() {
    let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
    assert_eq!((summary.median, summary.min), (2.5, 1.0));
    assert_eq!(summary.spread, (3.25 - 1.75) / 2.5);
    assert_eq!(Summary::of(&[7.0]).spread, 0.0);
}

#[test]
fn a_row_is_worse_only_beyond_its_noise() {
    let baseline = Baseline::of(&results(&[("one", 1, 2.0), ("many", 1000, 2.0)]), None);
    for (one, many, worse) in [
        (2.0, 2.0, [false, false]),
        (2.19, 2.59, [false, false]),
        (2.21, 2.61, [true, true]),
        (1.0, 1.0, [false, false]),
    ] {
        let run = results(&[("one", 1, one), ("many", 1000, many), ("other", 1, 9.0)]);
        let compare = |row: &Row| baseline.compare(row).map(|change| change.is_worse);
        let compared: Vec<Option<bool>> = run.rows.iter().map(compare).collect();
        assert_eq!(compared, [Some(worse[0]), Some(worse[1]), None]);
        let text = table::render(&run, Some(&baseline));
        assert_eq!(
            text.matches("WORSE").count(),
            worse.iter().filter(|w| **w).count()
        );
    }
}

#[test]
fn a_part_of_a_run_leaves_the_rest_of_the_baseline() {
    let older = Baseline::of(&results(&[("one", 1, 2.0), ("many", 1000, 3.0)]), None);
    let newer = Baseline::of(&results(&[("one", 1, 1.5)]), Some(older));
    let multiples: Vec<(&str, f64)> = newer
        .multiples
        .iter()
        .map(|(name, multiple)| (name.as_str(), *multiple))
        .collect();
    assert_eq!(multiples, [("many", 3.0), ("one", 1.5)]);
}

#[test]
fn the_committed_baseline_names_the_rows_that_there_are() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/baseline.json"));
    let baseline = Baseline::read(&path).unwrap().expect("it is committed");
    let mut names: Vec<String> = bench::cases().into_iter().map(|case| case.name).collect();
    names.sort();
    let known: Vec<String> = baseline.multiples.into_keys().collect();
    assert_eq!(known, names, "run `cargo xtask bench --save-baseline`");
}

#[test]
fn the_table_says_which_goals_are_met() {
    let text = table::render(&results(&[("one", 1, 0.9), ("two", 1, 1.1)]), None);
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("one").ends_with("met"), "{text}");
    assert!(line("two").ends_with("missed"), "{text}");
    assert!(text.contains("1 of 2 goals met"), "{text}");
}

#[test]
fn results_survive_json() {
    let results = results(&[("one", 1, 0.9)]);
    let text = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
}

#[test]
fn a_plot_shows_every_axis_and_curve() {
    let mut results = results(&[]);
    for axis in Axis::ALL {
        for traffic in [Traffic::Known, Traffic::New] {
            results
                .scale
                .extend(axis.values().iter().map(|value| Point {
                    axis,
                    traffic: traffic.label().to_owned(),
                    value: *value,
                    measured: vec![measured(2.0)],
                }));
        }
    }
    let svg = plot::render(&results).unwrap();
    for text in [
        "flows in turn",
        "services in turn",
        "backends (",
        "10 M",
        "100 k",
        "SYN new",
    ] {
        assert!(svg.contains(text), "no '{text}' in {svg}");
    }
}
