//! How many files this process may open, and so how many probes may be under way.
//!
//! The usual soft limit, 1,024, is for programs that use `select`, which this one does not; what it may have is the hard one. Commands of checks and
//! hooks get back what was there before.

use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The most probes that are under way at once, whatever the process may open.
const MOST: usize = 16_384;

/// Descriptors of a process of which nothing else is known (the usual soft limit).
const USUAL: u64 = 1024;

/// The soft limit that [`raise`] found.
static FOUND: OnceLock<u64> = OnceLock::new();

/// How many probes may be under way at once where the process may have so many descriptors: each holds one, some a second
/// one ([`super::runner::SECOND_CHECKS`]), and half is left to them and to all else. A silent target holds its permit until its timeout, so
/// with few of them many silent targets would delay the others.
pub fn concurrency(descriptors: u64) -> usize {
    usize::try_from(descriptors / 2)
        .unwrap_or(MOST)
        .clamp(1, MOST)
}

/// How many descriptors this process may have.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(USUAL, |(soft, _hard)| soft)
}

/// Raises the soft limit to the hard one. Gives both, or why that cannot be.
pub fn raise() -> nix::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok((*FOUND.get_or_init(|| soft), hard))
}

/// Gives back the soft limit that [`raise`] found. System calls and nothing else, as it runs between fork and exec.
pub(super) fn give_back() -> nix::Result<()> {
    let Some(found) = FOUND.get() else {
        return Ok(());
    };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    match setrlimit(Resource::RLIMIT_NOFILE, (*found).min(hard), hard) {
        // `fs.nr_open` was set below the hard limit meanwhile. More than it had harms no command.
        Err(Errno::EPERM) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_may_be_open_may_be_under_way() {
        for (descriptors, probes) in [(0, 1), (1, 1), (1024, 512), (1 << 20, MOST)] {
            assert_eq!(concurrency(descriptors), probes, "{descriptors}");
        }
        assert_eq!(concurrency(u64::MAX), MOST);
        assert!(limit() > 0);
    }
}
