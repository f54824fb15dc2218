//! The keys of `[[hook]]`. Pure.

use super::{Section, bare, key};

/// `[[hook]]`.
pub static HOOK: Section = Section {
    name: "hook",
    header: "[[hook]]",
    keys: &[
        bare("name", "a name such as \"pager\""),
        key(
            "on",
            "a list of \"health\", \"drain\" and \"failover\"",
            "all of them",
        ),
        key(
            "services",
            "a list of names of services such as [\"web\"]",
            "all of them",
        ),
        bare(
            "command",
            "a list of texts such as [\"/usr/local/bin/page\", \"-v\"]",
        ),
        key("user", "a user such as \"nobody\"", "the daemon's"),
        bare("url", "a URL such as \"https://example.org/hook\""),
        key(
            "ca",
            "a path such as \"/etc/fairlead/ca.pem\"",
            "\"/etc/ssl/certs/ca-certificates.crt\"",
        ),
        bare(
            "client-certificate",
            "a path such as \"/etc/fairlead/client.pem\"",
        ),
        bare("client-key", "a path such as \"/etc/fairlead/client.key\""),
        key("timeout", "a duration such as \"5s\"", "\"5s\""),
        key("retries", "a number from 0 to 10", "3"),
        key("rate", "a number from 1 to 6000", "60"),
        key("queue", "a number from 1 to 10000", "1000"),
    ],
    synonyms: &[
        ("event", "on"),
        ("events", "on"),
        ("service", "services"),
        ("exec", "command"),
        ("script", "command"),
        ("webhook", "url"),
        ("endpoint", "url"),
        ("retry", "retries"),
        ("rate-limit", "rate"),
    ],
};
