//! Creation, adoption, ownership, and the end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use lb_common::header::LAYOUT_VERSION;
use lb_common::{Epoch, FlowRank, FlowWord, HashKey, Header};
use lb_userspace::dataplane::bpf::{Bpf, BpfError, Opening, Settings, unload};
use lb_userspace::dataplane::{Dataplane, DataplaneError, MapOp};
use lb_userspace::model::{Limits, XdpMode};
use nix::mount::{MsFlags, mount};

use super::room::{LIMITS, Room, in_room};
use super::writes::prepare;

pub fn names(room: &Room) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(room.pins())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("object-"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_dropped_data_plane_stays_and_is_adopted_as_it_stands() {
    in_room(|room| {
        let (bpf, opening) = room.open();
        assert_eq!(opening, Opening::Created);
        assert_eq!(bpf.owner_epoch(), 1);
        drop(bpf);
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        let before = bpf.actual().unwrap();
        let program = bpf.program().id();
        // As after kill -9: descriptors are closed and nothing else happens.
        drop(bpf);
        assert_eq!(
            names(room),
            [
                "affinities",
                format!("asides-{program}").as_str(),
                "backends",
                "control",
                "counters",
                "devices",
                "endpoints",
                "flows",
                "fragments",
                "handshakes",
                "header",
                "link-v0",
                "nat_flows",
                "next_hops",
                "program",
                "redirects",
                "return_hops",
                "rings",
                "rules",
                "services",
                "source_ranges",
            ]
        );
        for epoch in before.header.owner_epoch + 1..before.header.owner_epoch + 4 {
            let (mut bpf, opening) = room.open();
            let expected = Opening::Adopted {
                owner_epoch: epoch,
                same_program: true,
                differences: vec![],
            };
            assert_eq!(opening, expected);
            assert_eq!(bpf.program().id(), program);
            let mut actual = bpf.actual().unwrap();
            assert_eq!(actual.header.owner_epoch, epoch);
            actual.header.owner_epoch = before.header.owner_epoch;
            assert_eq!(actual, before);
        }
    });
}

#[test]
fn flows_of_fullnat_outlive_their_daemons() {
    in_room(|room| {
        prepare(room);
        let flow: [u64; 8] = [0x1234_5603_0000_0007, 2, 3, 4, 5, 6, 7, 0];
        let last = LIMITS.nat_flows - 1;
        room.poke("nat_flows", last, |bytes: &mut [u8; 64]| {
            *bytes = bytemuck::cast(flow);
        });
        drop(room.open());
        room.open();
        room.poke("nat_flows", last, |bytes: &mut [u8; 64]| {
            assert_eq!(bytemuck::cast::<_, [u64; 8]>(*bytes), flow);
        });
        let settings = Settings {
            limits: Limits {
                nat_flows: 1 << 10,
                ..LIMITS
            },
            ..room.settings()
        };
        let (bpf, opening) = Bpf::open(&settings).unwrap();
        assert_eq!(bpf.geometry().nat_flows, LIMITS.nat_flows);
        let Opening::Adopted { differences, .. } = opening else {
            panic!("{opening:?}");
        };
        assert_eq!(
            differences,
            ["limits.nat-flows is 1024, the live maps have 64"]
        );
    });
}

#[test]
fn live_maps_keep_their_sizes_and_the_difference_is_told() {
    in_room(|room| {
        prepare(room);
        let settings = Settings {
            limits: Limits {
                backends: 64,
                ..LIMITS
            },
            ..room.settings()
        };
        let (bpf, opening) = Bpf::open(&settings).unwrap();
        assert_eq!(bpf.geometry().backends, 32);
        let Opening::Adopted { differences, .. } = opening else {
            panic!("{opening:?}");
        };
        assert_eq!(
            differences,
            ["limits.backends is 64, the live maps have 32"]
        );
    });
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again_unless_something_is_attached() {
    in_room(|room| {
        room.open();
        let (mut bpf, opening) = room.open();
        assert_eq!(opening, Opening::Recreated);
        bpf.attach("v0", XdpMode::Native).unwrap();
        drop(bpf);
        let (bpf, opening) = room.open();
        assert!(matches!(opening, Opening::Adopted { .. }), "{opening:?}");
        drop(bpf);
        assert!(room.unload().unwrap());

        // Cut short earlier: some pins, and a header that was never written.
        room.open();
        room.poke("header", 0, |bytes: &mut [u8; size_of::<Header>()]| {
            bytes.fill(0)
        });
        fs::remove_file(room.pins().join("rings")).unwrap();
        assert_eq!(room.open().1, Opening::Recreated);
        fs::remove_file(room.pins().join("header")).unwrap();
        assert_eq!(room.open().1, Opening::Recreated);
    });
}

#[test]
fn another_key_is_refused() {
    in_room(|room| {
        prepare(room);
        for (flow_key, seed_id) in [(HashKey([3, 6]), 7), (HashKey([3, 5]), 8)] {
            let error = Bpf::open(&Settings {
                flow_key,
                seed_id,
                ..room.settings()
            })
            .unwrap_err();
            assert!(matches!(error, BpfError::OtherKeys { .. }), "{error}");
            assert!(error.to_string().contains("fairlead unload"), "{error}");
        }
        room.open();
    });
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    in_room(|room| {
        let (_bpf, _) = room.open();
        let pid = format!("pid {}", std::process::id());
        for error in [room.refused(), room.unload().unwrap_err()] {
            let BpfError::Locked { holder, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*holder, pid);
        }
    });
}

#[test]
fn a_paused_daemon_that_wakes_after_a_takeover_writes_nothing() {
    in_room(|room| {
        prepare(room);
        let (mut old, _) = room.open();
        // The lock does not help: its directory was taken away.
        let settings = Settings {
            run_dir: room.dir().join("run2"),
            ..room.settings()
        };
        let (mut new, _) = Bpf::open(&settings).unwrap();
        let before = new.actual().unwrap();
        for ops in [&[][..], &[MapOp::SetRevision { revision: 1 }]] {
            let error = old.apply(ops).unwrap_err();
            assert!(
                matches!(error, DataplaneError::Fenced { ours, theirs } if theirs == ours + 1),
                "{error}"
            );
        }
        for error in [
            old.attach("v0", XdpMode::Native).unwrap_err(),
            old.detach("v0").unwrap_err(),
            old.repin().unwrap_err(),
        ] {
            assert!(matches!(error, BpfError::Fenced { .. }), "{error}");
        }
        let word = FlowWord::new(1, 2, FlowRank::Proven, Epoch(0));
        room.poke("flows", 0, |bytes: &mut [u8; 64]| {
            bytes[..8].copy_from_slice(&word.0.to_ne_bytes());
        });
        let forget = || BTreeSet::from([2]);
        let mut sweep = old.reader().sweep(forget());
        assert_eq!(sweep.slice(Epoch(0), u32::MAX).unwrap().freed, 0);
        assert_eq!(new.actual().unwrap(), before);
        new.apply(&[MapOp::SetRevision { revision: 1 }]).unwrap();
        let mut sweep = new.reader().sweep(forget());
        assert_eq!(sweep.slice(Epoch(0), u32::MAX).unwrap().freed, 1);
    });
}

#[test]
fn a_bpffs_that_others_can_write_to_is_refused() {
    in_room(|room| {
        let path = room.bpffs();
        fs::create_dir(&path).unwrap();
        mount(
            Some("bpf"),
            &path,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o1777, "a plain bpffs is open to all");
        let error = room.refused();
        assert!(matches!(error, BpfError::UnsafePath { .. }), "{error}");
        assert!(error.to_string().contains("mode 1777"), "{error}");

        // Squatted: the directory is there, and is somebody else's.
        let squatted = path.join("fairlead");
        fs::create_dir(&squatted).unwrap();
        chown(&squatted, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let settings = Settings {
            bpffs: squatted.clone(),
            ..room.settings()
        };
        let error = Bpf::open(&settings).unwrap_err();
        assert!(error.to_string().contains("uid 65534"), "{error}");
        assert!(fs::read_dir(&squatted).unwrap().next().is_none());
        chown(&squatted, Some(0), Some(0)).unwrap();
        Bpf::open(&settings).unwrap();
    });
}

#[test]
fn a_directory_that_is_in_use_is_not_covered_by_a_mount() {
    in_room(|room| {
        fs::create_dir(room.bpffs()).unwrap();
        fs::write(room.bpffs().join("file"), "x").unwrap();
        let error = room.refused();
        assert!(
            error.to_string().contains("neither a bpffs nor empty"),
            "{error}"
        );
    });
}

#[test]
fn another_layout_is_refused_and_can_be_unloaded_by_number() {
    const NEXT: u32 = LAYOUT_VERSION + 1;
    in_room(|room| {
        prepare(room);
        let foreign = room.bpffs().join(format!("v{NEXT}"));
        fs::create_dir_all(foreign.join("maps")).unwrap();
        let error = room.refused();
        let BpfError::ForeignLayout {
            found: NEXT,
            known: LAYOUT_VERSION,
            ..
        } = error
        else {
            panic!("{error}");
        };
        let cure = format!("fairlead unload --layout {NEXT}");
        assert!(error.to_string().contains(&cure), "{error}");
        assert!(unload(&room.bpffs(), Some(&room.run_dir()), Some(NEXT)).unwrap());
        room.open();
        assert!(!unload(&room.bpffs(), Some(&room.run_dir()), Some(NEXT)).unwrap());
    });
}

#[test]
fn unload_leaves_nothing() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        bpf.attach("lo", XdpMode::Generic).unwrap();
        drop(bpf);
        assert!(room.unload().unwrap());
        assert!(
            !room.bpffs().exists(),
            "the mount and its directory are gone"
        );
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(room.dir().to_str().unwrap()), "{mounts}");
        assert!(!room.unload().unwrap(), "nothing is left to take away");

        // The interfaces are free, or this would be refused.
        let (mut bpf, opening) = room.open();
        assert_eq!(opening, Opening::Created);
        bpf.attach("v0", XdpMode::Native).unwrap();
        bpf.attach("lo", XdpMode::Generic).unwrap();
    });
}

