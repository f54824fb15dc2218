//! The failover benchmark at small size: a failure of every kind is found and measured. Nothing here says how fast.

use lb_tests::bench::machine::Machine;
use lb_tests::failoverbench::histogram::{self, BINS};
use lb_tests::failoverbench::results::{Figures, Kill, Results};
use lb_tests::failoverbench::{Checks, Effort, Fault, Way, run, table};

use super::stage::Turn;

const SMALL: Effort = Effort {
    checks: Checks::Active,
    way: Way::Dnat,
    kills: 1,
    kills_by_turns: 0,
    interval_ms: 200,
    timeout_ms: 100,
    fall: 2,
    per_second: 200,
};

/// By probes alone a fault would take two intervals of a minute.
const SMALL_PASSIVE: Effort = Effort {
    checks: Checks::Passive,
    interval_ms: 60_000,
    timeout_ms: 500,
    ..SMALL
};

fn measured(effort: &Effort) -> Results {
    let _turn = Turn::shared();
    let results = run::run(effort, |what| println!("{what}")).unwrap();
    let faults: Vec<Fault> = results.rows.iter().map(|row| row.fault).collect();
    assert_eq!(faults, effort.faults());
    for row in &results.rows {
        assert_eq!(
            row.kills.len(),
            effort.kills_of(row.fault) as usize,
            "{row:?}"
        );
        assert!(row.kills.iter().all(|kill| kill.flows > 0), "{row:?}");
    }
    let text = table::render(&results);
    for fault in faults {
        // In the table and in the histogram, and among those that are left to the turns.
        let has_goal = Effort::has_goal(effort.checks, fault);
        let times = if has_goal { 2 } else { 3 };
        assert_eq!(text.matches(fault.name()).count(), times, "{text}");
    }
    results
}

#[test]
fn a_failure_of_every_kind_is_found_and_measured() {
    let results = measured(&SMALL);
    for row in &results.rows {
        // One bad probe is not enough, and the second one comes an interval after it.
        assert!(row.kills[0].failover_ms > 100.0, "{row:?}");
    }
    let json = serde_json::to_string(&results).unwrap();
    // Not compared whole: the last bit of a fraction may change on its way through text.
    let read: Results = serde_json::from_str(&json).unwrap();
    assert_eq!(read.machine, results.machine);
    assert_eq!(read.rows.len(), Fault::OF_TURNS.len());
}

/// The bed itself says so if something else than packets took the server out.
#[test]
fn packets_show_failures_long_before_the_turn_of_the_checks() {
    for way in [Way::Dnat, Way::L2dsr] {
        let effort = Effort {
            way,
            ..SMALL_PASSIVE
        };
        assert_eq!(measured(&effort).way, way);
    }
}

/// Two intervals of two seconds.
#[test]
fn what_no_packet_shows_is_left_to_the_turns_and_has_no_goal() {
    for way in [Way::Dnat, Way::L2dsr] {
        let effort = Effort {
            way,
            kills: 0,
            kills_by_turns: 1,
            interval_ms: 2000,
            ..SMALL_PASSIVE
        };
        let results = measured(&effort);
        let text = table::render(&results);
        for row in results.rows.iter().filter(|row| !row.kills.is_empty()) {
            let name = row.fault.name();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with(" -"), "{text}");
            let Kill {
                failover_ms,
                by_packets,
                ..
            } = row.kills[0];
            assert!(failover_ms > 1000.0 || by_packets, "{row:?}");
        }
    }
}

#[test]
fn figures_are_of_the_nearest_rank() {
    let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    let all = Figures::of(&times).unwrap();
    assert_eq!((all.median, all.p99, all.worst), (100.0, 198.0, 200.0));
    let few = Figures::of(&times[..3]).unwrap();
    assert_eq!((few.median, few.p99, few.worst), (199.0, 200.0, 200.0));
    assert_eq!(Figures::of(&[]), None);
}

#[test]
fn times_beyond_the_goal_are_counted_and_it_is_missed() {
    let goal = SMALL.goal().as_secs_f64() * 1e3;
    assert_eq!(goal, 550.0);
    let counts = histogram::count(&[0.0, 24.9, 25.0, 550.0, 550.1], goal);
    assert_eq!(
        (counts[0], counts[1], counts[BINS - 1], counts[BINS]),
        (2, 1, 1, 1)
    );
    let marks = histogram::marks(&counts, 2);
    assert_eq!(marks, format!("█▄{}▄", " ".repeat(BINS - 3)));
    let rendered = |times: &[f64]| {
        let machine = Machine {
            kernel: "6".to_owned(),
            cpu: "that".to_owned(),
        };
        let mut results = Results::empty(&SMALL, machine, 1, 0.0);
        let kills = times.iter().map(|&failover_ms| Kill {
            failover_ms,
            flows: 1,
            failed_later: 0,
            late_ms: 0.0,
            by_packets: false,
        });
        results.rows[0].kills = kills.collect();
        table::render(&results)
    };
    let met = rendered(&[549.0, 550.0]);
    assert!(
        met.contains("met") && !met.contains("missed") && !met.contains("beyond"),
        "{met}"
    );
    let missed = rendered(&[549.0, 551.0, 600.0]);
    assert!(
        missed.contains("missed by 2") && missed.contains("2 beyond"),
        "{missed}"
    );
}
