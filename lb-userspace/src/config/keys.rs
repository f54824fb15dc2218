//! The table of keys: what each table of the file may contain, what a value looks like, and its
//! default. Unknown keys, did-you-mean, help texts, tests and docs read it. Pure.

mod backend;
mod health;
mod hook;

pub use backend::BACKEND;
pub use health::HEALTH;
pub use hook::HOOK;

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What a value looks like, for help texts: `a text such as "web"`.
    pub form: &'static str,
    /// What holds without it; `None`: it must be there, or stands for nothing.
    pub default: Option<&'static str>,
}

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// Its path, as in a header.
    pub name: &'static str,
    /// As a header.
    pub header: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// Words that people coming from other software try, and the key they mean.
    pub synonyms: &'static [(&'static str, &'static str)],
}

const fn key(name: &'static str, form: &'static str, default: &'static str) -> Key {
    Key {
        name,
        form,
        default: Some(default),
    }
}

const fn bare(name: &'static str, form: &'static str) -> Key {
    Key {
        name,
        form,
        default: None,
    }
}

/// The file itself.
pub static ROOT: Section = Section {
    name: "",
    header: "the file",
    keys: &[
        bare("daemon", "one table under the header [daemon]"),
        bare("limits", "one table under the header [limits]"),
        bare(
            "service",
            "a list of tables, each under a header [[service]]",
        ),
        bare("hook", "a list of tables, each under a header [[hook]]"),
    ],
    synonyms: &[
        ("global", "daemon"),
        ("virtual-server", "service"),
        ("vip", "service"),
        ("vips", "service"),
        ("frontend", "service"),
        ("listen", "service"),
        ("hooks", "hook"),
        ("webhook", "hook"),
        ("notify", "hook"),
        ("alert", "hook"),
    ],
};

/// `[daemon]`.
pub static DAEMON: Section = Section {
    name: "daemon",
    header: "[daemon]",
    keys: &[
        bare("interfaces", "a list of names such as [\"eth0\"]"),
        key(
            "state-dir",
            "a path such as \"/var/lib/fairlead\"",
            "\"/var/lib/fairlead\"",
        ),
        key(
            "run-dir",
            "a path such as \"/run/fairlead\"",
            "\"/run/fairlead\"",
        ),
        key(
            "bpffs",
            "a path such as \"/sys/fs/bpf/fairlead\"",
            "\"/sys/fs/bpf/fairlead\"",
        ),
        key(
            "xdp-mode",
            "\"native\", \"generic\" or \"native-or-generic\"",
            "\"native\"",
        ),
        key(
            "metrics",
            "an address and port such as \"127.0.0.1:9460\", or \"off\"",
            "\"127.0.0.1:9460\"",
        ),
        key("echo-per-second", "a number such as 1000", "1000"),
        key(
            "new-flows-per-second",
            "a number such as 1000000",
            "1000000",
        ),
        key("icmp-errors-per-second", "a number such as 1000", "1000"),
        key("resets-per-second", "a number such as 10000", "10000"),
        bare(
            "tunnel-source",
            "a list of an IPv4 and an IPv6 prefix such as [\"10.9.0.0/24\", \"fd00:9::/112\"]",
        ),
        bare(
            "nat-source",
            "a list of an IPv4 and an IPv6 address or prefix such as [\"198.51.100.0/30\", \"2001:db8:9::/126\"]",
        ),
        key(
            "nat-ports",
            "ports such as \"1024-65535\"",
            "\"1024-65535\"",
        ),
        key(
            "nat-tcp-handshake-idle",
            "a duration from \"1s\" to \"720h\"",
            "\"32s\"",
        ),
        key(
            "nat-tcp-idle",
            "a duration from \"1s\" to \"720h\"",
            "\"2h 13m 8s\"",
        ),
        key(
            "nat-tcp-closing-idle",
            "a duration from \"1s\" to \"720h\"",
            "\"2m 8s\"",
        ),
        key(
            "nat-udp-idle",
            "a duration from \"1s\" to \"720h\"",
            "\"5m 22s\"",
        ),
        key(
            "nat-udp-unanswered-idle",
            "a duration from \"1s\" to \"720h\"",
            "\"32s\"",
        ),
        key(
            "when-dead",
            "\"forward\", \"pass\" or \"drop\"",
            "\"forward\"",
        ),
        key("dead-after", "a duration such as \"10s\"", "\"10s\""),
        key("check-marks", "a number such as 0x46000000", "0x46000000"),
        bare(
            "check-networks",
            "a list of prefixes such as [\"10.0.0.0/8\", \"fd00::/8\"]",
        ),
        key("velocity-percent", "a number from 1 to 100", "50"),
        key("velocity-window", "a duration such as \"10s\"", "\"10s\""),
    ],
    synonyms: &[
        ("interface", "interfaces"),
        ("device", "interfaces"),
        ("devices", "interfaces"),
        ("mode", "xdp-mode"),
        ("prometheus", "metrics"),
        ("pin-path", "bpffs"),
    ],
};

