//! Which configuration runs: the file's, or the last good one when the file cannot be used.
//!
//! A daemon that refuses to start because of a slip in a file leaves its services without health
//! checks. So the last configuration that was applied is kept, and used until the file is mended,
//! which is logged as an error and shown in status and metrics.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{file, host, render, shrink};
use crate::model::Config;

/// What runs.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The configuration.
    pub(super) config: Arc<Config>,
    /// Why it is not the file's; `None`: it is.
    pub(super) error: Option<String>,
    /// The last good configuration, if there is one.
    pub(super) before: Option<Config>,
}

/// Where the last good configuration is kept.
pub(super) fn last_good(state_dir: &Path) -> PathBuf {
    state_dir.join("last-good.toml")
}

/// A configuration file, or the reason why it is none, for people.
pub(super) fn load(path: &Path) -> Result<Arc<Config>, String> {
    let loaded = file::load(path).map_err(|e| e.to_string())?;
    if loaded.outcome.warnings().next().is_some() {
        let text = render::text(&loaded.outcome, &loaded.text, render::Colour::Plain);
        tracing::warn!("{}", text.trim_end());
    }
    for remark in host::remarks(&loaded.config.daemon) {
        tracing::warn!("{remark}");
    }
    Ok(Arc::new(loaded.config))
}

/// Chooses at start. The state directory is only known from a configuration, so when the file cannot be
/// used, the last good one is looked for in the state directory that the file names if it can be read that
/// far, else in the default one.
pub(super) fn choose(path: &Path, allow_shrink: bool) -> anyhow::Result<Chosen> {
    let error = match load(path) {
        Ok(config) => {
            let last = file::load(&last_good(&config.daemon.state_dir)).ok();
            let guard = last.as_ref().filter(|_| !allow_shrink);
            match guard.and_then(|last| shrink::shrink(&last.config, &config)) {
                None => {
                    return Ok(Chosen {
                        config,
                        error: None,
                        before: last.map(|last| last.config),
                    });
                }
                Some(shrink) => {
                    let Some(last) = last else {
                        anyhow::bail!("{shrink}")
                    };
                    return Ok(Chosen {
                        before: Some(last.config.clone()),
                        config: Arc::new(last.config),
                        error: Some(shrink.to_string()),
                    });
                }
            }
        }
        Err(error) => error,
    };
    let dir = state_dir_of(path);
    match file::load(&last_good(&dir)) {
        Ok(last) => Ok(Chosen {
            before: Some(last.config.clone()),
            config: Arc::new(last.config),
            error: Some(error),
        }),
        Err(_) => anyhow::bail!(
            "{error}\nand {} holds no last good configuration to run instead",
            dir.display()
        ),
    }
}

/// `daemon.state-dir` of a file that need not be valid otherwise.
fn state_dir_of(path: &Path) -> PathBuf {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (table, _) = toml::de::DeTable::parse_recoverable(&text);
    let named = table
        .get_ref()
        .get("daemon")
        .and_then(|v| v.get_ref().as_table()?.get("state-dir")?.get_ref().as_str());
    PathBuf::from(named.unwrap_or("/var/lib/fairlead"))
}
