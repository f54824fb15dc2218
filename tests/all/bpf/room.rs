//! A network and a mount namespace for one test, in a thread of its own: links, mounts and pins
//! disappear with the thread, whatever happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, MapData};
use lb_common::{HashKey, header::LAYOUT_VERSION};
use lb_tests::topology::require_root;
use lb_userspace::dataplane::bpf::{Bpf, BpfError, Opening, Settings, unload};
use lb_userspace::embedded;
use lb_userspace::model::Limits;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{LinkUnspec, LinkVeth};

/// Small, so that a test takes milliseconds.
pub const LIMITS: Limits = Limits {
    flows: 1 << 12,
    services: 8,
    backends: 32,
    ring_slots: 1 << 10,
    next_hops: 16,
    source_ranges: 16,
    nat_flows: 64,
    affinities: 64,
};

/// Directories of rooms: this, the pid, and a number.
const DIR: &str = "/tmp/fairlead-bpf-";

/// Where a test lives.
pub struct Room {
    dir: PathBuf,
}

struct Remove<'a>(&'a Path);

impl Drop for Remove<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

/// Removes what a test run that was killed has left: plain directories, as its mounts died with it.
fn sweep() {
    let (parent, prefix) = DIR.rsplit_once('/').unwrap();
    for entry in fs::read_dir(parent).unwrap().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs a test in a room with the veth pair `v0` (ours) and `v1` (the world).
pub fn in_room(work: impl FnOnce(&Room) + Send) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    require_root().unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    sweep();
    let dir = PathBuf::from(format!("{DIR}{}-{number}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let remove = Remove(&dir);
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
                // What others unmount goes here too; what is mounted here stays here.
                let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
                mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).unwrap();
                // Otherwise the kernel itself sends router solicitations, which would be counted.
                fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
                let room = Room { dir: dir.clone() };
                room.add_veth();
                work(&room);
            })
            .join()
    });
    drop(remove);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn netlink<R>(work: impl AsyncFnOnce(rtnetlink::Handle) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

/// The index of an interface in this namespace.
pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

impl Room {
    /// The directory for pins.
    pub fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The directory for the lock.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// A directory of this test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pins of our layout.
    pub fn pins(&self) -> PathBuf {
        self.bpffs().join(format!("v{LAYOUT_VERSION}"))
    }

    pub fn settings(&self) -> Settings {
        Settings {
            bpffs: self.bpffs(),
            run_dir: self.run_dir(),
            limits: LIMITS,
            flow_key: HashKey([3, 5]),
            seed_id: 7,
            debug_log: false,
            object: embedded::OBJECT,
        }
    }

    #[track_caller]
    pub fn open(&self) -> (Bpf, Opening) {
        Bpf::open(&self.settings()).unwrap()
    }

    #[track_caller]
    pub fn refused(&self) -> BpfError {
        Bpf::open(&self.settings()).unwrap_err()
    }

    pub fn unload(&self) -> Result<bool, BpfError> {
        unload(&self.bpffs(), Some(&self.run_dir()), None)
    }

    /// Makes `v0` and `v1`, up.
    pub fn add_veth(&self) {
        netlink(async |handle| {
            let pair = LinkVeth::new("v0", "v1").build();
            handle.link().add(pair).execute().await.unwrap();
            for name in ["v0", "v1"] {
                let up = LinkUnspec::new_with_name(name).up().build();
                handle.link().set(up).execute().await.unwrap();
            }
        });
    }

    /// Deletes `v0` and so `v1`.
    pub fn delete_veth(&self) {
        let index = ifindex("v0");
        netlink(async |handle| handle.link().del(index).execute().await.unwrap());
    }

    /// Renames an interface, which is down meanwhile: before Linux 6.2 it must be.
    pub fn rename(&self, old: &str, new: &str) {
        let index = ifindex(old);
        netlink(async |handle| {
            let link = || LinkUnspec::new_with_index(index);
            for change in [link().down(), link().name(new), link().up()] {
                handle.link().set(change.build()).execute().await.unwrap();
            }
        });
    }

    /// Changes an entry of a pinned map, as a bug or a person would.
    #[track_caller]
    pub fn poke<const N: usize>(&self, map: &str, index: u32, change: impl FnOnce(&mut [u8; N])) {
        poke(&self.pins(), map, index, change);
    }
}

/// Changes an entry of a pinned map, as a bug or a person would.
#[track_caller]
pub(crate) fn poke<const N: usize>(
    pins: &Path,
    map: &str,
    index: u32,
    change: impl FnOnce(&mut [u8; N]),
) {
    let data = MapData::from_pin(pins.join(map)).unwrap();
    let mut array: Array<_, [u8; N]> = aya::maps::Map::Array(data).try_into().unwrap();
    let mut bytes = array.get(&index, 0).unwrap();
    change(&mut bytes);
    array.set(index, bytes, 0).unwrap();
}
