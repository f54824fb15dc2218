//! What a run of the lab has in the kernel: to see that nothing of it is left afterwards, although
//! other runs come and go meanwhile.
//!
//! Processes are known by a variable in their environment, which every child inherits, also one
//! that nobody is the parent of any more. BPF objects are those that these processes hold and
//! those that are pinned; their ids are not given again before billions of others were made.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::bpf::{self, Object};

const VARIABLE: &str = "FAIRLEAD_LAB_MARK";

/// Marks a process and all that it starts.
#[derive(Clone, Debug)]
pub struct Mark(String);

impl Mark {
    /// Marks what this command will start. No other run on this machine has the same mark.
    pub fn put_on(command: &mut Command) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        command.env(VARIABLE, &mark);
        Self(mark)
    }

    /// The living processes with the mark.
    pub fn processes(&self) -> BTreeSet<u32> {
        let wanted = format!("{VARIABLE}={}", self.0);
        let has_mark = |pid: &u32| {
            // Empty for a zombie; unreadable for one that has just ended.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        };
        numbers("/proc").into_iter().filter(has_mark).collect()
    }
}

/// What a run has at one moment.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// BPF programs, maps and links.
    pub objects: BTreeSet<(ObjectKind, u32)>,
    /// Network namespaces, by inode.
    pub namespaces: BTreeSet<u64>,
    /// Process ids.
    pub processes: BTreeSet<u32>,
}

/// A kind of BPF object.
pub type ObjectKind = &'static str;

const KINDS: [(ObjectKind, Object); 3] = [
    ("prog_id", Object::Program),
    ("map_id", Object::Map),
    ("link_id", Object::Link),
];

impl Inventory {
    /// Takes stock of the processes with a mark, and of the pins in all mounts below a directory.
    pub fn take(mark: &Mark, directory: &Path) -> Result<Self> {
        let mut inventory = Self {
            processes: mark.processes(),
            ..Self::default()
        };
        let own = fs::metadata("/proc/self/ns/net")?.ino();
        for pid in &inventory.processes {
            let descriptors = format!("/proc/{pid}/fdinfo");
            for number in numbers(&descriptors) {
                // It may have been closed meanwhile.
                let text = fs::read_to_string(format!("{descriptors}/{number}"));
                inventory.objects.extend(ids(&text.unwrap_or_default()));
            }
            if let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net"))
                && namespace.ino() != own
            {
                inventory.namespaces.insert(namespace.ino());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        let mut pins = vec![];
        for mount in mounts.lines().filter(|line| line.contains(" - bpf ")) {
            let place = mount.split(' ').nth(4).map(Path::new);
            if let Some(place) = place.filter(|place| place.starts_with(directory)) {
                pins.extend(files_below(place)?);
            }
        }
        for pin in pins {
            let object = bpf::pinned(&pin)?;
            let info = format!("/proc/self/fdinfo/{}", object.as_raw_fd());
            let text = fs::read_to_string(&info).with_context(|| format!("read {info}"))?;
            inventory.objects.extend(ids(&text));
        }
        Ok(inventory)
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: ObjectKind) -> usize {
        self.objects.iter().filter(|(k, _)| *k == kind).count()
    }

    /// What of it is still there, for people; and processes that were started since.
    pub fn left(&self, mark: &Mark) -> Result<Vec<String>> {
        let mut left: Vec<_> = mark
            .processes()
            .into_iter()
            .map(|pid| format!("process {pid}"))
            .collect();
        for &(kind, id) in &self.objects {
            for (_, object) in KINDS.iter().filter(|(name, _)| *name == kind) {
                if bpf::exists(*object, id)? {
                    left.push(format!("{object:?} {id}"));
                }
            }
        }
        for pid in numbers("/proc") {
            if let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net"))
                && self.namespaces.contains(&namespace.ino())
            {
                left.push(format!("process {pid} in namespace {}", namespace.ino()));
            }
        }
        Ok(left)
    }
}

/// The ids in the text of /proc/PID/fdinfo/N (Documentation/filesystems/proc.rst). The descriptor
/// of a link names its program, too.
fn ids(text: &str) -> impl Iterator<Item = (ObjectKind, u32)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let (kind, _) = KINDS.iter().find(|(kind, _)| *kind == name)?;
        Some((*kind, value.trim().parse().ok()?))
    })
}

/// Names in a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries =
            fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if !entry.file_name().as_bytes().contains(&b'.') {
                // The kernel's own files have a point in their names, pins may not.
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// Names of the interfaces in the namespace of the calling thread.
pub fn interfaces() -> Result<BTreeSet<OsString>> {
    let text = fs::read("/proc/thread-self/net/dev").context("read /proc/thread-self/net/dev")?;
    let lines = text.split(|byte| *byte == b'\n').skip(2);
    let names = lines.filter_map(|line| {
        let end = line.iter().position(|byte| *byte == b':')?;
        Some(std::ffi::OsStr::from_bytes(line[..end].trim_ascii()).to_owned())
    });
    Ok(names.collect())
}
