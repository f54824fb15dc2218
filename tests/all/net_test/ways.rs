//! Ways to backends: what the follower tells, and how soon.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use lb_tests::stalls::Stalls;
use lb_tests::topology::{FAMILIES, Family, Topology, backend};
use lb_userspace::event::Event;
use lb_userspace::model::Route;
use lb_userspace::neigh::InterfaceAddress;
use lb_userspace::neigh::follower::{Follower, Handle};
use lb_userspace::neigh::netlink::{Heard, Notices, WAY_GROUPS};
use lb_userspace::neigh::requests::Requests;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, REPAIRED, in_balancer, netlink};

/// From a netlink message to the event that follows from it.
const SEEN: Duration = Duration::from_millis(10);

/// A follower in the balancer's namespace, and the means to disturb it.
struct Lab {
    topology: Topology,
    netlink: rtnetlink::Handle,
    events: mpsc::Receiver<(u64, Event)>,
    handle: Handle,
    cancel: CancellationToken,
    /// A machine with other work to do keeps everybody waiting.
    stalls: Stalls,
}

/// The same, with a follower of the addresses.
fn with_follower(addresses: &[IpAddr], test: impl AsyncFnOnce(Lab) + Send) {
    in_balancer(async |topology| {
        let (sender, events) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let interfaces = vec!["eth0".to_owned(), "eth1".to_owned()];
        let handle = Follower::spawn(sender, cancel.clone(), interfaces).unwrap();
        handle.follow(addresses.to_vec());
        let netlink = netlink();
        let lab = Lab {
            topology,
            netlink,
            events,
            handle,
            cancel,
            stalls: Stalls::watch(),
        };
        test(lab).await;
    });
}

impl Lab {
    /// Waits for an event; how long after `from` it was.
    async fn expect(
        &mut self,
        from: Instant,
        bound: Duration,
        what: &str,
        mut fits: impl FnMut(&Event) -> bool,
    ) -> Event {
        let mut seen = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let (_, event) = self.events.recv().await.expect("the follower ended");
                if fits(&event) {
                    return event;
                }
                seen.push(event);
            }
        });
        let Ok(event) = found.await else {
            panic!("{what}: not within {PATIENCE:?}; instead {seen:#?}");
        };
        let took = from.elapsed();
        println!("{what}: after {took:?}");
        let bound = bound + self.stalls.worst_since(from);
        assert!(
            took <= bound,
            "{what}: took {took:?}, not {bound:?}; before it {seen:#?}"
        );
        event
    }

    async fn resolved(&mut self, from: Instant, bound: Duration, to: IpAddr, mac: [u8; 6]) {
        let what = format!("{to} by {mac:02x?}");
        self.expect(from, bound, &what, |event| {
            matches!(event, Event::Route { address, route: Route::Resolved { destination, .. } }
                if *address == to && *destination == mac)
        })
        .await;
    }

    async fn unresolved(&mut self, from: Instant, bound: Duration, to: IpAddr, why: &str) {
        let what = format!("{to} unresolved: {why}");
        self.expect(from, bound, &what, |event| {
            matches!(event, Event::Route { address, route: Route::Unresolved(reason) }
                if *address == to && reason.contains(why))
        })
        .await;
    }

    async fn link_is(&mut self, from: Instant, up: bool) {
        let what = if up { "eth1 up" } else { "eth1 down" };
        let fits = |e: &Event| matches!(e, Event::Link(l) if l.name == "eth1" && l.up == up);
        // The kernel reports a carrier up to a second late; from its message on it is fast.
        self.expect(from, PATIENCE, what, fits).await;
    }

    /// The kernel has a MAC address for a neighbour.
    async fn kernel_has(&self, index: u32, to: IpAddr) -> bool {
        let all = self.netlink.neighbours().get().execute();
        let all: Vec<_> = all.try_collect().await.unwrap();
        let wanted = NeighbourAttribute::Destination(to.into());
        let known = |a: &NeighbourAttribute| matches!(a, NeighbourAttribute::LinkLayerAddress(_));
        all.iter().any(|entry| {
            entry.header.ifindex == index
                && entry.attributes.contains(&wanted)
                && entry.attributes.iter().any(known)
                && entry.header.state != NeighbourState::Failed
        })
    }

    async fn index(&self, device: &str) -> u32 {
        index(&self.netlink, device).await
    }

    /// Sets a neighbour entry by hand.
    async fn set_neighbour(&self, index: u32, to: IpAddr, mac: [u8; 6], state: NeighbourState) {
        let add = self.netlink.neighbours().add(index, to);
        let add = add.link_layer_address(&mac).state(state).replace();
        add.execute().await.unwrap();
    }

    async fn ended(self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.handle.ended())
            .await
            .expect("the follower does not end")
            .unwrap();
    }
}

