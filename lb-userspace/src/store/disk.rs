//! Documents on disk: written to a temporary file, synced, renamed, the directory synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, decode, encode};

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system refused.
    #[error("{call} {}: {source}", path.display())]
    Io {
        /// What was asked.
        call: &'static str,
        /// Of which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Somebody else may write there.
    #[error(
        "{}: its owner is uid {owner} and its mode {mode:04o}, but it must be uid {us}'s and nobody else's to write (chown and chmod it, or name another directory)",
        path.display()
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// Who we are.
        us: u32,
    },
    /// Another daemon has taken over.
    #[error("{}: not written, since another daemon owns it now", path.display())]
    NotOurs {
        /// Of which file.
        path: PathBuf,
    },
    /// The content is not usable.
    #[error(
        "{}: {source} (move the file away to start without it: names keep their flows as long as the maps are pinned)",
        path.display()
    )]
    Content {
        /// Of which file.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
}

/// Makes a directory that only its owner may enter, if it is not there. One that is there must be ours, and
/// nobody else's to write: keys, sockets and what root writes would be another's.
pub fn make_dir(path: &Path) -> Result<(), DiskError> {
    let fail = |call| {
        move |source| DiskError::Io {
            call,
            path: path.to_owned(),
            source,
        }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(fail("create directory"))?;
    let meta = fs::metadata(path).map_err(fail("look at"))?;
    let us = nix::unistd::geteuid().as_raw();
    if meta.uid() != us || meta.mode() & 0o022 != 0 {
        return Err(DiskError::Unsafe {
            path: path.to_owned(),
            owner: meta.uid(),
            mode: meta.mode() & 0o7777,
            us,
        });
    }
    Ok(())
}

/// Reads a document; `None` when there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiskError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(DiskError::Io {
                call: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    decode(&bytes)
        .map(Some)
        .map_err(|source| DiskError::Content {
            path: path.to_owned(),
            source,
        })
}

/// Writes a document: after this returns, a crash leaves the new one, before it the old one.
pub fn write<T: Serialize>(path: &Path, document: &T) -> Result<(), DiskError> {
    let bytes = encode(document).map_err(|source| DiskError::Content {
        path: path.to_owned(),
        source,
    })?;
    write_bytes(path, &bytes)
}

/// The same for bytes in a form of their own.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = path.with_extension("tmp");
    let fail = |call: &'static str| {
        move |source: io::Error| DiskError::Io {
            call,
            path: path.to_owned(),
            source,
        }
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&temporary)
        .map_err(fail("create the temporary file beside"))?;
    file.write_all(bytes)
        .map_err(fail("write the temporary file beside"))?;
    file.sync_all()
        .map_err(fail("sync the temporary file beside"))?;
    drop(file);
    fs::rename(&temporary, path).map_err(fail("rename the temporary file to"))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|d| d.sync_all())
        .map_err(fail("sync the directory of"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_written_document_is_read_back_and_a_missing_one_is_none() {
        let dir = std::env::temp_dir().join(format!("fairlead-disk-{}", std::process::id()));
        make_dir(&dir).unwrap();
        let path = dir.join("state.json");
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), None);
        write(&path, &vec![1u8, 2, 3]).unwrap();
        write(&path, &vec![4u8]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![4]));
        fs::write(&path, b"nonsense").unwrap();
        assert!(matches!(
            read::<Vec<u8>>(&path),
            Err(DiskError::Content { .. })
        ));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let dir = std::env::temp_dir().join(format!("fairlead-open-{}", std::process::id()));
        make_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let error = make_dir(&dir).unwrap_err().to_string();
        assert!(error.contains("mode 0777"), "{error}");
        fs::remove_dir(&dir).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
        let dir = std::env::temp_dir().join(format!("fairlead-link-{}", std::process::id()));
        make_dir(&dir).unwrap();
        let target = dir.join("precious");
        fs::write(&target, b"content").unwrap();
        std::os::unix::fs::symlink(&target, dir.join("state.tmp")).unwrap();
        assert!(write(&dir.join("state.json"), &1).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"content");
        fs::remove_dir_all(&dir).unwrap();
    }
}
