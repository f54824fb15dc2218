//! What stands in a directory of pins: the program and which object it is of, half made remains, and
//! their removal.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use lb_common::header::{LAYOUT_VERSION, MAGIC};

use super::debug_log::DebugLog;
use super::error::BpfError;
use super::geometry::Geometry;
use super::program::{self, Program, ProgramOptions};
use super::{Settings, links, maps, place, sys};

/// The pin of the program.
pub(crate) const PROGRAM_PIN: &str = "program";
/// Where the next program is pinned before it takes the place of the last one.
const NEXT_PROGRAM_PIN: &str = "program-next";
/// An empty directory whose name says which object `program` was loaded from.
const FINGERPRINT: &str = "object-";
/// What the pin of a map `asides` begins with.
const ASIDES: &str = "asides-";

/// The pin of a program's map `asides`: of each program apart, as an interface may still run the last one while the next
/// one is pinned.
pub(crate) fn asides(program: u32) -> String {
    format!("{ASIDES}{program}")
}

/// Removes the pins of `asides` of programs that are neither pinned nor run by a pinned link.
pub(crate) fn forget_asides(directory: &Path) -> Result<(), BpfError> {
    let mut needed = links::programs(directory)?;
    if let Ok(program) = sys::open_pin(&directory.join(PROGRAM_PIN)) {
        let info = sys::program_info(program.as_fd());
        needed.push(
            info.map_err(BpfError::system("look at the pinned program"))?
                .id,
        );
    }
    let needed: Vec<_> = needed.into_iter().map(asides).collect();
    place::list(directory)?
        .iter()
        .filter(|name| name.starts_with(ASIDES) && !needed.contains(name))
        .try_for_each(|name| place::unlink(&directory.join(name)))
}

/// Loads this binary's program over the maps in `directory` and puts it in the place of the pinned
/// one. At every moment there is a pinned program, and a fingerprint only if it is that one's.
pub(crate) fn load_and_pin(
    settings: &Settings,
    directory: &Path,
    geometry: &Geometry,
) -> Result<(Program, Option<DebugLog>), BpfError> {
    let (program, mut object) =
        program::load(settings.object, directory, geometry, options(settings))?;
    let log = settings
        .debug_log
        .then(|| DebugLog::new(&mut object))
        .transpose()?;
    for name in place::list(directory)? {
        let path = directory.join(&name);
        let stale = match name.as_str() {
            NEXT_PROGRAM_PIN => fs::remove_file(&path),
            _ if name.starts_with(FINGERPRINT) => fs::remove_dir(&path),
            _ => continue,
        };
        stale.map_err(BpfError::system(format!("remove {}", path.display())))?;
    }
    // Before the program: whoever finds that finds this.
    if let Some(fd) = program.asides() {
        let path = directory.join(asides(program.id()));
        place::unlink(&path)?;
        sys::pin(fd, &path).map_err(BpfError::system(format!("pin {}", path.display())))?;
    }
    let next = directory.join(NEXT_PROGRAM_PIN);
    sys::pin(program.fd(), &next).map_err(BpfError::system(format!("pin {}", next.display())))?;
    let pin = directory.join(PROGRAM_PIN);
    fs::rename(&next, &pin).map_err(BpfError::system(format!("pin {}", pin.display())))?;
    place::create_path(&fingerprint(settings, directory))?;
    Ok((program, log))
}

/// The pinned program if it was loaded from this binary's object in the same way. A program that logs
/// is always loaded anew: its log can only be had from the loader.
pub(crate) fn same_program(settings: &Settings, directory: &Path) -> Option<Program> {
    if settings.debug_log || !fingerprint(settings, directory).is_dir() {
        return None;
    }
    Program::pinned(&directory.join(PROGRAM_PIN), |id| {
        directory.join(asides(id))
    })
    .ok()
}

fn options(settings: &Settings) -> ProgramOptions {
    ProgramOptions {
        read_only: false,
        debug_log: settings.debug_log,
    }
}

/// The empty directory that stands for what `settings` would load.
fn fingerprint(settings: &Settings, directory: &Path) -> PathBuf {
    let name = program::fingerprint(settings.object, options(settings));
    directory.join(format!("{FINGERPRINT}{name}"))
}

/// True for what a crash during creation leaves: no link, and a header that was never written, or not
/// completed. Anything else that is odd is for a person to look at.
pub(crate) fn abandoned(directory: &Path) -> Result<bool, BpfError> {
    if !links::pinned_interfaces(directory)?.is_empty() {
        return Ok(false);
    }
    Ok(match maps::pinned_header(directory)? {
        None => true,
        Some(header) => {
            header.magic == 0 && bytemuck::bytes_of(&header).iter().all(|&byte| byte == 0)
                || header.magic == MAGIC
                    && header.layout_version == LAYOUT_VERSION
                    && header.complete == 0
        }
    })
}

/// Removes a directory of pins, the links first, so that no packet meets half a data plane.
pub(crate) fn remove_layout(directory: &Path) -> Result<(), BpfError> {
    let names = place::list(directory)?;
    for pin in names.iter().filter(|name| name.starts_with("link-")) {
        links::release(directory, pin)?;
    }
    // Pins of an unknown layout may stand in directories of their own.
    fs::remove_dir_all(directory)
        .map_err(BpfError::system(format!("remove {}", directory.display())))
}
