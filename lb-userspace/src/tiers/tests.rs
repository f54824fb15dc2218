//! The rules by example, and what holds for whatever is known.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    failover: Failover {
        overprovisioning: 140,
        panic_threshold: 0,
        failback: Failback::Return,
        slow_start: crate::model::SlowStart {
            duration: std::time::Duration::ZERO,
            curve: crate::model::Curve::Linear,
        },
        min_healthy: 1,
    },
    all_down: AllDown::FailOpen,
};

/// `0r 0d 1r*5 sr`: tier, standing, weight.
fn pool(text: &str) -> Vec<Candidate> {
    let candidate = |word: &str| {
        let (word, weight) = word.split_once('*').unwrap_or((word, "1"));
        let (tier, standing) = word.split_at(1);
        Candidate {
            tier: match tier {
                "s" => Tier::Sorry,
                number => Tier::Number(number.parse().unwrap()),
            },
            weight: weight.parse().unwrap(),
            standing: match standing {
                "r" => Standing::Ready,
                "f" => Standing::Full,
                "u" => Standing::Unknown,
                "d" => Standing::Down,
                "l" => Standing::Lost,
                "a" => Standing::Away,
                other => panic!("{other}"),
            },
            warmth: WHOLE,
        }
    };
    text.split_whitespace().map(candidate).collect()
}

fn text(decision: &Decision) -> String {
    format!("{} {:?}", decision.mode, decision.weights)
}

#[track_caller]
fn check(candidates: &str, rules: Rules, expected: &str) {
    let decision = decide(&pool(candidates), rules, Before::default());
    assert_eq!(text(&decision), expected, "{candidates}");
}

fn closed() -> Rules {
    Rules {
        all_down: AllDown::FailClosed,
        ..RULES
    }
}

fn threshold(rules: Rules, percent: u8) -> Rules {
    let failover = Failover {
        panic_threshold: percent,
        ..rules.failover
    };
    Rules { failover, ..rules }
}

fn stay() -> Rules {
    let failover = Failover {
        failback: Failback::Stay,
        ..RULES.failover
    };
    Rules { failover, ..RULES }
}

#[test]
fn a_pool_without_tiers_is_spread_by_weight() {
    check("0r*2 0r*3", RULES, "tier 0: 100 % [2, 3]");
    check("0r*2 0d*3", RULES, "tier 0: 100 % [2, 0]");
    check("0r*2 0a 0l 0u 0f", RULES, "tier 0: 100 % [2, 0, 0, 0, 0]");
    check("", RULES, "nobody []");
}

/// The table of Envoy's documentation on priority levels, with the default overprovisioning of 140 %.
#[test]
fn what_a_tier_cannot_carry_spills_over_to_the_next() {
    let shares = |ready: usize, second: usize| {
        let tier = |n: u8, ready: usize| {
            format!("{n}r ").repeat(ready) + &format!("{n}d ").repeat(100 - ready)
        };
        let all = tier(0, ready) + &tier(1, second);
        decide(&pool(&all), RULES, Before::default())
            .mode
            .to_string()
    };
    assert_eq!(shares(100, 100), "tier 0: 100 %");
    assert_eq!(shares(72, 100), "tier 0: 100 %");
    assert_eq!(shares(71, 100), "tier 0: 99.4 %, tier 1: 0.6 %");
    assert_eq!(shares(50, 100), "tier 0: 70 %, tier 1: 30 %");
    assert_eq!(shares(25, 100), "tier 0: 35 %, tier 1: 65 %");
    assert_eq!(shares(0, 100), "tier 1: 100 %");
    // Together they carry less than everything.
    assert_eq!(shares(25, 25), "tier 0: 50 %, tier 1: 50 %");
    assert_eq!(shares(50, 5), "tier 0: 91 %, tier 1: 9 %");
    assert_eq!(shares(0, 1), "tier 1: 100 %");
}

