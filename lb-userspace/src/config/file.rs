//! Reads configuration files, whole and once. I/O.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Outcome, parse_bytes};
use crate::model::Config;

/// Larger files are not configurations.
pub const LARGEST: u64 = 16 << 20;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("read {}: {source} ({})", path.display(), cure(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, device, pipe or socket.
    #[error("read {}: it is {kind}, not a regular file (give the path of the file itself)", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// More than [`LARGEST`] bytes.
    #[error("read {}: it is larger than {} MiB, which no configuration is (is the path right?)", path.display(), LARGEST >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl ReadError {
    /// The code of `codes`.
    pub fn code(&self) -> &'static super::Code {
        match self {
            Self::Io { .. } | Self::NotRegular { .. } => &super::codes::UNREADABLE,
            Self::TooLarge { .. } => &super::codes::TOO_LARGE,
        }
    }
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path; the option --config names another file",
        io::ErrorKind::PermissionDenied => "run as a user who may read it, or change its mode",
        _ => "check the file and the disk it is on",
    }
}

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The text it was read from.
    pub text: String,
    /// The outcome with the warnings.
    pub outcome: Outcome,
}

/// Why a file gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has errors; the text of this error is all of them, rendered without colours.
    #[error("{}", super::render::text(outcome, text, super::render::Colour::Plain))]
    Invalid {
        /// What was found.
        outcome: Box<Outcome>,
        /// The text, for rendering in another way.
        text: String,
    },
}

/// The bytes of a regular file of at most [`LARGEST`] bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_path_buf(),
        source,
    };
    // Opening a pipe must not wait for its writer.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(ReadError::NotRegular {
            path: path.to_path_buf(),
            kind: if meta.is_dir() {
                "a directory"
            } else {
                "a device, pipe or socket"
            },
        });
    }
    let mut bytes = Vec::new();
    file.take(LARGEST.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(ReadError::TooLarge {
            path: path.to_path_buf(),
        });
    }
    Ok(bytes)
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let bytes = read(path)?;
    let (outcome, text) = parse_bytes(&path.display().to_string(), &bytes);
    match outcome.config.clone() {
        Some(config) => Ok(Loaded {
            config,
            text,
            outcome,
        }),
        None => Err(LoadError::Invalid {
            outcome: Box::new(outcome),
            text,
        }),
    }
}