#[test]
fn unload_of_one_directory_leaves_the_rest_of_a_bpffs() {
    in_room(|room| {
        let path = room.bpffs();
        fs::create_dir(&path).unwrap();
        let mode = Some("mode=0700");
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), mode).unwrap();
        let settings = Settings {
            bpffs: path.join("fairlead"),
            ..room.settings()
        };
        Bpf::open(&settings).unwrap();
        assert!(unload(&settings.bpffs, Some(&settings.run_dir), None).unwrap());
        assert!(!settings.bpffs.exists());
        fs::create_dir(path.join("still-a-bpffs")).unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(mounts.contains(path.to_str().unwrap()), "{mounts}");
    });
}

#[test]
fn a_bpffs_is_mounted_at_the_usual_place_if_there_is_none() {
    in_room(|room| {
        // A sysfs without a bpffs on it, whatever this machine has there.
        let flags = MsFlags::empty();
        mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>).unwrap();
        let settings = Settings {
            bpffs: "/sys/fs/bpf/fairlead".into(),
            ..room.settings()
        };
        let mounted = || {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            mounts.contains(" /sys/fs/bpf rw,nosuid,nodev,noexec,relatime - bpf fairlead ")
        };
        let (bpf, _) = Bpf::open(&settings).unwrap();
        assert!(mounted());
        assert_eq!(
            bpf.directory(),
            Path::new("/sys/fs/bpf/fairlead").join(format!("v{LAYOUT_VERSION}"))
        );
        drop(bpf);
        assert!(unload(&settings.bpffs, Some(&settings.run_dir), None).unwrap());
        assert!(!mounted());
    });
}

#[test]
fn what_was_unpinned_is_pinned_again() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        assert_eq!(bpf.repin().unwrap(), Vec::<String>::new());
        for name in ["flows", "program", "link-v0"] {
            fs::remove_file(room.pins().join(name)).unwrap();
        }
        assert_eq!(bpf.repin().unwrap(), ["flows", "program", "link-v0"]);
        let before = bpf.actual().unwrap();
        drop(bpf);
        let (mut bpf, _) = room.open();
        assert_eq!(bpf.actual().unwrap().image, before.image);
    });
}

#[test]
fn missing_capabilities_are_named_before_anything_is_touched() {
    in_room(|room| {
        // struct __user_cap_header_struct and __user_cap_data_struct of capget(2), version 3.
        let header = [0x2008_0522_u32, 0];
        let none = [0_u32; 6];
        // SAFETY: both arrays have the layout that the version in the header announces; only
        // this thread, which ends with the test, loses its capabilities.
        let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
        assert_eq!(result, 0);
        let text = room.refused().to_string();
        assert!(text.contains("CAP_BPF CAP_NET_ADMIN CAP_PERFMON"), "{text}");
        assert!(!room.bpffs().exists() && !room.run_dir().exists());
    });
}