#[test]
fn tiers_are_filled_in_their_order_and_by_weight_within() {
    check(
        "0r*5 0d*5 3r*1 3r*3",
        RULES,
        "tier 0: 70 %, tier 3: 30 % [1000000, 0, 107142, 321428]",
    );
    check("7r 2r", RULES, "tier 2: 100 % [0, 1]");
    // Who is drained is missed in its tier, as whoever is down.
    check(
        "0a 0r 1r",
        RULES,
        "tier 0: 70 %, tier 1: 30 % [0, 1000000, 428571]",
    );
    check(
        "0f 0r 1r",
        RULES,
        "tier 0: 70 %, tier 1: 30 % [0, 1000000, 428571]",
    );
}

#[test]
fn sorry_backends_serve_when_nobody_else_may() {
    check("0r sr", RULES, "tier 0: 100 % [1, 0]");
    check("0d 1r sr", RULES, "tier 1: 100 % [0, 1, 0]");
    check(
        "0d 1a sr*7 sr sd",
        RULES,
        "the sorry backends [0, 0, 7, 1, 0]",
    );
    check("0d 1d sr", closed(), "the sorry backends [0, 0, 1]");
    check("0f 0l sr", RULES, "the sorry backends [0, 0, 1]");
    check("0d sd", RULES, "all that are enabled (fail-open) [1, 0]");
    check("0d sd", closed(), "nobody [0, 0]");
}

#[test]
fn too_few_healthy_backends_are_panic() {
    let half = threshold(RULES, 50);
    check("0r 0d", half, "tier 0: 100 % [1, 0]");
    check(
        "0r 0d 0d*2 0l",
        half,
        "all that are enabled (fail-open) [1, 1, 2, 0]",
    );
    check("0f 0d 0d 0r", half, "tier 0: 100 % [0, 0, 0, 1]");
    check(
        "0f 0d 0d 0d",
        half,
        "all that are enabled (fail-open) [0, 1, 1, 1]",
    );
    // Those who could serve are full: a sorry backend does, before anybody who is ill is tried.
    let most = threshold(RULES, 60);
    check("0f 0d sr", most, "the sorry backends [0, 0, 1]");
    check("0f 0l sr", most, "the sorry backends [0, 0, 1]");
    check("0f 0l", most, "nobody [0, 0]");
    check(
        "0r 0d 0d sr",
        most,
        "all that are enabled (fail-open) [1, 1, 1, 0]",
    );
    // A person's word takes nobody's health.
    check("0r 0a 0a", half, "tier 0: 100 % [1, 0, 0]");
    let closed = threshold(closed(), 50);
    check(
        "0r 0d 0d",
        closed,
        "nobody: too few are healthy (fail-closed) [0, 0, 0]",
    );
    check("0r 0d 0d sr", closed, "the sorry backends [0, 0, 0, 1]");
    check("0r*3 0d*2", closed, "tier 0: 100 % [3, 0]");
    // Over all tiers together, and whichever they are.
    check(
        "0d 0d 1r",
        half,
        "all that are enabled (fail-open) [1, 1, 1]",
    );
    check("0d 1r", half, "tier 1: 100 % [0, 1]");
}

#[test]
fn while_verdicts_are_to_come_there_is_no_panic_but_one_that_was_goes_on() {
    let half = threshold(RULES, 50);
    check("0r 0u 0u", half, "tier 0: 100 % [1, 0, 0]");
    check("0d 0u", half, "nobody [0, 0]");
    check("0u 0u", half, "nobody [0, 0]");
    let before = Before {
        panic: true,
        loads: None,
    };
    let again = decide(&pool("0r 0d 0u"), half, before);
    assert_eq!(text(&again), "all that are enabled (fail-open) [1, 1, 1]");
    // Also while a sorry backend serves.
    let first = decide(&pool("0f 0d 0d sr"), half, Before::default());
    assert_eq!(text(&first), "the sorry backends [0, 0, 0, 1]");
    let then = decide(
        &pool("0r 0d 0d 0u sr"),
        half,
        Before {
            panic: first.panic,
            loads: None,
        },
    );
    assert_eq!(
        text(&then),
        "all that are enabled (fail-open) [1, 1, 1, 1, 0]"
    );
}

