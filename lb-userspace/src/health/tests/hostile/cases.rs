//! The attacks, by protocol.

use std::net::SocketAddr;

use super::bytes::{
    A, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, OK, PING, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, bomb, chunked, dns, field, frame, gzip, http, http2, record,
};
use crate::health::tls::fixture::Authority;
use crate::model::{
    AgentSource, Check, DnsCheck, DnsRcode, DnsType, GrpcCheck, HttpCheck, UdpCheck,
};

pub(super) const NAME: &str = "www.example.org";

/// What ends the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    ByABound,
    AtItsTimeout,
}

/// What a target does to whoever asks.
#[derive(Clone)]
pub(super) enum Attack {
    /// Sends this, and then nothing.
    Once(Vec<u8>),
    /// The same, made of the query.
    Answer(fn(&[u8]) -> Vec<u8>),
    /// Sends the first, then the second without end, as fast as it can.
    Flood(Vec<u8>, Vec<u8>),
    /// Sends the first, then the second byte by byte, without end.
    Drip(Vec<u8>, Vec<u8>),
    /// Over UDP: sends such a datagram so many times.
    Datagrams(fn(&[u8]) -> Vec<u8>, usize),
}

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) check: Check,
    pub(super) agent: Option<AgentSource>,
    /// It shakes hands before it attacks.
    pub(super) tls: bool,
    pub(super) attack: Attack,
    pub(super) ends: Ends,
    /// How the reason begins; empty: the probe is good all the same.
    pub(super) says: &'static str,
}

fn get() -> HttpCheck {
    HttpCheck {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        expect_status: vec![(200, 299)],
        expect_body: Some("ready".to_owned()),
    }
}

/// A case that a bound ends.
fn cut(name: &'static str, check: Check, attack: Attack, says: &'static str) -> Case {
    Case {
        name,
        check,
        agent: None,
        tls: false,
        attack,
        ends: Ends::ByABound,
        says,
    }
}

/// A case that the timeout ends.
fn late(name: &'static str, check: Check, attack: Attack, says: &'static str) -> Case {
    Case {
        ends: Ends::AtItsTimeout,
        ..cut(name, check, attack, says)
    }
}

/// All of them.
pub(super) fn cases(ca: &Authority) -> Vec<Case> {
    let mut all = over_http();
    all.extend(over_http2());
    all.extend(over_grpc());
    all.extend(over_tls(ca));
    all.extend(over_dns());
    all.extend(others());
    all
}

