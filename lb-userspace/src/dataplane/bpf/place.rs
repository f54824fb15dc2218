//! Where pins live: a directory on a bpffs that nobody but root can write to.
//!
//! A plain `mount -t bpf` has mode 01777: any user may create a directory there first, wait until
//! root pins into it, and unlink the pins, which ends forwarding. So every component of the path is
//! looked at, and where there is no bpffs we mount one of our own with mode 0700.
//!
//! Below it stands one directory a map layout, `v<N>`, with a pin for each map under its name,
//! `program`, `asides-<program's number>`, and `link-<interface>`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use lb_common::header::LAYOUT_VERSION;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statfs::statfs;

use super::error::BpfError;

/// `BPF_FS_MAGIC` in include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// The source that our own mount shows in /proc/thread-self/mountinfo.
const MOUNT_SOURCE: &str = "fairlead";
/// Where distributions mount a bpffs.
const USUAL_MOUNT: &str = "/sys/fs/bpf";

/// A component of a path, as lstat(2) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// From the root to here.
    pub path: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Permission bits and the sticky bit.
    pub mode: u32,
    /// It is a directory.
    pub directory: bool,
    /// It is on a bpffs.
    pub bpffs: bool,
}

/// Judges a path from the root to the directory for pins. Pure.
///
/// A directory that others may write to is tolerated outside of bpffs if it is sticky, as /tmp is: there
/// nobody can take away or rename what root owns, and the next component is root's.
pub fn check_path(components: &[Component]) -> Result<(), BpfError> {
    let refuse = |at: &Component, why: String, hint: String| {
        Err(BpfError::UnsafePath {
            path: at.path.clone(),
            why,
            hint,
        })
    };
    for at in components {
        let shown = at.path.display();
        let elsewhere = "or set daemon.bpffs to a directory that does not exist yet, such as /run/fairlead/bpf: fairlead mounts its own there";
        if !at.directory {
            return refuse(at, "it is not a directory".into(), elsewhere.into());
        }
        if at.uid != 0 {
            let why = format!("it is owned by uid {}, not by root", at.uid);
            return refuse(at, why, format!("'chown root {shown}', {elsewhere}"));
        }
        let sticky = at.mode & 0o1000 != 0;
        if at.mode & 0o022 != 0 && (at.bpffs || !sticky) {
            let why = format!("its mode {:04o} lets others write to it", at.mode & 0o7777);
            return refuse(at, why, format!("'chmod 0700 {shown}', {elsewhere}"));
        }
    }
    Ok(())
}

fn component(path: &Path) -> Result<Component, BpfError> {
    let meta = fs::symlink_metadata(path)
        .map_err(BpfError::system(format!("look at {}", path.display())))?;
    Ok(Component {
        path: path.to_owned(),
        uid: meta.uid(),
        mode: meta.mode() & 0o7777,
        directory: meta.is_dir(),
        bpffs: is_bpffs(path)?,
    })
}

fn is_bpffs(path: &Path) -> Result<bool, BpfError> {
    let found = statfs(path).map_err(BpfError::errno(format!(
        "look at the file system of {}",
        path.display()
    )))?;
    // The type is 32 bits wide in the kernel, whatever the C library makes of it.
    Ok(found.filesystem_type().0 as u32 == BPF_FS_MAGIC)
}

/// Checks an existing directory, links resolved. Returns its real path.
fn check_real(path: &Path) -> Result<PathBuf, BpfError> {
    let real =
        fs::canonicalize(path).map_err(BpfError::system(format!("resolve {}", path.display())))?;
    let mut all: Vec<&Path> = real.ancestors().collect();
    all.reverse();
    let components: Result<Vec<_>, _> = all.into_iter().map(component).collect();
    check_path(&components?)?;
    Ok(real)
}

fn create_dir(path: &Path) -> Result<(), BpfError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(BpfError::system(
            format!("create {}", path.display()),
        )(error)),
        _ => Ok(()),
    }
}

/// Creates what is missing of a path, each directory 0700, after the part that exists was checked.
pub(crate) fn create_path(path: &Path) -> Result<(), BpfError> {
    if path.exists() {
        return Ok(());
    }
    let existing = path
        .ancestors()
        .find(|part| part.exists())
        .unwrap_or(Path::new("/"));
    check_real(existing)?;
    let mut missing: Vec<&Path> = path.ancestors().take_while(|part| !part.exists()).collect();
    missing.reverse();
    missing.into_iter().try_for_each(create_dir)
}

