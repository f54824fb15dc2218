//! Agents: what servers say in the answers to checks moves their shares, within bounds.

use std::ops::RangeInclusive;

use lb_tests::server::{Health, Server};

use crate::stage::{SHAPES, Stage};

/// Connections whose shares are looked at.
const CONNECTIONS: usize = 3000;

fn say(stage: &Stage, server: usize, report: &str) {
    let health = Health {
        body: format!("{report}\n"),
        ..Health::default()
    };
    stage.servers[server].set_health(&health).unwrap();
}

/// The share of b1 in thousandths of new connections; nobody goes without.
fn share_of_b1(stage: &Stage, service: &str) -> u64 {
    let report = stage.storm(&[service], CONNECTIONS as u64);
    report.assert_clean(CONNECTIONS);
    let backends = report.backends();
    assert_eq!(backends.len(), 3, "{backends:?}");
    backends[&1] * 1000 / CONNECTIONS as u64
}

/// Its share is one of these. A ring is written a little later than its weights are told, so that the first connections may still
/// go by the one before.
#[track_caller]
fn check_share(stage: &Stage, service: &str, of: RangeInclusive<u64>) {
    let first = share_of_b1(stage, service);
    if !of.contains(&first) {
        let second = share_of_b1(stage, service);
        assert!(of.contains(&second), "{first}, then {second}");
    }
}

#[test]
fn servers_say_how_much_they_can_bear_and_a_liar_draws_no_more_than_its_bound() {
    let stage = Stage::with(SHAPES[0], Server::threads, |mut config| {
        let web = config.services.iter_mut().find(|s| s.name == "web4");
        web.unwrap().health.extra =
            "agent-weight = \"body\"\nagent-weight-max = 200\nagent-weight-step = 100";
        let web = config.services.iter_mut().find(|s| s.name == "web6");
        web.unwrap().extra += "\nscheduler = \"least-response-time\"";
        let echo = config.services.iter_mut().find(|s| s.name == "echo6");
        echo.unwrap().health.extra =
            "agent-weight = \"header\"\nagent-weight-max = 200\nagent-weight-step = 100";
        config
    });
    // Nobody says anything useful: it is told, and changes nothing.
    let part = |wanted: u32| {
        stage.wait(
            &format!("b1 gets {wanted} thousandths of its weight"),
            |status| status.backend("web4/b1").agent == Some(wanted),
        )
    };
    part(1000);
    say(&stage, 0, "busy 25%");
    let status = part(250);
    let why = &status.backend("web4/b1").share_why;
    assert!(
        why.contains("as its agent says, 25 % of its weight"),
        "{why}"
    );
    assert_eq!(status.backend("web6/b1").agent, None);
    // 25 of 225.
    check_share(&stage, "web4", 80..=145);
    let why = stage
        .daemon
        .cli(&["why", "web4/b1"])
        .unwrap()
        .succeeded()
        .unwrap()
        .stdout;
    assert!(
        why.contains("as its agent says, 25 % of its weight"),
        "{why}"
    );
    // A lie: 2 of 4, and no more.
    say(&stage, 0, "1000%");
    part(2000);
    check_share(&stage, "web4", 450..=550);
    // What cannot be meant changes nothing.
    say(&stage, 0, "99999999999999999999%");
    stage.wait("it is ignored", |status| {
        status.backend("web4/b1").share_why.contains("is ignored")
    });
    part(2000);
    let log = stage.daemon.log();
    assert!(log.contains("what its agent says is ignored"), "{log}");
    // All ask for nothing: each gets the same as before.
    for server in 0..3 {
        say(&stage, server, "0%");
    }
    stage.wait("all have the least", |status| {
        let web = status.service("web4").unwrap();
        web.backends
            .iter()
            .all(|b| b.agent == Some(100) && b.share > 0)
    });
    check_share(&stage, "web4", 280..=390);
    // In a field of the head; in that of others nobody looks there.
    let health = Health {
        body: "100%\n".to_owned(),
        weight: Some("40%".to_owned()),
        ..Health::default()
    };
    stage.servers[0].set_health(&health).unwrap();
    let status = stage.wait("b1 gets 400 thousandths of echo6", |status| {
        status.backend("echo6/b1").agent == Some(400)
            && status.backend("web4/b1").agent == Some(1000)
    });
    let why = &status.backend("echo6/b1").share_why;
    assert!(
        why.contains("as its agent says, 40 % of its weight"),
        "{why}"
    );
    // 40 of 240: the others say nothing, and have their whole weight.
    assert_eq!(status.backend("echo6/b2").agent, Some(1000));
    check_share(&stage, "echo6", 125..=210);
    // Silence is the whole weight again.
    say(&stage, 0, "100%");
    stage.wait("b1 gets all of its weight in echo6", |status| {
        status.backend("echo6/b1").agent == Some(1000)
    });
    // Where response times count, a slow server gets less: not more than a few steps are waited for.
    let slow = Health {
        delay_ms: 50,
        ..Health::default()
    };
    stage.servers[1].set_health(&slow).unwrap();
    let status = stage.wait("b2 gets less of web6", |status| {
        status.backend("web6/b2").share < 300
    });
    let slow = status.backend("web6/b2");
    assert!(
        slow.share_why.contains("its checks take ") && slow.health == "up",
        "{slow:?}"
    );
    assert!(status.backend("web6/b1").share > slow.share, "{status:?}");
    assert_eq!(status.backend("echo4/b2").share, 333);
    stage.end();
}
