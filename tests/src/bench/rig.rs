//! One compiled object with the maps of one case, and the driver that feeds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, ProgramArray},
    programs::Xdp,
};
use lb_common::counter::{self, Global, Totals};
use lb_ebpf::{
    bench::{Plan, Progress, STAMPS, TARGET},
    fixture::world::Ends,
    mem::{self, MemTables},
    verdict::Action,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Case, world};
use crate::kernel::{self, Kernel};

/// Where maps are pinned for as long as two objects are being loaded that share them.
const PINS: &str = "/sys/fs/bpf";

/// The benchmark's compiled programs, that FAIRLEAD_BENCH_OBJECT names.
pub fn driver_bytes() -> Result<Vec<u8>> {
    let path = std::env::var_os("FAIRLEAD_BENCH_OBJECT")
        .filter(|path| !path.is_empty())
        .context(
            "FAIRLEAD_BENCH_OBJECT does not name the compiled driver (run cargo xtask bench)",
        )?;
    std::fs::read(&path)
        .with_context(|| format!("read the compiled driver {}", Path::new(&path).display()))
}

/// Runs a closure where interfaces and pins are its own: see [`kernel::in_namespace`].
pub fn in_namespace<R: Send>(work: impl FnOnce(Ends) -> Result<R> + Send) -> Result<R> {
    kernel::in_namespace(|ends| {
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .context("keep mounts to ourselves")?;
        mount(
            Some("bpf"),
            PINS,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount a BPF file system at {PINS}"))?;
        work(ends)
    })?
}

/// The fewest packets between two readings of the clock, unless there are fewer.
const CHUNK: u64 = 1024;

/// Packets between two readings of the clock, a power of two.
fn chunk(packets: u64) -> u64 {
    let fitting = (packets / u64::from(STAMPS / 2)).next_power_of_two();
    let whole = 1 << packets.max(1).ilog2();
    fitting.max(CHUNK).min(whole)
}

/// The mean of the middle half of a series that is not empty.
fn middle_mean(mut series: Vec<f64>) -> f64 {
    series.sort_by(f64::total_cmp);
    let quarter = series.len() / 4;
    let middle = &series[quarter..series.len() - quarter];
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// What the driver calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The data plane.
    DataPlane,
    /// Nothing: `return XDP_TX`.
    Null,
    /// Both MAC addresses exchanged.
    MacSwap,
    /// Room for an IPv4 header made before the packet.
    Grow,
    /// One lookup in a kernel hash map.
    HashLookup,
    /// One load from the flow table, of another line for each flow.
    FlowLine,
}

impl Target {
    const FLOORS: [(Self, &str); 5] = [
        (Self::Null, "null"),
        (Self::MacSwap, "mac_swap"),
        (Self::Grow, "grow"),
        (Self::HashLookup, "hash_lookup"),
        (Self::FlowLine, "flow_line"),
    ];
}

/// A rig.
pub struct Rig {
    /// What it is for.
    pub case: Case,
    /// The maps as they were configured; flows and counters as the host's runs leave them.
    pub tables: MemTables,
    /// Instructions that the verifier followed.
    pub verified: u32,
    /// The driver's plan for a run of one packet.
    pub plan: Plan,
    kernel: Kernel,
    driver: Ebpf,
    frame: Vec<u8>,
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("the driver's object has no program {name}"))?
        .try_into()?)
}

impl Rig {
    /// Loads both objects. To be called in [`in_namespace`].
    pub fn new(object: &[u8], driver: &[u8], case: &Case, ends: Ends) -> Result<Self> {
        let tables = world::tables(case, &ends)?;
        Self::over(object, driver, case, tables, ends)
    }

