//! Ways to backends and VIP claims over real netlink, in the lab's namespaces.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use lb_tests::topology::{Arms, FAMILIES, Family, Forwarding, Shape, Topology, backend};
use lb_userspace::event::Event;
use lb_userspace::model::Route;
use lb_userspace::neigh::follower::{Follower, Handle};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourState};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// For what has no bound of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// From a netlink message to the event that follows from it.
const SEEN: Duration = Duration::from_millis(10);
/// From a neighbour or VIP removed by hand to its return.
const REPAIRED: Duration = Duration::from_millis(100);

const SHAPE: Shape = Shape {
    backends: 1,
    arms: Arms::Two,
    forwarding: Forwarding::Dnat,
};

/// A follower in the balancer's namespace, and the means to disturb it.
struct Lab<'a> {
    topology: &'a Topology,
    netlink: rtnetlink::Handle,
    events: mpsc::Receiver<(u64, Event)>,
    handle: Handle,
    cancel: CancellationToken,
}

/// Runs a test in the balancer's namespace with a follower of the addresses.
fn with_follower(addresses: &[IpAddr], test: impl AsyncFnOnce(Lab) + Send) {
    let topology = Topology::build(SHAPE).unwrap();
    topology.namespace("lb").block_on(async || {
        let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
        let connection = tokio::spawn(connection);
        let (sender, events) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let interfaces = vec!["eth0".to_owned(), "eth1".to_owned()];
        let handle = Follower::spawn(sender, cancel.clone(), interfaces).unwrap();
        handle.follow(addresses.to_vec());
        let lab = Lab {
            topology: &topology,
            netlink,
            events,
            handle,
            cancel,
        };
        test(lab).await;
        connection.abort();
    });
}

impl Lab<'_> {
    /// Waits for an event; how long after `from` it was.
    async fn expect(
        &mut self,
        from: Instant,
        bound: Duration,
        what: &str,
        fits: impl Fn(&Event) -> bool,
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

    async fn index(&self, device: &str) -> u32 {
        index(&self.netlink, device).await
    }

    /// Sets a neighbour entry by hand.
    async fn set_neighbour(&self, to: IpAddr, mac: [u8; 6], state: NeighbourState) {
        let index = self.index("eth1").await;
        let add = self.netlink.neighbours().add(index, to);
        let add = add.link_layer_address(&mac).state(state).replace();
        add.execute().await.unwrap();
    }

    /// What `ip neigh flush dev eth1` does.
    async fn flush_neighbours(&self) {
        let index = self.index("eth1").await;
        let all: Vec<_> = self
            .netlink
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .unwrap();
        for entry in all {
            let host =
                |a: &NeighbourAttribute| matches!(a, NeighbourAttribute::LinkLayerAddress(_));
            if entry.header.ifindex == index && entry.attributes.iter().any(host) {
                self.netlink
                    .neighbours()
                    .del(entry)
                    .execute()
                    .await
                    .unwrap();
            }
        }
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

fn follows_on_link(family: Family) {
    let to = backend(family, 1);
    with_follower(&[to], async |mut lab: Lab| {
        lab.resolved(Instant::now(), PATIENCE, to, MAC).await;
        lab.ended().await;
    });
}

#[test]
fn backend_on_link_is_resolved_without_traffic() {
    FAMILIES.map(follows_on_link);
}

fn sees_mac_change(family: Family) {
    let to = backend(family, 1);
    with_follower(&[to], async |mut lab: Lab| {
        lab.resolved(Instant::now(), PATIENCE, to, MAC).await;
        let from = Instant::now();
        lab.set_neighbour(to, OTHER_MAC, NeighbourState::Reachable)
            .await;
        lab.resolved(from, SEEN, to, OTHER_MAC).await;
        lab.ended().await;
    });
}

#[test]
fn changed_mac_is_seen_within_ten_milliseconds() {
    FAMILIES.map(sees_mac_change);
}