fn over_http() -> Vec<Case> {
    use Attack::{Drip, Flood, Once};
    let web = || Check::Http(get());
    let head = || http("\r\n");
    let long = "headers: longer than 16 KiB";
    let lacks = "body lacks 'ready' in its first 64 KiB";
    let packed = || {
        let mut bytes = http("Content-Encoding: gzip\r\n\r\n");
        bytes.extend(gzip(1 << 20));
        bytes
    };
    vec![
        cut(
            "a line of a head without end",
            web(),
            Flood(http("x: "), b"y".into()),
            long,
        ),
        cut(
            "lines of a head without end",
            web(),
            Flood(http(""), b"x: y\r\n".into()),
            long,
        ),
        cut(
            "interim answers without end",
            web(),
            Flood(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".into()),
            "headers: the target sends more than it may",
        ),
        late(
            "a head byte by byte",
            web(),
            Drip(http(""), b"x: y\r\n".into()),
            "headers: timed out after 300 ms",
        ),
        cut(
            "a body without end",
            web(),
            Flood(head(), b"x".into()),
            lacks,
        ),
        late(
            "a body byte by byte",
            web(),
            Drip(head(), b"x".into()),
            "body: timed out after 300 ms",
        ),
        cut(
            "a body that grows when it is unpacked",
            web(),
            Once(packed()),
            lacks,
        ),
        cut(
            "a length below zero",
            web(),
            Once(http("Content-Length: -1\r\n\r\n")),
            "headers: not HTTP/1: ",
        ),
        cut(
            "two lengths",
            web(),
            Once(http("Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx")),
            "headers: not HTTP/1: ",
        ),
        cut(
            "a chunk of 2^68 bytes",
            web(),
            Once(chunked("fffffffffffffffff\r\nx")),
            "body: invalid chunk size: overflow",
        ),
        cut(
            "a chunk whose size is no number",
            web(),
            Once(chunked("zz\r\nx")),
            "body: Invalid chunk size line: ",
        ),
        cut(
            "a chunk longer than it says",
            web(),
            Once(chunked("1\r\nxyz\r\n")),
            "body: Invalid chunk body CR",
        ),
        cut(
            "a chunk's size without end",
            web(),
            Flood(chunked(""), b"0".into()),
            "body: the target sends more than it may",
        ),
        cut(
            "a chunk's extension without end",
            web(),
            Flood(chunked("1;"), b"x".into()),
            "body: chunk extensions over limit",
        ),
        cut(
            "chunks of one byte without end",
            web(),
            Flood(chunked(""), b"1\r\nx\r\n".into()),
            "body: the target sends more than it may",
        ),
        cut(
            "trailers without end",
            web(),
            Flood(chunked("0\r\n"), b"x: y\r\n".into()),
            "body: chunk trailers count overflow",
        ),
        late(
            "a chunk's size byte by byte",
            web(),
            Drip(chunked(""), b"0".into()),
            "body: timed out after 300 ms",
        ),
    ]
}

fn over_http2() -> Vec<Case> {
    use Attack::{Drip, Flood, Once};
    let web = || Check::Http2(get(), None);
    let answer = || http2(&[frame(HEADERS, END_HEADERS, 1, OK)]);
    let junk = vec![0; 1024];
    let big = frame(DATA, 0, 1, &junk);
    let piece = frame(CONTINUATION, 0, 1, &field("x", "y").repeat(200));
    vec![
        cut(
            "a frame of 16 MiB",
            web(),
            Flood(
                http2(&[vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]]),
                junk.clone(),
            ),
            "headers: FRAME_SIZE_ERROR (no HTTP/2)",
        ),
        cut(
            "a head that goes on without end",
            web(),
            Flood(http2(&[frame(HEADERS, 0, 1, OK)]), piece),
            "headers: ENHANCE_YOUR_CALM (no HTTP/2)",
        ),
        cut(
            "a head that grows when it is unpacked",
            web(),
            Once(http2(&[frame(HEADERS, END_HEADERS, 1, &bomb())])),
            "headers: ENHANCE_YOUR_CALM (no HTTP/2)",
        ),
        cut(
            "settings without end",
            web(),
            Flood(http2(&[]), frame(SETTINGS, 0, 0, &[])),
            "headers: the target sends more than it may",
        ),
        cut(
            "pings to answer without end",
            web(),
            Flood(http2(&[]), frame(PING, 0, 0, &[7; 8])),
            "headers: the target sends more than it may",
        ),
        cut(
            "resets without end",
            web(),
            Flood(http2(&[]), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
            "headers: CANCEL (the target says)",
        ),
        cut(
            "a push that nobody asked for",
            web(),
            Once(http2(&[frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[0, 0, 0, 2, 0x82],
            )])),
            "headers: PROTOCOL_ERROR (no HTTP/2)",
        ),
        cut(
            "a window beyond what there is",
            web(),
            Flood(
                http2(&[]),
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            ),
            "headers: FLOW_CONTROL_ERROR (no HTTP/2)",
        ),
        late(
            "a frame byte by byte",
            web(),
            Drip(http2(&[]), frame(PING, 1, 0, &[7; 8])),
            "headers: timed out after 300 ms",
        ),
        cut(
            "a body without end",
            web(),
            Flood(answer(), big),
            "body: FLOW_CONTROL_ERROR (no HTTP/2)",
        ),
        cut(
            "empty pieces of a body without end",
            web(),
            Flood(answer(), frame(DATA, 0, 1, &[])),
            "body: ENHANCE_YOUR_CALM (no HTTP/2)",
        ),
    ]
}

