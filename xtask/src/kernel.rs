//! `cargo xtask test --kernel 6.1`: the tests on another kernel, in a virtual machine that is emulated in
//! software, so that neither a second host nor virtualisation is needed.
//!
//! The machine boots the image of a Debian package with an initramfs of our making: `fairlead-guest`
//! (`tests/src/bin/guest.rs`) as its first process, the test binary, and all that they run. What the tests
//! print comes over a serial port and is read as on the host. This file says what is booted and what must be
//! true afterwards; the parts act.

mod cpio;
mod initramfs;
mod machine;
mod modules;
mod selection;

use std::{fmt, fs, str::FromStr};

use anyhow::Context;

use crate::{
    build::Built,
    setup::{Emulator, kernel_image},
    test::{self, Tally},
    workspace::Workspace,
};

/// A kernel's version as far as packages are named after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelVersion {
    major: u32,
    minor: u32,
}

impl FromStr for KernelVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse().ok();
        text.split_once('.')
            .and_then(|(major, minor)| {
                Some(Self {
                    major: number(major)?,
                    minor: number(minor)?,
                })
            })
            .ok_or_else(|| format!("{text:?} is no version such as 6.1"))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Runs the tests that make sense there, or of these the ones whose name contains `filter`.
pub(crate) fn run(
    workspace: &Workspace,
    built: &Built,
    version: KernelVersion,
    filter: Option<&str>,
) -> anyhow::Result<Tally> {
    anyhow::ensure!(
        std::env::consts::ARCH == "x86_64",
        "--kernel boots Debian's kernel for PCs, with programs of this machine: that must be one, too"
    );
    let shared = workspace.target.join("kernel");
    let folder = shared.join(version.to_string());
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let emulator = Emulator::get(&shared)?;
    let image = kernel_image(&folder, (version.major, version.minor))?;

    let tests = test::binary(workspace, built)?;
    let selection = selection::of(&tests, filter)?;
    selection.print(version);
    let machine = machine::Machine {
        emulator,
        kernel: initramfs::boot_file(&image)?,
        initramfs: folder.join("initramfs"),
        console: folder.join("console.log"),
        report: folder.join("report.log"),
    };
    let archive = initramfs::build(workspace, built, &image, &tests, &selection.chosen)?;
    fs::write(&machine.initramfs, archive)
        .with_context(|| format!("write {}", machine.initramfs.display()))?;
    machine.run(selection.chosen.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_two_numbers() {
        let version: KernelVersion = "6.1".parse().unwrap();
        assert_eq!(version.to_string(), "6.1");
        for wrong in ["6", "6.1.0", "6.x", "", "v6.1"] {
            assert!(wrong.parse::<KernelVersion>().is_err(), "{wrong}");
        }
    }
}
