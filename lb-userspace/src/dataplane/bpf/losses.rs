//! What the kernel and its drivers lose of what the data plane has sent ([`lb_common::losses`]): programs at the kernel's
//! tracepoints, for as long as this process lives. They count from when it began.

mod offsets;

use aya::maps::PerCpuHashMap;
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::losses::{Loss, Place};
use nix::net::if_::if_indextoname;
use nix::sys::stat::stat;

use super::error::BpfError;
use super::program::refused;

/// The programs, and the tracepoints that they are for.
const PROGRAMS: [(&str, &str); 4] = [
    ("fairlead_exception", "xdp_exception"),
    ("fairlead_redirect", "xdp_redirect_err"),
    ("fairlead_transmit", "xdp_devmap_xmit"),
    ("fairlead_reflect", "xdp_bulk_tx"),
];

/// The kernel's description of its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Packets that were lost at one interface in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The interface's name, or its index where it is gone.
    pub interface: String,
    /// How.
    pub loss: Loss,
    /// How many.
    pub packets: u64,
}

/// The loaded programs. Dropping it takes them away.
pub struct LossPrograms(Ebpf);

impl LossPrograms {
    /// Loads them for the network namespace of this process.
    pub fn load(object: &[u8]) -> Result<Self, BpfError> {
        if object.is_empty() {
            return Err(BpfError::NotBuilt);
        }
        let types = std::fs::read(TYPES).map_err(|error| BpfError::Object {
            why: format!(
                "{TYPES}: {error} (a kernel built with CONFIG_DEBUG_INFO_BTF describes its types there)"
            ),
        })?;
        let at = |path: &[&str]| {
            offsets::offset(&types, path).ok_or_else(|| BpfError::Object {
                why: format!("{TYPES} has no {}", path.join(".")),
            })
        };
        let namespace = stat("/proc/self/ns/net").map_err(BpfError::errno("stat"))?;
        // The kernel has 32 bits for it (`ns_common`).
        let inode = u32::try_from(namespace.st_ino).map_err(|_| BpfError::Object {
            why: format!(
                "network namespace {} has too long a number",
                namespace.st_ino
            ),
        })?;
        let (ifindex, net) = (
            at(&["net_device", "ifindex"])?,
            at(&["net_device", "nd_net"])?,
        );
        let number = at(&["net", "ns", "inum"])?;

        let mut loader = EbpfLoader::new();
        loader.override_global("IFINDEX_AT", &ifindex, true);
        loader.override_global("NET_AT", &net, true);
        loader.override_global("INODE_AT", &number, true);
        loader.override_global("NAMESPACE", &inode, true);
        let mut ebpf = loader.load(object).map_err(refused)?;
        for (name, tracepoint) in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or_else(|| BpfError::Object {
                why: format!("the object has no program '{name}'"),
            })?;
            let program: &mut RawTracePoint = program
                .try_into()
                .map_err(|error| refused(EbpfError::ProgramError(error)))?;
            program
                .load()
                .and_then(|()| program.attach(tracepoint))
                .map_err(|error| refused(EbpfError::ProgramError(error)))?;
        }
        Ok(Self(ebpf))
    }

    /// All that was lost until now.
    pub fn read(&self) -> Result<Vec<Lost>, BpfError> {
        let map_refused = |error| refused(EbpfError::MapError(error));
        let map = self.0.map("losses").ok_or_else(|| BpfError::Object {
            why: "the object has no map 'losses'".to_owned(),
        })?;
        let map = PerCpuHashMap::<_, [u32; 2], u64>::try_from(map).map_err(map_refused)?;
        let mut all = Vec::new();
        for entry in map.iter() {
            let (key, of_each_cpu) = entry.map_err(map_refused)?;
            let Place { ifindex, loss } = bytemuck::cast(key);
            let Some(loss) = Loss::ALL.into_iter().find(|known| *known as u32 == loss) else {
                continue;
            };
            let name = if_indextoname(ifindex).ok();
            let name = name.and_then(|name| name.into_string().ok());
            all.push(Lost {
                interface: name.unwrap_or_else(|| ifindex.to_string()),
                loss,
                packets: of_each_cpu.iter().sum(),
            });
        }
        Ok(all)
    }
}