async fn index(netlink: &rtnetlink::Handle, device: &str) -> u32 {
    let mut links = netlink.link().get().match_name(device.to_owned()).execute();
    links.try_next().await.unwrap().unwrap().header.index
}

const MAC: [u8; 6] = [0x02, 0xf1, 0, 0, 1, 1];
const OTHER_MAC: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 9];

/// Follows backend 1 of each family in turn, from when it is resolved.
fn with_backend(test: impl AsyncFn(Lab, IpAddr) + Send + Sync) {
    for family in FAMILIES {
        let to = backend(family, 1);
        with_follower(&[to], async |mut lab: Lab| {
            lab.resolved(Instant::now(), PATIENCE, to, MAC).await;
            test(lab, to).await;
        });
    }
}

#[test]
fn backend_on_link_is_resolved_without_traffic_and_the_follower_ends() {
    with_backend(async |lab, to| {
        // The kernel goes on keeping the entry when the follower has ended (Linux 5.16 and later).
        let (netlink, index) = (lab.netlink.clone(), lab.index("eth1").await);
        lab.ended().await;
        let all: Vec<_> = netlink
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .unwrap();
        let wanted = NeighbourAttribute::Destination(to.into());
        let found =
            |e: &&NeighbourMessage| e.header.ifindex == index && e.attributes.contains(&wanted);
        let entry = all.iter().find(found).unwrap();
        let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        assert!(entry.attributes.contains(&managed), "{entry:?}");
    });
}

#[test]
fn changed_mac_is_seen_within_ten_milliseconds() {
    with_backend(async |mut lab, to| {
        let index = lab.index("eth1").await;
        let from = Instant::now();
        lab.set_neighbour(index, to, OTHER_MAC, NeighbourState::Reachable)
            .await;
        lab.resolved(from, SEEN, to, OTHER_MAC).await;
    });
}

#[test]
fn announcement_of_a_replaced_network_card_is_seen() {
    with_backend(async |mut lab, to| {
        // The backend announces its new address; the balancer takes it without the usual pause.
        let backend = lab.topology.namespace("b1");
        backend
            .sysctl(&[
                ("net/ipv4/conf/eth0/arp_notify", "1"),
                ("net/ipv6/conf/eth0/ndisc_notify", "1"),
            ])
            .unwrap();
        let balancer = lab.topology.namespace("lb");
        balancer
            .sysctl(&[("net/ipv4/neigh/eth1/locktime", "0")])
            .unwrap();
        let from = Instant::now();
        lab.topology.change_mac("b1", "eth0", OTHER_MAC).unwrap();
        lab.resolved(from, PATIENCE, to, OTHER_MAC).await;
    });
}

#[test]
fn failed_neighbour_is_unresolved_within_ten_milliseconds_and_found_again() {
    with_backend(async |mut lab, to| {
        let index = lab.index("eth1").await;
        let from = Instant::now();
        lab.set_neighbour(index, to, MAC, NeighbourState::Failed)
            .await;
        lab.unresolved(from, SEEN, to, "does not answer").await;
        lab.resolved(from, PATIENCE, to, MAC).await;
    });
}

