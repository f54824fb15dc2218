//! Who may not be out stays, whatever packets and checks say: `panic-threshold`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_tests::daemon::Status;
use lb_tests::topology::Shape;

use super::{RATE, SERVICE, firewall_when, stage};
use crate::stage::{SHAPES, Stage, wait_until};

/// Three of four are enough (`panic-threshold` is 60), two are not.
const FOUR: Shape = Shape {
    backends: 4,
    ..SHAPES[0]
};

/// Those of the service that are down, by name.
fn fallen(status: &Status) -> Vec<String> {
    let service = status.service(SERVICE).unwrap();
    let down = service.backends.iter().filter(|b| b.health == "down");
    down.map(|b| b.name.clone()).collect()
}

/// How often one of the service was taken out.
fn falls(stage: &Stage) -> usize {
    let log = stage.daemon.log();
    let fall = |line: &&str| {
        line.contains("health changed")
            && line.contains(&format!("service={SERVICE} "))
            && line.contains("to=Down")
    };
    log.lines().filter(fall).count()
}

#[test]
fn of_two_that_die_together_only_the_one_that_the_service_can_spare_is_out_before_its_turn() {
    let mut stage = stage(FOUR);
    let load = stage.load(&[SERVICE], RATE);
    wait_until("connections are made", Duration::from_secs(15), || {
        load.begun() > u64::from(RATE)
    });
    stage.servers[0].kill();
    stage.servers[1].kill();
    let first = fallen(&stage.wait("one is down", |status| !fallen(status).is_empty()));
    drop(load.take());
    let begun = load.begun();
    wait_until("more are tried", Duration::from_secs(30), || {
        load.begun() > begun + 3 * u64::from(RATE)
    });
    let report = load.stop();
    let status = stage.daemon.status().unwrap();
    assert_eq!(fallen(&status), first, "{}", stage.daemon.log());
    assert_eq!((first.len(), falls(&stage)), (1, 1), "{first:?}");
    let (gone, left) = match first[0].as_str() {
        "b1" => ("echo4/b1", "echo4/b2"),
        _ => ("echo4/b2", "echo4/b1"),
    };
    let reason = &status.backend(gone).reason;
    assert!(
        reason.contains("checked at once: connect: refused"),
        "{reason}"
    );
    // A third of all went to the other one, and showed that it is dead too.
    let refused = report
        .failures
        .iter()
        .filter(|f| f.reason.contains("refused"));
    assert!(refused.count() as u64 > u64::from(RATE) / 2, "{report}");
    // Its turns find it all the same.
    let mut config = stage.daemon.config().clone();
    for service in &mut config.services {
        service.health.interval_ms = 200;
        service.health.timeout_ms = 100;
    }
    stage.daemon.reload(config).unwrap();
    let status = stage.wait("both are down", |status| fallen(status) == ["b1", "b2"]);
    let reason = &status.backend(left).reason;
    assert!(!reason.contains("checked at once"), "{reason}");
    stage.end();
}

/// Four of six are enough. Packets show both dead at the same look.
#[test]
fn two_that_die_together_are_both_out_without_their_turns_where_the_service_can_spare_them() {
    const SIX: Shape = Shape {
        backends: 6,
        ..SHAPES[0]
    };
    let mut stage = stage(SIX);
    let load = stage.load(&[SERVICE], 2 * RATE);
    wait_until("connections are made", Duration::from_secs(15), || {
        load.begun() > u64::from(RATE)
    });
    stage.servers[0].kill();
    stage.servers[1].kill();
    let status = stage.wait("both are down", |status| fallen(status) == ["b1", "b2"]);
    for key in ["echo4/b1", "echo4/b2"] {
        let reason = &status.backend(key).reason;
        assert!(
            reason.contains("checked at once: connect: refused"),
            "{reason}"
        );
    }
    drop(load.stop());
    assert_eq!(falls(&stage), 2, "{}", stage.daemon.log());
    stage.end();
}

/// What all do alike is the network's fault: nobody is a suspect. They fall silent at one moment, by their clock.
#[test]
fn when_all_are_silent_at_once_nobody_is_out() {
    let stage = stage(SHAPES[0]);
    let load = stage.load(&[SERVICE], RATE);
    wait_until("connections are made", Duration::from_secs(15), || {
        load.begun() > u64::from(RATE)
    });
    let seconds = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let moment = seconds() + 5;
    for host in ["b1", "b2", "b3"] {
        let rules = firewall_when(&format!("meta time >= {moment} "));
        stage.topology.nft(host, &rules).unwrap();
    }
    assert!(seconds() < moment, "the rules came too late");
    wait_until("all are silent", Duration::from_secs(15), || {
        seconds() > moment
    });
    drop(load.take());
    let begun = load.begun();
    wait_until("more are tried", Duration::from_secs(30), || {
        load.begun() > begun + 3 * u64::from(RATE)
    });
    let report = load.stop();
    assert!(report.answered.is_empty(), "{report}");
    assert_eq!(
        fallen(&stage.daemon.status().unwrap()),
        Vec::<String>::new()
    );
    assert_eq!(falls(&stage), 0, "{}", stage.daemon.log());
    stage.end();
}
