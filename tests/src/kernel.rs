//! The compiled data plane in the kernel, run packet by packet with `BPF_PROG_TEST_RUN` over maps that
//! are copied from [`MemTables`]: the twin of the library, for the same fixtures.
//!
//! Everything happens on one thread in a network namespace of its own ([`in_namespace`]), which has two
//! interfaces and goes with the thread. The kernel's clock cannot be set, so the flow table and the
//! echo limiter travel between a fixture's time and the kernel's: `kernel/maps.rs`.

pub mod cases;
pub mod decap;
mod mapped;
mod maps;
pub mod object;
mod verifier;

pub use verifier::Statistics;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{TestRun, TestRunOptions, Xdp},
};
use lb_common::{Epoch, Nanos, Tunnel, backend::DEVICES};
use lb_ebpf::{
    fixture::{Changes, Step, changes, tagging::Tagging, world::Ends},
    mem::{self, MemTables},
    verdict::{Action, Verdict},
};
use lb_userspace::dataplane::bpf;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use rtnetlink::LinkVeth;

/// The program's name in the object.
const PROGRAM: &str = "fairlead";
/// The names of all programs in the object.
const PROGRAMS: [&str; 3] = [PROGRAM, "fairlead_tagged", "fairlead_aside"];
/// The least that the kernel runs a program over: an Ethernet header.
pub const SHORTEST: usize = 14;
/// Room for a packet that comes back.
const LARGEST: usize = 4096;
/// Bytes that a frame of `BPF_PROG_TEST_RUN` can grow by in front: `XDP_PACKET_HEADROOM` without what the kernel keeps for its
/// `struct xdp_frame`.
const ROOM: u16 = 256 - 40;
/// How often a step is tried again because the kernel's epoch or second changed under it.
const ATTEMPTS: u32 = 5;

/// The loaded program and its maps.
pub struct Kernel {
    ebpf: Ebpf,
    ends: Ends,
    cpus: u32,
    cpu: u32,
}

/// What the verifier said.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// Instructions that it followed; at most a million.
    pub instructions: u32,
    /// How long loading took.
    pub took: Duration,
}

/// What became of a packet in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned.
    pub action: Action,
    /// The frame afterwards.
    pub output: Vec<u8>,
    /// How the counters changed.
    pub counters: Changes,
    /// Map `flows` afterwards, as of the fixture's time.
    pub flows: Vec<[u64; 8]>,
    /// Map `return_hops` afterwards.
    pub return_hops: Vec<[u64; 8]>,
    /// Map `nat_flows` afterwards, as of the fixture's time.
    pub nat_flows: Vec<[u64; 8]>,
    /// Map `fragments` afterwards.
    pub fragments: Vec<[u64; 8]>,
    /// What the data plane has written into map `backends`, by BackendId.
    pub paths: Vec<Tunnel>,
    /// Map `affinities` afterwards.
    pub affinities: Vec<[u64; 8]>,
}

/// Runs a closure on a thread of its own in a network namespace of its own with two interfaces. Both end
/// with the closure, also when it panics.
pub fn in_namespace<R: Send>(work: impl FnOnce(Ends) -> R + Send) -> Result<R> {
    crate::topology::require_root()?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| make_ends().map(work));
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Moves this thread into a new namespace on one CPU, and makes a pair of interfaces there.
fn make_ends() -> Result<Ends> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        let pair = LinkVeth::new("client", "backend").build();
        handle
            .link()
            .add(pair)
            .execute()
            .await
            .context("make a veth pair")
    })?;
    let ends = Ends {
        client: nix::net::if_::if_nametoindex("client")?,
        backend: nix::net::if_::if_nametoindex("backend")?,
        tagging: Tagging::NONE,
    };
    ensure!(
        ends.client % DEVICES != ends.backend % DEVICES,
        "interfaces {ends:?} have the same slot"
    );
    Ok(ends)
}

/// Keeps this thread, and those that it starts, on one of the CPUs that it may use: counters of a CPU stand in one
/// place, and what a packet sets off runs where it was sent.
pub fn stay_on_one_cpu() -> Result<u32> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("read the CPU affinity")?;
    let cpu = (0..CpuSet::count())
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .context("no CPU is allowed")?;
    let cpu = u32::try_from(cpu)?;
    stay_on(cpu)?;
    Ok(cpu)
}

/// Keeps this thread on a CPU.
pub fn stay_on(cpu: u32) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu as usize)?;
    sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("stay on CPU {cpu}"))
}

/// The compiled object that FAIRLEAD_BPF_OBJECT names.
pub fn object_bytes() -> Result<Vec<u8>> {
    read_object(std::env::var_os("FAIRLEAD_BPF_OBJECT"))
}

/// Where the compiled object is.
fn object_path(path: Option<OsString>) -> Result<PathBuf> {
    path.filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .context("FAIRLEAD_BPF_OBJECT does not name the compiled data plane (run cargo xtask test)")
}

