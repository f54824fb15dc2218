//! Splits Rust source into code and comments, so that a rule about code does not trip over a word
//! in a sentence or a string. Not a compiler: just enough of the lexer.

/// A source file in two texts with the same lines. What does not belong to a text is blank there.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Code; literals of strings and characters are emptied.
    pub(super) code: String,
    /// Comments.
    pub(super) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum In {
    Code,
    LineComment,
    /// With its depth: these comments nest.
    BlockComment(u32),
    Text,
    /// With the number of `#` that end it.
    RawText(usize),
}

impl Source {
    /// Splits the text of a file.
    pub(super) fn split(text: &str) -> Self {
        let mut source = Self::default();
        let mut state = In::Code;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (next, length) = step(state, rest, first);
            let (taken, after) = rest.split_at(length.min(rest.len()));
            let commented = |state| matches!(state, In::LineComment | In::BlockComment(_));
            for character in taken.chars() {
                let (code, comment) = match character {
                    '\n' => ('\n', '\n'),
                    _ if commented(state) || commented(next) => (' ', character),
                    _ if state == In::Code && next == In::Code => (character, ' '),
                    _ => (' ', ' '),
                };
                source.code.push(code);
                source.comments.push(comment);
            }
            state = next;
            rest = after;
        }
        source
    }

    /// The code before the module of unit tests.
    pub(super) fn product_code(&self) -> &str {
        let end = self
            .code
            .find("#[cfg(test)]\nmod ")
            .unwrap_or(self.code.len());
        self.code.get(..end).unwrap_or_default()
    }
}

/// The state after the next piece of `rest`, and that piece's length in bytes.
fn step(state: In, rest: &str, first: char) -> (In, usize) {
    let one = first.len_utf8();
    match state {
        In::Code => code_step(rest, first),
        In::LineComment if first == '\n' => (In::Code, one),
        In::BlockComment(depth) if rest.starts_with("*/") => (
            if depth <= 1 {
                In::Code
            } else {
                In::BlockComment(depth.saturating_sub(1))
            },
            2,
        ),
        In::BlockComment(depth) if rest.starts_with("/*") => {
            (In::BlockComment(depth.saturating_add(1)), 2)
        }
        In::Text if first == '\\' => {
            let escaped = rest.chars().nth(1).map_or(0, char::len_utf8);
            (In::Text, one.saturating_add(escaped))
        }
        In::Text if first == '"' => (In::Code, one),
        In::RawText(hashes) if first == '"' => {
            let closing = rest
                .chars()
                .skip(1)
                .take_while(|c| *c == '#')
                .take(hashes)
                .count();
            let closed = closing == hashes;
            (
                if closed { In::Code } else { state },
                if closed {
                    one.saturating_add(hashes)
                } else {
                    one
                },
            )
        }
        other => (other, one),
    }
}

fn code_step(rest: &str, first: char) -> (In, usize) {
    if rest.starts_with("//") {
        return (In::LineComment, 2);
    }
    if rest.starts_with("/*") {
        return (In::BlockComment(1), 2);
    }
    match first {
        '"' => (In::Text, 1),
        'r' | 'b' => literal_with_prefix(rest).unwrap_or_else(|| word(rest, first)),
        '\'' => (In::Code, character_literal(rest).unwrap_or(1)),
        _ => word(rest, first),
    }
}

/// A whole identifier, so that the `r` that ends one is not taken for the prefix of a raw string.
fn word(rest: &str, first: char) -> (In, usize) {
    let length: usize = rest
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .map(char::len_utf8)
        .sum();
    (In::Code, length.max(first.len_utf8()))
}

/// `r"`, `r#"`, `b"`, `br"`, ...: where the text begins.
fn literal_with_prefix(rest: &str) -> Option<(In, usize)> {
    let bare = rest.trim_start_matches(['b', 'r']);
    let prefix = rest.len().checked_sub(bare.len())?;
    let raw = rest.get(..prefix)?.ends_with('r');
    let hashes = if raw {
        bare.chars().take_while(|c| *c == '#').count()
    } else {
        0
    };
    if prefix > 2 || !bare.get(hashes..)?.starts_with('"') {
        return None;
    }
    let length = prefix.saturating_add(hashes).saturating_add(1);
    Some((if raw { In::RawText(hashes) } else { In::Text }, length))
}

/// The length of `'x'` or `'\n'` or `'\u{7f}'`; nothing for a lifetime.
fn character_literal(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    let skipped = if first == '\\' { 2 } else { first.len_utf8() };
    let end = inner.get(skipped..)?.find('\'')?;
    // A lifetime has its quote, if any, further on: `<'a>(x: &'a str)`.
    (first == '\\' || end == 0).then(|| skipped.saturating_add(end).saturating_add(2))
}

/// Whether `word` stands in `line` by itself, not as a part of a longer name. A word that ends
/// with `:` or `!` need not end there.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line
            .get(at.saturating_add(word.len())..)
            .and_then(|text| text.chars().next());
        let open_end = !word.ends_with(part_of_name);
        !before.is_some_and(part_of_name) && (open_end || !after.is_some_and(part_of_name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str, comments: &str) {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let source = Source::split(text);
        assert_eq!(squeeze(&source.code), code);
        assert_eq!(squeeze(&source.comments), comments);
        assert_eq!(source.code.lines().count(), text.lines().count());
    }

    #[test]
    fn code_comments_and_literals_are_told_apart() {
        check("a; // b\nc", "a; c", "// b");
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
        check(r#"f("// no comment", x) // yes"#, "f( , x)", "// yes");
        check(r#"f("quote \" // no") // yes"#, "f( )", "// yes");
        check("f(r#\"raw \" // no\"#) // yes", "f( )", "// yes");
        check("f(br\"raw\\\") // yes", "f( )", "// yes");
        check(
            "g('\"', '\\'', '/') // yes",
            "g('\"', '\\'', '/')",
            "// yes",
        );
        check(
            "fn f<'a>(x: &'a str) // yes",
            "fn f<'a>(x: &'a str)",
            "// yes",
        );
        check("for_r\"text\"", "for_r", "");
    }

    #[test]
    fn lines_stay_where_they_are() {
        let source = Source::split("one\n\"two\nthree\"\nfour // five\n");
        assert_eq!(source.code.lines().nth(3).map(str::trim), Some("four"));
        assert_eq!(
            source.comments.lines().nth(3).map(str::trim),
            Some("// five")
        );
    }

    #[test]
    fn a_word_is_not_a_part_of_a_name() {
        for (line, word, there) in [
            ("use aya::Ebpf;", "aya", true),
            ("use aya_log::x;", "aya", false),
            ("papaya", "aya", false),
            ("std::fs::read", "fs::", true),
            ("defs::read", "fs::", false),
            ("unsafe {", "unsafe", true),
            ("unsafe_code", "unsafe", false),
        ] {
            assert_eq!(has_word(line, word), there, "{word} in {line}");
        }
    }

    #[test]
    fn unit_tests_are_not_product_code() {
        let source = Source::split("a\n#[cfg(test)]\nmod tests {\nb\n}\n");
        assert_eq!(source.product_code().trim(), "a");
    }
}
