//! How new flows spread in the compiled program: shares over at least 100,000 flows, and what moves when one of ten
//! backends leaves and returns, for each scheduler.

mod field;
mod least;
mod mass;
mod stay;

use lb_common::{Fields, Pick, Scheduling};

use field::{FLOWS, Field, field};

/// Backends of every pool here.
const POOL: usize = 10;
/// The one that leaves.
const LEAVER: u32 = 7;

/// The share of each backend is its weight's, within so many flows in a thousand of all.
#[track_caller]
fn shares_follow(found: &[u64], weights: &[u16], per_mille: u64) {
    let flows: u64 = found.iter().sum();
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    assert!(flows >= 100_000, "only {flows} flows");
    for (share, weight) in found.iter().zip(weights) {
        let fair = flows * u64::from(*weight) / total;
        assert!(
            share.abs_diff(fair) <= flows * per_mille / 1000,
            "weight {weight} of {total}: {share} of {flows} flows, fair {fair}: {found:?}"
        );
    }
}

/// Of the flows that were not the leaver's, parts in a thousand that have another backend.
fn moved(before: &[u32], after: &[u32]) -> u64 {
    let others = before.iter().zip(after).filter(|(id, _)| **id != LEAVER);
    let (mut all, mut moved) = (0, 0);
    for (old, new) in others {
        all += 1;
        moved += u64::from(old != new);
    }
    moved * 1000 / all
}

/// What the flows do while a backend leaves and returns: those with an entry stay; of those that nobody knows any more so
/// many of a thousand may move that were not its own. `None`: any.
fn disrupt(field: &mut Field, what: &str, bound: Option<u64>) {
    field.open(0..FLOWS);
    let before = field.mapping();
    field.leave(LEAVER);
    field.send(0..FLOWS);
    assert_eq!(field.mapping(), before, "{what}: flows with an entry stay");
    field.forget();
    field.open(0..FLOWS);
    let without = field.mapping();
    assert!(!without.contains(&LEAVER), "{what}: it takes no new flows");
    let away = moved(&before, &without);
    field.come_back(LEAVER);
    field.send(0..FLOWS);
    assert_eq!(field.mapping(), without, "{what}: and stay again");
    field.forget();
    field.open(0..FLOWS);
    let back = moved(&before, &field.mapping());
    println!(
        "{what}: 1 of {POOL} leaves: of flows with an entry 0 move, of others' without one {away} in 1000; when it is back, {back} in 1000"
    );
    if let Some(bound) = bound {
        assert!(away <= bound, "{what}: {away} of 1000 moved");
        assert_eq!(back, 0, "{what}: all are where they were");
    }
}

#[test]
fn maglev_spreads_by_weight_and_moves_few() {
    let weights = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1];
    field(&weights, Scheduling::USUAL, |field| {
        field.open(0..FLOWS);
        let shares = field.shares();
        println!("maglev: {shares:?}");
        shares_follow(&shares, &weights, 8);
        field.forget();
        disrupt(field, "maglev", Some(30));
    });
}

#[test]
fn random_spreads_by_weight_and_flows_with_an_entry_stay() {
    let weights = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1];
    field(&weights, Scheduling::picking(Pick::Random), |field| {
        field.open(0..FLOWS);
        let shares = field.shares();
        println!("random: {shares:?}");
        shares_follow(&shares, &weights, 8);
        field.forget();
        disrupt(field, "random", None);
    });
}

/// Clients that open flows below, and how many each.
const CLIENTS: u64 = 128;
const EACH: u64 = 1024;

