//! Agents: what servers say in the answers to checks moves their shares, within bounds.

use std::cell::OnceCell;
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use lb_tests::daemon::{Config, Health as Checks};
use lb_tests::server::{Health, Server};
use lb_tests::topology::{Family, Topology, backend};
use socket2::SockRef;

use crate::stage::{SHAPES, Stage};

/// Connections whose shares are looked at.
const CONNECTIONS: usize = 3000;

fn say(stage: &Stage, server: usize, report: &str) {
    let health = Health {
        body: format!("{report}\n"),
        ..Health::default()
    };
    stage.servers[server].set_health(&health).unwrap();
}

/// The share of b1 in thousandths of new connections; nobody goes without.
fn share_of_b1(stage: &Stage, service: &str) -> u64 {
    let report = stage.storm(&[service], CONNECTIONS as u64);
    report.assert_clean(CONNECTIONS);
    let backends = report.backends();
    assert_eq!(backends.len(), 3, "{backends:?}");
    backends[&1] * 1000 / CONNECTIONS as u64
}

/// Its share is one of these. A ring is written a little later than its weights are told, so that the first connections may still
/// go by the one before.
#[track_caller]
fn check_share(stage: &Stage, service: &str, of: RangeInclusive<u64>) {
    let first = share_of_b1(stage, service);
    if !of.contains(&first) {
        let second = share_of_b1(stage, service);
        assert!(of.contains(&second), "{first}, then {second}");
    }
}

#[test]
fn servers_say_how_much_they_can_bear_and_a_liar_draws_no_more_than_its_bound() {
    let stage = Stage::with(SHAPES[0], Server::threads, |mut config| {
        let web = config.services.iter_mut().find(|s| s.name == "web4");
        web.unwrap().health.extra =
            "agent-weight = \"body\"\nagent-weight-max = 200\nagent-weight-step = 100";
        let web = config.services.iter_mut().find(|s| s.name == "web6");
        web.unwrap().extra += "\nscheduler = \"least-response-time\"";
        let echo = config.services.iter_mut().find(|s| s.name == "echo6");
        echo.unwrap().health.extra =
            "agent-weight = \"header\"\nagent-weight-max = 200\nagent-weight-step = 100";
        config
    });
    // Nobody says anything useful: it is told, and changes nothing.
    let part = |wanted: u32| {
        stage.wait(
            &format!("b1 gets {wanted} thousandths of its weight"),
            |status| status.backend("web4/b1").agent == Some(wanted),
        )
    };
    part(1000);
    say(&stage, 0, "busy 25%");
    let status = part(250);
    let why = &status.backend("web4/b1").share_why;
    assert!(
        why.contains("as its agent says, 25 % of its weight"),
        "{why}"
    );
    assert_eq!(status.backend("web6/b1").agent, None);
    // 25 of 225.
    check_share(&stage, "web4", 80..=145);
    let why = stage
        .daemon
        .cli(&["why", "web4/b1"])
        .unwrap()
        .succeeded()
        .unwrap()
        .stdout;
    assert!(
        why.contains("as its agent says, 25 % of its weight"),
        "{why}"
    );
    // A lie: 2 of 4, and no more.
    say(&stage, 0, "1000%");
    part(2000);
    check_share(&stage, "web4", 450..=550);
    // What cannot be meant changes nothing.
    say(&stage, 0, "99999999999999999999%");
    stage.wait("it is ignored", |status| {
        status.backend("web4/b1").share_why.contains("is ignored")
    });
    part(2000);
    let log = stage.daemon.log();
    assert!(log.contains("what its agent says is ignored"), "{log}");
    // All ask for nothing: each gets the same as before.
    for server in 0..3 {
        say(&stage, server, "0%");
    }
    stage.wait("all have the least", |status| {
        let web = status.service("web4").unwrap();
        web.backends
            .iter()
            .all(|b| b.agent == Some(100) && b.share > 0)
    });
    check_share(&stage, "web4", 280..=390);
    // In a field of the head; in that of others nobody looks there.
    let health = Health {
        body: "100%\n".to_owned(),
        weight: Some("40%".to_owned()),
        ..Health::default()
    };
    stage.servers[0].set_health(&health).unwrap();
    let status = stage.wait("b1 gets 400 thousandths of echo6", |status| {
        status.backend("echo6/b1").agent == Some(400)
            && status.backend("web4/b1").agent == Some(1000)
    });
    let why = &status.backend("echo6/b1").share_why;
    assert!(
        why.contains("as its agent says, 40 % of its weight"),
        "{why}"
    );
    // 40 of 240: the others say nothing, and have their whole weight.
    assert_eq!(status.backend("echo6/b2").agent, Some(1000));
    check_share(&stage, "echo6", 125..=210);
    // Silence is the whole weight again.
    say(&stage, 0, "100%");
    stage.wait("b1 gets all of its weight in echo6", |status| {
        status.backend("echo6/b1").agent == Some(1000)
    });
    // Where response times count, a slow server gets less: not more than a few steps are waited for.
    let slow = Health {
        delay_ms: 50,
        ..Health::default()
    };
    stage.servers[1].set_health(&slow).unwrap();
    let status = stage.wait("b2 gets less of web6", |status| {
        status.backend("web6/b2").share < 300
    });
    let slow = status.backend("web6/b2");
    assert!(
        slow.share_why.contains("its checks take ") && slow.health == "up",
        "{slow:?}"
    );
    assert!(status.backend("web6/b1").share > slow.share, "{status:?}");
    assert_eq!(status.backend("echo4/b2").share, 333);
    stage.end();
}

