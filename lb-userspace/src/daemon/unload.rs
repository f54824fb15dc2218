//! `fairlead unload`: the one command that takes the data plane away.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::announce::Claims;
use crate::announce::claimer;
use crate::cli::Unload;
use crate::config::file;
use crate::dataplane::bpf;
use crate::store::disk;

/// Runs it.
pub fn run(args: &Unload) -> anyhow::Result<ExitCode> {
    let (bpffs, run_dir, state_dir) = places(args)?;
    let removed = bpf::unload(&bpffs, run_dir.as_deref(), args.layout)?;
    match removed {
        true => println!("data plane removed from {}", bpffs.display()),
        false => println!("no data plane at {}", bpffs.display()),
    }
    let Some(path) = state_dir.map(|dir| super::claims_file(&dir)) else {
        return Ok(ExitCode::SUCCESS);
    };
    let Some(claims) = disk::read::<Claims>(&path)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let count = claims.0.len();
    let (left, reasons) = claimer::release_all(claims).context("release claimed addresses")?;
    disk::write(&path, &left)?;
    println!(
        "claimed addresses released: {}",
        count.saturating_sub(left.0.len())
    );
    if !reasons.is_empty() {
        bail!(
            "addresses that could not be released: {}",
            reasons.join("; ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Where pins, lock and state are. A configuration with errors must not keep anybody from
/// unloading, so `--bpffs` does without one.
fn places(args: &Unload) -> anyhow::Result<(PathBuf, Option<PathBuf>, Option<PathBuf>)> {
    if let Some(bpffs) = &args.bpffs {
        let run_dir = args.run_dir.exists().then(|| args.run_dir.clone());
        return Ok((bpffs.clone(), run_dir, None));
    }
    let loaded = file::load(&args.config).with_context(|| {
        format!(
            "read {} to find the pins (or name their directory: 'fairlead unload --bpffs DIR')",
            args.config.display()
        )
    })?;
    let daemon = loaded.config.daemon;
    Ok((daemon.bpffs, Some(daemon.run_dir), Some(daemon.state_dir)))
}
