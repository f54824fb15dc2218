//! The task that keeps [`Ways`] true: hears the kernel's notices, asks for routes, has neighbours
//! resolved, and tells changes as events.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::netlink::{Heard, NetlinkError, Notices, WAY_GROUPS, now};
use super::notice::Notice;
use super::requests::{BATCH, Requests};
use super::{KEEP_ALIVE, Solicit, Ways};
use crate::event::Event;

/// Datagrams read before the changes they made are looked at.
const BURST: usize = 256;

/// A running follower. Dropping it does not stop it; its cancellation token does.
#[derive(Debug)]
pub struct Handle {
    follow: watch::Sender<BTreeSet<IpAddr>>,
    leave_by: watch::Sender<BTreeSet<String>>,
    task: JoinHandle<Result<(), NetlinkError>>,
}

impl Handle {
    /// The complete set of addresses to follow. Those that stay are not disturbed.
    pub fn follow(&self, addresses: Vec<IpAddr>) {
        set(&self.follow, addresses.into_iter().collect());
    }

    /// The complete set of interfaces, by name, that ways may leave by; empty: all.
    pub fn leave_by(&self, interfaces: Vec<String>) {
        set(&self.leave_by, interfaces.into_iter().collect());
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

fn set<T: PartialEq>(sender: &watch::Sender<T>, wanted: T) {
    sender.send_if_modified(|now| {
        let changed = *now != wanted;
        *now = wanted;
        changed
    });
}

/// What was commanded, complete.
struct Commands {
    follow: watch::Receiver<BTreeSet<IpAddr>>,
    leave_by: watch::Receiver<BTreeSet<String>>,
}

impl Commands {
    /// Until one changes. False: the handle is gone.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.follow.changed() => changed.is_ok(),
            changed = self.leave_by.changed() => changed.is_ok(),
        }
    }
}

/// Follows the ways to addresses. Only a namespace for functions: see [`Follower::spawn`].
pub struct Follower {
    ways: Ways,
    notices: Notices,
    requests: Requests,
    sender: mpsc::Sender<(u64, Event)>,
    outbox: VecDeque<(u64, Event)>,
    /// It was said how neighbours are kept.
    said: bool,
}

impl Follower {
    /// Starts to follow, in the network namespace of the calling thread and on the runtime it is
    /// in. All links are told, first and always. `interfaces`: those a way may leave by; empty:
    /// all. A full channel delays events and merges none away but repeated ones of one address.
    pub fn spawn(
        sender: mpsc::Sender<(u64, Event)>,
        cancel: CancellationToken,
        interfaces: Vec<String>,
    ) -> Result<Handle, NetlinkError> {
        let notices = Notices::subscribe(WAY_GROUPS)?;
        let mut follower = Self {
            ways: Ways::new(interfaces.iter().cloned()),
            notices,
            requests: Requests::open()?,
            sender,
            outbox: VecDeque::new(),
            said: false,
        };
        follower.resync()?;
        let (follow, wanted) = watch::channel(BTreeSet::new());
        let (leave_by, interfaces) = watch::channel(interfaces.into_iter().collect());
        let commands = Commands {
            follow: wanted,
            leave_by: interfaces,
        };
        let task = tokio::spawn(async move {
            let run = follower.run(commands);
            cancel.run_until_cancelled(run).await.unwrap_or(Ok(()))
        });
        Ok(Handle {
            follow,
            leave_by,
            task,
        })
    }

