//! Reads one table of the file by its [`Section`], and notes everything that is wrong with it.
//! What cannot be read is `None`, and then there is an error: no caller needs to report it again.
//! Pure.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::codes;
use super::keys::{self, Guess, Section};
use super::notes::{At, Note, Notes};
use super::value;

/// One table.
pub(super) struct Reader<'t, 'a> {
    pub(super) section: &'static Section,
    pub(super) table: &'t DeTable<'a>,
    /// Where the table begins: its header.
    pub(super) span: Range<usize>,
    /// Path of its keys, ending with a full stop unless empty.
    pub(super) path: String,
    /// Keys that unknown ones seem to mean: they are misspelt, not missing.
    meant: Vec<&'static str>,
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
        let mut reader = Self {
            section,
            table,
            span,
            path,
            meant: Vec::new(),
        };
        for (name, _) in table.iter() {
            if section.key(name.get_ref()).is_none() && !notes.skip() {
                let meant = reader.unknown(name.get_ref(), name.span(), notes);
                reader.meant.extend(meant);
            }
        }
        reader
    }

    fn unknown(
        &self,
        name: &str,
        span: Range<usize>,
        notes: &mut Notes<'_>,
    ) -> Option<&'static str> {
        let message = format!(
            "unknown key {} in {}",
            value::quote(name),
            self.section.header
        );
        let note = Note::new(&codes::UNKNOWN_KEY, &span, &self.name(name), message);
        let known = self.section.keys.iter().map(|k| k.name);
        let guess = keys::guess(self.section, name, |k| self.get(k).is_some());
        let note = match guess {
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
        match guess {
            Guess::Key(meant) => Some(meant),
            Guess::Elsewhere(_) | Guess::Nothing => None,
        }
    }

    /// The full name of one of its keys.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{}", self.path, value::bounded(key))
    }

    /// Key and value as they stand in the file.
    pub(super) fn entry(&self, key: &str) -> Option<(Range<usize>, &'t Value<'a>)> {
        let (k, v) = self.table.get_key_value(key)?;
        Some((k.span(), v))
    }

    /// The value as it stands in the file.
    pub(super) fn get(&self, key: &str) -> Option<&'t Value<'a>> {
        self.entry(key).map(|(_, v)| v)
    }

    /// Is the key there, be it misspelt?
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some() || self.meant.contains(&key)
    }

    /// Notes that a key is missing.
    pub(super) fn require(&self, key: &str, notes: &mut Notes<'_>) {
        if self.has(key) {
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
        if wanted.contains("table") && !notes.torn.is_empty() {
            // A header with a syntax error makes tables of lists.
            return;
        }
        let form = self.section.key(key).map_or("", |k| k.form);
        let message = format!(
            "`{key}` must be {wanted}, and is {}",
            value::type_name(found.get_ref())
        );
        let note = Note::new(&codes::WRONG_TYPE, &found.span(), &self.name(key), message)
            .help(format!("`{key}` is {form}"));
        let header = notes.text.get(found.span()).filter(|t| t.starts_with('['));
        let header = header.and_then(|t| value::other_header(t, found.get_ref()));
        notes.add(
            match header.or_else(|| value::retyped(wanted, found.get_ref())) {
                Some(text) => note.suggest(text),
                None => note,
            },
        );
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
            DeValue::Float(number) => Cow::Owned(number.to_string()),
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
                let digits =
                    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                notes.add(if digits {
                    let text = value::bounded(&text);
                    note.help(format!("add a unit, in quotes: \"{text}s\" for seconds, \"{text}ms\" for milliseconds"))
                        .suggest(format!("\"{text}s\""))
                } else {
                    note.help("write a number and a unit (us, ms, s, m, h), such as \"500ms\" or \"1m 30s\"")
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
        self.one_of(key, text, words, notes)
    }

    /// The one of a few words that a text is, which is the key's value or one of a list.
    pub(super) fn one_of<T: Copy>(
        &self,
        key: &str,
        text: At<&str>,
        words: &[(&'static str, T)],
        notes: &mut Notes<'_>,
    ) -> Option<At<T>> {
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
            _ => keys::nearest(&plain, words.iter().map(|(w, _)| *w), |_| false)
                .or_else(|| part_of_one(&plain, words)),
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

/// The one word that `part` is a part of.
fn part_of_one<T>(part: &str, words: &[(&'static str, T)]) -> Option<&'static str> {
    let mut whole = words.iter().map(|(w, _)| *w).filter(|w| w.contains(part));
    match (part.len() > 2, whole.next(), whole.next()) {
        (true, Some(word), None) => Some(word),
        _ => None,
    }
}
