//! Good files: examples, defaults, the canonical form and the revision (fault C5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::{keys, parse, revision, to_toml};
use crate::model::*;

pub(super) fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[track_caller]
pub(super) fn good(text: &str) -> Config {
    let outcome = parse("good.toml", text);
    outcome
        .config
        .unwrap_or_else(|| panic!("{:#?}", outcome.diagnostics))
}

#[test]
fn every_example_is_good_and_has_no_warnings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let outcome = parse("example", &fs::read_to_string(&path).unwrap());
            assert_eq!(outcome.diagnostics, [], "{}", path.display());
            assert!(outcome.config.is_some());
            found += 1;
        }
    }
    assert!(found >= 2);
}

#[test]
fn the_commented_example_shows_every_key_and_the_defaults_are_true() {
    let text = example("fairlead.toml");
    for section in keys::ALL {
        for key in section.keys {
            let shown = |line: &str| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{} = ", key.name))
                    || line.starts_with(&format!("[{}]", key.name))
                    || line.starts_with(&format!("[[{}]]", key.name))
                    || line.contains(&format!(".{}]", key.name))
            };
            assert!(text.lines().any(shown), "{} {}", section.name, key.name);
        }
    }
    // Each line `# key = value` may be uncommented, and then changes nothing unless it is optional.
    let optional = [
        "ring-size",
        "client-prefix",
        "affinity-timeout",
        "claim",
        "min-healthy",
        "slow-start",
        "slow-start-curve",
        "drain-deadline",
        "on-down-deadline",
        "max-connections",
        "port",
        "target",
        "tunnel-source",
        "nat-source",
        "check-networks",
        "nat-flows",
        "allow",
        "deny",
        "dead-after",
        "tunnel-ttl",
        "gue-port",
        "gue-variant",
        "client-option",
        // Of other types than the example's, or meaningless without damping or `passive`.
        "damping-window",
        "damping-hold",
        "damping-hold-max",
        "passive-handshakes",
        "passive-percent",
        "passive-window",
        "tls",
        "server-name",
        "ca",
        "client-certificate",
        "client-key",
        "verify",
        "warn-before-expiry",
        "grpc-service",
        "send",
        "send-hex",
        "expect",
        "expect-hex",
        "query",
        "query-type",
        "expect-rcode",
        "expect-address",
        "transport",
        "command",
        "user",
        "url",
        "services",
        "agent-weight",
        "agent-weight-min",
        "agent-weight-max",
        "agent-weight-step",
        "mss",
        "sctp-idle",
        "other-idle",
        "tcp-handshake-idle",
        "tcp-idle",
        "tcp-closing-idle",
        "udp-spread",
        "quic-config-ids",
        "server-id",
    ];
    let mut plain = String::new();
    for line in text.lines() {
        let shown = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split(" = ").next().unwrap();
            let known = keys::ALL.iter().any(|s| s.key(key).is_some());
            rest.contains(" = ") && known && !optional.contains(&key)
        });
        plain.push_str(shown.unwrap_or(line));
        plain.push('\n');
    }
    assert_eq!(good(&plain), good(&text));
    assert_ne!(plain, text);
}

