//! A network namespace with a name under /run/netns, so that `ip netns exec NAME` works for a
//! person (ip-netns(8)), and threads that live in it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where iproute2 looks for names.
pub(super) const NAMES: &str = "/run/netns";

/// A namespace; removed when the last handle is dropped.
#[derive(Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    file: File,
}

/// Fails with a way out unless the effective user is root.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the lab and its tests need root: they make network namespaces, links and bpf programs \
             (try: sudo -E cargo xtask ...)"
        );
    }
    Ok(())
}

impl Namespace {
    /// Makes a namespace with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        make_directory_of_names()?;
        let path = path_of(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .with_context(|| format!("create {}: does the namespace exist?", path.display()))?;
        let made = std::thread::scope(|scope| {
            scope
                .spawn(|| make_here(&path))
                .join()
                .expect("a namespace thread panicked")
        });
        let file = made.inspect_err(|_| drop(fs::remove_file(&path)))?;
        let namespace = Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                file,
            }),
        };
        namespace.netlink(async |handle| {
            let up = rtnetlink::LinkUnspec::new_with_name("lo").up().build();
            handle.link().set(up).execute().await.context("set lo up")
        })?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The namespace as a file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inner.file.as_fd()
    }

    /// Tells it from all other namespaces.
    pub fn inode(&self) -> Result<u64> {
        Ok(self
            .inner
            .file
            .metadata()
            .context("stat a network namespace")?
            .ino())
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(self.fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter namespace {}", self.name()))
    }

    /// Runs a closure on a thread of its own inside the namespace.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let caller = std::thread::current().name().unwrap_or("lab").to_owned();
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name(caller)
                .spawn_scoped(scope, || {
                    self.enter().expect("enter a network namespace");
                    work()
                });
            match thread.expect("start a thread").join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a future on a current-thread runtime inside the namespace.
    pub fn block_on<R: Send>(&self, work: impl AsyncFnOnce() -> R + Send) -> R {
        self.run(|| runtime().block_on(work()))
    }

    /// Talks to the namespace's kernel over a netlink connection of its own.
    pub fn netlink<R: Send>(
        &self,
        work: impl AsyncFnOnce(rtnetlink::Handle) -> Result<R> + Send,
    ) -> Result<R> {
        self.block_on(async || {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("open a netlink socket")?;
            let connection = tokio::spawn(connection);
            let result = work(handle).await;
            connection.abort();
            result
        })
    }

    /// Sets a value under /proc/sys, which shows the namespace of the calling thread.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                let path = Path::new("/proc/sys").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("write {value} to {}", path.display()))
            })
        })
    }
}

impl Namespace {
    /// As [`Self::sysctl`], leaving out what this kernel does not have.
    pub fn sysctl_if_known(&self, settings: &[(&str, &str)]) -> Result<()> {
        let known = |(key, _): &&(&str, &str)| Path::new("/proc/sys").join(key).exists();
        let known: Vec<_> = self.run(|| settings.iter().filter(known).copied().collect());
        self.sysctl(&known)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        unname(&path_of(&self.name));
    }
}

/// A runtime for one thread.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a tokio runtime")
}

/// Makes the directory, and a mount of its own that is shared with other mount namespaces, as the first
/// `ip netns add` of a machine does. That command would bind the directory onto itself, and
/// namespaces whose names are below that could be removed by nobody.
fn make_directory_of_names() -> Result<()> {
    fs::create_dir_all(NAMES).with_context(|| format!("create {NAMES}"))?;
    let directory = File::open(NAMES).with_context(|| format!("open {NAMES}"))?;
    // Against others who do the same now; iproute2 takes this lock, too.
    let _lock = Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {NAMES}"))?;
    let share = || {
        mount(
            None::<&str>,
            NAMES,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        // It is no mount.
        Err(Errno::EINVAL) => mount(
            Some(NAMES),
            NAMES,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .and_then(|()| share()),
        other => other,
    }
    .with_context(|| format!("make {NAMES} a shared mount"))
}

fn make_here(path: &Path) -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let own = "/proc/thread-self/ns/net";
    mount(
        Some(own),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("bind the namespace to {}", path.display()))?;
    File::open(path).with_context(|| format!("open {}", path.display()))
}

pub(super) fn path_of(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Takes a name away; the namespace goes with its last process, thread and file.
pub(super) fn unname(path: &Path) {
    // Best effort: a sweep of another process may have been faster.
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    drop(fs::remove_file(path));
}
