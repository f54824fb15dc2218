//! VIP claims: added, announced, repaired, released.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::TryStreamExt;
use lb_tests::topology::Topology;
use lb_userspace::announce::claimer::{self, Claimer};
use lb_userspace::announce::{self, Claim, Origin, Report};
use netlink_packet_route::link::LinkFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, REPAIRED, in_balancer, netlink};

async fn has_carrier(netlink: &rtnetlink::Handle, device: &str) -> bool {
    let mut links = netlink.link().get().match_name(device.to_owned()).execute();
    let header = links.try_next().await.unwrap().unwrap().header;
    header.flags.contains(LinkFlags::LowerUp)
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
            Box::pin(std::future::ready(Ok(()))) as claimer::Stored
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
