//! Flows that are kept together (`source-hash`, `hash-fields` 1 to 3, `client-prefix`) in the compiled program: a client has one backend, and
//! clients spread.

use lb_common::{Fields, Scheduling};

use super::field::{CLIENTS, Crowd, EACH, PORT_BITS, field};
use super::{POOL, WEIGHTS, disrupt, shares_follow};

/// Hash fields, by number.
const TOGETHER: [Fields; 3] = [Fields::Client, Fields::Vip, Fields::Service];

#[test]
fn a_clients_flows_are_kept_together_and_clients_spread_by_weight() {
    for fields in TOGETHER {
        for weights in [[1; POOL], WEIGHTS] {
            field(&weights, Scheduling::by(fields, 0), |field| {
                field.open_all(Crowd::Many);
                let flows = field.new_shares();
                let mut clients = vec![0; POOL];
                for (client, ids) in field.mapping(Crowd::Many).chunks(EACH as usize).enumerate() {
                    let home = ids[0];
                    assert!(
                        ids.iter().all(|id| *id == home),
                        "{fields:?}: client {client} has several: {ids:?}"
                    );
                    clients[home as usize] += 1;
                }
                println!("{fields:?}: of {CLIENTS} clients, each with {EACH} flows: {clients:?}");
                let counted: Vec<u64> = clients.iter().map(|clients| clients * EACH).collect();
                assert_eq!(flows, counted, "{fields:?}: what is counted");
                shares_follow(&clients, &weights, field.dealt());
            });
        }
    }
}

#[test]
fn few_clients_move_when_one_backend_leaves_and_all_are_back_when_it_is() {
    for fields in TOGETHER {
        field(&[1; POOL], Scheduling::by(fields, 0), |field| {
            disrupt(field, Crowd::Many, &format!("{fields:?}"));
        });
    }
}

/// A client with thousands of flows is no other than one with a few.
#[test]
fn a_client_with_all_its_ports_has_one_backend() {
    for fields in TOGETHER {
        field(&[1; POOL], Scheduling::by(fields, 0), |field| {
            for client in 0..16 {
                let first = client << PORT_BITS;
                field.open(first..first + (1 << PORT_BITS));
                let shares = field.new_shares();
                let its = shares.iter().filter(|share| **share > 0);
                assert_eq!(
                    its.copied().collect::<Vec<u64>>(),
                    [1 << PORT_BITS],
                    "{fields:?}: client {client}: {shares:?}"
                );
            }
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
                    let first = (half + client) << PORT_BITS;
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
