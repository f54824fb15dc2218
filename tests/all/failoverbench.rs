//! The failover benchmark at small size: a failure of every kind is found and measured. Nothing here says how fast.

use lb_tests::bench::machine::Machine;
use lb_tests::failoverbench::histogram::{self, BINS};
use lb_tests::failoverbench::results::{Column, Figures, Kill, Results};
use lb_tests::failoverbench::{Checks, Effort, Fault, run, table};

use super::stage::Turn;

const SMALL: Effort = Effort {
    kills: 1,
    interval_ms: 200,
    timeout_ms: 100,
    fall: 2,
    per_second: 200,
};

#[test]
fn a_failure_of_every_kind_is_found_and_measured() {
    let _turn = Turn::shared();
    let results = run::run(&SMALL, |what| println!("{what}")).unwrap();
    assert_eq!(results.columns.len(), Checks::ALL.len());
    for column in &results.columns {
        let faults: Vec<Fault> = column.rows.iter().map(|row| row.fault).collect();
        assert_eq!(faults, column.checks.faults());
        for row in &column.rows {
            assert_eq!(row.kills.len(), 1, "{row:?}");
            let kill = row.kills[0];
            assert!(kill.flows > 0, "{row:?}");
            match column.checks {
                // One bad probe is not enough, and the second one comes an interval after it.
                Checks::Active => assert!(kill.failover_ms > 100.0, "{row:?}"),
                // By probes alone it would take two intervals of ten seconds.
                Checks::Passive => assert!(kill.failover_ms < 10_000.0, "{row:?}"),
            }
        }
    }
    let text = table::render(&results);
    for fault in Fault::ALL {
        let columns = Checks::ALL
            .iter()
            .filter(|checks| checks.faults().contains(&fault));
        assert_eq!(
            text.matches(fault.name()).count(),
            2 * columns.count(),
            "{text}"
        );
    }
    let json = serde_json::to_string(&results).unwrap();
    // Not compared whole: the last bit of a fraction may change on its way through text.
    let read: Results = serde_json::from_str(&json).unwrap();
    assert_eq!(read.machine, results.machine);
    assert_eq!(read.columns[0].rows.len(), Fault::ALL.len());
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
    let goal = Checks::Active.goal(&SMALL).as_secs_f64() * 1e3;
    assert_eq!(goal, 550.0);
    let counts = histogram::count(&[0.0, 24.9, 25.0, 550.0, 550.1], goal);
    assert_eq!(
        (counts[0], counts[1], counts[BINS - 1], counts[BINS]),
        (2, 1, 1, 1)
    );
    let marks = histogram::marks(&counts, 2);
    assert_eq!(marks, format!("█▄{}▄", " ".repeat(BINS - 3)));
    let rendered = |times: &[f64]| {
        let mut column = Column::empty(Checks::Active, &SMALL);
        let kills = times.iter().map(|&failover_ms| Kill {
            failover_ms,
            flows: 1,
            failed_later: 0,
            late_ms: 0.0,
        });
        column.rows[0].kills = kills.collect();
        table::render(&Results {
            machine: Machine {
                kernel: "6".to_owned(),
                cpu: "that".to_owned(),
            },
            cpus: 1,
            load_before: 0.0,
            interval_ms: SMALL.interval_ms,
            timeout_ms: SMALL.timeout_ms,
            fall: SMALL.fall,
            per_second: SMALL.per_second,
            columns: vec![column],
        })
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
