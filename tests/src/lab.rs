//! The lab: what happens when, and whether what was promised held. Pure; `lab/*.rs` runs it.
//!
//! Thirds of the time: all backends serve; `b1` loses power; `b2` is drained. In the middle of the
//! last third both return.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::capture::Frame;
use crate::daemon::{DataPlane, Health};
use crate::load::{Connection, Flow, Report};

mod run;
mod screen;

pub use run::{Options, run};

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Every backend serves.
    AllServe,
    /// `b1` has no power.
    PowerCut,
    /// `b2` is drained, `b1` still has no power.
    Drained,
    /// Both are back.
    Returned,
}

impl Phase {
    /// In their order.
    pub const ALL: [Self; 4] = [
        Self::AllServe,
        Self::PowerCut,
        Self::Drained,
        Self::Returned,
    ];

    /// The key in the JSON object.
    pub fn key(self) -> &'static str {
        match self {
            Self::AllServe => "all_serve",
            Self::PowerCut => "b1_without_power",
            Self::Drained => "b2_drained",
            Self::Returned => "both_returned",
        }
    }

    /// What the screen says.
    pub fn title(self) -> &'static str {
        match self {
            Self::AllServe => "all backends serve",
            Self::PowerCut => "b1 lost power: its link is down",
            Self::Drained => "b2 is drained: its connections go on, new ones go elsewhere",
            Self::Returned => "b1 has power again, b2 is enabled",
        }
    }

    /// When it begins, of a run of this length.
    pub fn begins(self, of: Duration) -> Duration {
        match self {
            Self::AllServe => Duration::ZERO,
            Self::PowerCut => of / 3,
            Self::Drained => of * 2 / 3,
            Self::Returned => of * 5 / 6,
        }
    }
}

/// All that was seen.
pub struct Observed {
    /// When the load began.
    pub begin: Instant,
    /// Just before `b1`'s link was set down.
    pub kill: Instant,
    /// When the drain had been acknowledged.
    pub drained: Instant,
    /// Just before the first of both came back.
    pub returned: Instant,
    /// When the load ended.
    pub end: Instant,
    /// HTTP requests.
    pub http: Report,
    /// Long connections, failed ones included.
    pub long: Vec<Connection>,
    /// UDP flows.
    pub udp: Vec<Flow>,
    /// What the balancer sent toward `b1` on behalf of clients.
    pub frames_to_b1: Vec<Frame>,
    /// Frames that the capture missed.
    pub frames_missed: u32,
    /// New flows that the data plane counted for `b2` between `drained` and `returned`.
    pub new_flows_while_drained: u64,
    /// Counters at the end.
    pub data_plane: DataPlane,
    /// From the start of the daemon to the first answer to a client.
    pub start_to_first_answer: Duration,
    /// The longest that a thread which was due had to wait in the second after the kill.
    pub machine_late: Duration,
}

/// Something that was promised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promise {
    /// What.
    pub name: &'static str,
    /// Whether it held.
    pub held: bool,
    /// What was measured.
    pub measured: f64,
    /// The most, or for `backends_serving_at_first` the least, that was promised.
    pub goal: f64,
}

/// The one JSON object of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// HTTP requests.
    pub requests: usize,
    /// Failed ones.
    pub failed_requests: Failed,
    /// Answers by phase and backend.
    pub requests_by_backend_and_phase: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// From the kill to the last packet of a client that was sent to the dead backend.
    pub kill_to_last_packet_ms: f64,
    /// How late the machine was about then: allowed for in the bound.
    pub machine_late_ms: f64,
    /// From the kill to the last new connection that was sent to the dead backend.
    pub kill_to_last_new_flow_ms: f64,
    /// Long connections of the drained backend that broke.
    pub flows_cut_by_drain: usize,
    /// Long connections that broke because their backend lost power.
    pub flows_cut_by_kill: usize,
    /// UDP datagrams.
    pub datagrams: Datagrams,
    /// From the start of the daemon to the first answer to a client.
    pub start_to_first_answer_ms: f64,
    /// The slowest answered request.
    pub slowest_request_ms: f64,
    /// Counters read from the maps.
    pub data_plane: Counters,
    /// What was promised.
    pub promises: Vec<Promise>,
    /// The first failures, to find the cause.
    pub first_failures: Vec<String>,
}

