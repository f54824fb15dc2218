//! Who becomes a suspect, and who does not.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const POLICY: Passive = Passive {
    least: 3,
    percent: 50,
    window: Duration::from_millis(500),
};

fn pool(sees_answers: bool, members: u32) -> BTreeMap<Name, Pool> {
    let pool = Pool {
        policy: POLICY,
        sees_answers,
        members: (0..members).collect(),
    };
    BTreeMap::from([(Name::new("web").unwrap(), pool)])
}

/// Looks in turn, [`EVERY`] apart; each gives what was counted of each member since the one before.
struct Looks {
    watch: Watch,
    now: u64,
    sums: Vec<Counts>,
}

impl Looks {
    fn new(sees_answers: bool, members: u32) -> Self {
        let mut watch = Watch::default();
        watch.set_pools(pool(sees_answers, members), BTreeSet::new());
        Self {
            watch,
            now: AGO,
            // Counters are never reset, and may be anywhere.
            sums: vec![[u64::MAX - 20; 5]; members as usize],
        }
    }

    fn add(&mut self, new: &[Counts]) -> Vec<(u32, Evidence)> {
        self.add_after(EVERY, new)
    }

    fn add_after(&mut self, time: u64, new: &[Counts]) -> Vec<(u32, Evidence)> {
        for (sum, new) in self.sums.iter_mut().zip(new) {
            for (sum, new) in sum.iter_mut().zip(new) {
                *sum = sum.wrapping_add(*new);
            }
        }
        self.now += time;
        let counts: Vec<(u32, Counts)> = (0..).zip(self.sums.iter().copied()).collect();
        let found = self.watch.look(self.now, &counts);
        found.into_iter().map(|(_, id, why)| (id, why)).collect()
    }

    /// The same again and again: the first look that finds somebody, and whom.
    fn until_found(
        &mut self,
        new: &[Counts],
        most: usize,
    ) -> Option<(usize, Vec<(u32, Evidence)>)> {
        (1..=most).find_map(|n| {
            let found = self.add(new);
            (!found.is_empty()).then_some((n, found))
        })
    }
}

/// Begun, answered, resent, refused, unreachable.
const WELL: Counts = [4, 4, 0, 0, 0];
const SILENT: Counts = [4, 0, 0, 0, 0];
const REFUSES: Counts = [4, 0, 0, 4, 0];
const UNREACHABLE: Counts = [4, 0, 0, 0, 4];

