//! The task that carries out claims: addresses over netlink, announcements through a packet
//! socket.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Claim, Claiming, Claims, Origin, Report, Step, host_address};
use crate::neigh::InterfaceAddress;
use crate::neigh::netlink::{ADDRESS_GROUPS, Heard, NetlinkError, Notices, now};
use crate::neigh::notice::Notice;
use crate::neigh::requests::Requests;

/// Ends when the record is on disk, or could not be written.
pub type Stored = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;
/// Stores the record of claims; called before an address is added and after one was removed.
pub type Store = Box<dyn FnMut(&Claims) -> Stored + Send>;

/// Without anything to do, look again after this.
const IDLE: u64 = 60_000_000_000;

/// A running claimer. Dropping it does not stop it; its cancellation token does. Addresses stay.
#[derive(Debug)]
pub struct Handle {
    claims: watch::Sender<Option<BTreeSet<Claim>>>,
    task: JoinHandle<Result<(), NetlinkError>>,
}

impl Handle {
    /// The complete set of claims: interface and VIP. What is missing is released. Until the first
    /// call nothing is released.
    pub fn claim(&self, claims: Vec<(String, IpAddr)>) {
        let claim = |(interface, address)| Claim { interface, address };
        let wanted = Some(claims.into_iter().map(claim).collect());
        self.claims.send_if_modified(|now| {
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
    }

    /// It has ended, which it should not before it is cancelled.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it has ended: after cancellation, or because netlink failed for good.
    pub async fn ended(self) -> Result<(), NetlinkError> {
        match self.task.await {
            Ok(result) => result,
            Err(stopped) if stopped.is_cancelled() => Ok(()),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// Claims VIPs: see [`Claimer::spawn`].
pub struct Claimer {
    claiming: Claiming,
    notices: Notices,
    requests: Requests,
    reports: mpsc::Sender<(u64, Report)>,
    store: Store,
    stored: Claims,
}

impl Claimer {
    /// Starts, in the network namespace of the calling thread and on the runtime it is in.
    /// `record`: what a former daemon stored, or empty. Reports that do not fit the channel are
    /// only logged.
    pub fn spawn(
        reports: mpsc::Sender<(u64, Report)>,
        cancel: CancellationToken,
        record: Claims,
        store: Store,
    ) -> Result<Handle, NetlinkError> {
        let mut claimer = Self {
            claiming: Claiming::new(record.clone()),
            notices: Notices::subscribe(ADDRESS_GROUPS)?,
            requests: Requests::open()?,
            reports,
            store,
            stored: record,
        };
        claimer.resync()?;
        let (claims, wanted) = watch::channel(None);
        let task = tokio::spawn(async move {
            let run = claimer.run(wanted);
            cancel.run_until_cancelled(run).await.unwrap_or(Ok(()))
        });
        Ok(Handle { claims, task })
    }

    async fn run(
        mut self,
        mut wanted: watch::Receiver<Option<BTreeSet<Claim>>>,
    ) -> Result<(), NetlinkError> {
        let mut commanded = true;
        loop {
            while let Some(step) = self.claiming.next_step(now()) {
                self.act(step).await;
            }
            // What was found or dropped without a step is stored too.
            if let Err(error) = self.store().await {
                warn!(%error, "store the record of claimed addresses: is the state directory writable?");
            }
            self.tell();
            let due = self.claiming.deadline();
            let wait = due.map_or(IDLE, |due| due.saturating_sub(now()));
            tokio::select! {
                heard = self.notices.next() => self.take(heard)?,
                changed = wanted.changed(), if commanded => {
                    commanded = changed.is_ok();
                    if let Some(claims) = wanted.borrow_and_update().clone() {
                        self.claiming.want(claims);
                    }
                }
                () = tokio::time::sleep(Duration::from_nanos(wait)) => {}
            }
        }
    }

    fn take(&mut self, heard: Result<Heard, NetlinkError>) -> Result<(), NetlinkError> {
        let mut heard = heard;
        loop {
            match heard {
                Ok(Heard::Nothing) => return Ok(()),
                Ok(Heard::Notices(list)) => list.into_iter().for_each(|notice| self.learn(notice)),
                Ok(Heard::Lost) | Err(NetlinkError::Malformed(_)) => {
                    warn!("netlink messages were lost: reading links and addresses anew");
                    self.notices.discard()?;
                    self.resync()?;
                }
                Err(error) => return Err(error),
            }
            heard = self.notices.hear();
        }
    }

    fn learn(&mut self, notice: Notice) {
        match notice {
            Notice::Link(link) => self.claiming.link(link, now()),
            Notice::LinkGone(ifindex) => self.claiming.link_gone(ifindex),
            Notice::Address { at, .. } => self.claiming.address(at),
            Notice::AddressGone(at) => self.claiming.address_gone(at),
            _ => {}
        }
    }

    fn resync(&mut self) -> Result<(), NetlinkError> {
        let links = self.requests.links()?;
        let addresses = self.requests.addresses()?;
        let addresses = addresses.into_iter().map(|(at, _)| at).collect();
        self.claiming.replace(links, addresses, now());
        Ok(())
    }

    async fn act(&mut self, step: Step) {
        match step {
            Step::Add(claim, at) => {
                // An address that is not on record would be taken for the operator's.
                let ended = match self.store().await {
                    Ok(()) => self.requests.add_address(at).map_err(|e| e.to_string()),
                    Err(e) => Err(format!("store the record of claimed addresses: {e}")),
                };
                self.claiming.added(claim, at, ended, now());
            }
            Step::Remove(claim, at) => {
                let ended = remove(&mut self.requests, at).map_err(|e| e.to_string());
                self.claiming.removed(claim, at, ended, now());
            }
            Step::Announce(claim, frames) => {
                if let Err(error) = send(&claim.interface, &frames) {
                    warn!(%claim, %error, "announce a claimed address (needs CAP_NET_RAW)");
                }
            }
        }
    }

    async fn store(&mut self) -> io::Result<()> {
        let record = self.claiming.record();
        if *record != self.stored {
            let record = record.clone();
            (self.store)(&record).await?;
            self.stored = record;
        }
        Ok(())
    }

    fn tell(&mut self) {
        for report in self.claiming.reports() {
            match &report {
                Report::Added(claim) => info!(%claim, "claimed a VIP"),
                Report::Found(claim) => {
                    info!(%claim, "VIP was there already and will be left there")
                }
                Report::Released(claim) => info!(%claim, "released a VIP"),
                Report::Repaired(claim) => {
                    warn!(%claim, "VIP had been removed and was added again")
                }
                Report::Failed { claim, reason } => {
                    warn!(%claim, reason, "VIP cannot be claimed or released now")
                }
                Report::NoInterface(claim) => warn!(%claim, "no such interface to claim a VIP on"),
            }
            // The log has it; the history may lack it when nobody reads the channel.
            drop(self.reports.try_send((now(), report)));
        }
    }
}

/// Removes the addresses that a daemon added, for `unload`. What cannot be removed now is
/// returned with the reason; everything else is off the record.
pub fn release_all(claims: Claims) -> Result<(Claims, Vec<String>), NetlinkError> {
    let mut requests = Requests::open()?;
    let links = requests.links()?;
    let (mut left, mut reasons) = (Claims::default(), Vec::new());
    for (claim, origin) in claims.0 {
        let link = links.iter().find(|l| l.link.name == claim.interface);
        if let (Some(link), Origin::Daemon) = (link, origin) {
            let at = host_address(link.link.ifindex, claim.address);
            if let Err(error) = remove(&mut requests, at) {
                reasons.push(error.to_string());
                left.0.insert(claim, origin);
            }
        }
    }
    Ok((left, reasons))
}

/// Removes an address; one that is not there is removed already.
fn remove(requests: &mut Requests, at: InterfaceAddress) -> Result<(), NetlinkError> {
    match requests.remove_address(at) {
        Err(NetlinkError::Refused { source, .. })
            if matches!(
                source.raw_os_error(),
                Some(libc::EADDRNOTAVAIL | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Sends Ethernet frames out of an interface.
fn send(interface: &str, frames: &[Vec<u8>]) -> io::Result<()> {
    if frames.is_empty() {
        return Ok(());
    }
    let to = packet_address(interface)?;
    // Protocol 0: a socket that receives nothing.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    for frame in frames {
        sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty())?;
    }
    Ok(())
}

/// The packet socket's name of an interface.
fn packet_address(interface: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the interface is gone"))
}