#[test]
fn backend_that_lost_power_is_unresolved_and_found_again() {
    with_backend(async |mut lab, to| {
        lab.topology.cut_power("b1", "eth0").unwrap();
        lab.topology.flush_neighbours("lb", "eth1").unwrap();
        let from = Instant::now();
        lab.unresolved(from, PATIENCE, to, "does not answer").await;
        lab.topology.restore_power("b1", "eth0").unwrap();
        lab.resolved(Instant::now(), PATIENCE, to, MAC).await;
    });
}

#[test]
fn flushed_neighbour_is_back_within_a_hundred_milliseconds_and_never_unresolved() {
    with_backend(async |mut lab, to| {
        for _ in 0..5 {
            lab.topology.flush_neighbours("lb", "eth1").unwrap();
            let from = Instant::now();
            let index = lab.index("eth1").await;
            while !lab.kernel_has(index, to).await {
                assert!(
                    from.elapsed() < REPAIRED,
                    "{to}: not back after {:?}",
                    from.elapsed()
                );
                tokio::task::yield_now().await;
            }
            println!("{to} back after {:?}", from.elapsed());
        }
        // Time for a wrong verdict to come.
        let change = tokio::time::timeout(Duration::from_millis(1_500), lab.events.recv()).await;
        assert!(change.is_err(), "nothing changed, but {change:?} was told");
    });
}

#[test]
fn backend_behind_a_router_has_the_routers_mac_and_follows_its_route() {
    let behind: [IpAddr; 2] = ["10.99.0.7".parse().unwrap(), "fd00:99::7".parse().unwrap()];
    for (family, to) in FAMILIES.into_iter().zip(behind) {
        with_follower(&[to], async |mut lab: Lab| {
            let from = Instant::now();
            lab.unresolved(from, PATIENCE, to, "no route").await;
            let index = lab.index("eth1").await;
            let other = "10.10.1.77".parse().unwrap();
            let other = if family == Family::V4 {
                other
            } else {
                "fd00:10:1::77".parse().unwrap()
            };
            lab.set_neighbour(index, other, OTHER_MAC, NeighbourState::Permanent)
                .await;
            let (net, length) = match family {
                Family::V4 => ("10.99.0.0".parse().unwrap(), 24),
                Family::V6 => ("fd00:99::".parse().unwrap(), 64),
            };
            let route = |via: IpAddr| {
                let route = RouteMessageBuilder::<IpAddr>::new();
                let route = route.destination_prefix(net, length).unwrap();
                route.gateway(via).unwrap().build()
            };
            lab.netlink
                .route()
                .add(route(backend(family, 1)))
                .execute()
                .await
                .unwrap();
            lab.resolved(Instant::now(), PATIENCE, to, MAC).await;
            let from = Instant::now();
            let replace = lab.netlink.route().add(route(other)).replace();
            replace.execute().await.unwrap();
            lab.resolved(from, SEEN, to, OTHER_MAC).await;
            lab.netlink
                .route()
                .del(route(other))
                .execute()
                .await
                .unwrap();
            lab.unresolved(Instant::now(), PATIENCE, to, "no route")
                .await;
        });
    }
}

#[test]
fn link_without_carrier_and_back_is_seen() {
    with_backend(async |mut lab, to| {
        let from = Instant::now();
        lab.topology.cut_power("lb", "eth1").unwrap();
        lab.link_is(from, false).await;
        lab.unresolved(from, PATIENCE, to, "eth1 is down").await;
        let from = Instant::now();
        lab.topology.restore_power("lb", "eth1").unwrap();
        lab.link_is(from, true).await;
        lab.resolved(from, PATIENCE, to, MAC).await;
    });
}

#[test]
fn link_set_down_is_seen_within_ten_milliseconds() {
    with_backend(async |mut lab, to| {
        let down = LinkUnspec::new_with_name("eth1").down().build();
        let from = Instant::now();
        lab.netlink.link().set(down).execute().await.unwrap();
        lab.unresolved(from, SEEN, to, "").await;
    });
}

