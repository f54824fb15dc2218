//! The tracker, by cases and against a naive model.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn thresholds(rise: u16, fall: u16) -> Thresholds {
    Thresholds {
        rise,
        fall,
        interval_ns: 200 * MS,
        timeout_ns: 100 * MS,
    }
}

/// A round: `late` and `took` in milliseconds.
fn round(n: u64, late: u64, took: u64, verdict: ProbeVerdict) -> ProbeResult {
    let scheduled = n * 200 * MS;
    ProbeResult {
        scheduled,
        started: scheduled + late * MS,
        ended: scheduled + (late + took) * MS,
        verdict,
    }
}

fn good() -> ProbeVerdict {
    ProbeVerdict::Good
}

fn bad() -> ProbeVerdict {
    ProbeVerdict::Bad("connect: refused".into())
}

fn void() -> ProbeVerdict {
    ProbeVerdict::Void("socket: no file descriptor left".into())
}

/// Plays letters: `g`ood, `b`ad, `v`oid, `l`ate start and bad, `o`vertime and bad, `L`ate and good.
/// Gives the health after each as `?`, `U` or `D`.
fn play(tracker: &mut Tracker, letters: &str) -> String {
    let mut seen = String::new();
    for (n, letter) in letters.chars().enumerate() {
        let result = match letter {
            'g' => round(n as u64, 0, 1, good()),
            'b' => round(n as u64, 0, 100, bad()),
            'v' => round(n as u64, 0, 0, void()),
            'l' => round(n as u64, 60_000, 100, bad()),
            'o' => round(n as u64, 0, 60_000, bad()),
            'L' => round(n as u64, 60_000, 60_000, good()),
            other => panic!("no such round: {other}"),
        };
        tracker.observe(&result, result.ended);
        seen.push(match tracker.health() {
            Health::Unknown => '?',
            Health::Up => 'U',
            Health::Down => 'D',
        });
    }
    seen
}

#[track_caller]
fn check(rise: u16, fall: u16, letters: &str, expected: &str) {
    assert_eq!(
        play(&mut Tracker::new(thresholds(rise, fall)), letters),
        expected
    );
}

#[test]
fn verdict_needs_rise_good_or_fall_bad_rounds_in_a_row() {
    check(1, 1, "gbg", "UDU");
    check(2, 3, "gg", "?U");
    check(2, 3, "bbb", "??D");
    check(2, 3, "gbgbgb", "??????");
    check(2, 3, "ggbbgbbb", "?UUUUUUD");
    check(2, 3, "bbbgbgg", "??DDDDU");
    check(0, 0, "gb", "UD");
}

#[test]
fn void_round_neither_continues_nor_breaks_a_row() {
    check(2, 2, "vvvv", "????");
    check(2, 2, "gvg", "??U");
    check(2, 2, "ggbvvvvvvvvvvvvb", "?UUUUUUUUUUUUUUD");
}

#[test]
fn bad_round_in_which_the_checker_was_stalled_is_void_and_a_good_one_counts() {
    check(1, 1, "glogl", "UUUUU");
    check(2, 2, "LL", "?U");
}

#[test]
fn checker_that_is_always_late_is_believed_after_five_rounds() {
    check(1, 2, "glllllll", "UUUUUUUD");
    check(1, 2, "glllllgllllll", "UUUUUUUUUUUUU");
    // A bad round on time ends the excuses as well: the row of excuses begins anew.
    check(1, 3, "glllllblllll", "UUUUUUUUUUUU");
}

#[track_caller]
fn check_stall(late: u64, took: u64, expected: Option<&str>) {
    let mut tracker = Tracker::new(thresholds(1, 1));
    let observation = tracker.observe(&round(1, late, took, bad()), 0);
    let expected = match expected {
        None => Evidence::Bad("connect: refused".into()),
        Some(words) => Evidence::Void(words.into()),
    };
    assert_eq!(observation.evidence, expected);
}

#[test]
fn stall_begins_beyond_what_a_busy_host_does() {
    check_stall(50, 150, None);
    check_stall(
        51,
        0,
        Some("checker stalled: started 51 ms late; ignored: connect: refused"),
    );
    check_stall(
        0,
        151,
        Some("checker stalled: ended 51 ms after its timeout; ignored: connect: refused"),
    );
}

