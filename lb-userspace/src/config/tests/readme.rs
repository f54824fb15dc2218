//! The configuration reference is the table of keys, with a word on each: in README.md, and what is about
//! who gets flows in docs/failover.md and docs/schedulers.md, about silent flows and the MSS in docs/flows.md, about `fullnat` in docs/fullnat.md, about hooks in
//! docs/hooks.md, about agents and where checks may go in docs/health.md.

use std::collections::BTreeMap;

use crate::config::keys::ALL;

const README: &str = include_str!("../../../../README.md");
const FAILOVER: &str = include_str!("../../../../docs/failover.md");
const FLOWS: &str = include_str!("../../../../docs/flows.md");
const FULLNAT: &str = include_str!("../../../../docs/fullnat.md");
const HEALTH: &str = include_str!("../../../../docs/health.md");
const HOOKS: &str = include_str!("../../../../docs/hooks.md");
const SCHEDULERS: &str = include_str!("../../../../docs/schedulers.md");

/// The first three cells of the rows below each header of a table of the file.
fn reference(text: &str) -> impl Iterator<Item = (String, String)> {
    let mut header = String::new();
    text.lines().filter_map(move |line| {
        if let Some(found) = line.strip_prefix("### `") {
            header = found.trim_end_matches('`').to_owned();
        }
        let row = line.strip_prefix("| ").filter(|row| row.starts_with('`'))?;
        let cells: Vec<&str> = row.split(" | ").take(3).collect();
        Some((header.clone(), cells.join(" | ")))
    })
}

fn by_header(rows: impl Iterator<Item = (String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, row) in rows {
        all.entry(header).or_default().push(row);
    }
    for rows in all.values_mut() {
        rows.sort_unstable();
    }
    all
}

#[test]
fn the_docs_name_every_key_once_with_its_form_and_default() {
    let rows = ALL.iter().flat_map(|section| {
        section.keys.iter().map(move |key| {
            let default = key.default.unwrap_or("-");
            let row = format!("`{}` | {} | {default}", key.name, key.form);
            (section.header.to_owned(), row)
        })
    });
    let expected = by_header(rows.filter(|(header, _)| header != "the file"));
    let readme = README
        .split("\n## ")
        .find(|part| part.starts_with("Configuration\n"))
        .unwrap();
    let apart = [FAILOVER, FLOWS, FULLNAT, HEALTH, HOOKS, SCHEDULERS].map(|text| {
        let mut parts = text.split("\n## ");
        parts.find(|part| part.starts_with("Keys\n")).unwrap()
    });
    let found = by_header(reference(readme).chain(apart.into_iter().flat_map(reference)));
    for (header, rows) in &expected {
        assert_eq!(found.get(header), Some(rows), "{header}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn the_readme_is_short_and_tells_the_tour_with_a_file_that_is_there() {
    assert!(README.lines().count() < 400);
    assert!(README.contains("examples/tour.toml"));
}
