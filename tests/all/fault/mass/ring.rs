//! The ring that packets read, looked at all the time: [`Watch`].

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use bytemuck::Pod;
use lb_common::{ServiceEntry, header::LAYOUT_VERSION};
use lb_tests::daemon::Daemon;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{PATIENCE, SERVICE};

/// An array of the data plane in our own memory, to be read while others write.
struct Shared {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
}

// SAFETY: a mapping belongs to no thread, and is only read.
unsafe impl Send for Shared {}

impl Shared {
    fn of(daemon: &Daemon, name: &str) -> Self {
        let map =
            MapData::from_pin(daemon.home().join(format!("bpf/v{LAYOUT_VERSION}/{name}"))).unwrap();
        let info = map.info().unwrap();
        let bytes = info.value_size() as usize * info.max_entries() as usize;
        let bytes = NonZeroUsize::new(bytes).unwrap();
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe {
            let (read, shared) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
            mmap(None, bytes, read, shared, map.fd(), 0).unwrap()
        };
        Self { start, bytes }
    }

    /// The value of this number.
    fn get<T: Pod>(&self, number: usize) -> T {
        assert!((number + 1) * size_of::<T>() <= self.bytes.get());
        // SAFETY: within the mapping, as was just seen; values are aligned, and any bytes are one.
        unsafe { self.start.cast::<T>().add(number).read_volatile() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it.
        unsafe { munmap(self.start, self.bytes.get()) }.unwrap();
    }
}

/// What was seen of the ring that packets read.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// Rings that were in force.
    pub(super) rings: usize,
    /// Slots of each backend in the last one, by BackendId.
    pub(super) slots: Vec<u32>,
    /// The most slots that anybody ever had.
    pub(super) most: u32,
    /// How often each came into the ring or left it.
    pub(super) turns: Vec<u32>,
}

impl Seen {
    fn note(&mut self, slots: Vec<u32>) {
        if self.rings > 0 {
            for ((turns, now), before) in self.turns.iter_mut().zip(&slots).zip(&self.slots) {
                *turns += u32::from((*now > 0) != (*before > 0));
            }
        }
        self.rings += 1;
        self.most = self.most.max(slots.iter().copied().max().unwrap());
        self.slots = slots;
    }

    /// Backends that have slots.
    fn serving(&self) -> usize {
        self.slots.iter().filter(|slots| **slots > 0).count()
    }
}

/// Looks at the ring all the time.
pub(super) struct Watch {
    done: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(daemon: &Daemon) -> Self {
        let (services, rings) = (Shared::of(daemon, "services"), Shared::of(daemon, "rings"));
        let ids = 1 + daemon
            .status()
            .unwrap()
            .service(SERVICE)
            .unwrap()
            .backends
            .iter()
            .map(|b| b.id)
            .max()
            .unwrap() as usize;
        let used = |n: &usize| services.get::<ServiceEntry>(*n).used == 1;
        let service = (0..).find(used).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let first = Seen {
            turns: vec![0; ids],
            ..Seen::default()
        };
        let seen = Arc::new(Mutex::new(first));
        let (told, shown) = (done.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let ring = || services.get::<ServiceEntry>(service).ring;
            let mut last = 0;
            while !told.load(SeqCst) {
                let word = ring();
                if word == last {
                    std::thread::sleep(Duration::from_micros(500));
                    continue;
                }
                let (base, length) = ServiceEntry::unslice(word);
                let mut slots = vec![0; ids];
                for slot in base..base + length {
                    slots[rings.get::<u32>(slot as usize) as usize] += 1;
                }
                // Else it was written anew while it was read.
                if ring() == word {
                    shown.lock().unwrap().note(slots);
                    last = word;
                }
            }
        });
        Self {
            done,
            seen,
            thread: Some(thread),
        }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until so many backends have slots, and gives how long that took.
    #[track_caller]
    pub(super) fn wait(&self, daemon: &Daemon, serving: usize) -> Duration {
        let began = Instant::now();
        while self.seen().serving() != serving {
            let late = began.elapsed() > PATIENCE;
            assert!(
                !late,
                "{} have slots\n{}",
                self.seen().serving(),
                daemon.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, SeqCst);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}
