//! Slow servers, and several balancers that see the same ones.

use super::*;

const MS: u64 = 1_000_000;

fn measured(ms: u64) -> Pace {
    let mut pace = Pace::default();
    (0..50).for_each(|_| pace.took(ms * MS));
    pace
}

/// A step of all.
fn step(paces: &mut [Pace]) {
    let times = compared(paces);
    let median = median(times.iter().copied().flatten()).unwrap();
    for (pace, time) in paces.iter_mut().zip(times) {
        let _moved = pace.step(time, median);
    }
}

/// The parts after so many steps, with these times that do not depend on the load.
fn settled(times: &[u64], steps: usize) -> Vec<u32> {
    let mut paces: Vec<Pace> = times.iter().map(|ms| measured(*ms)).collect();
    for _ in 0..steps {
        step(&mut paces);
    }
    paces.iter().map(Pace::part).collect()
}

#[test]
fn who_is_slower_than_the_median_gets_less_and_who_is_faster_more_within_bounds() {
    assert_eq!(settled(&[5, 5, 5], 100), [1000, 1000, 1000]);
    let parts = settled(&[9, 39, 9, 9], 100);
    assert!((500..=550).contains(&parts[1]), "{parts:?}");
    assert_eq!((parts[0], parts[2]), (1000, 1000));
    let parts = settled(&[1, 1000, 50, 50, 60_000], 1000);
    assert!(
        parts.iter().all(|part| (LEAST..=MOST).contains(part)),
        "{parts:?}"
    );
    assert!(
        parts[4] < LEAST + DEAD_BAND && parts[0] > MOST - DEAD_BAND,
        "{parts:?}"
    );
    // Fractions of a millisecond are alike, and one step is small.
    let mut quick = Pace::default();
    quick.took(100_000);
    assert!(!quick.step(quick.mean(), 150_000));
    assert_eq!(settled(&[1, 1, 500], 1)[2], WHOLE - FAR_STEP);
    assert_eq!(settled(&[9, 14, 9], 1)[1], WHOLE - STEP);
    // Ten times as slow: of three alike a third of a fair share, in the tenth second, with a check each.
    for ms in [5, 10, 50] {
        let mut paces = [ms, ms, ms].map(measured);
        for _ in 0..10 {
            paces[0].took(ms * MS);
            paces[1].took(ms * MS);
            paces[2].took(10 * ms * MS);
            step(&mut paces);
        }
        assert!(paces[2].part() <= WHOLE / 4, "{ms} ms: {paces:?}");
    }
}

#[test]
fn one_late_check_is_a_quarter_of_a_slow_server() {
    let mut pace = measured(10);
    pace.took(50 * MS);
    assert_eq!(pace.mean(), Some(20 * MS));
    assert_eq!(Pace::default().mean(), None);
    assert_eq!(median([].into_iter()), None);
}

#[test]
fn answers_and_checks_add_up() {
    let mut pace = measured(10);
    assert_eq!(pace.times(), (10 * MS, 0));
    pace.answered(20 * MS);
    assert_eq!(pace.times(), (10 * MS, 20 * MS));
    assert_eq!(pace.mean(), Some(30 * MS));
    let mut answers = Pace::default();
    answers.answered(4 * MS);
    answers.answered(12 * MS);
    assert_eq!(answers.mean(), Some(6 * MS));
}

#[test]
fn who_has_answered_no_syn_is_neither_faster_nor_slower_by_that() {
    let answering = |ms: u64| {
        let mut pace = measured(1);
        pace.answered(ms * MS);
        pace
    };
    // One is new, and its checks are as quick as all others'.
    let mut paces = [answering(20), answering(20), measured(1), answering(24)];
    let times = compared(&paces);
    assert_eq!(times, [21, 21, 21, 25].map(|ms| Some(ms * MS)));
    (0..100).for_each(|_| step(&mut paces));
    assert_eq!(paces[2].part(), WHOLE);
    // Slow checks still show, and of whom nothing is known nothing is said.
    let paces = [answering(20), measured(50), Pace::default()];
    assert_eq!(compared(&paces), [Some(21 * MS), Some(70 * MS), None]);
    // Nobody answers any.
    let paces = [measured(3), measured(5)];
    assert_eq!(compared(&paces), [Some(3 * MS), Some(5 * MS)]);
}

