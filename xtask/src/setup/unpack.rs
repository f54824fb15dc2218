//! Debian packages that are unpacked below the target folder and not installed: the kernel of a
//! virtual machine has no business among the host's, and an emulator may conflict with what is there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::act::{apt_get, update_lists};
use crate::shell::{self, command, output, which};

/// The program that emulates a PC, and its package.
const EMULATOR: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// Folders of a package for libraries, and for firmware.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// A program that emulates a PC: the installed one, or else one that was unpacked.
pub(crate) struct Emulator {
    program: PathBuf,
    /// Where it was unpacked; nothing if it is installed.
    root: Option<PathBuf>,
}

impl Emulator {
    /// Finds it, or unpacks it below `folder`.
    pub(crate) fn get(folder: &Path) -> anyhow::Result<Self> {
        let (name, package) = EMULATOR;
        if let Some(program) = which(name) {
            return Ok(Self {
                program,
                root: None,
            });
        }
        let root = folder.join(package);
        unpack(
            &root,
            package,
            "emulates the machine that boots the kernel",
            |folder| {
                // With what it depends on and this machine lacks.
                let mut download = apt_get();
                download
                    .args(["install", "--download-only", "--yes"])
                    .arg("--no-install-recommends")
                    .arg("-o")
                    .arg(format!("Dir::Cache::archives={}", folder.display()))
                    .arg(package);
                fs::create_dir_all(folder.join("partial")).context("make a folder for packages")?;
                shell::run(&mut download)
            },
        )?;
        Ok(Self {
            program: root.join("usr/bin").join(name),
            root: Some(root),
        })
    }

    /// Runs it for at most so many seconds; then it is killed and the status is 124.
    pub(crate) fn command(&self, at_most: u32) -> Command {
        let mut limited = command("timeout");
        limited
            .args(["--foreground", "--kill-after=10"])
            .arg(at_most.to_string())
            .arg(&self.program);
        if let Some(root) = &self.root {
            let libraries = LIBRARIES.map(|folder| root.join(folder).display().to_string());
            limited.env("LD_LIBRARY_PATH", libraries.join(":"));
            for folder in FIRMWARE {
                limited.arg("-L").arg(root.join(folder));
            }
        }
        limited
    }
}

/// Unpacks the newest kernel image of a version such as `6.1` below `folder`, and returns its root:
/// `boot/vmlinuz-*` and `lib/modules/*` are in it.
pub(crate) fn kernel_image(folder: &Path, version: (u32, u32)) -> anyhow::Result<PathBuf> {
    let root = folder.join("image");
    if root.is_dir() {
        return Ok(root);
    }
    let (major, minor) = version;
    let pattern = format!("^linux-image-{major}\\.{minor}\\.");
    let find = || {
        let listed = output("apt-cache", &["search", "--names-only", &pattern]);
        newest_image(&listed.unwrap_or_default(), version)
    };
    update_lists();
    let package = find().with_context(|| {
        format!(
            "setup: the package sources of this machine have no linux-image-{major}.{minor}.*-cloud-amd64 \
             (Debian 12 has 6.1; `apt-cache search --names-only '^linux-image-.*-cloud-amd64$'` lists what there is)"
        )
    })?;
    unpack(
        &root,
        &package,
        "the kernel that the tests run on",
        |folder| shell::run(apt_get().args(["download", &package]).current_dir(folder)),
    )?;
    Ok(root)
}

/// The newest image for virtual machines among lines such as `linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 ...`.
fn newest_image(listed: &str, version: (u32, u32)) -> Option<String> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse().ok())
            .collect()
    };
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter_map(|name| {
            let release = name
                .strip_prefix("linux-image-")?
                .strip_suffix("-cloud-amd64")?;
            let numbers = numbers(release);
            numbers
                .starts_with(&[version.0, version.1])
                .then(|| (numbers, name.to_owned()))
        })
        .max()
        .map(|(_, name)| name)
}

/// Downloads packages into a folder and unpacks them all into `root`, which is there completely or not at all.
fn unpack(
    root: &Path,
    package: &str,
    why: &str,
    download: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    anyhow::ensure!(
        which("apt-get").is_some() && which("dpkg-deb").is_some(),
        "setup: this is no Debian, whose package {package} ({why}) would be unpacked below the target folder"
    );
    eprintln!("setup: {package}: {why}; unpacked below the target folder, not installed");
    let partial = root.with_extension("partial");
    let archives = partial.with_extension("archives");
    for folder in [&partial, &archives] {
        drop(fs::remove_dir_all(folder));
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    download(&archives).with_context(|| format!("download {package}"))?;
    let entries =
        fs::read_dir(&archives).with_context(|| format!("read {}", archives.display()))?;
    for entry in entries {
        let path = entry.context("read a folder of packages")?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            let mut extract = command("dpkg-deb");
            shell::run(extract.arg("-x").arg(&path).arg(&partial))?;
        }
    }
    fs::remove_dir_all(&archives).with_context(|| format!("remove {}", archives.display()))?;
    fs::rename(&partial, root).with_context(|| format!("rename to {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(names: &[&str], expected: Option<&str>) {
        let listed: String = names
            .iter()
            .map(|name| format!("{name} - Linux for PCs\n"))
            .collect();
        assert_eq!(newest_image(&listed, (6, 1)).as_deref(), expected);
    }

    #[test]
    fn the_newest_image_is_chosen_by_number_and_no_other_kind_of_package() {
        check(
            &[
                "linux-image-6.1.0-9-cloud-amd64",
                "linux-image-6.1.0-56-cloud-amd64",
                "linux-image-6.1.0-56-cloud-amd64-dbg",
                "linux-image-6.1.0-57-cloud-amd64-unsigned",
                "linux-image-6.1.0-58-amd64",
                "linux-image-6.12.9+bpo-cloud-amd64",
            ],
            Some("linux-image-6.1.0-56-cloud-amd64"),
        );
        check(&["linux-image-6.12.9+bpo-cloud-amd64"], None);
        check(&[], None);
    }
}
