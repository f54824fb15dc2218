//! Links on interfaces: kept, replaced, lost and renewed.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_userspace::dataplane::bpf::{
    AttachedHow, Attachment, AttachmentState, Bpf, BpfError, Settings,
};
use lb_userspace::model::{AttachMode, XdpMode};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::room::{Room, ifindex, in_room};
use super::writes::prepare;

#[track_caller]
fn check(bpf: &Bpf, interface: &str, state: AttachmentState, mode: Option<AttachMode>) {
    let expected = Attachment {
        interface: interface.into(),
        ifindex: nix::net::if_::if_nametoindex(interface).ok(),
        mode,
        state,
    };
    let found = bpf.attachments().unwrap();
    assert!(
        found.contains(&expected),
        "{found:?}, expected {expected:?}"
    );
}

#[test]
fn several_interfaces_are_attached_each_in_its_mode() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let native = bpf.attach("v0", XdpMode::Native).unwrap();
        assert_eq!(native.how, AttachedHow::New);
        assert_eq!(native.mode, AttachMode::Native);
        assert_eq!(native.ifindex, ifindex("v0"));
        assert_eq!(native.native_refused, None);
        let generic = bpf.attach("v1", XdpMode::Generic).unwrap();
        assert_eq!(generic.mode, AttachMode::Generic);
        check(
            &bpf,
            "v0",
            AttachmentState::Attached,
            Some(AttachMode::Native),
        );
        check(
            &bpf,
            "v1",
            AttachmentState::Attached,
            Some(AttachMode::Generic),
        );
        assert_eq!(bpf.pinned_interfaces().unwrap(), ["v0", "v1"]);
        bpf.detach("v1").unwrap();
        assert_eq!(bpf.pinned_interfaces().unwrap(), ["v0"]);
        let again = bpf.attach("v1", XdpMode::Native).unwrap();
        assert_eq!(again.mode, AttachMode::Native);
    });
}

#[test]
fn generic_mode_is_a_fallback_only_when_asked_and_is_told() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        // Loopback has no native XDP.
        let error = bpf.attach("lo", XdpMode::Native).unwrap_err();
        assert!(matches!(error, BpfError::NoNative { .. }), "{error}");
        assert!(error.to_string().contains("generic"), "{error}");
        assert_eq!(bpf.pinned_interfaces().unwrap(), Vec::<String>::new());
        let attached = bpf.attach("lo", XdpMode::NativeOrGeneric).unwrap();
        assert_eq!(attached.mode, AttachMode::Generic);
        assert!(attached.native_refused.is_some());
        let attached = bpf.attach("v0", XdpMode::NativeOrGeneric).unwrap();
        assert_eq!(attached.mode, AttachMode::Native);
        assert_eq!(attached.native_refused, None);
    });
}

#[test]
fn a_foreign_program_is_not_touched_and_named() {
    in_room(|room| {
        prepare(room);
        let (mut ours, _) = room.open();
        let elsewhere = Settings {
            bpffs: room.dir().join("bpf2"),
            run_dir: room.dir().join("run2"),
            ..room.settings()
        };
        let (mut foreign, _) = Bpf::open(&elsewhere).unwrap();
        for (mode, off) in [
            (XdpMode::Native, "xdp off"),
            (XdpMode::Generic, "xdpgeneric off"),
        ] {
            foreign.attach("v0", mode).unwrap();
            for mine in [XdpMode::Native, XdpMode::Generic, XdpMode::NativeOrGeneric] {
                let error = ours.attach("v0", mine).unwrap_err();
                assert!(matches!(error, BpfError::Busy { .. }), "{error}");
                let text = error.to_string();
                let id = foreign.program().id();
                assert!(text.contains(&format!("XDP program {id} ")), "{text}");
                assert!(text.contains(off), "{text}");
                assert_eq!(ours.pinned_interfaces().unwrap(), Vec::<String>::new());
                check(&ours, "v0", AttachmentState::Defunct, None);
            }
            foreign.detach("v0").unwrap();
        }
        ours.attach("v0", XdpMode::Native).unwrap();
    });
}

