//! `fairlead-lab`: Fairlead on a network of its own, made of namespaces.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use lb_tests::server::{self, Server};
use lb_tests::topology::{self, Arms, Forwarding, Shape, Topology};
use lb_tests::{decap, lab};

/// Fairlead in a lab: a client, a balancer and backends in network namespaces, with real traffic.
///
/// All backends serve; after a third of the time b1 loses power; after two thirds b2 is drained;
/// in the middle of the last third both return. Needs root. Ctrl-C removes everything.
#[derive(Parser)]
#[command(name = "fairlead-lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    lab: LabArguments,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs one backend's server in the calling network namespace (used by the lab itself).
    #[command(hide = true)]
    Server {
        /// What it answers as its name.
        #[arg(long)]
        name: String,
        /// An address for UDP echo; may be given several times.
        #[arg(long)]
        udp: Vec<IpAddr>,
        /// TCP connections that each port holds until they are accepted.
        #[arg(long, default_value_t = server::Config::BACKLOG)]
        backlog: i32,
    },
    /// Builds the network with its servers, without a balancer, and keeps it until Ctrl-C: to look
    /// around with `ip netns exec`.
    Network,
}

#[derive(clap::Args)]
struct LabArguments {
    /// End after this time under load, such as 20s, and judge [default: 30s of events, then until
    /// Ctrl-C].
    #[arg(long, value_parser = seconds)]
    duration: Option<Duration>,
    /// Print one JSON object as the last line of standard output, and all else on standard error.
    #[arg(long)]
    json: bool,
    /// HTTP requests a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: u32,
    /// Backends.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=50))]
    backends: u8,
    /// How packets reach the backends.
    #[arg(long, value_enum, default_value_t = ForwardingName::Dnat)]
    forwarding: ForwardingName,
    /// Interfaces of the balancer.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    arms: u8,
}

#[derive(Clone, Copy, ValueEnum)]
enum ForwardingName {
    /// Address and port rewritten, replies through the balancer.
    Dnat,
    /// Only MAC addresses rewritten, replies straight to the client.
    L2dsr,
    /// In another packet to the backend, which takes it out; replies straight to the client.
    Ipip,
    /// The same, with UDP in between.
    Gue,
    /// Both ends rewritten, replies through the balancer though no route of the backends leads there.
    Fullnat,
}

/// A time such as `20s`, `2m` or `500ms`.
fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a time such as 20s"))?;
    let duration = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "s" | "" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        unit => return Err(format!("{unit:?} is not one of ms, s, m")),
    };
    if !(Duration::from_secs(6)..=Duration::from_secs(3600)).contains(&duration) {
        return Err("the lab needs 6 seconds to an hour".to_owned());
    }
    Ok(duration)
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("fairlead-lab: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Some(Verb::Server { name, udp, backlog }) => {
            server::serve(&server::Config { name, udp, backlog })?
        }
        Some(Verb::Network) => network(arguments.lab.shape())?,
        None => {
            let LabArguments {
                duration,
                json,
                rate,
                ..
            } = arguments.lab;
            let shape = arguments.lab.shape();
            return lab::run(&lab::Options {
                shape,
                duration,
                json,
                rate,
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl LabArguments {
    fn shape(&self) -> Shape {
        let arms = if self.arms == 1 { Arms::One } else { Arms::Two };
        let forwarding = match self.forwarding {
            ForwardingName::Dnat => Forwarding::Dnat,
            ForwardingName::L2dsr => Forwarding::L2dsr,
            ForwardingName::Ipip => Forwarding::Ipip,
            ForwardingName::Gue => Forwarding::Gue,
            ForwardingName::Fullnat => Forwarding::Fullnat,
        };
        Shape {
            backends: self.backends,
            arms,
            forwarding,
        }
    }
}

fn network(shape: Shape) -> Result<()> {
    topology::take_over_interrupts();
    let topology = Topology::build(shape)?;
    decap::attach_if_tunnelled(&topology)?;
    let _servers = Server::processes(&topology)?;
    let prefix = topology.prefix();
    println!("{prefix}\ntry: ip netns exec {prefix}-client curl http://10.10.1.1:8080/");
    while !topology::interrupted() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
