//! A connection from the port of one that has been silent for longer than its service says begins anew: one that was reset, one that said all within
//! an epoch, and one that lasted. They are silent together.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use lb_common::flow::EPOCH_SHIFT;
use lb_tests::daemon::Config;
use lb_tests::server::{MESSAGE_BYTES, Server, signature};
use lb_tests::topology::{Family, client};
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockRef, Socket, Type};

use crate::stage::{SHAPES, Stage, wait_until};

/// Services that let go of what was silent, each of one kind of connection, and the key that says so.
const LIMITED: [(&str, &str); 3] = [
    ("closing", "tcp-closing-idle"),
    ("at-once", "tcp-idle"),
    ("established", "tcp-idle"),
];
/// The service that lets go of handshakes alone: of nothing that is opened here.
const KEEPS: (&str, &str) = ("keeps", "tcp-handshake-idle");

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By RST.
    Reset,
    /// Not at all, as far as others see: its client has lost its state.
    Silent,
}

/// So many ports of the client: a connection from each goes to whose turn it is. Each service and kind has ports of its own, as all services
/// are at the same servers. No multiple of the three servers: else the turn could come to each port's own one again.
fn ports(first: u16) -> Range<u16> {
    first..first + 13
}

/// A connection that was answered, its port, and by whom.
type Open = (u16, TcpStream, String);

/// Who answers on a connection. What he says is acknowledged at once, so that he never has to send it again.
fn ask(stream: &mut TcpStream) -> String {
    let mut message = [7; MESSAGE_BYTES];
    SockRef::from(&*stream).set_tcp_quickack(true).unwrap();
    stream.write_all(&message).unwrap();
    stream.read_exact(&mut message).unwrap();
    SockRef::from(&*stream).set_tcp_quickack(true).unwrap();
    signature(&message).to_owned()
}

fn connect(target: SocketAddr, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    let own = SocketAddr::from((client(Family::V4), port));
    socket.bind(&own.into()).unwrap();
    // A server that still has the connection of before says so, is reset, and answers the next SYN.
    socket.connect(&target.into()).unwrap();
    let stream = TcpStream::from(socket);
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// Connections to a service, all at once.
fn open(stage: &Stage, service: &str, first: u16) -> Vec<Open> {
    let target = stage.daemon.config().service(service).target();
    stage.topology.run_in("client", || {
        thread::scope(|scope| {
            let one = |port| {
                scope.spawn(move || {
                    let mut stream = connect(target, port);
                    let who = ask(&mut stream);
                    (port, stream, who)
                })
            };
            let all: Vec<_> = ports(first).map(one).collect();
            let open = all.into_iter().map(|one| one.join().unwrap());
            open.collect()
        })
    })
}

/// Who answered from each port, once the connections have ended.
fn end(open: Vec<Open>, end: End) -> BTreeMap<u16, String> {
    let ended = open.into_iter().map(|(port, stream, who)| {
        if end == End::Silent {
            // Closed then, a socket says nothing (tcp_disconnect, Linux net/ipv4/tcp.c).
            setsockopt(&stream, sockopt::TcpRepair, &1).unwrap();
        }
        (port, who)
    });
    ended.collect()
}

/// Epochs of the flow table, by the clock that it has.
fn epochs() -> u64 {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    // The data plane reads the clock once a tick.
    let late = now - Duration::from_millis(200);
    u64::try_from(late.as_nanos()).unwrap() >> EPOCH_SHIFT
}

/// Waits until so many epochs have begun since all that has happened yet.
fn wait_for_epochs(number: u64) {
    let last =
        u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos());
    let last = last.unwrap() >> EPOCH_SHIFT;
    let limit = Duration::from_nanos((number + 2) << EPOCH_SHIFT);
    wait_until("epochs begin", limit, || epochs() >= last + number);
}

fn configured(mut config: Config) -> Config {
    config.services.retain(|service| service.name == "echo4");
    let mut echo = config.services.remove(0);
    echo.extra += "\nscheduler = \"round-robin\"";
    for (name, key) in LIMITED.into_iter().chain([KEEPS]) {
        let mut service = echo.clone();
        service.name = name.to_owned();
        service.extra += &format!("\n{key} = \"1s\"");
        config.services.push(service);
        echo.port += 1;
    }
    config
}

#[test]
fn what_was_silent_for_as_long_as_its_service_says_is_scheduled_anew() {
    let stage = Stage::with(SHAPES[0], Server::threads, configured);
    // Each kind of connection has this service, or the one that keeps all; and its first port.
    let kind = |n: u16| {
        let (name, _) = LIMITED[usize::from(n)];
        [(name, 20_000 + 100 * n), (KEEPS.0, 21_000 + 100 * n)]
    };
    let opened = |kind: [(&str, u16); 2]| kind.map(|(name, first)| open(&stage, name, first));
    // What lasts is seen in two epochs.
    let held = opened(kind(2));
    wait_for_epochs(1);
    let reset = |()| opened(kind(0)).map(|open| end(open, End::Reset));
    let closing = reset(());
    let at_once = opened(kind(1)).map(|open| end(open, End::Silent));
    let established = held.map(|mut open| {
        for (port, stream, who) in &mut open {
            assert_eq!(ask(stream), *who, "from {port}");
        }
        end(open, End::Silent)
    });
    assert_eq!(reset(()), closing, "what has just ended is still known");
    // A second is rounded up to one epoch, and an age to the next.
    wait_for_epochs(2);
    for (n, before) in (0..).zip([closing, at_once, established]) {
        let (name, key) = LIMITED[usize::from(n)];
        let [limited, kept] = opened(kind(n)).map(|open| end(open, End::Reset));
        assert_eq!(
            kept, before[1],
            "{name}: what has gone on after its handshake stays"
        );
        assert_ne!(limited, before[0], "{key}: it is somebody else's turn");
    }
    stage.end();
}
