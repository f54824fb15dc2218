//! The program that takes checks to the VIP ([`lb_common::probe`]) in the kernel: on both ends of the stack of each interface,
//! for as long as this process lives.
//!
//! From Linux 6.6 on a link holds it there (TCX), which ends with its descriptor, whichever way the process ends. On older
//! kernels it is a filter of the qdisc `clsact`, which outlives a process that is killed: the next one takes it away before it
//! adds its own, and `fairlead unload` takes it away for good.

mod clsact;

use std::collections::BTreeMap;

use aya::maps::Array;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::probe::{MARKS, ProbePath};

use super::error::BpfError;
use super::host;
use super::netdev;
use super::program::refused;

/// Its programs by the end of the stack that they are for.
const PROGRAMS: [(TcAttachType, &str); 2] = [
    (TcAttachType::Egress, "fairlead_probe_out"),
    (TcAttachType::Ingress, "fairlead_probe_in"),
];

/// The first kernel with TCX (commit e420bed02507).
const TCX: (u32, u32) = (6, 6);

/// What holds the programs in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A link, from Linux 6.6 on.
    Tcx,
    /// A filter.
    Clsact,
}

impl Holder {
    /// The best of this kernel.
    pub fn best() -> Result<Self, BpfError> {
        let name = nix::sys::utsname::uname().map_err(BpfError::errno("uname"))?;
        let found = host::kernel_version(&name.release().to_string_lossy());
        Ok(match found.is_some_and(|found| found >= TCX) {
            true => Self::Tcx,
            false => Self::Clsact,
        })
    }
}

/// The programs on one interface.
struct On {
    ifindex: u32,
    links: Vec<SchedClassifierLink>,
}

/// The loaded programs. Dropping it takes them away.
pub struct ProbePrograms {
    ebpf: Ebpf,
    holder: Holder,
    paths: BTreeMap<u32, ProbePath>,
    on: BTreeMap<String, On>,
}

impl ProbePrograms {
    /// Loads them for the marks from this one on.
    pub fn load(object: &[u8], first_mark: u32, holder: Holder) -> Result<Self, BpfError> {
        if object.is_empty() {
            return Err(BpfError::NotBuilt);
        }
        let mut loader = EbpfLoader::new();
        loader.override_global("FIRST_MARK", &first_mark, true);
        let mut ebpf = loader.load(object).map_err(refused)?;
        for (_, name) in PROGRAMS {
            program(&mut ebpf, name)?.load().map_err(program_refused)?;
        }
        Ok(Self {
            ebpf,
            holder,
            paths: BTreeMap::new(),
            on: BTreeMap::new(),
        })
    }

    /// What becomes of packets with marks, by mark - the first: the complete list.
    pub fn set_paths(&mut self, wanted: &BTreeMap<u32, ProbePath>) -> Result<(), BpfError> {
        let map = self.ebpf.map_mut("paths").ok_or_else(|| BpfError::Object {
            why: "the object has no map 'paths'".to_owned(),
        })?;
        let map_refused = |error| refused(EbpfError::MapError(error));
        let mut map =
            Array::<_, [u8; size_of::<ProbePath>()]>::try_from(map).map_err(map_refused)?;
        let gone = self.paths.keys().filter(|mark| !wanted.contains_key(mark));
        let gone = gone.map(|mark| (*mark, ProbePath::NONE));
        let changed = wanted
            .iter()
            .map(|(mark, path)| (*mark, *path))
            .filter(|(mark, path)| self.paths.get(mark) != Some(path));
        for (mark, path) in gone.chain(changed) {
            debug_assert!(mark < MARKS);
            map.set(mark, bytemuck::cast::<ProbePath, [u8; 48]>(path), 0)
                .map_err(map_refused)?;
        }
        self.paths.clone_from(wanted);
        Ok(())
    }

    /// Puts them on these interfaces, as far as there are any of these names, and takes them off all others. Gives the
    /// interfaces that refused them.
    pub fn keep_on(&mut self, interfaces: &[String]) -> Vec<(String, BpfError)> {
        let gone: Vec<String> = self
            .on
            .keys()
            .filter(|name| !interfaces.contains(name))
            .cloned()
            .collect();
        for name in gone {
            self.leave(&name);
        }
        let mut failed = Vec::new();
        for name in interfaces {
            let there = netdev::ifindex(name);
            let known = self.on.get(name).map(|on| on.ifindex);
            if there == known {
                continue;
            }
            // What was attached to an interface that is gone went with it.
            self.on.remove(name);
            let Some(ifindex) = there else { continue };
            match self.attach(name) {
                Ok(links) => {
                    self.on.insert(name.clone(), On { ifindex, links });
                }
                Err(error) => failed.push((name.clone(), error)),
            }
        }
        failed
    }

    fn attach(&mut self, interface: &str) -> Result<Vec<SchedClassifierLink>, BpfError> {
        if self.holder == Holder::Clsact {
            clear(interface)?;
            clsact::add(interface)?;
        }
        let mut links = Vec::new();
        for (end, name) in PROGRAMS {
            // Before others, which still run after it: one that lets a packet pass ends the chain.
            let options = || match self.holder {
                Holder::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
                Holder::Clsact => TcAttachOptions::Netlink(NlOptions {
                    priority: 1,
                    ..NlOptions::default()
                }),
            };
            let (options, fallback) = (options(), TcAttachOptions::Netlink(NlOptions::default()));
            let program = program(&mut self.ebpf, name)?;
            let mut id = program.attach_with_options(interface, end, options);
            if id.is_err() && self.holder == Holder::Clsact {
                // The first place is of filters of another kind or protocol.
                id = program.attach_with_options(interface, end, fallback);
            }
            let link = id
                .and_then(|id| program.take_link(id))
                .map_err(program_refused)?;
            links.push(link);
        }
        Ok(links)
    }

    fn leave(&mut self, interface: &str) {
        let Some(On { links, .. }) = self.on.remove(interface) else {
            return;
        };
        drop(links);
        if self.holder == Holder::Clsact
            && let Err(error) = clsact::remove_if_empty(interface)
        {
            tracing::warn!(%interface, "take the qdisc clsact away: {error}");
        }
    }
}

impl Drop for ProbePrograms {
    fn drop(&mut self) {
        let all: Vec<String> = self.on.keys().cloned().collect();
        for interface in all {
            self.leave(&interface);
        }
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier, BpfError> {
    ebpf.program_mut(name)
        .ok_or_else(|| BpfError::Object {
            why: format!("the object has no program '{name}'"),
        })?
        .try_into()
        .map_err(program_refused)
}

fn program_refused(error: ProgramError) -> BpfError {
    refused(EbpfError::ProgramError(error))
}

/// Takes away what a killed process has left on an interface.
pub fn clear(interface: &str) -> Result<(), BpfError> {
    if clsact::remove_filters(interface, &PROGRAMS)? {
        clsact::remove_if_empty(interface)?;
    }
    Ok(())
}
