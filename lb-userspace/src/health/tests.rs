//! The tracker, by cases and against a naive model.

mod hostile;
mod model;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn thresholds(rise: u16, fall: u16) -> Thresholds {
    Thresholds {
        rise,
        fall,
        interval_ns: 200 * MS,
        timeout_ns: 100 * MS,
        damping: crate::model::Damping::default(),
    }
}

/// A round: `late` and `took` in milliseconds.
fn round(n: u64, late: u64, took: u64, verdict: ProbeVerdict) -> ProbeResult {
    let scheduled = n * 200 * MS;
    ProbeResult {
        extra: false,
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
        extra: false,
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

/// Seconds, for damping.
const S: u64 = 1_000_000_000;

fn damping() -> Damping {
    use std::time::Duration;
    Damping {
        changes: 3,
        window: Duration::from_secs(60),
        hold: Duration::from_secs(10),
        hold_max: Duration::from_secs(35),
    }
}

/// Plays rounds, rise and fall 1: how many seconds after the one before, and whether it is good. Gives the health
/// after each.
fn flap(tracker: &mut Tracker, rounds: &[(u64, bool)]) -> Vec<(u64, Health)> {
    let mut now = 0;
    let mut seen = Vec::new();
    for (after, is_good) in rounds {
        now += after * S;
        let result = ProbeResult {
            extra: false,
            scheduled: now,
            started: now,
            ended: now,
            verdict: if *is_good { good() } else { bad() },
        };
        tracker.observe(&result, now);
        seen.push((now, tracker.health()));
    }
    seen
}

fn damped() -> Tracker {
    Tracker::new(Thresholds {
        damping: damping(),
        ..thresholds(1, 1)
    })
}

fn letters(seen: &[(u64, Health)]) -> String {
    let letter = |(_, health): &(u64, Health)| match health {
        Health::Unknown => '?',
        Health::Up => 'U',
        Health::Down => 'D',
    };
    seen.iter().map(letter).collect()
}

#[test]
fn target_that_flaps_must_stay_good_for_longer_each_time_up_to_a_bound() {
    let mut rounds = vec![(1, true), (1, false), (1, true), (1, false)];
    // Damped for 10 s, then 20, then 35 and not 40; each time it falls again at once.
    for hold in [10, 20, 35, 35] {
        rounds.extend([(1, true), (hold - 1, true), (1, true), (1, false)]);
    }
    let seen = flap(&mut damped(), &rounds);
    assert_eq!(letters(&seen), "UDUDDDUDDDUDDDUDDDUD");
}

#[test]
fn bad_round_begins_the_hold_anew_and_a_window_up_is_forgiveness() {
    let mut tracker = damped();
    let rounds = [
        (1, true),
        (1, false),
        (1, true),
        (1, false),
        (1, true),
        (9, false),
        (1, true),
        (9, true),
        (1, true),
        (60, false),
        (1, true),
    ];
    assert_eq!(letters(&flap(&mut tracker, &rounds)), "UDUDDDDDUDU");
}

#[test]
fn damping_says_once_why_and_shows_what_is_left() {
    let mut tracker = damped();
    flap(
        &mut tracker,
        &[(1, true), (1, false), (1, true), (1, false)],
    );
    let all = "damped: it changed 3 times within 1m; it must stay good for 10s, ";
    assert_eq!(tracker.damped(5 * S), Some(format!("{all}10s are left")));
    let result = |at: u64| ProbeResult {
        extra: false,
        scheduled: at,
        started: at,
        ended: at,
        verdict: good(),
    };
    let first = tracker.observe(&result(5 * S), 5 * S);
    assert_eq!(first.damped, Some(format!("{all}10s are left")));
    assert_eq!(tracker.observe(&result(8 * S), 8 * S).damped, None);
    assert_eq!(tracker.damped(8 * S), Some(format!("{all}7s are left")));
    let back = tracker.observe(&result(15 * S), 15 * S);
    assert_eq!(back.change.unwrap().to, Health::Up);
    assert_eq!(tracker.damped(15 * S), None);
}

proptest! {
    #[test]
    fn damping_never_delays_a_fall(rise in 1u16..4, fall in 1u16..4, rounds in "[gb]{0,200}") {
        let plain = thresholds(rise, fall);
        let (mut with, mut without) = (
            Tracker::new(Thresholds { damping: damping(), ..plain }),
            Tracker::new(plain),
        );
        let (a, b) = (play(&mut with, &rounds), play(&mut without, &rounds));
        for (a, b) in a.chars().zip(b.chars()) {
            // Whenever it is down without damping, it is down with it.
            prop_assert!(b != 'D' || a == 'D');
        }
    }
}

/// As `verdict` says, apart from the turns.
fn extra(n: u64, late: u64, verdict: ProbeVerdict) -> ProbeResult {
    ProbeResult {
        extra: true,
        ..round(n, late, 1, verdict)
    }
}

#[test]
fn bad_extra_rounds_are_kept_and_in_no_row_and_late_ones_are_never_proof() {
    let mut tracker = Tracker::new(thresholds(2, 2));
    assert_eq!(play(&mut tracker, "ggb"), "?UU");
    for n in 0..20 {
        let seen = tracker.observe(&extra(n, 0, bad()), n);
        assert!(matches!(seen.evidence, Evidence::Bad(_)) && seen.change.is_none());
    }
    assert_eq!((tracker.health(), tracker.counts().bad), (Health::Up, 21));
    assert_eq!(tracker.bad_until_down(), Some(1));
    // All excuses of turns used up: a late extra one says nothing yet.
    let mut tracker = Tracker::new(thresholds(2, 9));
    play(&mut tracker, "ggllllll");
    let seen = tracker.observe(&extra(9, 60_000, bad()), 9);
    assert!(matches!(seen.evidence, Evidence::Void(_)), "{seen:?}");
    assert_eq!(tracker.bad_until_down(), Some(8));
}

#[test]
fn a_confirmed_suspicion_is_a_fall_and_the_return_takes_all_of_rise() {
    let mut tracker = Tracker::new(thresholds(2, 3));
    assert_eq!(play(&mut tracker, "gggg"), "?UUU");
    tracker.observe(&extra(4, 0, bad()), 5);
    let change = tracker.confirm("why".to_owned(), 5, 5).unwrap();
    let Change {
        at,
        from,
        to,
        reason,
    } = change.clone();
    assert_eq!(
        (at, from, to, reason.as_str()),
        (5, Health::Up, Health::Down, "why")
    );
    assert_eq!(tracker.changed(), Some(&change));
    assert_eq!(tracker.confirm("why".to_owned(), 6, 6), None);
    // A turn that was under way when that check began, and was answered before the fault.
    let seen = tracker.observe(&round(0, 0, 1, good()), 6);
    assert!(matches!(seen.evidence, Evidence::Void(_)), "{seen:?}");
    assert_eq!(play(&mut tracker, "gbgg"), "DDDU");
}

#[test]
fn a_warning_is_told_when_it_begins_each_day_and_when_it_is_over() {
    let mut tracker = Tracker::new(thresholds(2, 2));
    let mut at = |now: u64, verdict: ProbeVerdict| tracker.observe(&round(0, 0, 1, verdict), now);
    let warns = |days: u8| ProbeVerdict::Expiring(format!("it expires in {days} days"));
    let given = |days: u8| Some(Warning::Given(format!("it expires in {days} days")));
    assert_eq!(at(0, good()).warned, None);
    assert_eq!(at(1, warns(9)).warned, given(9));
    assert_eq!(at(2, warns(9)).warned, None);
    assert_eq!(at(3, bad()).warned, None);
    assert_eq!(at(DAY, warns(8)).warned, None);
    assert_eq!(at(DAY + 1, warns(8)).warned, given(8));
    // Two servers behind one address, one of which is renewed: that tells nothing new.
    for n in 2..9 {
        assert_eq!(at(DAY + n, good()).warned, None);
        assert_eq!(at(DAY + n, warns(8)).warned, None);
    }
    for _ in 0..9 {
        assert_eq!(at(DAY + 9, good()).warned, None);
    }
    assert_eq!(at(DAY + 9, good()).warned, Some(Warning::Over));
    assert_eq!(at(DAY + 10, good()).warned, None);
    assert_eq!(at(DAY + 11, warns(7)).warned, given(7));
    assert_eq!(tracker.warning(), Some("it expires in 7 days"));
}
