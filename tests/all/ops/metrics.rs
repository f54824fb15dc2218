//! `/metrics` of a running daemon: complete from the first scrape, well formed, and in agreement
//! with the status.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use lb_common::{
    DropReason,
    counter::{Handshake, PathError},
    losses::Loss,
};
use lb_tests::daemon::{Config, Daemon};
use lb_tests::topology::Topology;
use lb_userspace::status::Status;

use super::{run, text};
use crate::stage::{ECHO, SHAPES, Stage, UDP, WEB};

const URL: &str = "http://127.0.0.1:9460/metrics";
const OPENMETRICS: &str = "Accept: application/openmetrics-text; version=1.0.0";
/// Limits of a histogram, infinity included.
const BUCKETS: usize = 14;

/// What a family of series has one of.
#[derive(Clone, Copy)]
enum Each {
    Balancer,
    Interface,
    InterfaceAndLoss,
    Reason,
    PathError,
    Hook,
    Service,
    ServiceAndReason,
    Backend,
    BackendAndOutcome,
    Agent,
}

/// Every family of series but for histograms.
const FAMILIES: &[(&str, Each)] = &[
    ("fairlead_build_info", Each::Balancer),
    ("fairlead_ready", Each::Balancer),
    ("fairlead_config_stale", Each::Balancer),
    ("fairlead_checker_suspect", Each::Balancer),
    ("fairlead_interface_attached", Each::Interface),
    (
        "fairlead_interface_lost_packets_total",
        Each::InterfaceAndLoss,
    ),
    ("fairlead_interface_losses_counted", Each::Balancer),
    ("fairlead_client_options_left_out_total", Each::Balancer),
    ("fairlead_clashed_flows_total", Each::Balancer),
    ("fairlead_received_packets_total", Each::Balancer),
    ("fairlead_passed_packets_total", Each::Balancer),
    ("fairlead_transmitted_packets_total", Each::Balancer),
    ("fairlead_redirected_packets_total", Each::Balancer),
    ("fairlead_dropped_packets_total", Each::Reason),
    ("fairlead_echo_replies_total", Each::Balancer),
    ("fairlead_icmp_errors_relayed_total", Each::Balancer),
    ("fairlead_untracked_packets_total", Each::Balancer),
    ("fairlead_not_admitted_packets_total", Each::Balancer),
    ("fairlead_too_big_answers_total", Each::Balancer),
    ("fairlead_tunnel_icmp_errors_total", Each::PathError),
    ("fairlead_resets_total", Each::Balancer),
    ("fairlead_quic_by_server_id_packets_total", Each::Balancer),
    ("fairlead_quic_no_server_id_packets_total", Each::Balancer),
    ("fairlead_evicted_affinities_total", Each::Balancer),
    ("fairlead_evicted_flows_total", Each::Balancer),
    ("fairlead_flow_entries", Each::Balancer),
    ("fairlead_flow_entries_limit", Each::Balancer),
    ("fairlead_nat_flow_entries", Each::Balancer),
    ("fairlead_nat_flow_entries_limit", Each::Balancer),
    ("fairlead_map_operations_total", Each::Balancer),
    ("fairlead_store_failures_total", Each::Balancer),
    ("fairlead_store_late_seconds", Each::Balancer),
    ("fairlead_store_unsaved_seconds", Each::Balancer),
    ("fairlead_hook_sent_total", Each::Hook),
    ("fairlead_hook_failed_total", Each::Hook),
    ("fairlead_hook_dropped_total", Each::Hook),
    ("fairlead_hook_waiting", Each::Hook),
    ("fairlead_service_packets_total", Each::Service),
    ("fairlead_service_bytes_total", Each::Service),
    ("fairlead_service_reply_packets_total", Each::Service),
    ("fairlead_service_reply_bytes_total", Each::Service),
    ("fairlead_service_new_flows_total", Each::Service),
    (
        "fairlead_service_dropped_packets_total",
        Each::ServiceAndReason,
    ),
    ("fairlead_service_live_flows", Each::Service),
    ("fairlead_service_fail_open", Each::Service),
    ("fairlead_service_backends", Each::Service),
    ("fairlead_service_backends_available", Each::Service),
    ("fairlead_check_void_total", Each::Service),
    ("fairlead_backend_packets_total", Each::Backend),
    ("fairlead_backend_bytes_total", Each::Backend),
    ("fairlead_backend_reply_packets_total", Each::Backend),
    ("fairlead_backend_reply_bytes_total", Each::Backend),
    ("fairlead_backend_new_flows_total", Each::Backend),
    ("fairlead_backend_moved_flows_total", Each::Backend),
    ("fairlead_backend_handshakes_total", Each::BackendAndOutcome),
    ("fairlead_backend_timed_answers_total", Each::Backend),
    (
        "fairlead_backend_timed_answers_seconds_total",
        Each::Backend,
    ),
    ("fairlead_backend_live_flows", Each::Backend),
    ("fairlead_backend_open_flows", Each::Backend),
    ("fairlead_backend_up", Each::Backend),
    ("fairlead_backend_check_warns", Each::Backend),
    ("fairlead_backend_takes_new_flows", Each::Backend),
    ("fairlead_backend_weight", Each::Backend),
    ("fairlead_backend_path_mtu_bytes", Each::Backend),
    ("fairlead_backend_agent_permille", Each::Agent),
];

