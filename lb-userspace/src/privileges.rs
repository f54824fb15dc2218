//! What the daemon may do once it runs: the capabilities that it keeps, and what is said where it has fewer or where the
//! kernel does not confine it. What it keeps and what it refuses stands in docs/security.md too, and a test compares them.
//!
//! Pure; [`confine`] acts.

pub mod confine;
pub mod preparer;
pub mod syscalls;

/// A capability that the daemon keeps.
#[derive(Debug)]
pub struct Capability {
    /// Its number, include/uapi/linux/capability.h.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// What cannot be done without it.
    pub need: &'static str,
}

const fn capability(number: u32, name: &'static str, need: &'static str) -> Capability {
    Capability { number, name, need }
}

/// All that the daemon keeps.
pub const KEPT: [Capability; 8] = [
    capability(
        2,
        "CAP_DAC_READ_SEARCH",
        "a reload of a file, and certificates and keys of checks, in folders of other users",
    ),
    capability(5, "CAP_KILL", "the end of commands that run as other users"),
    capability(6, "CAP_SETGID", "commands that run as other users"),
    capability(7, "CAP_SETUID", "commands that run as other users"),
    capability(
        12,
        "CAP_NET_ADMIN",
        "interfaces, next hops, claimed addresses, checks of VIPs",
    ),
    capability(
        13,
        "CAP_NET_RAW",
        "checks of type icmp, and the announcement of claimed addresses",
    ),
    capability(38, "CAP_PERFMON", "programs of the data plane"),
    capability(39, "CAP_BPF", "programs and maps of the data plane"),
];

/// `CAP_SYS_ADMIN`: the last two were split off it (Linux 5.8), and it stands for them where a process was given no other.
const SYS_ADMIN: u64 = bit(21);
/// These two.
const SPLIT_OFF: u64 = bit(38) | bit(39);

const fn bit(number: u32) -> u64 {
    match 1_u64.checked_shl(number) {
        Some(bit) => bit,
        None => 0,
    }
}

/// What stays of a permitted set.
pub fn keep(permitted: u64) -> u64 {
    let kept = KEPT.iter().fold(0, |set, kept| set | bit(kept.number));
    match permitted & SPLIT_OFF == SPLIT_OFF {
        true => permitted & kept,
        false => permitted & (kept | SYS_ADMIN),
    }
}

/// How far the daemon is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The capabilities that it kept.
    pub kept: u64,
    /// What the kernel would not do, and why.
    pub refused: Vec<String>,
}

impl Report {
    /// What is missing, in one line for the log; `None`: nothing.
    pub fn warning(&self) -> Option<String> {
        let stands_in = self.kept & SYS_ADMIN != 0;
        let is_missing = |capability: &&Capability| {
            let bit = bit(capability.number);
            self.kept & bit == 0 && !(stands_in && bit & SPLIT_OFF != 0)
        };
        let missing = KEPT.iter().filter(is_missing);
        let mut parts: Vec<String> = missing
            .map(|missing| format!("it lacks {} ({})", missing.name, missing.need))
            .collect();
        if stands_in {
            parts.push("it keeps CAP_SYS_ADMIN, having no CAP_BPF or no CAP_PERFMON (grant both: then it does without)".to_owned());
        }
        let refused = self.refused.iter();
        parts.extend(refused.map(|why| format!("the kernel would not {why}")));
        (!parts.is_empty()).then(|| {
            format!(
                "the daemon is not confined as it usually is: {}; see docs/security.md",
                parts.join("; ")
            )
        })
    }
}

#[cfg(test)]
mod tests;
