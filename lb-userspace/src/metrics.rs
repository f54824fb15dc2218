//! Prometheus metrics: every series, its name, its unit and its labels. `metrics/*.rs` serves them.
//!
//! Values are read from [`Status`] at scrape time, so nothing is counted twice; histograms are
//! fed by the daemon. Labels are bounded by the configuration: service, backend, reason.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::status::{Service, Status};

mod backends;
pub mod classic;
mod hooks;
pub mod server;
pub mod timings;

pub use timings::Timings;

/// A label set made at run time: names are static, values are configured names or reasons.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

fn service_labels(service: &str) -> Labels {
    Labels(vec![("service", service.to_owned())])
}

struct Page<'a> {
    registry: &'a mut Registry,
}

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, rows: impl Iterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    /// A counter of seconds, given in nanoseconds.
    fn seconds(&mut self, name: &str, help: &str, rows: impl Iterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
        for (labels, nanos) in rows {
            let seconds = std::time::Duration::from_nanos(nanos).as_secs_f64();
            family.get_or_create(&labels).inc_by(seconds);
        }
        let unit = Unit::Seconds;
        self.registry.register_with_unit(name, help, unit, family);
    }

    fn gauge(&mut self, name: &str, help: &str, rows: impl Iterator<Item = (Labels, i64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in rows {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    fn one(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    fn milliseconds(&mut self, name: &str, help: &str, ms: u64) {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(Duration::from_millis(ms).as_secs_f64());
        self.registry
            .register_with_unit(name, help, Unit::Seconds, gauge);
    }

    fn level(&mut self, name: &str, help: &str, value: u64) {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.registry.register(name, help, gauge);
    }
}

/// All metrics in OpenMetrics text form.
pub fn openmetrics(status: &Status, timings: &Timings) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("fairlead");
    let mut page = Page {
        registry: &mut registry,
    };
    data_plane(&mut page, status);
    daemon(&mut page, status);
    losses(&mut page, status);
    hooks::write(&mut page, status);
    services(&mut page, status);
    backends::write(&mut page, status);
    for service in &status.services {
        let _ = timings.check.get_or_create(&service_labels(&service.name));
        let _ = timings.void.get_or_create(&service_labels(&service.name));
    }
    registry.register_with_unit(
        "check_duration",
        "Time a health probe took, by service",
        Unit::Seconds,
        timings.check.clone(),
    );
    registry.register_with_unit(
        "check_late",
        "How much later than planned health probes began: the balancer was short of CPU or of other resources, or other commands had their turn",
        Unit::Seconds,
        timings.late.clone(),
    );
    registry.register(
        "check_void",
        "Health probes that say nothing because the balancer itself was late or short of resources",
        timings.void.clone(),
    );
    registry.register_with_unit(
        "plan_duration",
        "Time to find out which writes bring the maps to what the state wants",
        Unit::Seconds,
        timings.plan.clone(),
    );
    registry.register_with_unit(
        "apply_duration",
        "Time to run the writes of a plan",
        Unit::Seconds,
        timings.apply.clone(),
    );
    registry.register_with_unit(
        "store_duration",
        "Time to write and sync a file of the state directory, counted when it ends",
        Unit::Seconds,
        timings.store.clone(),
    );
    registry.register(
        "store_failures",
        "Writes of files of the state directory that failed",
        timings.store_failures.clone(),
    );
    registry.register(
        "map_operations",
        "Writes to the maps",
        timings.operations.clone(),
    );
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn data_plane(page: &mut Page<'_>, status: &Status) {
    let d = &status.data_plane;
    page.one(
        "received_packets",
        "Packets that came in on attached interfaces",
        d.rx,
    );
    page.one(
        "passed_packets",
        "Packets given to the kernel because they are not ours",
        d.pass,
    );
    page.one(
        "transmitted_packets",
        "Packets sent out of the interface they came from",
        d.tx,
    );
    page.one(
        "redirected_packets",
        "Packets sent out of another interface",
        d.redirect,
    );
    page.counter(
        "dropped_packets",
        "Packets dropped, by reason",
        d.drops
            .iter()
            .map(|(r, n)| (Labels(vec![("reason", r.clone())]), *n)),
    );
    page.one(
        "echo_replies",
        "Echo requests to a VIP that were answered",
        d.echo_replied,
    );
    page.one(
        "icmp_errors_relayed",
        "ICMP errors relayed to or from backends",
        d.icmp_relayed,
    );
    page.one(
        "untracked_packets",
        "Packets forwarded without an entry in the flow table: no room, or above the limit of new flows",
        d.untracked,
    );
    page.one(
        "not_admitted_packets",
        "Packets among the untracked whose flows were above the limit of new flows",
        d.not_admitted,
    );
    page.one(
        "too_big_answers",
        "Clients told that their packets do not fit through the tunnel to the backend",
        d.too_big_answers,
    );
    page.counter(
        "tunnel_icmp_errors",
        "ICMP errors about packets in tunnels, by what came of them",
        d.path_errors
            .iter()
            .map(|(result, n)| (Labels(vec![("result", result.clone())]), *n)),
    );
    page.one(
        "resets",
        "Clients told by a reset that their connection is not known",
        d.resets,
    );
    page.one(
        "quic_by_server_id_packets",
        "Datagrams of QUIC that went where the server id in their connection id says",
        d.by_server_id,
    );
    page.one(
        "quic_no_server_id_packets",
        "Datagrams of QUIC with a short header whose connection id names no backend",
        d.no_server_id,
    );
    page.one(
        "evicted_affinities",
        "Clients that lost their backend before their time, as there was no room for all",
        d.affinity_evicted,
    );
    page.one(
        "client_options_left_out",
        "SYNs that went to their backend without the client option of their service, as they had no room for it",
        d.options_left_out,
    );
    page.one(
        "clashed_flows",
        "New flows to a server that has another from the same client's port through another VIP, as no other server was found",
        d.clashed_flows,
    );
    page.one(
        "evicted_flows",
        "Unproven flow entries evicted for new flows",
        d.evicted,
    );
    page.level(
        "flow_entries",
        "Live entries of the flow table at the last sweep",
        d.flows,
    );
    page.level(
        "flow_entries_limit",
        "Entries the flow table has room for",
        d.flow_capacity,
    );
    page.level(
        "nat_flow_entries",
        "Flows of fullnat that have an entry, and so a port, at the last walk",
        d.nat_flows,
    );
    page.level(
        "nat_flow_entries_limit",
        "Entries there are for flows of fullnat; rated for half as many",
        d.nat_capacity,
    );
}

fn daemon(page: &mut Page<'_>, status: &Status) {
    let version = Labels(vec![("version", status.version.clone())]);
    page.gauge(
        "build_info",
        "The version that runs",
        [(version, 1)].into_iter(),
    );
    page.level(
        "ready",
        "1 when the maps are written and all interfaces attached",
        u64::from(status.ready),
    );
    page.level(
        "config_stale",
        "1 when the configuration file could not be applied and an earlier one runs",
        u64::from(status.config_error.is_some()),
    );
    page.level(
        "checker_suspect",
        "1 while all probes fail at once and the checker itself is suspected",
        u64::from(status.checker_suspect),
    );
    page.milliseconds(
        "store_late",
        "How long a write to the state directory has been taking, once it takes more than a second",
        status.storage.late_ms,
    );
    page.milliseconds(
        "store_unsaved",
        "How long the oldest change of the state has been waiting to be on disk",
        status.storage.unsaved_ms,
    );
    page.gauge(
        "interface_attached",
        "1 when the program is attached to the interface",
        status.attachments.iter().map(|a| {
            let labels = vec![("interface", a.interface.clone()), ("mode", a.mode.clone())];
            (Labels(labels), i64::from(a.state == "attached"))
        }),
    );
}

fn losses(page: &mut Page<'_>, status: &Status) {
    page.counter(
        "interface_lost_packets",
        "Packets transmitted or redirected that the kernel or a driver lost, by interface and how, since the daemon began",
        status.losses.lost.iter().map(|lost| {
            let labels = vec![
                ("interface", lost.interface.clone()),
                ("how", lost.how.clone()),
            ];
            (Labels(labels), lost.packets)
        }),
    );
    page.gauge(
        "interface_losses_counted",
        "1 when somebody counts what the kernel or a driver loses",
        [(
            Labels(Vec::new()),
            i64::from(status.losses.trouble.is_none()),
        )]
        .into_iter(),
    );
}

fn services(page: &mut Page<'_>, status: &Status) {
    let rows = |value: fn(&Service) -> u64| {
        status
            .services
            .iter()
            .map(move |s| (service_labels(&s.name), value(s)))
    };
    page.counter(
        "service_packets",
        "Packets to backends",
        rows(|s| s.traffic.packets),
    );
    page.counter(
        "service_bytes",
        "Bytes to backends, Ethernet header included",
        rows(|s| s.traffic.bytes),
    );
    page.counter(
        "service_reply_packets",
        "Replies translated (dnat)",
        rows(|s| s.traffic.reply_packets),
    );
    page.counter(
        "service_reply_bytes",
        "Bytes of translated replies",
        rows(|s| s.traffic.reply_bytes),
    );
    page.counter(
        "service_new_flows",
        "Flows scheduled",
        rows(|s| s.traffic.new_flows),
    );
    page.counter(
        "service_dropped_packets",
        "Packets of the service dropped, by reason",
        status.services.iter().flat_map(|s| {
            s.drops.iter().map(|(reason, n)| {
                let labels = vec![("service", s.name.clone()), ("reason", reason.clone())];
                (Labels(labels), *n)
            })
        }),
    );
    let levels = |value: fn(&Service) -> u64| {
        status.services.iter().map(move |s| {
            (
                service_labels(&s.name),
                i64::try_from(value(s)).unwrap_or(i64::MAX),
            )
        })
    };
    page.gauge(
        "service_live_flows",
        "Flows in the table at the last sweep",
        levels(|s| s.traffic.live_flows),
    );
    page.gauge(
        "service_fail_open",
        "1 while all backends are down and flows go to all of them",
        levels(|s| u64::from(s.fail_open)),
    );
    page.gauge(
        "service_backends",
        "Backends configured",
        levels(|s| s.backends.len() as u64),
    );
    page.gauge(
        "service_backends_available",
        "Backends that take new flows",
        levels(|s| s.backends.iter().filter(|b| b.takes_new).count() as u64),
    );
}
