//! How long servers take to answer SYNs, as the data plane sees it: who is slow gets less, though no check says so.

use lb_tests::daemon::Health;
use lb_tests::server::Server;

use crate::ops::text;
use crate::stage::{FULLNAT, SHAPES, Stage};

/// A packet leaves a host each so many milliseconds, if there are more of them: 74 bytes of a SYN with ACK take 18 ms.
const SLOW: [&str; 13] = [
    "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "32kbit", "burst", "120", "limit",
    "3000",
];

#[test]
fn a_server_that_is_slow_to_answer_syns_gets_less_without_any_check() {
    for shape in [SHAPES[0], FULLNAT[0]] {
        let stage = Stage::with(shape, Server::threads, |mut config| {
            for name in ["web4", "web6"] {
                let web = config.services.iter_mut().find(|s| s.name == name).unwrap();
                web.extra += "\nscheduler = \"least-response-time\"";
                web.health = Health {
                    kind: "none",
                    ..Health::LAB
                };
            }
            config
        });
        // Few enough that b2's answers to ARP and neighbour discovery find room between those to SYNs.
        let load = stage.load(&["web4", "web6"], 20);
        let status = stage.wait("answers are measured", |status| {
            ["web4/b1", "web6/b3"].iter().all(|backend| {
                let why = &status.backend(backend).share_why;
                why.contains("its answers to SYNs take 0.")
            })
        });
        // Chance may have moved the parts a step or two.
        let share = status.backend("web4/b2").share;
        assert!(share >= 280, "{shape:?}: {share}");
        text(&stage.topology, "b2", &SLOW);
        let status = stage.wait("b2 gets less of both", |status| {
            ["web4/b2", "web6/b2"]
                .iter()
                .all(|backend| (1..250).contains(&status.backend(backend).share))
        });
        drop(load);
        for service in ["web4", "web6"] {
            let [slow, quick] =
                ["b2", "b1"].map(|name| status.backend(&format!("{service}/{name}")));
            assert!(quick.share > 333, "{shape:?}: {slow:?} {quick:?}");
            assert!(!slow.share_why.contains("checks take"), "{slow:?}");
        }
        stage.end();
    }
}