/// The compiled object at a path.
pub fn read_object(path: Option<OsString>) -> Result<Vec<u8>> {
    let path = object_path(path)?;
    std::fs::read(&path).with_context(|| {
        format!(
            "read the compiled data plane {} (run cargo xtask test)",
            path.display()
        )
    })
}

/// The program went somewhere that nobody opened for it: another redirect than the one that was expected, for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the program was aborted: a redirect to a slot that is not the verdict's?")
    }
}

impl std::error::Error for Aborted {}

impl Kernel {
    /// Loads the program with maps of these tables' sizes. To be called in [`in_namespace`].
    pub fn load(tables: &MemTables, ends: Ends, read_only: bool) -> Result<(Self, Verified)> {
        Self::load_object(&object_bytes()?, tables, ends, read_only)
    }

    /// The same of any compiled object.
    pub fn load_object(
        object: &[u8],
        tables: &MemTables,
        ends: Ends,
        read_only: bool,
    ) -> Result<(Self, Verified)> {
        let cpu = stay_on_one_cpu()?;
        let cpus = u32::try_from(aya::util::nr_cpus().map_err(|(_, error)| error)?)?;
        let mut loader = EbpfLoader::new();
        for (name, entries) in maps::sizes(tables, cpus) {
            loader.map_max_entries(name, entries);
        }
        if read_only {
            loader.override_global("READ_ONLY", &1_u8, true);
        }
        let mut ebpf = loader.load(object).context("make the maps")?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM)
            .context("the object has no program")?
            .try_into()?;
        let begin = std::time::Instant::now();
        program.load().context("load the program")?;
        let took = begin.elapsed();
        let mut instructions = program
            .info()?
            .verified_instruction_count()
            .context("the kernel does not say how many instructions it verified")?;
        // An older object, to be measured beside this one, may have none.
        for program in bpf::link_asides(&mut ebpf)? {
            instructions += program
                .verified_instruction_count()
                .context("the kernel does not say how many instructions it verified")?;
        }
        let kernel = Self {
            ebpf,
            ends,
            cpus,
            cpu,
        };
        Ok((kernel, Verified { instructions, took }))
    }

    /// Runs a step over maps that stand as `tables` does before it. The step's changes must have been
    /// made already, its packet must not.
    pub fn run_step(&mut self, tables: &MemTables, step: &Step) -> Result<Ran> {
        for _ in 0..ATTEMPTS {
            let before = Moment::now()?;
            maps::write(
                &mut self.ebpf,
                tables,
                self.cpu,
                self.cpus,
                step.at,
                before.nanos,
            )?;
            let ran = self.run(
                &self.ends.coming(step.ingress, &step.packet),
                self.ends.port(step.ingress),
                1,
            );
            // In another second it may have gone where nobody expects it.
            if !before.lasts()? {
                continue;
            }
            let (action, output, _) = ran?;
            let lines = maps::counters(&self.ebpf, tables, self.cpu, self.cpus)?;
            return Ok(Ran {
                action,
                output,
                counters: changes(&mem::words(&tables.counters), &lines),
                flows: maps::flows(&self.ebpf, before.epoch, Epoch::at(step.at))?,
                return_hops: maps::lines(&self.ebpf, "return_hops")?,
                nat_flows: mem::moved_nat_flows(
                    &maps::lines(&self.ebpf, "nat_flows")?,
                    before.nanos,
                    step.at,
                ),
                paths: maps::paths(&self.ebpf, before.nanos, step.at)?,
                affinities: mem::moved_affinities(
                    &maps::lines(&self.ebpf, "affinities")?,
                    before.nanos,
                    step.at,
                ),
                fragments: mem::moved_fragments(
                    &maps::lines(&self.ebpf, "fragments")?,
                    before.nanos,
                    step.at,
                ),
            });
        }
        bail!("the kernel's clock stepped over an epoch or a second {ATTEMPTS} times in turn")
    }

    /// Copies the tables into the maps.
    pub fn write(&mut self, tables: &MemTables, at: Nanos) -> Result<()> {
        let now = Moment::now()?.nanos;
        maps::write(&mut self.ebpf, tables, self.cpu, self.cpus, at, now)
    }

    /// Copies what the control plane writes; flows and counters stay as they are.
    pub fn configure(&mut self, tables: &MemTables) -> Result<()> {
        maps::configure(&mut self.ebpf, tables)
    }

    /// Frees every entry of the flow table.
    pub fn clear_flows(&mut self) -> Result<()> {
        maps::clear(&self.ebpf, "flows")
    }

    /// Writes map `flows`.
    pub fn write_flows(&mut self, lines: &[[u64; 8]]) -> Result<()> {
        maps::write_flows(&self.ebpf, lines)
    }

    /// Map `flows`, as it stands.
    pub fn flows(&mut self) -> Result<Vec<[u64; 8]>> {
        maps::lines(&self.ebpf, "flows")
    }

    /// The counters of our CPU; those of the others must be zero.
    pub fn counters(&mut self, tables: &MemTables) -> Result<Vec<[u64; 8]>> {
        maps::counters(&self.ebpf, tables, self.cpu, self.cpus)
    }

    /// The counters of every CPU.
    pub fn counters_by_cpu(&mut self) -> Result<Vec<Vec<[u64; 8]>>> {
        let lines = maps::lines(&self.ebpf, "counters")?;
        let per_cpu = lines.len() / self.cpus as usize;
        Ok(lines.chunks(per_cpu).map(<[_]>::to_vec).collect())
    }

    /// Writes the counters of every CPU, as [`Self::counters_by_cpu`] gives them.
    pub fn write_counters(&mut self, cpus: &[Vec<[u64; 8]>]) -> Result<()> {
        maps::write_counters(&self.ebpf, &cpus.concat())
    }

    /// Pins a map, so that another object can share it.
    pub fn pin(&self, map: &str, path: &std::path::Path) -> Result<()> {
        self.ebpf
            .map(map)
            .with_context(|| format!("the object has no map {map}"))?
            .pin(path)
            .with_context(|| format!("pin map {map} at {}", path.display()))
    }

    /// The program, for a tail call.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(PROGRAM)
            .context("the object has no program")?
            .try_into()?)
    }

    /// Lets redirects go to this verdict's slot only: to any other the program would be aborted.
    pub fn open_redirect(&mut self, verdict: Verdict) -> Result<()> {
        let slot = (verdict.action == Action::Redirect).then_some(verdict.detail);
        maps::open_redirect(&mut self.ebpf, &self.ends, slot)
    }

    /// Runs the program over a frame, `repeat` times with what is left of the frame; gives the last result and
    /// the mean time of a run.
    pub fn run(
        &self,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
    ) -> Result<(Action, Vec<u8>, Duration)> {
        run(self.program()?, frame, ifindex, repeat)
    }

    /// Runs the program once over a frame that may grow by `room` bytes in front, a multiple of four and at most [`ROOM`].
    pub fn run_in(&self, frame: &[u8], ifindex: u32, room: u16) -> Result<(Action, Vec<u8>)> {
        let (action, output, _) = run_behind(self.program()?, ROOM - room, frame, ifindex, 1)?;
        Ok((action, output))
    }

    /// From now on frames have tags, or none.
    pub fn tag(&mut self, tagging: Tagging) {
        self.ends = self.ends.tagged(tagging);
    }

    /// The interfaces.
    pub fn ends(&self) -> Ends {
        self.ends
    }
}

