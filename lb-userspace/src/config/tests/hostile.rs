//! What no one writes on purpose (fault C1): mutated, huge, nested and binary files never panic,
//! end in bounded time, and are answered with places that exist; and single slips of the finger
//! are understood.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::broken::well_formed;
use super::good::example;
use crate::config::keys::{self, Guess};
use crate::config::render::{self, Colour};
use crate::config::{Outcome, parse, parse_bytes};

/// Generous: unoptimised, on a busy machine. Quadratic work on a megabyte takes minutes.
const LONGEST: Duration = Duration::from_secs(20);

#[track_caller]
fn survives(bytes: &[u8]) -> Outcome {
    let began = Instant::now();
    let (outcome, source) = parse_bytes("hostile.toml", bytes);
    let text = render::text(&outcome, &source, Colour::Plain);
    let json = serde_json::to_string(&render::json(&outcome)).unwrap();
    assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
    assert!(!text.is_empty() && text.len() < 1 << 20, "{}", text.len());
    assert!(json.len() < 1 << 20, "{}", json.len());
    let errors = outcome.errors().count();
    assert_eq!(
        outcome.config.is_some(),
        errors == 0 && outcome.omitted == 0
    );
    outcome
        .diagnostics
        .iter()
        .take(3)
        .for_each(|d| well_formed(d, &source));
    outcome
}

#[test]
fn a_megabyte_of_anything_is_refused_in_bounded_time() {
    let numbered = |n: usize, line: &str| -> String {
        (0..n).map(|i| line.replace('#', &i.to_string())).collect()
    };
    let files = [
        "[".repeat(1 << 20),
        "]".repeat(1 << 20),
        format!("a = {}", "[".repeat(1 << 20)),
        format!("a = {}", "{a=".repeat(1 << 18)),
        "[\n".repeat(1 << 19),
        "=\n".repeat(1 << 19),
        format!("a{} = 1", ".a".repeat(1 << 19)),
        format!("a = \"{}", "x".repeat(1 << 20)),
        "\"".repeat(1 << 20),
        "\n".repeat(1 << 20),
        "é".repeat(1 << 19),
        numbered(60_000, "key# = 1\n"),
        numbered(30_000, "[[service]]\nname = \"s#\"\n"),
        numbered(60_000, "[t#]\n"),
        format!("[daemon]\ninterfaces = [{}]", numbered(90_000, "\"e#\", ")),
        format!("[daemon]\ninterfaces = [\"{}\"]", "x".repeat(1 << 20)),
        format!(
            "[[service]]\nname = \"s\"\naddress = \"10.0.0.1\"\n{}",
            numbered(
                20_000,
                "[[service.backend]]\nname=\"b\"\naddress=\"10.0.0.1\"\n"
            )
        ),
    ];
    for file in files {
        let outcome = survives(file.as_bytes());
        assert!(outcome.config.is_none());
        assert!(outcome.diagnostics.len() <= 200);
    }
}

#[test]
fn a_file_torn_at_any_byte_is_answered() {
    let text = example("fairlead.toml");
    let bare: String = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .flat_map(|l| [l, "\n"])
        .collect();
    for end in 0..bare.len() {
        survives(bare.get(..end).unwrap().as_bytes());
    }
}

#[test]
fn a_configuration_of_many_services_is_read_in_bounded_time() {
    let mut text = "[limits]\nring-slots = 16777216\nservices = 4096\nbackends = 16384\n[daemon]\ninterfaces = [\"eth0\"]\n".to_owned();
    for i in 0..4000 {
        let (high, low) = (i / 250, i % 250 + 1);
        text.push_str(&format!(
            "[[service]]\nname = \"s{i}\"\naddress = \"10.9.{high}.{low}\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"dnat\"\n"
        ));
        for b in 0..4 {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{b}\"\naddress = \"10.{b}.{high}.{low}\"\n"
            ));
        }
    }
    let config = survives(text.as_bytes()).config.unwrap();
    assert_eq!(config.services.len(), 4000);
}

