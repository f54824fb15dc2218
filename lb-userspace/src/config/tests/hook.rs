//! Hooks as they are read, and any hook there may be.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::parse;
use crate::model::{Call, ExecCheck, Hook, Host, Name, TlsCheck, Topic, Webhook};

const HEAD: &str = "[daemon]\ninterfaces = [\"eth0\"]\n";

#[track_caller]
fn read(hook: &str) -> Hook {
    let outcome = parse(
        "hook.toml",
        &format!("{HEAD}[[hook]]\nname = \"h\"\n{hook}"),
    );
    let errors: Vec<_> = outcome.errors().collect();
    assert!(errors.is_empty(), "{errors:?}");
    let mut hooks = outcome.config.unwrap().hooks;
    hooks.remove(&Name::new("h").unwrap()).unwrap()
}

#[test]
fn a_hook_with_only_a_command_is_told_everything() {
    let hook = read("command = [\"/bin/page\", \"-v\"]");
    assert_eq!(
        hook.on,
        BTreeSet::from([Topic::Health, Topic::Drain, Topic::Failover])
    );
    assert!(hook.services.is_empty());
    assert_eq!(
        (hook.retries, hook.rate, hook.queue, hook.timeout),
        (3, 60, 1000, Duration::from_secs(5))
    );
    assert_eq!(hook.call.to_string(), "/bin/page");
}

#[test]
fn a_url_is_taken_apart_and_its_path_is_not_told() {
    for (url, whole, told) in [
        ("http://192.0.2.7", "http://192.0.2.7/", "http://192.0.2.7"),
        (
            "https://Example.org./in?key=secret",
            "https://example.org/in?key=secret",
            "https://example.org",
        ),
        (
            "https://[2001:db8::1]:8443/",
            "https://[2001:db8::1]:8443/",
            "https://[2001:db8::1]:8443",
        ),
        ("http://a:443/x", "http://a:443/x", "http://a:443"),
    ] {
        let Call::Webhook(webhook) = read(&format!("url = \"{url}\"")).call else {
            panic!("{url}: not a webhook");
        };
        assert_eq!(webhook.url(), whole);
        assert_eq!(Call::Webhook(webhook.clone()).to_string(), told);
        let name = webhook.tls.map(|tls| (tls.verify, tls.server_name));
        let expected = match (&webhook.host, url.starts_with("https")) {
            (_, false) => None,
            (Host::Name(name), true) => Some((true, Some(name.clone()))),
            (Host::Address(_), true) => Some((true, None)),
        };
        assert_eq!(name, expected);
    }
}

fn tls(name: Option<String>, client: bool) -> TlsCheck {
    TlsCheck {
        server_name: name,
        ca: "/etc/ca.pem".into(),
        client: client.then(|| ("/etc/client.pem".into(), "/etc/client.key".into())),
        verify: true,
        warn_before_expiry: Duration::ZERO,
    }
}

prop_compose! {
    fn webhook()(
        host in prop_oneof![
            any::<std::net::IpAddr>().prop_map(Host::Address),
            "[a-z][a-z0-9]{0,8}(\\.[a-z]{1,3})?".prop_map(Host::Name),
        ],
        port in 1_u16..,
        path in "/[a-zA-Z0-9=_.-]{0,9}(\\?[a-z=]{0,5})?",
        secure in any::<bool>(),
        client in any::<bool>(),
    ) -> Webhook {
        let name = match &host {
            Host::Name(name) => Some(name.clone()),
            Host::Address(_) => None,
        };
        Webhook { host, port, path, tls: secure.then(|| tls(name, client)) }
    }
}

prop_compose! {
    /// Any hook of some of these services.
    pub(super) fn hook(services: Vec<Name>)(
        name in "[a-z][a-z0-9-]{0,5}[a-z0-9]",
        on in proptest::sample::subsequence(vec![Topic::Health, Topic::Drain, Topic::Failover], 1..=3),
        services in proptest::sample::subsequence(services.clone(), 0..=services.len()),
        command in ("/[a-zé \"]{1,9}", proptest::collection::vec("[a-z\" ]{0,5}", 0..3), proptest::option::of("[a-z]{1,9}")),
        webhook in proptest::option::of(webhook()),
        timeout in 10_u64..=300_000,
        retries in 0_u16..=10,
        rate in 1_u32..=6000,
        queue in 1_u32..=10_000,
    ) -> Hook {
        let (program, arguments, user) = command;
        Hook {
            name: Name::new(&name).unwrap(),
            on: on.into_iter().collect(),
            services: services.into_iter().collect(),
            call: match webhook {
                Some(webhook) => Call::Webhook(webhook),
                None => Call::Command(ExecCheck { command: program.into(), arguments, user }),
            },
            timeout: Duration::from_millis(timeout),
            retries,
            rate,
            queue,
        }
    }
}
