//! What the kernel holds for us is not what we wrote, or it refuses what we bring.

use std::mem::offset_of;
use std::time::Duration;

use lb_common::{BackendEntry, Header, NextHop, ServiceEntry};
use lb_tests::load::Long;
use lb_userspace::dataplane::bpf::BpfError;
use lb_userspace::embedded;

use crate::bpf::{broken_object, poke};
use crate::stage::{ECHO, SHAPES, Stage, WEB, wait_until};

/// Changes one byte of an entry that no packet reads; the start must be refused, with the way out.
#[track_caller]
fn check_refused<const N: usize>(stage: &mut Stage, map: &str, index: u32, offset: usize) {
    let pins = stage.pins();
    let flip = || {
        poke(&pins, map, index, |bytes: &mut [u8; N]| {
            bytes[offset] ^= 0x43
        })
    };
    flip();
    stage.daemon.spawn().unwrap();
    let status = stage
        .daemon
        .process()
        .unwrap()
        .wait(Duration::from_secs(10));
    let what = format!("{map} {index}, byte {offset}: {}", stage.daemon.log());
    let status = status.expect(&what);
    assert!(status.code().is_some_and(|code| code != 0), "{what}");
    let last = what.lines().next_back().unwrap_or_default();
    assert!(last.contains("fairlead unload"), "{what}");
    stage.storm(&ECHO, 500).assert_clean(500);
    flip();
}

#[test]
fn k3_pins_that_nobody_wrote_like_this_are_refused_and_go_on_forwarding() {
    let mut stage = Stage::new(SHAPES[0]);
    let ids = stage.ids();
    stage.daemon.kill().unwrap();
    const HEADER: usize = size_of::<Header>();
    check_refused::<HEADER>(&mut stage, "header", 0, offset_of!(Header, magic));
    check_refused::<HEADER>(&mut stage, "header", 0, offset_of!(Header, layout_version));
    check_refused::<HEADER>(&mut stage, "header", 0, offset_of!(Header, flow_sets));
    check_refused::<HEADER>(&mut stage, "header", 0, offset_of!(Header, reserved));
    check_refused::<64>(
        &mut stage,
        "backends",
        1,
        offset_of!(BackendEntry, reserved),
    );
    check_refused::<64>(
        &mut stage,
        "services",
        1,
        offset_of!(ServiceEntry, reserved2),
    );
    check_refused::<32>(&mut stage, "next_hops", 1, offset_of!(NextHop, reserved));
    stage.daemon.restart().unwrap();
    assert_eq!(stage.ids(), ids);
    stage.storm(&WEB, 1000).assert_clean(1000);
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}

#[test]
fn k4_pins_that_somebody_removed_are_made_again_and_no_packet_is_lost() {
    let stage = Stage::new(SHAPES[0]);
    let load = stage.load(&ECHO, 500);
    let pins = stage.pins();
    let links = std::fs::read_dir(&pins)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("link-"));
    let mut removed: Vec<String> = links.collect();
    assert_eq!(removed.len(), 2, "{removed:?}");
    removed.extend(["program", "flows", "backends"].map(str::to_owned));
    for name in &removed {
        std::fs::remove_file(pins.join(name)).unwrap();
    }
    let took = wait_until("the pins are there", Duration::from_secs(10), || {
        removed.iter().all(|name| pins.join(name).exists())
    });
    println!("pinned again after {took:?}");
    wait_until("it is told", Duration::from_secs(10), || {
        stage.daemon.log().contains("pins were removed by somebody")
    });
    load.stop().assert_clean(1);
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}

#[test]
fn k5_program_that_the_verifier_refuses_leaves_the_old_one_at_work() {
    let mut stage = Stage::new(SHAPES[0]);
    let minute = Duration::from_secs(60);
    let long = Long::start(&stage.topology, &stage.targets(&ECHO), 60, minute).unwrap();
    long.wait_until_established(Duration::from_secs(10))
        .unwrap();
    let load = stage.load(&WEB, 500);
    let ids = stage.ids();
    // An upgrade: the old daemon ends, the new binary brings its program.
    stage.daemon.stop().unwrap();
    match stage.take_over(broken_object(embedded::OBJECT)) {
        Err(BpfError::Refused { log, .. }) => assert!(log.contains("!read_ok"), "{log}"),
        other => panic!("{other:?}"),
    }
    let begun = load.begun();
    wait_until("the load goes on", Duration::from_secs(5), || {
        load.begun() > begun + 200
    });
    stage.daemon.restart().unwrap();
    assert_eq!(stage.ids(), ids);
    load.stop().assert_clean(200);
    let connections = long.stop();
    assert!(
        connections.iter().all(|c| c.failed.is_none()),
        "{connections:?}"
    );
    assert_eq!(stage.retransmissions(), 0);
    stage.end();
}