/// Failed requests.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Failed {
    /// All.
    pub total: usize,
    /// Those that the failover window does not excuse: from the kill until the bound for finding a
    /// dead backend has passed.
    pub outside_failover_window: usize,
    /// Those begun after it.
    pub after_failover_window: usize,
}

/// UDP datagrams.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Datagrams {
    /// Sent.
    pub sent: u64,
    /// Not answered in time.
    pub lost: u64,
}

/// Counters of the data plane.
#[derive(Clone, Debug, Serialize)]
pub struct Counters {
    /// Packets in.
    pub rx: u64,
    /// Given to the kernel.
    pub pass: u64,
    /// Sent out of the interface they came from.
    pub tx: u64,
    /// Sent out of another.
    pub redirect: u64,
    /// By reason.
    pub drops: BTreeMap<String, u64>,
}

/// The time of a map write, besides what the health check needs and what the machine is late.
const MARGIN_MS: u64 = 10;

impl Outcome {
    /// Judges a run.
    pub fn judge(seen: &Observed, health: &Health, backends: u8) -> Self {
        let late = u64::try_from(seen.machine_late.as_millis()).unwrap_or(u64::MAX);
        let bound = (health.bound_ms() + MARGIN_MS).saturating_add(late);
        let window_end = seen.kill + Duration::from_millis(bound);
        let outside = seen.http.failures_outside(seen.kill, window_end);
        let after = outside.iter().filter(|f| f.started >= window_end).count();
        let serving = seen.http.by_backend(seen.begin, seen.kill).len();
        let last_packet = seen.milliseconds_to_last(|_| true);
        let cut_by_drain = seen.cut(2, seen.drained, seen.end);
        let long_elsewhere = seen.cut_without_excuse(window_end);
        let unaccounted = seen.data_plane.rx.abs_diff(
            seen.data_plane.pass
                + seen.data_plane.tx
                + seen.data_plane.redirect
                + seen.data_plane.dropped(),
        );
        let promises = vec![
            at_most(
                "failed_requests_outside_failover_window",
                outside.len() as f64,
                0.0,
            ),
            at_most("kill_to_last_packet_ms", last_packet, bound as f64),
            at_most("flows_cut_by_drain", cut_by_drain as f64, 0.0),
            at_most("flows_cut_without_cause", long_elsewhere as f64, 0.0),
            at_least(
                "backends_serving_at_first",
                serving as f64,
                f64::from(backends),
            ),
            at_most(
                "new_flows_while_drained",
                seen.new_flows_while_drained as f64,
                0.0,
            ),
            at_most(
                "requests_to_drained_backend",
                seen.answers_of_drained() as f64,
                0.0,
            ),
            at_most("packets_in_no_counter", unaccounted as f64, 0.0),
            at_most(
                "frames_missed_by_capture",
                f64::from(seen.frames_missed),
                0.0,
            ),
        ];
        Self {
            requests: seen.http.total(),
            failed_requests: Failed {
                total: seen.http.failures.len(),
                outside_failover_window: outside.len(),
                after_failover_window: after,
            },
            requests_by_backend_and_phase: seen.by_phase(),
            kill_to_last_packet_ms: last_packet,
            machine_late_ms: milliseconds(seen.machine_late),
            kill_to_last_new_flow_ms: seen.milliseconds_to_last(Frame::is_syn),
            flows_cut_by_drain: cut_by_drain,
            flows_cut_by_kill: seen.cut(1, seen.kill, seen.returned),
            datagrams: Datagrams {
                sent: seen.udp.iter().map(|flow| flow.sent).sum(),
                lost: seen.udp.iter().map(|flow| flow.lost.len() as u64).sum(),
            },
            start_to_first_answer_ms: milliseconds(seen.start_to_first_answer),
            slowest_request_ms: milliseconds(seen.http.slowest()),
            data_plane: Counters {
                rx: seen.data_plane.rx,
                pass: seen.data_plane.pass,
                tx: seen.data_plane.tx,
                redirect: seen.data_plane.redirect,
                drops: seen.data_plane.drops.clone(),
            },
            promises,
            first_failures: seen.first_failures(&outside),
        }
    }

