//! A server that changes again and again, with real checks: how soon a verdict follows it, and how much longer each fall keeps it out.

use std::time::{Duration, Instant};

use lb_tests::daemon::Health as Checks;
use lb_tests::server::{Health, Server};

use crate::stage::{SHAPES, Stage, figure, wait_until};

const SOON: Duration = Duration::from_secs(30);
const BACKEND: &str = "web4/b1";
const INTERVAL: Duration = Duration::from_millis(1500);
const FALL: u32 = 3;
const KEYS: &str =
    "passive = false\nfast-interval = \"100ms\"\ndamping = 2\ndamping-window = \"10m\"
damping-hold = \"1s\"\ndamping-hold-max = \"4s\"";

fn stage() -> Stage {
    Stage::with(SHAPES[0], Server::threads, |mut config| {
        config.services.retain(|service| service.name == "web4");
        for service in &mut config.services {
            service.health = Checks {
                interval_ms: 1500,
                fall: FALL,
                extra: KEYS,
                ..service.health
            };
        }
        config
    })
}

fn say(stage: &Stage, status: u16) {
    let health = Health {
        status,
        ..Health::default()
    };
    stage.servers[0].set_health(&health).unwrap();
}

/// For how long it must stay good, as `fairlead why` says while it is.
fn hold(stage: &Stage) -> String {
    let words = || {
        let why = stage.daemon.cli(&["why", BACKEND]).unwrap();
        let why = why.succeeded().unwrap().stdout;
        let after = why.split("it must stay good for ").nth(1)?.to_owned();
        Some(after.split(',').next()?.to_owned())
    };
    wait_until("it is said that it is kept out", SOON, || words().is_some());
    words().unwrap()
}

/// Faults B5 and B6: by the usual interval the last of three bad answers would come two intervals after the first.
#[test]
fn b6_each_change_is_followed_at_the_fast_interval_and_each_fall_keeps_a_server_out_for_longer() {
    let stage = stage();
    let (mut falls, mut holds) = (Vec::new(), Vec::new());
    for round in 0..5 {
        let begun = Instant::now();
        say(&stage, 503);
        stage.wait_for_health("b1", "down");
        falls.push(begun.elapsed());
        let begun = Instant::now();
        say(&stage, 200);
        let long = match round {
            // It has changed too seldom.
            0 => Duration::ZERO,
            _ => {
                let said = hold(&stage);
                let seconds = said.strip_suffix('s').unwrap().parse().unwrap();
                holds.push(said);
                Duration::from_secs(seconds)
            }
        };
        stage.wait_for_health("b1", "up");
        let back = begun.elapsed();
        assert!(back >= long, "up after {back:?}, kept out for {long:?}");
    }
    figure!("down {falls:?} after the first bad answer could come; kept out for {holds:?}");
    assert_eq!(holds, ["1s", "2s", "4s", "4s"]);
    let least = falls.iter().min().unwrap();
    assert!(*least < INTERVAL * (FALL - 1), "{falls:?}");
    stage.end();
}
