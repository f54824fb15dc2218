//! Which tests that failed are worth a second run. Pure.

/// So many at most: a machine that is late fails one test here and there; more than that is a mistake.
const MOST: usize = 3;

/// Where the tests are whose traffic runs in real time beside other tests'. All others give the same answer each time.
const REAL_TIME: [&str; 6] = [
    "e2e::",
    "fault::",
    "law_test::",
    "net_test::",
    "netbench::",
    "ops::",
];

/// The tests to run again: all that failed, or none.
pub(crate) fn worth_it(failed: &[String]) -> &[String] {
    let real_time = |name: &String| REAL_TIME.iter().any(|module| name.starts_with(module));
    match failed.len() <= MOST && failed.iter().all(real_time) {
        true => failed,
        false => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_tests_of_real_traffic_are_worth_it_and_others_are_not() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let few = names(&["e2e::a::b", "fault::c"]);
        assert_eq!(worth_it(&few), few);
        for refused in [
            &["e2e::a", "prog::b"][..],
            &["e2e::a", "e2e::b", "e2e::c", "e2e::d"],
        ] {
            assert!(worth_it(&names(refused)).is_empty(), "{refused:?}");
        }
    }
}
