//! Runs the steps of a setup, one line of reason before each.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::Context;

use super::{BpfCompiler, Consent, INSTALL_LINKER, Package, Purpose, Step, decide, find, names};
use crate::{
    shell::{self, cargo, command},
    workspace::Workspace,
};

/// Mirrors are busy at times: how often a list update is tried, and the pause between two tries.
const UPDATE_TRIES: u32 = 3;
const UPDATE_PAUSE: Duration = Duration::from_secs(5);

/// Installs what is missing and returns the compiler of the BPF object.
pub(crate) fn run(
    workspace: &Workspace,
    purpose: Purpose,
    consent: Consent,
) -> anyhow::Result<BpfCompiler> {
    let before = find::bpf_compiler();
    let findings = match &before {
        Ok(both) => find::findings(Some(&both.rustc), Some(&both.linker)),
        Err((rustc, linker)) => find::findings(rustc.as_ref(), linker.as_ref()),
    };
    let steps = decide(&findings, purpose, consent)
        .map_err(|refusal| anyhow::anyhow!("setup: {}", refusal.0))?;
    for step in &steps {
        act(workspace, step)?;
    }
    if let Ok(both) = before {
        return Ok(both);
    }
    find::bpf_compiler().map_err(|(rustc, linker)| {
        let lacks = match (rustc, linker) {
            (None, _) => "rustc 1.96 or newer with LLVM 22 and the source of its `core`",
            (_, None) => "a bpf-linker that runs",
            (Some(_), Some(_)) => "nothing that can be named",
        };
        anyhow::anyhow!(
            "setup: all steps ran, but this machine still has no {lacks} \
             (`apt-cache policy rustc-web rust-web-src` shows what this release of Debian offers)"
        )
    })
}

fn act(workspace: &Workspace, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Apt {
            packages,
            may_remove,
        } => install_packages(packages, *may_remove),
        Step::Rustup(args) => {
            eprintln!("setup: a rustup toolchain with rust-src: it builds the BPF object");
            shell::run(command("rustup").args(*args).env_remove("RUSTUP_TOOLCHAIN"))
        }
        Step::Linker => {
            eprintln!("setup: bpf-linker: rustc calls it to link the BPF object");
            let mut install = cargo(workspace);
            install.args(INSTALL_LINKER);
            if std::path::Path::new("/usr/lib/llvm-22").is_dir() {
                install.env("LLVM_PREFIX", "/usr/lib/llvm-22");
            }
            shell::run(&mut install)
        }
    }
}

fn install_packages(packages: &[Package], may_remove: bool) -> anyhow::Result<()> {
    for package in packages {
        eprintln!("setup: {}: {}", package.name, package.why);
    }
    update_lists();
    let _no_services = NoServices::begin()?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]);
    if !may_remove {
        install.arg("--no-remove");
    }
    install.args(packages.iter().map(|package| package.name));
    shell::run(&mut install).with_context(|| format!("install {}", names(packages)))
}

/// `apt-get update`. A failure is said and not final: the lists at hand may do, and if they do not
/// the install fails with the exact reason.
fn update_lists() {
    for attempt in 1..=UPDATE_TRIES {
        match shell::run(apt_get().arg("update")) {
            Ok(()) => return,
            Err(error) => eprintln!("setup: try {attempt} of {UPDATE_TRIES}: {error:#}"),
        }
        if attempt < UPDATE_TRIES {
            thread::sleep(UPDATE_PAUSE);
        }
    }
}

fn apt_get() -> std::process::Command {
    let mut apt_get = command("apt-get");
    apt_get.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "Acquire::Retries=3",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    apt_get
}

/// What Debian asks before a package starts its service.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
/// 101: "action forbidden by policy".
const POLICY: &str = "#!/bin/sh\n# Written by `cargo xtask setup` while it installs packages; safe to remove.\nexit 101\n";

/// Keeps packages from starting their services while it lives: nginx and Prometheus are wanted as
/// programs, not as daemons that take ports.
struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> anyhow::Result<Self> {
        let policy = PathBuf::from(POLICY_FILE);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&policy);
        match file {
            Ok(mut file) => file
                .write_all(POLICY.as_bytes())
                .map(|()| Self {
                    policy: Some(policy),
                })
                .context("write /usr/sbin/policy-rc.d"),
            // Ours, left by a setup that was killed; or the administrator's, which stands.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let ours = fs::read_to_string(&policy).is_ok_and(|text| text == POLICY);
                Ok(Self {
                    policy: ours.then_some(policy),
                })
            }
            Err(error) => Err(error).context("create /usr/sbin/policy-rc.d"),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.policy
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!(
                "setup: remove {}: {error}; remove it by hand",
                policy.display()
            );
        }
    }
}
