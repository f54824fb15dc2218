//! Configuration files that are wrong, empty, or the same in another order.

use std::time::Duration;

use crate::stage::{ECHO, SHAPES, Stage, wait_until};

/// A file that must not be applied: neither by `reload` nor by SIGHUP.
#[track_caller]
fn check_refused(text: &str) {
    let stage = Stage::new(SHAPES[0]);
    let before = stage.daemon.status().unwrap();
    stage.daemon.write_config(text).unwrap();
    let answer = stage.daemon.cli(&["reload"]).unwrap();
    assert!(
        answer.code.is_some_and(|code| code != 0),
        "accepted: {answer:?}"
    );
    assert!(!answer.stderr.is_empty(), "refused without a word");
    stage.daemon.hang_up().unwrap();
    wait_until("the refusal is told", Duration::from_secs(5), || {
        stage
            .daemon
            .status()
            .is_ok_and(|status| status.config_error.is_some())
    });
    let after = stage.daemon.status().unwrap();
    assert_eq!(before.config_revision, after.config_revision);
    stage.storm(&ECHO, 2000).assert_clean(2000);
    stage.end();
}

#[test]
fn c1_file_with_errors_changes_nothing() {
    check_refused("[daemon]\ninterfaces = [\"eth0\"\n\n[[service]]\nname = 7\n");
}

#[test]
fn c4_empty_file_changes_nothing() {
    check_refused("");
}

#[test]
fn c4_file_without_its_services_changes_nothing() {
    check_refused("[daemon]\ninterfaces = [\"eth0\", \"eth1\"]\n");
}

#[test]
fn c5_same_services_in_another_order_change_nothing() {
    let mut stage = Stage::new(SHAPES[0]);
    let before = stage.daemon.status().unwrap().config_revision;
    let load = stage.load(&ECHO, 1000);
    let mut config = stage.daemon.config().clone();
    config.services.reverse();
    for service in &mut config.services {
        service.backends.reverse();
    }
    stage.daemon.reload(config).unwrap();
    assert_eq!(stage.daemon.status().unwrap().config_revision, before);
    load.stop().assert_clean(1);
    stage.end();
}
