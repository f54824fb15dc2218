//! Loads the compiled program; with `debug_log.rs` the only place that needs aya.
//!
//! aya relocates the object, creates the maps that are not pinned yet and takes those that are, so
//! that a new program works on the live maps from its first packet on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::Builder;

use aya::maps::{Map, ProgramArray};
use aya::programs::{Program as AnyProgram, ProgramError, ProgramInfo as LoadedProgram, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::backend::DEVICES;
use sha2::{Digest, Sha256};

use super::error::BpfError;
use super::geometry::{Geometry, REDIRECTS, SOURCE_RANGES};
use super::sys::{self, ProgramInfo};

/// The name of the XDP program in the object.
const PROGRAM: &str = "fairlead";
/// What the program leaves packets to, by their places in its map `asides`.
const ASIDE_PROGRAMS: [&str; 2] = ["fairlead_aside", "fairlead_tagged"];
/// The map through which it does.
const ASIDES: &str = "asides";
/// `BPF_PROG_TYPE_XDP`.
const PROGRAM_TYPE_XDP: u32 = 6;

/// What the program is told when it is loaded; the verifier drops the branches that are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramOptions {
    /// Writes no map and counts nothing: for test runs over live maps.
    pub read_only: bool,
    /// Logs through aya-log.
    pub debug_log: bool,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    info: ProgramInfo,
    /// Map `asides` of one that has it, which the kernel empties once neither a process nor a pin holds it.
    asides: Option<OwnedFd>,
}

impl Program {
    /// The kernel's number for it.
    pub fn id(&self) -> u32 {
        self.info.id
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs it once over a frame as if that had come in on `ifindex` (`None`: on loopback); returns
    /// the XDP action and the frame afterwards. Unless the program is read-only, this is
    /// a packet like any other: counted, and remembered in the flow table.
    pub fn test_run(&self, frame: &[u8], ifindex: Option<u32>) -> std::io::Result<(u32, Vec<u8>)> {
        sys::test_run(self.fd(), frame, ifindex)
    }

    /// Its map `asides`.
    pub(crate) fn asides(&self) -> Option<BorrowedFd<'_>> {
        self.asides.as_ref().map(OwnedFd::as_fd)
    }

    /// Takes the program that is pinned at `path`, and its map at what `asides` says of its number.
    pub(crate) fn pinned(path: &Path, asides: impl Fn(u32) -> PathBuf) -> std::io::Result<Self> {
        let fd = sys::open_pin(path)?;
        let id = sys::program_info(fd.as_fd())?.id;
        Self::of(fd, Some(sys::open_pin(&asides(id))?))
    }

    pub(super) fn of(fd: OwnedFd, asides: Option<OwnedFd>) -> std::io::Result<Self> {
        let info = sys::program_info(fd.as_fd())?;
        if info.program_type != PROGRAM_TYPE_XDP {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("it is a program of type {}, not of XDP", info.program_type),
            ));
        }
        Ok(Self { fd, info, asides })
    }
}