    async fn run(mut self, mut commands: Commands) -> Result<(), NetlinkError> {
        let mut commanded = true;
        let sender = self.sender.clone();
        loop {
            let busy = self.work()?;
            if busy {
                // Others get their turn, then notices that came meanwhile are heard.
                tokio::task::yield_now().await;
                continue;
            }
            let wait = self.ways.deadline().map(|due| due.saturating_sub(now()));
            let pause = tokio::time::sleep(Duration::from_nanos(wait.unwrap_or(KEEP_ALIVE)));
            tokio::select! {
                heard = self.notices.next() => self.take(heard)?,
                changed = commands.changed(), if commanded => {
                    commanded = changed;
                    let interfaces = commands.leave_by.borrow_and_update().clone();
                    self.ways.leave_by(interfaces);
                    let addresses = commands.follow.borrow_and_update().clone();
                    self.ways.follow(addresses);
                }
                permit = sender.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.outbox.pop_front() {
                            permit.send(event);
                        }
                    }
                    Err(_) => return Ok(()),
                },
                () = pause => {}
            }
        }
    }

    /// One round: hear, ask, tell, solicit. True: there is more to do at once.
    fn work(&mut self) -> Result<bool, NetlinkError> {
        let mut busy = self.hear()?;
        busy |= self.ask()?;
        // Before the kernel is kept busy with neighbours.
        self.tell();
        busy |= self.solicit()?;
        self.say();
        Ok(busy)
    }

    fn hear(&mut self) -> Result<bool, NetlinkError> {
        for _ in 0..BURST {
            let heard = self.notices.hear();
            if matches!(heard, Ok(Heard::Nothing)) {
                return Ok(false);
            }
            self.take(heard)?;
        }
        Ok(true)
    }

    fn take(&mut self, heard: Result<Heard, NetlinkError>) -> Result<(), NetlinkError> {
        match heard {
            Ok(Heard::Nothing) => Ok(()),
            Ok(Heard::Notices(list)) => {
                list.into_iter().for_each(|notice| self.learn(notice));
                Ok(())
            }
            Ok(Heard::Lost) => {
                warn!("the kernel dropped netlink messages: reading links and neighbours anew");
                self.notices.discard()?;
                self.resync()
            }
            Err(error @ NetlinkError::Malformed(_)) => {
                warn!(%error, "reading links and neighbours anew");
                self.notices.discard()?;
                self.resync()
            }
            Err(error) => Err(error),
        }
    }

    fn learn(&mut self, notice: Notice) {
        let now = now();
        match notice {
            Notice::Link(link) => self.ways.link(link, now),
            Notice::LinkGone(ifindex) => self.ways.link_gone(ifindex, now),
            Notice::Neighbour(hop, neighbour) => self.ways.neighbour(hop, neighbour, now),
            Notice::NeighbourGone(hop) => self.ways.neighbour_gone(hop, now),
            Notice::Route { to, .. } => self.ways.routes_changed(Some(to)),
            Notice::Routing => self.ways.routes_changed(None),
            Notice::Address {
                at,
                tentative: false,
            } => self.ways.speaks(at, now),
            Notice::AddressGone(at) => self.ways.falls_silent(at),
            Notice::Address { .. } => {}
        }
    }

    fn resync(&mut self) -> Result<(), NetlinkError> {
        let links = self.requests.links()?;
        let neighbours = self.requests.neighbours()?;
        let addresses = self.requests.addresses()?;
        self.ways.replace(links, neighbours, now());
        let settled = addresses.into_iter().filter(|(_, tentative)| !tentative);
        settled.for_each(|(at, _)| self.ways.speaks(at, now()));
        Ok(())
    }

    fn ask(&mut self) -> Result<bool, NetlinkError> {
        let batch: Vec<_> = std::iter::from_fn(|| self.ways.next_ask())
            .take(BATCH)
            .collect();
        if batch.is_empty() {
            return Ok(false);
        }
        let answers = self.requests.ways(&batch)?;
        for (address, answer) in batch.into_iter().zip(answers) {
            self.ways.answer(address, answer, now());
        }
        Ok(true)
    }

    fn solicit(&mut self) -> Result<bool, NetlinkError> {
        let at = now();
        let next = || self.ways.next_solicit(at);
        let batch: Vec<Solicit> = std::iter::from_fn(next).take(BATCH).collect();
        if batch.is_empty() {
            return Ok(false);
        }
        let refusals = self.requests.solicit(&batch)?;
        for (solicit, refused) in batch.into_iter().zip(refusals) {
            self.ways.solicited(solicit.hop, refused);
        }
        Ok(true)
    }

    fn tell(&mut self) {
        let now = now();
        let changes = self.ways.changes(now);
        if changes.is_empty() && self.outbox.is_empty() {
            return;
        }
        // What waits about an address is out of date when there is something newer.
        let newer: BTreeSet<_> = changes.iter().filter_map(subject).collect();
        self.outbox
            .retain(|(_, e)| subject(e).is_none_or(|a| !newer.contains(&a)));
        self.outbox
            .extend(changes.into_iter().map(|event| (now, event)));
        while let Some(event) = self.outbox.pop_front() {
            if let Err(refused) = self.sender.try_send(event) {
                self.outbox.push_front(refused.into_inner());
                break;
            }
        }
    }

    /// Says once how neighbour entries are kept from being forgotten.
    fn say(&mut self) {
        if self.said {
            return;
        }
        let asked = self.ways.asked_to_keep();
        if asked.is_empty() {
            return;
        }
        self.said = true;
        // What was heard may be older than the question.
        let entries = match self.requests.neighbours() {
            Ok(entries) => entries,
            Err(error) => {
                warn!(%error, "look at how the neighbours of backends are kept");
                return;
            }
        };
        let mut entries = entries.into_iter().filter(|(hop, _)| asked.contains(hop));
        if entries.any(|(_, entry)| entry.managed) {
            info!("the kernel keeps the neighbours of backends resolved (NTF_EXT_MANAGED)");
        } else {
            info!(
                "this kernel does not keep neighbours by itself (Linux 5.16 does): using each every {} s",
                KEEP_ALIVE / 1_000_000_000
            );
        }
    }
}

fn subject(event: &Event) -> Option<IpAddr> {
    match event {
        Event::Route { address, .. } => Some(*address),
        _ => None,
    }
}