#[derive(Clone, Debug)]
enum Mutation {
    Delete(usize, usize),
    Insert(usize, Vec<u8>),
    Replace(usize, u8),
    Truncate(usize),
    SwapLines(usize, usize),
    RepeatLine(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = 0_usize..10_000;
    let syntax = proptest::sample::select(b"[]{}\"'=.,#\\\n0-9a \x00\xff".to_vec());
    prop_oneof![
        (at.clone(), 1_usize..40).prop_map(|(a, n)| Mutation::Delete(a, n)),
        (at.clone(), proptest::collection::vec(syntax.clone(), 1..8))
            .prop_map(|(a, b)| Mutation::Insert(a, b)),
        (at.clone(), prop_oneof![syntax, any::<u8>()]).prop_map(|(a, b)| Mutation::Replace(a, b)),
        at.clone().prop_map(Mutation::Truncate),
        (at.clone(), at.clone()).prop_map(|(a, b)| Mutation::SwapLines(a, b)),
        at.prop_map(Mutation::RepeatLine),
    ]
}

fn mutate(text: &mut Vec<u8>, mutation: &Mutation) {
    let lines =
        |text: &[u8]| -> Vec<Vec<u8>> { text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect() };
    let place = |at: usize, len: usize| at % (len + 1);
    match mutation {
        Mutation::Delete(at, n) => {
            let at = place(*at, text.len());
            let end = (at + n).min(text.len());
            text.drain(at..end);
        }
        Mutation::Insert(at, bytes) => {
            let at = place(*at, text.len());
            text.splice(at..at, bytes.iter().copied());
        }
        Mutation::Replace(at, byte) => {
            let at = place(*at, text.len());
            if let Some(b) = text.get_mut(at) {
                *b = *byte;
            }
        }
        Mutation::Truncate(at) => text.truncate(place(*at, text.len())),
        Mutation::SwapLines(a, b) => {
            let mut all = lines(text);
            let n = all.len();
            all.swap(a % n, b % n);
            *text = all.join(&b'\n');
        }
        Mutation::RepeatLine(at) => {
            let mut all = lines(text);
            let at = at % all.len();
            all.insert(at, all[at].clone());
            *text = all.join(&b'\n');
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_file_never_panics(
        commented in any::<bool>(),
        mutations in proptest::collection::vec(mutation(), 1..8),
    ) {
        let name = if commented { "fairlead.toml" } else { "minimal.toml" };
        let mut text = example(name).into_bytes();
        mutations.iter().for_each(|m| mutate(&mut text, m));
        survives(&text);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes);
    }
}

/// Every word that one slip makes of this one.
fn slips(word: &str) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    let letters: Vec<char> = ('a'..='z').chain(['-', '_', '0']).collect();
    let mut out = Vec::new();
    let mut push = |chars: &[char]| out.push(chars.iter().collect::<String>());
    for at in 0..=chars.len() {
        for letter in &letters {
            let mut more = chars.clone();
            more.insert(at, *letter);
            push(&more);
            if at < chars.len() {
                let mut other = chars.clone();
                other[at] = *letter;
                push(&other);
            }
        }
        if at < chars.len() {
            let mut fewer = chars.clone();
            fewer.remove(at);
            push(&fewer);
        }
        if at + 1 < chars.len() {
            let mut swapped = chars.clone();
            swapped.swap(at, at + 1);
            push(&swapped);
        }
    }
    out.retain(|slip| slip != word && !slip.is_empty());
    out.sort();
    out.dedup();
    out
}

#[test]
fn a_single_slip_in_any_key_is_understood() {
    let (mut all, mut right, mut wrong) = (0_usize, 0_usize, Vec::new());
    for section in keys::ALL {
        for key in section.keys {
            for slip in slips(key.name) {
                // Another key of the same table is not a slip.
                if section.key(&slip).is_some() {
                    continue;
                }
                all += 1;
                match keys::guess(section, &slip, |_| false) {
                    Guess::Key(name) if name == key.name => right += 1,
                    guess => wrong.push((section.name, key.name, slip, guess)),
                }
            }
        }
    }
    assert!(all > 10_000, "{all}");
    assert!(right * 1000 >= all * 980, "{right} of {all}: {wrong:?}");
}

#[test]
fn a_key_with_a_slip_is_reported_with_the_right_one_in_a_whole_file() {
    let text = example("minimal.toml");
    for key in [
        "interfaces",
        "name",
        "address",
        "port",
        "protocol",
        "forwarding",
    ] {
        let slip = format!("{}x", key);
        let broken = text.replacen(&format!("{key} ="), &format!("{slip} ="), 1);
        let outcome = parse("slip.toml", &broken);
        let [only] = outcome.diagnostics.as_slice() else {
            panic!("{key}: {:?}", outcome.diagnostics);
        };
        assert_eq!(only.suggestion.as_ref().unwrap().replacement, key);
    }
}