#[test]
fn a_mode_that_cannot_be_had_is_left_alone_until_it_is_asked_for_anew() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        for interface in ["lo", "v0"] {
            bpf.attach(interface, XdpMode::Generic).unwrap();
        }
        let error = bpf.change_mode("lo", XdpMode::Native).unwrap_err();
        assert!(matches!(error, BpfError::ModeKept { .. }), "{error}");
        for interface in ["lo", "v0"] {
            let resumed = bpf.resume(interface, XdpMode::Native).unwrap();
            assert_eq!(resumed.how, AttachedHow::Kept, "{interface}");
            assert_eq!(resumed.mode, AttachMode::Generic, "{interface}");
            assert_eq!(resumed.gap, None, "{interface}");
        }
        room.delete_veth();
        let error = bpf.change_mode("v0", XdpMode::Native).unwrap_err();
        assert!(matches!(error, BpfError::NoInterface { .. }), "{error}");
        bpf.set_wanted_mode("v0", XdpMode::Generic);
        room.add_veth();
        let again = bpf.reattach("v0").unwrap().unwrap();
        assert_eq!(again.mode, AttachMode::Generic);
    });
}

#[test]
fn an_interface_that_cannot_be_left_is_ours_until_it_can() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        let writable = |yes| {
            let only = match yes {
                true => MsFlags::empty(),
                false => MsFlags::MS_RDONLY,
            };
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | only;
            mount(
                None::<&str>,
                &room.bpffs(),
                None::<&str>,
                flags,
                None::<&str>,
            )
            .unwrap();
        };
        writable(false);
        bpf.detach("v0").unwrap_err();
        // Off the interface, but the pin stays.
        check(&bpf, "v0", AttachmentState::Defunct, None);
        writable(true);
        assert!(!bpf.detach("v0").unwrap());
        assert_eq!(bpf.attachments().unwrap(), []);
        assert_eq!(bpf.pinned_interfaces().unwrap(), Vec::<String>::new());
    });
}

#[test]
fn a_device_that_is_deleted_and_made_again_is_attached_anew() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        assert_eq!(bpf.reattach("v0").unwrap().unwrap().how, AttachedHow::Kept);
        assert_eq!(bpf.reattach("eth7").unwrap(), None);
        for _ in 0..3 {
            room.delete_veth();
            check(&bpf, "v0", AttachmentState::Missing, None);
            let error = bpf.reattach("v0").unwrap_err();
            assert!(matches!(error, BpfError::NoInterface { .. }), "{error}");
            room.add_veth();
            check(&bpf, "v0", AttachmentState::Defunct, None);
            let began = Instant::now();
            let attached = bpf.reattach("v0").unwrap().unwrap();
            let took = began.elapsed();
            assert_eq!(attached.how, AttachedHow::Renewed);
            assert!(took < Duration::from_millis(50), "{took:?}");
            check(
                &bpf,
                "v0",
                AttachmentState::Attached,
                Some(AttachMode::Native),
            );
        }
        // The same, found by the next daemon.
        drop(bpf);
        room.delete_veth();
        room.add_veth();
        let (mut bpf, _) = room.open();
        let attached = bpf.attach("v0", XdpMode::Native).unwrap();
        assert_eq!(attached.how, AttachedHow::Renewed);
    });
}

#[test]
fn an_interface_that_is_not_there_yet_is_attached_when_it_appears() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        room.delete_veth();
        let error = bpf.attach("v0", XdpMode::Native).unwrap_err();
        assert!(matches!(error, BpfError::NoInterface { .. }), "{error}");
        check(&bpf, "v0", AttachmentState::Missing, None);
        room.add_veth();
        let attached = bpf.reattach("v0").unwrap().unwrap();
        assert_eq!(attached.how, AttachedHow::New);
    });
}

