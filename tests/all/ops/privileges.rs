//! What the daemon may still do once it runs, as the kernel tells it, that this is enough for all that comes later, and what
//! its commands have of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::daemon::{Config, Daemon, Health, Service, fairlead_binary};
use lb_tests::server::{HTTP_PORT, Server};
use lb_tests::topology::{Family, Topology, UPLINK, vip};
use lb_userspace::privileges::confine::confine_thread;
use lb_userspace::privileges::syscalls::{REFUSED, X32};
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use crate::stage::{SHAPES, Stage, wait_until};

const LONG: Duration = Duration::from_secs(20);
/// As docs/security.md has them.
const KEPT: &str = "000000c0000030e4";
const NONE: &str = "0000000000000000";
/// The user that everybody has.
const NOBODY: u32 = 65_534;
/// What a command says of itself.
const FIELDS: &str = "^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):";

/// A field of a status file (proc_pid_status(5)).
#[track_caller]
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

/// Every set as it must be, with these in effect.
#[track_caller]
fn check(whose: &str, status: &str, effective: &str) {
    for (name, expected) in [
        ("CapInh", NONE),
        ("CapPrm", effective),
        ("CapEff", effective),
        ("CapBnd", KEPT),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(field(status, name), expected, "{name} of {whose}: {status}");
    }
}

/// Looks at each thread of the daemon.
#[track_caller]
fn check_threads(stage: &mut Stage) {
    let pid = stage.daemon.process().unwrap().pid();
    let mut names = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread that has just ended has none.
        let path = thread.unwrap().path().join("status");
        let Ok(status) = fs::read_to_string(path) else {
            continue;
        };
        let name = field(&status, "Name").to_owned();
        check(&name, &status, KEPT);
        names.push(name);
    }
    assert!(names.len() >= 3, "{names:?}");
    // The one that had more.
    assert!(!names.contains(&"start".to_owned()), "{names:?}");
}

/// Processes that the daemon has started with this command line and that run.
fn children(pid: u32, command: &[&str]) -> Vec<PathBuf> {
    let is_one = |process: &Path| {
        let read = |file| fs::read_to_string(process.join(file)).unwrap_or_default();
        let wanted: String = command.iter().map(|word| format!("{word}\0")).collect();
        read("cmdline") == wanted && read("status").contains(&format!("\nPPid:\t{pid}\n"))
    };
    let all = fs::read_dir("/proc").unwrap();
    let all = all.filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(|process| is_one(process)).collect()
}

/// A check that is good when it runs as nobody and can do nothing.
fn asked(config: &Config) -> Service {
    let mut asked = config.service("echo4").clone();
    asked.name = "asked".to_owned();
    asked.port = 7001;
    asked.health = Health {
        kind: "exec",
        interval_ms: 2000,
        timeout_ms: 2000,
        extra: r#"user = "nobody"
command = ["/bin/sh", "-c", "test $(id -u) = 65534 && test \"$(id -G)\" = 65534 && grep -q '^CapPrm:.0000000000000000$' /proc/self/status"]"#,
        ..asked.health
    };
    asked
}

/// One that a reload brings: by another interface, with checks that need a raw socket.
fn new(config: &Config) -> Service {
    let mut new = config.service("web4").clone();
    new.name = "web4up".to_owned();
    new.address = vip(Family::V4, 1);
    new.health = Health {
        kind: "icmp",
        ..new.health
    };
    assert_eq!(new.backends[0].port, HTTP_PORT);
    new
}

