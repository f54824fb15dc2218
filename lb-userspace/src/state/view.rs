//! The state as people see it: [`Status`], from what is known and from counters that others read.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};

use lb_common::counter::{Global, Handshake, More, PathError, PerBackend, Rest, begun, new_flows};
use lb_common::{CounterLine, DropReason, timing};

use super::{State, room};
use crate::health::{Evidence, Seen};
use crate::model::{BackendKey, Forwarding, Name, ProbeResult, ProbeVerdict, Protocol};
use crate::status::{
    Attachment, Backend, Counters, DataPlane, Drain, Handshakes, Hook, Losses, Service, Status,
    Storage, Traffic,
};
use crate::{ids, model};

/// What the daemon knows and the state does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The image is written and every interface is attached.
    pub ready: bool,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When the daemon started, nanoseconds since boot.
    pub started: u64,
    /// Why the configuration file is not what runs.
    pub config_error: Option<String>,
    /// As in the header.
    pub owner_epoch: u64,
    /// Interfaces.
    pub attachments: Vec<Attachment>,
    /// What is lost behind the data plane.
    pub losses: Losses,
    /// Entries that the flow table has room for.
    pub flow_capacity: u64,
    /// Flows of `fullnat` at the last walk through their table.
    pub nat_flows: u64,
    /// Entries that this table has room for.
    pub nat_capacity: u64,
    /// How it stands with the state directory.
    pub storage: Storage,
    /// How it stands with each hook.
    pub hooks: Vec<Hook>,
}

impl State {
    /// The whole balancer now, without services. These are told by [`Self::status_of`], some at a time if there are many: with
    /// 100,000 backends telling all takes longer than a verdict may wait.
    pub fn status_head(&self, now: u64, around: Surroundings, counters: &Counters) -> Status {
        Status {
            ready: around.ready,
            version: around.version,
            pid: around.pid,
            uptime_ms: millis(now.saturating_sub(around.started)),
            config_revision: format!("{:016x}", self.config().revision),
            config_error: around.config_error,
            owner_epoch: around.owner_epoch,
            checker_suspect: self.velocity.checker_suspect(),
            attachments: around.attachments,
            losses: around.losses,
            storage: around.storage,
            hooks: around.hooks,
            data_plane: DataPlane {
                flow_capacity: around.flow_capacity,
                nat_flows: around.nat_flows,
                nat_capacity: around.nat_capacity,
                ..self.data_plane(counters)
            },
            services: Vec::new(),
        }
    }

