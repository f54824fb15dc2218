//! Clients that stay with their backend (`affinity-timeout`) in the compiled program: one backend each, whoever it is that the scheduler names
//! for others, and what moves when one of ten leaves and returns: its own clients, once.

use lb_common::{Fields, Pick, Scheduling};

use super::field::{Field, PORT_BITS, field};
use super::{LEAVER, POOL};

/// Clients that open flows, and how many each.
const CLIENTS: u64 = 128;
const EACH: u64 = 1024;

/// The backend of each client, all of whose new flows go to one.
fn homes(field: &mut Field, each: u64) -> Vec<u32> {
    field.forget();
    field.new_shares();
    let home = |client: u64| {
        let first = client << PORT_BITS;
        field.open(first..first + each);
        let shares = field.new_shares();
        let home = shares.iter().position(|share| *share == each);
        let home = home.unwrap_or_else(|| panic!("client {client} has several: {shares:?}"));
        u32::try_from(home).unwrap()
    };
    (0..CLIENTS).map(home).collect()
}

#[test]
fn clients_stay_and_only_those_of_who_leaves_move_and_stay_again() {
    for pick in [Pick::Turn, Pick::Random, Pick::Least, Pick::Fields] {
        let scheduling = Scheduling {
            pick,
            ..Scheduling::by(Fields::Client, 0).staying(3600)
        };
        field(&[1; POOL], scheduling, |field| {
            field.count(&[0; POOL], 1);
            let before = homes(field, EACH);
            let mut clients = [0; POOL];
            before.iter().for_each(|id| clients[*id as usize] += 1);
            println!("{pick:?}: of {CLIENTS} clients, each with {EACH} flows: {clients:?}");
            match pick {
                // 12.8 of each: to one more, as turns are by new flows and each client takes one.
                Pick::Turn => assert!(clients.iter().all(|n| (12..=14).contains(n))),
                _ => assert!(clients.iter().all(|n| (1..=30).contains(n))),
            }
            field.leave(LEAVER);
            let without = homes(field, 16);
            for (client, (old, new)) in before.iter().zip(&without).enumerate() {
                assert_ne!(*new, LEAVER);
                assert!(old == new || *old == LEAVER, "client {client} moved");
            }
            field.come_back(LEAVER);
            assert_eq!(homes(field, 16), without, "{pick:?}: nobody returns");
        });
    }
}