/// Mounts a bpffs of our own, with mode 0700, over an empty directory.
fn mount_own(directory: &Path) -> Result<(), BpfError> {
    let real = check_real(directory)?;
    if !list(&real)?.is_empty() {
        return Err(BpfError::UnsafePath {
            path: real,
            why: "it is neither a bpffs nor empty".into(),
            hint: "set daemon.bpffs to an empty directory or to one on a bpffs".into(),
        });
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mode = Some("mode=0700");
    mount(Some(MOUNT_SOURCE), &real, Some("bpf"), flags, mode).map_err(BpfError::errno(format!(
        "mount a bpffs at {} (it needs CAP_SYS_ADMIN; or mount one there beforehand, with mode=0700)",
        real.display()
    )))
}

/// A checked directory on a bpffs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    /// Makes the directory ready: creates it, and mounts a bpffs there if it is not on one. Below
    /// /sys/fs/bpf, where nothing can be created before a bpffs is mounted, it is mounted on that.
    pub(crate) fn prepare(directory: &Path) -> Result<Self, BpfError> {
        let usual = Path::new(USUAL_MOUNT);
        if directory.starts_with(usual) && usual.is_dir() && !is_bpffs(usual)? {
            mount_own(usual)?;
        }
        create_path(directory)?;
        if !is_bpffs(directory)? {
            mount_own(directory)?;
        }
        Ok(Self {
            root: check_real(directory)?,
        })
    }

    /// The directory if it is there and on a bpffs; for `unload`, which creates nothing.
    pub(crate) fn existing(directory: &Path) -> Result<Option<Self>, BpfError> {
        if !directory.exists() || !is_bpffs(directory)? {
            return Ok(None);
        }
        Ok(Some(Self {
            root: check_real(directory)?,
        }))
    }

    /// The directory of a layout.
    pub(crate) fn layout(&self, version: u32) -> PathBuf {
        self.root.join(format!("v{version}"))
    }

    /// Layouts that have a directory, ascending.
    pub(crate) fn layouts(&self) -> Result<Vec<u32>, BpfError> {
        let mut found: Vec<u32> = list(&self.root)?
            .iter()
            .filter_map(|name| name.strip_prefix('v')?.parse().ok())
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Refuses if another layout than ours has pins.
    pub(crate) fn refuse_foreign(&self) -> Result<(), BpfError> {
        match self.layouts()?.into_iter().find(|&v| v != LAYOUT_VERSION) {
            Some(found) => Err(BpfError::ForeignLayout {
                path: self.layout(found),
                found,
                known: LAYOUT_VERSION,
            }),
            None => Ok(()),
        }
    }

    /// Removes the directory if nothing is left in it, and unmounts the bpffs if it is one that
    /// `prepare` has mounted and nothing is left there.
    pub(crate) fn leave(self) -> Result<(), BpfError> {
        for directory in [self.root.as_path(), Path::new(USUAL_MOUNT)] {
            if !directory.is_dir() || !list(directory)?.iter().all(|name| is_kernels(name)) {
                continue;
            }
            let table = fs::read_to_string("/proc/thread-self/mountinfo")
                .map_err(BpfError::system("read /proc/thread-self/mountinfo"))?;
            let shown = directory.display();
            if mounted_by_us(&table, directory) {
                umount(directory).map_err(BpfError::errno(format!("unmount {shown}")))?;
            } else if is_mount_point(&table, directory) {
                continue;
            }
            if directory == self.root && directory != Path::new(USUAL_MOUNT) {
                fs::remove_dir(directory).map_err(BpfError::system(format!("remove {shown}")))?;
            }
        }
        Ok(())
    }
}

/// The kernel puts these two into the root of each new bpffs (kernel/bpf/preload).
fn is_kernels(name: &str) -> bool {
    matches!(name, "maps.debug" | "progs.debug")
}

/// File system type and source of each mount at `path`, oldest first. Pure; `table` is
/// /proc/thread-self/mountinfo (proc(5)).
fn mounts_at<'a>(
    table: &'a str,
    path: &'a Path,
) -> impl DoubleEndedIterator<Item = (&'a str, &'a str)> {
    table.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        (Path::new(point) == path).then_some((after.next()?, after.next()?))
    })
}

/// True when anything is mounted at `path`.
fn is_mount_point(table: &str, path: &Path) -> bool {
    mounts_at(table, path).next().is_some()
}

/// True when the last mount at `path` is one of ours.
fn mounted_by_us(table: &str, path: &Path) -> bool {
    mounts_at(table, path).next_back() == Some(("bpf", MOUNT_SOURCE))
}

/// Names in a directory, sorted.
pub(crate) fn list(path: &Path) -> Result<Vec<String>, BpfError> {
    let what = format!("list {}", path.display());
    let entries = fs::read_dir(path).map_err(BpfError::system(what.clone()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(BpfError::system(what.clone()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Removes a file, if it is there.
pub(crate) fn unlink(path: &Path) -> Result<(), BpfError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BpfError::system(format!(
            "remove {}",
            path.display()
        ))(error)),
        _ => Ok(()),
    }
}

/// The pin of an interface's link. bpffs takes no dots in names, interfaces do (`eth0.100`).
pub(crate) fn link_pin(interface: &str) -> String {
    let escaped = interface.replace('%', "%25").replace('.', "%2e");
    format!("link-{escaped}")
}

/// The interface of a link's pin.
pub(crate) fn interface_of(pin: &str) -> Option<String> {
    let escaped = pin.strip_prefix("link-")?;
    Some(escaped.replace("%2e", ".").replace("%25", "%"))
}

#[cfg(test)]
mod tests;
