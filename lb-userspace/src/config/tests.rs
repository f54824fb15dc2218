//! Tests of the configuration as a whole.

use super::*;

const GOOD: &str = r#"
[daemon]
interfaces = ["eth0"]
[[service]]
name = "web"
address = "192.0.2.1"
port = 80
protocol = "tcp"
forwarding = "dnat"
[[service.backend]]
name = "b1"
address = "192.0.2.11"
[[service.backend]]
name = "b2"
address = "192.0.2.12"
port = 8080
"#;

#[test]
fn a_good_file_is_read() {
    let outcome = parse("fairlead.toml", GOOD);
    assert!(outcome.diagnostics.is_empty(), "{:?}", outcome.diagnostics);
    let config = outcome.config.unwrap();
    let text = to_toml(&config);
    let again = parse("again", &text);
    assert_eq!(again.diagnostics, []);
    assert_eq!(again.config, Some(config));
}
