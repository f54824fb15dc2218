//! `fairlead unload`: the one command that takes the data plane away.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::startup::last_good;
use crate::announce::Claims;
use crate::announce::claimer;
use crate::cli::Unload;
use crate::config::file;
use crate::dataplane::bpf;
use crate::neigh::release;
use crate::store::disk;

/// Runs it.
pub fn run(args: &Unload) -> anyhow::Result<ExitCode> {
    let Places {
        bpffs,
        run_dir,
        state_dir,
        backends,
        interfaces,
    } = places(args)?;
    let removed = bpf::unload(&bpffs, run_dir.as_deref(), args.layout)?;
    match removed {
        true => println!("data plane removed from {}", bpffs.display()),
        false => println!("no data plane at {}", bpffs.display()),
    }
    // Claims first: an address that stays is answered by the kernel now. Neither waits for the other's luck.
    let mut problems = Vec::new();
    if let Some(dir) = state_dir {
        match release_claims(&super::claims_file(&dir)) {
            Ok(reasons) if reasons.is_empty() => {}
            Ok(reasons) => problems.push(format!(
                "addresses that could not be released: {}",
                reasons.join("; ")
            )),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    for interface in interfaces {
        if let Err(error) = bpf::probe::clear(&interface) {
            problems.push(error.to_string());
        }
    }
    let backends: Vec<IpAddr> = backends.into_iter().collect();
    match release::release(&backends) {
        Ok(done) => {
            if done.released > 0 {
                println!(
                    "neighbours that the kernel no longer keeps resolved: {}",
                    done.released
                );
            }
            if !done.refused.is_empty() {
                problems.push(format!(
                    "neighbours that the kernel keeps resolved ('ip neighbour del' ends that): {}",
                    done.refused.join("; ")
                ));
            }
        }
        Err(error) => problems.push(format!("have the backends' neighbours forgotten: {error}")),
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Why some addresses stay; the record keeps them.
fn release_claims(record: &Path) -> anyhow::Result<Vec<String>> {
    let Some(claims) = disk::read::<Claims>(record)? else {
        return Ok(Vec::new());
    };
    let count = claims.0.len();
    let (left, reasons) = claimer::release_all(claims).context("release claimed addresses")?;
    disk::write(record, &left)?;
    println!(
        "claimed addresses released: {}",
        count.saturating_sub(left.0.len())
    );
    Ok(reasons)
}

/// What there is to take away, and where.
struct Places {
    bpffs: PathBuf,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    /// Addresses of backends, in the file and in the last good one.
    backends: BTreeSet<IpAddr>,
    /// Where a killed daemon may have left its filters for checks.
    interfaces: BTreeSet<String>,
}

/// Where pins, lock and state are. A configuration with errors must not keep anybody from
/// unloading, so `--bpffs` does without one.
fn places(args: &Unload) -> anyhow::Result<Places> {
    if let Some(bpffs) = &args.bpffs {
        let run_dir = args.run_dir.exists().then(|| args.run_dir.clone());
        return Ok(Places {
            bpffs: bpffs.clone(),
            run_dir,
            state_dir: None,
            backends: BTreeSet::new(),
            interfaces: BTreeSet::new(),
        });
    }
    let loaded = file::load(&args.config).with_context(|| {
        format!(
            "read {} to find the pins (or name their directory: 'fairlead unload --bpffs DIR')",
            args.config.display()
        )
    })?;
    let daemon = loaded.config.daemon.clone();
    let last = file::load(&last_good(&daemon.state_dir)).ok();
    let configs: Vec<_> = [Some(loaded), last].into_iter().flatten().collect();
    let interfaces = configs
        .iter()
        .flat_map(|f| f.config.daemon.interfaces.clone());
    let interfaces = interfaces.collect();
    let backends = configs.iter().flat_map(|file| {
        let addresses = file.config.keyed_backends().map(|(_, b)| b.address);
        addresses.collect::<Vec<_>>()
    });
    Ok(Places {
        backends: backends.collect(),
        interfaces,
        bpffs: daemon.bpffs,
        run_dir: Some(daemon.run_dir),
        state_dir: Some(daemon.state_dir),
    })
}
