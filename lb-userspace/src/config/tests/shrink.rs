//! The shrink guard (fault C4).

use super::good::good;
use crate::config::shrink::{Shrink, shrink};
use crate::model::Config;

/// Services with so many backends each; names begin at `first`.
fn config(first: usize, pools: &[usize]) -> Config {
    let mut text = "[daemon]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (at, pool) in pools.iter().enumerate() {
        let s = first + at;
        text.push_str(&format!(
            "[[service]]\nname = \"s{s}\"\naddress = \"10.9.0.{}\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"dnat\"\n",
            s + 1
        ));
        for b in 0..*pool {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{b}\"\naddress = \"10.1.{s}.{}\"\n",
                b + 1
            ));
        }
    }
    good(&text)
}

#[track_caller]
fn check(old: (usize, &[usize]), new: (usize, &[usize]), expected: Option<[usize; 4]>) {
    let found = shrink(&config(old.0, old.1), &config(new.0, new.1));
    let expected = expected.map(
        |[services, services_left, backends, backends_left]| Shrink {
            services,
            services_left,
            backends,
            backends_left,
        },
    );
    assert_eq!(found, expected);
}

#[test]
fn drastic_shrinks_need_consent_and_others_do_not() {
    check((0, &[2, 2]), (0, &[2, 2]), None);
    check((0, &[]), (0, &[]), None);
    check((0, &[]), (0, &[2]), None);
    // Everything goes.
    check((0, &[2]), (0, &[]), Some([1, 0, 2, 0]));
    check((0, &[2, 2]), (0, &[]), Some([2, 0, 4, 0]));
    // Everything is replaced by as much of something else.
    check((0, &[2, 2]), (5, &[2, 2]), None);
    // Nine of ten services.
    check((0, &[1; 10]), (0, &[1]), Some([10, 1, 10, 1]));
    check((0, &[1; 10]), (0, &[1; 2]), None);
    // Nine of ten backends, all services stay.
    check((0, &[20]), (0, &[2]), Some([1, 1, 20, 2]));
    check((0, &[20]), (0, &[3]), None);
}

#[test]
fn the_message_has_the_figures_and_the_way_out() {
    let found = shrink(&config(0, &[1; 10]), &config(0, &[1]))
        .unwrap()
        .to_string();
    assert!(found.contains("1 services where there are 10"), "{found}");
    assert!(found.contains("1 backends where there are 10"), "{found}");
    assert!(found.contains("--allow-shrink"), "{found}");
}
