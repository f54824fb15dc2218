//! The probe by a command, with commands that behave and that do not.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};

use std::fs::File;

use super::*;
use crate::health::descriptors;
use crate::model::Check;

fn shell(script: &str) -> ExecCheck {
    ExecCheck {
        command: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        user: None,
    }
}

fn target(check: &ExecCheck, timeout: Duration) -> Target {
    Target {
        backend: "web/b1".parse().unwrap(),
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        port: 8080,
        real_path: None,
        full_size: None,
        check: Check::Exec(check.clone()),
        agent: None,
        interval: timeout,
        fast_interval: timeout,
        timeout,
        jitter: Duration::ZERO,
        rise: 1,
        fall: 1,
        opening: 1,
    }
}

async fn run(check: ExecCheck) -> ProbeVerdict {
    probe(
        &target(&check, Duration::from_secs(10)),
        &check,
        &mut Hearing::default(),
    )
    .await
}

async fn run_for(script: &str, timeout: Duration) -> ProbeVerdict {
    let check = shell(script);
    probe(&target(&check, timeout), &check, &mut Hearing::default()).await
}

fn bad_as(words: &str) -> ProbeVerdict {
    ProbeVerdict::Bad(words.to_owned())
}

#[tokio::test]
async fn exit_code_0_is_good_and_the_first_line_is_the_reason_for_any_other() {
    assert_eq!(run(shell("echo fine")).await, ProbeVerdict::Good);
    assert_eq!(
        run(shell("echo replica lags 40 s; echo more; exit 3")).await,
        bad_as("exit code 3: replica lags 40 s")
    );
    assert_eq!(
        run(shell("echo oh no >&2; exit 1")).await,
        bad_as("exit code 1: oh no")
    );
    assert_eq!(run(shell("exit 2")).await, bad_as("exit code 2"));
    assert_eq!(run(shell("kill -9 $$")).await, bad_as("ended by signal 9"));
}

/// Set in a process that has a test to itself.
const ALONE: &str = "FAIRLEAD_EXEC_ALONE";

#[test]
fn a_command_may_open_as_many_files_as_before_we_raised_that() {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "health::exec::tests::with_more_files_alone"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[tokio::test]
async fn with_more_files_alone() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let half = hard / 2;
    setrlimit(Resource::RLIMIT_NOFILE, half, hard).unwrap();
    assert_eq!(descriptors::raise(), Ok((half, hard)));
    assert_eq!(descriptors::limit(), hard);
    let script = format!("test $(ulimit -Sn) = {half} -a $(ulimit -Hn) = {hard}");
    assert_eq!(run(shell(&script)).await, ProbeVerdict::Good);
}

#[tokio::test]
async fn reason_is_bounded_and_controls_are_escaped() {
    let script = r"printf '\033[31m'; head -c 1000 /dev/zero | tr '\0' a; exit 1";
    let ProbeVerdict::Bad(reason) = run(shell(script)).await else {
        panic!("good");
    };
    assert!(
        reason.starts_with("exit code 1: \\u{1b}[31maaa"),
        "{reason}"
    );
    assert!(reason.len() <= crate::health::verdict::REASON_BYTES);
}

#[tokio::test]
async fn command_that_cannot_be_started_says_nothing_about_the_target() {
    let missing = ExecCheck {
        command: "/nonexistent/check".into(),
        arguments: vec![],
        user: None,
    };
    assert_eq!(
        run(missing).await,
        ProbeVerdict::Void(
            "'/nonexistent/check': there is no such file, or not its interpreter".into()
        )
    );
    let nobody = ExecCheck {
        user: Some("no-such-user".to_owned()),
        ..shell("exit 0")
    };
    assert_eq!(
        run(nobody).await,
        ProbeVerdict::Void("user 'no-such-user': there is no such user".into())
    );
}

