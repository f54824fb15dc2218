//! The rota over simulated time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::model::{ExecCheck, ProbeVerdict};

const MS: u64 = 1_000_000;

fn target(n: u64) -> Target {
    Target {
        backend: format!("web/b{n}").parse().unwrap(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 80,
        real_path: None,
        full_size: None,
        check: Check::Tcp,
        agent: None,
        interval: Duration::from_millis(1000),
        fast_interval: Duration::from_millis(1000),
        timeout: Duration::from_millis(500),
        rise: 1,
        fall: 1,
        opening: 1,
        jitter: Duration::from_millis(100),
    }
}

fn result(at: u64, verdict: ProbeVerdict) -> ProbeResult {
    ProbeResult {
        extra: false,
        scheduled: at,
        started: at,
        ended: at,
        verdict,
    }
}

fn good(at: u64) -> ProbeResult {
    result(at, ProbeVerdict::Good)
}

/// Runs the rota as a prober would whose probes take `took`; gives the starts by target.
fn run(rota: &mut Rota, from: u64, until: u64, took: u64) -> BTreeMap<String, Vec<u64>> {
    let mut starts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut running: BTreeMap<(u64, TargetId), ()> = BTreeMap::new();
    let mut now = from;
    loop {
        while let Some(due) = rota.pop_due(now) {
            assert!(due.scheduled <= now);
            let name = due.target.backend.backend.to_string();
            starts.entry(name).or_default().push(now);
            running.insert((now + took, due.id), ());
        }
        let ends = running.keys().next().copied();
        let next = rota.next_due().into_iter().chain(ends.map(|(at, _)| at));
        match next.min() {
            Some(at) if at <= until => now = now.max(at),
            _ => return starts,
        }
        while let Some((at, id)) = running.keys().next().copied().filter(|(at, _)| *at <= now) {
            running.remove(&(at, id));
            rota.ended(id, &good(now), now);
        }
    }
}

#[test]
fn new_targets_start_at_once_then_spread_then_keep_the_interval() {
    let mut rota = Rota::new(7);
    rota.set_targets((0..1000).map(target).collect(), 0);
    let starts = run(&mut rota, 0, 20_000 * MS, MS);
    assert_eq!(starts.len(), 1000);
    let mut slots = [0; 5];
    for times in starts.values() {
        assert_eq!(times[0], 0);
        assert!((500 * MS..=1000 * MS).contains(&times[1]));
        slots[usize::try_from((times[1] - 500 * MS) / (100 * MS))
            .unwrap()
            .min(4)] += 1;
        for pair in times[1..].windows(2) {
            let gap = pair[1] - pair[0];
            assert!((900 * MS..=1100 * MS).contains(&gap), "{gap}");
        }
        assert!((18..=23).contains(&times.len()), "{}", times.len());
    }
    assert!(slots.iter().all(|&n| (150..=250).contains(&n)), "{slots:?}");
}

#[test]
fn same_seed_gives_the_same_rota() {
    let play = |seed| {
        let mut rota = Rota::new(seed);
        rota.set_targets((0..10).map(target).collect(), 0);
        run(&mut rota, 0, 9000 * MS, MS)
    };
    assert_eq!(play(3), play(3));
    assert_ne!(play(3), play(4));
    assert_ne!(play(0).len(), 0);
}

#[test]
fn unchanged_targets_keep_their_place_and_changed_ones_begin_anew() {
    let mut rota = Rota::new(1);
    assert_eq!(rota.set_targets((0..3).map(target).collect(), 0), [0u64; 0]);
    run(&mut rota, 0, 0, 0);
    let planned = rota.next_due();
    assert!(planned.unwrap() >= 500 * MS);
    assert_eq!(
        rota.set_targets((0..3).map(target).collect(), MS),
        [0u64; 0]
    );
    assert_eq!(rota.next_due(), planned);

    let mut moved = target(1);
    moved.port = 81;
    let gone = rota.set_targets(vec![target(0), moved.clone()], 2 * MS);
    assert_eq!(gone, [1, 2]);
    let due = rota.pop_due(2 * MS).unwrap();
    assert_eq!((due.scheduled, due.target), (2 * MS, moved));
    assert_eq!(rota.pop_due(2 * MS), None);
    // The probe of a target that is gone plans nothing.
    rota.ended(1, &good(3 * MS), 3 * MS);
    let starts = run(&mut rota, 3 * MS, 3000 * MS, 0);
    assert_eq!(starts.keys().collect::<Vec<_>>(), ["b0"]);
}

#[test]
fn target_without_a_check_is_not_probed() {
    let mut rota = Rota::new(1);
    let none = Target {
        check: Check::None,
        ..target(0)
    };
    rota.set_targets(vec![none], 0);
    assert_eq!(rota.next_due(), None);
}

#[test]
fn probe_that_takes_the_whole_interval_is_followed_at_once_and_never_overlaps() {
    let mut rota = Rota::new(1);
    rota.set_targets(vec![target(0)], 0);
    let starts = run(&mut rota, 0, 20_000 * MS, 1000 * MS);
    for pair in starts["b0"].windows(2) {
        assert!((1000 * MS..=1100 * MS).contains(&(pair[1] - pair[0])));
    }
}

#[test]
fn missed_rounds_are_spread_and_not_made_up_for() {
    let mut rota = Rota::new(1);
    rota.set_targets((0..100).map(target).collect(), 0);
    run(&mut rota, 0, 5000 * MS, 0);
    // Stopped for a minute: each target has one late probe, then its interval again.
    let starts = run(&mut rota, 65_000 * MS, 67_000 * MS, 0);
    for times in starts.values() {
        assert_eq!(times[0], 65_000 * MS);
        assert!((65_500 * MS..=66_000 * MS).contains(&times[1]));
        assert!(times.len() <= 3);
    }
}

#[test]
fn opening_probes_follow_in_quick_succession_and_then_the_interval_holds() {
    let mut rota = Rota::new(7);
    let new = Target {
        opening: 3,
        ..target(1)
    };
    rota.set_targets(vec![new], 0);
    let starts = run(&mut rota, 0, 5_000 * MS, MS);
    let times = &starts["b1"];
    assert_eq!(times[..3], [0, 20 * MS, 40 * MS]);
    assert!((540 * MS..=1040 * MS).contains(&times[3]), "{times:?}");
    for pair in times[3..].windows(2) {
        assert!((900 * MS..=1100 * MS).contains(&(pair[1] - pair[0])));
    }
}

#[test]
fn changing_target_is_probed_at_the_fast_interval_until_the_verdict() {
    let mut hasty = target(1);
    hasty.fast_interval = Duration::from_millis(100);
    hasty.jitter = Duration::ZERO;
    (hasty.rise, hasty.fall) = (2, 3);
    let mut rota = Rota::new(1);
    rota.set_targets(vec![hasty], 0);
    // Good twice: up. Then bad three times: down. Then good twice again.
    let mut steps = Vec::new();
    let mut last = 0;
    for letter in "ggggbbbbbgggbg".chars() {
        let at = rota.next_due().unwrap();
        let due = rota.pop_due(at).unwrap();
        steps.push((at - last) / MS);
        last = at;
        let verdict = match letter {
            'g' => ProbeVerdict::Good,
            _ => ProbeVerdict::Bad("refused".to_owned()),
        };
        rota.ended(due.id, &result(at, verdict), at);
    }
    assert_eq!(
        steps,
        [
            0, 100, 1000, 1000, 1000, 100, 100, 1000, 1000, 1000, 100, 1000, 1000, 100
        ]
    );
}

#[test]
fn hurried_probe_that_takes_its_timeout_is_followed_at_once() {
    let mut hasty = target(1);
    hasty.fast_interval = Duration::from_millis(100);
    (hasty.timeout, hasty.fall) = (Duration::from_millis(1000), 3);
    let mut rota = Rota::new(1);
    rota.set_targets(vec![hasty], 0);
    let due = rota.pop_due(0).unwrap();
    let bad = ProbeVerdict::Bad("timed out".to_owned());
    rota.ended(due.id, &result(0, bad), 1000 * MS);
    assert_eq!(rota.next_due(), Some(1000 * MS));
}

/// The next probe: when it is due, and whether it is an extra one.
fn next(rota: &mut Rota) -> (u64, bool, TargetId) {
    for _ in 0..100 {
        let at = rota.next_due().unwrap();
        if let Some(due) = rota.pop_due(at) {
            assert_eq!(due.scheduled, at);
            return (at, due.extra, due.id);
        }
    }
    panic!("nothing is due");
}

#[test]
fn a_hurried_target_is_probed_at_once_and_keeps_its_turns() {
    let mut steady = target(1);
    steady.jitter = Duration::ZERO;
    let name = steady.backend.clone();
    let mut rota = Rota::new(1);
    rota.set_targets(vec![steady], 0);
    let (at, extra, id) = next(&mut rota);
    assert_eq!((at, extra), (0, false));
    rota.ended(id, &good(0), 0);
    let (first, extra, id) = next(&mut rota);
    assert!(!extra);
    rota.ended(id, &good(first), first);
    // Asked for twice, it is made once.
    rota.hurry(&name, first + 300 * MS);
    rota.hurry(&name, first + 300 * MS);
    let (at, extra, id) = next(&mut rota);
    assert_eq!((at, extra), (first + 300 * MS, true));
    rota.ended(id, &hurried(at), at + MS);
    let (at, extra, id) = next(&mut rota);
    assert_eq!((at, extra), (first + 1000 * MS, false));
    rota.ended(id, &good(at), at);
    // Its turn comes although the extra one is still under way.
    rota.hurry(&name, first + 1900 * MS);
    let (at, extra, id) = next(&mut rota);
    assert_eq!((at, extra), (first + 1900 * MS, true));
    let (turn, extra, _) = next(&mut rota);
    assert_eq!((turn, extra), (first + 2000 * MS, false));
    rota.ended(id, &hurried(at), first + 2100 * MS);
    rota.ended(id, &good(turn), first + 2200 * MS);
    assert_eq!(next(&mut rota).0, first + 3000 * MS);
}

/// An extra one that is bad.
fn hurried(at: u64) -> ProbeResult {
    ProbeResult {
        extra: true,
        ..result(at, ProbeVerdict::Bad("refused".to_owned()))
    }
}

#[test]
fn an_extra_probe_waits_for_no_turn_but_for_the_one_before_it() {
    let name = target(1).backend;
    for under_way in [false, true] {
        let mut rota = Rota::new(1);
        rota.set_targets(vec![target(1)], 0);
        let mut started = Vec::new();
        if under_way {
            started.push(next(&mut rota));
        }
        rota.hurry(&name, 5 * MS);
        while let Some(due) = rota.pop_due(5 * MS) {
            started.push((due.scheduled, due.extra, due.id));
        }
        started.sort_unstable();
        let id = started.first().unwrap().2;
        assert_eq!(started, [(0, false, id), (5 * MS, true, id)]);
        // Asked for again meanwhile: that one began too early.
        rota.hurry(&name, 11 * MS);
        assert_eq!(rota.pop_due(11 * MS), None);
        rota.ended(id, &hurried(5 * MS), 12 * MS);
        assert_eq!(next(&mut rota), (12 * MS, true, id));
        rota.ended(id, &good(0), 13 * MS);
        rota.ended(id, &hurried(12 * MS), 14 * MS);
        let (at, extra, _) = next(&mut rota);
        assert!((500 * MS..=1000 * MS).contains(&at) && !extra, "{at}");
        assert_eq!(rota.pop_due(at), None);
    }
}

#[test]
fn a_command_never_runs_twice_at_a_time() {
    let mut steady = target(1);
    steady.jitter = Duration::ZERO;
    steady.check = Check::Exec(ExecCheck {
        command: "/bin/true".into(),
        arguments: Vec::new(),
        user: None,
    });
    let name = steady.backend.clone();
    let mut rota = Rota::new(1);
    rota.set_targets(vec![steady], 0);
    let (_, _, id) = next(&mut rota);
    rota.hurry(&name, 5 * MS);
    assert_eq!(rota.pop_due(9 * MS), None);
    rota.ended(id, &good(0), 10 * MS);
    let (at, extra, _) = next(&mut rota);
    assert_eq!((at, extra), (10 * MS, true));
    // The turn that is due meanwhile comes when it has ended, and the ones after that as if it had come then.
    assert_eq!(rota.pop_due(1000 * MS), None);
    rota.ended(id, &hurried(at), 1100 * MS);
    assert_eq!(next(&mut rota), (1100 * MS, false, id));
    rota.ended(id, &good(1100 * MS), 1100 * MS);
    assert_eq!(next(&mut rota).0, 2100 * MS);
}

#[test]
fn who_is_gone_is_not_hurried_and_who_takes_its_place_begins_anew() {
    let mut rota = Rota::new(1);
    rota.set_targets(vec![target(1)], 0);
    let (_, _, id) = next(&mut rota);
    rota.ended(id, &good(0), 0);
    rota.hurry(&target(1).backend, MS);
    rota.hurry(&target(2).backend, MS);
    let mut moved = target(1);
    moved.port = 81;
    assert_eq!(rota.set_targets(vec![moved], 2 * MS), [id]);
    let (at, extra, _) = next(&mut rota);
    assert_eq!((at, extra), (2 * MS, false));
    rota.set_targets(Vec::new(), 3 * MS);
    rota.hurry(&target(1).backend, 4 * MS);
    assert_eq!(rota.pop_due(u64::MAX), None);
}
