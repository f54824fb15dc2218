//! Small worlds for the tests of the pure parts: a configuration from a line of text.

pub(crate) mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use crate::model::*;

/// A name; panics on a bad one.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A full name; panics on a bad one.
pub(crate) fn key(text: &str) -> BackendKey {
    text.parse().unwrap()
}

/// One service with TCP checks, `dnat`, fail-open, and the policies that keep flows.
pub(crate) fn service(text: &str) -> Service {
    let mut words = text.split_whitespace();
    let service = name(words.next().unwrap());
    let vip: std::net::SocketAddr = words.next().unwrap().parse().unwrap();
    let backend = |word: &str| {
        // name=address:port*weight
        let (backend, rest) = word.split_once('=').unwrap();
        let (address, weight) = rest.split_once('*').unwrap_or((rest, "1"));
        let address: std::net::SocketAddr = address.parse().unwrap();
        let backend = Backend {
            name: name(backend),
            address: address.ip(),
            port: NonZeroU16::new(address.port()),
            weight: weight.parse().unwrap(),
            admin: AdminState::Enabled,
            tier: Tier::Number(0),
            max_connections: None,
            server_id: None,
        };
        (backend.name.clone(), backend)
    };
    Service {
        name: service,
        address: vip.ip().into(),
        port: Ports::one(NonZeroU16::new(vip.port()).unwrap()),
        protocol: Protocol::Tcp,
        forwarding: Forwarding::Dnat,
        tunnel_ttl: OuterTtl::DEFAULT,
        gue_port: NonZeroU16::new(6080).unwrap(),
        gue_variant: GueVariant::Direct,
        client_option: 0,
        scheduler: Scheduler::Maglev,
        together: Together::NONE,
        ring_size: Some(61),
        udp_idle: Duration::from_secs(60),
        sctp_idle: None,
        other_idle: None,
        mid_stream: MidStream::Schedule,
        mss: 0,
        tcp_idle: TcpIdle::default(),
        spread: Spread::Flow,
        config_ids: ConfigIds::default(),
        sources: Sources::default(),
        health: HealthPolicy {
            check: Check::Tcp,
            port: None,
            interval: Duration::from_millis(200),
            fast_interval: Duration::from_millis(200),
            timeout: Duration::from_millis(100),
            jitter: Duration::ZERO,
            rise: NonZeroU16::new(2).unwrap(),
            fall: NonZeroU16::new(2).unwrap(),
            target: None,
            full_size: None,
            trust_at_start: false,
            damping: Damping::default(),
            passive: None,
            agent: None,
        },
        drain: DrainPolicy::Migrate,
        drain_deadline: None,
        on_down: OnDown::Migrate,
        on_down_deadline: None,
        all_down: AllDown::FailOpen,
        failover: Failover::default(),
        claim: None,
        backends: words.map(backend).collect(),
    }
}

/// One service a line: `name vip:port backend=address:port*weight ...`.
pub(crate) fn config(text: &str) -> Arc<Config> {
    let services: BTreeMap<Name, Service> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(service)
        .map(|service| (service.name.clone(), service))
        .collect();
    with_services(services)
}

/// A source of tunnels for each family that needs one.
fn tunnel_source(services: &BTreeMap<Name, Service>) -> Vec<Prefix> {
    ["10.9.0.0/24", "fd00:9::/112"]
        .map(|text| text.parse::<Prefix>().unwrap())
        .into_iter()
        .filter(|source| {
            services.values().any(|service| {
                let mut backends = service.backends.values();
                service.forwarding.is_tunnel()
                    && backends.any(|b| b.address.is_ipv4() == source.address().is_ipv4())
            })
        })
        .collect()
}

/// An address of each family that stands for clients, if some need one.
fn nat_source(services: &BTreeMap<Name, Service>) -> Vec<Prefix> {
    let needed = services
        .values()
        .any(|service| service.forwarding == Forwarding::Fullnat);
    let sources = ["100.64.0.0/30", "fd00:9a::/126"].map(|text| text.parse::<Prefix>().unwrap());
    sources.into_iter().filter(|_| needed).collect()
}

/// A configuration of these services; the revision follows from them.
pub(crate) fn with_services(services: BTreeMap<Name, Service>) -> Arc<Config> {
    let text = format!("{services:?}");
    let revision = lb_common::HashKey([1, 2]).hash_bytes(text.as_bytes());
    Arc::new(Config {
        daemon: DaemonConfig {
            state_dir: "/nonexistent/state".into(),
            run_dir: "/nonexistent/run".into(),
            bpffs: "/nonexistent/bpf".into(),
            interfaces: vec!["lan".to_owned()],
            xdp_mode: XdpMode::Native,
            metrics: None,
            echo_per_second: 1000,
            new_flows_per_second: 1_000_000,
            icmp_errors_per_second: 1000,
            resets_per_second: 1000,
            tunnel_source: tunnel_source(&services),
            nat_source: nat_source(&services),
            nat_ports: "1024-65535".parse().unwrap(),
            nat_idle: NatIdle::USUAL,
            when_dead: WhenDead::Forward,
            dead_after: Duration::from_secs(10),
            velocity_percent: 50,
            check_marks: 0x4600_0000,
            check_networks: None,
            velocity_window: Duration::from_secs(10),
        },
        limits: Limits {
            flows: 1024,
            services: 16,
            backends: 256,
            ring_slots: 4096,
            next_hops: 64,
            source_ranges: 64,
            nat_flows: 64,
            affinities: 64,
        },
        services,
        hooks: BTreeMap::new(),
        revision,
    })
}

/// Addresses from text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