#[test]
fn flows_stay_where_they_are_for_as_long_as_that_works() {
    let mut loads = None;
    let mut then = |candidates: &str| {
        let before = Before {
            panic: false,
            loads: loads.as_ref(),
        };
        let mode = decide(&pool(candidates), stay(), before).mode;
        let shown = mode.to_string();
        if let Mode::Tiers { loads: new } = mode {
            loads = Some(new);
        }
        shown
    };
    assert_eq!(then("0r 0r 1r 1r"), "tier 0: 100 %");
    assert_eq!(then("0r 0d 1r 1r"), "tier 0: 70 %, tier 1: 30 %");
    assert_eq!(then("0r 0r 1r 1r"), "tier 0: 70 %, tier 1: 30 %");
    assert_eq!(then("0d 0d 1r 1r"), "tier 1: 100 %");
    assert_eq!(then("0r 0r 1r 1r"), "tier 1: 100 %");
    assert_eq!(then("0r 0r 1r 1d"), "tier 0: 30 %, tier 1: 70 %");
    assert_eq!(then("0r 0r 1r 1r"), "tier 0: 30 %, tier 1: 70 %");
    assert_eq!(then("0r 0r 1d 1d"), "tier 0: 100 %");
    assert_eq!(then("0r 0r 1r 1r"), "tier 0: 100 %");
}

#[test]
fn who_warms_up_gets_less_of_the_share_of_its_tier() {
    let mut half_warm = pool("0r 0r*3 1r 1r");
    half_warm[1].warmth = 500;
    let weights = |candidates: &[Candidate]| decide(candidates, RULES, Before::default()).weights;
    assert_eq!(weights(&half_warm), [1000, 1500, 0, 0]);
    half_warm[0].warmth = 500;
    assert_eq!(weights(&half_warm), [1, 3, 0, 0]);
    half_warm[0].standing = Standing::Down;
    half_warm[2].warmth = 100;
    half_warm[3].warmth = 900;
    // 100 % of tier 0 is left: 3 of 4 times 1.4.
    assert_eq!(weights(&half_warm), [0, 3, 0, 0]);
    half_warm[1].weight = 1;
    assert_eq!(weights(&half_warm), [0, 1_000_000, 42_857, 385_714]);
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let standing = prop_oneof![
        4 => Just(Standing::Ready),
        1 => Just(Standing::Full),
        1 => Just(Standing::Unknown),
        2 => Just(Standing::Down),
        1 => Just(Standing::Lost),
        1 => Just(Standing::Away),
    ];
    let tier = prop_oneof![6 => (0..4_u8).prop_map(Tier::Number), 1 => Just(Tier::Sorry)];
    (tier, 1..=1000_u16, standing, 100..=MOST).prop_map(|(tier, weight, standing, warmth)| {
        Candidate {
            tier,
            weight,
            standing,
            warmth,
        }
    })
}

