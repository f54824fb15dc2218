//! Every type of check with servers that are not ours: the backend that its check finds wrong, or dead, gets no new
//! flows, with the right reason, and comes back.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lb_tests::daemon::{Config, Health, Protocol, Service};
use lb_tests::server::{Dnsmasq, ECHO_PORT, Grpc, GrpcSettings, HTTP_PORT, Nginx, Server};
use lb_tests::topology::{FAMILIES, Shape, Topology};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::real_path::full_size;
use crate::stage::{SHAPES, Stage};

/// Less than `warn-before-expiry`, whose default is 14 days.
const SOON: Duration = Duration::from_secs(5 * 86_400);
/// What the servers' certificates are for.
const NAME: &str = "www.example.org";
const GRPC_SERVICE: &str = "lab.Echo";
const RIGHT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const WRONG: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8));

const HTTP: u16 = 8081;
const HTTP2: u16 = 8082;
const GRPC: u16 = 8083;
const TLS: u16 = 8441;
const HTTPS: u16 = 8442;
const HTTP2_TLS: u16 = 8443;
const GRPC_TLS: u16 = 8444;
const DNS: u16 = 53;

/// One service, which its check is all about. Its flows are HTTP or echo, of our own servers, as its name says.
struct Case {
    /// Of the service.
    name: &'static str,
    kind: &'static str,
    port: Option<u16>,
    /// Keys of the check; FILES stands for the folder of certificates.
    keys: &'static str,
    /// Part of the reason when the server answers, but wrong; none if it cannot.
    wrong: Option<&'static str>,
    /// The same when the servers' processes are dead; none if that does not matter.
    dead: Option<&'static str>,
}

/// A query of `www.example.org` for A, with the id 0x1234, and how an answer with no error begins (RFC 1035 section 4).
const UDP_KEYS: &str = r#"send-hex = "12340100000100000000000003777777076578616d706c65036f72670000010001"
expect-hex = "123485800001""#;

const CASES: [Case; 12] = [
    Case {
        name: "tcp",
        kind: "tcp",
        port: Some(HTTP),
        keys: "",
        wrong: None,
        dead: Some("connect: refused"),
    },
    Case {
        name: "tls",
        kind: "tls",
        port: Some(TLS),
        keys: r#"server-name = "www.example.org"
ca = "FILES/ca.pem""#,
        wrong: Some(
            "tls: invalid peer certificate: certificate not valid for name \"www.example.org\"",
        ),
        dead: Some("connect: refused"),
    },
    Case {
        name: "web-http",
        kind: "http",
        port: Some(HTTP),
        keys: "",
        wrong: Some("status 503, expected 200-299"),
        dead: Some("connect: refused"),
    },
    Case {
        name: "web-https",
        kind: "https",
        port: Some(HTTPS),
        keys: r#"path = "/health"
server-name = "www.example.org"
ca = "FILES/ca.pem"
client-certificate = "FILES/client.pem"
client-key = "FILES/client.key""#,
        // What nginx says to a client whose certificate it does not trust.
        wrong: Some("status 400, expected 200-299"),
        dead: Some("connect: refused"),
    },
    Case {
        name: "web-http2",
        kind: "http2",
        port: Some(HTTP2),
        keys: r#"path = "/health"
expect-body = "ready""#,
        wrong: Some("body lacks 'ready'"),
        dead: Some("connect: refused"),
    },
    Case {
        name: "web-http2-tls",
        kind: "http2",
        port: Some(HTTP2_TLS),
        keys: r#"path = "/health"
tls = true
server-name = "www.example.org"
ca = "FILES/ca.pem""#,
        wrong: Some("tls: the target answered with the alert NoApplicationProtocol"),
        dead: Some("connect: refused"),
    },
    Case {
        name: "grpc",
        kind: "grpc",
        port: Some(GRPC),
        keys: r#"grpc-service = "lab.Echo""#,
        wrong: Some("the service is NOT_SERVING"),
        dead: Some("connect: refused"),
    },
    Case {
        name: "grpc-tls",
        kind: "grpc",
        port: Some(GRPC_TLS),
        keys: r#"grpc-service = "lab.Echo"
tls = true
server-name = "www.example.org"
ca = "FILES/ca.pem""#,
        wrong: Some("the service is NOT_SERVING"),
        dead: Some("connect: refused"),
    },
    Case {
        name: "udp",
        kind: "udp",
        port: Some(DNS),
        keys: UDP_KEYS,
        // Refused, in place of no error.
        wrong: Some(r"expected it to begin with '\x124\x85\x80\x00\x01'"),
        dead: Some("answer: port unreachable (ICMP)"),
    },
    Case {
        name: "dns",
        kind: "dns",
        port: Some(DNS),
        keys: r#"query = "app.example.org"
expect-address = "192.0.2.7""#,
        wrong: Some("answer is 192.0.2.8, expected 192.0.2.7"),
        dead: Some("answer: port unreachable (ICMP)"),
    },
    Case {
        name: "icmp",
        kind: "icmp",
        port: None,
        keys: "full-size = true",
        wrong: Some("answer: timed out after 500 ms"),
        dead: None,
    },
    Case {
        name: "exec",
        kind: "exec",
        port: Some(HTTP),
        keys: r#"command = ["FILES/check"]"#,
        wrong: Some("exit code 22: curl: (22) The requested URL returned error: 503"),
        dead: Some("exit code 7: curl: (7) Failed to connect"),
    },
];

