//! Gathers diagnostics while a file is read: counts them, keeps the first ones, and leaves out what
//! only follows from a syntax error. Pure.

use std::ops::Range;

use super::codes::{self, Code};
use super::diagnostic::{Diagnostic, Label, Lines, Severity, Suggestion};

/// More than this many are counted, not kept: nobody reads them, and a hostile file has millions.
pub(super) const KEPT: usize = 200;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Its bytes in the text.
    pub(super) span: Range<usize>,
}

/// Where diagnostics are gathered.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    /// The text.
    pub(super) text: &'a str,
    /// Its lines.
    pub(super) lines: Lines<'a>,
    /// What was found.
    pub(super) found: Vec<Diagnostic>,
    /// Errors seen, kept or not.
    pub(super) errors: usize,
    /// Diagnostics that were not kept.
    pub(super) omitted: usize,
    /// Lines with syntax errors: what the parser recovered there is not what was meant, so that
    /// nothing more is said about them, and nothing about what seems to be missing.
    pub(super) torn: Vec<usize>,
}

/// A diagnostic under construction; the fields are those of [`Diagnostic`].
#[derive(Debug)]
pub(super) struct Note {
    pub(super) code: &'static Code,
    pub(super) span: Range<usize>,
    pub(super) key: String,
    pub(super) message: String,
    pub(super) help: String,
    pub(super) suggestion: Option<(Range<usize>, String)>,
    pub(super) labels: Vec<(Range<usize>, String)>,
}

impl Note {
    /// With the cure of the code as help.
    pub(super) fn new(
        code: &'static Code,
        span: &Range<usize>,
        key: &str,
        message: String,
    ) -> Self {
        Self {
            code,
            span: span.clone(),
            key: key.to_owned(),
            message,
            help: code.cure.to_owned(),
            suggestion: None,
            labels: Vec::new(),
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// Replacing the place with this text cures it.
    pub(super) fn suggest(mut self, replacement: impl Into<String>) -> Self {
        self.suggestion = Some((self.span.clone(), replacement.into()));
        self
    }

    pub(super) fn label(mut self, span: &Range<usize>, text: impl Into<String>) -> Self {
        self.labels.push((span.clone(), text.into()));
        self
    }
}

impl<'a> Notes<'a> {
    /// None yet.
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            lines: Lines::new(text),
            found: Vec::new(),
            errors: 0,
            omitted: 0,
            torn: Vec::new(),
        }
    }

    /// Keeps a note, or counts it.
    pub(super) fn add(&mut self, note: Note) {
        if !self.torn.is_empty() && self.follows_from_syntax(&note) {
            return;
        }
        if note.code.severity == Severity::Error {
            self.errors = self.errors.saturating_add(1);
        }
        if self.found.len() >= KEPT {
            self.omitted = self.omitted.saturating_add(1);
            return;
        }
        let label = |(span, text): (Range<usize>, String)| Label {
            position: self.lines.position(span.start),
            span,
            text,
        };
        let diagnostic = Diagnostic {
            code: note.code,
            position: self.lines.position(note.span.start),
            span: note.span,
            key: note.key,
            message: note.message,
            help: note.help,
            suggestion: note
                .suggestion
                .map(|(span, replacement)| Suggestion { span, replacement }),
            labels: note.labels.into_iter().map(label).collect(),
        };
        self.found.push(diagnostic);
    }

    /// Counts an error without looking at it, once there are more than anyone reads.
    pub(super) fn skip(&mut self) -> bool {
        let full = self.found.len() >= KEPT;
        if full {
            self.errors = self.errors.saturating_add(1);
            self.omitted = self.omitted.saturating_add(1);
        }
        full
    }

    fn follows_from_syntax(&self, note: &Note) -> bool {
        const ABSENCE: &[&Code] = &[
            &codes::MISSING_KEY,
            &codes::NO_BACKEND,
            &codes::NO_SERVICE,
            &codes::NO_INTERFACE,
            &codes::NO_WEIGHT,
            &codes::ONE_BACKEND,
            &codes::NONE_ENABLED,
        ];
        let line = self.lines.position(note.span.start).line;
        note.code != &codes::SYNTAX
            && note.code != &codes::DUPLICATE_KEY
            && (ABSENCE.contains(&note.code) || self.torn.binary_search(&line).is_ok())
    }
}
