//! What the page says of each backend.

use super::{Labels, Page};
use crate::model::Health;
use crate::status::{Status, Traffic};

/// Writes it.
pub(super) fn write(page: &mut Page<'_>, status: &Status) {
    let each = || {
        status.services.iter().flat_map(|s| {
            s.backends.iter().map(move |b| {
                let labels = vec![("service", s.name.clone()), ("backend", b.name.clone())];
                (Labels(labels), b)
            })
        })
    };
    let traffic = |value: fn(&Traffic) -> u64| each().map(move |(l, b)| (l, value(&b.traffic)));
    page.counter(
        "backend_packets",
        "Packets to the backend",
        traffic(|t| t.packets),
    );
    page.counter(
        "backend_bytes",
        "Bytes to the backend, Ethernet header included",
        traffic(|t| t.bytes),
    );
    page.counter(
        "backend_reply_packets",
        "Replies translated (dnat)",
        traffic(|t| t.reply_packets),
    );
    page.counter(
        "backend_reply_bytes",
        "Bytes of translated replies",
        traffic(|t| t.reply_bytes),
    );
    page.counter(
        "backend_new_flows",
        "Flows scheduled to the backend",
        traffic(|t| t.new_flows),
    );
    page.counter(
        "backend_moved_flows",
        "Flows moved to the backend from one that may not keep them",
        traffic(|t| t.moved_in),
    );
    page.counter(
        "backend_handshakes",
        "TCP handshakes with the backend: SYNs that began one, answers, SYNs that came again, refusals, and ICMP messages that it cannot be reached",
        each().flat_map(|(Labels(labels), b)| {
            b.traffic.handshakes.by_outcome().map(|(outcome, n)| {
                let mut labels = labels.clone();
                labels.push(("outcome", outcome.to_owned()));
                (Labels(labels), n)
            })
        }),
    );
    page.counter(
        "backend_timed_answers",
        "Answers to SYNs of which it was measured how long the backend took (least-response-time with dnat or fullnat)",
        traffic(|t| t.handshakes.timed),
    );
    page.seconds(
        "backend_timed_answers",
        "How long these answers took together",
        traffic(|t| t.handshakes.timed_ns),
    );
    page.gauge(
        "backend_live_flows",
        "Flows in the table at the last sweep",
        each().map(|(l, b)| (l, i64::try_from(b.traffic.live_flows).unwrap_or(i64::MAX))),
    );
    page.gauge(
        "backend_open_flows",
        "Those of them that are open, which is what max-connections goes by",
        each().map(|(l, b)| (l, i64::try_from(b.traffic.open_flows).unwrap_or(i64::MAX))),
    );
    page.gauge(
        "backend_up",
        "What probes say: 1 up, 0 down or unknown",
        each().map(|(l, b)| (l, i64::from(b.health == Health::Up))),
    );
    page.gauge(
        "backend_check_warns",
        "1 while good checks say that something expires soon, such as a certificate",
        each().map(|(l, b)| (l, i64::from(b.warning.is_some()))),
    );
    page.gauge(
        "backend_takes_new_flows",
        "1 when new flows may go to the backend",
        each().map(|(l, b)| (l, i64::from(b.takes_new))),
    );
    page.gauge(
        "backend_weight",
        "Relative share of new flows",
        each().map(|(l, b)| (l, i64::from(b.weight))),
    );
    page.gauge(
        "backend_path_mtu_bytes",
        "The largest packet that fits the path to the backend, its tunnel's headers included, as routers said; 0: they said nothing lately",
        each().map(|(l, b)| (l, i64::from(b.path_mtu.unwrap_or(0)))),
    );
    let mut agents = each()
        .filter_map(|(l, b)| Some((l, i64::from(b.agent?))))
        .peekable();
    if agents.peek().is_some() {
        page.gauge(
            "backend_agent_permille",
            "Thousandths of its weight that the backend gets as its agent says",
            agents,
        );
    }
}
