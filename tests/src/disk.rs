//! A disk of its own for a directory, which can hang and run full: an ext4 file system in a file, mounted
//! over a loop device. While it is frozen (`FIFREEZE`, ioctl_fs(2)), whoever writes there hangs in the
//! kernel, in open, write, fsync and rename alike.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Bytes of the disk.
const SIZE: u64 = 8 << 20;

/// A mounted disk. Dropping it lets it go on if it hangs, and unmounts it.
pub struct Disk {
    directory: PathBuf,
    frozen: bool,
}

impl Disk {
    /// Mounts a new disk at a new directory that only root may enter. `image`: the file that holds it.
    pub fn mount(image: &Path, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        File::create(image)
            .and_then(|file| file.set_len(SIZE))
            .with_context(|| format!("create {}", image.display()))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .args([image, directory]))?;
        let disk = Self {
            directory: directory.to_owned(),
            frozen: false,
        };
        run(Command::new("chmod").arg("0700").arg(directory))?;
        Ok(disk)
    }

    /// From now on whoever writes hangs.
    pub fn freeze(&mut self) -> Result<()> {
        self.frozen = true;
        run(Command::new("fsfreeze").arg("-f").arg(&self.directory))
    }

    /// All that hung goes on.
    pub fn thaw(&mut self) -> Result<()> {
        self.frozen = false;
        thaw(&self.directory)
    }

    /// No byte is free any more.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler())?;
        for size in [64 << 10, 1 << 10, 1] {
            let block = vec![0_u8; size];
            while file.write_all(&block).is_ok() {}
        }
        // What is not written yet does not fit either.
        drop(file.sync_all());
        // The kernel keeps some blocks to itself, so a count of them says nothing.
        let probe = self.directory.join("probe");
        let one_more = fs::write(&probe, b"x");
        drop(fs::remove_file(&probe));
        ensure!(one_more.is_err(), "there is room on a full disk");
        Ok(())
    }

    /// Takes back what [`Self::fill`] took.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("free the disk")
    }

    fn filler(&self) -> PathBuf {
        self.directory.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen
            && let Err(error) = self.thaw()
        {
            eprintln!("{error:#}");
        }
        crate::topology::unmount_below(&self.directory);
    }
}

/// Lets a file system go on that hangs.
pub(crate) fn thaw(mount: &Path) -> Result<()> {
    run(Command::new("fsfreeze").arg("-u").arg(mount))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {} {errors}",
        output.status
    );
    Ok(())
}
