//! The programs for checks on interfaces, held by links and, as on kernels before 6.6, by filters.

use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_userspace::dataplane::bpf::probe::{Holder, ProbePrograms, clear};
use lb_userspace::embedded;

use super::room::in_room;

const FIRST: u32 = 0x4600_0000;

fn load(holder: Holder) -> ProbePrograms {
    ProbePrograms::load(embedded::PROBE, FIRST, holder).unwrap()
}

fn tc(arguments: &[&str]) -> String {
    let output = Command::new("tc").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Filters of ours at both ends of `v0`.
fn filters() -> usize {
    let shown = ["ingress", "egress"].map(|end| tc(&["filter", "show", "dev", "v0", end]));
    let shown = shown.concat();
    let ours = |line: &&str| line.contains("fairlead_probe_") && line.contains("direct-action");
    shown.lines().filter(ours).count()
}

fn has_clsact() -> bool {
    tc(&["qdisc", "show", "dev", "v0"]).contains("clsact")
}

#[test]
fn filters_of_a_killed_daemon_are_replaced_and_none_is_left_in_the_end() {
    in_room(|_| {
        let wanted = ["v0".to_owned(), "nowhere".to_owned()];
        let mut first = load(Holder::Clsact);
        assert!(first.keep_on(&wanted).is_empty());
        assert_eq!(filters(), 2);
        // As after SIGKILL: nobody takes them away.
        std::mem::forget(first);
        let mut second = load(Holder::Clsact);
        assert!(second.keep_on(&wanted).is_empty());
        assert_eq!(filters(), 2);
        drop(second);
        assert!(!has_clsact());

        let mut third = load(Holder::Clsact);
        assert!(third.keep_on(&wanted).is_empty());
        std::mem::forget(third);
        clear("v0").unwrap();
        assert!(!has_clsact());

        // What is not ours stays.
        tc(&["qdisc", "add", "dev", "v0", "clsact"]);
        clear("v0").unwrap();
        assert!(has_clsact());
    });
}

#[test]
fn links_go_with_the_daemon_and_when_an_interface_is_no_longer_named() {
    in_room(|_| {
        let programs = |interface| {
            let ends = [TcAttachType::Egress, TcAttachType::Ingress];
            ends.map(|end| SchedClassifier::query_tcx(interface, end).unwrap().1.len())
        };
        // A process that another test has just started may still hold a descriptor of a link, until it runs its program.
        let comes_to = |expected: ([usize; 2], [usize; 2])| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while (programs("v0"), programs("v1")) != expected && Instant::now() < deadline {
                std::thread::yield_now();
            }
            assert_eq!((programs("v0"), programs("v1")), expected);
        };
        let mut ours = load(Holder::Tcx);
        let both = ["v0".to_owned(), "v1".to_owned()];
        assert!(ours.keep_on(&both).is_empty());
        assert!(ours.keep_on(&both).is_empty());
        assert_eq!((programs("v0"), programs("v1")), ([1, 1], [1, 1]));
        assert!(ours.keep_on(&both[..1]).is_empty());
        comes_to(([1, 1], [0, 0]));
        drop(ours);
        comes_to(([0, 0], [0, 0]));
        assert!(!has_clsact());
    });
}
