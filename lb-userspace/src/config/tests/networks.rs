//! Threat 22: checks go to the networks of `check-networks` and nowhere else.

use super::good::good;
use crate::config::{codes, parse, to_toml};

/// A file with this line in `[daemon]`, this check, and one backend at each address.
fn file(line: &str, check: &str, backends: &[&str]) -> String {
    let mut text = format!(
        "[daemon]\ninterfaces = [\"eth0\"]\n{line}\ntunnel-source = [\"100.64.0.0/24\", \"fd00:9::/112\"]\n[[service]]\nname = \"web\"\naddress = \"203.0.113.1\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"ipip\"\n[service.health]\n{check}\n"
    );
    for (n, address) in backends.iter().enumerate() {
        text += &format!("[[service.backend]]\nname = \"b{n}\"\naddress = \"{address}\"\n");
    }
    text
}

/// Keys and codes of all errors.
fn errors(text: &str) -> Vec<(String, &'static str)> {
    let outcome = parse("networks.toml", text);
    assert_eq!(outcome.config.is_none(), outcome.errors().count() > 0);
    let told = outcome.errors();
    told.map(|error| (error.key.clone(), error.code.id))
        .collect()
}

const SOME: &str = "check-networks = [\"10.0.0.0/8\", \"192.0.2.7\", \"fd00::/8\"]";

#[test]
fn backends_within_the_networks_are_taken_and_others_are_named() {
    let tcp = "type = \"tcp\"";
    // The first and the last of a network are in it, those beside it are not.
    let inside = [
        "10.0.0.0",
        "10.255.255.255",
        "192.0.2.7",
        "fd00::1",
        "fdff::1",
    ];
    let outside = [
        "9.255.255.255",
        "11.0.0.0",
        "192.0.2.6",
        "192.0.2.8",
        "fe00::1",
    ];
    assert_eq!(errors(&file(SOME, tcp, &inside)), []);
    for address in outside {
        let found = errors(&file(SOME, tcp, &["10.0.0.1", address]));
        let at = "service.web.backend.b1.address".to_owned();
        assert_eq!(found, [(at, codes::CHECK_ELSEWHERE.id)], "{address}");
    }
    // Without the key they may be anywhere, and with an empty list nowhere.
    assert_eq!(errors(&file("", tcp, &outside)), []);
    assert_eq!(errors(&file("check-networks = []", tcp, &inside)).len(), 5);
    // All of a family.
    let all = "check-networks = [\"0.0.0.0/0\"]";
    assert_eq!(errors(&file(all, tcp, &outside)).len(), 1);
}

#[test]
fn every_check_is_held_to_them_but_none() {
    for check in [
        "type = \"tcp\"",
        "type = \"tcp\"\nagent-weight = \"line\"",
        "type = \"tcp\"\ntarget = \"backend\"",
        "type = \"tls\"",
        "type = \"http\"",
        "type = \"https\"",
        "type = \"http2\"",
        "type = \"grpc\"",
        "type = \"udp\"\nsend = \"x\"",
        "type = \"dns\"\nquery = \"example.org\"",
        "type = \"icmp\"",
        "type = \"exec\"\ncommand = [\"/bin/true\"]",
        // No check at all is one by TCP.
        "",
    ] {
        let found = errors(&file(SOME, check, &["10.0.0.1", "198.51.100.7"]));
        let codes: Vec<_> = found.into_iter().map(|(_, code)| code).collect();
        assert_eq!(codes, [codes::CHECK_ELSEWHERE.id], "{check}");
    }
    let none = "type = \"none\"";
    assert_eq!(errors(&file(SOME, none, &["198.51.100.7"])), []);
}

#[test]
fn order_and_doubles_mean_nothing_and_no_list_is_not_an_empty_one() {
    let tcp = "type = \"tcp\"";
    let config = |line: &str| good(&file(line, tcp, &["10.0.0.1", "10.0.0.2"]));
    let one = config("check-networks = [\"10.0.0.0/8\", \"fd00::/8\"]");
    let other = config("check-networks = [\"fd00::/8\", \"10.0.0.0/8\", \"fd00::/8\"]");
    assert_eq!(one, other);
    assert_ne!(one.revision, config("").revision);
    let none = |line: &str| good(&file(line, "type = \"none\"", &["10.0.0.1", "10.0.0.2"]));
    let (empty, absent) = (none("check-networks = []"), none(""));
    assert_ne!(empty.revision, absent.revision);
    // The last good file keeps it.
    for config in [one, empty, absent] {
        assert_eq!(good(&to_toml(&config)), config);
    }
}