    /// Some services now. Counters are absolute; a backend's begin where it got its id.
    pub fn status_of<'a>(
        &self,
        now: u64,
        services: impl Iterator<Item = &'a model::Service>,
        counters: &Counters,
    ) -> Vec<Service> {
        services
            .map(|service| self.service_status(now, service, counters))
            .collect()
    }

    fn data_plane(&self, counters: &Counters) -> DataPlane {
        let global = |position: Global| at(&counters.totals.global, position as usize);
        DataPlane {
            rx: global(Global::Rx),
            pass: global(Global::Pass),
            tx: global(Global::Tx),
            redirect: global(Global::Redirect),
            drops: drops(&counters.totals.drops),
            echo_replied: at(&counters.more, More::EchoReplied as usize),
            icmp_relayed: at(&counters.more, More::IcmpRelayed as usize),
            untracked: global(Global::Untracked),
            not_admitted: at(&counters.more, More::NotAdmitted as usize),
            too_big_answers: at(&counters.more, More::TooBigSent as usize),
            path_errors: PathError::ALL
                .map(|which| {
                    let count = at(&counters.path_errors, which as usize);
                    (which.label().to_owned(), count)
                })
                .into(),
            resets: at(&counters.more, More::ResetSent as usize),
            by_server_id: at(&counters.more, More::ByServerId as usize),
            no_server_id: at(&counters.more, More::NoServerId as usize),
            affinity_evicted: at(&counters.more, More::AffinityEvicted as usize),
            options_left_out: at(&counters.rest, Rest::OptionLeftOut as usize),
            clashed_flows: at(&counters.rest, Rest::Clashed as usize),
            evicted: global(Global::Evicted),
            flows: self.flows.values().fold(0, |sum, n| sum.saturating_add(*n)),
            ..DataPlane::default()
        }
    }

    fn service_status(&self, now: u64, service: &model::Service, counters: &Counters) -> Service {
        let all = self.all_weights(service);
        let backends: Vec<Backend> = service
            .keyed_backends()
            .filter_map(|(key, backend)| {
                self.backend_status(now, &key, (service, all), backend, counters)
            })
            .collect();
        let index = self.ids().service(&service.name).map(|id| id.index);
        let none = [0; 32];
        let dropped = index.and_then(|index| counters.service_drops.get(&index));
        let largest_packet = self.largest_packet(service, counters);
        let serves = backends.iter().any(|b| b.takes_new && b.weight > 0);
        Service {
            name: service.name.to_string(),
            address: service.address,
            port: service.port,
            protocol: protocol(service).to_owned(),
            forwarding: forwarding(service).to_owned(),
            largest_packet,
            trouble: room::trouble(service, largest_packet),
            scheduler: service.scheduler.word().to_owned(),
            ring_size: if serves { ids::ring_size(service) } else { 0 },
            fail_open: self.failed_open(&service.name),
            claim_waits: self.claim_waits(service),
            flows_to: self
                .mode(&service.name)
                .map_or_else(String::new, ToString::to_string),
            traffic: backends
                .iter()
                .map(|b| b.traffic)
                .fold(Traffic::default(), sum),
            drops: drops(dropped.unwrap_or(&none)),
            backends,
        }
    }

    pub(super) fn backend_status(
        &self,
        now: u64,
        key: &BackendKey,
        (service, all_weights): (&model::Service, u64),
        backend: &model::Backend,
        counters: &Counters,
    ) -> Option<Backend> {
        let known = self.backends.get(key)?;
        let numbers = self.ids().backend(key)?;
        let word = self.word(key)?;
        let way = self.way(backend.address);
        let left = self.flows_of(key);
        Some(Backend {
            name: backend.name.to_string(),
            id: numbers.id,
            address: backend.address,
            port: backend.port.map(NonZeroU16::get),
            weight: backend.weight,
            tier: backend.tier.to_string(),
            share: self.share(key, all_weights),
            max_connections: backend.max_connections.map(NonZeroU32::get),
            share_why: self.share_why(now, service, backend, key),
            agent: service.health.agent.map(|_| known.agent.part()),
            admin: self.admin(key)?,
            health: self.health(key),
            health_for_ms: millis(now.saturating_sub(known.since)),
            reason: known.reason.to_string(),
            takes_new: word.permissions.may_take_new(),
            keeps: word.permissions.may_keep(),
            held: match self.velocity.hold(key) {
                Some(why) => Some(why.to_string()),
                None => known.tracker.damped(now),
            },
            drain: known.drain.map(|drain| Drain {
                deadline_in_ms: drain
                    .deadline
                    .map(|deadline| millis(deadline.saturating_sub(now))),
                left,
                done: drain.done,
            }),
            outage: self.outage_status(now, service, known, left),
            path_mtu: counters.paths.get(&numbers.id).copied(),
            route: match &way.resolved {
                Ok(hop) => format!("{} {}", self.interface(hop.ifindex), mac(hop.destination)),
                Err(reason) => reason.clone(),
            },
            suspicion: self.suspicion_words(now, key),
            warning: known.tracker.warning().map(str::to_owned),
            traffic: Traffic {
                open_flows: self.open_of(key),
                ..match &numbers.origin {
                    Some(origin) => traffic(
                        (numbers.id, counters),
                        (origin, &numbers.handshakes),
                        service.protocol,
                        left,
                    ),
                    // Nothing, while it is not known where it began.
                    None => Traffic {
                        live_flows: left,
                        ..Traffic::default()
                    },
                }
            },
            last_results: known.tracker.last().map(result).collect(),
        })
    }

    /// Its name.
    pub(super) fn interface(&self, ifindex: u32) -> String {
        match self.links.get(&ifindex) {
            Some(link) => link.name.clone(),
            None => format!("interface {ifindex}"),
        }
    }

    /// Drain progress of a backend: (flows left at the last sweep, it is over); `None` when it is not draining.
    pub fn drain_progress(&self, key: &BackendKey) -> Option<(u64, bool)> {
        let drain = self.backends.get(key)?.drain?;
        Some((self.flows_of(key), drain.done))
    }

    /// Somebody's flows are waited for: in a drain or an outage.
    pub fn drains(&self) -> bool {
        let known = self
            .draining
            .iter()
            .filter_map(|key| self.backends.get(key));
        known
            .filter_map(|backend| backend.drain)
            .any(|drain| !drain.done)
            || self.has_outages()
    }

    /// Service index by name, for readers of `counters`.
    pub fn service_index(&self, name: &Name) -> Option<u32> {
        self.ids().service(name).map(|id| id.index)
    }
}

