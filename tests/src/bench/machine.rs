//! What the figures were measured on.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Kernel and processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As `uname -r` says it.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Result<Self> {
        let uname = nix::sys::utsname::uname().context("ask for the kernel's version")?;
        let path = "/proc/cpuinfo";
        let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        Ok(Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: cpu_model(&text).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        })
    }
}

/// The first "model name" of /proc/cpuinfo (x86; others have none).
fn cpu_model(text: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map(|(_, value)| value.trim().to_owned())
}
