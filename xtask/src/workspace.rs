//! Where the workspace and its target folder are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The checked-out source and the folder that builds go to.
pub(crate) struct Workspace {
    /// The folder of the top-level `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder: the one that this program was built into.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds both from where this program was compiled and where it runs from.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask's folder has no parent")?
            .to_path_buf();
        anyhow::ensure!(
            root.join("Cargo.toml").is_file(),
            "{} holds no Cargo.toml: the source was moved after xtask was built (run `cargo clean -p xtask`)",
            root.display()
        );
        // <target>/debug/xtask: right whatever CARGO_TARGET_DIR or a cargo config say.
        let exe = env::current_exe().context("find the path of this program")?;
        let target = exe
            .ancestors()
            .nth(2)
            .with_context(|| format!("{} lies in no target folder", exe.display()))?
            .to_path_buf();
        Ok(Self { root, target })
    }
}
