//! Services with ranges that meet: what `check` says of them.

use crate::config::parse;

/// A service over IPv4 with checks of port 80.
fn ranged(name: &str, address: &str, port: &str, protocol: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
         forwarding = \"l2dsr\"\n[service.health]\nport = 80\n\
         [[service.backend]]\nname = \"b1\"\naddress = \"10.0.0.1\"\n\
         [[service.backend]]\nname = \"b2\"\naddress = \"10.0.0.2\"\n"
    )
}

/// What `check` says of services, given by address, port and protocol.
fn codes_of(services: &[(&str, &str, &str)]) -> Vec<&'static str> {
    let mut text = "[daemon]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (index, (address, port, protocol)) in services.iter().enumerate() {
        text += &ranged(&format!("s{index}"), address, port, protocol);
    }
    let outcome = parse("ranges.toml", &text);
    outcome.diagnostics.iter().map(|d| d.code.id).collect()
}

#[test]
fn a_service_within_another_is_fine_and_one_that_gets_nothing_is_told() {
    let wide = "192.0.2.0/24";
    let any = "\"any\"";
    let none: [&str; 0] = [];
    // Exceptions, one within the other.
    let nested = [
        (wide, any, "any"),
        (wide, any, "tcp"),
        (wide, "\"8000-8099\"", "tcp"),
        (wide, "\"8050-8059\"", "tcp"),
        ("192.0.2.0/28", any, "udp"),
        ("192.0.2.1", "80", "tcp"),
        ("192.0.2.1", "80", "sctp"),
    ];
    assert_eq!(codes_of(&nested), none);
    // Both halves, all ports: nothing is left. All but one address, port or protocol is not all.
    let halves = |other: &'static str, port: &'static str, protocol| {
        [
            (wide, "\"100-200\"", "any"),
            ("192.0.2.0/25", any, "any"),
            (other, port, protocol),
        ]
    };
    // What a half takes beside these ports is told as well.
    let besides = ["FL0112"];
    assert_eq!(
        codes_of(&halves("192.0.2.128/25", any, "any")),
        ["FL0110", "FL0112"]
    );
    assert_eq!(codes_of(&halves("192.0.2.128/26", any, "any")), besides);
    assert_eq!(
        codes_of(&halves("192.0.2.128/25", "\"100-199\"", "any")),
        besides
    );
    assert_eq!(codes_of(&halves("192.0.2.128/25", any, "tcp")), besides);
    // Three protocols are all that have ports; any port is more than that.
    let by_protocol =
        |ports: &'static str| ["any", "tcp", "udp", "sctp"].map(|protocol| (wide, ports, protocol));
    assert_eq!(codes_of(&by_protocol("\"100-200\"")), ["FL0110"]);
    assert_eq!(codes_of(&by_protocol(any)), none);
    // In the middle, overlaps of equal ranges.
    let equal = [(wide, "\"1-10\"", "tcp"), (wide, "\"10-19\"", "tcp")];
    assert_eq!(codes_of(&equal), ["FL0051"]);
    let apart = [(wide, "\"1-10\"", "tcp"), (wide, "\"11-20\"", "tcp")];
    assert_eq!(codes_of(&apart), none);
}

/// Two services share some packets, and each takes others: the one that is asked first is named.
#[test]
fn services_that_share_some_packets_are_told() {
    let wide = "192.0.2.0/24";
    let any = "\"any\"";
    for pair in [
        [
            (wide, "\"8000-8099\"", "tcp"),
            (wide, "\"8090-8199\"", "tcp"),
        ],
        [
            (wide, "\"8000-8099\"", "tcp"),
            (wide, "\"8050-8059\"", "any"),
        ],
        [(wide, "\"8050-8059\"", "any"), ("192.0.2.0/28", any, "udp")],
        [(wide, "\"8050-8059\"", "tcp"), ("192.0.2.1", any, "tcp")],
    ] {
        assert_eq!(codes_of(&pair), ["FL0112"], "{pair:?}");
        let [one, other] = pair;
        assert_eq!(codes_of(&[other, one]), ["FL0112"], "{pair:?}");
    }
    let none: [&str; 0] = [];
    for pair in [
        [
            (wide, "\"8000-8099\"", "tcp"),
            (wide, "\"8100-8199\"", "tcp"),
        ],
        [
            (wide, "\"8000-8099\"", "tcp"),
            (wide, "\"8050-8199\"", "udp"),
        ],
        [
            (wide, "\"8000-8099\"", "any"),
            ("192.0.2.0/28", "\"8000-8009\"", "tcp"),
        ],
        [(wide, any, "tcp"), ("192.0.3.0/28", any, "any")],
    ] {
        assert_eq!(codes_of(&pair), none, "{pair:?}");
    }
}
