//! Packets at the balancer's switch port: made there by the kernel, and counted when they come back.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, PerCpuArray, ProgramArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_ebpf::bench::{Plan, Progress, Shape, TARGET, WIRE_SOURCE};
use lb_ebpf::fixture::packet::{Body, Packet, Sum};

use crate::bench::{rig::driver_bytes, world};
use crate::kernel::stay_on_one_cpu;
use crate::topology::{Mac, Namespace, Topology};

/// The switch port that faces the balancer.
const PORT: &str = "lb";
/// The interface of a balancer with one arm.
pub const BALANCER_DEVICE: &str = "eth0";
const BALANCER_MAC: Mac = [0x02, 0xf1, 0, 0, 0, 1];
const CLIENT_MAC: Mac = [0x02, 0xf1, 0, 0, 0, 2];
/// Packets between two readings of the clock. A burst is a multiple of it.
pub const CHUNK: u64 = 1024;
/// The largest burst; each reading of the clock has a place in a map.
pub const LARGEST: u64 = CHUNK * (lb_ebpf::bench::STAMPS as u64 - 1);
/// Frames that the kernel makes in a row before the interface sees them: a quarter of what a veth's queue holds
/// (VETH_RING_SIZE in drivers/net/veth.c).
const BATCH: u32 = 64;
/// What has not come back this long after the last that did is lost.
const QUIET: Duration = Duration::from_millis(50);

/// The generator and the counter at one switch port. Both end when this is dropped.
pub struct Wire {
    ebpf: Ebpf,
    switch: Namespace,
}

/// What became of packets that were sent at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// Made.
    pub sent: u64,
    /// Counted at the same port after the balancer.
    pub arrived: u64,
    /// From the first to the last.
    pub took: Duration,
}

impl Burst {
    /// Packets that came back, per second.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }
}

/// Loads the benchmark's programs, for attaching one of them or for a wire.
pub fn programs() -> Result<Ebpf> {
    EbpfLoader::new()
        .load(&driver_bytes()?)
        .context("make the maps of the benchmark's programs")
}

/// Loads one program.
pub fn load<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .with_context(|| format!("the benchmark's object has no program {name}"))?
        .try_into()?;
    program
        .load()
        .with_context(|| format!("load the benchmark's program {name}"))?;
    Ok(program)
}

/// A datagram of 64 bytes of flow 0.
fn frame(to: SocketAddr) -> Vec<u8> {
    let [a, b] = WIRE_SOURCE;
    let (low, port) = lb_ebpf::bench::source(0);
    let [c, d] = low.to_be_bytes();
    Packet {
        to: BALANCER_MAC,
        from: CLIENT_MAC,
        source: SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)),
        destination: to,
        ttl: 64,
        body: Body::Udp {
            data: vec![0x5a; Shape::V4Udp.bytes() - 14 - 20 - 8],
        },
        sum: Sum::Right,
        class: 0,
        padding: Vec::new(),
    }
    .bytes()
}

impl Wire {
    /// Takes the balancer's switch port over. What is not the generator's passes as before.
    pub fn attach(topology: &mut Topology) -> Result<Self> {
        topology.free_port(PORT);
        let switch = topology.namespace("switch").clone();
        let mut ebpf = programs()?;
        load(&mut ebpf, "driver")?;
        let send = load(&mut ebpf, "send")?.fd()?.try_clone()?;
        let targets = ebpf.map_mut("targets").context("no map targets")?;
        ProgramArray::try_from(targets)?.set(TARGET, &send, 0)?;
        let ifindex = switch.run(|| -> Result<u32> {
            load(&mut ebpf, "count")?
                .attach(PORT, XdpMode::Driver)
                .with_context(|| format!("count at port {PORT} of the switch"))?;
            Ok(nix::net::if_::if_nametoindex(PORT)?)
        })?;
        let wire = ebpf.map_mut("wire").context("no map wire")?;
        Array::<_, u32>::try_from(wire)?.set(0, ifindex, 0)?;
        Ok(Self { ebpf, switch })
    }

    /// Sends UDP packets of 64 bytes to an address, of these flows in turn, as fast as one CPU can, and waits until those
    /// that come back are back. The first packet is of the first of the flows.
    pub fn send(&mut self, to: SocketAddr, flows: Range<u64>, packets: u64) -> Result<Burst> {
        ensure!(
            packets.is_multiple_of(CHUNK) && packets > 0 && packets <= LARGEST,
            "a burst is a multiple of {CHUNK} packets, at most {LARGEST}, not {packets}"
        );
        // The driver goes on with flow 0 after the last.
        ensure!(
            !flows.is_empty() && (flows.start == 0 || flows.end - flows.start >= packets),
            "flows {flows:?} for {packets} packets begin neither at 0 nor suffice"
        );
        let frame = frame(to);
        let plan = Plan {
            chunk_mask: CHUNK - 1,
            chunk_shift: u64::from(CHUNK.trailing_zeros()),
            ..world::plan_of(Shape::V4Udp, &frame, flows.end, 1, packets)
        };
        let plan: [u8; size_of::<Plan>()] = bytemuck::cast(plan);
        self.array("plan")?.set(0, plan, 0)?;
        let progress: [u8; size_of::<Progress>()] = bytemuck::cast(Progress {
            flow: flows.start,
            ..Progress::default()
        });
        self.array("progress")?.set(0, progress, 0)?;
        let before = self.arrived()?;
        self.run(&frame, packets)?;
        let bytes: [u8; size_of::<Progress>()] = self.array("progress")?.get(&0, 0)?;
        let progress: Progress = bytemuck::cast(bytes);
        ensure!(
            progress.packets == packets,
            "the generator made {} of {packets} packets",
            progress.packets
        );
        let arrived = self.wait_for(before, packets)?;
        let stamps = self.array::<8>("stamps")?;
        let stamp = |index: u64| -> Result<u64> {
            Ok(u64::from_ne_bytes(stamps.get(&u32::try_from(index)?, 0)?))
        };
        let nanos = stamp(packets / CHUNK)?.saturating_sub(stamp(0)?);
        Ok(Burst {
            sent: packets,
            arrived,
            took: Duration::from_nanos(nanos),
        })
    }

    /// Sends on one CPU: what a packet sets off runs on the CPU that sent it.
    fn run(&self, frame: &[u8], packets: u64) -> Result<()> {
        let driver: &Xdp = self
            .ebpf
            .program("driver")
            .context("no program driver")?
            .try_into()?;
        // One more, in which the driver sees that it is done.
        let repeat = u32::try_from(packets + 1)?;
        self.switch.run(|| -> Result<()> {
            stay_on_one_cpu()?;
            driver
                .test_run(TestRunOptions {
                    data_in: Some(frame),
                    repeat,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::default()
                })
                .context("send live frames (Linux 5.18 or newer)")?;
            Ok(())
        })
    }

    fn wait_for(&self, before: u64, packets: u64) -> Result<u64> {
        let mut arrived = self.arrived()? - before;
        let mut since = Instant::now();
        while arrived < packets && since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.arrived()? - before;
            if now != arrived {
                (arrived, since) = (now, Instant::now());
            }
        }
        Ok(arrived)
    }

    /// All that were ever counted.
    fn arrived(&self) -> Result<u64> {
        let map = self.ebpf.map("arrived").context("no map arrived")?;
        let values = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(values.iter().sum())
    }

    fn array<const N: usize>(
        &mut self,
        name: &str,
    ) -> Result<Array<&mut aya::maps::MapData, [u8; N]>> {
        let map = self
            .ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))?;
        Ok(map.try_into()?)
    }
}
