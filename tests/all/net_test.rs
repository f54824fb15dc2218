//! Ways to backends and VIP claims over real netlink, in the lab's namespaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use lb_tests::topology::{Arms, FAMILIES, Family, Forwarding, Shape, Topology, backend};
use lb_userspace::announce::claimer::{self, Claimer};
use lb_userspace::announce::{self, Claim, Origin, Report};
use lb_userspace::event::Event;
use lb_userspace::model::Route;
use lb_userspace::neigh::InterfaceAddress;
use lb_userspace::neigh::follower::{Follower, Handle};
use lb_userspace::neigh::netlink::{Heard, Notices, WAY_GROUPS};
use lb_userspace::neigh::requests::Requests;
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};
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
struct Lab {
    topology: Topology,
    netlink: rtnetlink::Handle,
    events: mpsc::Receiver<(u64, Event)>,
    handle: Handle,
    cancel: CancellationToken,
}

/// Runs a test on a thread in the balancer's namespace. Tasks have threads of their own, so that
/// the test may block.
fn in_balancer(test: impl AsyncFnOnce(Topology) + Send) {
    let topology = Topology::build(SHAPE).unwrap();
    let balancer = topology.namespace("lb").clone();
    balancer.run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(topology));
    });
}

fn netlink() -> rtnetlink::Handle {
    let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    netlink
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

async fn has_carrier(netlink: &rtnetlink::Handle, device: &str) -> bool {
    let mut links = netlink.link().get().match_name(device.to_owned()).execute();
    let header = links.try_next().await.unwrap().unwrap().header;
    header.flags.contains(LinkFlags::LowerUp)
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

const VIPS: [&str; 2] = ["10.10.0.100", "fd00:10::100"];

/// A claimer in the balancer's namespace, and what it stored.
struct Claims {
    handle: claimer::Handle,
    reports: mpsc::Receiver<(u64, Report)>,
    stored: Arc<Mutex<announce::Claims>>,
    cancel: CancellationToken,
}

fn start_claimer(record: announce::Claims) -> Claims {
    let (sender, reports) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let stored = Arc::new(Mutex::new(record.clone()));
    let store = {
        let stored = stored.clone();
        Box::new(move |record: &announce::Claims| {
            *stored.lock().unwrap() = record.clone();
            Ok(())
        })
    };
    let handle = Claimer::spawn(sender, cancel.clone(), record, store).unwrap();
    Claims {
        handle,
        reports,
        stored,
        cancel,
    }
}

impl Claims {
    #[track_caller]
    fn expect(
        &mut self,
        report: impl Fn(Claim) -> Report,
        vip: IpAddr,
    ) -> impl Future<Output = ()> {
        let wanted = report(claim(vip));
        async move {
            let next = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
            let (_, got) = next.expect("no report").expect("the claimer ended");
            assert_eq!(got, wanted);
        }
    }

    async fn ended(self) -> announce::Claims {
        self.cancel.cancel();
        self.handle.ended().await.unwrap();
        self.stored.lock().unwrap().clone()
    }
}

fn claim(address: IpAddr) -> Claim {
    Claim {
        interface: "eth0".to_owned(),
        address,
    }
}

async fn has_address(netlink: &rtnetlink::Handle, address: IpAddr) -> bool {
    let found = netlink
        .address()
        .get()
        .set_address_filter(address)
        .execute();
    !found.try_collect::<Vec<_>>().await.unwrap().is_empty()
}

#[test]
fn claimed_vip_is_added_announced_to_the_segment_and_released() {
    for vip in VIPS.map(|a| a.parse::<IpAddr>().unwrap()) {
        in_balancer(async |topology: Topology| {
            let netlink = netlink();
            let mut client = Capture::start(&topology);
            let mut claims = start_claimer(announce::Claims::default());
            claims.handle.claim(vec![("eth0".to_owned(), vip)]);
            claims.expect(Report::Added, vip).await;
            assert!(has_address(&netlink, vip).await);
            let mac = [0x02, 0xf1, 0, 0, 0, 1];
            for round in 1..=3 {
                for frame in announce::frames(mac, vip) {
                    assert!(
                        client.sees(&frame),
                        "announcement {round} of {vip} was not seen"
                    );
                }
            }
            claims.handle.claim(vec![]);
            claims.expect(Report::Released, vip).await;
            assert!(!has_address(&netlink, vip).await);
            assert_eq!(claims.ended().await, announce::Claims::default());
        });
    }
}

#[test]
fn vip_outlives_the_daemon_and_is_released_by_unload() {
    for vip in VIPS.map(|a| a.parse::<IpAddr>().unwrap()) {
        in_balancer(async |_topology: Topology| {
            let netlink = netlink();
            let mut claims = start_claimer(announce::Claims::default());
            claims.handle.claim(vec![("eth0".to_owned(), vip)]);
            claims.expect(Report::Added, vip).await;
            let record = claims.ended().await;
            assert!(has_address(&netlink, vip).await);

            let claims = start_claimer(record);
            claims.handle.claim(vec![("eth0".to_owned(), vip)]);
            let record = claims.ended().await;
            assert_eq!(record.0.get(&claim(vip)), Some(&Origin::Daemon));

            let (left, reasons) = claimer::release_all(record).unwrap();
            assert_eq!((left, reasons), (announce::Claims::default(), vec![]));
            assert!(!has_address(&netlink, vip).await);
        });
    }
}

#[test]
fn vip_removed_by_hand_is_back_within_a_hundred_milliseconds() {
    for vip in VIPS.map(|a| a.parse::<IpAddr>().unwrap()) {
        in_balancer(async |topology: Topology| {
            let netlink = netlink();
            let mut claims = start_claimer(announce::Claims::default());
            claims.handle.claim(vec![("eth0".to_owned(), vip)]);
            claims.expect(Report::Added, vip).await;
            let from = Instant::now();
            topology.remove_address("lb", "eth0", vip).unwrap();
            claims.expect(Report::Repaired, vip).await;
            let took = from.elapsed();
            println!("{vip} back after {took:?}");
            assert!(has_address(&netlink, vip).await);
            assert!(took < REPAIRED, "{vip} back only after {took:?}");
        });
    }
}

#[test]
fn operators_address_is_left_where_it_was() {
    for vip in VIPS.map(|a| a.parse::<IpAddr>().unwrap()) {
        in_balancer(async |topology: Topology| {
            let netlink = netlink();
            let length = if vip.is_ipv4() { 32 } else { 128 };
            topology.add_address("lb", "eth0", vip, length).unwrap();
            let mut claims = start_claimer(announce::Claims::default());
            claims.handle.claim(vec![("eth0".to_owned(), vip)]);
            claims.expect(Report::Found, vip).await;
            claims.handle.claim(vec![]);
            claims.expect(Report::Released, vip).await;
            assert!(has_address(&netlink, vip).await);
        });
    }
}

#[test]
fn link_that_comes_up_again_is_announced_on() {
    for vip in VIPS.map(|a| a.parse::<IpAddr>().unwrap()) {
        in_balancer(async |topology: Topology| {
            let mut claims = start_claimer(announce::Claims::default());
            claims.handle.claim(vec![("eth0".to_owned(), vip)]);
            claims.expect(Report::Added, vip).await;
            let mut client = Capture::start(&topology);
            let frames = announce::frames([0x02, 0xf1, 0, 0, 0, 1], vip);
            for _ in 0..2 {
                assert!(client.sees(&frames[0]), "the first announcements of {vip}");
            }
            topology.cut_power("lb", "eth0").unwrap();
            let netlink = netlink();
            let from = Instant::now();
            while has_carrier(&netlink, "eth0").await {
                assert!(from.elapsed() < PATIENCE, "eth0 keeps its carrier");
            }
            topology.restore_power("lb", "eth0").unwrap();
            assert!(client.sees(&frames[0]), "{vip} was not announced again");
        });
    }
}

/// A packet socket at the client.
struct Capture {
    socket: Socket,
}

impl Capture {
    fn start(topology: &Topology) -> Self {
        let socket = topology.run_in("client", || {
            let all = i32::from((libc::ETH_P_ALL as u16).to_be());
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))).unwrap()
        });
        Self { socket }
    }

    /// Waits for a frame; others are thrown away.
    fn sees(&mut self, frame: &[u8]) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let read = std::io::Read::read(&mut &self.socket, &mut buffer);
            if read.is_ok_and(|length| buffer[..length] == *frame) {
                return true;
            }
        }
    }
}