#[test]
fn who_falls_silent_is_a_suspect_within_three_looks_and_nobody_else() {
    let mut looks = Looks::new(true, 3);
    assert_eq!(looks.until_found(&[WELL; 3], 20), None);
    let (after, found) = looks.until_found(&[WELL, SILENT, WELL], 5).unwrap();
    assert!(after <= 3, "after {after} looks");
    let [(1, why)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(why.sign, Sign::Unanswered);
}

#[test]
fn who_refuses_or_cannot_be_reached_is_a_suspect_with_the_first_look() {
    for (bad, sign, text) in [
        (
            REFUSES,
            Sign::Refused,
            "4 of 4 handshakes refused in the last 0.1 s",
        ),
        (
            UNREACHABLE,
            Sign::Unreachable,
            "4 of 4 handshakes unreachable in the last 0.1 s",
        ),
    ] {
        let mut looks = Looks::new(true, 3);
        assert_eq!(looks.until_found(&[WELL; 3], 20), None);
        let found = looks.add(&[WELL, WELL, bad]);
        let [(2, why)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((why.sign, why.to_string()), (sign, text.to_owned()));
    }
}

#[test]
fn where_answers_do_not_pass_clients_that_do_not_go_on_tell() {
    let mut looks = Looks::new(false, 3);
    assert_eq!(looks.until_found(&[WELL; 3], 30), None);
    let (after, found) = looks.until_found(&[WELL, SILENT, WELL], 5).unwrap();
    let [(1, why)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((after, why.sign), (4, Sign::Unanswered));
}

/// From far away even good answers come late.
#[test]
fn where_answers_are_late_a_syn_that_comes_again_tells_a_second_later() {
    let mut looks = Looks::new(false, 3);
    assert_eq!(looks.until_found(&[SILENT; 3], 30), None);
    let again = [SILENT, [4, 0, 4, 0, 0], SILENT];
    let (after, found) = looks.until_found(&again, 3).unwrap();
    let [(1, why)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((after, why.sign), (1, Sign::Resent));
}

#[test]
fn what_all_do_alike_makes_no_suspect() {
    for bad in [SILENT, REFUSES, UNREACHABLE] {
        let mut looks = Looks::new(true, 3);
        assert_eq!(looks.until_found(&[WELL; 3], 20), None);
        assert_eq!(looks.until_found(&[bad; 3], 30), None, "{bad:?}");
    }
    for bad in [SILENT, [4, 0, 4, 0, 0]] {
        let mut looks = Looks::new(false, 3);
        assert_eq!(looks.until_found(&[bad; 3], 30), None);
    }
}

#[test]
fn few_handshakes_and_good_ones_among_bad_ones_say_nothing() {
    let refuses = [1, 0, 0, 1, 0];
    let mut looks = Looks::new(true, 2);
    for _ in 0..5 {
        // Two of two within the window.
        assert_eq!(looks.add(&[WELL, refuses]), []);
        assert_eq!(looks.add(&[WELL, refuses]), []);
        assert_eq!(looks.until_found(&[WELL, [0; 5]], 6), None);
    }
    // Three of three.
    let (after, found) = looks.until_found(&[WELL, refuses], 3).unwrap();
    assert!(
        after == 3 && matches!(found.as_slice(), [(1, why)] if why.bad == 3),
        "{found:?}"
    );
    let mut looks = Looks::new(true, 2);
    assert_eq!(looks.until_found(&[WELL, [9, 5, 0, 4, 0]], 30), None);
    // Somebody else's service is no measure.
    let mut looks = Looks::new(true, 1);
    assert!(looks.until_found(&[REFUSES], 30).is_some());
}

#[test]
fn who_is_new_or_gone_disturbs_nobody() {
    let mut looks = Looks::new(true, 2);
    assert_eq!(looks.until_found(&[WELL; 2], 20), None);
    looks.watch.set_pools(pool(true, 3), BTreeSet::new());
    looks.sums.push([77; 5]);
    assert_eq!(looks.until_found(&[WELL, WELL, WELL], 20), None);
    assert!(looks.until_found(&[WELL, SILENT, WELL], 5).is_some());
    looks.watch.set_pools(pool(true, 1), BTreeSet::new());
    assert_eq!(looks.until_found(&[WELL], 20), None);
    assert_eq!(looks.watch.members(), [0]);
}

#[test]
fn no_more_is_remembered_than_is_looked_at() {
    for (sees_answers, most) in [(true, 8), (false, 18)] {
        let mut looks = Looks::new(sees_answers, 1);
        assert_eq!(looks.until_found(&[WELL], 100), None);
        let (_, seen) = looks.watch.pools.values().next().unwrap();
        assert!(seen.len() <= most, "{}", seen.len());
    }
}

/// Nobody who is healthy is named, and all of these are, within so many looks.
#[track_caller]
fn all_found(looks: &mut Looks, new: &[Counts], dead: &[u32], within: usize) {
    let mut named = BTreeSet::new();
    for _ in 0..within {
        named.extend(looks.add(new).into_iter().map(|(id, _)| id));
    }
    assert_eq!(named, dead.iter().copied().collect(), "{new:?}");
}

#[test]
fn of_four_equal_ones_three_that_die_at_once_are_all_found() {
    const AGAIN: Counts = [4, 0, 4, 0, 0];
    for (sees_answers, well, dead) in [
        (true, WELL, SILENT),
        (true, WELL, REFUSES),
        (true, WELL, UNREACHABLE),
        (false, WELL, SILENT),
        (false, WELL, UNREACHABLE),
        // From far away.
        (false, SILENT, AGAIN),
    ] {
        let mut looks = Looks::new(sees_answers, 4);
        assert_eq!(looks.until_found(&[well; 4], 30), None);
        all_found(&mut looks, &[dead, well, dead, dead], &[0, 2, 3], 6);
    }
    // Of two of three it is not one, as it would be by chance, but both.
    let mut looks = Looks::new(true, 3);
    assert_eq!(looks.until_found(&[WELL; 3], 20), None);
    all_found(&mut looks, &[SILENT, [3, 0, 0, 0, 0], WELL], &[0, 1], 6);
}

#[test]
fn one_that_always_shows_bad_signs_hides_nobody() {
    let sick: Counts = [4, 1, 0, 3, 0];
    let mut looks = Looks::new(true, 3);
    for _ in 0..20 {
        // Named itself; its checks are good.
        let found = looks.add(&[sick, WELL, WELL]);
        assert!(found.iter().all(|(id, _)| *id == 0), "{found:?}");
    }
    all_found(&mut looks, &[sick, REFUSES, WELL], &[0, 1], 6);
}

/// Whom nobody sends new flows to shows nothing of the service, and what it showed before is forgotten.
#[test]
fn those_that_do_not_serve_are_no_suspects_and_no_measure() {
    let mut looks = Looks::new(true, 3);
    looks.watch.set_serving(2, false);
    // By what clients send again, it would be the larger part of the pool.
    let gone: Counts = [40, 0, 0, 40, 0];
    assert_eq!(looks.until_found(&[WELL, WELL, gone], 20), None);
    all_found(&mut looks, &[WELL, REFUSES, gone], &[1], 6);
    // Back again, what it showed before is not held against it.
    let mut looks = Looks::new(true, 3);
    looks.watch.set_serving(2, false);
    assert_eq!(looks.until_found(&[WELL, WELL, gone], 20), None);
    looks.watch.set_serving(2, true);
    assert_eq!(looks.until_found(&[WELL; 3], 20), None);
    let mut looks = Looks::new(true, 2);
    looks.watch.set_pools(pool(true, 2), BTreeSet::from([1]));
    assert_eq!(looks.until_found(&[WELL, gone], 20), None);
}

/// Handshakes of which half fail, whoever they go to: in small numbers some backend is well by chance, and another ill.
#[test]
fn a_fault_of_the_network_makes_next_to_nobody_a_suspect() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chance = |percent: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % 100 < percent
    };
    for (members, each, percent) in [
        (3, 4, 50),
        (4, 12, 60),
        (10, 4, 50),
        (10, 6, 40),
        (20, 4, 30),
    ] {
        let mut looks = Looks::new(true, members);
        let (mut named, mut judged) = (0_usize, 0_usize);
        for _ in 0..200 {
            let new: Vec<Counts> = (0..members)
                .map(|_| {
                    let bad = (0..each).filter(|_| chance(percent)).count() as u64;
                    [each, each - bad, 0, bad, 0]
                })
                .collect();
            named += looks.add(&new).len();
            judged += members as usize;
        }
        println!(
            "{members} members, {each} handshakes a look, {percent} % refused: {named} named of {judged}"
        );
        assert!(named * 12 <= judged, "{named} of {judged}");
    }
}

#[test]
fn looks_that_are_rare_see_the_same_signs_later() {
    for apart in [
        160_000_000,
        220_000_000,
        240_000_000,
        300_000_000,
        600_000_000,
        3_000_000_000,
        20_000_000_000,
    ] {
        let add = |looks: &mut Looks, new: &[Counts], most: usize| {
            (1..=most).find_map(|n| {
                let found = looks.add_after(apart, new);
                (!found.is_empty()).then_some((n, found))
            })
        };
        let mut looks = Looks::new(true, 3);
        assert_eq!(add(&mut looks, &[WELL; 3], 10), None);
        let (_, found) = add(&mut looks, &[WELL, SILENT, WELL], 2).unwrap();
        assert!(
            matches!(found.as_slice(), [(1, why)] if why.sign == Sign::Unanswered),
            "{apart}: {found:?}"
        );
        let mut looks = Looks::new(true, 3);
        assert_eq!(add(&mut looks, &[WELL; 3], 10), None);
        assert_eq!(
            add(&mut looks, &[WELL, WELL, REFUSES], 1).unwrap().1.len(),
            1
        );
        let mut looks = Looks::new(false, 3);
        assert_eq!(add(&mut looks, &[SILENT; 3], 10), None);
        assert!(add(&mut looks, &[SILENT, [4, 0, 4, 0, 0], SILENT], 1).is_some());
        let mut looks = Looks::new(false, 3);
        assert_eq!(add(&mut looks, &[WELL; 3], 10), None);
        // What began by the first of them has had its time.
        let needed = judgement::FAR_GRACE.div_ceil(apart).max(1) + 1;
        assert!(add(&mut looks, &[WELL, SILENT, WELL], needed as usize).is_some());
    }
}

/// No bound: how long it takes says more about the machine.
#[test]
fn what_judging_ten_thousand_costs_is_printed() {
    let cases = [(true, 10_000, 1), (false, 10_000, 1), (true, 10, 1_000)];
    for ((sees_answers, members, pools), more) in
        cases.into_iter().flat_map(|case| [(case, 4), (case, 0)])
    {
        let mut watch = Watch::default();
        let of = |n: u32| Pool {
            policy: POLICY,
            sees_answers,
            members: (n * members..(n + 1) * members).collect(),
        };
        let pools = (0..pools).map(|n| (Name::new(&format!("web{n}")).unwrap(), of(n)));
        watch.set_pools(pools.collect(), BTreeSet::new());
        let mut counts: Vec<(u32, Counts)> =
            watch.members().iter().map(|id| (*id, [0; 5])).collect();
        let (mut now, mut took) = (AGO, Vec::new());
        for _ in 0..30 {
            now += EVERY;
            for (_, counts) in &mut counts {
                counts[0] += more;
                counts[1] += more;
            }
            let began = Instant::now();
            assert!(watch.look(now, &counts).is_empty());
            took.push(began.elapsed());
        }
        took.sort_unstable();
        let way = if sees_answers { "dnat" } else { "l2dsr" };
        println!(
            "{way}, {} backends in pools of {members}, {more} handshakes each: a look is judged in {:?} (median), {:?} at most",
            counts.len(),
            took[15],
            took[29]
        );
    }
}

/// Long after the beginning of time.
const AGO: u64 = 100_000_000_000;

/// The same judgement from all that ever happened: the counts of each look of each member, newest last. Without
/// `measures`, the well ones are no measure of their own.
fn model(history: &[Vec<Counts>], sees_answers: bool) -> Vec<(u32, Evidence)> {
    let looks = history.len();
    let at = |which: Handshake| which as usize;
    let members = history[0].len();
    // What was counted by the looks in a range.
    let sum = |member: usize, which, range: std::ops::Range<usize>| -> u64 {
        history[range].iter().map(|l| l[member][at(which)]).sum()
    };
    let mut found = Vec::new();
    for member in 0..members {
        // What is known of by what clients send next takes up to 0.15 s more.
        'sought: for back in 1..=if sees_answers { 5_usize } else { 6 } {
            let Some(from) = looks.checked_sub(back).filter(|from| *from > 0) else {
                break;
            };
            let shares = |member: usize| -> Vec<(Sign, u64, u64)> {
                let all = from..looks;
                let late = if sees_answers { 1 } else { 3 };
                let due = from..looks.saturating_sub(late).max(from);
                let old = sum(member, Handshake::Begun, due);
                let heard = sum(member, Handshake::Answered, all.clone());
                let unanswered = (Sign::Unanswered, old.saturating_sub(heard), old);
                if sees_answers {
                    let begun = sum(member, Handshake::Begun, all.clone());
                    let refused = sum(member, Handshake::Refused, all.clone()).min(begun);
                    let lost = sum(member, Handshake::Unreachable, all).min(begun);
                    return vec![
                        unanswered,
                        (Sign::Refused, refused, begun),
                        (Sign::Unreachable, lost, begun),
                    ];
                }
                // Ten looks are a second.
                let begun = sum(member, Handshake::Begun, all.clone());
                let lost = sum(member, Handshake::Unreachable, all.clone()).min(begun);
                let lost = (Sign::Unreachable, lost, begun);
                match from.checked_sub(10).filter(|first| *first > 0) {
                    None => vec![unanswered, (Sign::Resent, 0, 0), lost],
                    Some(first) => {
                        let begun = sum(member, Handshake::Begun, first..looks - 10);
                        let again = sum(member, Handshake::Resent, all).min(begun);
                        vec![unanswered, (Sign::Resent, again, begun), lost]
                    }
                }
            };
            for (n, (sign, bad, of)) in shares(member).into_iter().enumerate() {
                let others = (0..members).filter(|other| *other != member);
                let others = others.map(|other| (shares(other)[n].1, shares(other)[n].2));
                let (theirs, all) = others.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                let is_large = |(bad, of): (u64, u64)| bad > 0 && of >= 3 && bad * 2 >= of;
                let well = (0..members).map(|one| (shares(one)[n].1, shares(one)[n].2));
                let well = well.filter(|one| one.1 >= 3 && !is_large(*one));
                let (poor, rich) = well.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                // Shares of two that differ by three standard deviations, squared.
                let exceeds = |(theirs, all): (u64, u64)| {
                    let apart = (bad * all).saturating_sub(theirs * of);
                    let (total, worst) = (of + all, bad + theirs);
                    bad * all >= 2 * theirs * of
                        && apart * apart * total >= 9 * of * all * worst * (total - worst)
                };
                let is_measured = rich >= 12 && poor * 20 < rich && exceeds((poor, rich));
                let alone = all < 3 || exceeds((theirs, all)) || is_measured;
                if is_large((bad, of)) && alone {
                    let over = back as u64 * EVERY;
                    found.push((
                        member as u32,
                        Evidence {
                            sign,
                            bad,
                            of,
                            over,
                        },
                    ));
                    break 'sought;
                }
            }
        }
    }
    found
}

fn counts() -> impl Strategy<Value = Counts> {
    let few = || prop_oneof![3 => Just(0_u64), 2 => 0_u64..5];
    (0_u64..6, 0_u64..6, few(), few(), few()).prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
}

proptest! {
    #[test]
    fn suspects_are_those_of_a_model_that_remembers_all(
        sees_answers in any::<bool>(),
        history in (1_usize..4).prop_flat_map(|members| {
            proptest::collection::vec(proptest::collection::vec(counts(), members), 1..40)
        }),
    ) {
        let mut looks = Looks::new(sees_answers, history[0].len() as u32);
        for n in 1..=history.len() {
            let found = looks.add(&history[n - 1]);
            prop_assert_eq!(found, model(&history[..n], sees_answers), "look {}", n);
        }
    }
}
