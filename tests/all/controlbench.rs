//! The control plane's benchmark at small size: every figure is there. Nothing here says how fast anybody is.

use std::time::Duration;

use lb_tests::bench::machine::Machine;
use lb_tests::controlbench::{self, Effort, Goal, Row, Values, table};

use super::stage::Turn;

#[test]
fn a_small_configuration_has_all_figures() {
    let _turn = Turn::shared();
    let effort = Effort {
        services: 3,
        backends: 2,
        starts: 2,
        orders: 6,
        targets: 20,
        seconds: 3,
    };
    let rows = controlbench::run(&effort, |what| println!("{what}")).unwrap();
    let counts: Vec<usize> = rows.iter().map(count).collect();
    // Rings, checks, starts, three of memory, orders undisturbed and disturbed; how often somebody asked is open.
    assert_eq!(counts[..8], [21, 2, 2, 2, 2, 1, 3, 3], "{rows:?}");
    assert!(counts.len() == 17 && counts[8] > 0, "{rows:?}");
    // Processor time, waits for it (there may be none), lateness of all and of the 99th of 100: with all well, and with
    // half of them silent.
    for checks in [&counts[9..13], &counts[13..17]] {
        assert_eq!((checks[0], checks[3]), (3, 1), "{rows:?}");
        assert!(checks[2] > 0, "{rows:?}");
    }
    let text = table::render(&Machine::this().unwrap(), &rows);
    for row in &rows {
        assert!(text.contains(&row.what), "{text}");
    }
}

fn count(row: &Row) -> usize {
    match &row.values {
        Values::Times(times) => times.iter().filter(|time| !time.is_zero()).count(),
        Values::Bytes(bytes) => bytes.iter().filter(|bytes| **bytes > 0).count(),
    }
}

#[test]
fn a_goal_is_missed_when_the_middle_value_is_above_it() {
    let row = |millis: [u64; 3]| Row {
        what: "this".to_owned(),
        values: Values::Times(millis.map(Duration::from_millis).to_vec()),
        goal: Goal::Time(Duration::from_millis(10)),
    };
    let machine = Machine {
        kernel: "6".to_owned(),
        cpu: "that".to_owned(),
    };
    let missed = |row| table::render(&machine, &[row]).contains("missed");
    assert!(missed(row([1, 11, 12])));
    assert!(!missed(row([1, 10, 1000])));
}
