//! The configuration reference in README.md is the table of keys, with a word on each.

use crate::config::keys::ALL;

const README: &str = include_str!("../../../../README.md");

#[test]
fn the_readme_names_every_key_with_its_form_and_default() {
    let expected: Vec<String> = ALL
        .iter()
        .filter(|section| !section.name.is_empty())
        .flat_map(|section| {
            let head = format!("### `{}`", section.header);
            let rows = section.keys.iter().map(|key| {
                let default = key.default.unwrap_or("-");
                format!("| `{}` | {} | {default} |", key.name, key.form)
            });
            std::iter::once(head).chain(rows)
        })
        .collect();
    let reference = README
        .split("\n## ")
        .find(|part| part.starts_with("Configuration\n"))
        .unwrap();
    let found: Vec<String> = reference
        .lines()
        .filter(|line| line.starts_with("### ") || line.starts_with("| `"))
        .map(|line| match line.strip_prefix("| ") {
            Some(row) => {
                let cells: Vec<&str> = row.split(" | ").take(3).collect();
                format!("| {} |", cells.join(" | "))
            }
            None => line.to_owned(),
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_readme_is_short_and_tells_the_tour_with_a_file_that_is_there() {
    assert!(README.lines().count() < 400);
    assert!(README.contains("examples/tour.toml"));
}
