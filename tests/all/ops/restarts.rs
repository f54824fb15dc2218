//! A hook that has a failed server started again: it comes back without anybody else's help.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::server::{Server, lab_binary};
use lb_tests::topology::{Process, Topology};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::stage::{SHAPES, Stage, wait_until};

const LONG: Duration = Duration::from_secs(30);

/// What an operator would write: reads the event, and asks whoever looks after the server to start it (`systemctl restart` does the like).
fn script(orders: &Path) -> String {
    let orders = orders.display();
    format!(
        r#"#!/bin/sh
event=$(cat)
test -p {orders} || exit 0
case $event in
*'"backend":"web4/b1"'*) ;;
*) exit 0 ;;
esac
case $event in
*'"to":"down"'*) ;;
*) exit 0 ;;
esac
echo start > {orders} && rm {orders}
"#
    )
}

/// Looks after the server of b1, on that host: starts it when it is told to.
fn manager(topology: &Topology, orders: &Path) -> Process {
    mkfifo(orders, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let mut command = Command::new("/bin/sh");
    let script = r#"read order < "$1" && exec "$2" server --name b1"#;
    command.args(["-c", script, "manager"]);
    command.arg(orders).arg(lab_binary().unwrap());
    command.stdin(Stdio::null());
    topology.spawn_in("b1", command).unwrap()
}

#[test]
fn a_hook_has_a_failed_server_started_again_and_it_gets_flows() {
    let (mut orders, mut started) = (PathBuf::new(), None);
    let mut stage = Stage::with_topology(SHAPES[0], Server::processes, |mut config, topology| {
        let folder = topology.directory();
        let hook = folder.join("restart");
        orders = folder.join("orders");
        started = Some(manager(topology, &orders));
        fs::write(&hook, script(&orders)).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        config.tables += &format!(
            "[[hook]]\nname = \"restart\"\ncommand = [\"{}\"]\n",
            hook.display()
        );
        config
    });
    let answered = |stage: &Stage| {
        let report = stage.storm(&["web4"], 300);
        report.assert_clean(300);
        report.backends().into_keys().collect::<Vec<u8>>()
    };
    assert_eq!(answered(&stage), [1, 2, 3]);
    assert!(orders.exists(), "nobody failed yet");
    stage.servers[0].kill();
    wait_until("the hook has had it started", LONG, || !orders.exists());
    stage.wait_for_health("b1", "up");
    assert_eq!(answered(&stage), [1, 2, 3]);
    let status = stage.daemon.status().unwrap();
    let hook = status.hooks.iter().find(|hook| hook.name == "restart");
    assert_eq!(hook.unwrap().failed, 0, "{status:?}");
    stage.end();
    drop(started);
}
