//! What an operator meets: metrics, the control socket, the command line, refusals, the end.

mod command;
mod end;
mod hooks;
pub(crate) mod metrics;
mod privileges;
mod refusal;
mod restarts;
mod socket;
mod why;

use std::process::{Command, Output};

use lb_tests::topology::Topology;

/// Runs a program in a host's namespace to its end. It must be one that ends by itself.
#[track_caller]
fn run(topology: &Topology, host: &str, command: &[&str]) -> Output {
    let output = topology.run_in(host, || {
        Command::new(command[0]).args(&command[1..]).output()
    });
    output.unwrap_or_else(|e| panic!("run {command:?}: {e} (is it installed?)"))
}

/// Its standard output; it must succeed.
#[track_caller]
pub(crate) fn text(topology: &Topology, host: &str, command: &[&str]) -> String {
    let output = run(topology, host, command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
