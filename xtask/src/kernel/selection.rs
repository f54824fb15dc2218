//! Which tests run on another kernel, and why the others do not.

use std::path::Path;

use anyhow::Context;

use super::KernelVersion;
use crate::shell::output;

const SLOW: &str =
    "has bounds of time that an emulated CPU does not keep; e2e::patient is its stand-in";
const BENCH: &str = "is about the benchmark, whose figures are the host's";
const NETLINK: &str = "has bounds of milliseconds that an emulated CPU does not keep";
const USER_SPACE: &str =
    "makes a thousand data planes of which our own code refuses each; the kernel has no part in it";
const MEMORY: &str =
    "reads the kernel's own count of a map's memory, which Linux has from 6.4 on (`map_mem_usage`)";
const LINKS: &str =
    "is about links that Linux has from 6.6 on (TCX); its neighbour is about filters";
const LOAD: &str = "sends millions of packets, hours of them on an emulated CPU";
const SERVERS: &str = "needs a Python and servers that the guest does not have";
const NO_KERNEL: &str = "is about the tests' own tools and asks nothing of a kernel";

/// Tests that do not run there, by a prefix of their names, each with its reason. Tests that are not
/// listed run.
const LEFT_OUT: [(&str, &str); 40] = [
    ("bench::", BENCH),
    (
        "bpf::attachment::a_device_that_is_deleted_and_made_again_is_attached_anew",
        NETLINK,
    ),
    ("bpf::memory::", MEMORY),
    ("bpf::mutation::", USER_SPACE),
    ("bpf::probe::links_", LINKS),
    ("bpf::verdicts::", NETLINK),
    ("e2e::agents::", SLOW),
    ("e2e::black_holes::", SLOW),
    ("e2e::change::", SLOW),
    ("e2e::checks::", SERVERS),
    ("e2e::encapsulation::", SLOW),
    ("e2e::examples::", SLOW),
    ("e2e::failover::", SLOW),
    ("e2e::gigabyte::", SERVERS),
    ("e2e::idle::", SLOW),
    ("e2e::interfaces::", SLOW),
    ("e2e::iperf::", SERVERS),
    ("e2e::lab::", SLOW),
    ("e2e::neighbours::", SLOW),
    ("e2e::passive::healthy::", SLOW),
    ("e2e::real_path::", SLOW),
    ("e2e::relayed_errors::", SLOW),
    ("e2e::restart::", SLOW),
    ("e2e::schedulers::", SLOW),
    ("e2e::traffic::", SLOW),
    ("e2e::tunnel::", SLOW),
    ("failoverbench::", BENCH),
    ("fault::", SLOW),
    ("flood::", LOAD),
    ("lab_test::", NO_KERNEL),
    ("law_test::", NO_KERNEL),
    ("load_test::", NO_KERNEL),
    ("net_test::claims::", SLOW),
    ("net_test::ways::", NETLINK),
    ("netbench::", BENCH),
    ("ops::", SLOW),
    ("races::", LOAD),
    ("soak::", NO_KERNEL),
    ("storm::", LOAD),
    ("topology_test::", NO_KERNEL),
];

/// The tests of a binary, sorted out.
pub(super) struct Selection {
    /// Names of those that run.
    pub(super) chosen: Vec<String>,
    /// Names of those that do not, with the reason.
    left_out: Vec<(String, &'static str)>,
}

/// Asks the test binary for its tests.
pub(super) fn of(binary: &Path, filter: Option<&str>) -> anyhow::Result<Selection> {
    let listed = output(binary, &["--list", "--format", "terse"])
        .with_context(|| format!("{} does not list its tests", binary.display()))?;
    let names: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    select(&names, &LEFT_OUT, filter)
}

fn select(
    names: &[&str],
    left_out: &[(&'static str, &'static str)],
    filter: Option<&str>,
) -> anyhow::Result<Selection> {
    for (prefix, _) in left_out {
        anyhow::ensure!(
            names.iter().any(|name| name.starts_with(prefix)),
            "`{prefix}` is listed as a test that another kernel leaves out, but there is none: correct the table in \
             xtask/src/kernel/selection.rs"
        );
    }
    let mut selection = Selection {
        chosen: Vec::new(),
        left_out: Vec::new(),
    };
    let wanted = |name: &&&str| filter.is_none_or(|filter| name.contains(filter));
    for name in names.iter().filter(wanted) {
        match left_out.iter().find(|(prefix, _)| name.starts_with(prefix)) {
            Some((_, reason)) => selection.left_out.push(((*name).to_owned(), reason)),
            None => selection.chosen.push((*name).to_owned()),
        }
    }
    anyhow::ensure!(
        !selection.chosen.is_empty(),
        "no test is left to run{}",
        filter.map_or_else(String::new, |filter| format!(
            " whose name contains '{filter}'"
        ))
    );
    Ok(selection)
}

impl Selection {
    /// Says what will not run.
    pub(super) fn print(&self, version: KernelVersion) {
        for (name, reason) in &self.left_out {
            println!("not on {version}: {name}: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["bpf::one", "bpf::two", "e2e::one", "prog::one"];

    #[track_caller]
    fn check(
        left_out: &[(&'static str, &'static str)],
        filter: Option<&str>,
        chosen: &[&str],
        others: &[(&str, &'static str)],
    ) {
        let selection = select(&NAMES, left_out, filter).unwrap();
        assert_eq!(selection.chosen, chosen);
        let others: Vec<_> = others.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect();
        assert_eq!(selection.left_out, others);
    }

    #[test]
    fn everything_runs_that_is_not_listed() {
        check(&[], None, &NAMES, &[]);
        check(
            &[("e2e::", "slow"), ("bpf::two", "odd")],
            None,
            &["bpf::one", "prog::one"],
            &[("bpf::two", "odd"), ("e2e::one", "slow")],
        );
        check(
            &[("e2e::", "slow")],
            Some("one"),
            &["bpf::one", "prog::one"],
            &[("e2e::one", "slow")],
        );
    }

    #[test]
    fn a_reason_for_nothing_and_a_run_of_nothing_are_errors() {
        assert!(select(&NAMES, &[("gone::", "x")], None).is_err());
        assert!(select(&NAMES, &[("e2e::", "x")], Some("e2e")).is_err());
        assert!(select(&NAMES, &[], Some("nothing")).is_err());
    }

    #[test]
    fn every_reason_is_said() {
        assert!(LEFT_OUT.iter().all(|(_, reason)| !reason.is_empty()));
    }
}