/// Where agents that speak first listen.
const AGENT: u16 = 7100;

/// An agent as those of HAProxy are: it says its line to whoever connects, and closes.
struct Agent {
    says: Arc<Mutex<String>>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start(topology: &Topology, n: u8) -> Self {
        let at = SocketAddr::new(backend(Family::V4, n), AGENT);
        let listen = || TcpListener::bind(at).unwrap();
        let listener = topology.run_in(&format!("b{n}"), listen);
        let says = Arc::new(Mutex::new(String::new()));
        let (waiting, line) = (listener.try_clone().unwrap(), says.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = waiting.accept() {
                // A check that has heard enough is gone.
                drop(stream.write_all(line.lock().unwrap().as_bytes()));
                drop::<TcpStream>(stream);
            }
        });
        Self {
            says,
            listener,
            thread: Some(thread),
        }
    }

    fn say(&self, line: &str) {
        *self.says.lock().unwrap() = line.to_owned();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Whoever waits in accept(2) is told.
        drop(SockRef::from(&self.listener).shutdown(Shutdown::Both));
        drop(self.thread.take().unwrap().join());
    }
}

/// A command that says what stands in a file of the backend's name beside it.
const COMMAND: &str = "#!/bin/sh
cat \"${0%/*}/$FAIRLEAD_BACKEND\"
";

/// Has `echo4` checked by agents that speak first, and a service more, `said4`, by the command.
fn by_lines(mut config: Config, folder: &Path) -> Config {
    const KEYS: &str = "agent-weight = \"line\"\nagent-weight-max = 200\nagent-weight-step = 100";
    let command = folder.join("command");
    config.services.retain(|service| service.name == "echo4");
    let mut said = config.services[0].clone();
    (said.name, said.port) = ("said4".to_owned(), 7007);
    said.health = Checks {
        kind: "exec",
        extra: format!("{KEYS}\ncommand = [{command:?}]\nuser = \"root\"").leak(),
        ..Checks::LAB
    };
    config.services[0].health = Checks {
        kind: "tcp",
        port: Some(AGENT),
        extra: KEYS,
        ..Checks::LAB
    };
    config.services.push(said);
    config
}

#[test]
fn agents_that_speak_first_and_commands_say_how_much_a_server_can_bear() {
    let (agents, folder) = (OnceCell::<Vec<Agent>>::new(), OnceCell::<PathBuf>::new());
    let write = |n: u8, line: &str| {
        let path = folder.get().unwrap().join(format!("b{n}"));
        std::fs::write(path, line).unwrap();
    };
    let stage = Stage::with(
        SHAPES[0],
        |topology| {
            drop(agents.set((1..=3).map(|n| Agent::start(topology, n)).collect()));
            let here = folder.get_or_init(|| topology.directory().join("agents"));
            std::fs::create_dir(here).unwrap();
            std::fs::write(here.join("command"), COMMAND).unwrap();
            let all_may_run = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(here.join("command"), all_may_run).unwrap();
            (1..=3).for_each(|n| write(n, ""));
            Server::threads(topology)
        },
        |config| by_lines(config, folder.get().unwrap()),
    );
    let agents = agents.get().unwrap();
    let part = |backend: &str, wanted: u32| {
        stage.wait(
            &format!("{backend} gets {wanted} thousandths of its weight"),
            |status| status.backend(backend).agent == Some(wanted),
        )
    };
    // Nobody says anything yet: a connection that ends, and a command without output, are good all the same.
    for service in ["echo4", "said4"] {
        part(&format!("{service}/b1"), 1000);
    }
    agents[0].say("up 25%\n");
    part("echo4/b1", 250);
    write(1, "ready 40%\nand what follows: 90%\n");
    let status = part("said4/b1", 400);
    // One way says nothing for the other, and one server nothing for others.
    assert_eq!(status.backend("echo4/b1").agent, Some(250));
    for other in ["echo4/b2", "echo4/b3", "said4/b2", "said4/b3"] {
        assert_eq!(status.backend(other).agent, Some(1000), "{other}");
    }
    // 25 of 225, and 40 of 240.
    check_share(&stage, "echo4", 80..=145);
    check_share(&stage, "said4", 125..=210);
    // Lies: 2 of 4, and no more.
    agents[0].say("999%\n");
    write(1, "999%\n");
    part("echo4/b1", 2000);
    part("said4/b1", 2000);
    check_share(&stage, "echo4", 450..=550);
    check_share(&stage, "said4", 450..=550);
    // Silence is the whole weight again.
    agents[0].say("");
    write(1, "");
    part("echo4/b1", 1000);
    let status = part("said4/b1", 1000);
    assert!(status.all_are("up"), "{status:?}");
    stage.end();
}
