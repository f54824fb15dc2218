//! The `fairlead` binary: reads the command line and runs what it asks for.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use lb_userspace::cli::{Cli, Command, act, out, why};
use lb_userspace::config::check;
use lb_userspace::privileges::confine::confine;
use lb_userspace::{daemon, decap, logging};

fn main() -> ExitCode {
    abort_on_panic();
    let cli = Cli::parse();
    let is_daemon = matches!(cli.command, Command::Run(_));
    match run(cli) {
        Ok(code) => code,
        Err(error) if !is_daemon && out::is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// A daemon that lost one of its tasks must not go on half alive: forwarding does not need it, and whoever
/// started it starts it again.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// The error and its causes. Many errors quote their cause in the middle, before the cure; such a
/// cause is not told again.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let socket = cli.socket;
    match cli.command {
        Command::Run(args) => {
            logging::init(args.log_format, &args.log)?;
            // Before there are other threads: each has what its maker had.
            let confined = confine().context("start the thread that prepares the start")?;
            let runtime = runtime(2)?;
            let ended = runtime.block_on(daemon::run(args, confined));
            // Nothing that still runs may hold up the next start.
            runtime.shutdown_timeout(Duration::from_secs(1));
            ended
        }
        Command::Check(args) => Ok(check::run(&args.into(), &mut std::io::stdout())?.into()),
        Command::Decap(args) => decap::run::run(&args),
        Command::Unload(args) => daemon::unload::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fairlead", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(args) => runtime(1)?.block_on(act::status(&socket, &args)),
        Command::Why(args) => runtime(1)?.block_on(why::why(&socket, &args)),
        Command::Drain(args) => runtime(1)?.block_on(act::drain(&socket, args)),
        Command::Enable(args) => runtime(1)?.block_on(act::enable(&socket, args.backend)),
        Command::Disable(args) => runtime(1)?.block_on(act::disable(&socket, args)),
        Command::Failback(args) => runtime(1)?.block_on(act::failback(&socket, args)),
        Command::Reload(args) => runtime(1)?.block_on(act::reload(&socket, args.allow_shrink)),
    }
}

fn runtime(workers: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
}
