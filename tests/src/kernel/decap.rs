//! The compiled decapsulator in the kernel, run packet by packet, with rules that are copied from [`MemRules`].

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::decap::{AddressPrefix, Fate};
use lb_ebpf::decap::fixture::MemRules;

use super::{LARGEST, Verified, object_path, read_object};

const PROGRAM: &str = "fairlead_decap";

/// The loaded program and its maps.
pub struct Decapsulator {
    ebpf: Ebpf,
}

/// The compiled decapsulator, which stands beside the data plane.
pub fn object_bytes() -> Result<Vec<u8>> {
    let path = object_path(std::env::var_os("FAIRLEAD_BPF_OBJECT"))?;
    read_object(Some(path.with_file_name("fairlead-decap-bpf").into()))
}

impl Decapsulator {
    /// Loads the program with these rules. To be called in [`super::in_namespace`].
    pub fn load(rules: &MemRules) -> Result<(Self, Verified)> {
        let mut ebpf = EbpfLoader::new()
            .load(&object_bytes()?)
            .context("make the maps")?;
        let map = ebpf.map_mut("trusted").context("no map of sources")?;
        let mut trusted = Array::<_, [u8; size_of::<AddressPrefix>()]>::try_from(map)?;
        for (slot, source) in (0..).zip(&rules.trusted) {
            trusted.set(slot, bytemuck::cast::<AddressPrefix, [u8; 32]>(*source), 0)?;
        }
        let map = ebpf.map_mut("vip_prefixes").context("no map of VIPs")?;
        let mut vips = Array::<_, [u8; size_of::<AddressPrefix>()]>::try_from(map)?;
        for (slot, prefix) in (0..).zip(&rules.vip_prefixes) {
            vips.set(slot, bytemuck::cast::<AddressPrefix, [u8; 32]>(*prefix), 0)?;
        }
        let map = ebpf.map_mut("gue_port").context("no map of the port")?;
        Array::<_, u32>::try_from(map)?.set(0, u32::from(rules.gue_port), 0)?;
        let map = ebpf.map_mut("addresses").context("no map of addresses")?;
        let mut addresses = HashMap::<_, [u8; 16], u32>::try_from(map)?;
        for (address, standing) in &rules.addresses {
            addresses.insert(address.0, *standing as u32, 0)?;
        }
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .context("the object has no program")?
            .try_into()?;
        let begin = std::time::Instant::now();
        program.load().context("load the program")?;
        let took = begin.elapsed();
        let instructions = program
            .info()?
            .verified_instruction_count()
            .context("the kernel does not say how many instructions it verified")?;
        Ok((Self { ebpf }, Verified { instructions, took }))
    }

    /// Runs the program over a frame: true if it is passed on, and the frame afterwards.
    pub fn run(&self, frame: &[u8]) -> Result<(bool, Vec<u8>)> {
        let mut output = vec![0; LARGEST];
        let (passed, length) = self.run_into(frame, &mut output)?;
        output.truncate(length);
        Ok((passed, output))
    }

    /// The same into a buffer, which holds every frame; how much of it.
    pub fn run_into(&self, frame: &[u8], output: &mut [u8]) -> Result<(bool, usize)> {
        let program: &Xdp = self
            .ebpf
            .program(PROGRAM)
            .context("the object has no program")?
            .try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(output),
            repeat: 1,
            ..TestRunOptions::default()
        })?;
        let length = result.data_size_out as usize;
        match result.return_value {
            1 => Ok((false, length)),
            2 => Ok((true, length)),
            other => bail!("the program returned {other}"),
        }
    }

    /// Packets by fate, over all CPUs.
    pub fn fates(&self) -> Result<Vec<u64>> {
        let map = self.ebpf.map("fates").context("no map of counters")?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        Fate::ALL
            .iter()
            .map(|fate| Ok(map.get(&(*fate as u32), 0)?.iter().sum()))
            .collect()
    }
}