/// What the child prints, given as the reason for its exit code 1.
async fn said(script: &str) -> String {
    match run(shell(&format!("{script}; exit 1"))).await {
        ProbeVerdict::Bad(reason) => reason.strip_prefix("exit code 1: ").unwrap().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// Threat 19. Whoever lists the folder has it open itself, as 3.
#[tokio::test]
async fn child_has_descriptors_0_to_2_only_and_cannot_gain_privileges() {
    use std::os::fd::AsRawFd;
    // One that every child would inherit, were it not for us.
    let leak = File::open("/proc/self/status").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    assert!(leak.as_raw_fd() > 3);
    let script = "set -- $(ls -l /proc/self/fd | sed -n 's/.* \\([0-9]*\\) -> .*/\\1/p'); echo $*";
    assert_eq!(said(script).await, "0 1 2 3");
    assert_eq!(
        said("for f in /proc/$$/fd/*; do echo -n ${f##*/},; done").await,
        "0,1,2,3,"
    );
    assert_eq!(
        said("sed -n 's/NoNewPrivs:[^0-9]*//p' /proc/self/status").await,
        "1"
    );
}

/// Threat 19: no shell reads the words of a command.
#[tokio::test]
async fn arguments_reach_the_command_as_they_are() {
    let words = "$(exit 7); `exit 7` | ~ * && exit 7";
    let check = ExecCheck {
        command: "/bin/ls".into(),
        arguments: vec![words.to_owned()],
        user: None,
    };
    let ProbeVerdict::Bad(reason) = run(check).await else {
        panic!("good");
    };
    assert!(
        reason.starts_with("exit code 2: ") && reason.contains(words),
        "{reason}"
    );
}

#[tokio::test]
async fn environment_is_whom_to_check_and_nothing_else() {
    // The shell adds PWD by itself (and `_`, and SHLVL).
    let expected =
        "FAIRLEAD_ADDRESS=192.0.2.7,FAIRLEAD_BACKEND=b1,FAIRLEAD_PORT=8080,FAIRLEAD_SERVICE=web,";
    let script = "env | sort | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | tr '\\n' ,";
    // Without PATH the shell uses its own.
    assert_eq!(said(script).await, expected);
}

#[tokio::test]
async fn user_is_another_one_without_groups() {
    if !nix::unistd::geteuid().is_root() {
        panic!("needs root, to become somebody else");
    }
    let check = ExecCheck {
        user: Some("nobody".to_owned()),
        ..shell("echo $(id -un) $(id -G); exit 1")
    };
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(
        run(check).await,
        bad_as(&format!("exit code 1: nobody {}", nobody.gid))
    );
}

/// The numbers of processes whose command line has this word.
fn processes(word: &str) -> Vec<String> {
    let named = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let line = std::fs::read(path.join("cmdline")).ok()?;
        let own = Path::new("/proc/self").canonicalize().ok()? == path;
        let found = String::from_utf8_lossy(&line).contains(word) && !own;
        found.then(|| path.display().to_string())
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(named)
        .collect()
}

/// Waits until there is none, which is when the kernel has ended what was killed.
async fn gone(word: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while !processes(word).is_empty() {
        assert!(Instant::now() < until, "left: {:?}", processes(word));
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn command_that_hangs_is_killed_with_its_children() {
    let began = Instant::now();
    let script = "sleep 98765.1 & sleep 98765.1; echo";
    assert_eq!(
        run_for(script, Duration::from_millis(300)).await,
        bad_as("command: timed out after 300 ms")
    );
    assert!(began.elapsed() < Duration::from_secs(5));
    gone("98765.1").await;
}

#[tokio::test]
async fn command_that_prints_without_end_is_killed_and_its_output_is_not_kept() {
    let script = "yes 98765.2";
    assert_eq!(
        run_for(script, Duration::from_millis(300)).await,
        bad_as("command: timed out after 300 ms")
    );
    gone("98765.2").await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_killed_when_it_ends() {
    let began = Instant::now();
    let verdict = run_for("sleep 98765.3 & exit 0", Duration::from_secs(10)).await;
    assert_eq!(verdict, ProbeVerdict::Good);
    assert!(began.elapsed() < Duration::from_secs(5));
    gone("98765.3").await;
}

#[tokio::test]
async fn abandoned_probe_leaves_no_process() {
    let check = shell("sleep 98765.4; echo");
    let target = target(&check, Duration::from_secs(60));
    let task = tokio::spawn(async move { probe(&target, &check, &mut Hearing::default()).await });
    let until = Instant::now() + Duration::from_secs(10);
    while processes("98765.4").is_empty() {
        assert!(Instant::now() < until, "it was not started");
        sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    gone("98765.4").await;
}

#[tokio::test]
async fn an_agent_is_heard_in_the_first_line_of_the_output() {
    let check = shell("echo 40%; echo more");
    let mut hearing = Hearing::to(Some(AgentSource::Line));
    let target = target(&check, Duration::from_secs(10));
    assert_eq!(
        probe(&target, &check, &mut hearing).await,
        ProbeVerdict::Good
    );
    assert_eq!(hearing.said(), Some(Some("40%".to_owned())));
}
