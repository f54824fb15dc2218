//! The default limits agree with each other.

use lb_common::limits;

use super::good::good;
use crate::config::parse;
use crate::ids::{Ids, Sizes};
use crate::maglev::{SIZES, SLOTS_PER_BACKEND, ring_size};

/// A file without `[limits]`: services over so many backends each.
fn file(pools: &[usize]) -> String {
    let mut text = "[daemon]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (i, pool) in pools.iter().enumerate() {
        let (high, low) = (i / 250, i % 250 + 1);
        text.push_str(&format!(
            "[[service]]\nname = \"s{i}\"\naddress = \"10.9.{high}.{low}\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"l2dsr\"\n"
        ));
        for b in 0..*pool {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{b}\"\naddress = \"10.8.{}.{}\"\n",
                b / 250,
                b % 250 + 1
            ));
        }
    }
    text
}

fn fits(pools: &[usize]) {
    let config = good(&file(pools));
    let mut ids = Ids::default();
    ids.assign(&config, Sizes::from(&config.limits), 1).unwrap();
    assert_eq!(ids.services().count(), pools.len());
}

#[test]
fn as_many_services_and_backends_as_the_defaults_allow_have_rings() {
    let services = usize::try_from(limits::SERVICES.default).unwrap();
    let backends = usize::try_from(limits::BACKENDS.default).unwrap();
    fits(&vec![backends / services; services]);
    // One large pool, and the least for the others.
    let mut pools = vec![1; services];
    pools[0] = backends - services + 1;
    fits(&pools);
}

/// The slots that services and backends within the default limits can need, however the backends are
/// distributed. With two bounds, the worst mixture (of a real number of services each) has two sizes of pools.
#[test]
fn no_distribution_of_the_default_backends_needs_more_than_the_default_slots() {
    let (services, backends) = (
        limits::SERVICES.default as f64,
        limits::BACKENDS.default as f64,
    );
    let per_backend = usize::try_from(SLOTS_PER_BACKEND).unwrap();
    // The smallest pools that get a ring of each size.
    let steps = SIZES.iter().map(|&size| size as usize / per_backend + 1);
    let pools: Vec<(f64, f64)> = [0, 1]
        .into_iter()
        .chain(steps)
        .map(|pool| (pool as f64, f64::from(ring_size(pool) + 1) * 2.0))
        .filter(|(pool, _)| *pool <= backends)
        .collect();
    let mut worst = 0.0_f64;
    for &(small, slots) in &pools {
        for &(large, more) in &pools {
            // All services have the small pool; as many as possible are enlarged.
            let all = services.min(backends / small.max(1e-9));
            let left = backends - all * small;
            let enlarged = (left / (large - small).max(1e-9)).clamp(0.0, all);
            let sum = if large > small {
                (all - enlarged) * slots + enlarged * more
            } else {
                all * slots
            };
            worst = worst.max(sum);
        }
    }
    println!("at most {worst:.0} slots of {}", limits::RING_SLOTS.default);
    assert!(worst <= limits::RING_SLOTS.default as f64, "{worst:.0}");
}

#[test]
fn rings_that_do_not_fit_are_told_by_check_and_not_only_when_they_are_filled() {
    // 401 backends take rings of 98,299 slots.
    let text = file(&[401; 40]);
    let text = format!("limits.backends = 16384\n{text}");
    let outcome = parse("large.toml", &text);
    assert!(outcome.config.is_none());
    let told = format!("{:?}", outcome.diagnostics);
    assert!(told.contains("`ring-slots` allows"), "{told}");
}
