//! What can go wrong between the daemon and the kernel, by what the operator can do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::AttachMode;

/// Why the data plane could not be loaded, adopted, attached or taken away.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The binary carries no BPF object.
    #[error(
        "load the data plane: this fairlead was built without its data plane (build it with 'cargo xtask build')"
    )]
    NotBuilt,
    /// A capability is missing.
    #[error(
        "{what}: this process lacks {missing} (run as root, or give the unit AmbientCapabilities={missing})"
    )]
    Privilege {
        /// What needs it.
        what: &'static str,
        /// Names of capabilities, separated by blanks.
        missing: String,
    },
    /// The kernel is too old.
    #[error(
        "load the data plane: kernel {found} is older than {needed}: it lacks {feature} (boot a newer kernel)"
    )]
    OldKernel {
        /// As `uname -r` says.
        found: String,
        /// The oldest that works.
        needed: &'static str,
        /// What the older ones lack.
        feature: &'static str,
    },
    /// Another daemon runs.
    #[error(
        "lock {path}: a fairlead daemon is running already: {holder} (stop it first, or give this one another run-dir and bpffs)"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// `pid N`, or `unknown pid`.
        holder: String,
    },
    /// The directory for pins can be tampered with.
    #[error("use {path} for pinned maps: {why} (whoever can write there owns the traffic: {hint})")]
    UnsafePath {
        /// The component that is at fault.
        path: PathBuf,
        /// Owner or mode.
        why: String,
        /// The way out.
        hint: String,
    },
    /// Pins of another layout are there.
    #[error(
        "adopt the pins in {path}: they have layout {found}, this fairlead knows layout {known} only (run the fairlead that made them, or take them away, which stops forwarding: 'fairlead unload --layout {found}')"
    )]
    ForeignLayout {
        /// The directory.
        path: PathBuf,
        /// Layout by the directory's name or by the header.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The pins are not what their names say.
    #[error(
        "adopt the pins in {path}: {}; nothing was changed (take them away, which stops forwarding: 'fairlead unload')",
        .differences.join("; ")
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// All that differs.
        differences: Vec<String>,
    },
    /// The flows in the table were hashed with another key.
    #[error(
        "adopt the pins in {path}: they use the keys with id {found:016x}, the state directory holds {ours:016x}; every flow would be lost (restore the state directory, or start over with 'fairlead unload')"
    )]
    OtherKeys {
        /// The directory.
        path: PathBuf,
        /// Seed id in the header.
        found: u64,
        /// Seed id of the state directory.
        ours: u64,
    },
    /// The kernel refused the program.
    #[error(
        "load the data plane: the kernel refused the program: {source}; what was attached stays as it was\nverifier log:\n{log}"
    )]
    Refused {
        /// Its errno.
        source: io::Error,
        /// The verifier's log, in full.
        log: String,
    },
    /// The object is not what the loader expects.
    #[error("load the data plane: {why}")]
    Object {
        /// What differs.
        why: String,
    },
    /// No interface has the name.
    #[error(
        "attach to {interface}: no interface has this name (see 'ip link'; it is attached as soon as it appears)"
    )]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// A foreign program holds the interface.
    #[error(
        "attach to {interface}: {holder} holds it (see 'bpftool net show dev {interface}'; stop its owner or run 'ip link set dev {interface} {off} off')"
    )]
    Busy {
        /// The name.
        interface: String,
        /// `XDP program N (native)`.
        holder: String,
        /// `xdp`, `xdpgeneric`: what `ip link` calls the mode.
        off: &'static str,
    },
    /// The driver refuses native XDP.
    #[error("attach to {interface}: native XDP refused: {source} ({advice})")]
    NoNative {
        /// The name.
        interface: String,
        /// Why that may be, and what to do.
        advice: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The wanted mode could not be had, and the one before was taken again.
    #[error(
        "change the mode of {interface}: {source}; it runs in {mode} mode as before, after {gap:?} without the program"
    )]
    ModeKept {
        /// The name.
        interface: String,
        /// The mode.
        mode: AttachMode,
        /// How long no packet passed through the program.
        gap: Duration,
        /// Why.
        source: Box<BpfError>,
    },
    /// Neither the wanted mode nor the one before could be had: the interface runs no program.
    #[error(
        "change the mode of {interface}: {source}; nor can it be put back into {mode} mode: {back}; it has NO program"
    )]
    ModeLost {
        /// The name.
        interface: String,
        /// The mode before.
        mode: AttachMode,
        /// Why it does not run in the wanted mode.
        source: Box<BpfError>,
        /// Why it does not run in the mode before.
        back: Box<BpfError>,
    },
    /// A newer daemon owns the data plane.
    #[error(
        "change the attachment: owner epoch {ours} was replaced by {theirs}: another daemon took over; this one must stop"
    )]
    Fenced {
        /// Our owner epoch.
        ours: u64,
        /// The one in the header.
        theirs: u64,
    },
    /// Some other system call failed.
    #[error("{what}: {source}")]
    System {
        /// Operation and object.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BpfError {
    /// For `map_err`: names the operation.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// As [`Self::system`], for errors of nix.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |errno| Self::System {
            what,
            source: errno.into(),
        }
    }
}
