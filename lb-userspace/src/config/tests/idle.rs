//! How long silent flows are known, by protocol.

use std::time::Duration;

use crate::config::{parse, to_toml};
use crate::model::{Service, TcpIdle};

/// The one service of a file without a remark, once it has been written down and read again.
fn service(protocol: &str, port: &str, keys: &str) -> Service {
    let text = format!(
        "[daemon]\ninterfaces = [\"eth0\"]\n\
         [[service]]\nname = \"s\"\naddress = \"192.0.2.1\"\nport = {port}\nprotocol = \"{protocol}\"\n\
         forwarding = \"l2dsr\"\n{keys}\n[service.health]\nport = 80\n\
         [[service.backend]]\nname = \"b1\"\naddress = \"10.0.0.1\"\n\
         [[service.backend]]\nname = \"b2\"\naddress = \"10.0.0.2\"\n"
    );
    let outcome = parse("idle.toml", &text);
    assert!(outcome.diagnostics.is_empty(), "{:?}", outcome.diagnostics);
    let config = outcome.config.unwrap();
    let again = parse("idle.toml", &to_toml(&config));
    assert!(again.diagnostics.is_empty(), "{:?}", again.diagnostics);
    assert_eq!(again.config.unwrap(), config);
    config.services.into_values().next().unwrap()
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn what_said_how_long_sctp_is_known_says_so_still() {
    let before = service("sctp", "80", "udp-idle = \"30s\"");
    assert_eq!(
        (Some(before.udp_idle), before.sctp_idle),
        (seconds(30), None)
    );
    let now = service("sctp", "80", "sctp-idle = \"30s\"");
    assert_eq!(
        (Some(now.udp_idle), now.sctp_idle),
        (seconds(60), seconds(30))
    );
}

#[test]
fn a_service_of_any_protocol_may_say_all_of_them() {
    let keys = "udp-idle = \"10s\"\nsctp-idle = \"20s\"\nother-idle = \"30s\"\n\
                tcp-handshake-idle = \"40s\"\ntcp-idle = \"50s\"\ntcp-closing-idle = \"60s\"";
    let all = service("any", "\"any\"", keys);
    assert_eq!(
        [Some(all.udp_idle), all.sctp_idle, all.other_idle],
        [10, 20, 30].map(seconds)
    );
    let tcp = TcpIdle {
        handshake: seconds(40),
        established: seconds(50),
        closing: seconds(60),
    };
    assert_eq!(all.tcp_idle, tcp);
}
