//! `fairlead-lab`: Fairlead on a network of its own, made of namespaces.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_tests::server::{self, Server};
use lb_tests::topology::{self, Shape, Topology};

/// Fairlead in a lab: one client, one balancer, three backends, real traffic.
#[derive(Parser)]
#[command(name = "fairlead-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs one backend's server in the calling network namespace (used by the lab itself).
    Server {
        /// What it answers as its name.
        #[arg(long)]
        name: String,
        /// An address for UDP echo; may be given several times.
        #[arg(long)]
        udp: Vec<IpAddr>,
    },
    /// Builds the network with its servers, without a balancer, and keeps it until Ctrl-C: to look
    /// around with `ip netns exec`.
    Network,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Some(Verb::Server { name, udp }) => server::serve(&server::Config { name, udp }),
        Some(Verb::Network) => network(),
        None => anyhow::bail!("the lab itself is not here yet"),
    }
}

fn network() -> Result<()> {
    topology::take_over_interrupts();
    let topology = Topology::build(Shape::default())?;
    let _servers = Server::processes(&topology)?;
    let prefix = topology.prefix();
    println!("{prefix}\ntry: ip netns exec {prefix}-client curl http://10.10.1.1:8080/");
    while !topology::interrupted() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