#[test]
fn deleted_device_and_its_successor_of_the_same_name_are_told() {
    with_backend(async |mut lab, to| {
        let old = lab.index("eth1").await;
        lab.topology.delete_device("lb", "eth1").unwrap();
        let (mut gone, mut lost) = (false, false);
        lab.expect(Instant::now(), PATIENCE, "link gone and route lost", |e| {
            gone |= matches!(e, Event::LinkGone { ifindex } if *ifindex == old);
            lost |= matches!(e, Event::Route { address, route: Route::Unresolved(_) } if *address == to);
            gone && lost
        })
        .await;
        lab.topology.recreate_device("lb", "eth1").unwrap();
        let back =
            |e: &Event| matches!(e, Event::Link(l) if l.name == "eth1" && l.up && l.ifindex != old);
        lab.expect(Instant::now(), PATIENCE, "link back", back)
            .await;
        lab.resolved(Instant::now(), PATIENCE, to, MAC).await;
    });
}

#[test]
fn changes_that_find_the_channel_full_end_with_the_last_one() {
    with_backend(async |mut lab, to| {
        // Nobody reads the channel, and far more changes than its 64 places follow; the last counts.
        let index = lab.index("eth1").await;
        for n in 0..2_000u32 {
            let [.., a, b] = n.to_be_bytes();
            let mac = [2, 0xbb, 0, 0, a, b];
            lab.set_neighbour(index, to, mac, NeighbourState::Reachable)
                .await;
        }
        lab.set_neighbour(index, to, OTHER_MAC, NeighbourState::Permanent)
            .await;
        lab.resolved(Instant::now(), PATIENCE, to, OTHER_MAC).await;
    });
}

#[test]
fn change_whose_message_was_lost_is_found_by_reading_anew() {
    with_backend(async |mut lab, to| {
        let index = lab.index("eth1").await;
        // The follower's thread is kept busy while more messages come than its socket can hold. A
        // second socket like it shows that they were enough.
        let mut witness = Notices::subscribe(WAY_GROUPS).unwrap();
        let (free, busy) = std::sync::mpsc::channel::<()>();
        tokio::spawn(async move { busy.recv().unwrap_or_default() });
        let mut requests = Requests::open().unwrap();
        let noise = InterfaceAddress {
            ifindex: 1,
            address: "127.9.9.9".parse().unwrap(),
            prefix: 32,
        };
        for _ in 0..40_000 {
            requests.add_address(noise).unwrap();
            requests.remove_address(noise).unwrap();
        }
        let balancer = lab.topology.namespace("lb");
        let change = balancer.netlink(async |netlink| {
            let add = netlink.neighbours().add(index, to);
            let add = add
                .link_layer_address(&OTHER_MAC)
                .state(NeighbourState::Permanent);
            Ok(add.replace().execute().await?)
        });
        change.unwrap();
        assert_eq!(
            witness.hear().unwrap(),
            Heard::Lost,
            "the storm was too small"
        );
        free.send(()).unwrap();
        lab.resolved(Instant::now(), PATIENCE, to, OTHER_MAC).await;
    });
}

#[test]
fn ten_thousand_addresses_are_followed_and_all_resolved() {
    let all: Vec<IpAddr> = (0..10_000u32)
        .map(|n| Ipv4Addr::from_bits(0x0b00_0000 + n).into())
        .collect();
    with_follower(&all, async |mut lab: Lab| {
        // Each has its own answer; all have one router.
        let route = RouteMessageBuilder::<IpAddr>::new();
        let route = route
            .destination_prefix("11.0.0.0".parse().unwrap(), 8)
            .unwrap();
        let route = route.gateway(backend(Family::V4, 1)).unwrap().build();
        lab.netlink.route().add(route).execute().await.unwrap();
        let from = Instant::now();
        let mut left: BTreeSet<_> = all.iter().copied().collect();
        while !left.is_empty() {
            let next = tokio::time::timeout(PATIENCE, lab.events.recv()).await;
            let (_, event) = next.expect("addresses stay unresolved").unwrap();
            if let Event::Route {
                address,
                route: Route::Resolved {
                    destination: MAC, ..
                },
            } = event
            {
                left.remove(&address);
            }
        }
        println!("all resolved after {:?}", from.elapsed());
    });
}
