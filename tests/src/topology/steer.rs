//! Every flow of a host on one CPU, as the queues of a network card see to it (RPS,
//! Documentation/networking/scaling.rst).
//!
//! A veth hands a frame to the stack on whichever CPU its sender runs. So two segments of one
//! connection may be received on two CPUs at once. While one of them turns a request for a
//! connection into a connection, a lookup on the other CPU finds neither of the two in the
//! kernel's table and takes the segment for the listener's, which answers a segment without SYN by
//! a reset (`inet_ehash_insert` and `__inet_lookup_established` in net/ipv4/inet_hashtables.c,
//! seen on Linux 6.18 without any XDP program). No network card with queues by flow does that to a
//! server, and it would look like a connection that the balancer had broken. For the same reason a
//! switch port keeps the order of a flow's frames.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::Namespace;

/// Spreads what an interface receives over the CPUs that the calling thread may use, by flow.
/// `directory` has room for a view of the namespace's sysfs.
pub(super) fn by_flow(namespace: &Namespace, device: &str, directory: &Path) -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("read the CPU affinity")?;
    let mask = cpu_mask(|cpu| allowed.is_set(cpu).unwrap_or(false));
    let sys = directory.join("sys");
    fs::create_dir_all(&sys).with_context(|| format!("create {}", sys.display()))?;
    namespace.run(|| {
        // Sysfs shows the network namespace of the thread that mounts it.
        mount(
            None::<&str>,
            &sys,
            Some("sysfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mount sysfs")?;
        let file = sys.join(format!("class/net/{device}/queues/rx-0/rps_cpus"));
        let written = fs::write(&file, &mask)
            .with_context(|| format!("write {mask} to {} (CONFIG_RPS?)", file.display()));
        umount2(&sys, MntFlags::MNT_DETACH).context("unmount sysfs")?;
        written
    })
}

/// CPUs as the kernel reads them: hexadecimal words of 32 bits, the highest first.
pub fn cpu_mask(allowed: impl Fn(usize) -> bool) -> String {
    let highest = (0..CpuSet::count()).rfind(|&cpu| allowed(cpu)).unwrap_or(0);
    let word = |n: usize| {
        let bits = (0..32).filter(|bit| allowed(n * 32 + bit));
        format!("{:08x}", bits.fold(0_u32, |word, bit| word | 1 << bit))
    };
    let words: Vec<_> = (0..=highest / 32).rev().map(word).collect();
    words.join(",")
}