/// Names what `load` would make of an object: equal names, equal programs.
pub(crate) fn fingerprint(object: &[u8], options: ProgramOptions) -> String {
    let mut hash = Sha256::new();
    hash.update(object);
    hash.update([u8::from(options.read_only), u8::from(options.debug_log)]);
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Loads the program over the maps that are pinned in `directory`; creates and pins those that are not.
pub(crate) fn load(
    object: &[u8],
    directory: &Path,
    geometry: &Geometry,
    options: ProgramOptions,
) -> Result<(Program, Ebpf), BpfError> {
    if object.is_empty() {
        return Err(BpfError::NotBuilt);
    }
    let mut loader = EbpfLoader::new();
    for shape in geometry.arrays() {
        loader
            .map_max_entries(shape.name, shape.entries)
            .map_pin_path(shape.name, directory.join(shape.name));
    }
    loader
        .map_max_entries(REDIRECTS, DEVICES)
        .map_pin_path(REDIRECTS, directory.join(REDIRECTS))
        .map_max_entries(SOURCE_RANGES, geometry.source_ranges)
        .map_pin_path(SOURCE_RANGES, directory.join(SOURCE_RANGES));
    // Only set what is on: an object that was built without logging has no such global.
    if options.read_only {
        loader.override_global("READ_ONLY", &1_u8, true);
    }
    if options.debug_log {
        loader.override_global("DEBUG_LOG", &1_u8, true);
    }
    let mut object = loader.load(object).map_err(refused)?;
    verify(&mut object, |name| {
        name == PROGRAM || ASIDE_PROGRAMS.contains(&name)
    })?;
    let keep = || BpfError::system("keep the loaded program");
    let xdp: &Xdp = object
        .program(PROGRAM)
        .ok_or_else(|| BpfError::Object {
            why: format!("the object has no program '{PROGRAM}'"),
        })?
        .try_into()
        .map_err(of_program)?;
    let fd = xdp
        .fd()
        .map_err(of_program)?
        .as_fd()
        .try_clone_to_owned()
        .map_err(keep())?;
    if connect_asides(&mut object)?.len() != ASIDE_PROGRAMS.len() {
        return Err(BpfError::Object {
            why: format!(
                "the object lacks one of the programs {} or the map '{ASIDES}'",
                ASIDE_PROGRAMS.join(", ")
            ),
        });
    }
    let asides = match object.map(ASIDES) {
        Some(Map::ProgramArray(map)) => map.fd().as_fd().try_clone_to_owned().map_err(keep())?,
        _ => {
            return Err(BpfError::Object {
                why: format!("map '{ASIDES}' is no array of programs"),
            });
        }
    };
    let program = Program::of(fd, Some(asides)).map_err(keep())?;
    Ok((program, object))
}

/// Loads what the program of an object leaves packets to, and says so in its map `asides`. What the kernel says about
/// each that the object has.
pub fn link_asides(object: &mut Ebpf) -> Result<Vec<LoadedProgram>, BpfError> {
    verify(object, |name| ASIDE_PROGRAMS.contains(&name))?;
    connect_asides(object)
}

/// Loads the programs of an object that are `wanted`, all at once: the verifier takes a good part of a second for each, and
/// holds no lock over them.
fn verify(object: &mut Ebpf, wanted: impl Fn(&str) -> bool) -> Result<(), BpfError> {
    std::thread::scope(|scope| {
        let loading: Vec<_> = object
            .programs_mut()
            .filter(|(name, _)| wanted(name))
            .map(|(_, program)| Builder::new().spawn_scoped(scope, || load_one(program)))
            .collect();
        loading.into_iter().try_for_each(|thread| {
            let thread = thread.map_err(|source| BpfError::System {
                what: "start a thread that loads a program".to_owned(),
                source,
            })?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn load_one(program: &mut AnyProgram) -> Result<(), BpfError> {
    let xdp: &mut Xdp = program.try_into().map_err(of_program)?;
    xdp.load().map_err(of_program)
}

/// Says in the map `asides` of an object which programs packets are left to.
fn connect_asides(object: &mut Ebpf) -> Result<Vec<LoadedProgram>, BpfError> {
    let mut loaded = Vec::new();
    for (place, name) in (0..).zip(ASIDE_PROGRAMS) {
        let Some(program) = object.program(name) else {
            continue;
        };
        let program: &Xdp = program.try_into().map_err(of_program)?;
        let info = program.info().map_err(of_program)?;
        let fd = program
            .fd()
            .map_err(of_program)?
            .try_clone()
            .map_err(|source| BpfError::System {
                what: "keep the loaded program".to_owned(),
                source,
            })?;
        let Some(map) = object.map_mut(ASIDES) else {
            continue;
        };
        let of_map = |error| refused(EbpfError::MapError(error));
        let mut asides = ProgramArray::try_from(map).map_err(of_map)?;
        asides.set(place, &fd, 0).map_err(of_map)?;
        loaded.push(info);
    }
    Ok(loaded)
}

fn of_program(error: ProgramError) -> BpfError {
    refused(EbpfError::ProgramError(error))
}

/// Sorts aya's errors by what can be done about them.
pub(super) fn refused(error: EbpfError) -> BpfError {
    if let EbpfError::ProgramError(ProgramError::LoadError {
        io_error,
        verifier_log,
    }) = error
    {
        return BpfError::Refused {
            source: io_error,
            log: verifier_log.to_string(),
        };
    }
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        cause = inner.source();
    }
    BpfError::Object { why }
}
