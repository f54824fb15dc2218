//! The classic Prometheus text form out of the OpenMetrics one.
//!
//! They differ for us in one thing: OpenMetrics names a counter without its `_total` in the HELP and
//! TYPE lines (OpenMetrics 1.0, section "Counter"), the classic form (exposition format 0.0.4) with it.
//! `# UNIT` and `# EOF` are comments there and left out.

/// Rewrites a page.
pub fn from_openmetrics(page: &str) -> String {
    let counters: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut out = String::with_capacity(page.len());
    for line in page.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let comment = ["# HELP ", "# TYPE "].iter().find_map(|head| {
            let (name, rest) = line.strip_prefix(head)?.split_once(' ')?;
            counters
                .contains(&name)
                .then(|| format!("{head}{name}_total {rest}"))
        });
        out.push_str(comment.as_deref().unwrap_or(line));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_suffix_and_the_rest_stays() {
        let page = "# HELP a_b Things.\n# TYPE a_b counter\na_b_total 3\n# HELP c Level.\n# TYPE c gauge\n# UNIT c seconds\nc 1\n# EOF\n";
        assert_eq!(
            from_openmetrics(page),
            "# HELP a_b_total Things.\n# TYPE a_b_total counter\na_b_total 3\n# HELP c Level.\n# TYPE c gauge\nc 1\n"
        );
    }
}
