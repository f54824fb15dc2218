//! Hooks: a command and a server are told what happens, and those that hang delay nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lb_tests::server::Server;
use serde_json::Value;

use super::text;
use crate::stage::{SHAPES, Stage, wait_until};

const LONG: Duration = Duration::from_secs(30);
const METRICS: &str = "http://127.0.0.1:9460/metrics";

/// A folder that is removed at the end; then commands that wait for that end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("fairlead-hooks-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A server that is told, and ends with this.
struct Receiver {
    events: Arc<Mutex<Vec<Value>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The JSON of a request, which is answered with 204.
fn take(mut stream: TcpStream) -> Value {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.ends_with(b"}") {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&piece[..read]);
    }
    stream
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .unwrap();
    let text = String::from_utf8(request).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /events HTTP/1.1\r\n"), "{head}");
    serde_json::from_str(body).unwrap()
}

impl Receiver {
    fn start(listener: TcpListener) -> Self {
        let (events, end) = (
            Arc::<Mutex<Vec<Value>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (kept, ends) = (Arc::clone(&events), Arc::clone(&end));
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        let event = take(stream);
                        kept.lock().unwrap().push(event);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(error) => panic!("accept: {error}"),
                }
            }
        });
        Self {
            events,
            end,
            thread: Some(thread),
        }
    }
}

/// A socket that stays open would keep the test's network.
impl Drop for Receiver {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What a command appended to a file.
fn lines(path: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be half there.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let events = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    events.collect()
}

fn is(event: &Value, fields: &[(&str, &str)]) -> bool {
    fields.iter().all(|(key, value)| event[key] == *value)
}

#[test]
fn a_command_and_a_server_are_told_and_those_that_hang_delay_nothing() {
    let folder = Folder::new();
    let told = folder.0.join("told");
    let mut listeners = None;
    let mut stage = Stage::with_topology(SHAPES[0], Server::threads, |mut config, topology| {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let [server, mute] = [bind, bind].map(|bind| topology.run_in("lb", bind).unwrap());
        let [port, mute_port] = [&server, &mute].map(|l| l.local_addr().unwrap().port());
        listeners = Some((server, mute));
        let hang = format!("while test -d {}; do sleep 0.1; done", folder.0.display());
        let hook = |name: &str, rest: &str| format!("[[hook]]\nname = \"{name}\"\n{rest}\n");
        let shell = |script: &str| format!("command = [\"/bin/sh\", \"-c\", \"{script}\"]");
        let web = config.services.iter_mut().find(|s| s.name == "web4");
        for backend in web.unwrap().backends.iter_mut().skip(1) {
            backend.extra += "tier = 1\n";
        }
        config.tables += &hook("file", &shell(&format!("cat >> {}", told.display())));
        config.tables += &hook(
            "server",
            &format!("url = \"http://127.0.0.1:{port}/events\""),
        );
        config.tables += &hook("hang", &(shell(&hang) + "\ntimeout = \"5m\"\nqueue = 5"));
        config.tables += &hook(
            "mute",
            &format!("url = \"http://127.0.0.1:{mute_port}/\"\ntimeout = \"5m\""),
        );
        config
    });
    // The kernel takes the connection of the one that hangs; nobody ever accepts it.
    let (server, _mute) = listeners.unwrap();
    let receiver = Receiver::start(server);
    stage.topology.cut_power("b1", "eth0").unwrap();
    let took = stage.wait_for_health("b1", "down");
    // A hook that is waited for would take five minutes.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let down = [
        ("event", "health"),
        ("backend", "web4/b1"),
        ("from", "up"),
        ("to", "down"),
    ];
    let failover = [
        ("event", "failover"),
        ("service", "web4"),
        ("to", "tier 1: 100 %"),
    ];
    let all = |found: &[Value], wanted: &[&[(&str, &str)]]| {
        let mut wanted = wanted.iter();
        wanted.all(|fields| found.iter().any(|event| is(event, fields)))
    };
    let both = |what: &str, wanted: &[&[(&str, &str)]]| {
        wait_until(&format!("the command is told {what}"), LONG, || {
            all(&lines(&told), wanted)
        });
        wait_until(&format!("the server is told {what}"), LONG, || {
            all(&receiver.events.lock().unwrap(), wanted)
        });
    };
    both("that b1 is down, and who serves now", &[&down, &failover]);
    stage
        .daemon
        .cli(&["drain", "echo4/b2"])
        .unwrap()
        .succeeded()
        .unwrap();
    let ordered = [
        ("event", "admin"),
        ("backend", "echo4/b2"),
        ("to", "draining"),
    ];
    let drained = [("event", "drained"), ("backend", "echo4/b2")];
    both("of the drain", &[&ordered, &drained]);
    let health = lines(&told)
        .into_iter()
        .find(|event| is(event, &down))
        .unwrap();
    assert_eq!(
        (&health["address"], &health["port"]),
        (&"10.10.1.1".into(), &8080.into())
    );
    assert!(
        health["reason"]
            .as_str()
            .unwrap()
            .contains("bad probes in a row: 2"),
        "{health}"
    );
    let status = stage.wait("hooks are told", |status| {
        let done = |hook: &lb_tests::daemon::Hook| hook.waiting == 0 || hook.sent == 0;
        status.hooks.iter().all(done)
    });
    let of = |name: &str| status.hooks.iter().find(|hook| hook.name == name).unwrap();
    for name in ["file", "server"] {
        let hook = of(name);
        assert!(
            hook.sent >= 8 && hook.failed + hook.dropped == 0,
            "{hook:?}"
        );
    }
    let hang = of("hang");
    assert_eq!(
        (hang.sent, hang.failed, hang.waiting),
        (0, 0, 6),
        "{hang:?}"
    );
    assert!(
        hang.dropped > 0 && of("mute").waiting > 0,
        "{:?}",
        status.hooks
    );
    let page = text(
        &stage.topology,
        "lb",
        &["curl", "-sSf", "--max-time", "5", METRICS],
    );
    let shown = format!(
        "fairlead_hook_dropped_total{{hook=\"hang\"}} {}\n",
        hang.dropped
    );
    assert!(page.contains(&shown), "{page}");
    let table = stage
        .daemon
        .cli(&["status"])
        .unwrap()
        .succeeded()
        .unwrap()
        .stdout;
    assert!(
        table.contains("hook hang (/bin/sh): 0 told, 6 waiting, "),
        "{table}"
    );
    let log = stage.daemon.log();
    assert!(log.contains("events dropped"), "{log}");
    stage.topology.restore_power("b1", "eth0").unwrap();
    stage.wait_for_health("b1", "up");
    stage.check_law();
    // An end that is asked for does not wait for them either.
    stage.daemon.stop().unwrap();
}
