//! Who may do what others may not, each with its reason. A path that ends with `/` is a folder.

use super::{Complaint, File};

/// A path and why it is listed.
pub(super) struct Entry {
    pub(super) path: &'static str,
    why: &'static str,
}

const fn entry(path: &'static str, why: &'static str) -> Entry {
    Entry { path, why }
}

/// Files that may name aya.
pub(super) const AYA: [Entry; 13] = [
    entry(
        "lb-userspace/src/dataplane/bpf.rs",
        "the one Dataplane over BPF",
    ),
    entry("lb-userspace/src/dataplane/bpf/", "its parts"),
    entry(
        "lb-ebpf/src/main.rs",
        "the kernel binding: the program's entry",
    ),
    entry("lb-ebpf/src/maps.rs", "the kernel binding: the maps"),
    entry("lb-ebpf/src/maps/", "their values, and what runs next"),
    entry("lb-ebpf/src/xdp.rs", "the kernel binding: the entry point"),
    entry("lb-ebpf/src/context.rs", "the kernel binding: the packet"),
    entry(
        "lb-ebpf/src/decap/main.rs",
        "the kernel binding of the decapsulator",
    ),
    entry(
        "lb-ebpf/src/probe/main.rs",
        "the kernel binding of the program for checks",
    ),
    entry(
        "lb-ebpf/src/losses/main.rs",
        "programs at the kernel's tracepoints",
    ),
    entry("lb-ebpf/src/bench/", "the benchmark's own programs"),
    entry(
        "tests/",
        "loads the object itself to compare it with the host",
    ),
    entry("xtask/src/tidy/", "the rule itself"),
];

/// Files that may hold `unsafe`.
pub(super) const UNSAFE: [Entry; 24] = [
    entry(
        "lb-userspace/src/health/unacked.rs",
        "what a socket has sent and is not acknowledged: no crate asks",
    ),
    entry(
        "lb-userspace/src/health/exec/child.rs",
        "what a child does between fork and exec",
    ),
    entry(
        "lb-ebpf/src/frame.rs",
        "the one bounds check of packet memory",
    ),
    entry("lb-ebpf/src/mem.rs", "packet memory on the host"),
    entry(
        "lb-ebpf/src/wire.rs",
        "headers as they lie in packet memory",
    ),
    entry(
        "lb-ebpf/src/maps.rs",
        "map values are shared with other CPUs",
    ),
    entry(
        "lb-ebpf/src/maps/counts.rs",
        "functions of their own in the kernel",
    ),
    entry(
        "lb-ebpf/src/maps/mss.rs",
        "functions that the verifier walks by themselves keep their names",
    ),
    entry("lb-ebpf/src/maps/kept.rs", "as above"),
    entry("lb-ebpf/src/maps/nat.rs", "as above"),
    entry("lb-ebpf/src/maps/reply.rs", "as above"),
    entry(
        "lb-ebpf/src/maps/path.rs",
        "as above, and packets write into their backends' lines",
    ),
    entry(
        "lb-ebpf/src/maps/way.rs",
        "one program's words for the next",
    ),
    entry(
        "lb-ebpf/src/tables.rs",
        "words that other CPUs and the control plane change",
    ),
    entry("lb-ebpf/src/xdp.rs", "the kernel's clock"),
    entry("lb-ebpf/src/context.rs", "the kernel's packet pointers"),
    entry(
        "lb-ebpf/src/decap/main.rs",
        "the decapsulator's maps and licence section",
    ),
    entry(
        "lb-ebpf/src/probe/main.rs",
        "the packet in a socket buffer, and the licence section",
    ),
    entry(
        "lb-ebpf/src/losses/main.rs",
        "the kernel's devices, and the licence section",
    ),
    entry(
        "lb-ebpf/src/main.rs",
        "the program's entry and licence section",
    ),
    entry(
        "lb-ebpf/src/bench/",
        "the benchmark's driver makes packets, shares maps and calls programs",
    ),
    entry("lb-userspace/src/dataplane/bpf.rs", "maps in shared memory"),
    entry("lb-userspace/src/dataplane/bpf/", "maps in shared memory"),
    entry("tests/", "namespaces, raw sockets, test runs"),
];