/// Asks as an operator's own command would, if the daemon left it no descriptors but input, output and errors: besides them it has
/// this file open, and the folder only while it looks into it.
const COMMAND: &str = r#"#!/bin/sh
for open in /proc/self/fd/*; do
    case ${open##*/} in
    0 | 1 | 2) continue ;;
    esac
    if test -e "$open" && ! test "$open" -ef "$0"; then
        echo "descriptor $open is open"
        exit 1
    fi
done
case $FAIRLEAD_ADDRESS in
*:*) host="[$FAIRLEAD_ADDRESS]" ;;
*) host=$FAIRLEAD_ADDRESS ;;
esac
exec curl --silent --show-error --fail "http://$host:$FAIRLEAD_PORT/health"
"#;

/// Certificates, keys and the command, in a folder of the topology.
struct Files(PathBuf);

impl Files {
    fn make(topology: &Topology) -> Self {
        let files = Self(topology.directory().join("checks"));
        fs::create_dir(&files.0).unwrap();
        let [ca, other] = ["the right one", "another"].map(authority);
        files.write("ca.pem", &ca.pem());
        files.write("other-ca.pem", &other.pem());
        files.sign(&ca, "server", NAME);
        files.sign(&ca, "other", "www.example.net");
        files.sign(&ca, "client", "balancer");
        files.sign_until(&ca, "soon", NAME, SystemTime::now() + SOON);
        files.write("check", COMMAND);
        let all_may_run = fs::Permissions::from_mode(0o755);
        fs::set_permissions(files.path("check"), all_may_run).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn sign(&self, ca: &CertifiedIssuer<'static, KeyPair>, file: &str, name: &str) {
        let until = SystemTime::now() + 1000 * SOON;
        self.sign_until(ca, file, name, until);
    }

    fn sign_until(
        &self,
        ca: &CertifiedIssuer<'static, KeyPair>,
        file: &str,
        name: &str,
        until: SystemTime,
    ) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        // OpenSSL takes a certificate that has its issuer's name, as all do by default, for self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = until.into();
        let certificate = params.signed_by(&key, ca).unwrap();
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }
}

/// Two with one name would not do: OpenSSL tries the key of the other one, and nginx takes what is left of that for an error of its own.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A block that answers in both families.
fn server(port: u16, how: &str, rest: &str) -> String {
    format!("server {{ listen [::]:{port} ipv6only=off {how}; {rest} }}\n")
}