#[test]
fn times_out_of_order_do_no_harm() {
    let mut tracker = Tracker::new(thresholds(1, 1));
    let result = ProbeResult {
        scheduled: u64::MAX,
        started: 5,
        ended: 0,
        verdict: bad(),
    };
    let change = tracker.observe(&result, 7).change.unwrap();
    assert_eq!((change.at, change.to), (7, Health::Down));
}

#[test]
fn change_tells_when_and_why_and_the_last_ten_rounds_are_kept() {
    let mut tracker = Tracker::new(thresholds(2, 2));
    play(&mut tracker, "ggggggggggbvb");
    let change = tracker.changed().unwrap();
    assert_eq!(
        (change.at, change.from, change.to, change.reason.as_str()),
        (
            (12 * 200 + 100) * MS,
            Health::Up,
            Health::Down,
            "bad probes in a row: 2; the last: connect: refused"
        )
    );
    assert_eq!(tracker.last().len(), KEPT);
    assert_eq!(tracker.last().next_back().unwrap().started, 12 * 200 * MS);
    assert_eq!(
        tracker.counts(),
        Counts {
            good: 10,
            bad: 2,
            void: 1
        }
    );
}

#[test]
fn distance_to_the_next_verdict_is_told() {
    let mut tracker = Tracker::new(thresholds(3, 2));
    let mut distance = |letters| {
        play(&mut tracker, letters);
        (tracker.good_until_up(), tracker.bad_until_down())
    };
    assert_eq!(distance(""), (Some(3), Some(2)));
    assert_eq!(distance("g"), (Some(2), Some(2)));
    assert_eq!(distance("gg"), (None, Some(2)));
    assert_eq!(distance("b"), (None, Some(1)));
    assert_eq!(distance("b"), (Some(3), None));
    assert_eq!(distance("gg"), (Some(1), None));
}

#[test]
fn tracker_survives_being_written_down() {
    let mut tracker = Tracker::new(thresholds(2, 2));
    play(&mut tracker, "ggbvlo");
    let text = serde_json::to_string(&tracker).unwrap();
    assert_eq!(serde_json::from_str::<Tracker>(&text).unwrap(), tracker);
}

/// The rule by looking at the whole past: void rounds left out, the verdict is that of the last
/// row of equal results that was long enough.
fn naive(rise: u16, fall: u16, rounds: &str) -> Health {
    let counted: Vec<char> = rounds.chars().filter(|&c| c != 'v').collect();
    for end in (1..=counted.len()).rev() {
        let (goal, verdict) = match counted[end - 1] {
            'g' => (rise, Health::Up),
            _ => (fall, Health::Down),
        };
        let row = counted[..end]
            .iter()
            .rev()
            .take_while(|&&c| c == counted[end - 1])
            .count();
        if row >= usize::from(goal) {
            return verdict;
        }
    }
    Health::Unknown
}

proptest! {
    #[test]
    fn tracker_equals_the_naive_model(rise in 1u16..5, fall in 1u16..5, rounds in "[gbv]{0,60}") {
        let mut tracker = Tracker::new(thresholds(rise, fall));
        play(&mut tracker, &rounds);
        prop_assert_eq!(tracker.health(), naive(rise, fall, &rounds));
    }

    #[test]
    fn tracker_never_flaps_faster_than_rise_plus_fall(
        rise in 1u16..5, fall in 1u16..5, rounds in "[gbvloL]{0,200}"
    ) {
        let mut tracker = Tracker::new(thresholds(rise, fall));
        let seen = play(&mut tracker, &rounds);
        let downs: Vec<usize> = seen.match_indices("UD").map(|(at, _)| at).collect();
        for pair in downs.windows(2) {
            prop_assert!(pair[1] - pair[0] >= usize::from(rise + fall));
        }
    }

    #[test]
    fn distance_is_exact(rise in 1u16..5, fall in 1u16..5, rounds in "[gbvlo]{0,40}") {
        let mut tracker = Tracker::new(thresholds(rise, fall));
        play(&mut tracker, &rounds);
        if let Some(needed) = tracker.good_until_up() {
            let seen = play(&mut tracker.clone(), &"g".repeat(needed.into()));
            prop_assert_eq!(seen.find('U'), Some(usize::from(needed) - 1));
        }
        if let Some(needed) = tracker.bad_until_down() {
            let seen = play(&mut tracker, &"b".repeat(needed.into()));
            prop_assert_eq!(seen.find('D'), Some(usize::from(needed) - 1));
        }
    }
}
