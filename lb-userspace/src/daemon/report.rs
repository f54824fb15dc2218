//! Status, told a part at a time: whoever asks about 100,000 backends (each scrape of the metrics does) must not keep a
//! verdict waiting until all are told.

use std::collections::VecDeque;
use std::ops::Bound;

use tokio::sync::oneshot;

use super::owner::Owner;
use crate::api::Refused;
use crate::dataplane::bpf::Reader;
use crate::health::runner::now_ns;
use crate::model::{Name, Service};
use crate::state::State;
use crate::state::view::Surroundings;
use crate::status::{self, Status};
use crate::why::{Whom, Why};

/// Backends that are told at once, or one service. In a release build this takes about a quarter of a millisecond.
const PART: usize = 100;

/// Who asked.
type Reply = oneshot::Sender<Box<Status>>;

/// What is being told, and who waits for his turn.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: VecDeque<Reply>,
    under_way: Option<Report>,
}

#[derive(Debug)]
struct Report {
    reply: Reply,
    status: Box<Status>,
    /// The last service that was told. A reload may have taken it away since.
    last: Option<Name>,
}

impl Reports {
    /// Somebody waits.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some() || !self.waiting.is_empty()
    }
}

impl Owner<'_> {
    /// Somebody asks; a small balancer is told at once.
    pub(super) fn report(&mut self, reply: Reply) {
        self.reports.waiting.push_back(reply);
        self.report_more();
    }

    /// Somebody asks about few backends; whoever asks about those of a large pool by address gets the first ones.
    pub(super) fn explain(&self, whom: &Whom, reply: oneshot::Sender<Result<Why, Refused>>) {
        let state = self.parts.reconciler.state();
        let mut keys = state.meant(whom);
        keys.truncate(PART);
        let answer = match keys.is_empty() {
            true => Err(Refused {
                error: state.nobody(whom),
            }),
            false => {
                let ids = keys.iter().filter_map(|key| state.ids().backend(key));
                let counters = self
                    .reader
                    .counters(now_ns(), ids.map(|numbers| numbers.id), []);
                Ok(state.explain(now_ns(), &keys, &counters))
            }
        };
        // Whoever hung up is told nothing.
        drop(reply.send(answer));
    }

    /// Tells the next part.
    pub(super) fn report_more(&mut self) {
        let Some(mut report) = self.reports.under_way.take().or_else(|| self.next_report()) else {
            return;
        };
        // Whoever hung up is told no more.
        if report.reply.is_closed() {
            return;
        }
        let state = self.parts.reconciler.state();
        let services = part(state, report.last.as_ref());
        let counters = counters(&self.reader, state, &services);
        let told = state.status_of(now_ns(), services.iter().copied(), &counters);
        report.status.services.extend(told);
        match services.last() {
            Some(service) => {
                report.last = Some(service.name.clone());
                let all = after(state, report.last.as_ref()).next().is_none();
                match all {
                    true => drop(report.reply.send(report.status)),
                    false => self.reports.under_way = Some(report),
                }
            }
            None => drop(report.reply.send(report.status)),
        }
    }

    fn next_report(&mut self) -> Option<Report> {
        let reply = self.reports.waiting.pop_front()?;
        let status = Box::new(self.status_head());
        Some(Report {
            reply,
            status,
            last: None,
        })
    }

    fn status_head(&mut self) -> Status {
        let bpf = self.parts.reconciler.dataplane();
        let flow_capacity =
            u64::from(bpf.geometry().flow_sets).saturating_mul(lb_common::flow::WAYS as u64);
        let nat_capacity = u64::from(bpf.geometry().nat_flows);
        let owner_epoch = bpf.owner_epoch();
        let attached = |a: &status::Attachment| a.state == "attached";
        let around = Surroundings {
            ready: self.written
                && !self.attachments.is_empty()
                && self.attachments.iter().all(attached),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.parts.started,
            config_error: self.parts.config_error.clone(),
            owner_epoch,
            attachments: self.attachments.clone(),
            losses: self.losses.told(&self.attachments, |name| {
                self.parts.reconciler.state().uses(name)
            }),
            flow_capacity,
            nat_flows: self.sweeper.nat_flows(),
            nat_capacity,
            storage: self.saver.storage(),
            hooks: self.hooks.status(),
        };
        let counters = self.reader.counters(now_ns(), [], []);
        let state = self.parts.reconciler.state();
        state.status_head(now_ns(), around, &counters)
    }
}

/// The services after one, by name: so many that they have [`PART`] backends.
fn part<'a>(state: &'a State, last: Option<&Name>) -> Vec<&'a Service> {
    let mut backends: usize = 0;
    after(state, last)
        .take_while(|service| {
            let first = backends == 0;
            backends = backends.saturating_add(service.backends.len().max(1));
            first || backends <= PART
        })
        .collect()
}

/// The services after one, by name.
fn after<'a>(state: &'a State, last: Option<&Name>) -> impl Iterator<Item = &'a Service> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let services = state.config().services.range((after, Bound::Unbounded));
    services.map(|(_, service)| service)
}

/// What these services and their backends have counted.
fn counters(reader: &Reader, state: &State, services: &[&Service]) -> status::Counters {
    let ids = state.ids();
    let backends = services
        .iter()
        .flat_map(|service| service.keyed_backends())
        .filter_map(|(key, _)| Some(ids.backend(&key)?.id));
    let indexes = services
        .iter()
        .filter_map(|service| Some(ids.service(&service.name)?.index));
    reader.counters(now_ns(), backends, indexes)
}