/// Every histogram.
const HISTOGRAMS: &[(&str, Each)] = &[
    ("fairlead_check_late_seconds", Each::Balancer),
    ("fairlead_plan_duration_seconds", Each::Balancer),
    ("fairlead_apply_duration_seconds", Each::Balancer),
    ("fairlead_store_duration_seconds", Each::Balancer),
    ("fairlead_check_duration_seconds", Each::Service),
];

/// Series by name, then by labels.
pub(crate) type Page = BTreeMap<String, BTreeMap<String, f64>>;

pub(crate) fn page(topology: &Topology) -> Page {
    let mut page = Page::new();
    for line in text(topology, "lb", &["curl", "-sSf", "--max-time", "5", URL]).lines() {
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let before = page
            .entry(name.to_owned())
            .or_default()
            .insert(labels.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "twice: {line}");
    }
    page
}

fn total(page: &Page, name: &str) -> f64 {
    page[name].values().sum()
}

#[test]
fn every_known_series_is_there_at_the_first_scrape() {
    // No servers: nothing is known of any backend, and no traffic has been.
    let topology = Topology::build(SHAPES[0]).unwrap();
    let mut config = Config::lab(&topology);
    config.services[0].health.extra = "agent-weight = \"header\"";
    let agents = config.services[0].backends.len();
    config.tables += "[[hook]]\nname = \"h\"\ncommand = [\"/bin/true\"]\n";
    let (interfaces, services) = (config.interfaces.len(), config.services.len());
    let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
    let daemon = Daemon::start(&topology, config).unwrap();
    let page = page(&topology);
    let reasons = DropReason::ALL.len();
    let count = |each| match each {
        Each::Balancer => 1,
        Each::Interface => interfaces,
        Each::InterfaceAndLoss => interfaces * Loss::ALL.len(),
        Each::Reason => reasons,
        Each::PathError => PathError::ALL.len(),
        Each::Hook => 1,
        Each::Service => services,
        Each::ServiceAndReason => services * reasons,
        Each::Backend => backends,
        Each::BackendAndOutcome => backends * Handshake::ALL.len(),
        Each::Agent => agents,
    };
    let mut expected: BTreeMap<String, usize> = FAMILIES
        .iter()
        .map(|(name, each)| ((*name).to_owned(), count(*each)))
        .collect();
    for (name, each) in HISTOGRAMS {
        expected.insert(format!("{name}_bucket"), count(*each) * BUCKETS);
        expected.insert(format!("{name}_sum"), count(*each));
        expected.insert(format!("{name}_count"), count(*each));
    }
    let found: BTreeMap<String, usize> = page
        .iter()
        .map(|(name, series)| (name.clone(), series.len()))
        .collect();
    assert_eq!(found, expected);
    let series: usize = found.values().sum();
    let formula =
        98 + 5 * interfaces + reasons + services * (26 + reasons) + 20 * backends + agents + 4;
    assert_eq!(series, formula, "the formula in README.md");
    let quiet = page.iter().filter(|(name, _)| {
        let counts =
            name.ends_with("_total") && name.contains("_flows") || name.contains("dropped");
        counts || name.starts_with("fairlead_backend_") && name.ends_with("_total")
    });
    for (name, series) in quiet {
        assert!(
            series.values().all(|value| *value == 0.0),
            "{name}: {series:?}"
        );
    }
    drop(daemon);
}