/// Servers whose time grows as they fill (1/(1-load), as in a queue), and balancers that look at different moments.
struct Pool {
    /// Times without load, and how much each can bear; flows are 1 in all.
    servers: Vec<(f64, f64)>,
    balancers: Vec<Vec<Pace>>,
}

impl Pool {
    fn new(servers: &[(f64, f64)], balancers: usize) -> Self {
        Self {
            servers: servers.to_vec(),
            balancers: vec![vec![Pace::default(); servers.len()]; balancers],
        }
    }

    /// What each server gets of all.
    fn loads(&self) -> Vec<f64> {
        let mut loads = vec![0.0; self.servers.len()];
        for paces in &self.balancers {
            let all: f64 = paces.iter().map(|pace| f64::from(pace.part())).sum();
            for (load, pace) in loads.iter_mut().zip(paces) {
                *load += f64::from(pace.part()) / all / self.balancers.len() as f64;
            }
        }
        loads
    }

    fn times(&self) -> Vec<f64> {
        let time =
            |((base, room), load): (&(f64, f64), f64)| base / (1.0 - (load / room).min(0.99));
        self.servers.iter().zip(self.loads()).map(time).collect()
    }

    /// A second: every balancer checks each server, and takes a step.
    fn second(&mut self) {
        for place in 0..self.balancers.len() {
            let times = self.times();
            let paces = &mut self.balancers[place];
            for (pace, ms) in paces.iter_mut().zip(times) {
                pace.took((ms * MS as f64) as u64);
            }
            step(paces);
        }
    }
}

/// One is far too small for its share: its times are not only root but more.
#[test]
fn one_that_has_hardly_room_comes_to_rest() {
    for balancers in 1..=5 {
        let servers = [(10.0, 0.6), (10.0, 0.6), (10.0, 0.6), (10.0, 0.1)];
        let mut pool = Pool::new(&servers, balancers);
        (0..300).for_each(|_| pool.second());
        let (mut low, mut high) = (1.0_f64, 0.0_f64);
        for _ in 0..300 {
            pool.second();
            let load = pool.loads()[3];
            (low, high) = (low.min(load), high.max(load));
        }
        // Within what it can bear.
        assert!(
            high < 0.1 && high - low < 0.02,
            "{balancers}: {low} to {high}"
        );
    }
}

#[test]
fn several_balancers_agree_and_none_chases_the_others() {
    // Two of four servers have half the room; with equal shares they would be at five sixths of it, the others below half.
    let servers = [(10.0, 0.6), (10.0, 0.6), (10.0, 0.3), (10.0, 0.3)];
    for balancers in 1..=5 {
        let mut pool = Pool::new(&servers, balancers);
        let at_first = pool.times();
        let mut history = Vec::new();
        for _ in 0..600 {
            let before = pool.loads();
            pool.second();
            let loads = pool.loads();
            // A step is small for all together, too.
            for (a, b) in before.iter().zip(&loads) {
                assert!((a - b).abs() < 0.03, "{before:?} {loads:?}");
            }
            history.push(loads);
        }
        // The weak ones got less, and the worst time is far below what it was.
        let last = &history[599];
        assert!(last[2] < 0.22 && last[0] > 0.28, "{balancers}: {last:?}");
        let worst = |times: Vec<f64>| times.into_iter().fold(0.0, f64::max);
        assert!(
            worst(pool.times()) < worst(at_first) * 0.7,
            "{balancers}: {:?}",
            pool.times()
        );
        // At rest: no more than a step of one to and fro in the last five minutes.
        for server in 0..4 {
            let of = history[300..].iter().map(|loads| loads[server]);
            let (low, high) = of.fold((1.0_f64, 0.0_f64), |(low, high), load| {
                (low.min(load), high.max(load))
            });
            assert!(high - low < 0.03, "{balancers}: {low} to {high}");
        }
    }
}