fn over_grpc() -> Vec<Case> {
    use Attack::{Flood, Once};
    let health = || Check::Grpc(GrpcCheck::default(), None);
    let head = || frame(HEADERS, END_HEADERS, 1, OK);
    let done = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &field("grpc-status", "0"),
    );
    let message = |flag| frame(DATA, 0, 1, &[flag, 0, 0, 0, 2, 8, 1]);
    let trailers = || http2(&[head(), message(0), frame(HEADERS, END_STREAM, 1, &[])]);
    let piece = frame(CONTINUATION, 0, 1, &field("x", "y").repeat(200));
    vec![
        cut(
            "a message without end",
            health(),
            Flood(http2(&[head()]), frame(DATA, 0, 1, &[0; 1024])),
            "body: longer than 4 KiB",
        ),
        cut(
            "a message that is to be unpacked",
            health(),
            Once(http2(&[head(), message(1), done.clone()])),
            "answer: not a HealthCheckResponse",
        ),
        cut(
            "a message that says it has 4 GiB",
            health(),
            Once(http2(&[
                head(),
                frame(DATA, 0, 1, &[0, 255, 255, 255, 255, 8, 1]),
                done,
            ])),
            "answer: not a HealthCheckResponse",
        ),
        cut(
            "trailers without end",
            health(),
            Flood(trailers(), piece),
            "body: ENHANCE_YOUR_CALM (no HTTP/2)",
        ),
    ]
}

fn over_tls(ca: &Authority) -> Vec<Case> {
    use Attack::{Drip, Flood};
    let shake = || Check::Tls(ca.check(Some(NAME)));
    let web = || Check::Https(get(), ca.check(Some(NAME)));
    let behind = |case: Case| Case { tls: true, ..case };
    const HANDSHAKE: u8 = 22;
    let whole = record(HANDSHAKE, &[0; 1 << 14]);
    vec![
        cut(
            "a message of the handshake of 16 MiB",
            shake(),
            Flood(record(HANDSHAKE, &[2, 0xff, 0xff, 0xff, 3, 3]), whole),
            "tls: received corrupt message of type HandshakePayloadTooLarge",
        ),
        cut(
            "garbage without end",
            shake(),
            Flood(Vec::new(), b"220 ready\r\n".into()),
            "tls: received corrupt message of type InvalidContentType",
        ),
        cut(
            "warnings without end",
            shake(),
            Flood(Vec::new(), record(21, &[1, 90])),
            "tls: peer misbehaved: TooManyWarningAlertsReceived",
        ),
        cut(
            "changes of cipher without end",
            shake(),
            Flood(Vec::new(), record(20, &[1])),
            "tls: received unexpected message: got ChangeCipherSpec",
        ),
        cut(
            "empty records without end",
            shake(),
            Flood(Vec::new(), record(HANDSHAKE, &[])),
            "tls: received corrupt message of type InvalidEmptyPayload",
        ),
        late(
            "a record byte by byte",
            shake(),
            Drip(record(HANDSHAKE, &[2, 0, 0x10, 0]), record(HANDSHAKE, &[3])),
            "tls: timed out after 300 ms",
        ),
        // It has shaken hands: that is what was asked.
        behind(cut(
            "talk without end after the handshake",
            shake(),
            Flood(Vec::new(), b"x".into()),
            "",
        )),
        behind(cut(
            "lines of a head without end",
            web(),
            Flood(http(""), b"x: y\r\n".into()),
            "headers: longer than 16 KiB",
        )),
        behind(late(
            "a body byte by byte",
            web(),
            Drip(http("\r\n"), b"x".into()),
            "body: timed out after 300 ms",
        )),
    ]
}