#[test]
fn the_table_of_keys_tells_the_true_defaults() {
    let canonical = to_toml(&good(&example("minimal.toml")));
    let udp = example("minimal.toml").replace("\"tcp\"", "\"udp\"");
    let gue = example("minimal.toml")
        .replace("\"dnat\"", "\"gue\"")
        .replace("[daemon]", "[daemon]\ntunnel-source = [\"10.9.0.0/24\"]");
    let checked_by = |keys: &str| {
        let health = format!("[service.health]\n{keys}\n\n[[service.backend]]");
        to_toml(&good(&example("minimal.toml").replacen(
            "[[service.backend]]",
            &health,
            1,
        )))
    };
    let checks = [
        "type = \"http2\"",
        "type = \"tls\"",
        "type = \"dns\"\nquery = \".\"",
        "damping = 2",
        "passive = true",
        "agent-weight = \"line\"",
    ];
    let hook = "[[hook]]\nname = \"h\"\ncommand = [\"/bin/true\"]\n";
    let hooked = format!("{}\n{hook}", example("minimal.toml"));
    let canonical = canonical
        + &to_toml(&good(&udp))
        + &to_toml(&good(&gue))
        + &to_toml(&good(&hooked))
        + &checks.map(checked_by).concat();
    let mut checked = 0;
    for section in keys::ALL {
        for key in section.keys {
            let Some(default) = key.default else { continue };
            // Said in words, relative to another key, or for HTTP only.
            let apart = [
                "sctp-idle",
                "other-idle",
                "on-down",
                "port",
                "jitter",
                "method",
                "path",
                "host",
                "expect-status",
                "dead-after",
                "fast-interval",
                "slow-start-curve",
                "min-healthy",
                "server-name",
                "warn-before-expiry",
                "grpc-service",
                "expect",
                "expect-hex",
                "expect-address",
                "target",
                "user",
                "on",
                "services",
            ];
            if apart.contains(&key.name) {
                continue;
            }
            let line = match key.name {
                "udp-idle" => "udp-idle = \"1m\"".to_owned(),
                name => format!("{name} = {default}"),
            };
            assert!(canonical.lines().any(|l| l == line), "{line}\n{canonical}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[test]
fn the_default_of_on_down_depends_on_the_protocol_and_may_be_set() {
    let tcp = example("minimal.toml");
    let udp = tcp.replace("\"tcp\"", "\"udp\"");
    let set = |text: &str, word: &str| {
        text.replace("forwarding", &format!("on-down = \"{word}\"\nforwarding"))
    };
    let on_down = |text: &str| good(text).services.values().next().unwrap().on_down;
    assert_eq!(on_down(&tcp), OnDown::Keep);
    assert_eq!(on_down(&udp), OnDown::Migrate);
    assert_eq!(on_down(&set(&tcp, "migrate")), OnDown::Migrate);
    assert_eq!(on_down(&set(&udp, "keep")), OnDown::Keep);
}

#[test]
fn statuses_are_joined_into_one_form() {
    let check = |given: &str, expected: &[(u16, u16)]| {
        let health = format!("[service.health]\ntype = \"http\"\nexpect-status = {given}\n");
        let text = example("minimal.toml").replacen(
            "[[service.backend]]",
            &format!("{health}\n[[service.backend]]"),
            1,
        );
        let config = good(&text);
        let Check::Http(http) = &config.services.values().next().unwrap().health.check else {
            panic!("not HTTP");
        };
        assert_eq!(http.expect_status, expected, "{given}");
    };
    check("200", &[(200, 200)]);
    check("\"200-399\"", &[(200, 399)]);
    check("[\"300-399\", 200, \"201-299\"]", &[(200, 399)]);
    check("[404, 200, 200]", &[(200, 200), (404, 404)]);
}

#[test]
fn jitter_is_a_share_or_a_duration_and_the_timeout_shrinks_with_the_interval() {
    let check = |lines: &str, jitter: u64, timeout: u64| {
        let health = format!("[service.health]\n{lines}\n[[service.backend]]");
        let text = example("minimal.toml").replacen("[[service.backend]]", &health, 1);
        let config = good(&text);
        let health = &config.services.values().next().unwrap().health;
        assert_eq!(health.jitter, Duration::from_millis(jitter), "{lines}");
        assert_eq!(health.timeout, Duration::from_millis(timeout), "{lines}");
    };
    check("", 100, 500);
    check("interval = \"2s\"", 200, 500);
    check("interval = \"100ms\"", 10, 100);
    check("jitter = \"25%\"", 250, 500);
    check("jitter = \"0s\"\ntimeout = \"1s\"", 0, 1000);
}

/// Blocks that may stand in any order: the tables of a file, with a service's tables together.
fn permuted(text: &str, seed: u64) -> String {
    let mut state = seed;
    let mut next = move || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let mut shuffle = move |items: &mut Vec<String>| {
        for i in (1..items.len()).rev() {
            items.swap(i, next() % (i + 1));
        }
    };
    let mut blocks: Vec<Vec<String>> = Vec::new();
    for table in format!("\n{text}").split("\n[").skip(1) {
        let mut lines = table.lines().map(str::to_owned);
        let header = format!("[{}", lines.next().unwrap());
        let mut lines: Vec<String> = lines.filter(|l| !l.is_empty()).collect();
        shuffle(&mut lines);
        let table = format!("{header}\n{}\n", lines.join("\n"));
        match header.starts_with("[service.") || header.starts_with("[[service.") {
            true => blocks.last_mut().unwrap().push(table),
            false => blocks.push(vec![table]),
        }
    }
    let mut blocks: Vec<String> = blocks
        .into_iter()
        .map(|mut block| {
            let head = block.remove(0);
            shuffle(&mut block);
            head + &block.concat()
        })
        .collect();
    shuffle(&mut blocks);
    blocks.concat()
}

#[test]
fn a_reordered_file_is_the_same_configuration_and_revision() {
    let original = good(&example("fairlead.toml"));
    let canonical = to_toml(&original);
    let mut different = 0;
    for seed in 0..200 {
        let text = permuted(&canonical, seed);
        different += usize::from(text != canonical);
        let config = good(&text);
        assert_eq!(config, original, "{text}");
        assert_eq!(config.revision, original.revision);
    }
    assert!(different > 150, "{different}");
}

#[test]
fn a_changed_value_is_another_revision_and_a_comment_is_not() {
    let text = example("minimal.toml");
    let before = good(&text).revision;
    assert_ne!(
        good(&text.replace("192.0.2.12", "192.0.2.13")).revision,
        before
    );
    assert_ne!(good(&text.replace("\"b2\"", "\"b3\"")).revision, before);
    assert_eq!(good(&format!("# a remark\n{text}")).revision, before);
    assert_eq!(
        good(&text.replace("port = 80", "port = 0x50")).revision,
        before
    );
}

fn name(prefix: &str, index: usize) -> Name {
    Name::new(&format!("{prefix}{index}")).unwrap()
}

fn address(family: bool, high: usize, low: usize) -> IpAddr {
    let (high, low) = (high as u8, low as u8);
    match family {
        true => Ipv4Addr::new(10, 1, high, low).into(),
        false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high.into(), low.into()).into(),
    }
}

prop_compose! {
    fn http_check()(
        path in "/[a-z0-9?=&%._~-]{0,20}",
        host in proptest::option::of("[a-z0-9.-]{1,20}(:[1-9][0-9]{0,3})?"),
        statuses in proptest::collection::vec((100_u16..=599, 0_u16..50), 1..4),
        expect_body in proptest::option::of("\\PC{1,40}|[\"\\\\\\n\\t\\r\u{7f}]{1,5}"),
    ) -> HttpCheck {
        let statuses = statuses.into_iter().map(|(low, more)| (low, (low + more).min(599)));
        HttpCheck {
            method: "GET".to_owned(),
            path,
            host,
            expect_status: crate::config::value::joined(statuses.collect()),
            expect_body,
        }
    }
}

prop_compose! {
    fn tls_check()(
        server_name in proptest::option::of("[a-z0-9]{1,20}(\\.[a-z0-9_-]{1,9})?"),
        ca in "(/[a-z0-9. \"]{3,9}){1,3}",
        client in any::<bool>(),
        verify in any::<bool>(),
        warn in 0_u64..1_000_000,
    ) -> TlsCheck {
        TlsCheck {
            server_name,
            ca: if verify { ca } else { crate::config::health::CA.to_owned() }.into(),
            client: client.then(|| ("/c.pem".into(), "/c.key".into())),
            verify,
            warn_before_expiry: Duration::from_secs(warn),
        }
    }
}

prop_compose! {
    fn check()(
        kind in 0..11,
        http in http_check(),
        tls in tls_check(),
        over_tls in any::<bool>(),
        text in "[A-Za-z.]{0,20}",
        send in proptest::collection::vec(any::<u8>(), 1..40),
        expect in proptest::collection::vec(any::<u8>(), 0..40),
        number in 0..6_usize,
        words in proptest::collection::vec("\\PC{0,20}", 0..4),
        some in any::<bool>(),
    ) -> Check {
        let optional = over_tls.then(|| tls.clone());
        match kind {
            0 => Check::None,
            1 => Check::Tcp,
            2 => Check::Tls(tls),
            3 => Check::Http(http),
            4 => Check::Https(http, tls),
            5 => Check::Http2(http, optional),
            6 => Check::Grpc(GrpcCheck { service: text, host: http.host }, optional),
            7 => Check::Udp(UdpCheck { send, expect }),
            8 => {
                let kind = crate::config::health::TYPES[number].1;
                Check::Dns(DnsCheck {
                    name: "a.example.".to_owned(),
                    kind,
                    rcode: if some { DnsRcode::NoError } else { DnsRcode::NxDomain },
                    address: match kind {
                        DnsType::A if some => Some(Ipv4Addr::LOCALHOST.into()),
                        DnsType::Aaaa if some => Some(Ipv6Addr::LOCALHOST.into()),
                        _ => None,
                    },
                    tcp: over_tls,
                })
            }
            9 => Check::Icmp,
            _ => Check::Exec(ExecCheck {
                command: "/bin/check".into(),
                arguments: words,
                user: some.then(|| "nobody".to_owned()),
            }),
        }
    }
}

prop_compose! {
    fn health()(
        check in check(),
        port in any::<u16>(),
        interval in 10_u64..3_600_000,
        fast in 10_u64..3_600_000,
        timeout in 1_u64..1000,
        jitter in 0_u64..1000,
        rise in 1_u16..=1000,
        fall in 1_u16..=1000,
        trust_at_start in any::<bool>(),
        to_backend in any::<bool>(),
        full_size in proptest::option::of(576_u16..=9000),
        damping in (0_u16..5, 1_u64..1000, 1_u64..1000, 0_u64..1000),
        agent in proptest::option::of((any::<bool>(), 1_u16..=100, 100_u16..=200, 1_u16..=100)),
        passive in proptest::option::of((1_u16..=10_000, 1_u8..=100, 300_u64..=10_000)),
    ) -> HealthPolicy {
        if check == Check::None {
            // Without checks the other keys have no effect, and so no place in the file.
            return HealthPolicy { check, ..crate::config::health::default_policy() };
        }
        let (changes, window, hold, more) = damping;
        let source = |first| match check {
            Check::Http(_) | Check::Https(..) if first => Some(AgentSource::Header),
            Check::Http(_) | Check::Https(..) => Some(AgentSource::Body),
            Check::Tcp | Check::Exec(_) => Some(AgentSource::Line),
            _ => None,
        };
        let agent = agent.and_then(|(first, least, most, step)| {
            Some(AgentWeight { source: source(first)?, least, most, step })
        });
        let to_backend = to_backend && !matches!(check, Check::Icmp | Check::Exec(_));
        HealthPolicy {
            target: to_backend.then_some(Aim::Backend),
            full_size: full_size.filter(|_| crate::config::health::full_size_is_meant(&check)),
            agent,
            port: NonZeroU16::new(port).filter(|_| check.has_port()),
            check,
            interval: Duration::from_millis(interval),
            fast_interval: Duration::from_millis(fast.min(interval)),
            timeout: Duration::from_millis(timeout.min(interval)),
            jitter: Duration::from_millis(jitter.min(interval - 1)),
            rise: NonZeroU16::new(rise).unwrap(),
            fall: NonZeroU16::new(fall).unwrap(),
            trust_at_start,
            passive: passive.map(|(least, percent, window)| Passive {
                least,
                percent,
                window: Duration::from_millis(window),
            }),
            damping: match changes {
                0 => Damping::default(),
                _ => Damping {
                    changes,
                    window: Duration::from_secs(window),
                    hold: Duration::from_secs(hold),
                    hold_max: Duration::from_secs(hold + more),
                },
            },
        }
    }
}

prop_compose! {
    fn failover()(
        overprovisioning in 100..=1000_u16,
        panic_threshold in 0..=100_u8,
        slow in 0_u64..=3600,
        quadratic in any::<bool>(),
        min_healthy in 0..3_u16,
        stay in any::<bool>(),
    ) -> Failover {
        Failover {
            overprovisioning,
            panic_threshold,
            failback: if stay { Failback::Stay } else { Failback::Return },
            slow_start: SlowStart {
                duration: Duration::from_secs(slow),
                curve: if quadratic && slow > 0 { Curve::Quadratic } else { Curve::Linear },
            },
            min_healthy,
        }
    }
}

prop_compose! {
    fn service(index: usize)(
        v4 in any::<bool>(),
        port in 1_u16..,
        protocol in 0..4_usize,
        range in 0..4_usize,
        more in any::<u16>(),
        forwarding in 0..4_usize,
        tunnel in (any::<u8>(), 1_u16.., any::<bool>(), any::<bool>()),
        ring_size in proptest::option::of(1000_u32..100_000),
        udp_idle in 1_u64..=137,
        health in health(),
        words in any::<[bool; 3]>(),
        failover in failover(),
        deadline in proptest::option::of(1_u64..=604_800),
        most in proptest::option::of(1_u32..),
        mid_stream in 0..3_usize,
        mss in proptest::option::of(536_u16..),
        idle in proptest::array::uniform5(proptest::option::of(1_u64..=137)),
        allow in proptest::collection::btree_set(0_u8..=16, 0..3),
        deny in proptest::collection::btree_set(17_u8..=32, 0..3),
        claim in any::<bool>(),
        how in (0..Scheduler::ALL.len(), 0..4_usize, proptest::option::of(1_u8..=128), 0_u16..=4),
        quic in (0..4_usize, proptest::collection::btree_set(0_u8..=6, 1..=2), 1_usize..=15),
        pool in proptest::collection::vec((1_u16.., 0_u16..=1000, 0..3_usize, 0..=10_u8), 1..6),
    ) -> Service {
        let own_port = NonZeroU16::new(port).unwrap();
        let mut protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Any][protocol];
        // What dnat cannot do.
        let dnat = forwarding == 0;
        if dnat && protocol == Protocol::Any {
            protocol = Protocol::Tcp;
        }
        let ports = match range {
            0 => Ports::ANY,
            1 => Ports::range(own_port, own_port.saturating_add(more)).unwrap(),
            _ => Ports::one(own_port),
        };
        let mut vip: Prefix = address(v4, index, 200).into();
        if range == 2 && !dnat {
            let short = vip.length() - (more % 4) as u8;
            vip = Prefix::around(vip.address(), short).unwrap();
        }
        let claimed = claim && vip.is_host();
        let [sctp_idle, other_idle, handshake, established, closing] = idle.map(|idle| idle.map(Duration::from_secs));
        let sctp_idle = sctp_idle.filter(|_| matches!(protocol, Protocol::Sctp | Protocol::Any));
        let alone_speaks = protocol == Protocol::Tcp || protocol == Protocol::Sctp && sctp_idle.is_some();
        let resets = failover.min_healthy == 2 && matches!(protocol, Protocol::Tcp | Protocol::Any);
        let mut health = health;
        if protocol != Protocol::Tcp {
            health.passive = None;
        }
        if ports.single().is_none() && health.check.has_port() {
            health.port = health.port.or(Some(own_port));
        }
        let alone = protocol == Protocol::Udp && quic.0 == 1 && !dnat;
        let (mut scheduler, together) = spread(how, alone, v4);
        if scheduler == Scheduler::LeastResponseTime && health.check == Check::None {
            scheduler = Scheduler::Maglev;
        }
        // Of UDP only: config ids, or datagrams one by one.
        let names = protocol == Protocol::Udp && quic.0 == 0;
        let config_ids: Vec<u8> = quic.1.into_iter().collect();
        let server_id = |at: usize| {
            let digits = format!("{:0width$x}", at + 1, width = 2 * quic.2);
            names.then(|| digits.parse().unwrap())
        };
        let backends = pool.into_iter().enumerate().map(|(at, (port, weight, admin, tier))| {
            let backend = Backend {
                name: name("b", at),
                address: address(v4 ^ (forwarding > 1 && tunnel.3), index, at + 1),
                port: match ports.single() {
                    Some(own) if !dnat || protocol == Protocol::Sctp => Some(own),
                    Some(_) => NonZeroU16::new(port),
                    None => None,
                },
                weight: if at == 0 { weight.max(1) } else { weight },
                tier: match (at, tier) {
                    (1.., 10) => Tier::Sorry,
                    (_, number) => Tier::Number(number % 10),
                },
                max_connections: most.and_then(NonZeroU32::new).filter(|_| at % 2 == 0),
                admin: [AdminState::Enabled, AdminState::Draining, AdminState::Disabled][admin],
                server_id: server_id(at),
            };
            (backend.name.clone(), backend)
        });
        Service {
            name: name("s", index),
            address: vip,
            port: ports,
            protocol,
            forwarding: [Forwarding::Dnat, Forwarding::L2dsr, Forwarding::Ipip, Forwarding::Gue][forwarding],
            tunnel_ttl: match (forwarding, tunnel.0) {
                (0 | 1, _) => OuterTtl::DEFAULT,
                (_, 0) => OuterTtl::Inherit,
                (_, ttl) => OuterTtl::Fixed(ttl),
            },
            gue_port: match forwarding {
                3 if tunnel.1 != port => NonZeroU16::new(tunnel.1).unwrap(),
                _ => NonZeroU16::new(6080).unwrap(),
            },
            gue_variant: match forwarding == 3 && tunnel.2 {
                true => GueVariant::Header,
                false => GueVariant::Direct,
            },
            client_option: 0,
            scheduler,
            together,
            ring_size,
            udp_idle: Duration::from_secs(if alone_speaks { 60 } else { udp_idle }),
            sctp_idle,
            other_idle: other_idle.filter(|_| protocol == Protocol::Any),
            mid_stream: match (matches!(protocol, Protocol::Udp | Protocol::Sctp), mid_stream) {
                (true, _) | (_, 0) => MidStream::Schedule,
                (_, 1) => MidStream::Drop,
                _ => MidStream::Reset,
            },
            tcp_idle: match protocol {
                Protocol::Tcp | Protocol::Any => TcpIdle { handshake, established, closing },
                _ => TcpIdle::default(),
            },
            mss: match protocol {
                Protocol::Udp | Protocol::Sctp => 0,
                // What is more than a packet can have is what fits.
                _ => mss.map_or(0, |mss| if mss > 65_495 { FITTING_MSS } else { mss }),
            },
            spread: if alone { Spread::Datagram } else { Spread::Flow },
            config_ids: if names { ConfigIds::new(&config_ids).unwrap() } else { ConfigIds::default() },
            sources: Sources { allow: clients(v4, &allow), deny: clients(v4, &deny) },
            health,
            drain: match (words[0], resets) {
                (true, _) => DrainPolicy::Keep,
                (false, true) => DrainPolicy::Reset,
                (false, false) => DrainPolicy::Migrate,
            },
            on_down: match (words[1], resets) {
                (true, _) => OnDown::Keep,
                (false, true) => OnDown::Reset,
                (false, false) => OnDown::Migrate,
            },
            all_down: if words[2] { AllDown::FailOpen } else { AllDown::FailClosed },
            failover: Failover {
                min_healthy: if claimed { failover.min_healthy.min(1) } else { 1 },
                ..failover
            },
            drain_deadline: deadline.map(Duration::from_secs),
            on_down_deadline: deadline.filter(|_| resets).map(|s| Duration::from_secs(s / 2 + 1)),
            claim: claimed.then(|| "eth0".to_owned()),
            backends: backends.collect(),
        }
    }
}

/// A scheduler and what goes with it.
fn spread(
    (scheduler, fields, prefix, affinity): (usize, usize, Option<u8>, u16),
    alone: bool,
    v4: bool,
) -> (Scheduler, Together) {
    let scheduler = match Scheduler::ALL[scheduler].1 {
        Scheduler::SourceHash | Scheduler::LeastConnections if alone => Scheduler::Maglev,
        scheduler => scheduler,
    };
    let all = [Fields::All, Fields::Client, Fields::Vip, Fields::Service];
    let mut together = Together::NONE;
    if scheduler.hashes_fields() && !alone {
        together.hash_fields = all[fields];
    }
    // Up to the longest there is.
    together.affinity = NonZeroU16::new(affinity.saturating_mul(20_000)).filter(|_| !alone);
    if together.fields(scheduler) != Fields::All {
        together.client_prefix = prefix.map(|bits| if v4 { (bits - 1) % 32 + 1 } else { bits });
    }
    (scheduler, together)
}

/// Prefixes of these lengths.
fn clients(v4: bool, lengths: &BTreeSet<u8>) -> Vec<Prefix> {
    let address = match v4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let prefixes = lengths
        .iter()
        .map(|&length| Prefix::new(address, length).unwrap());
    prefixes.collect()
}

/// A prefix of each family that needs one, and of IPv4 if its length is even.
fn tunnel_source(services: &[Service], (v4, v6): (u8, u8)) -> Vec<Prefix> {
    let needed = |v4: bool| {
        let tunnels = services.iter().filter(|s| s.forwarding.is_tunnel());
        let mut backends = tunnels.flat_map(|service| service.backends.values());
        backends.any(|backend| backend.address.is_ipv4() == v4)
    };
    let four = (needed(true) || v4 % 2 == 0).then(|| (Ipv4Addr::new(100, 0, 0, 0).into(), v4));
    let six = needed(false).then(|| (Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0).into(), v6));
    let prefix = |(address, length)| Prefix::new(address, length).unwrap();
    four.into_iter().chain(six).map(prefix).collect()
}

/// A prefix of each family.
fn times_of_ports((short, long, closing): (u64, u64, u64)) -> NatIdle {
    let [handshake, unanswered] = [short, 101 - short].map(Duration::from_secs);
    let [established, datagrams] = [long, 2_592_100 - long].map(Duration::from_secs);
    NatIdle {
        handshake,
        established,
        closing: Duration::from_secs(closing),
        datagrams,
        unanswered,
    }
}

fn nat_source((v4, v6): (u8, u8)) -> Vec<Prefix> {
    vec![
        Prefix::new(Ipv4Addr::new(101, 0, 0, 0).into(), v4).unwrap(),
        Prefix::new(Ipv6Addr::new(0xfd00, 0x9a, 0, 0, 0, 0, 0, 0).into(), v6).unwrap(),
    ]
}

/// Networks, smaller or larger, that all backends are in.
fn check_networks(services: &[Service], number: u32) -> Vec<Prefix> {
    let backends = services.iter().flat_map(|s| s.backends.values());
    let length = u8::try_from(number % 33).unwrap();
    let networks = backends.map(|b| Prefix::around(b.address, length).unwrap());
    networks.collect::<BTreeSet<_>>().into_iter().collect()
}

prop_compose! {
    fn config()(
        (services, hooks) in (0_usize..5)
            .prop_flat_map(|n| (0..n).map(service).collect::<Vec<_>>())
            .prop_flat_map(|services| {
                let names = services.iter().map(|s| s.name.clone()).collect();
                (Just(services), proptest::collection::vec(super::hook::hook(names), 0..3))
            }),
        mode in 0..3_usize,
        metrics in proptest::option::of(1_u16..),
        echo_per_second in 0_u32..=10_000_000,
        new_flows_per_second in any::<u32>(),
        icmp_errors_per_second in 0_u32..=10_000_000,
        resets_per_second in 0_u32..=10_000_000,
        tunnel_lengths in (8..=32_u8, 96..=128_u8),
        marks in 1_u32..=0xffff,
        when_dead in 0..3_usize,
        dead_after in 2_u64..=86_400,
        velocity_percent in 1_u8..=100,
        window in 100_u64..86_400_000,
        flows in 10_u32..=27,
        nat_idle in (1_u64..=100, 100_u64..=2_592_000, 1_u64..=2_592_000),
        directory in "/[a-zA-Zé \"\\\\/_-]{0,20}",
    ) -> Config {
        let modes = [XdpMode::Native, XdpMode::Generic, XdpMode::NativeOrGeneric];
        let mut config = Config {
            daemon: DaemonConfig {
                state_dir: directory.into(),
                run_dir: "/run/fairlead".into(),
                bpffs: "/sys/fs/bpf/fairlead".into(),
                interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
                xdp_mode: modes[mode],
                metrics: metrics.map(|port| (Ipv4Addr::LOCALHOST, port).into()),
                echo_per_second,
                new_flows_per_second,
                icmp_errors_per_second,
                resets_per_second,
                tunnel_source: tunnel_source(&services, tunnel_lengths),
                check_marks: marks << 16,
                check_networks: (marks % 3 > 0).then(|| check_networks(&services, marks)),
                nat_source: nat_source(tunnel_lengths),
                nat_ports: crate::model::Ports::range(NonZeroU16::new(1 << (flows - 10).min(15)).unwrap(), NonZeroU16::MAX).unwrap(),
                nat_idle: times_of_ports(nat_idle),
                when_dead: [WhenDead::Forward, WhenDead::Pass, WhenDead::Drop][when_dead],
                dead_after: Duration::from_secs(if when_dead == 0 { 10 } else { dead_after }),
                velocity_percent,
                velocity_window: Duration::from_millis(window),
            },
            limits: Limits {
                flows: 1 << flows,
                services: 100,
                backends: 200,
                ring_slots: 1 << 22,
                next_hops: 10,
                source_ranges: 1000,
                nat_flows: 1 << flows.min(26),
                affinities: 64,
            },
            services: services.into_iter().map(|s| (s.name.clone(), s)).collect::<BTreeMap<_, _>>(),
            hooks: hooks.into_iter().map(|h| (h.name.clone(), h)).collect(),
            revision: 0,
        };
        config.revision = revision(&config);
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_canonical_form_reads_back_as_the_same_configuration(config in config()) {
        let text = to_toml(&config);
        let outcome = parse("canonical.toml", &text);
        prop_assert_eq!(outcome.errors().collect::<Vec<_>>(), Vec::<&crate::config::Diagnostic>::new(), "{}", text);
        prop_assert_eq!(outcome.config.as_ref(), Some(&config));
        prop_assert_eq!(to_toml(&config), text);
    }
}