#[test]
fn the_program_follows_the_name_when_a_device_is_renamed() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        room.rename("v0", "old0");
        check(&bpf, "v0", AttachmentState::Missing, None);
        room.rename("v1", "v0");
        check(&bpf, "v0", AttachmentState::Defunct, None);
        let attached = bpf.reattach("v0").unwrap().unwrap();
        assert_eq!(attached.ifindex, ifindex("v0"));
        // The other one is free again.
        bpf.attach("old0", XdpMode::Native).unwrap();
    });
}

#[test]
fn names_with_dots_have_links_too() {
    in_room(|room| {
        prepare(room);
        room.rename("v0", "v0.100");
        let (mut bpf, _) = room.open();
        bpf.attach("v0.100", XdpMode::Native).unwrap();
        assert_eq!(bpf.pinned_interfaces().unwrap(), ["v0.100"]);
        drop(bpf);
        let (mut bpf, _) = room.open();
        let attached = bpf.attach("v0.100", XdpMode::Native).unwrap();
        assert_eq!(attached.how, AttachedHow::Kept);
    });
}

/// Sends frames of an EtherType for local experiments out of an interface.
struct Sender(std::os::fd::OwnedFd, u32);

impl Sender {
    fn new(interface: &str) -> Self {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None::<SockProtocol>,
        )
        .unwrap();
        Self(fd, ifindex(interface))
    }

    /// Sends an ICMP message (RFC 791, RFC 792) that is nobody's, which is not the usual packet: both programs see it.
    fn send(&self) {
        let mut frame = [0_u8; 64];
        frame[..6].fill(2);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..34].copy_from_slice(&[
            0x45, 0, 0, 50, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ]);
        frame[34] = 8;
        // SAFETY: all zero is a value of this plain structure.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = i32::try_from(self.1).unwrap();
        to.sll_halen = 6;
        // SAFETY: frame and address live through the call, and their sizes are given.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of_val(&to) as libc::socklen_t,
            )
        };
        assert_eq!(sent, 64, "{}", std::io::Error::last_os_error());
    }
}

/// Raises a flag when it goes out of scope.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn swap(room: &Room, debug_log: bool) {
    let settings = Settings {
        debug_log,
        ..room.settings()
    };
    let (mut bpf, _) = Bpf::open(&settings).unwrap();
    let attached = bpf.attach("v0", XdpMode::Native).unwrap();
    assert_eq!(attached.how, AttachedHow::Replaced);
}

#[test]
fn a_newer_program_takes_over_without_losing_a_packet() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        let reader = bpf.reader();
        drop(bpf);
        let sender = Sender::new("v1");
        let rx = || reader.totals().global[0];
        let before = rx();
        let stop = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            // Threads are born in the namespaces of this one. Bounded by what has arrived, so that no
            // queue overflows: only a lost packet can stop it.
            let sending = scope.spawn(|| {
                let mut sent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..32 {
                        sender.send();
                        sent += 1;
                    }
                    let deadline = Instant::now() + Duration::from_secs(5);
                    while rx() - before < sent {
                        assert!(
                            Instant::now() < deadline,
                            "of {sent} came {}",
                            rx() - before
                        );
                        std::thread::yield_now();
                    }
                }
                sent
            });
            // Also when a swap fails, or the sender would never end.
            let end = Raise(&stop);
            for n in 0..10 {
                swap(room, n % 2 == 0);
            }
            drop(end);
            sending.join().unwrap()
        });
        assert!(sent > 1000, "only {sent} packets were sent");
        assert_eq!(rx() - before, sent);
        let totals = reader.totals();
        assert_eq!(totals.global[0], totals.global[1], "all were passed");
        let asides = fs::read_dir(room.pins()).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("asides-")
        });
        assert_eq!(asides.count(), 1, "of the program that runs");
    });
}

#[test]
fn a_pin_that_is_no_link_is_refused_and_kept() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        let pin = room.pins().join("link-v0");
        fs::rename(room.pins().join("rings"), &pin).unwrap();
        let error = bpf.attach("v0", XdpMode::Native).unwrap_err();
        assert!(error.to_string().contains("link-v0"), "{error}");
        assert!(pin.exists());
    });
}
