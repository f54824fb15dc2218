//! The network benchmark at small size: every candidate forwards, and every figure is there. Nothing here says how
//! fast anybody is.

use std::time::Duration;

use lb_tests::netbench::{
    Candidate,
    results::{Results, Row},
    run::{self, Effort, Samples},
    table,
};

use super::stage::Turn;

#[test]
fn every_candidate_forwards_and_has_its_figures() {
    let _turn = Turn::alone();
    let effort = Effort {
        rounds: 1,
        packets: 20_000,
        flows: 77,
        time: Duration::from_millis(500),
        clients: 4,
        // Enough that a few SYNs lost in full queues are few.
        light_per_second: 150,
    };
    let results = run::run(&effort, |what| println!("{what}")).unwrap();
    assert_eq!(results.rows.len(), Candidate::ALL.len());
    for row in &results.rows {
        let candidate = row.candidate;
        let packets = row.packets_per_second.map(|figure| figure.value.median);
        assert_eq!(packets.is_some(), candidate.takes_packets(), "{row:?}");
        assert!(packets.is_none_or(|rate| rate > 0.0), "{row:?}");
        for rate in [&row.connections_per_second, &row.bits_per_second] {
            let rate = rate.map(|figure| figure.value.median);
            assert_eq!(rate.is_some(), candidate.takes_connections(), "{row:?}");
            assert!(rate.is_none_or(|rate| rate > 0.0), "{row:?}");
        }
        for p99 in [&row.connections_p99_us, &row.bits_p99_us] {
            assert_eq!(p99.is_some(), candidate.takes_connections(), "{row:?}");
        }
    }
    let text = table::render(&results);
    for candidate in Candidate::ALL {
        assert!(text.contains(candidate.name()), "{text}");
    }
    let json = serde_json::to_string(&results).unwrap();
    // Not compared whole: the last bit of a fraction may change on its way through text.
    let read: Results = serde_json::from_str(&json).unwrap();
    assert_eq!(read.machine, results.machine);
    let names = |results: &Results| -> Vec<Candidate> {
        results.rows.iter().map(|row| row.candidate).collect()
    };
    assert_eq!(names(&read), names(&results));
}

#[test]
fn multiples_are_taken_within_a_round() {
    let packets = |values: [f64; 3]| Samples {
        packets: values.to_vec(),
        ..Samples::default()
    };
    // The machine halves its speed after the first round.
    let candidates = [Candidate::MacSwap, Candidate::Nftables, Candidate::Dnat];
    let samples = [
        packets([8.0, 4.0, 4.0]),
        packets([1.0, 0.5, 0.5]),
        packets([6.0, 3.0, 3.0]),
    ];
    let rows = Row::all(&candidates, &samples);
    let ours = rows[2].packets_per_second.unwrap();
    let by_swap = ours.by_mac_swap.unwrap();
    assert_eq!((by_swap.median, by_swap.spread), (0.75, 0.0));
    assert_eq!(
        (ours.by_nftables.median, ours.by_nftables.spread),
        (6.0, 0.0)
    );
    assert_eq!(rows[2].connections_per_second, None);
}

#[test]
fn a_burst_is_what_the_generator_can_send_at_once() {
    let burst = |packets| {
        let effort = Effort {
            rounds: 1,
            packets,
            flows: 1,
            time: Duration::ZERO,
            clients: 1,
            light_per_second: 1,
        };
        effort.burst()
    };
    assert_eq!(burst(1), 1024);
    assert_eq!(burst(2_000_000), 2_000_896);
    assert_eq!(burst(u64::MAX), 1024 * 4095);
}