/// Runs a program over a frame, `repeat` times with what is left of the frame; gives the last result and
/// the mean time of a run.
pub fn run(
    program: &Xdp,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
) -> Result<(Action, Vec<u8>, Duration)> {
    run_behind(program, 0, frame, ifindex, repeat)
}

/// The same behind so many bytes of metadata, which take room away: the kernel moves them along with the frame's head.
fn run_behind(
    program: &Xdp,
    metadata: u16,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
) -> Result<(Action, Vec<u8>, Duration)> {
    let mut output = vec![0; LARGEST];
    let metadata = usize::from(metadata);
    let input = [&vec![0; metadata], frame].concat();
    let context = context(metadata as u32, u32::try_from(input.len())?, ifindex);
    let result = program.test_run(TestRunOptions {
        data_in: Some(&input),
        data_out: Some(&mut output),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::default()
    })?;
    output.truncate(result.data_size_out as usize);
    output.drain(..metadata.min(output.len()));
    // xdp_action in linux/bpf.h.
    let action = match result.return_value {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Tx,
        4 => Action::Redirect,
        0 => return Err(Aborted.into()),
        other => bail!("the program returned {other}"),
    };
    Ok((action, output, result.duration))
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(begin: u32, end: u32, ifindex: u32) -> [u8; 24] {
    bytemuck::cast([begin, end, 0, ifindex, 0, 0_u32])
}

/// A reading of the clock that the program reads.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time.
    pub nanos: Nanos,
    /// Its epoch.
    pub epoch: Epoch,
}

impl Moment {
    /// Now.
    pub fn now() -> Result<Self> {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("read the clock")?;
        let nanos = u64::try_from(Duration::from(time).as_nanos())?;
        Ok(Self {
            nanos,
            epoch: Epoch::at(nanos),
        })
    }

    /// True while the epoch and the limiter's second are still the same.
    pub fn lasts(&self) -> Result<bool> {
        let now = Self::now()?;
        Ok(now.epoch == self.epoch && now.nanos >> maps::SECOND == self.nanos >> maps::SECOND)
    }
}
