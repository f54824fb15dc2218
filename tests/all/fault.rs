//! The balancer on a bad day. Names begin with the number in the fault catalogue:
//!
//! | Fault | What breaks | Test |
//! |---|---|---|
//! | B1 | a server dies, its host refuses | `backend::b1_dead_process_...`; half of a thousand at once: `mass::b1_...` |
//! | B2 | a backend loses power | `backend::b2_...` |
//! | B3 | a server is frozen, its kernel accepts | `backend::b3_frozen_server_...` |
//! | B4 | a server is slow, without an error | `checks::b4_server_that_is_slow_...` |
//! | B5 | wrong status, wrong body, a redirect | `checks::b5_wrong_status_...` |
//! | B6 | a server is good and bad in turn | `checks::b6_server_that_flaps_...`, `nervous::b6_...` |
//! | B7 | a server's accept queue is full (found by a check) | `checks::b7_server_that_accepts_nobody_...`; by packets `e2e::passive::...` |
//! | B8 | the VIP, or the decapsulator, of a backend is gone | `way::b8_...`, `e2e::real_path::...` |
//! | B9 | a backend's MAC address changes | `backend::b9_backend_with_another_mac_address_...` |
//! | B10 | all probes fail, all servers work | `backend::b10_when_all_probes_fail_at_once_...` |
//! | B11 | all servers are down | `backend::b11_when_all_are_really_down_...` |
//! | B12 | a backend returns | `backend::b12_backend_that_returns_...` |
//! | B13 | a backend's replies are lost (found by a check) | `checks::b13_backend_whose_replies_...`; by packets `e2e::passive::...` |
//! | L1 | the balancer loses carrier | `link::l1_...` (each side) |
//! | L2 | its interface is deleted and made again | `link::l2_interface_that_was_deleted_...` |
//! | L6 | wrong checksums, truncated packets | `packet::l6_...` |
//! | P1 | kill -9 | `process::p1_...`, `e2e::restart::five_kills_...` |
//! | P3 | the daemon is stopped for ten seconds, with FAIRLEAD_LONG=1 for a minute | `process::p3_...` |
//! | P6 | no file descriptor, no process, no thread is left | `process::p6_...`, `threads::p6_...` |
//! | P7 | the daemon is starved of CPU | `process::p7_...` |
//! | P10 | a paused daemon wakes after a takeover; a second one starts | `process::p10_...`, `e2e::restart::a_second_daemon_is_refused` |
//! | K3 | pins hold what nobody wrote | `kernel::k3_...`, each field in `bpf::mutation` |
//! | K4 | pins are removed by hand | `kernel::k4_...` |
//! | K5 | the verifier refuses a new program | `kernel::k5_...` |
//! | C1 | wrong, binary, mutated files, at a reload and at a start | `config::c1_...` |
//! | C4 | an empty or drastically smaller file | `config::c4_...` |
//! | C5 | the same in another order | `config::c5_...` |
//! | D1 | the disk of the state is full | `disk::d1_...` |
//! | D3 | the disk of the state hangs | `disk::d3_...` |
//! | O1 | the last backend is drained | `operator::o1_...` |
//! | O3 | VIP, route or neighbour removed by hand | `operator::o3_...` |
//! | A6 | a target of checks answers without end | `checks::a6_...`, each protocol in `lb_userspace::health::tests::hostile` |

mod backend;
mod checks;
mod config;
mod disk;
mod kernel;
mod link;
mod mass;
mod nervous;
mod operator;
mod packet;
mod process;
mod threads;
mod way;
