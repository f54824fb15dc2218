//! One daemon at a time: flock(2) on a file in the run directory.
//!
//! The lock dies with the process, so no stale one can be left. It does not fence a daemon that was
//! paused while its lock was taken away with the directory; the owner epoch in the header does.

use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::error::BpfError;
use super::place::create_path;

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<std::fs::File>,
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(run_dir: &Path) -> Result<Self, BpfError> {
        create_path(run_dir)?;
        let path = run_dir.join("fairlead.lock");
        let shown = path.display();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(BpfError::system(format!("open {shown}")))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let holder = match file.read_to_string(&mut text) {
                    Ok(_) if !text.trim().is_empty() => format!("pid {}", text.trim()),
                    _ => "unknown pid".into(),
                };
                return Err(BpfError::Locked { path, holder });
            }
            Err((_, errno)) => return Err(BpfError::errno(format!("lock {shown}"))(errno)),
        };
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(BpfError::system(format!("write {shown}")))?;
        Ok(Self { _file: file })
    }
}