#[test]
fn the_metrics_that_readme_names_are_those_that_there_are() {
    let readme = include_str!("../../../README.md");
    let all = FAMILIES.iter().chain(HISTOGRAMS).map(|(name, _)| *name);
    let missing: Vec<&str> = all.clone().filter(|name| !readme.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "not in README.md");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = readme
        .split(|c| !word(c))
        .filter(|w| w.starts_with("fairlead_"));
    let unknown: Vec<&str> = named
        .filter(|w| !all.clone().any(|name| name == *w))
        .collect();
    assert_eq!(unknown, Vec::<&str>::new(), "in README.md, but no metrics");
}

#[test]
fn promtool_has_nothing_to_say_and_openmetrics_is_given_when_asked_for() {
    let stage = Stage::new(SHAPES[0]);
    stage.storm(&WEB, 200).assert_clean(200);
    let body = text(
        &stage.topology,
        "lb",
        &["curl", "-sSf", "--max-time", "5", URL],
    );
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (try: apt-get install prometheus)");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(body.as_bytes())
        .unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}");
    assert_eq!(
        (said.stdout.as_slice(), said.stderr.as_slice()),
        (&b""[..], &b""[..])
    );
    let open = ["curl", "-sSfi", "--max-time", "5", "-H", OPENMETRICS, URL];
    let open = text(&stage.topology, "lb", &open);
    assert!(
        open.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{open}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(
        open.contains("# TYPE fairlead_backend_packets counter"),
        "{open}"
    );
    assert!(
        open.contains("# UNIT fairlead_plan_duration_seconds seconds"),
        "{open}"
    );
    let outside = [
        "curl",
        "-sS",
        "--max-time",
        "2",
        "http://10.10.0.1:9460/metrics",
    ];
    assert!(
        !run(&stage.topology, "client", &outside).status.success(),
        "open to clients"
    );
    stage.end();
}

#[test]
fn metrics_and_status_agree_after_traffic() {
    let stage = Stage::new(SHAPES[0]);
    for names in [WEB, ECHO] {
        stage.storm(&names, 500).assert_clean(500);
    }
    let udp = stage.targets(&UDP);
    let flows = lb_tests::load::Udp::start(
        &stage.topology,
        &udp,
        10,
        std::time::Duration::from_millis(20),
        std::time::Duration::from_millis(400),
    );
    drop(flows.unwrap().wait());
    stage.daemon.check_conservation().unwrap();
    // Both are the same numbers once no packet is under way; health checks are not among them.
    let page = page(&stage.topology);
    let json = stage
        .daemon
        .cli(&["status", "--json"])
        .unwrap()
        .succeeded()
        .unwrap();
    let status: Status = serde_json::from_str(&json.stdout).unwrap();
    for service in &status.services {
        for b in &service.backends {
            let labels = format!("service=\"{}\",backend=\"{}\"}}", service.name, b.name);
            for (name, value) in [
                ("fairlead_backend_packets_total", b.traffic.packets),
                ("fairlead_backend_bytes_total", b.traffic.bytes),
                (
                    "fairlead_backend_reply_packets_total",
                    b.traffic.reply_packets,
                ),
                ("fairlead_backend_reply_bytes_total", b.traffic.reply_bytes),
                ("fairlead_backend_new_flows_total", b.traffic.new_flows),
                ("fairlead_backend_up", 1),
                ("fairlead_backend_weight", u64::from(b.weight)),
            ] {
                let found = page[name].get(&labels).copied();
                assert_eq!(found, Some(value as f64), "{name} {labels}");
            }
        }
    }
    let new_flows: u64 = status.services.iter().map(|s| s.traffic.new_flows).sum();
    assert!(new_flows >= 1010, "{new_flows}");
    assert_eq!(
        total(&page, "fairlead_service_new_flows_total"),
        new_flows as f64
    );
    assert_eq!(
        total(&page, "fairlead_service_packets_total"),
        total(&page, "fairlead_backend_packets_total")
    );
    assert_eq!(
        total(&page, "fairlead_redirected_packets_total"),
        status.data_plane.redirect as f64
    );
    for name in ["plan", "apply", "check"] {
        let measured = total(&page, &format!("fairlead_{name}_duration_seconds_count"));
        assert!(measured > 0.0, "{name}");
        assert!(
            total(&page, &format!("fairlead_{name}_duration_seconds_sum")) > 0.0,
            "{name}"
        );
    }
    stage.end();
}
