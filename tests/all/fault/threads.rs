//! The daemon that can start neither a process nor a thread.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io};

use lb_tests::daemon::{Config, Health};
use lb_tests::server::Server;

use crate::stage::{ECHO, SHAPES, Stage, wait_until};

/// The user of this name.
const NOBODY: u32 = 65_534;
const SOON: Duration = Duration::from_secs(60);

/// A control group that a process is in alone with what it starts, as a service of systemd with `TasksMax` is.
struct Group {
    own: PathBuf,
    /// Where the process was before.
    before: PathBuf,
    pid: u32,
}

impl Group {
    /// Moves the process, with all of its threads.
    fn of(pid: u32) -> Self {
        let (mount, path) = Self::now(pid);
        let own = mount.join(format!("fairlead-test-{pid}"));
        fs::create_dir(&own).unwrap();
        let group = Self {
            own,
            before: mount.join(path.trim_start_matches('/')),
            pid,
        };
        group.write("cgroup.procs", &pid.to_string()).unwrap();
        assert!(group.own.join("pids.max").exists(), "{:?}", group.own);
        group
    }

    /// Where the groups that count processes are, and the process's: in the old hierarchy one of its own, in the new one
    /// (cgroup2) all.
    fn now(pid: u32) -> (PathBuf, String) {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = |of: &str| {
            let found = text
                .lines()
                .find_map(|l| l.split_once(of))
                .map(|(_, path)| path.to_owned());
            found.unwrap_or_else(|| panic!("no group of '{of}' in {text}"))
        };
        let old = Path::new("/sys/fs/cgroup/pids");
        if old.exists() {
            return (old.to_owned(), path(":pids:"));
        }
        let new = Path::new("/sys/fs/cgroup");
        fs::write(new.join("cgroup.subtree_control"), "+pids").unwrap();
        (new.to_owned(), path("0::"))
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.own.join(file), text)
    }

    /// So many processes and threads may there be.
    fn limit(&self, most: &str) {
        self.write("pids.max", most).unwrap();
    }

    /// How many processes and threads the kernel has refused.
    fn refused(&self) -> u64 {
        let text = fs::read_to_string(self.own.join("pids.events")).unwrap();
        text.trim().strip_prefix("max ").unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A daemon that has ended is in no group.
        drop(self.write("pids.max", "max"));
        drop(fs::write(
            self.before.join("cgroup.procs"),
            self.pid.to_string(),
        ));
        // What commands have left goes by itself.
        let began = Instant::now();
        while fs::remove_dir(&self.own).is_err() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How many processes the users of a process's commands may have.
fn limit_of_users(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("Max processes"));
    let soft = line.unwrap().split_whitespace().next();
    soft.unwrap().to_owned()
}

/// Sets it; root has no such limit.
fn limit_users(pid: u32, most: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nproc={most}:")])
        .status();
    assert!(status.unwrap().success());
}

/// Starts three others at once.
const COMMAND: &str = "#!/bin/sh
sleep 0.03 & sleep 0.03 & sleep 0.03 &
wait
";

/// A command that finds b1 bad.
const BAD: &str = "#!/bin/sh
test $FAIRLEAD_BACKEND != b1 || { echo it is out of order; exit 3; }
";

fn put(command: &Path, text: &str) {
    let next = command.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&next, command).unwrap();
}

/// Checks by commands: of root, of another user, and one that starts others.
fn configured(mut config: Config, command: &Path) -> Config {
    let other: &str = format!("command = [{command:?}]\nuser = \"root\"").leak();
    for service in &mut config.services {
        let keys = match service.name.as_str() {
            "echo4" => "command = [\"/bin/true\"]\nuser = \"root\"",
            "echo6" => "command = [\"/bin/true\"]\nuser = \"nobody\"",
            "udp4" => other,
            _ => "",
        };
        // Patient, so that nothing but the lack of processes can be taken for a fault.
        service.health = Health {
            kind: if keys.is_empty() { "http" } else { "exec" },
            interval_ms: 500,
            timeout_ms: 490,
            fall: 2,
            extra: keys,
            ..service.health
        };
    }
    config
}

fn why(stage: &Stage, backend: &str) -> String {
    let told = stage.daemon.cli(&["why", backend]).unwrap();
    told.succeeded().unwrap().stdout
}

fn downs(stage: &Stage) -> usize {
    stage.daemon.log().matches("to=Down").count()
}

