//! Who waits, who goes on, who is refused.

use super::*;

const SECOND: u64 = 1_000_000_000;

fn saved<W>(who: Vec<W>) -> Ended<W> {
    Ended {
        saved: who,
        failed: vec![],
    }
}

#[test]
fn nobody_waits_when_nothing_changed_and_nothing_is_written() {
    let mut saving = Saving::default();
    assert_eq!(saving.wait(None, "a"), Some("a"));
    assert!(!saving.begin(1));
    assert_eq!(saving.unsaved_for(9), 0);
}

#[test]
fn a_write_covers_what_was_changed_before_it_began_and_the_next_one_all_the_rest_at_once() {
    let mut saving = Saving::default();
    saving.changed(1);
    assert_eq!(saving.wait(None, "a"), None);
    assert!(saving.begin(2));
    for (at, who) in [(3, "b"), (4, "c")] {
        saving.changed(at);
        assert_eq!(saving.wait(None, who), None);
    }
    assert!(!saving.begin(5), "one at a time");
    assert_eq!(saving.ended(6, true), saved(vec!["a"]));
    // At least as long as the change that was made at 3.
    assert_eq!(saving.unsaved_for(10), 8);
    assert!(saving.begin(10));
    assert_eq!(saving.ended(11, true), saved(vec!["b", "c"]));
    assert_eq!(saving.unsaved_for(12), 0);
    assert!(!saving.begin(12));
}

#[test]
fn a_failed_write_refuses_those_it_covered_and_is_repeated_after_a_second() {
    let mut saving = Saving::default();
    saving.changed(0);
    assert_eq!(saving.wait(None, "a"), None);
    assert!(saving.begin(0));
    let ended = saving.ended(7, false);
    assert_eq!((ended.saved, ended.failed), (vec![], vec!["a"]));
    assert!(!saving.begin(RETRY + 6));
    assert!(saving.begin(RETRY + 7));
    assert_eq!(saving.ended(RETRY + 8, true), saved(vec![]));
    assert_eq!(saving.wait(None, "b"), Some("b"));
}

#[test]
fn whoever_came_while_a_write_was_failing_gets_one_of_his_own_at_once() {
    let mut saving = Saving::default();
    saving.changed(0);
    assert!(saving.begin(0));
    saving.changed(1);
    assert_eq!(saving.wait(None, "b"), None);
    assert_eq!(saving.ended(2, false), saved(vec![]));
    assert!(saving.begin(2));
    // The same after a failure that nobody waited for.
    let ended = saving.ended(3, false);
    assert_eq!(ended.failed, ["b"]);
    assert!(!saving.begin(4));
    saving.changed(4);
    assert!(saving.begin(4));
}

#[test]
fn patience_ends_but_the_write_goes_on() {
    let mut saving = Saving::default();
    saving.changed(0);
    assert_eq!(saving.wait(Some(5 * SECOND), "a"), None);
    assert_eq!(saving.wait(None, "b"), None);
    assert!(saving.begin(0));
    assert!(saving.overdue(5 * SECOND - 1).is_empty());
    assert_eq!(saving.overdue(5 * SECOND), ["a"]);
    assert!(saving.overdue(9 * SECOND).is_empty());
    assert_eq!(saving.unsaved_for(9 * SECOND), 9 * SECOND);
    assert_eq!(saving.ended(9 * SECOND, true), saved(vec!["b"]));
}

#[test]
fn a_late_write_and_a_failed_one_are_told_by_file() {
    let mut disk = Disk::default();
    assert_eq!((disk.late(9), disk.trouble(9)), (None, None));
    disk.busy = Some(("/s/state.json".into(), SECOND));
    assert_eq!(disk.late(2 * SECOND), None);
    assert_eq!(disk.late(4 * SECOND), Some(3 * SECOND));
    disk.failed = vec![("/s/claims.json".into(), "no space".to_owned())];
    assert_eq!(
        disk.trouble(4 * SECOND).unwrap(),
        "/s/state.json has been being written for 3.0 s: the disk hangs; /s/claims.json could not be written: no space"
    );
}