fn over_dns() -> Vec<Case> {
    use Attack::{Answer, Datagrams, Drip};
    let ask = |tcp| {
        Check::Dns(DnsCheck {
            name: NAME.to_owned(),
            kind: DnsType::A,
            rcode: DnsRcode::NoError,
            address: None,
            tcp,
        })
    };
    /// Where the first record of an answer begins: behind the head, and the question with its name of 17 bytes.
    const FIRST: u8 = 12 + 17 + 4;
    fn record(name: &[u8]) -> Vec<u8> {
        [name, A].concat()
    }
    fn framed(query: &[u8], make: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let answer = make(&query[2..]);
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        [&length[..], &answer].concat()
    }
    fn loops(query: &[u8]) -> Vec<u8> {
        dns(query, 1, &record(&[0xc0, FIRST]))
    }
    fn two(query: &[u8]) -> Vec<u8> {
        dns(query, 1, &record(&[0xc0, FIRST + 2, 0xc0, FIRST]))
    }
    fn ahead(query: &[u8]) -> Vec<u8> {
        dns(query, 1, &record(&[0xc0, FIRST + 40]))
    }
    fn many(query: &[u8]) -> Vec<u8> {
        dns(query, u16::MAX, &record(&[0xc0, 12]))
    }
    /// A name of 255 bytes, and some thousand records that are this name by two bytes.
    fn grows(query: &[u8]) -> Vec<u8> {
        let mut name = [&[63][..], &[b'a'; 63]].concat().repeat(3);
        name.extend([&[61][..], &[b'a'; 61], &[0]].concat());
        let again = record(&[0xc0, FIRST]).repeat(4000);
        dns(query, 4001, &[record(&name), again].concat())
    }
    let bad = "answer: not a DNS message: ";
    vec![
        cut(
            "a name that is itself",
            ask(false),
            Datagrams(loops, 1),
            bad,
        ),
        cut(
            "two names that are each other",
            ask(false),
            Datagrams(two, 1),
            bad,
        ),
        cut(
            "a name that comes later",
            ask(false),
            Datagrams(ahead, 1),
            bad,
        ),
        cut(
            "65,535 answers that are not there",
            ask(false),
            Datagrams(many, 1),
            bad,
        ),
        cut(
            "answers to others",
            ask(false),
            Datagrams(|q| [&[!q[0]], &dns(q, 0, &[])[1..]].concat(), 1000),
            "answer: to another query",
        ),
        cut(
            "a name that is itself, over TCP",
            ask(true),
            Answer(|q| framed(q, loops)),
            bad,
        ),
        // It is what was asked for, at some length.
        cut(
            "an answer that grows when it is unpacked",
            ask(true),
            Answer(|q| framed(q, grows)),
            "",
        ),
        late(
            "an answer byte by byte",
            ask(true),
            Drip(vec![0xff, 0xff], vec![0]),
            "answer: timed out after 300 ms",
        ),
    ]
}

fn others() -> Vec<Case> {
    use Attack::{Datagrams, Drip, Flood};
    let heard = |(check, agent): (Check, _), attack, ends| Case {
        agent,
        ends,
        ..cut("an agent's line without end", check, attack, "")
    };
    let nines = || b"9".to_vec();
    let line = || (Check::Tcp, Some(AgentSource::Line));
    let body = || {
        let check = HttpCheck {
            expect_body: None,
            ..get()
        };
        (Check::Http(check), Some(AgentSource::Body))
    };
    let udp = Check::Udp(UdpCheck {
        send: b"ping".to_vec(),
        expect: b"pong".to_vec(),
    });
    vec![
        heard(line(), Flood(Vec::new(), nines()), Ends::ByABound),
        heard(line(), Drip(Vec::new(), nines()), Ends::AtItsTimeout),
        heard(body(), Flood(http("\r\n"), nines()), Ends::ByABound),
        cut(
            "a thousand large datagrams",
            udp,
            Datagrams(|_| vec![b'x'; 60_000], 1000),
            "answer is 'xxxx",
        ),
    ]
}

/// Answers that name somebody else.
pub(super) fn elsewhere(ca: &Authority, there: SocketAddr) -> Vec<Case> {
    let not = "status 302, expected 200-299 (redirects are not followed)";
    let fields = format!(
        "Location: http://{there}/\r\nRefresh: 0; url=http://{there}/\r\nAlt-Svc: h2=\"{there}\"\r\nContent-Length: 0\r\n\r\n"
    );
    let moved = || Attack::Once(format!("HTTP/1.1 302 Found\r\n{fields}").into_bytes());
    // `:status` by its name's index, with this value.
    let mut block = [&[0x48, 3][..], b"302"].concat();
    block.extend(field("location", &format!("http://{there}/")));
    block.extend(field("alt-svc", &format!("h2=\"{there}\"")));
    let moved2 = Attack::Once(http2(&[frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &block,
    )]));
    vec![
        cut("a redirect", Check::Http(get()), moved(), not),
        Case {
            tls: true,
            ..cut(
                "a redirect behind TLS",
                Check::Https(get(), ca.check(Some(NAME))),
                moved(),
                not,
            )
        },
        cut(
            "a redirect over HTTP/2",
            Check::Http2(get(), None),
            moved2.clone(),
            not,
        ),
        cut(
            "a redirect of gRPC",
            Check::Grpc(GrpcCheck::default(), None),
            moved2,
            "status 302, expected 200",
        ),
    ]
}