    /// The same over other maps than the case's own.
    pub fn over(
        object: &[u8],
        driver: &[u8],
        case: &Case,
        tables: MemTables,
        ends: Ends,
    ) -> Result<Self> {
        let (mut kernel, verified) = Kernel::load_object(object, &tables, ends, false)?;
        kernel.configure(&tables)?;
        let pin = PathBuf::from(PINS).join("flows");
        kernel.pin("flows", &pin)?;
        let loaded = EbpfLoader::new().map_pin_path("flows", &*pin).load(driver);
        std::fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        let mut driver = loaded.context("make the driver's maps")?;
        let floors = Target::FLOORS.iter().map(|(_, name)| *name);
        for name in std::iter::once("driver").chain(floors) {
            program(&mut driver, name)?
                .load()
                .with_context(|| format!("load the driver's program {name}"))?;
        }
        let mut rig = Self {
            plan: Plan {
                set_mask: u64::from(tables.header.flow_sets - 1),
                ..world::plan(case, 1)
            },
            frame: world::frame(case, 0),
            case: case.clone(),
            tables,
            verified: verified.instructions,
            kernel,
            driver,
        };
        rig.enter_hash_key()?;
        Ok(rig)
    }

    /// What the floor `hash_lookup` looks up: address, port and protocol as they lie in the packet.
    fn enter_hash_key(&mut self) -> Result<()> {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&self.frame[30..34]);
        key[16..18].copy_from_slice(&self.frame[36..38]);
        key[18] = self.frame[23];
        let map = self.driver.map_mut("hash").context("no map hash")?;
        let mut hash: HashMap<_, [u8; 20], u64> = map.try_into()?;
        hash.insert(key, 1, 0).context("write map hash")
    }

    fn aim(&mut self, target: Target) -> Result<()> {
        let fd = match Target::FLOORS.iter().find(|(floor, _)| *floor == target) {
            Some((_, name)) => program(&mut self.driver, name)?.fd()?.try_clone()?,
            None => self.kernel.program()?.fd()?.try_clone()?,
        };
        let map = self.driver.map_mut("targets").context("no map targets")?;
        let mut targets: ProgramArray<_> = map.try_into()?;
        targets
            .set(TARGET, &fd, 0)
            .with_context(|| format!("let the driver call {target:?}"))
    }

    fn array<const N: usize>(
        &mut self,
        name: &str,
    ) -> Result<Array<&mut aya::maps::MapData, [u8; N]>> {
        let map = self
            .driver
            .map_mut(name)
            .with_context(|| format!("no map {name}"))?;
        Ok(map.try_into()?)
    }

    fn prepare(&mut self, target: Target, plan: &Plan, flow: u64) -> Result<()> {
        self.aim(target)?;
        let plan: [u8; size_of::<Plan>()] = bytemuck::cast(*plan);
        self.array("plan")?
            .set(0, plan, 0)
            .context("write map plan")?;
        let progress = Progress {
            flow,
            service: u64::from(world::service(&self.case, flow)),
            ..Progress::default()
        };
        let progress: [u8; size_of::<Progress>()] = bytemuck::cast(progress);
        self.array("progress")?
            .set(0, progress, 0)
            .context("write map progress")
    }

    fn driver(&self) -> Result<&Xdp> {
        Ok(self
            .driver
            .program("driver")
            .context("no program driver")?
            .try_into()?)
    }

    /// One packet of a flow through the driver and a target: what it returned and made of the frame. The driver
    /// gets a frame with other bytes and has to make the right ones.
    pub fn one(&mut self, target: Target, flow: u64) -> Result<(Action, Vec<u8>)> {
        let plan = Plan {
            // The one is not the last.
            packets: 2,
            chunk_mask: 1,
            chunk_shift: 1,
            ..self.plan
        };
        self.prepare(target, &plan, flow)?;
        let mut frame = vec![0xff; self.frame.len()];
        let headers = self.case.shape().bytes();
        frame[headers..].copy_from_slice(&self.frame[headers..]);
        let ifindex = self.kernel.ends().client;
        let (action, output, _) = kernel::run(self.driver()?, &frame, ifindex, 1)?;
        Ok((action, output))
    }

    /// Runs this many packets, one flow after the other from this one on. Gives nanoseconds a packet: the mean of the
    /// middle half of all chunks. Chunks that another task or an interrupt fell into are in the dearest
    /// quarter; a trend over the run is kept.
    pub fn time(&mut self, target: Target, first: u64, packets: u64) -> Result<f64> {
        let chunk = chunk(packets);
        let plan = Plan {
            packets,
            chunk_mask: chunk - 1,
            chunk_shift: u64::from(chunk.trailing_zeros()),
            ..self.plan
        };
        self.prepare(target, &plan, first)?;
        let repeat = u32::try_from(packets + 1)?;
        let ifindex = self.kernel.ends().client;
        let (action, _, _) = kernel::run(self.driver()?, &self.frame, ifindex, repeat)?;
        let bytes: [u8; size_of::<Progress>()] = self.array("progress")?.get(&0, 0)?;
        let progress: Progress = bytemuck::cast(bytes);
        ensure!(
            action == Action::Drop && progress.packets == packets,
            "the driver ended with {action:?} after {} of {packets} packets",
            progress.packets
        );
        let stamps = self.array::<8>("stamps")?;
        let count = u32::try_from(packets / chunk)? + 1;
        let stamps: Vec<u64> = (0..count)
            .map(|index| Ok(u64::from_ne_bytes(stamps.get(&index, 0)?)))
            .collect::<Result<_>>()?;
        let chunks = stamps
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64 / chunk as f64)
            .collect();
        Ok(middle_mean(chunks))
    }

    /// The counters so far.
    pub fn counted(&mut self) -> Result<Counted> {
        let lines = self.kernel.counters(&self.tables)?;
        let per_cpu = self.tables.control.lines_per_cpu;
        let of = |backend| {
            let line = counter::BACKEND_LINE + backend;
            let handshakes = counter::handshake_line(per_cpu, backend);
            counter::new_flows(&lines[line as usize], &lines[handshakes as usize])
        };
        Ok(Counted {
            totals: mem::totals(&lines),
            new_flows: (0..self.tables.header.backends).map(of).sum(),
        })
    }

    /// Frees every entry of the flow table.
    pub fn clear_flows(&mut self) -> Result<()> {
        self.kernel.clear_flows()
    }

    /// Frees the one entry that the table holds before each packet from now on.
    pub fn clear_before_each(&mut self) -> Result<()> {
        let flows = self.kernel.flows()?;
        let live: Vec<(usize, usize)> = flows
            .iter()
            .enumerate()
            .flat_map(|(set, line)| {
                let live = line.iter().enumerate().filter(|(_, word)| **word != 0);
                live.map(move |(way, _)| (set, way))
            })
            .collect();
        let [(set, way)] = live[..] else {
            anyhow::bail!("the flow table holds {live:?} after one flow, not one entry");
        };
        self.plan.clears = 1;
        self.plan.set = u32::try_from(set)?;
        self.plan.way = u32::try_from(way)?;
        Ok(())
    }

    /// The counters of our CPU, line by line.
    pub fn counter_lines(&mut self) -> Result<Vec<[u64; 8]>> {
        self.kernel.counters(&self.tables)
    }

    /// Drops what only the host's runs need: of ten million flows half a gigabyte.
    pub fn forget_host(&mut self) {
        let tables = &mut self.tables;
        (tables.flows, tables.return_hops) = (Vec::new(), Vec::new());
        (tables.rings, tables.endpoints) = (Vec::new(), Vec::new());
    }

    /// The data plane.
    pub fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Writes what the control plane owns once more.
    pub fn configure(&mut self) -> Result<()> {
        self.kernel.configure(&self.tables)
    }

    /// The interfaces.
    pub fn ends(&self) -> Ends {
        self.kernel.ends()
    }
}

/// What the counters say about a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Global counters and drops.
    pub totals: Totals,
    /// Flows scheduled to any backend.
    pub new_flows: u64,
}

impl Counted {
    /// One of the global counters.
    pub fn global(&self, which: Global) -> u64 {
        self.totals.global[which as usize]
    }

    /// What came on top of an earlier reading.
    pub fn since(&self, before: &Self) -> Self {
        let mut change = *self;
        for (new, old) in change.totals.global.iter_mut().zip(before.totals.global) {
            *new = new.wrapping_sub(old);
        }
        for (new, old) in change.totals.drops.iter_mut().zip(before.totals.drops) {
            *new = new.wrapping_sub(old);
        }
        change.new_flows = change.new_flows.wrapping_sub(before.new_flows);
        change
    }
}
