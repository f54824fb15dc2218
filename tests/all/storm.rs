//! Endpoint generations and rings are switched as fast as the maps take it, under traffic on another CPU: no packet
//! is lost.
//!
//! Three seconds for each way of forwarding; with FAIRLEAD_LONG=1 thirty.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_common::{Address, EndpointKey, EndpointKind};
use lb_tests::kernel::stay_on_one_cpu;
use lb_tests::load::Udp;
use lb_tests::netbench::wire::Wire;
use lb_tests::topology::{Forwarding, Shape};
use lb_userspace::dataplane::bpf::Bpf;
use lb_userspace::dataplane::{Actual, Dataplane, Image, MapOp};
use lb_userspace::embedded;
use lb_userspace::plan::{after, plan};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::stage::{SHAPES, Stage, UDP, long};

/// Packets of a burst, each of another flow.
const BURST: u64 = 1 << 14;
/// Of these, flows that no burst before had. The others go where they went.
const NEW: u64 = BURST / 8;
/// Flows of datagrams that are numbered and answered.
const ANSWERED_FLOWS: usize = 50;

fn duration() -> Duration {
    Duration::from_secs(if long() { 30 } else { 3 })
}

/// The same services with other rings and one more address: every ring and the endpoints have to be
/// switched to get there.
fn another(image: &Image) -> Image {
    let mut another = image.clone();
    for service in another.services.values_mut() {
        let mut ring = service.ring.to_vec();
        ring.rotate_left(1);
        service.ring = ring.into();
    }
    let key = EndpointKey {
        address: Address::v4([10, 10, 0, 99]),
        port: [0, 0],
        protocol: 0,
    };
    let target = vec![(EndpointKind::VipAddress, 0)];
    another.endpoints.insert(key, target);
    another
}

/// The operations from one image to the other and back, after which the maps are physically as before.
fn there_and_back(here: &Actual) -> [Vec<MapOp>; 2] {
    let other = another(&here.image);
    let there = plan(here, &other).unwrap();
    let at_the_other = after(here, &other, &there);
    let back = plan(&at_the_other, &here.image).unwrap();
    assert_eq!(after(&at_the_other, &here.image, &back), *here);
    for ops in [&there, &back] {
        let switches = |wanted: fn(&MapOp) -> bool| ops.iter().filter(|op| wanted(op)).count();
        let rings = switches(|op| matches!(op, MapOp::SwitchRing { .. }));
        assert_eq!(rings, here.image.services.len());
        assert_eq!(
            switches(|op| matches!(op, MapOp::SwitchEndpoints { .. })),
            1
        );
    }
    [there, back]
}

/// Switches there and back until told to stop; how often.
fn switch(maps: &mut Bpf, steps: &[Vec<MapOp>; 2], stop: &AtomicBool) -> u64 {
    // On any CPU: the generator keeps the one of the test.
    let mut all = CpuSet::new();
    for cpu in 0..std::thread::available_parallelism().unwrap().get().max(2) {
        all.set(cpu).unwrap();
    }
    sched_setaffinity(Pid::from_raw(0), &all).unwrap();
    let mut times = 0;
    while !stop.load(Ordering::Relaxed) {
        for ops in steps {
            maps.apply(ops).unwrap();
            times += 1;
        }
    }
    times
}

/// Sends until the time is over; packets sent and come back.
fn traffic(wire: &mut Wire, stage: &Stage, time: Duration) -> (u64, u64) {
    let to = stage.targets(&UDP)[0];
    let begin = Instant::now();
    let (mut sent, mut arrived, mut first) = (0, 0, 0);
    while begin.elapsed() < time {
        let burst = wire.send(to, first..first + BURST, BURST).unwrap();
        sent += burst.sent;
        arrived += burst.arrived;
        first += NEW;
    }
    (sent, arrived)
}

/// The generator and all that sends beside it are on one CPU, or the queue of the balancer's interface is emptied on
/// another one than it is filled, and overflows.
fn check(shape: Shape) {
    let work = || {
        stay_on_one_cpu().unwrap();
        check_here(shape);
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap();
}

fn check_here(shape: Shape) {
    let time = duration();
    let mut stage = Stage::alone(shape);
    let mut wire = Wire::attach(&mut stage.topology).unwrap();
    let dropped = stage.daemon.counters_at_rest().unwrap().drops;
    stage.daemon.stop().unwrap();
    let (mut maps, _) = stage.take_over(embedded::OBJECT).unwrap();
    let here = maps.actual().unwrap();
    let steps = there_and_back(&here);

    let targets = stage.targets(&UDP);
    let tick = Duration::from_millis(5);
    let answered = Udp::start(&stage.topology, &targets, ANSWERED_FLOWS, tick, time * 10).unwrap();
    let stop = AtomicBool::new(false);
    let (times, (sent, arrived)) = std::thread::scope(|scope| {
        let storm = scope.spawn(|| switch(&mut maps, &steps, &stop));
        // Also when the traffic panics, or the scope would wait for ever.
        let traffic = scope.spawn(|| traffic(&mut wire, &stage, time)).join();
        stop.store(true, Ordering::Relaxed);
        (storm.join().unwrap(), traffic.unwrap())
    });
    let flows = answered.stop();
    println!(
        "{:?}: {times} switches of the endpoints and of every ring in {time:?}; {sent} packets sent, {arrived} back",
        shape.forwarding
    );
    assert!(times >= 2 * time.as_secs(), "{times} switches are no storm");
    assert!(sent >= 10 * BURST, "{sent} packets are no traffic");
    assert_eq!(arrived, sent, "packets were lost");
    for flow in &flows {
        assert!(flow.sent > 0 && flow.lost.is_empty(), "{flow:?}");
        assert_eq!(flow.backends.len(), 1, "a flow moved: {flow:?}");
    }
    assert_eq!(maps.actual().unwrap().image, here.image);
    drop(maps);
    stage.daemon.restart().unwrap();
    let now = stage.daemon.counters_at_rest().unwrap();
    assert_eq!(now.drops, dropped, "packets were dropped");
    stage.end();
}

#[test]
fn a_storm_of_switches_loses_no_packet_with_dnat() {
    assert_eq!(SHAPES[1].forwarding, Forwarding::Dnat);
    check(SHAPES[1]);
}

#[test]
fn a_storm_of_switches_loses_no_packet_with_l2dsr() {
    assert_eq!(SHAPES[3].forwarding, Forwarding::L2dsr);
    check(SHAPES[3]);
}
