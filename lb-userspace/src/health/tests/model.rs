//! The tracker against a plain model that looks at the whole past anew with each round: rise, fall, void and late rounds, extra ones,
//! confirmed suspicions and damping, all together.

use super::*;

/// A round, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Good,
    Bad,
    /// It could not be made.
    Void,
    /// Bad, and begun too late to blame the target for it.
    Late,
    ExtraGood,
    ExtraBad,
    ExtraLate,
    /// A bad extra one that confirms a suspicion.
    Confirm,
    /// Good, but begun before the last suspicion was confirmed.
    Old,
}

/// What a round is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    Good,
    Bad,
    /// Bad, and in no row.
    Apart,
    Nothing,
    /// Down, whatever the row says.
    Fallen,
}

/// All that has been.
struct Past {
    rise: usize,
    fall: usize,
    rounds: Vec<Round>,
    worth: Vec<(u64, Worth)>,
    changes: Vec<(u64, Health, Health)>,
}

impl Past {
    fn health(&self) -> Health {
        self.changes
            .last()
            .map_or(Health::Unknown, |change| change.2)
    }

    /// The latest rounds, newest first, up to one of these.
    fn since(&self, ends: &'static [Worth]) -> impl Iterator<Item = &(u64, Worth)> {
        let latest = self.worth.iter().rev();
        latest.take_while(|(_, worth)| !ends.contains(worth))
    }

    fn good_row(&self) -> usize {
        let row = self.since(&[Worth::Bad, Worth::Fallen]);
        row.filter(|(_, worth)| *worth == Worth::Good).count()
    }

    fn bad_row(&self) -> usize {
        let row = self.since(&[Worth::Good]);
        row.filter(|(_, worth)| *worth == Worth::Bad).count()
    }

    /// For how long it has been good, nanoseconds.
    fn good_for(&self, now: u64) -> u64 {
        let row = self.since(&[Worth::Bad, Worth::Apart, Worth::Fallen]);
        let first = row.filter(|(_, worth)| *worth == Worth::Good).last();
        first.map_or(0, |(at, _)| now - at)
    }

    /// For how long it has to be, nanoseconds.
    fn hold(&self) -> u64 {
        let policy = damping();
        let (window, changes) = (60 * S, &self.changes);
        // Falls since the last one that came after a window up, or the first.
        let falls: Vec<usize> = (0..changes.len())
            .filter(|&n| changes[n].1 == Health::Up && changes[n].2 == Health::Down)
            .collect();
        let quiet = |&n: &usize| changes[n].0 - changes[n - 1].0 >= window;
        let begin = falls.iter().rposition(quiet).unwrap_or(0);
        let mut level = 0;
        for &n in &falls[begin..] {
            let lately = (falls[begin]..=n)
                .filter(|&m| changes[n].0 - changes[m].0 < window)
                .count();
            if level > 0 || lately >= usize::from(policy.changes) {
                level += 1;
            }
        }
        match level {
            0 => 0,
            level => ((10 * S) << (level - 1).min(10)).min(35 * S),
        }
    }

    fn worth(&self, round: Round) -> Worth {
        match round {
            Round::Good | Round::ExtraGood => Worth::Good,
            Round::Old if self.rounds.contains(&Round::Confirm) => Worth::Nothing,
            Round::Old => Worth::Good,
            Round::Bad => Worth::Bad,
            Round::ExtraBad | Round::Confirm => Worth::Apart,
            Round::Void | Round::ExtraLate => Worth::Nothing,
            Round::Late => {
                let blind = [Round::Late, Round::ExtraLate, Round::Void];
                let row = self.rounds.iter().rev().take_while(|r| blind.contains(r));
                match row.filter(|r| **r == Round::Late).count() < usize::from(EXCUSES) {
                    true => Worth::Nothing,
                    false => Worth::Bad,
                }
            }
        }
    }

