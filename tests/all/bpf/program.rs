//! The program itself: what it logs, what the verifier refuses, and what a binary without one says.

use std::sync::{Arc, Mutex};

use lb_userspace::dataplane::Dataplane;
use lb_userspace::dataplane::bpf::{Bpf, BpfError, Opening, ProgramOptions, Settings};
use lb_userspace::model::XdpMode;

use super::adoption::names;
use super::room::in_room;
use super::writes::prepare;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_program_logs_when_asked_and_only_then() {
    in_room(|room| {
        prepare(room);
        let (mut bpf, _) = room.open();
        assert!(bpf.take_debug_log().is_none());
        drop(bpf);
        let (mut bpf, opening) = Bpf::open(&Settings {
            debug_log: true,
            ..room.settings()
        })
        .unwrap();
        assert!(
            matches!(
                opening,
                Opening::Adopted {
                    same_program: false,
                    ..
                }
            ),
            "{opening:?}"
        );
        let log = bpf.take_debug_log().unwrap();
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let _default = tracing::subscriber::set_default(subscriber);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let text = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        runtime.block_on(async {
            let forward = tokio::spawn(log.forward());
            bpf.program().test_run(&[0x88; 64], None).unwrap();
            let arrived = async {
                while !text().contains("pass") {
                    tokio::task::yield_now().await;
                }
            };
            let limit = std::time::Duration::from_secs(5);
            tokio::time::timeout(limit, arrived).await.unwrap();
            forward.abort();
        });
        assert!(text().contains("fairlead::bpf"), "{}", text());
    });
}

/// The object with the first instruction of its program replaced by `r0 = r9`: r9 is not set.
pub(crate) fn broken_object(object: &[u8]) -> &'static [u8] {
    let mut bytes = object.to_vec();
    let number = |at: usize, size: usize| {
        let mut value = [0_u8; 8];
        value[..size].copy_from_slice(&object[at..at + size]);
        usize::try_from(u64::from_le_bytes(value)).unwrap()
    };
    // ELF64: e_shoff, e_shentsize, e_shnum, e_shstrndx; sh_name, sh_offset.
    let (table, size) = (number(0x28, 8), number(0x3a, 2));
    let section = |n: usize| table + n * size;
    let names = number(section(number(0x3e, 2)) + 0x18, 8);
    let code = (0..number(0x3c, 2))
        .map(section)
        .find(|&at| object[names + number(at, 4)..].starts_with(b"xdp\0"))
        .map(|at| number(at + 0x18, 8))
        .expect("the object has a section 'xdp'");
    bytes[code..code + 8].copy_from_slice(&[0xbf, 0x90, 0, 0, 0, 0, 0, 0]);
    // The parser wants eight-byte alignment.
    let words: Vec<u64> = bytes
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        })
        .collect();
    &bytemuck::cast_slice(words.leak())[..object.len()]
}

#[test]
fn a_program_that_the_verifier_refuses_leaves_the_old_one_and_shows_the_log() {
    in_room(|room| {
        let broken = Settings {
            object: broken_object(room.settings().object),
            ..room.settings()
        };
        let refused = || {
            let error = Bpf::open(&broken).unwrap_err();
            let BpfError::Refused { log, .. } = &error else {
                panic!("{error}");
            };
            assert!(log.contains("R9 !read_ok"), "{log}");
            assert!(error.to_string().contains("R9 !read_ok"));
        };
        refused();
        assert!(!room.pins().exists(), "nothing is left of it");

        prepare(room);
        let (mut bpf, _) = room.open();
        bpf.attach("v0", XdpMode::Native).unwrap();
        let before = (bpf.actual().unwrap(), bpf.program().id());
        drop(bpf);
        let names_before = names(room);
        refused();
        assert_eq!(names(room), names_before);
        let (mut bpf, opening) = room.open();
        let expected = Opening::Adopted {
            owner_epoch: before.0.header.owner_epoch + 1,
            same_program: true,
            differences: vec![],
        };
        assert_eq!(opening, expected);
        assert_eq!(bpf.program().id(), before.1);
        assert_eq!(bpf.actual().unwrap().image, before.0.image);
    });
}

#[test]
fn a_binary_without_an_object_says_so() {
    in_room(|room| {
        let settings = Settings {
            object: &[],
            ..room.settings()
        };
        let error = Bpf::open(&settings).unwrap_err();
        assert!(matches!(error, BpfError::NotBuilt), "{error}");
    });
}

#[test]
fn a_read_only_program_counts_nothing() {
    in_room(|room| {
        prepare(room);
        let (bpf, _) = room.open();
        let silent = ProgramOptions {
            read_only: true,
            ..ProgramOptions::default()
        };
        // Nobody's ICMP message (RFC 791, RFC 792): both programs see it.
        let mut frame = [2_u8; 64];
        frame[12..34].copy_from_slice(&[
            8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ]);
        frame[34] = 8;
        let reader = bpf.reader();
        let before = reader.totals();
        const PASS: u32 = 2;
        let program = bpf.load_program(silent).unwrap();
        let (verdict, out) = program.test_run(&frame, None).unwrap();
        assert_eq!((verdict, &out[..]), (PASS, &frame[..]));
        assert_eq!(reader.totals(), before);
        let (verdict, _) = bpf.program().test_run(&frame, None).unwrap();
        assert_eq!(verdict, PASS);
        let mut expected = before;
        expected.global[0] += 1;
        expected.global[1] += 1;
        assert_eq!(reader.totals(), expected);
    });
}
