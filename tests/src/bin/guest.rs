//! `fairlead-guest`: the first process of a virtual machine that `cargo xtask test --kernel` boots. It makes of a
//! bare kernel what the tests expect of a host, runs their binary, and ends the machine.
//!
//! The order comes in files of the initramfs: [`MODULES`], [`VARIABLES`], [`ARGUMENTS`]. What the
//! tests print goes to the second serial port, so that no kernel message stands in the middle of one of their lines.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use rtnetlink::LinkUnspec;

/// Kernel modules, in the order of their names.
const MODULES: &str = "/guest/modules";
/// The environment of the tests: a line `NAME=VALUE` for each variable.
const VARIABLES: &str = "/guest/environment";
/// The test binary's path, then its arguments, each on a line.
const ARGUMENTS: &str = "/guest/arguments";
/// The serial port that xtask reads.
const REPORT: &str = "/dev/ttyS1";

fn main() {
    if std::process::id() != 1 {
        eprintln!("fairlead-guest is the first process of a virtual machine and nothing else");
        std::process::exit(2);
    }
    if let Err(error) = run() {
        // Seen on the kernel's console; xtask misses the line that says how the tests ended.
        eprintln!("fairlead-guest: {error:#}");
    }
    // The virtual machine ends when it would boot again.
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
    eprintln!("fairlead-guest: end the machine: {errno}");
}

fn run() -> Result<()> {
    mount_all()?;
    let report = open_report()?;
    load_modules()?;
    set_loopback_up()?;
    let status = run_tests(&report)?;
    writeln!(&report, "guest: {status}").context("write the report")?;
    tcdrain(&report).context("write the report")
}

/// What an init mounts on any host.
fn mount_all() -> Result<()> {
    for (kind, path, options) in [
        ("proc", "/proc", None),
        ("sysfs", "/sys", None),
        ("devtmpfs", "/dev", None),
        ("tmpfs", "/run", Some("mode=0755")),
        ("tmpfs", "/tmp", Some("mode=1777")),
        ("cgroup2", "/sys/fs/cgroup", None),
        ("bpf", "/sys/fs/bpf", Some("mode=0700")),
        ("devpts", "/dev/pts", None),
    ] {
        fs::create_dir_all(path).with_context(|| format!("create {path}"))?;
        mount(Some(kind), path, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("mount {kind} on {path}"))?;
    }
    Ok(())
}

/// The port as a plain pipe of bytes.
fn open_report() -> Result<File> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(REPORT)
        .with_context(|| format!("open {REPORT}"))?;
    let mut mode = tcgetattr(&port).context("read the port's mode")?;
    cfmakeraw(&mut mode);
    tcsetattr(&port, SetArg::TCSANOW, &mode).context("set the port's mode")?;
    Ok(port)
}

fn load_modules() -> Result<()> {
    let mut files: Vec<_> = fs::read_dir(MODULES)
        .with_context(|| format!("read {MODULES}"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("read {MODULES}"))?;
    files.sort();
    for path in files {
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // Built into this kernel, or pulled in by another.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => anyhow::bail!("load {}: {errno}", path.display()),
        }
    }
    Ok(())
}

fn set_loopback_up() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a tokio runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        let up = LinkUnspec::new_with_name("lo").up().build();
        handle.link().set(up).execute().await.context("set lo up")
    })
}

/// Runs the tests, and buries every orphan as an init does: some tests look whether a process is gone.
fn run_tests(report: &File) -> Result<String> {
    let lines = |path: &str| -> Result<Vec<String>> {
        let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let arguments = lines(ARGUMENTS)?;
    let (program, arguments) = arguments.split_first().context("no test binary is named")?;
    let variables = lines(VARIABLES)?;
    let variables = variables.iter().filter_map(|line| line.split_once('='));
    let clone = || report.try_clone().context("share the report");
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .current_dir(Path::new("/tmp"))
        .stdout(clone()?)
        .stderr(clone()?)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let child = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(format!("the tests ended with status {code}"));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(format!("the tests ended by {signal}"));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the tests"),
        }
    }
}
