//! Agents that are honest, late, nervous, broken, and that lie.

use proptest::prelude::*;

use super::*;
use crate::model::AgentSource;

const SECOND: u64 = 1_000_000_000;

fn policy(least: u16, most: u16, step: u16) -> AgentWeight {
    AgentWeight {
        source: AgentSource::Header,
        least,
        most,
        step,
    }
}

fn heard(policy: &AgentWeight, said: &str) -> Agent {
    let mut agent = Agent::default();
    assert_eq!(agent.report(policy, Some(said)), None);
    agent
}

#[test]
fn a_report_is_one_percentage_among_words() {
    for (said, part) in [
        ("75%", 750),
        ("0%", 0),
        ("up 100%", 1000),
        ("ready,30% up", 300),
        ("1000%", 10_000),
        ("007%", 70),
    ] {
        assert_eq!(read(said), Ok(part), "{said}");
    }
    for said in [
        "",
        "%",
        "75",
        "up",
        "-5%",
        "+5%",
        "7.5%",
        "1e3%",
        "1001%",
        "99999999999999999999%",
        "5% 6%",
        "٣%",
        "drain",
        "0x10%",
    ] {
        assert!(read(said).is_err(), "{said}");
    }
}

#[test]
fn the_first_report_holds_at_once_and_later_ones_by_steps() {
    let policy = policy(10, 100, 10);
    let mut agent = heard(&policy, "50%");
    assert_eq!(
        (agent.part(), agent.words().unwrap().as_str()),
        (500, "as its agent says, 50 % of its weight")
    );
    agent.report(&policy, Some("22%"));
    let mut parts = Vec::new();
    for second in 1..=5 {
        agent.step(&policy, second * SECOND, SECOND);
        // Another look within the second changes nothing.
        agent.step(&policy, second * SECOND + SECOND / 2, SECOND);
        parts.push(agent.part());
    }
    assert_eq!(parts, [400, 300, 220, 220, 220]);
    assert!(!agent.leans(&policy));
}

#[test]
fn steps_go_on_when_a_reload_has_changed_their_interval() {
    let policy = policy(10, 100, 10);
    let mut agent = heard(&policy, "50%");
    agent.report(&policy, Some("20%"));
    agent.step(&policy, 864_001 * SECOND, SECOND);
    agent.step(&policy, 864_005 * SECOND, 5 * SECOND);
    agent.step(&policy, 864_006 * SECOND, SECOND);
    assert_eq!(agent.part(), 200);
}

#[test]
fn a_silent_agent_gets_its_weight_back_and_a_broken_one_keeps_its_part_and_is_told_once() {
    let policy = policy(10, 100, 100);
    let mut agent = heard(&policy, "50%");
    assert_eq!(
        agent.report(&policy, Some("much")).as_deref(),
        Some("'much' has no percentage such as 75%")
    );
    assert_eq!(agent.report(&policy, Some("more")), None);
    agent.step(&policy, SECOND, SECOND);
    assert_eq!(agent.part(), 500);
    assert!(agent.words().unwrap().contains("'more'"));
    agent.report(&policy, None);
    agent.step(&policy, 2 * SECOND, SECOND);
    assert_eq!((agent.part(), agent.words()), (WHOLE, None));
    assert!(
        agent.report(&policy, Some("1001%")).is_some(),
        "it is known again after a good one"
    );
    // And told now and then.
    let told = [0, 1, 599, 600, 601].map(|second| agent.may_tell(second * SECOND));
    assert_eq!(told, [true, false, false, true, false]);
}

#[test]
fn small_differences_move_nothing_but_the_ends_are_reached() {
    let policy = policy(10, 150, 100);
    let mut agent = heard(&policy, "50%");
    agent.report(&policy, Some("51%"));
    assert!(!agent.leans(&policy));
    for (said, end) in [
        ("149%", 1490),
        ("1000%", 1500),
        ("99%", 990),
        ("100%", 1000),
        ("11%", 110),
        ("0%", 100),
    ] {
        agent.report(&policy, Some(said));
        assert!(agent.leans(&policy), "{said}");
        let now = agent.stepped + SECOND;
        agent.step(&policy, now, SECOND);
        assert_eq!(agent.part(), end, "{said}");
    }
}

proptest! {
    /// Whatever is said, and however often: the part stays within its bounds, is never 0, and moves by a step a slot.
    #[test]
    fn whatever_an_agent_says_it_stays_within_its_bounds_and_steps(
        least in 1_u16..=100,
        most in 100_u16..=200,
        step in 1_u16..=100,
        reports in proptest::collection::vec((0_u64..3, prop_oneof![
            (0_u32..2000).prop_map(|n| Some(format!("{n}%"))),
            ".{0,20}".prop_map(Some),
            Just(None),
        ]), 1..100),
    ) {
        let policy = policy(least, most, step);
        let mut agent = Agent::default();
        let mut slot = 1;
        for (pass, said) in reports {
            slot += pass;
            let (before, first) = (agent.part(), !agent.heard);
            agent.report(&policy, said.as_deref());
            let jumped = first && agent.heard;
            prop_assert!(jumped || agent.part() == before);
            let before = agent.part();
            agent.step(&policy, slot * SECOND, SECOND);
            let bounds = u32::from(least) * 10..=u32::from(most) * 10;
            prop_assert!(bounds.contains(&agent.part()), "{}", agent.part());
            prop_assert!(agent.part().abs_diff(before) <= u32::from(step) * 10);
            prop_assert!(pass > 0 || jumped || slot == 1 || agent.stepped <= slot * SECOND);
        }
        // In time it gets what it asks for, but for what the dead band hides.
        for _ in 0..200 {
            slot += 1;
            agent.step(&policy, slot * SECOND, SECOND);
        }
        prop_assert!(agent.part().abs_diff(agent.wanted) < DEAD_BAND);
    }
}
