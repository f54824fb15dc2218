//! Targets that answer with malice, for every protocol of checks (faults A6 and B5, threats 20 and 22): whatever they
//! send, the probe ends by a bound of its own or at its timeout, says which, and keeps nothing.

mod bytes;
mod cases;
mod target;

use std::time::Duration;

use self::cases::{Case, Ends, cases};
use self::target::Hostile;
use crate::health::hearing::Hearing;
use crate::health::runner::{Tools, probe};
use crate::health::tls::fixture::Authority;
use crate::model::{ProbeVerdict, Target};

/// Ends a test that hangs: longer than any probe here may take.
const FOREVER: Duration = Duration::from_secs(60);

/// What a target can send before it is cut off: what the kernel's two buffers hold and a little more.
const SENT: u64 = 16 << 20;

/// A probe that its timeout ends has a short one; for any other it is never up.
fn timeout(ends: Ends) -> Duration {
    match ends {
        Ends::AtItsTimeout => Duration::from_millis(300),
        Ends::ByABound => FOREVER,
    }
}

/// Probes such a target once; gives the verdict, what its agent is taken to have said, and how much it could send.
async fn run(case: &Case, ca: &Authority, tools: &Tools) -> (ProbeVerdict, Option<String>, u64) {
    let hostile = Hostile::start(case, ca).await;
    let timeout = timeout(case.ends);
    let target = Target {
        backend: "web/b1".parse().unwrap(),
        address: hostile.address.ip(),
        port: hostile.address.port(),
        real_path: None,
        full_size: None,
        check: case.check.clone(),
        agent: case.agent,
        interval: timeout,
        fast_interval: timeout,
        timeout,
        rise: 1,
        fall: 1,
        opening: 1,
        jitter: Duration::ZERO,
    };
    let mut hearing = Hearing::to(case.agent);
    let probing = probe(&target, tools, &mut hearing);
    let verdict = tokio::time::timeout(FOREVER * 2, probing).await;
    let verdict = verdict.unwrap_or_else(|_| panic!("{}: it never ends", case.name));
    (verdict, hearing.said().flatten(), hostile.ended().await)
}

#[tokio::test]
async fn every_hostile_answer_is_cut_by_its_own_bound_and_the_reason_says_which() {
    let (ca, tools) = (Authority::new(), Tools::default());
    let mut wrong = Vec::new();
    for case in cases(&ca) {
        let (verdict, _, sent) = run(&case, &ca, &tools).await;
        let right = match &verdict {
            ProbeVerdict::Bad(reason) => !case.says.is_empty() && reason.starts_with(case.says),
            ProbeVerdict::Good => case.says.is_empty(),
            ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_) | ProbeVerdict::Void(_) => false,
        };
        if !right {
            wrong.push(format!("{}: {verdict:?}, not '{}'", case.name, case.says));
        }
        if sent > SENT && case.ends == Ends::ByABound {
            wrong.push(format!("{}: it could send {sent} bytes", case.name));
        }
        println!("{}: {verdict:?}, {sent} bytes", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_protocol_has_a_hostile_target() {
    let ca = Authority::new();
    let words: std::collections::BTreeSet<_> = cases(&ca).iter().map(|c| c.check.word()).collect();
    // `none` asks nobody, and nobody can answer the other two but the kernel and a command of the operator.
    let all = ["dns", "grpc", "http", "http2", "https", "tcp", "tls", "udp"];
    assert_eq!(words.into_iter().collect::<Vec<_>>(), all);
}

#[tokio::test]
async fn agent_that_talks_without_end_is_heard_to_its_bound() {
    let (ca, tools) = (Authority::new(), Tools::default());
    let mut heard = 0;
    for case in cases(&ca).iter().filter(|c| c.agent.is_some()) {
        let (_, said, _) = run(case, &ca, &tools).await;
        let expected = match case.ends {
            Ends::ByABound => Some("9".repeat(64)),
            // Half a line is no report.
            Ends::AtItsTimeout => None,
        };
        assert_eq!(said, expected, "{}", case.name);
        heard += 1;
    }
    assert_eq!(heard, 3);
}

/// Threat 22: who answers sends the prober nowhere, whatever words the protocol has for it.
#[tokio::test]
async fn nobody_is_asked_whom_an_answer_names() {
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = other.local_addr().unwrap();
    let (ca, tools) = (Authority::new(), Tools::default());
    for case in cases::elsewhere(&ca, there) {
        let (verdict, _, _) = run(&case, &ca, &tools).await;
        assert_eq!(
            verdict,
            ProbeVerdict::Bad(case.says.to_owned()),
            "{}",
            case.name
        );
    }
    // A connection would be in the accept queue by now: each probe has ended, and loopback is no network.
    let waits = futures_util::FutureExt::now_or_never(other.accept());
    assert!(waits.is_none(), "somebody came: {waits:?}");
}

/// A field of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Set in the process that measures alone.
const ALONE: &str = "FAIRLEAD_TEST_ALONE";

/// Other tests share this process and its memory, so the measurement gets one of its own.
#[test]
fn hostile_answers_leave_nothing_in_memory() {
    let name = "health::tests::hostile::hostile_answers_alone";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
    println!("{text}");
}

/// So many probes of a case would show if each kept what it reads: 64 KiB or more.
const RUNS: usize = 20;
/// RELIABILITY.md, A6: growth.
const GROWTH: u64 = 1 << 20;
/// What one probe may need while it lasts, servers of this process included.
const PEAK: u64 = 4 << 20;

#[tokio::test]
async fn hostile_answers_alone() {
    if std::env::var_os(ALONE).is_none() {
        // Beside other tests memory cannot be judged; verdicts are another test's matter.
        return;
    }
    let (ca, tools) = (Authority::new(), Tools::default());
    let all = cases(&ca);
    // Code that is run for the first time is read from the file, and counts too.
    for case in &all {
        run(case, &ca, &tools).await;
    }
    for case in all.iter().filter(|case| case.ends == Ends::ByABound) {
        run(case, &ca, &tools).await;
        let before = memory("RssAnon");
        let mapped = memory("VmRSS");
        // The peak begins anew (proc(5), clear_refs).
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        for _ in 0..RUNS {
            run(case, &ca, &tools).await;
        }
        let grown = memory("RssAnon").saturating_sub(before);
        let peak = memory("VmHWM").saturating_sub(mapped);
        println!("{}: {grown} bytes more, {peak} at most", case.name);
        assert!(grown <= GROWTH, "{}: {grown} bytes stay", case.name);
        assert!(peak <= PEAK, "{}: {peak} bytes at a time", case.name);
    }
}
