//! Nothing is left behind: not after a panic, not after Ctrl-C, and what SIGKILL left is swept at
//! the next start.
//!
//! All that a run makes carries its process id: namespaces are called `fl<pid>-HOST`, files and
//! mounts live under [`RUNS`]`/fl<pid>`. So removing is one function, for ourselves as for the dead.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use super::namespace::{NAMES, unname};

/// Directories of topologies.
const RUNS: &str = "/run/fairlead-lab";
/// The file with the start time of the process that owns the directory.
const OWNER: &str = "owner";

/// Makes the directory of a topology, and, once, everything ready for its removal.
pub(super) fn make_directory(prefix: &str) -> Result<PathBuf> {
    static READY: OnceLock<Result<(), String>> = OnceLock::new();
    let ready = || -> Result<()> {
        sweep()?;
        clean_up_on_signals()?;
        clean_up_on_abort();
        Ok(())
    };
    let ready = READY.get_or_init(|| ready().map_err(|e| format!("{e:#}")));
    ready.clone().map_err(anyhow::Error::msg)?;
    let directory = Path::new(RUNS).join(prefix);
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let started = start_time(std::process::id()).context("read our own start time")?;
    fs::write(directory.join(OWNER), started).context("write the owner of the directory")?;
    Ok(directory)
}

/// Removes a topology's directory, with what is mounted there.
pub(super) fn remove_directory(directory: &Path) -> Result<()> {
    unmount_below(directory);
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("remove {}", directory.display()));
        }
        _ => {}
    }
    // Fails while other runs are there.
    drop(fs::remove_dir(RUNS));
    Ok(())
}

/// Names for the next topology of this process: `fl<pid>`, then `fl<pid>_1`, ...
pub(super) fn next_prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    match NEXT.fetch_add(1, Ordering::Relaxed) {
        0 => format!("fl{pid}"),
        n => format!("fl{pid}_{n}"),
    }
}

/// Removes what runs left whose process is gone.
pub fn sweep() -> Result<()> {
    let made = names(NAMES)?.into_iter().chain(names(RUNS)?);
    let mut owners: Vec<u32> = made.filter_map(|name| owner_of(&name)).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
        .into_iter()
        .filter(|pid| !alive(*pid))
        .try_for_each(remove_owned_by)
}

/// Removes all that the run of a process made: processes in its namespaces (but never the calling
/// one), the namespaces with their links, mounts with their pins, files.
pub fn remove_owned_by(pid: u32) -> Result<()> {
    for name in names(NAMES)?
        .iter()
        .filter(|name| owner_of(name) == Some(pid))
    {
        let path = super::namespace::path_of(name);
        if let Ok(namespace) = fs::metadata(&path) {
            kill_inside(namespace.ino());
        }
        unname(&path);
    }
    for name in names(RUNS)?
        .iter()
        .filter(|name| owner_of(name) == Some(pid))
    {
        remove_directory(&Path::new(RUNS).join(name))?;
    }
    Ok(())
}

/// Kills the processes in a network namespace and waits until they are gone from it.
pub(super) fn kill_inside(namespace: u64) {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let inside = processes_inside(namespace);
        if inside.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in inside {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes other than the calling one whose main thread is in the namespace.
pub(crate) fn processes_inside(namespace: u64) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return vec![];
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.ino() == namespace)
        })
        .collect()
}

/// Unmounts everything at or below a path, the deepest first.
pub(crate) fn unmount_below(path: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return;
    };
    let mut targets: Vec<(&Path, bool)> = mounts
        .lines()
        .filter_map(|line| Some((line.split(' ').nth(4)?, line.contains(" - ext4 "))))
        .map(|(target, disk)| (Path::new(target), disk))
        .filter(|(target, _)| target.starts_with(path))
        .collect();
    targets.sort_unstable();
    for (target, disk) in targets.iter().rev() {
        if *disk {
            // Only a test that was killed leaves one that hangs; usually there is nothing to thaw.
            drop(crate::disk::thaw(target));
        }
        // Whoever else uses it keeps it; the name goes in any case.
        let _ = umount2(*target, MntFlags::MNT_DETACH);
    }
}

fn names(directory: &str) -> Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(e).with_context(|| format!("list {directory}")),
    }
}

/// The process id in a name, if the name is one of ours: `fl<pid>[_<n>][-HOST]`.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix("fl")?
        .split(['_', '-'])
        .next()?
        .parse()
        .ok()
}

/// False also when the process id was given to another process since.
fn alive(pid: u32) -> bool {
    let Some(started) = start_time(pid) else {
        return false;
    };
    let directories = names(RUNS).unwrap_or_default();
    let ours = directories
        .iter()
        .filter(|name| owner_of(name) == Some(pid));
    let mut owners =
        ours.filter_map(|name| fs::read_to_string(Path::new(RUNS).join(name).join(OWNER)).ok());
    // Without an owner written it is just being made.
    owners.all(|owner| owner.is_empty() || owner == started)
}

/// Field 22 of /proc/PID/stat; `None` for no such process and for a zombie.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    if rest.next()? == "Z" {
        return None;
    }
    rest.nth(18).map(str::to_owned)
}

static WAKE: AtomicI32 = AtomicI32::new(-1);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// From now on the first SIGINT or SIGTERM only makes [`interrupted`] true, and the caller ends by
/// itself; a second one removes everything and ends the process.
pub fn take_over_interrupts() {
    TAKEN_OVER.store(true, Ordering::Relaxed);
}

/// True after a SIGINT or SIGTERM.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

extern "C" fn wake(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: write(2) is async-signal-safe, and `byte` lives over the call.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
}

fn clean_up_on_signals() -> Result<()> {
    use std::io::Read;
    use std::os::fd::IntoRawFd;
    let (mut reader, writer) = std::io::pipe().context("make a pipe for signals")?;
    let writer: std::os::fd::OwnedFd = writer.into();
    WAKE.store(writer.into_raw_fd(), Ordering::Relaxed);
    let action = SigAction::new(
        SigHandler::Handler(wake),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only calls write(2).
        unsafe { sigaction(signal, &action) }.with_context(|| format!("handle {signal}"))?;
    }
    let watch = move || {
        let mut signal = [0];
        while reader.read_exact(&mut signal).is_ok() {
            let again = INTERRUPTED.swap(true, Ordering::Relaxed);
            if TAKEN_OVER.load(Ordering::Relaxed) && !again {
                continue;
            }
            drop(remove_owned_by(std::process::id()));
            std::process::exit(128 + i32::from(signal[0]));
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .context("watch signals")?;
    Ok(())
}

/// With `panic = "abort"` no destructor runs, so the panic hook does their work.
fn clean_up_on_abort() {
    if cfg!(panic = "abort") {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            drop(remove_owned_by(std::process::id()));
        }));
    }
}
