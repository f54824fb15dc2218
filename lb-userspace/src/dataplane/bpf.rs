//! The kernel: loads, pins, adopts, attaches, reads and writes the data plane.
//!
//! The data plane lives in pins, not in this process. [`Bpf::open`] makes it or takes it over as it
//! stands, and dropping [`Bpf`] leaves it running; [`unload`] is the only thing that takes it away.
//! Files below: `place` (where pins live), `pins` (what stands there), `lock`, `host` (privileges, kernel), `geometry` (sizes and their
//! check), `sys` and `mapped` (the unsafe parts), `maps`, `program`, `links` and `netdev`
//! (attachment), `apply` and `actual` (the seam [`Dataplane`](super::Dataplane)), `reader`
//! (counters, flow table), `debug_log`. Apart from all this: `decap`, the program of a backend, `probe`, that of checks, and `losses`, those at tracepoints.

mod actual;
mod apply;
mod debug_log;
pub mod decap;
mod error;
mod ethtool;
mod geometry;
mod host;
mod links;
mod loads;
mod lock;
pub mod losses;
mod mapped;
mod maps;
mod nat;
mod netdev;
mod pins;
mod place;
pub mod probe;
mod program;
mod reader;
mod sys;
mod trie;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lb_common::header::LAYOUT_VERSION;
use lb_common::{Control, HashKey, Header};

pub use debug_log::DebugLog;
pub use error::BpfError;
pub use ethtool::strips_tags;
pub use geometry::{Geometry, check_control, check_header, limit_differences};
pub use host::{effective_capabilities, kernel_version, missing_capabilities};
pub use links::{Attached, AttachedHow, Attachment, AttachmentState};
pub use loads::Got;
pub use nat::NatWalk;
pub use place::{Component, check_path};
pub use program::{Program, ProgramOptions, link_asides};
pub use reader::{FlowCounts, Reader, Sweep};

use crate::model::{AttachMode, Limits, XdpMode};
use links::{Links, ModeChange};
use lock::Lock;
use maps::Maps;
use pins::{PROGRAM_PIN, abandoned, load_and_pin, remove_layout, same_program};
use place::Place;

/// What [`Bpf::open`] is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As `DaemonConfig::bpffs`.
    pub bpffs: PathBuf,
    /// As `DaemonConfig::run_dir`.
    pub run_dir: PathBuf,
    /// Sizes of the maps if they have to be made.
    pub limits: Limits,
    /// Secret key of the flow hash, from the state directory.
    pub flow_key: HashKey,
    /// Names the keys of the state directory.
    pub seed_id: u64,
    /// Load the program with its log on.
    pub debug_log: bool,
    /// The compiled data plane: [`crate::embedded::OBJECT`].
    pub object: &'static [u8],
}

/// How the data plane was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// There was none.
    Created,
    /// One was left half made by a crash, attached to nothing; it was made again.
    Recreated,
    /// A complete one was taken over as it stands.
    Adopted {
        /// Owner epoch now.
        owner_epoch: u64,
        /// The pinned program is of this very binary and was kept.
        same_program: bool,
        /// Limits in the configuration that differ from those of the live maps, which keep theirs until
        /// they are unloaded; to be said aloud.
        differences: Vec<String>,
    },
}

/// The data plane in the kernel, and the right to write to it.
#[derive(Debug)]
pub struct Bpf {
    maps: Arc<Maps>,
    links: Links,
    program: Program,
    directory: PathBuf,
    owner_epoch: u64,
    object: &'static [u8],
    debug_log: Option<DebugLog>,
    _lock: Lock,
}

/// Refuses a machine or a user that cannot run the data plane, before anything is touched.
pub fn check_machine() -> Result<(), BpfError> {
    host::check_privileges("load the data plane")?;
    host::check_kernel()
}

impl Bpf {
    /// Makes the data plane, or takes over the one that is pinned. Attaches nothing.
    ///
    /// What is refused is left as it was; what was made before a failure is taken away again.
    pub fn open(settings: &Settings) -> Result<(Self, Opening), BpfError> {
        if settings.object.is_empty() {
            return Err(BpfError::NotBuilt);
        }
        check_machine()?;
        let lock = Lock::take(&settings.run_dir)?;
        let place = Place::prepare(&settings.bpffs)?;
        place.refuse_foreign()?;
        let directory = place.layout(LAYOUT_VERSION);
        if !directory.exists() {
            return Ok((Self::create(settings, directory, lock)?, Opening::Created));
        }
        if abandoned(&directory)? {
            remove_layout(&directory)?;
            return Ok((Self::create(settings, directory, lock)?, Opening::Recreated));
        }
        Self::adopt(settings, directory, lock)
    }

