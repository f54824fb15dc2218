//! Reads one table of the file by its [`Section`], and notes everything that is wrong with it.
//! What cannot be read is `None`, and then there is an error: no caller needs to report it again.
//! Pure.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::codes::{self, Code};
use super::diagnostic::{Diagnostic, Label, Lines, Severity, Suggestion};
use super::keys::{self, Guess, Section};
use super::value;

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

/// A diagnostic under construction.
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

/// One table.
pub(super) struct Reader<'t, 'a> {
    pub(super) section: &'static Section,
    pub(super) table: &'t DeTable<'a>,
    /// Where the table begins: its header.
    pub(super) span: Range<usize>,
    /// Path of its keys, ending with a full stop unless empty.
    pub(super) path: String,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl<'t, 'a> Reader<'t, 'a> {
    /// Looks for unknown keys at once.
    pub(super) fn new(
        section: &'static Section,
        table: &'t DeTable<'a>,
        span: Range<usize>,
        path: String,
        notes: &mut Notes<'_>,
    ) -> Self {
        let reader = Self {
            section,
            table,
            span,
            path,
        };
        for (name, _) in table.iter() {
            if section.key(name.get_ref()).is_none() {
                reader.unknown(name.get_ref(), name.span(), notes);
            }
        }
        reader
    }

    fn unknown(&self, name: &str, span: Range<usize>, notes: &mut Notes<'_>) {
        let message = format!(
            "unknown key {} in {}",
            value::quote(name),
            self.section.header
        );
        let note = Note::new(&codes::UNKNOWN_KEY, &span, &self.name(name), message);
        let known = self.section.keys.iter().map(|k| k.name);
        let note = match keys::guess(self.section, name, |k| self.get(k).is_some()) {
            Guess::Key(meant) => note.help(format!("did you mean `{meant}`?")).suggest(meant),
            Guess::Elsewhere(header) => note.help(format!(
                "`{name}` is a key of {header}, not of {}",
                self.section.header
            )),
            Guess::Nothing => note.help(format!(
                "remove it; {} has the keys {}",
                self.section.header,
                known.collect::<Vec<_>>().join(", ")
            )),
        };
        notes.add(note);
    }

    /// The full name of one of its keys.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{}", self.path, value::bounded(key))
    }

    /// Key and value as they stand in the file.
    pub(super) fn entry(&self, key: &str) -> Option<(Range<usize>, &'t Value<'a>)> {
        let (k, v) = self.table.iter().find(|(k, _)| k.get_ref() == key)?;
        Some((k.span(), v))
    }

    /// The value as it stands in the file.
    pub(super) fn get(&self, key: &str) -> Option<&'t Value<'a>> {
        self.entry(key).map(|(_, v)| v)
    }

    /// Notes that a key is missing.
    pub(super) fn require(&self, key: &str, notes: &mut Notes<'_>) {
        if self.get(key).is_some() {
            return;
        }
        let form = self.section.key(key).map_or("a value", |k| k.form);
        let message = format!("{} has no `{key}`", self.section.header);
        let note = Note::new(&codes::MISSING_KEY, &self.span, &self.name(key), message);
        notes.add(note.help(format!("add `{key} = ...`: {form}")));
    }

    /// Notes that a value has the wrong type.
    pub(super) fn wrong_type(
        &self,
        key: &str,
        wanted: &str,
        found: &Value<'_>,
        notes: &mut Notes<'_>,
    ) {
        let form = self.section.key(key).map_or("", |k| k.form);
        let message = format!(
            "`{key}` must be {wanted}, and is {}",
            value::type_name(found.get_ref())
        );
        let note = Note::new(&codes::WRONG_TYPE, &found.span(), &self.name(key), message)
            .help(format!("`{key}` is {form}"));
        notes.add(match value::retyped(wanted, found.get_ref()) {
            Some(text) => note.suggest(text),
            None => note,
        });
    }

