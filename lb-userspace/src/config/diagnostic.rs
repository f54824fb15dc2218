//! One thing that is wrong (or doubtful) in a configuration, and where. Pure; `render` prints it.

use std::ops::Range;

use super::codes::Code;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used; someone should look.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A place in the text, for people: both count from 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A remark on another place that has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Bytes in the text.
    pub span: Range<usize>,
    /// Where that is.
    pub position: Position,
    /// The remark.
    pub text: String,
}

/// A change that would cure it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// Bytes to replace.
    pub span: Range<usize>,
    /// With this text.
    pub replacement: String,
}

/// One thing that is wrong or doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind.
    pub code: &'static Code,
    /// Bytes in the text.
    pub span: Range<usize>,
    /// Where that begins.
    pub position: Position,
    /// The key, with its tables and, where it is known, the name of service and backend:
    /// `service.web.backend.b1.weight`; empty: the whole file.
    pub key: String,
    /// What is wrong with what, and why.
    pub message: String,
    /// What to do.
    pub help: String,
    /// The cure as text, where there is one.
    pub suggestion: Option<Suggestion>,
    /// Other places.
    pub labels: Vec<Label>,
}

/// Where lines begin, to turn bytes into positions.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Reads the text once.
    pub(super) fn new(text: &'a str) -> Self {
        let after = |(at, _): (usize, &str)| at.saturating_add(1);
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(after))
            .collect();
        Self { text, starts }
    }

    /// The position of a byte.
    pub(super) fn position(&self, byte: usize) -> Position {
        let line = self.starts.partition_point(|&s| s <= byte).max(1);
        let start = self.start(line);
        let before = self.text.get(start..floor(self.text, byte)).unwrap_or("");
        Position {
            line,
            column: before.chars().count().saturating_add(1),
        }
    }

    /// The bytes of a line without its end.
    pub(super) fn span(&self, line: usize) -> Range<usize> {
        let start = self.start(line);
        let end = match self.starts.get(line) {
            Some(next) => next.saturating_sub(1),
            None => self.text.len(),
        };
        let end = end.max(start);
        match self
            .text
            .get(start..end)
            .is_some_and(|row| row.ends_with('\r'))
        {
            true => start..end.saturating_sub(1),
            false => start..end,
        }
    }

    fn start(&self, line: usize) -> usize {
        let known = self.starts.get(line.saturating_sub(1)).copied();
        known.unwrap_or(self.text.len())
    }
}

/// The beginning of the character that this byte is part of.
pub(super) fn floor(text: &str, byte: usize) -> usize {
    let byte = byte.min(text.len());
    (0..=byte)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}
