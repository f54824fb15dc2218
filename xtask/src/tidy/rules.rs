//! The rules for one file. Pure: text in, complaints out.

use super::{
    Complaint, File,
    exceptions::{AYA, Entry, LONG, PURE, UNSAFE, covers},
    source::{Source, has_word},
};

/// The most lines of code in a file, without blank lines, comments and unit tests: tests are data
/// and may be many.
const MOST_CODE_LINES: usize = 400;

/// What a pure module may not mention in code.
const IMPURE: [&str; 15] = [
    "SystemTime",
    "Instant::now",
    "fs::",
    "File::open",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "tokio",
    "rand::",
    "env::",
    "process::",
    "thread::",
    "HashMap",
    "HashSet",
    "libc::",
];

/// The crates of aya.
const AYA_CRATES: [&str; 5] = ["aya", "aya_ebpf", "aya_log", "aya_log_ebpf", "aya_obj"];

/// Names of modules that say nothing.
const EMPTY_NAMES: [&str; 4] = ["utils", "helpers", "common", "misc"];

/// Comments that put work off. In two parts, so that this list does not complain about itself.
const PUT_OFF: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// All complaints about one file.
pub(super) fn check(file: &File) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    if is_text(&file.path) {
        complaints.extend(trailing_whitespace(file));
    }
    if file.path.ends_with(".rs") {
        let source = Source::split(&file.text);
        complaints.extend(says_what_it_is_for(file));
        complaints.extend(is_short(file, &source));
        complaints.extend(names_say_something(file, &source));
        complaints.extend(puts_nothing_off(file, &source));
        complaints.extend(only_listed(
            file,
            &source.code,
            &AYA_CRATES,
            &AYA,
            "only dataplane/bpf names aya",
        ));
        complaints.extend(only_listed(
            file,
            &source.code,
            &["unsafe"],
            &UNSAFE,
            "unsafe outside the listed files",
        ));
        complaints.extend(is_pure(file, &source));
    }
    complaints
}

fn complaint(file: &File, line: usize, text: impl Into<String>) -> Complaint {
    Complaint {
        path: file.path.clone(),
        line,
        text: text.into(),
    }
}

/// Lines with their numbers from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1_usize..).zip(text.lines())
}

fn is_text(path: &str) -> bool {
    [".rs", ".toml", ".md", ".ci/run"]
        .iter()
        .any(|ending| path.ends_with(ending))
}

fn trailing_whitespace(file: &File) -> Vec<Complaint> {
    numbered(&file.text)
        .filter(|(_, line)| line.ends_with([' ', '\t']))
        .map(|(number, _)| complaint(file, number, "white space at the end of the line"))
        .collect()
}

fn says_what_it_is_for(file: &File) -> Option<Complaint> {
    let first = file
        .text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    (!first.starts_with("//!")).then(|| {
        complaint(
            file,
            1,
            "the file does not begin with `//!` and what it is for",
        )
    })
}

fn is_short(file: &File, source: &Source) -> Option<Complaint> {
    if file.path.ends_with("/tests.rs") || file.path.contains("/tests/") {
        return None;
    }
    let lines = source
        .product_code()
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    (lines > MOST_CODE_LINES && !covers(&LONG, &file.path)).then(|| {
        complaint(
            file,
            1,
            format!("{lines} lines of code, more than {MOST_CODE_LINES}: split it by noun"),
        )
    })
}

fn names_say_something(file: &File, source: &Source) -> Vec<Complaint> {
    let text = |name: &str| format!("a module named {name} says nothing: name it after its noun");
    let mut complaints = Vec::new();
    for name in EMPTY_NAMES {
        let own = file.path.rsplit('/').next() == Some(&format!("{name}.rs"));
        if own || file.path.contains(&format!("/{name}/")) {
            complaints.push(complaint(file, 1, text(name)));
        }
        for (number, line) in numbered(&source.code) {
            if has_word(line, &format!("mod {name}")) {
                complaints.push(complaint(file, number, text(name)));
            }
        }
    }
    complaints
}

fn puts_nothing_off(file: &File, source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (number, line) in numbered(&source.comments) {
        for word in PUT_OFF.iter().filter(|word| has_word(line, word)) {
            complaints.push(complaint(
                file,
                number,
                format!("{word}: do it or open an issue"),
            ));
        }
    }
    for (number, line) in numbered(&source.code) {
        if has_word(line, "todo!") || has_word(line, "unimplemented!") {
            complaints.push(complaint(file, number, "unfinished code"));
        }
    }
    complaints
}

fn only_listed(
    file: &File,
    code: &str,
    words: &[&str],
    listed: &[Entry],
    text: &str,
) -> Vec<Complaint> {
    if covers(listed, &file.path) {
        return Vec::new();
    }
    numbered(code)
        .filter(|(_, line)| words.iter().any(|word| has_word(line, word)))
        .map(|(number, _)| complaint(file, number, text))
        .collect()
}

fn is_pure(file: &File, source: &Source) -> Vec<Complaint> {
    if !covers(&PURE, &file.path) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for (number, line) in numbered(source.product_code()) {
        for word in IMPURE.iter().filter(|word| has_word(line, word)) {
            let text = format!("a pure module mentions `{word}`: pass in what it needs");
            complaints.push(complaint(file, number, text));
        }
    }
    complaints
}

#[cfg(test)]
mod tests;