#[test]
fn all_threads_keep_what_the_page_says_and_it_is_enough_for_reloads_commands_and_the_next_start() {
    let mut told = PathBuf::new();
    // Whatever else this machine forbids, it does not forbid this.
    let ran = Command::new("setarch").args(["-R", "true"]).status();
    assert!(ran.unwrap().success());
    let hang = ["/bin/sleep", "61.5"];
    let mut stage = Stage::with_topology(SHAPES[0], Server::threads, |mut config, topology| {
        told = topology.directory().join("told");
        let file = told.display();
        config.services.push(asked(&config));
        config.tables += &format!(
            r#"[[hook]]
name = "of-root"
user = "root"
services = ["web4"]
command = ["/bin/sh", "-c", "cat > /dev/null; test -e {file} && exit 0; (grep -E '{FIELDS}' /proc/self/status; setarch -R true) > {file}.new 2>&1; mv {file}.new {file}"]

[[hook]]
name = "hang"
user = "nobody"
services = ["web4"]
command = {hang:?}
timeout = "1s"
retries = 0
"#
        );
        config
    });
    let _uplink = stage.topology.make_uplink(vip(Family::V4, 1)).unwrap();
    check_threads(&mut stage);

    // What another user runs is ended all the same.
    let pid = stage.daemon.process().unwrap().pid();
    let drain = stage.daemon.cli(&["drain", "web4/b3"]).unwrap();
    drain.succeeded().unwrap();
    wait_until("a hook hangs", LONG, || !children(pid, &hang).is_empty());
    let first = children(pid, &hang).remove(0);
    assert!(fs::metadata(&first).map_or(true, |process| process.uid() == NOBODY));
    wait_until("the hook that hangs is ended", LONG, || {
        !children(pid, &hang).contains(&first)
    });

    wait_until("a hook of root's has run", LONG, || told.exists());
    let said = fs::read_to_string(&told).unwrap();
    check("a hook", &said, KEPT);
    assert!(said.contains("Operation not permitted"), "{said}");

    let mut config = stage.daemon.config().clone();
    config.interfaces.push(UPLINK.to_owned());
    config.services.push(new(&config));
    stage.daemon.reload(config).unwrap();
    stage.wait("all are up", |status| status.all_are("up"));
    for service in ["web4up", "asked"] {
        stage.storm(&[service], 100).assert_clean(100);
    }

    // A file in another user's folder, as that of an operator who does not work as root.
    let file = stage.daemon.config_file();
    chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    stage.daemon.cli(&["reload"]).unwrap().succeeded().unwrap();

    stage.daemon.stop().unwrap();
    stage.daemon.restart().unwrap();
    check_threads(&mut stage);
    stage.wait("all are up again", |status| status.all_are("up"));
    for service in ["web4up", "asked"] {
        stage.storm(&[service], 100).assert_clean(100);
    }
    let log = stage.daemon.log();
    assert!(log.contains("data plane adopted"), "{log}");
    assert!(!log.contains("not confined"), "{log}");
    // Programs at tracepoints, which the daemon loads last.
    assert!(!log.contains("are not counted"), "{log}");
    stage.daemon.check_conservation().unwrap();
}

#[test]
fn a_metrics_port_and_folders_that_take_all_of_root_are_made_before_that_is_given_up() {
    let mut stage = Stage::new(SHAPES[0]);
    let anothers = stage.topology.directory().join("anothers");
    fs::create_dir(&anothers).unwrap();
    chown(&anothers, Some(NOBODY), Some(NOBODY)).unwrap();
    let text = stage.daemon.config().toml(stage.daemon.home());
    let state = stage.daemon.home().join("state").display().to_string();
    assert!(text.contains(&state), "{text}");
    let text = text
        .replace("127.0.0.1:9460", "127.0.0.1:946")
        .replace(&state, &anothers.join("state").display().to_string());
    stage.daemon.stop().unwrap();
    // Flows live by the keys of the folder of before.
    stage.daemon.unload().unwrap();
    stage.daemon.write_config(&text).unwrap();
    stage.daemon.restart().unwrap();
    let curl = [
        "curl",
        "-sSf",
        "--max-time",
        "5",
        "http://127.0.0.1:946/metrics",
    ];
    assert!(super::text(&stage.topology, "lb", &curl).contains("fairlead_ready 1"));
    let made = fs::metadata(anothers.join("state")).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (0, 0o700));
    stage.daemon.stop().unwrap();
}

/// A container that forbids seccomp(2): it answers as if there were none.
fn without_seccomp(command: &mut Command) {
    let rules = [(libc::SYS_seccomp, vec![])].into_iter().collect();
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, arch).unwrap();
    let program = BpfProgram::try_from(filter).unwrap();
    // SAFETY: two system calls with memory that was made before.
    unsafe {
        command.pre_exec(move || {
            apply_filter(&program)
                .map_err(|_| libc::EINVAL)
                .map_err(std::io::Error::from_raw_os_error)
        })
    };
}

#[test]
fn a_daemon_that_was_given_less_runs_and_says_what_it_lacks() {
    let topology = Topology::build(SHAPES[0]).unwrap();
    let daemon = Daemon::prepare(&topology, Config::lab(&topology)).unwrap();
    let log = topology.directory().join("log-of-less");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_raw,-setuid"]);
    command.arg(fairlead_binary().unwrap());
    command.arg("run").arg("--config").arg(daemon.config_file());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(&log).unwrap());
    without_seccomp(&mut command);
    let mut process = topology.spawn_in("lb", command).unwrap();
    wait_until("it is ready", LONG, || {
        let status = daemon.status();
        status.is_ok_and(|status| status.ready && status.all_are("down"))
    });
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    assert_eq!(field(&status, "CapEff"), "000000c000001064", "{status}");
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    let log = fs::read_to_string(log).unwrap();
    let said: Vec<&str> = log.lines().filter(|l| l.contains("not confined")).collect();
    assert_eq!(said.len(), 1, "{log}");
    for part in [
        "it lacks CAP_SETUID (commands that run as other users)",
        "it lacks CAP_NET_RAW (",
        "the kernel would not filter system calls: ",
        "Function not implemented",
    ] {
        assert!(said[0].contains(part), "{part}: {log}");
    }
    process.signal(Signal::SIGTERM).unwrap();
    assert!(process.wait(LONG).unwrap().success());
}