/// nginx's `server` blocks: all as the checks want it, or none.
fn blocks(files: &Path, right: bool) -> String {
    let files = files.display();
    let pick = |yes, no| if right { yes } else { no };
    let answer = pick("200 \"ready\"", "503");
    let body = pick("ready", "starting");
    let (named, trusted) = (pick("server", "other"), pick("ca", "other-ca"));
    let http2 = pick("http2", "");
    let identity = |name: &str| {
        format!("ssl_certificate {files}/{name}.pem; ssl_certificate_key {files}/{name}.key;")
    };
    let (shown, own, soon) = (identity(named), identity("server"), identity("soon"));
    let client = format!("ssl_verify_client on; ssl_client_certificate {files}/{trusted}.pem;");
    [
        server(
            HTTP,
            "",
            &format!("location = /health {{ return {answer}; }}"),
        ),
        server(HTTP2, "http2", &format!("return 200 {body};")),
        server(TLS, "ssl", &shown),
        // Who asks for no name, or another one, is turned away.
        server(HTTPS, "ssl", "ssl_reject_handshake on;"),
        format!(
            "server {{ listen [::]:{HTTPS} ssl; server_name {NAME}; {own} {client} return 200; }}\n"
        ),
        server(
            HTTP2_TLS,
            &format!("ssl {http2}"),
            &format!("{soon} return 200;"),
        ),
    ]
    .concat()
}

/// The servers of one backend that are not ours.
struct Real {
    nginx: Nginx,
    dnsmasq: Dnsmasq,
    grpc: Grpc,
}

impl Real {
    fn start(topology: &Topology, host: &str, files: &Path) -> Self {
        let settings = GrpcSettings {
            port: GRPC,
            tls_port: GRPC_TLS,
            service: GRPC_SERVICE,
            identity: (&files.join("server.pem"), &files.join("server.key")),
        };
        Self {
            nginx: Nginx::serving(topology, host, HTTP, &blocks(files, true)).unwrap(),
            dnsmasq: Dnsmasq::start(topology, host, &NAMES).unwrap(),
            grpc: Grpc::start(topology, host, settings).unwrap(),
        }
    }

    /// Everything that answers answers wrong, or right again.
    fn answer(&self, stage: &Stage, host: &str, files: &Path, right: bool) {
        self.nginx.serve(&blocks(files, right)).unwrap();
        let names: &[_] = if right { &NAMES } else { &[(APP, WRONG)] };
        self.dnsmasq.serve(names).unwrap();
        self.grpc.set_serving(right).unwrap();
        stage.topology.run_in(host, || {
            for family in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
                let ignored = if right { "0" } else { "1" };
                fs::write(format!("/proc/sys/net/{family}"), ignored).unwrap();
            }
        });
    }
}

/// What is said where only small packets pass.
const LARGE: &str = "it answers small packets, but not those of 1500 bytes: check the MTU";

const APP: &str = "app.example.org";
const NAMES: [(&str, IpAddr); 2] = [(APP, RIGHT), (NAME, RIGHT)];

fn config(mut config: Config, topology: &Topology, files: &Path) -> Config {
    let service = |(number, case): (usize, &Case)| {
        // A port of a server stands in at most four services of a family.
        let family = FAMILIES[number % 2];
        let port = match case.name.starts_with("web") {
            true => HTTP_PORT,
            false => ECHO_PORT,
        };
        let number = u8::try_from(number).unwrap();
        let mut service = Service::new(topology, case.name, family, number, Protocol::Tcp, port);
        let keys = case.keys.replace("FILES", files.to_str().unwrap());
        // A program takes its time to start on a machine that is busy.
        let time = if case.kind == "exec" { 2000 } else { 500 };
        service.health = Health {
            kind: case.kind,
            interval_ms: time,
            timeout_ms: time,
            port: case.port,
            // A handful of bytes in a test's life.
            extra: format!("fast-interval = \"250ms\"\n{keys}").leak(),
            ..Health::LAB
        };
        service
    };
    config.services = CASES.iter().enumerate().map(service).collect();
    config
}