    /// True when every promise held.
    pub fn held(&self) -> bool {
        self.promises.iter().all(|promise| promise.held)
    }
}

impl Observed {
    /// Milliseconds from the kill to the last matching frame before the return; 0 for none.
    fn milliseconds_to_last(&self, wanted: impl Fn(&Frame) -> bool) -> f64 {
        let dead = self
            .frames_to_b1
            .iter()
            .filter(|f| self.kill <= f.at && f.at < self.returned);
        let last = dead
            .filter(|frame| wanted(frame))
            .map(|frame| frame.at)
            .max();
        last.map_or(0.0, |at| milliseconds(at - self.kill))
    }

    /// Long connections of a backend that failed in a time.
    fn cut(&self, backend: u8, from: Instant, to: Instant) -> usize {
        let failed = |c: &&Connection| {
            c.failed
                .as_ref()
                .is_some_and(|(at, _)| (from..to).contains(at))
        };
        self.long
            .iter()
            .filter(|c| c.backend == backend && failed(c))
            .count()
    }

    /// Long connections that failed although their backend was well: not of `b1` after its kill (unless it is back),
    /// not of `b2` after its drain (counted apart), and not begun in the failover window.
    fn cut_without_excuse(&self, window_end: Instant) -> usize {
        let failed = self
            .long
            .iter()
            .filter_map(|c| Some((c, c.failed.as_ref()?.0)));
        failed
            .filter(|(c, at)| match c.backend {
                0 => *at < self.kill || window_end <= c.started,
                1 => *at < self.kill || self.returned <= c.started,
                2 => *at < self.drained,
                _ => true,
            })
            .count()
    }

    fn answers_of_drained(&self) -> u64 {
        self.http
            .by_backend(self.drained, self.returned)
            .get(&2)
            .copied()
            .unwrap_or(0)
    }

    fn by_phase(&self) -> BTreeMap<&'static str, BTreeMap<String, u64>> {
        let edges = [self.begin, self.kill, self.drained, self.returned, self.end];
        let spans = edges.iter().zip(edges.iter().skip(1));
        let named = |counts: BTreeMap<u8, u64>| {
            counts
                .into_iter()
                .map(|(number, count)| (format!("b{number}"), count))
                .collect()
        };
        let phases = Phase::ALL.into_iter().zip(spans);
        phases
            .map(|(phase, (from, to))| (phase.key(), named(self.http.by_backend(*from, *to))))
            .collect()
    }

    fn first_failures(&self, outside: &[&crate::load::Failure]) -> Vec<String> {
        let when = |at: Instant| milliseconds(at.saturating_duration_since(self.begin));
        let requests = outside.iter().map(|f| {
            format!(
                "request at {:.0} ms, after {:.0} ms: {}",
                when(f.started),
                milliseconds(f.took),
                f.reason
            )
        });
        let long = self.long.iter().filter_map(|c| {
            let (at, reason) = c.failed.as_ref()?;
            Some(format!(
                "connection to b{} at {:.0} ms: {reason}",
                c.backend,
                when(*at)
            ))
        });
        requests.take(5).chain(long.take(5)).collect()
    }
}

fn at_most(name: &'static str, measured: f64, goal: f64) -> Promise {
    Promise {
        name,
        held: measured <= goal,
        measured,
        goal,
    }
}

fn at_least(name: &'static str, measured: f64, goal: f64) -> Promise {
    Promise {
        name,
        held: measured >= goal,
        measured,
        goal,
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