/// For some rounds of checks, all is as it was, and who asks is told so; gives the slowest answer.
#[track_caller]
fn all_stay_up(stage: &Stage, rounds: Duration) -> Duration {
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < rounds {
        let asked = Instant::now();
        let status = stage.daemon.status().unwrap();
        slowest = slowest.max(asked.elapsed());
        assert!(
            status.all_are("up") && !status.checker_suspect,
            "{status:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(downs(stage), 0, "{}", stage.daemon.log());
    slowest
}

#[track_caller]
fn wait_for_word(stage: &Stage, backend: &str, words: &str) {
    wait_until(words, SOON, || why(stage, backend).contains(words));
}

#[test]
fn p6_daemon_that_can_start_no_process_and_no_thread_takes_nobody_for_dead_and_answers() {
    let command = std::cell::OnceCell::new();
    let mut stage = Stage::with_topology(SHAPES[0], Server::threads, |config, topology| {
        let at = command.get_or_init(|| topology.directory().join("check"));
        put(at, COMMAND);
        configured(config, at)
    });
    let command = command.get().unwrap();
    let pid = stage.daemon.process().unwrap().pid();
    let load = stage.load(&ECHO, 200);
    let rounds = Duration::from_secs(3);

    // A user has no process left.
    let before = limit_of_users(pid);
    let mut other = Command::new("sleep");
    let mut other = other.arg("120").uid(NOBODY).gid(NOBODY).spawn().unwrap();
    limit_users(pid, "0");
    wait_for_word(&stage, "echo6/b1", "no process can be started");
    all_stay_up(&stage, rounds);
    assert!(!why(&stage, "echo4/b1").contains("no process can be started"));
    limit_users(pid, &before);
    other.kill().unwrap();
    other.wait().unwrap();

    // Nobody has: neither commands nor the daemon's own threads.
    let group = Group::of(pid);
    group.limit("1");
    for backend in ["echo4/b1", "echo6/b2", "udp4/b3"] {
        wait_for_word(&stage, backend, "no thread can be started");
    }
    let slowest = all_stay_up(&stage, rounds);
    let refused = stage.daemon.cli(&["reload"]).unwrap();
    assert!(
        refused.code == Some(1) && refused.stderr.contains("no thread can be started"),
        "{refused:?}"
    );
    let log = stage.daemon.log();
    assert!(log.contains("no thread can be started"), "{log}");
    crate::stage::figure!(
        "P6: {} threads and processes refused, the slowest answer after {slowest:?}",
        group.refused()
    );

    // Some are left, so that a command begins, and has none for what it starts.
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    let least = (0..50).map(|_| threads()).min().unwrap();
    group.limit(&(least + 3).to_string());
    wait_until("a command lacks processes", SOON, || {
        let lacks = |n| {
            why(&stage, &format!("udp4/b{n}"))
                .contains("no process was left for the command or others")
        };
        (1..=3).any(lacks)
    });
    all_stay_up(&stage, rounds);

    // With room again all is as before, and who is bad is found.
    group.limit("max");
    stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();
    put(command, BAD);
    let down = stage.wait("b1 is out of order", |status| {
        status.backend("udp4/b1").health == "down"
    });
    let reason = &down.backend("udp4/b1").reason;
    assert!(
        reason.contains("exit code 3: it is out of order"),
        "{reason}"
    );
    assert_eq!(downs(&stage), 1, "{}", stage.daemon.log());
    drop(group);
    load.stop().assert_clean(500);
    stage.end();
}

/// For so long tokio keeps a thread that has nothing to do, and a little more.
const IDLE: Duration = Duration::from_secs(11);

#[test]
fn p6_daemon_whose_last_idle_thread_has_ended_answers_without_one() {
    // Nobody runs a command, and nobody looks at handshakes: no thread has anything to do until somebody asks.
    let mut stage = Stage::with(SHAPES[0], Server::threads, |mut config| {
        config.services.retain(|service| service.name == "web4");
        config.services[0].health.extra = "passive = false";
        config
    });
    let group = Group::of(stage.daemon.process().unwrap().pid());
    let idle = Instant::now();
    wait_until("idle threads have ended", SOON, || idle.elapsed() > IDLE);
    group.limit("1");
    let status = stage.daemon.status().unwrap();
    assert!(status.all_are("up"), "{status:#?}");
    let page = crate::ops::metrics::page(&stage.topology);
    assert!(page.contains_key("fairlead_build_info"), "{page:?}");
    assert!(why(&stage, "web4/b1").contains("good"));
    assert!(group.refused() > 0);
    drop(group);
    stage.end();
}