pub(super) fn protocol(service: &model::Service) -> &'static str {
    match service.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
        Protocol::Any => "any",
    }
}

pub(super) fn forwarding(service: &model::Service) -> &'static str {
    match service.forwarding {
        Forwarding::Dnat => "dnat",
        Forwarding::L2dsr => "l2dsr",
        Forwarding::Ipip => "ipip",
        Forwarding::Gue => "gue",
        Forwarding::Fullnat => "fullnat",
    }
}

fn at(line: &[u64], position: usize) -> u64 {
    line.get(position).copied().unwrap_or(0)
}

fn drops(counts: &[u64; 32]) -> BTreeMap<String, u64> {
    DropReason::ALL
        .iter()
        .map(|reason| (reason.label().to_owned(), at(counts, *reason as usize)))
        .collect()
}

/// A backend's line, and that of its handshakes.
type Lines<'a> = (&'a CounterLine, &'a CounterLine);

/// What was counted of a backend since the origin.
fn traffic(
    (id, counters): (u32, &Counters),
    origin: Lines<'_>,
    protocol: Protocol,
    left: u64,
) -> Traffic {
    let none = CounterLine::default();
    let [backend, handshakes] =
        [&counters.backends, &counters.handshakes].map(|lines| lines.get(&id).unwrap_or(&none));
    let now = (backend, handshakes);
    let since = |of: fn(&CounterLine, &CounterLine) -> u64| {
        of(now.0, now.1).saturating_sub(of(origin.0, origin.1))
    };
    let grown = |now: &CounterLine, origin: &CounterLine, position: usize| {
        at(now, position).saturating_sub(at(origin, position))
    };
    let count = |which: PerBackend| grown(now.0, origin.0, which as usize);
    let handshake = |position: usize| grown(now.1, origin.1, position);
    Traffic {
        packets: count(PerBackend::Packets),
        bytes: count(PerBackend::Bytes),
        reply_packets: count(PerBackend::ReplyPackets),
        reply_bytes: count(PerBackend::ReplyBytes),
        new_flows: since(new_flows),
        moved_in: count(PerBackend::MovedIn),
        live_flows: left,
        open_flows: 0,
        handshakes: Handshakes {
            begun: match protocol {
                Protocol::Tcp => since(begun),
                _ => 0,
            },
            answered: handshake(Handshake::Answered as usize),
            resent: handshake(Handshake::Resent as usize),
            refused: handshake(Handshake::Refused as usize),
            unreachable: handshake(Handshake::Unreachable as usize),
            timed: handshake(timing::COUNT as usize),
            timed_ns: handshake(timing::SUM as usize),
        },
    }
}

fn sum(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        packets: a.packets.saturating_add(b.packets),
        bytes: a.bytes.saturating_add(b.bytes),
        reply_packets: a.reply_packets.saturating_add(b.reply_packets),
        reply_bytes: a.reply_bytes.saturating_add(b.reply_bytes),
        new_flows: a.new_flows.saturating_add(b.new_flows),
        moved_in: a.moved_in.saturating_add(b.moved_in),
        live_flows: a.live_flows.saturating_add(b.live_flows),
        open_flows: a.open_flows.saturating_add(b.open_flows),
        handshakes: Handshakes {
            begun: a.handshakes.begun.saturating_add(b.handshakes.begun),
            answered: a.handshakes.answered.saturating_add(b.handshakes.answered),
            resent: a.handshakes.resent.saturating_add(b.handshakes.resent),
            refused: a.handshakes.refused.saturating_add(b.handshakes.refused),
            unreachable: a
                .handshakes
                .unreachable
                .saturating_add(b.handshakes.unreachable),
            timed: a.handshakes.timed.saturating_add(b.handshakes.timed),
            timed_ns: a.handshakes.timed_ns.saturating_add(b.handshakes.timed_ns),
        },
    }
}

fn result(seen: &Seen) -> ProbeResult {
    ProbeResult {
        extra: false,
        scheduled: seen.scheduled,
        started: seen.started,
        ended: seen.ended,
        verdict: match &seen.evidence {
            Evidence::Good => match &seen.warning {
                Some(words) => ProbeVerdict::Warned(words.clone()),
                None => ProbeVerdict::Good,
            },
            Evidence::Bad(reason) => ProbeVerdict::Bad(reason.clone()),
            Evidence::Void(reason) => ProbeVerdict::Void(reason.clone()),
        },
    }
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whole milliseconds.
pub(super) fn millis(ns: u64) -> u64 {
    ns / 1_000_000
}