/// `[limits]`.
pub static LIMITS: Section = Section {
    name: "limits",
    header: "[limits]",
    keys: &[
        key("flows", "a power of two such as 1048576", "1048576"),
        key("services", "a number such as 1024", "1024"),
        key("backends", "a number such as 4096", "4096"),
        key("ring-slots", "an even number such as 5242880", "5242880"),
        key("next-hops", "a number such as 4096", "4096"),
        key("source-ranges", "a number such as 16384", "16384"),
        bare("nat-flows", "a power of two such as 262144"),
        key("affinities", "a number such as 32768", "32768"),
    ],
    synonyms: &[
        ("connections", "flows"),
        ("max-flows", "flows"),
        ("vips", "services"),
        ("servers", "backends"),
        ("reals", "backends"),
        ("neighbours", "next-hops"),
        ("neighbors", "next-hops"),
    ],
};

/// `[[service]]`.
pub static SERVICE: Section = Section {
    name: "service",
    header: "[[service]]",
    keys: &[
        bare("name", "a name such as \"web\""),
        bare(
            "address",
            "an IP address such as \"192.0.2.1\", or a prefix such as \"192.0.2.0/24\"",
        ),
        bare(
            "port",
            "a number from 1 to 65535, a range such as \"8000-8099\", or \"any\"",
        ),
        bare("protocol", "\"tcp\", \"udp\", \"sctp\" or \"any\""),
        bare(
            "forwarding",
            "\"dnat\", \"fullnat\", \"l2dsr\", \"ipip\" or \"gue\"",
        ),
        key("tunnel-ttl", "a number from 1 to 255, or \"inherit\"", "64"),
        key("gue-port", "a number from 1 to 65535", "6080"),
        key("gue-variant", "0 or 1", "1"),
        bare("client-option", "a number from 70 to 255 such as 200"),
        key(
            "scheduler",
            "\"maglev\", \"source-hash\", \"random\", \"round-robin\", \"weighted-round-robin\", \"least-response-time\" or \"least-connections\"",
            "\"maglev\"",
        ),
        key("hash-fields", "1, 2, 3 or 5", "5"),
        bare("client-prefix", "a number of bits such as 24"),
        bare("affinity-timeout", "a duration such as \"10m\""),
        bare("ring-size", "a number such as 65537"),
        key("udp-idle", "a duration from \"1s\" to \"137s\"", "\"60s\""),
        key(
            "sctp-idle",
            "a duration from \"1s\" to \"137s\"",
            "that of `udp-idle`",
        ),
        key(
            "other-idle",
            "a duration from \"1s\" to \"137s\"",
            "that of `udp-idle`",
        ),
        bare("tcp-handshake-idle", "a duration from \"1s\" to \"137s\""),
        bare("tcp-idle", "a duration from \"1s\" to \"137s\""),
        bare("tcp-closing-idle", "a duration from \"1s\" to \"137s\""),
        key(
            "mid-stream",
            "\"schedule\", \"drop\" or \"reset\"",
            "\"schedule\"",
        ),
        bare(
            "mss",
            "a number from 536 to 65495 such as 1400, or \"clamp\"",
        ),
        key("udp-spread", "\"flow\" or \"datagram\"", "\"flow\""),
        bare(
            "quic-config-ids",
            "a list of one or two numbers from 0 to 6 such as [0]",
        ),
        bare(
            "allow",
            "a list of prefixes of clients such as [\"10.0.0.0/8\", \"192.0.2.7\"]",
        ),
        bare(
            "deny",
            "a list of prefixes of clients such as [\"203.0.113.0/24\"]",
        ),
        key(
            "drain-policy",
            "\"keep\", \"migrate\" or \"reset\"",
            "\"keep\"",
        ),
        bare("drain-deadline", "a duration such as \"5m\""),
        key(
            "on-down",
            "\"keep\", \"migrate\" or \"reset\"",
            "\"keep\" for tcp, else \"migrate\"",
        ),
        bare("on-down-deadline", "a duration such as \"30s\""),
        key(
            "all-down",
            "\"fail-open\" or \"fail-closed\"",
            "\"fail-open\"",
        ),
        key("panic-threshold", "a number from 0 to 100", "0"),
        key("overprovisioning", "a number from 100 to 1000", "140"),
        bare("slow-start", "a duration such as \"30s\""),
        key(
            "slow-start-curve",
            "\"linear\" or \"quadratic\"",
            "\"linear\"",
        ),
        key("min-healthy", "a number such as 1", "1"),
        key("failback", "\"return\" or \"stay\"", "\"return\""),
        bare("claim", "the name of an interface such as \"eth0\""),
        bare("health", "one table under the header [service.health]"),
        bare(
            "backend",
            "a list of tables, each under a header [[service.backend]]",
        ),
    ],
    synonyms: &[
        ("vip", "address"),
        ("ip", "address"),
        ("listen", "address"),
        ("bind", "address"),
        ("mode", "forwarding"),
        ("method", "forwarding"),
        ("ttl", "tunnel-ttl"),
        ("tun-port", "gue-port"),
        ("tun-type", "forwarding"),
        ("algorithm", "scheduler"),
        ("lb-algo", "scheduler"),
        ("balance", "scheduler"),
        ("lb-policy", "scheduler"),
        ("server", "backend"),
        ("real", "backend"),
        ("real-server", "backend"),
        ("target", "backend"),
        ("check", "health"),
        ("healthcheck", "health"),
        ("health-check", "health"),
        ("interface", "claim"),
        ("whitelist", "allow"),
        ("allow-sources", "allow"),
        ("loadbalancersourceranges", "allow"),
        ("blacklist", "deny"),
        ("deny-sources", "deny"),
        ("healthy-panic-threshold", "panic-threshold"),
        ("overprovisioning-factor", "overprovisioning"),
        ("slowstart", "slow-start"),
        ("need", "min-healthy"),
        ("quorum", "min-healthy"),
    ],
};