/// Modules that decide and do nothing: no clock, no random number, no file, no socket, no
/// environment, and no order that differs from run to run.
pub(super) const PURE: [Entry; 32] = [
    entry("lb-userspace/src/agent.rs", "reports to parts of weights"),
    entry("lb-userspace/src/announce.rs", "what to announce"),
    entry("lb-userspace/src/cluster.rs", "who owns what"),
    entry("lb-userspace/src/config.rs", "text to configuration"),
    entry("lb-userspace/src/decap.rs", "whom a decapsulator believes"),
    entry("lb-userspace/src/desired.rs", "state to image"),
    entry("lb-userspace/src/desired/", "state to image"),
    entry("lb-userspace/src/event.rs", "what can happen"),
    entry("lb-userspace/src/explain.rs", "why a packet went where"),
    entry("lb-userspace/src/health.rs", "results to health"),
    entry(
        "lb-userspace/src/health/damping.rs",
        "how long a flapping target is kept down",
    ),
    entry("lb-userspace/src/health/hearing.rs", "what an agent says"),
    entry("lb-userspace/src/health/streak.rs", "results in a row"),
    entry("lb-userspace/src/history.rs", "what is kept"),
    entry("lb-userspace/src/hooks.rs", "who is told what, and when"),
    entry("lb-userspace/src/ids.rs", "who has which id"),
    entry("lb-userspace/src/latency.rs", "times to parts of weights"),
    entry("lb-userspace/src/load.rs", "what flows weigh"),
    entry("lb-userspace/src/maglev.rs", "pool to ring"),
    entry("lb-userspace/src/model.rs", "the nouns"),
    entry("lb-userspace/src/model/", "the nouns"),
    entry("lb-userspace/src/neigh.rs", "next hops"),
    entry("lb-userspace/src/plan.rs", "images to operations"),
    entry("lb-userspace/src/plan/", "images to operations"),
    entry("lb-userspace/src/privileges.rs", "what stays of a set"),
    entry("lb-userspace/src/saving.rs", "who waits for which save"),
    entry("lb-userspace/src/state.rs", "events to effects"),
    entry("lb-userspace/src/state/", "events to effects"),
    entry("lb-userspace/src/status.rs", "what is shown"),
    entry("lb-userspace/src/store.rs", "the form of the state file"),
    entry("lb-userspace/src/velocity.rs", "how fast a pool may shrink"),
    entry("lb-ebpf/src/pipeline.rs", "the path of a packet"),
];

/// Files that may be longer than the limit.
pub(super) const LONG: [Entry; 0] = [];

/// Whether one of the entries covers the path.
pub(super) fn covers(entries: &[Entry], path: &str) -> bool {
    entries
        .iter()
        .any(|entry| match entry.path.strip_suffix('/') {
            Some(_) => path.starts_with(entry.path),
            None => path == entry.path,
        })
}

/// An exception for a file that is gone must go, too.
pub(super) fn check(files: &[File]) -> Vec<Complaint> {
    LONG.iter()
        .filter(|entry| !files.iter().any(|file| file.path == entry.path))
        .map(|entry| Complaint {
            path: "xtask/src/tidy/exceptions.rs".into(),
            line: 1,
            text: format!(
                "{} ({}) is listed as long but is not there",
                entry.path, entry.why
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_covers_what_is_in_it_and_a_file_only_itself() {
        let entries = [entry("a/b.rs", "x"), entry("c/", "x")];
        for (path, covered) in [
            ("a/b.rs", true),
            ("a/b.rs.rs", false),
            ("c/d/e.rs", true),
            ("c.rs", false),
        ] {
            assert_eq!(covers(&entries, path), covered, "{path}");
        }
    }

    #[test]
    fn every_entry_says_why() {
        for entry in AYA.iter().chain(&UNSAFE).chain(&PURE).chain(&LONG) {
            assert!(!entry.why.is_empty(), "{}", entry.path);
        }
    }
}
