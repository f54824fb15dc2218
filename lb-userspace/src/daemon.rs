//! The daemon: starts everything in order and ends it. The only place where tasks are started; each
//! ends through one cancellation token and is awaited.
//!
//! Stopping it leaves the data plane as it is. See [`owner`] for the loop that owns the state.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::announce::Claims;
use crate::announce::claimer::{self, Claimer};
use crate::api;
use crate::cli::Run;
use crate::dataplane::bpf::{self, Bpf, Opening, Settings};
use crate::health::descriptors;
use crate::health::runner::{self, Runner};
use crate::hooks::runner::Hooks;
use crate::metrics;
use crate::model::Config;
use crate::neigh::follower::Follower;
use crate::neigh::release;
use crate::privileges::confine::Confined;
use crate::reconcile::Reconciler;
use crate::saving::writer::Writer;
use crate::state::persistent::Persistent;
use crate::store::{self, disk};

mod answers;
mod attach;
mod departures;
mod durable;
mod interfaces;
mod loads;
mod losses;
mod orders;
mod owner;
mod passive;
mod probing;
mod record;
mod reload;
mod report;
mod saver;
mod seeds;
mod signals;
mod startup;
mod sweeper;
pub mod unload;

use owner::{Owner, Parts, Queues};
use reload::Reloads;
use saver::Saver;
use seeds::Seeds;

/// Events that may wait for the owner; more and the senders wait.
const EVENTS: usize = 4096;
/// Requests that may wait.
const REQUESTS: usize = 64;
/// How long tasks may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the record of claimed addresses is.
pub(crate) fn claims_file(state_dir: &Path) -> PathBuf {
    state_dir.join("claims.json")
}

/// Where the state is.
fn state_file(state_dir: &Path) -> PathBuf {
    state_dir.join("state.json")
}

/// Runs until SIGTERM or SIGINT.
///
/// `confined`: this thread keeps what the daemon needs, and the start is prepared by one that has more.
pub async fn run(args: Run, confined: Confined) -> anyhow::Result<ExitCode> {
    let signals = signals::Signals::take()?;
    let started = runner::now_ns();
    let chosen = startup::choose(&args.config, args.allow_shrink)?;
    if let Some(error) = &chosen.error {
        tracing::error!(
            "running the last good configuration, not {}: {error}",
            args.config.display()
        );
    }
    let (config, before) = (chosen.config, chosen.before);
    let daemon = config.daemon.clone();
    bpf::check_machine()?;
    if let Some(warning) = confined.report.warning() {
        tracing::warn!("{warning}");
    }
    let opened = {
        let (config, debug_log) = (config.clone(), args.log_packets);
        confined.preparer.run(move || open(&config, debug_log))?
    };
    let Opened {
        mut bpf,
        opening,
        seeds,
        persistent,
        claims,
        scraped,
    } = opened?;
    let claimed = claims.0.keys();
    let claimed = claimed
        .map(|claim| (claim.interface.clone(), claim.address))
        .collect();

    say(&opening);
    let packet_log = bpf.take_debug_log();
    let (mut reconciler, effects) =
        Reconciler::adopt(started, bpf, config.clone(), seeds.ring_key(), persistent)?;

    let cancel = CancellationToken::new();
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (requests, request_queue) = mpsc::channel(REQUESTS);
    let (reports, report_queue) = mpsc::channel(EVENTS);
    let timings = metrics::Timings::default();
    let mut tasks = tokio::task::JoinSet::new();

    let socket = api::server::listen(&daemon.run_dir.join("fairlead.sock"))?;
    tasks.spawn(api::server::serve(socket, requests.clone(), cancel.clone()));
    if let Some(listener) = scraped {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let serve =
            metrics::server::serve(listener, requests.clone(), timings.clone(), cancel.clone());
        tasks.spawn(serve);
    }
    if let Some(log) = packet_log {
        let cancel = cancel.clone();
        tasks.spawn(async move {
            cancel.run_until_cancelled(log.forward()).await;
        });
    }
    release_neighbours(before.as_ref(), &config);
    let follower = Follower::spawn(events.clone(), cancel.clone(), daemon.interfaces.clone())?;
    let reader = reconciler.dataplane().reader();
    let (writer, writer_ended) = saver::writer(reader, timings.clone())?;
    let store = store_of(writer.clone(), claims_file(&daemon.state_dir));
    let claimer = Claimer::spawn(reports, cancel.clone(), claims, store)?;
    let (saver, saves) = Saver::new(writer, &daemon.state_dir);
    let (reloads, loads) = Reloads::new();
    let (suspects, looking) = passive::Suspects::new();
    let (look, looks) = mpsc::channel(1);
    let watch = reconciler.dataplane().reader();
    tasks.spawn(passive::watch(watch, looking, look, cancel.clone()));
    match descriptors::raise() {
        Ok((found, hard)) => tracing::debug!(found, hard, "files that may be open at once"),
        Err(error) => tracing::warn!(
            "raise the limit of open files: {error}; fewer checks may be under way at once"
        ),
    }
    let at_once = descriptors::concurrency(descriptors::limit());
    let runner = Runner::spawn(events, cancel.clone(), at_once, seeds.id);
    let paths = reconciler.dataplane().reader();
    runner.set_paths(move |id| paths.path(id, runner::now_ns()));

    let parts = Parts {
        reconciler,
        runner: &runner,
        follower: &follower,
        claimer: &claimer,
        timings,
        config_file: args.config,
        config_error: chosen.error,
        mode_before: before.as_ref().map(|before| before.daemon.xdp_mode),
        claimed,
        adopted: matches!(opening, Opening::Adopted { .. }),
        started,
    };
    let hooks = Hooks::spawn(cancel.clone());
    let mut owner = Owner::new(parts, saver, reloads, hooks, suspects);
    owner.begin(effects)?;
    let queues = Queues {
        events: event_queue,
        requests: request_queue,
        reports: report_queue,
        signals,
        saves,
        loads,
        looks,
    };
    let result = tokio::select! {
        result = owner.run(queues) => result,
        // The control socket, metrics and the packet log end only when they are told to.
        Some(_) = tasks.join_next() => {
            Err(anyhow::anyhow!("a server of this daemon ended: see the log above; forwarding goes on as it is, start the daemon again"))
        }
    };

    cancel.cancel();
    // With it goes its way to the thread that writes files, which ends when all is written.
    let hooks = owner.end();
    let ended = async {
        if let Err(error) = hooks.ended().await {
            tracing::error!("hooks: {error}");
        }
        if let Err(error) = runner.ended().await {
            tracing::error!("the prober: {error}");
        }
        for outcome in [follower.ended().await, claimer.ended().await] {
            if let Err(error) = outcome {
                tracing::error!("{error}");
            }
        }
        while tasks.join_next().await.is_some() {}
        // Dropped when the thread ended: that is what was waited for.
        let _ = writer_ended.await;
    };
    if tokio::time::timeout(PATIENCE, ended).await.is_err() {
        tracing::warn!("some tasks did not end within {PATIENCE:?}");
    }
    result?;
    tracing::info!("stopped; forwarding goes on ('fairlead unload' ends it)");
    Ok(ExitCode::SUCCESS)
}