    fn add(&mut self, now: u64, round: Round) {
        let worth = self.worth(round);
        self.rounds.push(round);
        self.worth.push((now, worth));
        let from = self.health();
        let falls = worth == Worth::Bad && self.bad_row() >= self.fall || round == Round::Confirm;
        let rises = worth == Worth::Good
            && self.good_row() >= self.rise
            && self.good_for(now) >= self.hold();
        if falls && from != Health::Down {
            if round == Round::Confirm {
                self.worth.push((now, Worth::Fallen));
            }
            self.changes.push((now, from, Health::Down));
        } else if rises && from != Health::Up {
            self.changes.push((now, from, Health::Up));
        }
    }

    fn count(&self, of: &[Worth]) -> u64 {
        self.worth.iter().filter(|(_, w)| of.contains(w)).count() as u64
    }
}

/// What the tracker makes of it: whether the verdict changed.
fn observe(tracker: &mut Tracker, now: u64, confirmed: u64, round: Round) -> bool {
    let verdict = match round {
        Round::Good | Round::ExtraGood | Round::Old => good(),
        Round::Void => void(),
        _ => bad(),
    };
    let started = match round {
        Round::Old if confirmed > 0 => confirmed - 1,
        _ => now,
    };
    let late = matches!(round, Round::Late | Round::ExtraLate);
    let result = ProbeResult {
        extra: matches!(
            round,
            Round::ExtraGood | Round::ExtraBad | Round::ExtraLate | Round::Confirm
        ),
        scheduled: if late { started - S } else { started },
        started,
        // A good one counts however long it took.
        ended: now,
        verdict,
    };
    let changed = tracker.observe(&result, now).change.is_some();
    let fell = round == Round::Confirm && tracker.confirm("why".to_owned(), now, now).is_some();
    changed || fell
}

fn any_round() -> impl Strategy<Value = Round> {
    prop_oneof![
        8 => Just(Round::Good),
        5 => Just(Round::Bad),
        1 => Just(Round::Void),
        2 => Just(Round::Late),
        1 => Just(Round::ExtraGood),
        1 => Just(Round::ExtraBad),
        1 => Just(Round::ExtraLate),
        1 => Just(Round::Confirm),
        1 => Just(Round::Old),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn tracker_equals_a_model_of_all_that_it_knows(
        (rise, fall) in (1_u16..4, 1_u16..4),
        rounds in proptest::collection::vec((1_u64..25, any_round()), 0..90)
    ) {
        let mut tracker = Tracker::new(Thresholds { damping: damping(), ..thresholds(rise, fall) });
        let mut past = Past {
            rise: rise.into(),
            fall: fall.into(),
            rounds: Vec::new(),
            worth: Vec::new(),
            changes: Vec::new(),
        };
        let (mut now, mut confirmed) = (100 * S, 0);
        for (after, round) in rounds {
            now += after * S;
            let before = past.changes.len();
            past.add(now, round);
            let changed = observe(&mut tracker, now, confirmed, round);
            if round == Round::Confirm {
                confirmed = now;
            }
            let health = past.health();
            prop_assert_eq!(tracker.health(), health, "{:?}", round);
            prop_assert_eq!(changed, past.changes.len() > before);
            let last = past.changes.last();
            prop_assert_eq!(
                tracker.changed().map(|change| (change.at, change.from, change.to)),
                last.copied()
            );
            let left = |wanted: u16, row: usize| wanted.saturating_sub(row as u16).max(1);
            prop_assert_eq!(
                tracker.good_until_up(),
                (health != Health::Up).then(|| left(rise, past.good_row()))
            );
            prop_assert_eq!(
                tracker.bad_until_down(),
                (health != Health::Down).then(|| left(fall, past.bad_row()))
            );
            prop_assert_eq!(tracker.damped_for(now), past.hold().saturating_sub(past.good_for(now)));
            let counts = Counts {
                good: past.count(&[Worth::Good]),
                bad: past.count(&[Worth::Bad, Worth::Apart]),
                void: past.count(&[Worth::Nothing]),
            };
            prop_assert_eq!(tracker.counts(), counts);
        }
    }
}