    fn create(settings: &Settings, directory: PathBuf, lock: Lock) -> Result<Self, BpfError> {
        place::create_path(&directory)?;
        let made = Self::fill(settings, &directory);
        if made.is_err() {
            // Nothing is attached yet. If this fails too, the next start finds it abandoned.
            let _ = remove_layout(&directory);
        }
        let (maps, program, debug_log) = made?;
        Ok(Self {
            maps: Arc::new(maps),
            links: Links::default(),
            program,
            directory,
            owner_epoch: 1,
            object: settings.object,
            debug_log,
            _lock: lock,
        })
    }

    fn fill(
        settings: &Settings,
        directory: &Path,
    ) -> Result<(Maps, Program, Option<DebugLog>), BpfError> {
        let geometry = Geometry::of(&settings.limits, host::possible_cpus()?);
        let header = geometry.header(settings.seed_id, writer_version());
        let differences = check_header(&header);
        if !differences.is_empty() {
            return Err(BpfError::Object {
                why: format!(
                    "the limits do not make good maps: {}",
                    differences.join("; ")
                ),
            });
        }
        let (program, debug_log) = load_and_pin(settings, directory, &geometry)?;
        let maps = Maps::with_geometry(directory, geometry)?;
        apply::initialise(&maps, &header, &geometry.control(settings.flow_key))
            .map_err(BpfError::system("write the header of the new maps"))?;
        Ok((maps, program, debug_log))
    }

    fn adopt(
        settings: &Settings,
        directory: PathBuf,
        lock: Lock,
    ) -> Result<(Self, Opening), BpfError> {
        let maps = Maps::open(&directory)?;
        check_keys(settings, &directory, &maps)?;
        check_cpus(&directory, &maps)?;
        pins::forget_asides(&directory)?;
        let (program, same_program, debug_log) = match same_program(settings, &directory) {
            Some(program) => (program, true, None),
            None => {
                let (program, log) = load_and_pin(settings, &directory, &maps.geometry)?;
                (program, false, log)
            }
        };
        let differences = limit_differences(&maps.geometry.limits(), &settings.limits);
        let owner_epoch = apply::raise_owner_epoch(&maps);
        let adopted = Self {
            maps: Arc::new(maps),
            links: Links::default(),
            program,
            directory,
            owner_epoch,
            object: settings.object,
            debug_log,
            _lock: lock,
        };
        let opening = Opening::Adopted {
            owner_epoch,
            same_program,
            differences,
        };
        Ok((adopted, opening))
    }

    /// Refuses once another daemon has taken over.
    fn check_ownership(&self) -> Result<(), BpfError> {
        let theirs = apply::owner_epoch(&self.maps);
        if theirs == self.owner_epoch {
            return Ok(());
        }
        Err(BpfError::Fenced {
            ours: self.owner_epoch,
            theirs,
        })
    }

    /// Our owner epoch.
    pub fn owner_epoch(&self) -> u64 {
        self.owner_epoch
    }

    /// Sizes of the live maps.
    pub fn geometry(&self) -> Geometry {
        self.maps.geometry
    }

    /// The directory of the pins.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program that interfaces run.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The program's log, once, if it was asked for.
    pub fn take_debug_log(&mut self) -> Option<DebugLog> {
        self.debug_log.take()
    }

