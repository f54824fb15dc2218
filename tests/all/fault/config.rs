//! Configuration files that are wrong, empty, or the same in another order.

use std::time::{Duration, Instant};

use crate::ops::text;
use crate::stage::{ECHO, SHAPES, Stage};

/// Files that must not be applied, neither by `reload` nor by SIGHUP, and must not change anything.
#[track_caller]
fn check_refused(files: impl IntoIterator<Item = Vec<u8>>) -> Stage {
    let stage = Stage::new(SHAPES[0]);
    let load = stage.load(&ECHO, 300);
    let before = stage.daemon.status().unwrap();
    let good = std::fs::read(stage.daemon.config_file()).unwrap();
    for file in files {
        let text = String::from_utf8_lossy(&file[..file.len().min(200)]).into_owned();
        write(&stage, &file);
        let begin = Instant::now();
        let answer = stage.daemon.cli(&["reload"]).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(2), "{text}");
        assert!(
            answer.code.is_some_and(|code| code != 0),
            "accepted: {text}\n{answer:?}"
        );
        assert!(!answer.stderr.is_empty(), "refused without a word: {text}");
        // A good file takes the complaint away, so that the signal's own can be seen.
        write(&stage, &good);
        stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();
        assert_eq!(stage.daemon.status().unwrap().config_error, None);
        write(&stage, &file);
        stage.daemon.hang_up().unwrap();
        let after = stage.wait("the refusal is told", |status| {
            status.config_error.is_some()
        });
        assert_eq!(before.config_revision, after.config_revision, "{text}");
        assert_eq!(after.services.len(), before.services.len(), "{text}");
    }
    stage.storm(&ECHO, 2000).assert_clean(2000);
    load.stop().assert_clean(1);
    stage
}

fn write(stage: &Stage, file: &[u8]) {
    let next = stage.daemon.home().join("next.toml");
    std::fs::write(&next, file).unwrap();
    std::fs::rename(&next, stage.daemon.config_file()).unwrap();
}

#[test]
fn c1_files_with_errors_change_nothing() {
    let daemon = "[daemon]\ninterfaces = [\"eth0\", \"eth1\"]\n";
    let service = "[[service]]\nname = \"a\"\naddress = \"10.10.0.100\"\nport = 80\n\
         protocol = \"tcp\"\nforwarding = \"dnat\"\n[service.health]\ntype = \"tcp\"\n\
         [[service.backend]]\nname = \"b1\"\naddress = \"10.10.1.1\"\nport = 8080\n";
    let good = format!("{daemon}{service}");
    // Numbers without a pattern (MMIX).
    let mut state = 1_u64;
    let noise = (0..4096).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let mutated = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replacen(from, to, 1).into_bytes()
    };
    let stage = check_refused([
        b"[daemon]\ninterfaces = [\"eth0\"\n\n[[service]]\nname = 7\n".to_vec(),
        noise.collect(),
        vec![0; 4096],
        vec![b'['; 100_000],
        vec![b'a'; 2 << 20],
        good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        good.as_bytes()[..good.len() - 9].to_vec(),
        format!("{daemon}{service}{service}").into_bytes(),
        mutated("port", "prot"),
        mutated("10.10.0.100", "10.10.0.1000"),
        mutated("10.10.1.1", "fd00::1"),
        mutated("8080", "80800"),
        mutated("dnat", "dant"),
        mutated("type = \"tcp\"", "type = \"tcp\"\ninterval = \"0s\""),
    ]);
    stage.end();
}

#[test]
fn c1_daemon_that_starts_with_a_broken_file_runs_the_last_good_one() {
    let mut stage = Stage::new(SHAPES[0]);
    let (before, ids) = (stage.daemon.status().unwrap(), stage.ids());
    let good = std::fs::read_to_string(stage.daemon.config_file()).unwrap();
    let broken = good.replacen("dnat", "dant", 1);
    assert_ne!(broken, good);
    let load = stage.load(&ECHO, 300);
    stage.daemon.stop().unwrap();
    write(&stage, broken.as_bytes());
    stage.daemon.restart().unwrap();
    let status = stage.daemon.status().unwrap();
    let error = status.config_error.expect("the file is broken");
    assert!(error.contains("dant"), "{error}");
    assert_eq!(status.config_revision, before.config_revision);
    assert_eq!(stage.ids(), ids);
    stage.wait("all are up by that file", |status| status.all_are("up"));
    stage.storm(&ECHO, 1000).assert_clean(1000);
    write(&stage, good.as_bytes());
    stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();
    assert_eq!(stage.daemon.status().unwrap().config_error, None);
    load.stop().assert_clean(1);
    stage.end();
}

#[test]
fn c4_file_with_little_or_nothing_left_is_not_applied_without_consent() {
    let stage = check_refused([
        vec![],
        b"# all is gone\n".to_vec(),
        b"[daemon]\ninterfaces = [\"eth0\", \"eth1\"]\n".to_vec(),
    ]);
    // One backend of eighteen is left.
    let whole = stage.daemon.config().toml(stage.daemon.home());
    let left = format!(
        "{}[[service]]\nname = \"echo4\"\naddress = \"10.10.0.100\"\nport = 7000\n\
         protocol = \"tcp\"\nforwarding = \"dnat\"\n[service.health]\ntype = \"tcp\"\n\
         [[service.backend]]\nname = \"b2\"\naddress = \"10.10.1.2\"\nport = 7000\n",
        whole.split("[[service]]").next().unwrap()
    );
    write(&stage, left.as_bytes());
    let refused = stage.daemon.cli(&["reload"]).unwrap();
    assert!(refused.stderr.contains("--allow-shrink"), "{refused:?}");
    assert_eq!(stage.daemon.status().unwrap().services.len(), 6);
    let consent = stage.daemon.cli(&["reload", "--allow-shrink"]).unwrap();
    consent.succeeded().unwrap();
    stage.wait("one service is left", |s| {
        s.services.len() == 1 && s.all_are("up")
    });
    let report = stage.storm(&["echo4"], 500);
    report.assert_clean(500);
    assert_eq!(report.backends().into_keys().collect::<Vec<_>>(), [2]);
    stage.end();
}

/// Operations on maps so far, as a line of the metrics.
fn operations(stage: &Stage) -> String {
    let curl = [
        "curl",
        "-sSf",
        "--max-time",
        "5",
        "http://127.0.0.1:9460/metrics",
    ];
    let metrics = text(&stage.topology, "lb", &curl);
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("fairlead_map_operations_total"));
    line.expect("the metrics count operations on maps")
        .to_owned()
}

#[test]
fn c5_same_services_in_another_order_change_nothing() {
    let mut stage = Stage::new(SHAPES[0]);
    let before = stage.daemon.status().unwrap().config_revision;
    let written = operations(&stage);
    let load = stage.load(&ECHO, 1000);
    let mut config = stage.daemon.config().clone();
    config.services.reverse();
    for service in &mut config.services {
        service.backends.reverse();
    }
    stage.daemon.reload(config).unwrap();
    assert_eq!(stage.daemon.status().unwrap().config_revision, before);
    assert_eq!(operations(&stage), written, "no map was written");
    load.stop().assert_clean(1);
    stage.end();
}
