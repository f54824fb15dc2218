//! The initramfs: what the guest starts with, and all that it needs to run it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{cpio::Archive, modules::Modules};
use crate::{
    build::{Built, DECAPSULATOR, LOSSES, PROBE},
    shell::{command, output, run, which},
    workspace::Workspace,
};

/// Modules that tests need and that the kernel would have a program load for it.
const MODULES: [&str; 11] = [
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "ipip",
    "sit",
    "ip6_tunnel",
    "fou",
    "fou6",
    "8021q",
    "bonding",
];
/// Programs of the host that tests run.
const PROGRAMS: [&str; 7] = ["ip", "tc", "nft", "curl", "nginx", "chmod", "sh"];
/// Accounts that programs look up.
const ACCOUNTS: [(&str, &str); 2] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// The kernel in an unpacked package.
pub(super) fn boot_file(image: &Path) -> anyhow::Result<PathBuf> {
    let boot = image.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("read {}", boot.display()))?;
    entries
        .filter_map(|entry| entry.ok())
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
        .map(|entry| entry.path())
        .with_context(|| format!("{} holds no kernel", boot.display()))
}

/// Puts it together. Programs lie where they lie on the host, because some know each other's paths.
pub(super) fn build(
    workspace: &Workspace,
    built: &Built,
    image: &Path,
    tests: &Path,
    chosen: &[String],
) -> anyhow::Result<Vec<u8>> {
    let mut archive = Archive::default();
    // The kernel gives its first process this as standard output, before there is a devtmpfs.
    archive.device("/dev/console", (5, 1))?;
    let modules = Modules::find(&image.join("lib/modules"))?.in_order(&MODULES)?;
    for (number, path) in (100_u32..).zip(modules) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("/guest/modules/{number}-{name}"), &read(&path)?)?;
    }
    let mut libraries = BTreeSet::new();
    for program in [&built.guest, &built.fairlead, &built.lab, tests] {
        libraries.extend(libraries_of(program)?);
        let content = without_debug_info(workspace, program)?;
        if *program == built.guest {
            archive.file("/init", &content)?;
        } else {
            archive.file(&text(program)?, &content)?;
        }
    }
    for name in PROGRAMS {
        let path = which(name).with_context(|| format!("{name} is not on this machine"))?;
        libraries.extend(libraries_of(&path)?);
        archive.file(&format!("/bin/{name}"), &read(&path)?)?;
    }
    for library in libraries {
        archive.file(&text(&library)?, &read(&library)?)?;
    }
    let decapsulator = built.bpf_object.with_file_name(DECAPSULATOR);
    let probe = built.bpf_object.with_file_name(PROBE);
    let losses = built.bpf_object.with_file_name(LOSSES);
    for object in [&built.bpf_object, &decapsulator, &probe, &losses] {
        archive.file(&text(object)?, &read(object)?)?;
    }
    for (path, content) in ACCOUNTS {
        archive.file(path, content.as_bytes())?;
    }
    archive.file("/guest/arguments", arguments(tests, chosen)?.as_bytes())?;
    archive.file("/guest/environment", environment(built)?.as_bytes())?;
    archive.finish()
}

/// A line for the test binary and for each of its arguments.
fn arguments(tests: &Path, chosen: &[String]) -> anyhow::Result<String> {
    let mut lines = vec![text(tests)?, "--exact".into(), "--show-output".into()];
    lines.extend_from_slice(chosen);
    Ok(lines.join("\n"))
}

/// A line for each variable.
fn environment(built: &Built) -> anyhow::Result<String> {
    Ok([
        ("PATH", "/bin".to_owned()),
        ("HOME", "/root".to_owned()),
        // Emulation is about thirty times slower: one for each packet of a fixture.
        ("FAIRLEAD_CHANGED_PACKETS", "1".to_owned()),
        // So many that each shape is among them.
        ("FAIRLEAD_SOAKED_PACKETS", "20000".to_owned()),
        ("FAIRLEAD_BPF_OBJECT", text(&built.bpf_object)?),
        ("FAIRLEAD_BIN", text(&built.fairlead)?),
        ("FAIRLEAD_LAB_BIN", text(&built.lab)?),
    ]
    .map(|(name, value)| format!("{name}={value}"))
    .join("\n"))
}

/// The dynamic loader and the libraries of a program, as the host's loader finds them.
fn libraries_of(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let printed = output("ldd", &[&text(program)?])
        .with_context(|| format!("ldd does not name the libraries of {}", program.display()))?;
    Ok(loaded(&printed))
}

/// The paths in lines such as `libc.so.6 => /lib/libc.so.6 (0x7f36)` and `/lib64/ld-linux-x86-64.so.2 (0x7f36)`.
fn loaded(printed: &str) -> Vec<PathBuf> {
    printed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// A program's file at a quarter of its size: the guest's memory holds it, and nobody debugs it there.
fn without_debug_info(workspace: &Workspace, program: &Path) -> anyhow::Result<Vec<u8>> {
    let name = program.file_name().context("a program has no name")?;
    let stripped = workspace.target.join("kernel").join(name);
    run(command("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(&stripped)
        .arg(program))?;
    let content = read(&stripped)?;
    fs::remove_file(&stripped).with_context(|| format!("remove {}", stripped.display()))?;
    Ok(content)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_prints() {
        let printed = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            loaded(printed),
            ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert!(loaded("\tstatically linked\n").is_empty());
    }
}