    /// Reads counters and flows.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.maps), self.owner_epoch)
    }

    /// Another instance of the program over the live maps, attached to nothing.
    pub fn load_program(&self, options: ProgramOptions) -> Result<Program, BpfError> {
        program::load(self.object, &self.directory, &self.maps.geometry, options)
            .map(|(program, _)| program)
    }

    /// Brings an interface to run the program: through the pinned link without a gap if there is one in
    /// this mode, anew otherwise. The mode is remembered for [`Self::reattach`], also when this fails because
    /// there is no such interface yet.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, BpfError> {
        self.attach_with(interface, mode, ModeChange::Changed)
    }

    /// As [`Self::attach`] when the configured mode has changed: where generic mode was a fallback, native
    /// mode is tried again. On an error the interface runs in the mode it had, if that is possible.
    pub fn change_mode(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, BpfError> {
        self.attach_with(interface, mode, ModeChange::Retried)
    }

    /// As [`Self::attach`] after a restart with the same configured mode: an interface that runs in another
    /// one could not be changed before, and is not taken off the program to try again.
    pub fn resume(&mut self, interface: &str, mode: XdpMode) -> Result<Attached, BpfError> {
        self.attach_with(interface, mode, ModeChange::Never)
    }

    /// What [`Self::reattach`] shall attach an interface of ours in. Attaches nothing.
    pub fn set_wanted_mode(&mut self, interface: &str, mode: XdpMode) {
        self.links.set_wanted(interface, mode);
    }

    /// Attaches again after netlink said that the interface appeared or changed. Does nothing if it
    /// is attached (`AttachedHow::Kept`), in whatever mode; `None`: the interface is not ours.
    pub fn reattach(&mut self, interface: &str) -> Result<Option<Attached>, BpfError> {
        match self.links.wanted(interface) {
            Some(mode) => self
                .attach_with(interface, mode, ModeChange::Never)
                .map(Some),
            None => Ok(None),
        }
    }

    fn attach_with(
        &mut self,
        interface: &str,
        mode: XdpMode,
        change: ModeChange,
    ) -> Result<Attached, BpfError> {
        self.check_ownership()?;
        let program = (self.program.fd(), self.program.id());
        let attached = self
            .links
            .attach(&self.directory, program, interface, mode, change)?;
        if attached.how != AttachedHow::Kept {
            pins::forget_asides(&self.directory)?;
        }
        Ok(attached)
    }

    /// Takes the program off an interface that is not ours any more. False: it was not on it. On an error the
    /// interface stays ours.
    pub fn detach(&mut self, interface: &str) -> Result<bool, BpfError> {
        self.check_ownership()?;
        self.links.detach(&self.directory, interface)
    }

    /// Interfaces that we were told to attach to, and how it stands with each.
    pub fn attachments(&self) -> Result<Vec<Attachment>, BpfError> {
        self.links.attachments()
    }

    /// The interfaces that run the program, by index, and how.
    pub fn running(&self) -> Result<BTreeMap<u32, AttachMode>, BpfError> {
        self.links.running(&self.directory)
    }

    /// Interfaces with a pinned link, whoever made it. Those that are not in the configuration are to
    /// be detached.
    pub fn pinned_interfaces(&self) -> Result<Vec<String>, BpfError> {
        links::pinned_interfaces(&self.directory)
    }

    /// Pins again what somebody has unpinned; returns the names, which are worth an alarm.
    pub fn repin(&self) -> Result<Vec<String>, BpfError> {
        self.check_ownership()?;
        place::create_path(&self.directory)?;
        let fixed = self.maps.named();
        let all = fixed
            .iter()
            .map(|(name, fd)| ((*name).to_owned(), *fd))
            .chain([(PROGRAM_PIN.to_owned(), self.program.fd())])
            .chain(
                self.program
                    .asides()
                    .map(|fd| (pins::asides(self.program.id()), fd)),
            )
            .chain(self.links.named());
        let mut missing = Vec::new();
        for (name, fd) in all {
            let path = self.directory.join(&name);
            if path.exists() {
                continue;
            }
            sys::pin(fd, &path).map_err(BpfError::system(format!("pin {}", path.display())))?;
            missing.push(name);
        }
        Ok(missing)
    }
}

/// Takes the data plane away: links, maps, program, directories, and the bpffs if it is ours.
///
/// `layout`: that one only, known or not; `None`: ours. `run_dir`: refuse while a daemon holds the lock
/// there; `None`: do not look. Returns true if there was anything to take away.
pub fn unload(bpffs: &Path, run_dir: Option<&Path>, layout: Option<u32>) -> Result<bool, BpfError> {
    host::check_privileges("unload the data plane")?;
    let _lock = run_dir.map(Lock::take).transpose()?;
    let Some(place) = Place::existing(bpffs)? else {
        return Ok(false);
    };
    let wanted = layout.unwrap_or(LAYOUT_VERSION);
    let found = place.layouts()?.contains(&wanted);
    if found {
        remove_layout(&place.layout(wanted))?;
    }
    place.leave()?;
    Ok(found)
}

/// The flow table is worth nothing under another key.
fn check_keys(settings: &Settings, directory: &Path, maps: &Maps) -> Result<(), BpfError> {
    let header: Option<Header> = maps.header.read(0);
    let control: Option<Control> = maps.control.read(0);
    let (found, key) = (
        header.map_or(0, |header| header.seed_id),
        control.map(|control| HashKey(control.flow_key)),
    );
    if found == settings.seed_id && key == Some(settings.flow_key) {
        return Ok(());
    }
    Err(BpfError::OtherKeys {
        path: directory.to_owned(),
        found,
        ours: settings.seed_id,
    })
}

/// Counters must have room for every CPU.
fn check_cpus(directory: &Path, maps: &Maps) -> Result<(), BpfError> {
    let possible = host::possible_cpus()?;
    if possible <= maps.geometry.cpus {
        return Ok(());
    }
    let why = format!(
        "header: counters for {} CPUs, this machine may have {possible}",
        maps.geometry.cpus
    );
    Err(BpfError::Unusable {
        path: directory.to_owned(),
        differences: vec![why],
    })
}

/// As `Header::writer_version`.
fn writer_version() -> u32 {
    env!("CARGO_PKG_VERSION")
        .split('.')
        .zip([16_u32, 8, 0])
        .filter_map(|(part, shift)| part.parse::<u32>().ok()?.checked_shl(shift))
        .fold(0, |all, part| all | part)
}