/// All tables.
pub static ALL: &[&Section] = &[&ROOT, &DAEMON, &LIMITS, &SERVICE, &HEALTH, &BACKEND, &HOOK];

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.name == name)
    }
}

/// What an unknown key may have meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Guess {
    /// This key of the same table.
    Key(&'static str),
    /// The same word is a key of this other table.
    Elsewhere(&'static str),
    /// No idea.
    Nothing,
}

/// Guesses what `unknown` meant. `taken`: is this key there already (then it is less likely)?
pub fn guess(section: &Section, unknown: &str, taken: impl Fn(&str) -> bool) -> Guess {
    let plain = unknown.to_lowercase().replace(['_', ' '], "-");
    if let Some(found) = section.key(&plain) {
        return Guess::Key(found.name);
    }
    if let Some((_, meant)) = section.synonyms.iter().find(|(word, _)| *word == plain) {
        return Guess::Key(meant);
    }
    let near = |given: &str| nearest(given, section.keys.iter().map(|k| k.name), &taken);
    let slip = near(&plain).filter(|name| strsim::osa_distance(&plain, name) == 1);
    if let Some(name) = slip {
        return Guess::Key(name);
    }
    if let Some(other) = ALL.iter().find(|s| s.key(&plain).is_some()) {
        return Guess::Elsewhere(other.header);
    }
    match near(&plain) {
        Some(name) => Guess::Key(name),
        None => Guess::Nothing,
    }
}

/// The word that is nearest to `given`, if it is near enough for a slip of the finger or two.
pub fn nearest<'w>(
    given: &str,
    words: impl Iterator<Item = &'w str>,
    taken: impl Fn(&str) -> bool,
) -> Option<&'w str> {
    let allowed = (given.len() / 3).clamp(1, 3);
    if given.len() > 64 {
        return None;
    }
    words
        .map(|word| {
            let distance = strsim::osa_distance(given, word);
            // Higher is nearer; made an integer so that it can be ordered.
            let likeness = (strsim::jaro_winkler(given, word) * 1e6) as u64;
            (distance, taken(word), std::cmp::Reverse(likeness), word)
        })
        .filter(|(distance, ..)| *distance <= allowed)
        .min()
        .map(|(.., word)| word)
}