/// What was made by [`open`].
struct Opened {
    bpf: Bpf,
    opening: Opening,
    seeds: Seeds,
    persistent: Option<Persistent>,
    claims: Claims,
    /// Where metrics are scraped.
    scraped: Option<TcpListener>,
}

/// What takes more than the daemon keeps: to make directories in those of another user, to mount a bpffs, to look at process 1, and to
/// listen on a port below 1024.
fn open(config: &Config, debug_log: bool) -> anyhow::Result<Opened> {
    let daemon = &config.daemon;
    disk::make_dir(&daemon.state_dir)?;
    disk::make_dir(&daemon.run_dir)?;
    let seeds = seeds::load_or_make(&daemon.state_dir.join("seeds.json"))?;
    let persistent = disk::read(&state_file(&daemon.state_dir))?;
    let claims = disk::read(&claims_file(&daemon.state_dir))?.unwrap_or_default();
    let (bpf, opening) = Bpf::open(&Settings {
        bpffs: daemon.bpffs.clone(),
        run_dir: daemon.run_dir.clone(),
        limits: config.limits,
        flow_key: seeds.flow_key(),
        seed_id: seeds.id,
        debug_log,
        object: crate::embedded::OBJECT,
    })?;
    warn_of_private_mounts(&daemon.bpffs);
    let scraped = daemon.metrics.map(metrics::server::listen).transpose()?;
    Ok(Opened {
        bpf,
        opening,
        seeds,
        persistent,
        claims,
        scraped,
    })
}

/// Neighbours of backends that were removed while no daemon ran.
fn release_neighbours(before: Option<&Config>, config: &Config) {
    let stay: BTreeSet<IpAddr> = config.keyed_backends().map(|(_, b)| b.address).collect();
    let before = before.into_iter().flat_map(Config::keyed_backends);
    let before: BTreeSet<IpAddr> = before.map(|(_, b)| b.address).collect();
    let gone: Vec<IpAddr> = before.difference(&stay).copied().collect();
    let what = "have the neighbours of removed backends forgotten";
    match release::release(&gone) {
        Ok(done) if done.refused.is_empty() => {}
        Ok(done) => tracing::warn!("{what}: {}", done.refused.join("; ")),
        Err(error) => tracing::warn!(%error, "{what}"),
    }
}

/// How the claimer's record is stored.
fn store_of(writer: Writer, path: PathBuf) -> claimer::Store {
    Box::new(move |claims: &Claims| {
        let claims = claims.clone();
        let (told, ended) = oneshot::channel();
        let content = Box::new(move || store::encode(&claims));
        // The claimer may be gone.
        let told = Box::new(move |result| drop(told.send(result)));
        writer.write(&path, content, told);
        Box::pin(async move {
            match ended.await {
                Ok(result) => result.map_err(std::io::Error::other),
                Err(_) => Err(std::io::Error::other(
                    "the thread that writes files has ended",
                )),
            }
        })
    })
}

/// Pins on a bpffs that only this process can see go with it, and forwarding with them.
fn warn_of_private_mounts(bpffs: &Path) {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    // Who may not look at process 1 cannot tell.
    if namespace("1").is_some_and(|first| Some(first) != namespace("self")) {
        tracing::warn!(
            "this daemon is in a mount namespace of its own: if {} is mounted only there, forwarding ends with the last process in it (mount a bpffs there from outside, mode 0700)",
            bpffs.display()
        );
    }
}

fn say(opening: &Opening) {
    match opening {
        Opening::Created => tracing::info!("data plane created"),
        Opening::Recreated => {
            tracing::warn!("a half-made data plane was found, attached to nothing, and made again");
        }
        Opening::Adopted {
            owner_epoch,
            same_program,
            differences,
        } => {
            let program = if *same_program {
                "kept"
            } else {
                "to be replaced"
            };
            tracing::info!(owner_epoch, program, "data plane adopted");
            for difference in differences {
                tracing::warn!(
                    "limit not applied: {difference} (live maps keep their size until 'fairlead unload')"
                );
            }
        }
    }
}
