//! Commands and servers that are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{config, down};
use crate::health::tls::fixture::{Authority, serve};
use crate::hooks::runner::Hooks;
use crate::status;

const LONG: Duration = Duration::from_secs(60);

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("fairlead-hook-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A script that is given the folder.
    fn script(&self, text: &str) -> String {
        let path = self.0.join("hook");
        let text = text.replace("FOLDER", self.0.to_str().unwrap());
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn hooks(text: &str) -> (Hooks, crate::model::Config, CancellationToken) {
    let config = config(text);
    let cancel = CancellationToken::new();
    let mut hooks = Hooks::spawn(cancel.clone());
    hooks.configure(&config.hooks);
    (hooks, config, cancel)
}

fn only(hooks: &Hooks) -> status::Hook {
    hooks.status().into_iter().next().unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn a_command_gets_json_on_its_input_and_nothing_of_ours() {
    let folder = Folder::new("command");
    let script = folder.script(
        "cat > FOLDER/json; tr '\\0' '\\n' < /proc/self/environ > FOLDER/environ; ls /proc/self/fd > FOLDER/fds; readlink /proc/self/cwd >> FOLDER/fds",
    );
    let text = format!("[[hook]]\nname = \"h\"\ncommand = [\"{script}\"]\n");
    let (hooks, config, cancel) = hooks(&text);
    hooks.tell(&down("web/b2"), &config);
    wait_for("the command is told", || only(&hooks).sent == 1).await;
    let json: serde_json::Value = serde_json::from_str(&read(&folder.0.join("json"))).unwrap();
    assert_eq!(
        (&json["backend"], &json["to"]),
        (&"web/b2".into(), &"down".into())
    );
    assert_eq!(json["number"], 1);
    let environ = read(&folder.0.join("environ"));
    let ours = environ.lines().filter(|line| !line.starts_with("PWD="));
    assert!(
        ours.clone().all(|line| line.starts_with("FAIRLEAD_")),
        "{environ}"
    );
    assert_eq!(ours.count(), 6, "{environ}");
    // `ls` opens the folder by 3.
    assert_eq!(read(&folder.0.join("fds")), "0\n1\n2\n3\n/\n");
    cancel.cancel();
    hooks.ended().await.unwrap();
}

#[tokio::test]
async fn a_command_that_fails_is_run_again() {
    let folder = Folder::new("again");
    let script =
        folder.script("echo >> FOLDER/runs; echo not yet; test $(wc -l < FOLDER/runs) = 2");
    let text = format!("[[hook]]\nname = \"h\"\ncommand = [\"{script}\"]\n");
    let (hooks, config, cancel) = hooks(&text);
    hooks.tell(&down("web/b1"), &config);
    wait_for("it failed", || only(&hooks).trouble.is_some()).await;
    let trouble = only(&hooks).trouble;
    assert_eq!(trouble.as_deref(), Some("exit code 1: not yet"));
    wait_for("it is told", || only(&hooks).sent == 1).await;
    assert_eq!((only(&hooks).trouble, only(&hooks).failed), (None, 0));
    assert_eq!(read(&folder.0.join("runs")), "\n\n");
    cancel.cancel();
    hooks.ended().await.unwrap();
}

#[tokio::test]
async fn whoever_tells_does_not_wait_for_a_hook_that_hangs_and_it_is_killed_at_the_end() {
    let folder = Folder::new("hang");
    let script = folder.script("echo $$ > FOLDER/pid; sleep 1000");
    let text = format!(
        "[[hook]]\nname = \"h\"\ncommand = [\"{script}\"]\ntimeout = \"5m\"\nqueue = 10\nrate = 6000\n"
    );
    let (hooks, config, cancel) = hooks(&text);
    hooks.tell(&down("web/b1"), &config);
    let pid = folder.0.join("pid");
    wait_for("it runs", || read(&pid).ends_with('\n')).await;
    let begun = Instant::now();
    for _ in 0..10_000 {
        hooks.tell(&down("web/b1"), &config);
    }
    // Some microseconds each; the hook takes minutes.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let status = only(&hooks);
    assert_eq!(
        (status.waiting, status.dropped, status.sent),
        (11, 9_990, 0)
    );
    cancel.cancel();
    hooks.ended().await.unwrap();
    let stat = format!("/proc/{}/stat", read(&pid).trim());
    wait_for("it is killed", || {
        let stat = read(Path::new(&stat));
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

#[tokio::test]
async fn a_command_is_killed_at_the_timeout_and_given_up() {
    let text = "[[hook]]\nname = \"h\"\ncommand = [\"/bin/sleep\", \"1000\"]\ntimeout = \"2s\"\nretries = 0\n";
    let (hooks, config, cancel) = hooks(text);
    hooks.tell(&down("web/b1"), &config);
    wait_for("it failed", || only(&hooks).failed == 1).await;
    let trouble = only(&hooks).trouble.unwrap();
    assert_eq!(trouble, "command: timed out after 2000 ms");
    cancel.cancel();
    hooks.ended().await.unwrap();
}

/// Answers one request with these bytes, and gives the request.
async fn answer(listener: &TcpListener, with: &[u8]) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        let read = stream.read_buf(&mut request).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
    }
    stream.write_all(with).await.unwrap();
    String::from_utf8(request).unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_webhook_is_a_post_with_json_and_follows_no_redirect() {
    let ((server, at), (other, elsewhere)) = (listen().await, listen().await);
    let text = format!(
        "[[hook]]\nname = \"h\"\nurl = \"http://localhost:{}/in?key=s3cret\"\nretries = 1\n",
        at.port()
    );
    let (hooks, config, cancel) = hooks(&text);
    hooks.tell(&down("web/b1"), &config);
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    // `localhost` may be ::1 first; then the first attempt is refused, and the second one comes here.
    let first = answer(&server, redirect.as_bytes()).await;
    assert!(
        first.starts_with("POST /in?key=s3cret HTTP/1.1\r\n"),
        "{first}"
    );
    let (head, body) = first.split_once("\r\n\r\n").unwrap();
    let fields: BTreeMap<String, &str> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    assert_eq!(fields["content-type"], "application/json");
    assert_eq!(fields["content-length"], body.len().to_string());
    assert_eq!(fields["host"], format!("localhost:{}", at.port()));
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["event"], "health");
    wait_for("a redirect is a failure", || only(&hooks).trouble.is_some()).await;
    let trouble = only(&hooks).trouble.unwrap();
    assert_eq!(
        trouble,
        "status 307, expected 200-299 (redirects are not followed)"
    );
    assert!(!only(&hooks).call.contains("s3cret"));
    cancel.cancel();
    hooks.ended().await.unwrap();
    let contacted = tokio::time::timeout(Duration::from_millis(50), other.accept()).await;
    assert!(contacted.is_err(), "the other server was contacted");
}

#[tokio::test]
async fn a_webhook_that_answers_with_success_is_told_once() {
    let (server, at) = listen().await;
    let text = format!("[[hook]]\nname = \"h\"\nurl = \"http://{at}/\"\n");
    let (hooks, config, cancel) = hooks(&text);
    hooks.tell(&down("web/b1"), &config);
    let done = "HTTP/1.1 204 No Content\r\n\r\n";
    answer(&server, done.as_bytes()).await;
    wait_for("it is told", || only(&hooks).sent == 1).await;
    let status = only(&hooks);
    assert_eq!(
        (status.waiting, status.failed, status.trouble),
        (0, 0, None)
    );
    cancel.cancel();
    hooks.ended().await.unwrap();
}

#[tokio::test]
async fn a_changed_hook_keeps_its_events_and_counts() {
    let broken = "[[hook]]\nname = \"h\"\ncommand = [\"/nonexistent\"]\nretries = 10\n";
    let (mut hooks, config, cancel) = hooks(broken);
    hooks.tell(&down("web/b1"), &config);
    wait_for("it failed", || only(&hooks).trouble.is_some()).await;
    let trouble = only(&hooks).trouble.unwrap();
    assert!(trouble.contains("there is no such file"), "{trouble}");
    let mended = super::config("[[hook]]\nname = \"h\"\ncommand = [\"/bin/true\"]\nretries = 10\n");
    hooks.configure(&mended.hooks);
    wait_for("it is told after all", || only(&hooks).sent == 1).await;
    hooks.configure(&BTreeMap::new());
    assert_eq!(hooks.status(), []);
    hooks.tell(&down("web/b1"), &config);
    cancel.cancel();
    hooks.ended().await.unwrap();
}

#[tokio::test]
async fn a_webhook_over_tls_tells_only_a_server_whose_certificate_is_right() {
    let ca = Authority::new();
    let answered = |mut stream: TlsStream<TcpStream>| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"}") && stream.read_buf(&mut request).await.unwrap() > 0 {}
        let done = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(done).await.unwrap();
        let _closed_by_client = stream.shutdown().await;
    };
    let right = serve(
        ca.server(&["localhost"], 30, &["http/1.1"], false),
        answered,
    )
    .await;
    let wrong = serve(
        ca.server(&["example.org"], 30, &["http/1.1"], false),
        answered,
    )
    .await;
    let hook = |name: &str, at: SocketAddr| {
        format!(
            "[[hook]]\nname = \"{name}\"\nurl = \"https://localhost:{}/\"\nca = \"{}\"\n",
            at.port(),
            ca.file.display()
        )
    };
    let text = format!("{}{}", hook("right", right), hook("wrong", wrong));
    let (hooks, config, cancel) = hooks(&text);
    hooks.tell(&down("web/b1"), &config);
    let of = |name: &str| hooks.status().into_iter().find(|h| h.name == name).unwrap();
    wait_for("one is told", || of("right").sent == 1).await;
    let refused = || {
        let trouble = of("wrong").trouble.unwrap_or_default();
        trouble.starts_with("tls: invalid peer certificate")
    };
    wait_for("the other is not", refused).await;
    assert_eq!(of("wrong").sent, 0);
    cancel.cancel();
    hooks.ended().await.unwrap();
}
