//! A hook that starts a failed server again: it comes back without anybody else's help.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_tests::server::Server;
use lb_tests::topology::Topology;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::{SHAPES, Stage, wait_until};

const LONG: Duration = Duration::from_secs(30);

/// What an operator would write: reads the event, and starts the server where it was, in a process group of its own, as that of the
/// hook ends with it.
fn script(topology: &Topology, pid: &Path) -> String {
    let lab = std::env::var("FAIRLEAD_LAB_BIN").expect("FAIRLEAD_LAB_BIN names the lab");
    let network = topology.namespace("b1").name().to_owned();
    let pid = pid.display();
    format!(
        r#"#!/bin/sh
event=$(cat)
test -e {pid} && exit 0
case $event in
*'"backend":"web4/b1"'*) ;;
*) exit 0 ;;
esac
case $event in
*'"to":"down"'*) ;;
*) exit 0 ;;
esac
setsid sh -c 'echo $$ > {pid}.new && mv {pid}.new {pid} && exec nsenter --net=/run/netns/{network} {lab} server --name b1' \
    < /dev/null > /dev/null 2>&1 &
until test -e {pid}; do sleep 0.05; done
"#
    )
}

/// The server that the hook started, which nobody else ends.
struct Started {
    file: PathBuf,
    pid: Cell<Option<Pid>>,
}

impl Started {
    /// Its process, if there is one.
    fn look(&self) -> Option<Pid> {
        if self.pid.get().is_none() {
            let text = fs::read_to_string(&self.file).ok()?;
            self.pid
                .set(Some(Pid::from_raw(text.trim().parse().unwrap())));
        }
        self.pid.get()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(pid) = self.look() {
            // It may have ended by itself.
            let _ended = kill(pid, Signal::SIGKILL);
        }
    }
}

#[test]
fn a_hook_starts_a_failed_server_again_and_it_gets_flows() {
    let mut started = None;
    let mut stage = Stage::with_topology(SHAPES[0], Server::processes, |mut config, topology| {
        let folder = topology.directory();
        let (pid, hook) = (folder.join("restarted"), folder.join("restart"));
        fs::write(&hook, script(topology, &pid)).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        started = Some(Started {
            file: pid,
            pid: Cell::new(None),
        });
        config.tables += &format!(
            "[[hook]]\nname = \"restart\"\ncommand = [\"{}\"]\n",
            hook.display()
        );
        config
    });
    let started = started.unwrap();
    let answered = |stage: &Stage| {
        let report = stage.storm(&["web4"], 300);
        report.assert_clean(300);
        report.backends().into_keys().collect::<Vec<u8>>()
    };
    assert_eq!(answered(&stage), [1, 2, 3]);
    assert_eq!(started.look(), None, "nobody failed yet");
    stage.servers[0].kill();
    wait_until("the hook has started it", LONG, || started.look().is_some());
    stage.wait_for_health("b1", "up");
    assert_eq!(answered(&stage), [1, 2, 3]);
    let status = stage.daemon.status().unwrap();
    let hook = status.hooks.iter().find(|hook| hook.name == "restart");
    assert_eq!(hook.unwrap().failed, 0, "{status:?}");
    stage.end();
    drop(started);
}
