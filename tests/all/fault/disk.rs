//! Disks that hang and disks that are full: what is decided is carried out, and nothing that was said to
//! be saved is lost.

use std::time::{Duration, Instant};

use lb_tests::capture::Capture;
use lb_tests::daemon::{BackendConfig, Config, Health, Output, Service};
use lb_tests::disk::Disk;
use lb_tests::server::Server;
use lb_tests::topology::{FAMILIES, backend_mac, client};

use crate::stage::{ECHO, SHAPES, Stage, Stalls, WEB, wait_until};

/// A balancer whose state directory is on a disk of its own. The disk must be dropped first, so that
/// nobody hangs any more: bind it last.
fn on_a_disk() -> (Stage, Disk) {
    let mut disk = None;
    let stage = Stage::alone_with(
        SHAPES[0],
        |topology| {
            let home = topology.directory().join("fairlead");
            let image = topology.directory().join("disk");
            disk = Some(Disk::mount(&image, &home.join("state"))?);
            Server::threads(topology)
        },
        |config| config,
    );
    (stage, disk.unwrap())
}

/// The configuration with one more service, which needs new ids.
fn with_more(stage: &Stage) -> Config {
    let mut config = stage.daemon.config().clone();
    let web = config.service("web4").clone();
    let backends = web.backends.iter().map(|backend| BackendConfig {
        name: format!("new-{}", backend.name),
        ..backend.clone()
    });
    config.services.push(Service {
        name: "more".to_owned(),
        port: 8081,
        backends: backends.collect(),
        ..web
    });
    config
}

fn refused(answer: &Output, words: &[&str]) {
    assert!(answer.code.is_some_and(|code| code != 0), "{answer:?}");
    for word in words {
        assert!(answer.stderr.contains(word), "{word}: {answer:?}");
    }
}

#[test]
fn d3_disk_that_hangs_stops_no_verdict_and_no_drain_and_all_is_saved_when_it_returns() {
    let (mut stage, mut disk) = on_a_disk();
    let stalls = Stalls::watch();
    let port = stage.topology.shape().back_port();
    let capture = Capture::start(stage.topology.namespace("switch"), port, backend_mac(1)).unwrap();
    let load = stage.load(&WEB, 500);
    wait_until("the load runs", Duration::from_secs(5), || {
        load.begun() > 200
    });
    stage.wait("all is saved", |s| s.storage.unsaved_ms == 0);
    disk.freeze().unwrap();

    let cut = Instant::now();
    stage.topology.cut_power("b1", "eth0").unwrap();
    stage.wait_for_health("b1", "down");
    stage.storm(&ECHO, 2000).assert_clean(2000);
    assert_eq!(capture.lost().unwrap(), 0, "the capture missed frames");
    let last = capture.last(|frame| FAMILIES.map(client).contains(&frame.source));
    let last = last.map_or(Duration::ZERO, |f| f.at.saturating_duration_since(cut));
    let bound = Duration::from_millis(Health::LAB.bound_ms() + 10);
    assert!(
        last <= bound + stalls.worst_since(cut),
        "the last packet to the dead backend came after {last:?}"
    );

    // Both answers come when patience ends.
    let text = with_more(&stage).toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    let daemon = &stage.daemon;
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| daemon.cli(&["drain", "echo4/b2"]).unwrap());
        let reload = scope.spawn(|| daemon.cli(&["reload"]).unwrap());
        let asked = Instant::now();
        stage.wait("echo4/b2 drains", |status| {
            status.backend("echo4/b2").admin == "draining"
        });
        let took = asked.elapsed();
        assert!(
            took <= Duration::from_millis(500) + stalls.worst_since(asked),
            "the drain took effect after {took:?}"
        );
        let hangs = ["state.json", "the disk hangs"];
        refused(
            &drain.join().unwrap(),
            &[&["in effect"][..], &hangs].concat(),
        );
        refused(
            &reload.join().unwrap(),
            &[&["accepted"][..], &hangs].concat(),
        );
    });
    let status = stage.daemon.status().unwrap();
    assert!(status.service("more").is_none(), "ids are not on disk");
    let trouble = status.storage.trouble.unwrap();
    assert!(trouble.contains("state.json") && status.storage.late_ms > 1000);
    assert!(status.storage.unsaved_ms >= status.storage.late_ms);
    let table = stage.daemon.cli(&["status"]).unwrap().stdout;
    assert!(table.contains("the state is not on disk: "), "{table}");
    assert!(stage.daemon.log().contains("the disk hangs"));

    // Verdicts go both ways.
    stage.topology.restore_power("b1", "eth0").unwrap();
    stage.wait_for_health("b1", "up");

    disk.thaw().unwrap();
    stage.wait("all is saved and in force", |status| {
        let storage = &status.storage;
        status.service("more").is_some()
            && storage.trouble.is_none()
            && storage.unsaved_ms == 0
            && status.config_error.is_none()
    });
    stage.wait("all are up", |status| status.all_are("up"));
    let failures = load.stop();
    let until = cut + bound + stalls.worst_since(cut);
    let outside = failures.failures_outside(cut, until);
    assert!(outside.is_empty(), "{outside:?}\n{failures}");

    let ids = stage.ids();
    stage.daemon.kill().unwrap();
    stage.daemon.restart().unwrap();
    assert_eq!(stage.ids(), ids);
    let status = stage.daemon.status().unwrap();
    assert_eq!(status.backend("echo4/b2").admin, "draining");
    drop(disk);
    stage.end();
}

#[test]
fn d1_full_disk_changes_nothing_unseen_and_nothing_is_lost_once_there_is_room() {
    let (mut stage, disk) = on_a_disk();
    stage.wait("all is saved", |s| s.storage.unsaved_ms == 0);
    disk.fill().unwrap();
    let answer = stage.daemon.cli(&["drain", "echo4/b2"]).unwrap();
    refused(
        &answer,
        &["in effect", "not on disk", "state.json", "space"],
    );
    stage.wait("echo4/b2 drains", |status| {
        status.backend("echo4/b2").admin == "draining"
    });
    let more = with_more(&stage);
    let text = more.toml(stage.daemon.home());
    stage.daemon.write_config(&text).unwrap();
    let answer = stage.daemon.cli(&["reload"]).unwrap();
    refused(&answer, &["nothing changed", "state.json", "space"]);
    let status = stage.daemon.status().unwrap();
    assert!(status.service("more").is_none());
    assert!(status.storage.trouble.unwrap().contains("state.json"));
    stage.topology.cut_power("b1", "eth0").unwrap();
    stage.wait_for_health("b1", "down");
    stage.topology.restore_power("b1", "eth0").unwrap();
    stage.storm(&ECHO, 1000).assert_clean(1000);
    disk.free().unwrap();
    stage.wait("all is saved", |status| {
        status.storage.unsaved_ms == 0 && status.storage.trouble.is_none()
    });
    stage.daemon.reload(more).unwrap();
    stage.wait("all are up", |status| status.all_are("up"));
    stage.daemon.kill().unwrap();
    stage.daemon.restart().unwrap();
    let status = stage.daemon.status().unwrap();
    assert_eq!(status.backend("echo4/b2").admin, "draining");
    drop(disk);
    stage.end();
}
