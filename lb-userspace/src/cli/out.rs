//! What a command prints. Unlike `println!`, a reader that has gone (`fairlead status | head -1`) is an error here, which
//! `main` takes for the end, and no panic.

use std::fmt::Display;
use std::io::Write as _;

/// Prints a line.
pub fn line(text: impl Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

/// True when the command failed because nobody reads what it prints any more.
pub fn is_unread(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
