//! What a probe does: the checks, one for each `type` of `[service.health]`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// No probes: always up.
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// A TLS handshake succeeds.
    Tls(TlsCheck),
    /// An HTTP/1.1 request is answered as expected.
    Http(HttpCheck),
    /// The same over TLS.
    Https(HttpCheck, TlsCheck),
    /// An HTTP/2 request is answered as expected; without TLS by prior knowledge (RFC 9113 section 3.3).
    Http2(HttpCheck, Option<TlsCheck>),
    /// The service says over gRPC that it is serving.
    Grpc(GrpcCheck, Option<TlsCheck>),
    /// A datagram is answered as expected.
    Udp(UdpCheck),
    /// A DNS query is answered as expected.
    Dns(DnsCheck),
    /// An ICMP echo request is answered.
    Icmp,
    /// A command ends with 0.
    Exec(ExecCheck),
}

impl Check {
    /// True when a probe goes to a port.
    pub fn has_port(&self) -> bool {
        !matches!(self, Self::None | Self::Icmp)
    }

    /// The word for it in the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
            Self::Https(..) => "https",
            Self::Http2(..) => "http2",
            Self::Grpc(..) => "grpc",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Icmp => "icmp",
            Self::Exec(_) => "exec",
        }
    }
}

/// What is asked and what answer is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// `Host` header or `:authority`; `None`: the address and port of the target.
    pub host: Option<String>,
    /// Status ranges that are good, inclusive, sorted, without overlap.
    pub expect_status: Vec<(u16, u16)>,
    /// Text that the first 64 KiB of the body must contain.
    pub expect_body: Option<String>,
}

/// Whom a TLS client trusts, and who it says it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsCheck {
    /// Name that is asked for (SNI) and that the certificate must have; `None`: the target's address, which is
    /// not sent (RFC 6066 section 3 has names only).
    pub server_name: Option<String>,
    /// PEM file of the authorities that are trusted.
    pub ca: PathBuf,
    /// PEM files of the client's certificate chain and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Is the certificate verified?
    pub verify: bool,
    /// A certificate with less time left is good with a warning.
    pub warn_before_expiry: Duration,
}

/// The gRPC health protocol (`grpc.health.v1.Health/Check`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcCheck {
    /// The service that is asked about; empty: the whole server.
    pub service: String,
    /// `:authority`; `None`: the address and port of the target.
    pub host: Option<String>,
}

/// A datagram and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpCheck {
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer begins with; empty: any answer is good.
    pub expect: Vec<u8>,
}

/// A DNS query (RFC 1035) and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsCheck {
    /// Name, in ASCII.
    pub name: String,
    /// What is asked for.
    pub kind: DnsType,
    /// The response code that is good.
    pub rcode: DnsRcode,
    /// An address that must be among the answers.
    pub address: Option<IpAddr>,
    /// Over TCP in place of UDP.
    pub tcp: bool,
}

/// A type of records (RFC 1035 section 3.2.2, RFC 3596, RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum DnsType {
    A,
    Aaaa,
    Ns,
    Soa,
    Txt,
    Srv,
}

/// A response code (RFC 1035 section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsRcode {
    /// 0.
    NoError,
    /// 1.
    FormErr,
    /// 2.
    ServFail,
    /// 3.
    NxDomain,
    /// 4.
    NotImp,
    /// 5.
    Refused,
}

/// A command; no shell is between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCheck {
    /// An absolute path.
    pub command: PathBuf,
    /// What follows it.
    pub arguments: Vec<String>,
    /// The user who runs it; `None`: the daemon's own.
    pub user: Option<String>,
}
