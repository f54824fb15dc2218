//! What a service says about its clients: connections that it does not know, and who may come.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::law::Excused;
use lb_tests::server::{MESSAGE_BYTES, Server};
use lb_tests::topology::{Family, client};

use crate::stage::{SHAPES, Stage, wait_until};

const MESSAGE: [u8; MESSAGE_BYTES] = [7; MESSAGE_BYTES];

/// Longer than Linux puts off an acknowledgement (`TCP_DELACK_MAX`, 200 ms).
const ACKNOWLEDGED: Duration = Duration::from_millis(300);

/// A connection to an echo service that has proven to work.
fn connect(stage: &Stage, service: &str) -> TcpStream {
    let target = stage.daemon.config().service(service).target();
    let connected = stage
        .topology
        .run_in("client", || TcpStream::connect(target));
    let mut stream = connected.unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    assert_eq!(say(&mut stream), Ok(()));
    stream
}

/// Says something and hears it, signed, or how that failed.
fn say(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let done = stream.write_all(&MESSAGE).and_then(|()| hear(stream));
    done.map_err(|error| error.kind())
}

fn hear(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; MESSAGE_BYTES])
}

#[test]
fn connection_that_a_new_data_plane_does_not_know_is_reset_at_once_or_goes_on() {
    for shape in [SHAPES[0], SHAPES[3], SHAPES[4]] {
        let mut stage = Stage::with(shape, Server::threads, |mut config| {
            for service in &mut config.services {
                if service.name == "echo4" {
                    service.extra += "\nmid-stream = \"reset\"";
                }
            }
            config
        });
        let (mut reset, mut kept) = (connect(&stage, "echo4"), connect(&stage, "echo6"));
        assert_eq!((say(&mut reset), say(&mut kept)), (Ok(()), Ok(())));
        stage.check_law();
        // An acknowledgement that fell between the two data planes would be lost; with `dnat` the server would say it
        // all again, untranslated, and the client would reset what it does not know.
        thread::sleep(ACKNOWLEDGED);
        stage.daemon.stop().unwrap();
        stage.unload();
        stage.load_again();
        assert_eq!(say(&mut reset), Err(ErrorKind::ConnectionReset));
        assert_eq!(say(&mut kept), Ok(()));
        let again = connect(&stage, "echo4");
        assert_eq!(stage.daemon.status().unwrap().data_plane.resets, 1);
        drop((again, kept));
        stage.end();
    }
}

#[test]
fn clients_are_denied_and_allowed_by_a_reload_also_on_connections_that_exist() {
    for shape in [SHAPES[0], SHAPES[3]] {
        let mut stage = Stage::new(shape);
        let open = stage.daemon.config().clone();
        let with = |list: String| {
            let mut config = open.clone();
            for service in &mut config.services {
                if service.name == "echo4" {
                    service.extra += &format!("\n{list}");
                }
            }
            config
        };
        let me = client(Family::V4);
        let denied =
            |stage: &Stage| stage.daemon.status().unwrap().data_plane.drops["source_denied"];
        let (mut four, mut six) = (connect(&stage, "echo4"), connect(&stage, "echo6"));
        for list in [
            format!("deny = [\"0.0.0.0/0\", \"{me}\"]"),
            "allow = [\"192.0.2.0/24\"]".to_owned(),
        ] {
            stage.daemon.reload(with(list)).unwrap();
            let before = denied(&stage);
            four.write_all(&MESSAGE).unwrap();
            wait_until(
                "what the client says is dropped",
                Duration::from_secs(5),
                || denied(&stage) > before,
            );
            assert_eq!(say(&mut six), Ok(()));
            // The client says it again, and is heard as soon as it may.
            stage
                .daemon
                .reload(with(format!("deny = [\"0.0.0.0/0\"]\nallow = [\"{me}\"]")))
                .unwrap();
            hear(&mut four).unwrap();
            assert_eq!(say(&mut four), Ok(()));
        }
        stage.daemon.reload(open.clone()).unwrap();
        let before = denied(&stage);
        assert_eq!(say(&mut four), Ok(()));
        assert_eq!(denied(&stage), before);
        stage.end();
    }
}

#[test]
fn without_a_daemon_for_long_packets_are_dropped_or_passed_and_with_one_flows_go_on() {
    // With `dnat`, a server's untranslated reply would be passed to the client, which would reset it.
    for (shape, policy, dropped) in [(SHAPES[0], "drop", true), (SHAPES[3], "pass", false)] {
        let mut stage = Stage::with(shape, Server::threads, |mut config| {
            config.extra += &format!("when-dead = \"{policy}\"\ndead-after = \"2s\"\n");
            config
        });
        let mut stream = connect(&stage, "echo4");
        stage.check_law();
        stage.daemon.kill().unwrap();
        let killed = Instant::now();
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let mut failed = None;
        while failed.is_none() && killed.elapsed() < Duration::from_secs(10) {
            failed = say(&mut stream).err();
        }
        assert_eq!(failed, Some(ErrorKind::WouldBlock), "{policy}");
        assert!(killed.elapsed() > Duration::from_millis(1500), "{policy}");
        stage.daemon.restart().unwrap();
        // What the client said last is said again, and heard.
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        hear(&mut stream).unwrap();
        assert_eq!(say(&mut stream), Ok(()), "{policy}");
        let drops = stage.daemon.status().unwrap().data_plane.drops;
        assert_eq!(drops["control_plane_dead"] > 0, dropped, "{drops:?}");
        drop(stream);
        // What passed was the kernel's: some segments and their retransmissions.
        stage.end_but(Excused {
            kept: if dropped { 0 } else { 20 },
            ..Excused::default()
        });
    }
}