    /// A text.
    pub(super) fn string(&self, key: &str, notes: &mut Notes<'_>) -> Option<At<&'t str>> {
        let found = self.get(key)?;
        match found.get_ref() {
            DeValue::String(text) => Some(At {
                value: text.as_ref(),
                span: found.span(),
            }),
            _ => {
                self.wrong_type(key, "a text", found, notes);
                None
            }
        }
    }

    /// A whole number in a range, both ends included.
    pub(super) fn integer(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        notes: &mut Notes<'_>,
    ) -> Option<At<u64>> {
        let found = self.get(key)?;
        let DeValue::Integer(number) = found.get_ref() else {
            self.wrong_type(key, "a whole number", found, notes);
            return None;
        };
        let digits = number.as_str().replace('_', "");
        match i128::from_str_radix(&digits, number.radix()) {
            Ok(n) if u64::try_from(n).is_ok_and(|n| range.contains(&n)) => {
                u64::try_from(n).ok().map(|value| At {
                    value,
                    span: found.span(),
                })
            }
            parsed => {
                let (low, high) = (*range.start(), *range.end());
                let nearest =
                    if parsed.is_ok_and(|n| n < i128::from(low)) || digits.starts_with('-') {
                        low
                    } else {
                        high
                    };
                let message = format!(
                    "`{key}` is {}, and must be from {low} to {high}",
                    value::bounded(&digits)
                );
                let note = Note::new(
                    &codes::OUT_OF_RANGE,
                    &found.span(),
                    &self.name(key),
                    message,
                );
                let help = format!("the nearest that is allowed is {nearest}");
                notes.add(note.help(help).suggest(nearest.to_string()));
                None
            }
        }
    }

    /// True or false.
    pub(super) fn boolean(&self, key: &str, notes: &mut Notes<'_>) -> Option<bool> {
        let found = self.get(key)?;
        if let DeValue::Boolean(value) = found.get_ref() {
            return Some(*value);
        }
        self.wrong_type(key, "true or false", found, notes);
        None
    }

    /// A duration in a range, both ends included.
    pub(super) fn duration(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<Duration>,
        notes: &mut Notes<'_>,
    ) -> Option<At<Duration>> {
        let found = self.get(key)?;
        let text: Cow<'_, str> = match found.get_ref() {
            DeValue::String(text) => Cow::Borrowed(text.as_ref()),
            DeValue::Integer(number) => Cow::Owned(number.to_string()),
            _ => {
                self.wrong_type(key, "a duration", found, notes);
                return None;
            }
        };
        match humantime::parse_duration(&text) {
            Ok(value) if range.contains(&value) => Some(At {
                value,
                span: found.span(),
            }),
            Ok(value) => {
                let (low, high) = (*range.start(), *range.end());
                let nearest = value::duration(if value < low { low } else { high });
                let message = format!(
                    "`{key}` is {}, and must be from {} to {}",
                    value::duration(value),
                    value::duration(low),
                    value::duration(high)
                );
                let note = Note::new(
                    &codes::DURATION_RANGE,
                    &found.span(),
                    &self.name(key),
                    message,
                );
                let help = format!("the nearest that is allowed is \"{nearest}\"");
                notes.add(note.help(help).suggest(format!("\"{nearest}\"")));
                None
            }
            Err(why) => {
                let message = format!("`{key}` is not a duration: {}", value::duration_error(&why));
                let note = Note::new(
                    &codes::BAD_DURATION,
                    &found.span(),
                    &self.name(key),
                    message,
                );
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                notes.add(if digits {
                    let text = value::bounded(&text);
                    note.help(format!("add a unit, in quotes: \"{text}s\" for seconds, \"{text}ms\" for milliseconds"))
                        .suggest(format!("\"{text}s\""))
                } else {
                    note
                });
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        words: &[(&'static str, T)],
        notes: &mut Notes<'_>,
    ) -> Option<At<T>> {
        let text = self.string(key, notes)?;
        if let Some((_, value)) = words.iter().find(|(w, _)| *w == text.value) {
            return Some(At {
                value: *value,
                span: text.span,
            });
        }
        let list = words
            .iter()
            .map(|(w, _)| format!("\"{w}\""))
            .collect::<Vec<_>>();
        let message = format!(
            "`{key}` is {}, and must be {}",
            value::quote_text(text.value),
            list.join(" or ")
        );
        let note = Note::new(&codes::UNKNOWN_WORD, &text.span, &self.name(key), message);
        let plain = text.value.to_lowercase().replace(['_', ' '], "-");
        let near = match words {
            [(only, _)] => Some(*only),
            _ => keys::nearest(&plain, words.iter().map(|(w, _)| *w), |_| false),
        };
        notes.add(match near {
            Some(word) => note
                .help(format!("did you mean \"{word}\"?"))
                .suggest(format!("\"{word}\"")),
            None => note.help(format!("use {}", list.join(" or "))),
        });
        None
    }

    /// Notes keys that another key makes meaningless.
    pub(super) fn without_effect(
        &self,
        keys: &[&str],
        why: &str,
        help: &str,
        notes: &mut Notes<'_>,
    ) {
        for key in keys {
            if let Some((span, _)) = self.entry(key) {
                let message = format!("`{key}` has no effect: {why}");
                let note = Note::new(&codes::KEY_WITHOUT_EFFECT, &span, &self.name(key), message);
                notes.add(note.help(help.to_owned()));
            }
        }
    }
}