prop_compose! {
    fn rules()(
        overprovisioning in 100..=1000_u16,
        panic_threshold in prop_oneof![Just(0), 0..=100_u8],
        stay in any::<bool>(),
        open in any::<bool>(),
    ) -> Rules {
        Rules {
            failover: Failover {
                overprovisioning,
                panic_threshold,
                failback: if stay { Failback::Stay } else { Failback::Return },
                ..Failover::default()
            },
            all_down: if open { AllDown::FailOpen } else { AllDown::FailClosed },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_gets_flows_may_and_somebody_does_if_anybody_may(
        candidates in proptest::collection::vec(candidate(), 0..12),
        rules in rules(),
        panic in any::<bool>(),
        held in proptest::option::of(proptest::collection::btree_map(0..4_u8, 1..=WHOLE, 0..4)),
    ) {
        let before = Before { panic, loads: held.as_ref() };
        let decision = decide(&candidates, rules, before);
        prop_assert_eq!(&decision, &decide(&candidates, rules, before));
        prop_assert_eq!(decision.weights.len(), candidates.len());
        let served: Vec<&Candidate> = candidates
            .iter()
            .zip(&decision.weights)
            .filter(|(_, weight)| **weight > 0)
            .map(|(candidate, _)| candidate)
            .collect();
        prop_assert!(decision.weights.iter().all(|weight| *weight <= LARGEST));
        let ready = |c: &Candidate| c.standing == Standing::Ready;
        match &decision.mode {
            Mode::Tiers { loads } => {
                prop_assert!(!served.is_empty() && served.iter().all(|c| ready(c) && numbered(c)));
                prop_assert_eq!(loads.values().sum::<u32>(), WHOLE);
                // Each tier gets its load, and each backend its share of that.
                let sum: f64 = decision.weights.iter().map(|w| f64::from(*w)).sum();
                for (tier, load) in loads {
                    let of_tier = || candidates.iter().zip(&decision.weights)
                        .filter(|(c, _)| c.tier == Tier::Number(*tier) && ready(c));
                    let share: f64 = of_tier().map(|(_, w)| f64::from(*w) / sum).sum();
                    prop_assert!((share - f64::from(*load) / 1000.0).abs() < 0.001, "{decision:?}");
                    let warm: f64 = of_tier().map(|(c, _)| f64::from(c.weight) * f64::from(c.warmth)).sum();
                    for (c, w) in of_tier() {
                        let fair = f64::from(*load) / 1000.0 * f64::from(c.weight) * f64::from(c.warmth) / warm;
                        prop_assert!((f64::from(*w) / sum - fair).abs() < 0.001, "{decision:?}");
                    }
                }
            }
            Mode::Sorry => {
                prop_assert!(!served.is_empty() && served.iter().all(|c| ready(c) && !numbered(c)));
            }
            Mode::Open => {
                prop_assert_eq!(rules.all_down, AllDown::FailOpen);
                prop_assert!(served.iter().all(|c| numbered(c) && opens(c)));
                prop_assert!(candidates.iter().filter(|c| numbered(c) && opens(c)).count() == served.len());
                prop_assert!(!served.is_empty());
                let sorry = candidates.iter().any(|c| ready(c) && !numbered(c));
                prop_assert!(!sorry || served.iter().any(|c| ready(c)));
            }
            Mode::Closed => {
                prop_assert_eq!(rules.all_down, AllDown::FailClosed);
                prop_assert!(rules.failover.panic_threshold > 0);
                prop_assert!(served.is_empty());
            }
            Mode::Nobody => {
                prop_assert!(served.is_empty());
                prop_assert!(!candidates.iter().any(ready));
            }
        }
        // Nobody who is ready is left out for want of a rule.
        if decision.mode == Mode::Nobody || decision.mode == Mode::Closed {
            prop_assert!(!candidates.iter().any(|c| ready(c) && !numbered(c)));
        }
    }

    /// With `stay`, nothing moves when somebody recovers.
    #[test]
    fn a_recovery_moves_nothing_if_flows_stay(
        mut candidates in proptest::collection::vec(candidate(), 1..12),
        mut rules in rules(),
    ) {
        rules.failover.failback = Failback::Stay;
        rules.failover.panic_threshold = 0;
        let first = decide(&candidates, rules, Before::default());
        let Mode::Tiers { loads } = first.mode else {
            return Ok(());
        };
        for candidate in &mut candidates {
            candidate.standing = Standing::Ready;
        }
        let before = Before { panic: false, loads: Some(&loads) };
        prop_assert_eq!(decide(&candidates, rules, before).mode, Mode::Tiers { loads });
    }
}
