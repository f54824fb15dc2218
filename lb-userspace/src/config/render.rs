//! Diagnostics as text for people (in the manner of rustc) and as JSON for programs. Pure.

use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::diagnostic::{Diagnostic, Lines, Severity, floor};
use super::{Outcome, value};

/// Columns of a line that are shown before and after the place, if the line is a long one.
const BEFORE: usize = 60;
const AFTER: usize = 100;

/// Whether text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Escape sequences, for terminals.
    Ansi,
    /// None.
    Plain,
}

/// All diagnostics as text, with a line at the end that counts them.
pub fn text(outcome: &Outcome, source: &str, colour: Colour) -> String {
    let renderer = match colour {
        Colour::Ansi => Renderer::styled(),
        Colour::Plain => Renderer::plain(),
    };
    let lines = Lines::new(source);
    let mut out = String::new();
    for diagnostic in &outcome.diagnostics {
        let report = [group(&outcome.file, source, &lines, diagnostic)];
        out.push_str(&renderer.render(&report));
        out.push_str("\n\n");
    }
    out.push_str(&summary(outcome));
    out
}

/// `fairlead.toml: 2 errors, 1 warning`.
pub fn summary(outcome: &Outcome) -> String {
    let plural = |n: usize, noun: &str| match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    };
    let errors = outcome.errors().count();
    let warnings = outcome.warnings().count();
    let mut parts = Vec::new();
    if errors > 0 {
        parts.push(plural(errors, "error"));
    }
    if warnings > 0 {
        parts.push(plural(warnings, "warning"));
    }
    if outcome.omitted > 0 {
        parts.push(format!("{} more not shown", outcome.omitted));
    }
    let file = value::printable(&outcome.file);
    let found = match parts.is_empty() {
        true => "ok".to_owned(),
        false => parts.join(", "),
    };
    match outcome.diagnostics.first() {
        Some(first) => format!(
            "{file}: {found}; `fairlead check --explain {}` tells more\n",
            first.code.id
        ),
        None => format!("{file}: {found}\n"),
    }
}

fn group<'a>(file: &'a str, source: &'a str, lines: &Lines<'_>, d: &'a Diagnostic) -> Group<'a> {
    let level = match d.code.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(d.message.as_str()).id(d.code.id);
    let near = |l: &&super::Label| l.position.line == d.position.line;
    let window = Window::new(source, lines, d.position.line, d.span.start);
    let mut annotations = vec![window.mark(AnnotationKind::Primary, &d.span)];
    for label in d.labels.iter().filter(near) {
        annotations.push(
            window
                .mark(AnnotationKind::Context, &label.span)
                .label(label.text.as_str()),
        );
    }
    let mut group = if window.whole {
        title.element(window.snippet(annotations).path(file))
    } else {
        // The renderer would count the column from where the window begins.
        let origin = Origin::path(file)
            .line(d.position.line)
            .char_column(d.position.column);
        title.element(origin).element(window.snippet(annotations))
    };
    for label in d.labels.iter().filter(|l| !near(l)) {
        let window = Window::new(source, lines, label.position.line, label.span.start);
        let mark = window
            .mark(AnnotationKind::Context, &label.span)
            .label(label.text.as_str());
        group = group.element(window.snippet(vec![mark]).path(file));
    }
    group = group.element(Level::HELP.message(d.help.as_str()));
    match &d.suggestion {
        Some(s) if !d.help.contains(s.replacement.as_str()) => {
            let text = format!("write `{}` here", value::printable(&s.replacement));
            group.element(Level::HELP.message(text))
        }
        _ => group,
    }
}

/// One line of the source, or the part of a long one that matters.
struct Window<'a> {
    text: &'a str,
    line: usize,
    start: usize,
    whole: bool,
}

impl<'a> Window<'a> {
    fn new(source: &'a str, lines: &Lines<'_>, line: usize, byte: usize) -> Self {
        let whole = lines.span(line);
        let long = whole.len() > BEFORE.saturating_add(AFTER);
        let shown = if long {
            let start = floor(source, byte.saturating_sub(BEFORE)).max(whole.start);
            start..floor(source, byte.saturating_add(AFTER)).min(whole.end)
        } else {
            whole
        };
        Self {
            text: source.get(shown.clone()).unwrap_or(""),
            line,
            start: shown.start,
            whole: !long,
        }
    }

    fn mark(&self, kind: AnnotationKind, span: &Range<usize>) -> Annotation<'a> {
        let local = |byte: usize| floor(self.text, byte.saturating_sub(self.start));
        kind.span(local(span.start)..local(span.end))
    }

    fn snippet(&self, marks: Vec<Annotation<'a>>) -> Snippet<'a, Annotation<'a>> {
        Snippet::source(self.text)
            .line_start(self.line)
            .annotations(marks)
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    file: &'a str,
    ok: bool,
    errors: Vec<JsonDiagnostic<'a>>,
    warnings: Vec<JsonDiagnostic<'a>>,
    omitted: usize,
}

#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    code: &'a str,
    severity: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    key: &'a str,
    message: &'a str,
    help: &'a str,
    suggestion: Option<&'a str>,
    labels: Vec<JsonLabel<'a>>,
}

#[derive(Serialize)]
struct JsonLabel<'a> {
    line: usize,
    column: usize,
    text: &'a str,
}

/// One object: `{file, ok, errors: [...], warnings: [...], omitted}`.
pub fn json(outcome: &Outcome) -> impl Serialize + '_ {
    JsonReport {
        file: &outcome.file,
        ok: outcome.config.is_some(),
        errors: outcome.errors().map(json_diagnostic(outcome)).collect(),
        warnings: outcome.warnings().map(json_diagnostic(outcome)).collect(),
        omitted: outcome.omitted,
    }
}

fn json_diagnostic<'a>(outcome: &'a Outcome) -> impl Fn(&'a Diagnostic) -> JsonDiagnostic<'a> {
    |d| {
        let labels = d.labels.iter().map(|l| JsonLabel {
            line: l.position.line,
            column: l.position.column,
            text: &l.text,
        });
        JsonDiagnostic {
            code: d.code.id,
            severity: d.code.severity.as_str(),
            file: &outcome.file,
            line: d.position.line,
            column: d.position.column,
            key: &d.key,
            message: &d.message,
            help: &d.help,
            suggestion: d.suggestion.as_ref().map(|s| s.replacement.as_str()),
            labels: labels.collect(),
        }
    }
}
