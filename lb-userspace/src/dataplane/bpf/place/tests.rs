//! Which directories may hold pins, and which may not.

use super::*;

fn at(path: &str, uid: u32, mode: u32, bpffs: bool) -> Component {
    Component {
        path: path.into(),
        uid,
        mode,
        directory: true,
        bpffs,
    }
}

fn own_mount() -> Vec<Component> {
    vec![
        at("/", 0, 0o755, false),
        at("/run", 0, 0o755, false),
        at("/run/fairlead", 0, 0o700, true),
    ]
}

/// `expected`: the component that is refused and words of the reason.
#[track_caller]
fn check(components: &[Component], expected: Option<(&str, &str)>) {
    match (check_path(components), expected) {
        (Ok(()), None) => {}
        (Err(BpfError::UnsafePath { path, why, hint }), Some((place, words))) => {
            assert_eq!(path, Path::new(place));
            assert!(why.contains(words), "{why}");
            assert!(hint.contains("daemon.bpffs"), "{hint}");
        }
        (found, expected) => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn a_path_that_only_root_can_write_to_is_taken() {
    check(&own_mount(), None);
    check(
        &[at("/", 0, 0o755, false), at("/sys/fs/bpf", 0, 0o755, true)],
        None,
    );
}

#[test]
fn a_sticky_directory_of_root_is_tolerated_outside_of_bpffs_only() {
    let under_tmp = |bpffs| {
        vec![
            at("/", 0, 0o755, false),
            at("/tmp", 0, 0o1777, bpffs),
            at("/tmp/x", 0, 0o700, true),
        ]
    };
    check(&under_tmp(false), None);
    check(&under_tmp(true), Some(("/tmp", "mode 1777")));
}

#[test]
fn a_plain_bpffs_is_refused() {
    check(
        &[at("/", 0, 0o755, false), at("/sys/fs/bpf", 0, 0o1777, true)],
        Some(("/sys/fs/bpf", "mode 1777")),
    );
}

#[test]
fn a_path_through_somebody_elses_directory_is_refused() {
    let mut path = own_mount();
    path[1].uid = 1000;
    check(&path, Some(("/run", "uid 1000")));
    let mut path = own_mount();
    path[2].uid = 65534;
    check(&path, Some(("/run/fairlead", "uid 65534")));
}

#[test]
fn a_path_through_a_directory_that_others_may_write_to_is_refused() {
    for mode in [0o777, 0o775, 0o722, 0o702] {
        let mut path = own_mount();
        path[1].mode = mode;
        check(&path, Some(("/run", "lets others write")));
        let mut path = own_mount();
        path[2].mode = mode;
        check(&path, Some(("/run/fairlead", "lets others write")));
    }
}

#[test]
fn a_path_through_a_file_is_refused() {
    let mut path = own_mount();
    path[2].directory = false;
    check(&path, Some(("/run/fairlead", "not a directory")));
}

#[test]
fn names_of_link_pins_have_no_dots_and_can_be_read_back() {
    for interface in [
        "eth0", "eth0.100", "a%b", "a%2eb", "%25", "wlan-0", "br.1.2",
    ] {
        let pin = link_pin(interface);
        assert!(!pin.contains('.'), "{pin}");
        assert_eq!(interface_of(&pin).as_deref(), Some(interface));
    }
    assert_eq!(interface_of("program"), None);
}

#[test]
fn our_own_mount_is_told_from_others() {
    let table = "\
22 1 0:20 / /sys rw shared:7 - sysfs sysfs rw
30 22 0:27 / /sys/fs/bpf rw shared:9 - bpf bpf rw,mode=700
41 1 0:40 / /run/fairlead rw,nosuid - bpf fairlead rw,mode=700
42 1 0:41 / /run/other rw - bpf fairlead rw
43 1 0:42 / /run/other rw - bpf bpf rw
";
    for (path, expected) in [
        ("/run/fairlead", true),
        ("/sys/fs/bpf", false),
        ("/run/other", false),
        ("/run", false),
    ] {
        assert_eq!(mounted_by_us(table, Path::new(path)), expected, "{path}");
    }
}
