//! The secret keys: made once, kept in the state directory, never constants and never per start,
//! because pinned flows and rings were placed by them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use lb_common::HashKey;
use serde::{Deserialize, Serialize};

use crate::store::disk;

/// Keys and their name. No `Debug`: keys do not print.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Seeds {
    /// Names the keys without showing them.
    pub(super) id: u64,
    flow: [u64; 2],
    ring: [u64; 2],
}

impl Seeds {
    /// Key of the flow hash.
    pub(super) fn flow_key(&self) -> HashKey {
        HashKey(self.flow)
    }

    /// Key of the rings.
    pub(super) fn ring_key(&self) -> HashKey {
        HashKey(self.ring)
    }
}

/// The keys of a state directory; made and written if there are none.
pub(super) fn load_or_make(path: &Path) -> anyhow::Result<Seeds> {
    if let Some(seeds) = disk::read(path)? {
        return Ok(seeds);
    }
    let [id, a, b, c, d] = random().context("make secret keys from /dev/urandom")?;
    let seeds = Seeds {
        id,
        flow: [a, b],
        ring: [c, d],
    };
    disk::write(path, &seeds)?;
    Ok(seeds)
}

fn random() -> std::io::Result<[u64; 5]> {
    let mut bytes = [0u8; 40];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut words = [0u64; 5];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*chunk);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_differ_between_directories() {
        let dir = std::env::temp_dir().join(format!("fairlead-seeds-{}", std::process::id()));
        disk::make_dir(&dir).unwrap();
        let first = load_or_make(&dir.join("a")).unwrap();
        let again = load_or_make(&dir.join("a")).unwrap();
        let other = load_or_make(&dir.join("b")).unwrap();
        assert_eq!(
            (first.id, first.flow, first.ring),
            (again.id, again.flow, again.ring)
        );
        assert_ne!(first.flow, other.flow);
        assert_ne!(first.flow, first.ring);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
