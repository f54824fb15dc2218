//! Whether a client's packet of full size fits on the way to the backends.

use super::*;
use crate::model::{Forwarding, Link};

const SIX: &str = "web [2001:db8:1::1]:80 a=10.0.0.1:80 b=10.0.0.2:80";

fn with_mtu(number: u8, mtu: u32) -> Event {
    Event::Link(Link {
        mtu,
        ..link(number, true)
    })
}

fn tunnelled(services: &str) -> Arc<Config> {
    let mut config = (*config(services)).clone();
    let web = config.services.get_mut(&name("web")).unwrap();
    web.forwarding = Forwarding::Ipip;
    crate::fixture::with_services(config.services)
}

fn trouble(sim: &Sim) -> Option<String> {
    let all = sim.state.config().services.values();
    let mut told = sim.state.status_of(sim.now, all, &Counters::default());
    told.remove(0).trouble
}

fn told(sim: &mut Sim) -> Vec<Option<String>> {
    let records = sim.records().into_iter();
    let told = records.filter_map(|record| match record {
        Record::Narrow { service, trouble } => {
            assert_eq!(service, name("web"));
            Some(trouble)
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn an_ipv6_service_whose_tunnel_has_no_room_for_1280_bytes_is_told() {
    let mut sim = running(tunnelled(SIX));
    assert_eq!(trouble(&sim), None);
    // IPv4 around it takes 20 bytes.
    sim.event(with_mtu(1, 1300));
    assert_eq!(trouble(&sim), None);
    sim.event(with_mtu(1, 1299));
    let words = trouble(&sim).unwrap();
    for part in ["up to 1279 bytes", "1280", "RFC 8201", "by 1 bytes"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(told(&mut sim), [Some(words)]);
    // One of two still has too little: no news.
    sim.event(Event::Link(link(2, true)));
    sim.route(ip("10.0.0.2"), 2, 7);
    assert_eq!(told(&mut sim), []);
    assert!(trouble(&sim).is_some());
    let mut again = sim.restarted(tunnelled(SIX), sim.now);
    assert_eq!(told(&mut again), [trouble(&sim)]);
    // As a reload, too.
    sim.event(Event::Config(config(SIX)));
    assert_eq!((told(&mut sim), trouble(&sim)), (vec![None], None));
    sim.event(Event::Config(tunnelled(SIX)));
    assert_eq!(told(&mut sim), [trouble(&sim)]);
    sim.event(with_mtu(1, 1500));
    assert_eq!((told(&mut sim), trouble(&sim)), (vec![None], None));
}

#[test]
fn of_ipv4_senders_make_their_packets_smaller() {
    let mut sim = running(tunnelled(WEB));
    sim.event(with_mtu(1, 1000));
    assert_eq!((told(&mut sim), trouble(&sim)), (vec![], None));
}
