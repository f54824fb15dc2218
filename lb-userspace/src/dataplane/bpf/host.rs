//! What the machine must offer before anything is touched: privileges, kernel, CPUs.

use std::fs;

use super::error::BpfError;

/// The oldest kernel: `BPF_CMPXCHG` came with 5.12 (XDP links with 5.9, mappable arrays with 5.5);
/// 5.15 is the first long-term one that has it. A program that calls functions and another program needs a compiler that
/// counts both: x86 has it from 5.10 on, arm64 from 6.0 (kernel commit d4609a5d8c70), others later.
const OLDEST: (u32, u32) = match cfg!(target_arch = "x86_64") {
    true => (5, 15),
    false => (6, 1),
};
/// The same in words.
const OLDEST_NAME: &str = match cfg!(target_arch = "x86_64") {
    true => "5.15",
    false => "6.1",
};

/// Capabilities by number, include/uapi/linux/capability.h.
const NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const SYS_ADMIN: u32 = 21;
const PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const BPF: (u32, &str) = (39, "CAP_BPF");

/// Which of the needed capabilities are not in an effective set. `CAP_SYS_ADMIN` stands for the two
/// that were split off it. Pure.
pub fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |bit: u32| effective.checked_shr(bit).unwrap_or(0) & 1 == 1;
    [
        (BPF, has(BPF.0) || has(SYS_ADMIN)),
        (NET_ADMIN, has(NET_ADMIN.0)),
        (PERFMON, has(PERFMON.0) || has(SYS_ADMIN)),
    ]
    .into_iter()
    .filter(|(_, present)| !present)
    .map(|((_, name), _)| name)
    .collect()
}

/// The effective set in the text of /proc/self/status. Pure.
pub fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Major and minor of `uname -r`. Pure.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Refuses without the privileges to do `what`.
pub(crate) fn check_privileges(what: &'static str) -> Result<(), BpfError> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .map_err(BpfError::system("read /proc/thread-self/status"))?;
    let missing = missing_capabilities(effective_capabilities(&status).unwrap_or(0));
    if missing.is_empty() {
        return Ok(());
    }
    Err(BpfError::Privilege {
        what,
        missing: missing.join(" "),
    })
}

/// Refuses on an old kernel.
pub(crate) fn check_kernel() -> Result<(), BpfError> {
    let name = nix::sys::utsname::uname().map_err(BpfError::errno("uname"))?;
    let release = name.release().to_string_lossy().into_owned();
    if kernel_version(&release).is_none_or(|found| found >= OLDEST) {
        return Ok(());
    }
    Err(BpfError::OldKernel {
        found: release,
        needed: OLDEST_NAME,
        feature: "atomic compare-and-exchange in BPF programs",
    })
}

/// CPUs that can ever come online: those that counters need lines for.
pub(crate) fn possible_cpus() -> Result<u32, BpfError> {
    let path = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(path).map_err(BpfError::system(format!("read {path}")))?;
    last_cpu(&text)
        .and_then(|last| last.checked_add(1))
        .ok_or_else(|| BpfError::Object {
            why: format!("{path} says {text:?}, which is no list of CPUs"),
        })
}

/// The largest number in a list like `0-3,8-11`. Pure.
fn last_cpu(list: &str) -> Option<u32> {
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let check = |effective: u64, expected: &[&str]| {
            assert_eq!(missing_capabilities(effective), expected, "{effective:x}");
        };
        check(0, &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        check(u64::MAX, &[]);
        check(1 << 21, &["CAP_NET_ADMIN"]);
        check(1 << 21 | 1 << 12, &[]);
        check(1 << 39 | 1 << 38, &["CAP_NET_ADMIN"]);
        check(1 << 12 | 1 << 38, &["CAP_BPF"]);
        check(1 << 12 | 1 << 39, &["CAP_PERFMON"]);
    }

    #[test]
    fn the_effective_set_is_read_from_the_status_file() {
        let text = "CapPrm:\t0000000000000001\nCapEff:\t000001fffeffffff\n";
        assert_eq!(effective_capabilities(text), Some(0x1ff_feff_ffff));
        assert_eq!(effective_capabilities("Name: x"), None);
    }

    #[test]
    fn kernel_releases_are_parsed() {
        for (release, expected) in [
            ("6.18.44-fc-v657", Some((6, 18))),
            ("5.4.0-150-generic", Some((5, 4))),
            ("6.1-rc3", Some((6, 1))),
            ("odd", None),
        ] {
            assert_eq!(kernel_version(release), expected, "{release}");
        }
    }

    #[test]
    fn the_last_possible_cpu_is_found() {
        for (list, expected) in [
            ("0-1\n", Some(1)),
            ("0", Some(0)),
            ("0-3,8-11", Some(11)),
            ("", None),
        ] {
            assert_eq!(last_cpu(list), expected, "{list}");
        }
    }
}
