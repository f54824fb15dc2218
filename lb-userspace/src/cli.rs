//! The command line: what can be typed. `cli/*.rs` does it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::check;
use crate::config::render::Colour;
use crate::model::{BackendKey, Name, Prefix, XdpMode};
use crate::why::Whom;

pub mod act;
pub mod columns;
pub mod out;
pub mod table;
pub mod watch;
pub mod why;

/// Layer-4 load balancer: an XDP data plane with health checks, drain and metrics.
#[derive(Parser, Debug)]
#[command(
    name = "fairlead",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Control socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "FAIRLEAD_SOCKET")]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the socket is when the configuration does not say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/fairlead/fairlead.sock";

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the daemon in the foreground. Stopping it leaves forwarding as it is: see 'unload'.
    Run(Run),
    /// Check a configuration file, without root and without a daemon.
    Check(Check),
    /// Show services, backends, health and counters.
    Status(Status),
    /// Show why a backend gets new flows or does not, and what it would take to come back.
    Why(Why),
    /// Let a backend finish its flows and take no new ones.
    Drain(Drain),
    /// Let a backend take flows again.
    Enable(Target),
    /// Take a backend out at once: its flows move to other backends.
    Disable(Disable),
    /// Let new flows of a service with `failback = "stay"` return to its first tier.
    Failback(Failback),
    /// Apply the changed configuration file. A file with errors changes nothing.
    Reload(Reload),
    /// Take the data plane away: detach from all interfaces and remove all maps. The service stops.
    Unload(Unload),
    /// On a backend of forwarding 'ipip' or 'gue': take packets out of the balancers' tunnels.
    Decap(Decap),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The configuration file.
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "/etc/fairlead/fairlead.toml"
    )]
    pub config: PathBuf,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to log: a level, or directives such as 'info,lb_userspace::health=debug'.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "FAIRLEAD_LOG"
    )]
    pub log: String,
    /// Accept a configuration that drops nine tenths or more of what the last one served.
    #[arg(long)]
    pub allow_shrink: bool,
    /// Log what the data plane does with each packet (slow; for debugging only).
    #[arg(long)]
    pub log_packets: bool,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct Check {
    /// The configuration file.
    #[arg(value_name = "FILE", required_unless_present = "explain")]
    pub file: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Explain an error code, such as FL0012, instead.
    #[arg(long, value_name = "CODE")]
    pub explain: Option<String>,
}

impl From<Check> for check::CheckArgs {
    fn from(args: Check) -> Self {
        let colour = match watch::colour() {
            true => Colour::Ansi,
            false => Colour::Plain,
        };
        match (args.explain, args.file) {
            (Some(code), _) => Self::Explain { code },
            (None, path) => Self::File {
                path: path.unwrap_or_default(),
                json: args.json,
                colour,
            },
        }
    }
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Show it again every second until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `why`.
#[derive(Args, Debug)]
pub struct Why {
    /// The backend: SERVICE/BACKEND, its name (in all services), or its address.
    #[arg(value_name = "BACKEND")]
    pub backend: Whom,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A backend.
#[derive(Args, Debug)]
pub struct Target {
    /// The backend, as SERVICE/BACKEND.
    #[arg(value_name = "BACKEND")]
    pub backend: BackendKey,
}

/// Arguments of `drain`.
#[derive(Args, Debug)]
pub struct Drain {
    /// The backend, as SERVICE/BACKEND.
    #[arg(value_name = "BACKEND")]
    pub backend: BackendKey,
    /// After this time the service's drain-policy acts on the flows that are left.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Show how many flows are left until none is. Exit status 0: drained; 124: the deadline passed first.
    #[arg(long)]
    pub wait: bool,
    /// Drain even the last backend of a service that can take flows.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `failback`.
#[derive(Args, Debug)]
pub struct Failback {
    /// The service.
    #[arg(value_name = "SERVICE", value_parser = service_name)]
    pub service: Name,
}

fn service_name(text: &str) -> Result<Name, String> {
    Name::new(text).ok_or_else(|| "a service's name has 1 to 63 of a-z, 0-9 and '-'".to_owned())
}

/// Arguments of `disable`.
#[derive(Args, Debug)]
pub struct Disable {
    /// The backend, as SERVICE/BACKEND.
    #[arg(value_name = "BACKEND")]
    pub backend: BackendKey,
    /// Disable even the last backend of a service that can take flows.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `reload`.
#[derive(Args, Debug)]
pub struct Reload {
    /// Accept a configuration that drops nine tenths or more of what the last one served.
    #[arg(long)]
    pub allow_shrink: bool,
}

/// Arguments of `unload`.
#[derive(Args, Debug)]
pub struct Unload {
    /// The configuration that the data plane was started with: tells where its pins and claims are.
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "/etc/fairlead/fairlead.toml"
    )]
    pub config: PathBuf,
    /// Where the pins are; overrides the configuration, which is then not read.
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// With --bpffs: the run directory of the daemon, which must not be running.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/fairlead",
        requires = "bpffs"
    )]
    pub run_dir: PathBuf,
    /// The map layout to remove, if it is not this version's: the N of a directory 'vN' among the pins.
    #[arg(long, value_name = "N")]
    pub layout: Option<u32>,
}

/// Arguments of `decap`.
#[derive(Args, Debug)]
#[command(
    long_about = "On a backend of forwarding 'ipip' or 'gue': take packets out of the balancers' tunnels.\n\n\
                  A program in the interface's XDP hook takes the outer headers off packets that come from --source, are \
                  for a --vip, whichever families are inside and out, and carry anything but a tunnel (IPv4, IPv6, GRE) from somebody else than this machine; it drops other tunnels to this \
                  machine and leaves everything else alone. Its link is pinned: it works on when this command has ended, \
                  and until --detach or a reboot. Give the command again to change the rules, or when this \
                  machine's addresses have changed."
)]
pub struct Decap {
    /// The interface that the balancers' packets come in by.
    #[arg(long, value_name = "INTERFACE")]
    pub interface: String,
    /// The balancers' `tunnel-source`: a prefix or an address; may be repeated.
    #[arg(long, value_name = "PREFIX", required_unless_present_any = ["detach", "show"])]
    pub source: Vec<Prefix>,
    /// A VIP that this machine serves, or a prefix of them; may be repeated.
    #[arg(long, value_name = "PREFIX", required_unless_present_any = ["detach", "show"])]
    pub vip: Vec<Prefix>,
    /// The service's `gue-port`: take packets out of UDP datagrams to this port too. Without it, all UDP is left alone.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub gue_port: Option<u16>,
    /// In the driver, in the network stack, or the second where the first is refused.
    #[arg(long, value_enum, default_value_t = Mode::Native)]
    pub xdp_mode: Mode,
    /// Show state and counters. Exit status 1: it is not attached.
    #[arg(long, conflicts_with_all = ["source", "vip", "gue_port", "detach"])]
    pub show: bool,
    /// With --show: print one JSON object.
    #[arg(long, requires = "show")]
    pub json: bool,
    /// Take it away.
    #[arg(long, conflicts_with_all = ["source", "vip", "gue_port"])]
    pub detach: bool,
    /// Where its pins are.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/fairlead-decap")]
    pub bpffs: PathBuf,
}

/// As [`XdpMode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In the driver: fast.
    Native,
    /// In the network stack: slow, works with every driver.
    Generic,
    /// In the driver, or else in the stack.
    NativeOrGeneric,
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
            Mode::NativeOrGeneric => Self::NativeOrGeneric,
        }
    }
}
