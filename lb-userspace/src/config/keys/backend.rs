//! The keys of `[[service.backend]]`. Pure.

use super::{Section, bare, key};

/// `[[service.backend]]`.
pub static BACKEND: Section = Section {
    name: "service.backend",
    header: "[[service.backend]]",
    keys: &[
        bare("name", "a name such as \"b1\""),
        bare("address", "an IP address such as \"192.0.2.11\""),
        key(
            "port",
            "a number from 1 to 65535",
            "the service's port; the client's if that is a range",
        ),
        key("weight", "a number from 0 to 1000", "1"),
        key("tier", "a number from 0 to 9, or \"sorry\"", "0"),
        bare("max-connections", "a number such as 10000"),
        key(
            "admin",
            "\"enabled\", \"draining\" or \"disabled\"",
            "\"enabled\"",
        ),
        bare("server-id", "a text of hex digits such as \"0a01\""),
    ],
    synonyms: &[
        ("ip", "address"),
        ("host", "address"),
        ("server", "address"),
        ("state", "admin"),
        ("status", "admin"),
        ("id", "name"),
        ("priority", "tier"),
        ("pool", "tier"),
        ("backup", "tier"),
        ("maxconn", "max-connections"),
        ("max-conns", "max-connections"),
        ("u-threshold", "max-connections"),
    ],
};