#[test]
fn a_clients_flows_are_kept_together_and_clients_spread() {
    for fields in [Fields::Client, Fields::Service] {
        let what = format!("{fields:?}");
        field(&[1; POOL], Scheduling::by(fields, 0), |field| {
            let mut clients = vec![0; POOL];
            for client in 0..CLIENTS {
                let first = client << field::PORT_BITS;
                field.open(first..first + EACH);
                let mut shares = field.new_shares();
                shares.iter_mut().for_each(|share| *share /= EACH);
                assert_eq!(
                    shares.iter().sum::<u64>(),
                    1,
                    "{what}: client {client} has one backend: {shares:?}"
                );
                for (all, one) in clients.iter_mut().zip(shares) {
                    *all += one;
                }
            }
            println!("{what}: of {CLIENTS} clients, each with {EACH} flows: {clients:?}");
            // 13 of each, give or take 3 (one standard deviation of chance).
            assert!(clients.iter().all(|n| (1..=30).contains(n)), "{clients:?}");
            field.forget();
            // Of eight clients, one.
            disrupt(field, &what, Some(130));
        });
    }
}

#[test]
fn the_clients_of_a_prefix_are_kept_together() {
    // Clients are 198.18.0.0/16: one prefix of 17 bits for each half of them.
    field(
        &[1; POOL],
        Scheduling::by(Fields::Client, 96 + 17),
        |field| {
            for half in [0, 1_u64 << 15] {
                let mut last = None;
                for client in (0..1 << 15).step_by(1 << 10) {
                    let first = (half + client) << field::PORT_BITS;
                    field.open(first..first + 64);
                    let shares = field.new_shares();
                    let home = shares.iter().position(|share| *share == 64);
                    assert!(home.is_some(), "client {client}: {shares:?}");
                    assert!(last.is_none() || last == home, "client {client}");
                    last = home;
                }
            }
        },
    );
}

/// Of many turns each backend has its share, up to less than two: wherever in a round they begin and end.
#[track_caller]
fn shares_are_exact(found: &[u64], weights: &[u16], most: u64) {
    let flows: u64 = found.iter().sum();
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    for (share, weight) in found.iter().zip(weights) {
        let fair = flows * u64::from(*weight);
        assert!(
            (share * total).abs_diff(fair) <= most * total,
            "weight {weight} of {total}: {share} of {flows} flows: {found:?}"
        );
    }
}

#[test]
fn turns_are_exact_over_any_window_on_a_cpu_and_bounded_over_all() {
    let turn = Scheduling::picking(Pick::Turn);
    for weights in [[1; POOL], [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]] {
        let round: u64 = weights.iter().copied().map(u64::from).sum();
        field(&weights, turn, |field| {
            // Whole rounds: not one flow too many.
            for n in 0..20 {
                field.open(n * round..(n + 1) * round);
                shares_are_exact(&field.new_shares(), &weights, 0);
            }
            field.forget();
            for (n, flows) in [1, 2, 3, 17, 29, 101, 997].into_iter().enumerate() {
                let first = 10_000 * (n as u64 + 1);
                field.open(first..first + flows);
                shares_are_exact(&field.new_shares(), &weights, 2);
            }
            field.forget();
            field.open(0..FLOWS);
            let shares = field.new_shares();
            println!("by turns, weights {weights:?}: {shares:?} of {FLOWS}");
            shares_are_exact(&shares, &weights, 2);
            field.forget();
            // Each CPU has its own turns: at most two too many each.
            let cpus = field.cpus();
            let part = FLOWS / cpus.len() as u64;
            for (n, cpu) in (0..).zip(&cpus) {
                field.stay_on(*cpu);
                field.open(n * part..(n + 1) * part);
            }
            let shares = field.new_shares();
            println!("the same on {} CPUs: {shares:?}", cpus.len());
            shares_are_exact(&shares, &weights, 2 * cpus.len() as u64);
        });
    }
}

#[test]
fn turns_go_on_without_who_leaves_and_flows_with_an_entry_stay() {
    field(&[1; POOL], Scheduling::picking(Pick::Turn), |field| {
        disrupt(field, "by turns", None);
        // It loses its turns to all others alike before the ring is filled without it.
        field.forget();
        field.new_shares();
        field.deny(LEAVER);
        field.open(0..FLOWS);
        let mut shares = field.new_shares();
        println!("by turns, while the ring names one of {POOL} that takes none: {shares:?}");
        assert_eq!(shares.remove(LEAVER as usize), 0);
        shares_follow(&shares, &[1; POOL - 1], 10);
    });
}