/// Asks the kernel for this with arguments that mean nothing, so that a call that is not refused does no harm.
fn ask(number: libc::c_long, first: libc::c_long) -> i32 {
    // SAFETY: -1 is no address, no descriptor, no length and no command of any of these calls.
    let result = unsafe { libc::syscall(number, first, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
    match result {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap(),
        _ => 0,
    }
}

/// A program for x86 of 32 bits, whose calls have other numbers: `mov eax, 1; mov ebx, 7; int 0x80` ends it with 7.
#[cfg(target_arch = "x86_64")]
const OTHER_WAY: [u8; 96] = {
    let mut elf = [0; 96];
    // Header (class 32, an executable for 386, entry, one program header), program header (load all of it), code (elf(5)).
    let words: [(usize, u32); 18] = [
        (0, u32::from_le_bytes(*b"\x7fELF")),
        (4, 0x0001_0101),
        (16, 0x0003_0002),
        (20, 1),
        (24, 0x0804_8054),
        (28, 52),
        (40, 0x0020_0034),
        (44, 1),
        (52, 1),
        (60, 0x0804_8000),
        (64, 0x0804_8000),
        (68, 96),
        (72, 96),
        (76, 5),
        (80, 0x1000),
        (84, 0x0000_01b8),
        (88, 0x0007_bb00),
        (92, 0x80cd_0000),
    ];
    let mut word = 0;
    while word < words.len() {
        let (at, value) = words[word];
        let bytes = value.to_le_bytes();
        let mut byte = 0;
        while byte < 4 {
            elf[at + byte] = bytes[byte];
            byte += 1;
        }
        word += 1;
    }
    elf
};

/// It is killed (SIGSYS) at its first call; a kernel that does not run such programs has no other way in.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_command_that_calls_the_kernel_by_another_way_is_killed() {
    let folder = std::env::temp_dir().join(format!("fairlead-other-way-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let program = folder.join("program");
    fs::write(&program, OTHER_WAY).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let free = Command::new(&program).status();
    let confined = std::thread::scope(|scope| {
        let run = || {
            confine_thread();
            Command::new(&program).status()
        };
        scope.spawn(run).join().unwrap()
    });
    fs::remove_dir_all(&folder).unwrap();
    match (free, confined) {
        (Ok(free), Ok(confined)) => {
            assert_eq!((free.code(), free.signal()), (Some(7), None));
            assert_eq!(confined.signal(), Some(libc::SIGSYS), "{confined:?}");
        }
        (Err(_), Err(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_confined_thread_is_refused_what_the_page_says() {
    // Both sorts of flags at once are refused by every kernel, so no process is made.
    const NEW_USER: libc::c_long = (libc::CLONE_NEWUSER | libc::CLONE_FS) as libc::c_long;
    assert_eq!(ask(libc::SYS_personality, -1), 0, "not refused before");
    assert_eq!(ask(libc::SYS_clone, NEW_USER), libc::EINVAL);
    // What is given up is this thread's, which ends.
    let confined = std::thread::spawn(|| {
        let report = confine_thread();
        assert_eq!(report.warning(), None);
        for (name, number) in REFUSED {
            assert_eq!(ask(*number, -1), libc::EPERM, "{name}");
            if cfg!(target_arch = "x86_64") {
                assert_eq!(ask(*number | X32, -1), libc::EPERM, "{name} of x32");
            }
        }
        assert_eq!(ask(libc::SYS_clone, NEW_USER), libc::EPERM);
        assert_eq!(ask(libc::SYS_clone3, -1), libc::ENOSYS);
        // Threads and processes are made all the same.
        let thread = std::thread::spawn(|| {
            let mut command = Command::new("true");
            command.stdin(Stdio::null()).status().unwrap().success()
        });
        assert!(thread.join().unwrap());
    });
    confined.join().unwrap();
    assert_eq!(ask(libc::SYS_personality, -1), 0, "another thread's matter");
}