/// Waits until the first backend is down in the services that have a reason for it here, with that reason; there, new
/// flows go to the second one, and in the other services to both.
#[track_caller]
fn check(stage: &Stage, what: &str, reason: impl Fn(&Case) -> Option<&'static str>) {
    stage.wait(what, |status| {
        CASES.iter().all(|case| {
            let first = status.backend(&format!("{}/b1", case.name));
            match reason(case) {
                Some(reason) => first.health == "down" && first.reason.contains(reason),
                None => first.health == "up",
            }
        })
    });
    for (number, case) in CASES.iter().enumerate() {
        // A backend could not tell connections of two services apart that come from the same port of a client.
        let first = 1024 + 5000 * number;
        let ports = format!("{first} {}", first + 4999);
        let own = [("net/ipv4/ip_local_port_range", ports.as_str())];
        stage.topology.namespace("client").sysctl(&own).unwrap();
        let report = stage.storm(&[case.name], 60);
        report.assert_clean(60);
        let backends: Vec<u8> = report.backends().into_keys().collect();
        let expected: &[u8] = if reason(case).is_some() {
            &[2]
        } else {
            &[1, 2]
        };
        assert_eq!(backends, expected, "{what}: {}: {report}", case.name);
    }
}

/// A certificate that expires within `warn-before-expiry` is told of once: in the log, the status, and `why`.
fn warns_of_what_expires(stage: &Stage) {
    let status = stage.daemon.status().unwrap();
    for case in &CASES {
        let backend = status.backend(&format!("{}/b1", case.name));
        let expected = (case.port == Some(HTTP2_TLS)).then_some("the certificate expires in 4days");
        let warning = backend.warning.as_deref();
        assert_eq!(warning.map(|words| &words[..32]), expected, "{}", case.name);
    }
    let log = stage.daemon.log();
    for backend in ["b1", "b2"] {
        let told = |line: &&str| {
            line.contains("something of it expires") && line.contains(&format!("backend={backend}"))
        };
        assert_eq!(log.lines().filter(told).count(), 1, "{log}");
    }
}

#[test]
fn every_check_finds_what_is_wrong_with_real_servers_and_when_it_is_right_again() {
    let shape = Shape {
        backends: 2,
        ..SHAPES[0]
    };
    let real = std::cell::RefCell::new(vec![]);
    let files = std::cell::OnceCell::new();
    let servers = |topology: &Topology| {
        let files = files.get_or_init(|| Files::make(topology));
        let start = |host| Real::start(topology, host, &files.0);
        real.replace(["b1", "b2"].map(start).into());
        Server::threads(topology)
    };
    let stage = Stage::with_topology(shape, servers, |lab, topology| {
        config(lab, topology, &files.get().unwrap().0)
    });
    let files = &files.get().unwrap().0;
    check(&stage, "all are right", |_| None);
    warns_of_what_expires(&stage);
    real.borrow()[0].answer(&stage, "b1", files, false);
    check(&stage, "b1 answers wrong", |case| case.wrong);
    real.borrow()[0].answer(&stage, "b1", files, true);
    check(&stage, "b1 is right again", |_| None);
    full_size::lose_packets_above(&stage, "b1", 1499);
    check(&stage, "large packets do not reach b1", |case| {
        let fills = ["http", "https", "http2", "grpc", "icmp"];
        fills.contains(&case.kind).then_some(LARGE)
    });
    full_size::lose_nothing(&stage, "b1");
    check(&stage, "they reach it again", |_| None);
    real.borrow_mut().remove(0);
    check(&stage, "the servers of b1 are dead", |case| case.dead);
    let again = Real::start(&stage.topology, "b1", files);
    check(&stage, "the servers of b1 live again", |_| None);
    stage.end();
    drop(again);
}
