//! What is kept of what there was, what is said, and that the docs say the same.

use std::collections::BTreeSet;

use super::syscalls::REFUSED;
use super::*;

const PAGE: &str = include_str!("../../../docs/security.md");
const ALL: u64 = 0x1ff_ffff_ffff;
/// As the page has it.
const USUAL: u64 = 0xc0_0000_30e4;

#[test]
fn what_is_not_needed_goes_and_what_was_not_there_does_not_come() {
    assert_eq!(keep(ALL), USUAL);
    assert_eq!(keep(u64::MAX), USUAL);
    assert_eq!(keep(USUAL), USUAL);
    assert_eq!(keep(0), 0);
    assert_eq!(keep(1 << 12 | 1 << 39), 1 << 12 | 1 << 39);
}

#[test]
fn cap_sys_admin_stays_only_where_it_stands_for_others() {
    let admin = 1 << 21;
    for absent in [1 << 38, 1 << 39, 1 << 38 | 1 << 39] {
        assert_eq!(keep(ALL & !absent), USUAL & !absent | admin);
        assert_eq!(keep(ALL & !absent & !admin), USUAL & !absent);
    }
}

fn said(kept: u64, refused: &[&str]) -> String {
    let refused = refused.iter().map(|why| (*why).to_owned()).collect();
    Report { kept, refused }.warning().unwrap_or_default()
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    assert_eq!(said(USUAL, &[]), "");
    let raw = said(USUAL & !(1 << 13), &[]);
    assert!(
        raw.contains("it lacks CAP_NET_RAW (checks of type icmp"),
        "{raw}"
    );
    let other = said(USUAL & !(1 << 39) | 1 << 21, &[]);
    assert!(other.contains("it keeps CAP_SYS_ADMIN"), "{other}");
    assert!(!other.contains("lacks"), "{other}");
    let kernel = said(USUAL, &["filter system calls: Invalid argument"]);
    assert!(
        kernel.contains("the kernel would not filter system calls: Invalid argument"),
        "{kernel}"
    );
    assert_eq!(said(0, &["do this", "do that"]).lines().count(), 1);
}

/// The words in code style of the rows or lines below a header.
fn named<'a>(header: &str, prefix: &str) -> BTreeSet<&'a str> {
    let mut parts = PAGE.split("\n## ");
    let part = parts.find(|part| part.starts_with(header)).unwrap();
    let rows = part.lines().filter(|line| line.starts_with(prefix));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    words.filter(|word| !word.contains(' ')).collect()
}

/// On x86-64, where there are the most.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_page_names_what_is_kept_and_what_is_refused() {
    let kept: BTreeSet<&str> = KEPT.iter().map(|kept| kept.name).collect();
    let mut shown = named("What it keeps\n", "| `CAP_");
    shown.retain(|word| word.starts_with("CAP_"));
    assert_eq!(shown, kept);
    assert!(PAGE.contains(&format!("`{USUAL:016x}`")));
    let refused: BTreeSet<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
    assert_eq!(named("What it cannot ask of the kernel\n", "* "), refused);
}
