//! The compiled program on two CPUs at once, over the same maps.

use std::sync::Barrier;

use lb_common::{
    FlowWord,
    counter::{BACKEND_LINE, Global, OTHER_FLOWS, PerBackend, handshake_line},
};
use lb_ebpf::verdict::Action;
use lb_tests::{
    bench::{
        floods::{Field, PROVEN, frame},
        rig::{driver_bytes, in_namespace},
    },
    kernel::{Kernel, object_bytes, stay_on},
};

/// Flows of each test; their numbers follow those of the flows that live already.
const FLOWS: u64 = 100_000;
/// Flows between two meetings of the CPUs: so they work on the same ones at the same time.
const STEP: usize = 50;

/// What a CPU sends: flow, and whether the packet opens it.
type Packets = Vec<(u64, bool)>;

fn field<R: Send>(work: impl FnOnce(&mut Field) -> R + Send) -> R {
    let (object, driver) = (object_bytes().unwrap(), driver_bytes().unwrap());
    in_namespace(|ends| Ok(work(&mut Field::new(&object, &driver, ends)?))).unwrap()
}

/// The backend that a packet goes to.
fn send(kernel: &Kernel, flow: u64, opens: bool) -> u32 {
    let bytes = frame(opens, flow);
    let (action, output, _) = kernel.run(&bytes, kernel.ends().client, 1).unwrap();
    assert_eq!(action, Action::Tx, "flow {flow}");
    u32::from_be_bytes([0, output[3], output[4], output[5]])
}

/// Both CPUs send their packets, in step; the backends that these went to.
fn both(kernel: &Kernel, packets: [Packets; 2]) -> [Vec<u32>; 2] {
    let barrier = Barrier::new(2);
    let run = |cpu: u32, packets: Packets| {
        stay_on(cpu).unwrap();
        let steps = packets.chunks(STEP).map(|step| {
            barrier.wait();
            step.iter()
                .map(|(flow, opens)| send(kernel, *flow, *opens))
                .collect::<Vec<_>>()
        });
        steps.flatten().collect::<Vec<_>>()
    };
    let [first, second] = packets;
    std::thread::scope(|scope| {
        let threads = [
            scope.spawn(|| run(0, first)),
            scope.spawn(|| run(1, second)),
        ];
        threads.map(|thread| thread.join().unwrap())
    })
}

/// One counter of all CPUs.
fn sum(lines: &[Vec<[u64; 8]>], line: usize, position: usize) -> u64 {
    lines.iter().map(|lines| lines[line][position]).sum()
}

fn of_backends(lines: &[Vec<[u64; 8]>], which: PerBackend) -> u64 {
    let backends = BACKEND_LINE as usize..BACKEND_LINE as usize + 100;
    backends.map(|line| sum(lines, line, which as usize)).sum()
}

/// New flows of all backends: those that begin by a SYN, and those that are seen in their middle.
fn new_flows(lines: &[Vec<[u64; 8]>]) -> u64 {
    let per_cpu = u32::try_from(lines[0].len()).unwrap();
    let line = |backend| handshake_line(per_cpu, backend) as usize;
    let others = (0..100).map(|backend| sum(lines, line(backend), OTHER_FLOWS as usize));
    of_backends(lines, PerBackend::NewFlows) + others.sum::<u64>()
}

#[test]
fn a_flow_that_two_cpus_see_first_at_once_has_one_backend() {
    field(|field| {
        let before = field.kernel().counters_by_cpu().unwrap();
        assert!(before.len() >= 2, "two CPUs are needed");
        let flows = || PROVEN..PROVEN + FLOWS;
        // Who is first changes.
        let one = flows().map(|flow| (flow, true)).collect();
        let other = flows().map(|flow| (flow, flow % 3 == 0)).collect();
        let [first, second] = both(field.kernel(), [one, other]);
        for ((flow, first), second) in flows().zip(&first).zip(&second) {
            assert_eq!(first, second, "flow {flow}");
        }
        let after = field.kernel().counters_by_cpu().unwrap();
        let grown = |line, position| sum(&after, line, position) - sum(&before, line, position);
        for which in [Global::Rx, Global::Tx] {
            assert_eq!(grown(0, which as usize), 2 * FLOWS, "{which:?}");
        }
        for which in [Global::Untracked, Global::Evicted] {
            assert_eq!(grown(0, which as usize), 0, "{which:?}");
        }
        let of = |which| of_backends(&after, which) - of_backends(&before, which);
        assert_eq!(of(PerBackend::Packets), 2 * FLOWS);
        let new = new_flows(&after) - new_flows(&before);
        let lines = field.kernel().flows().unwrap();
        let live = lines
            .iter()
            .flatten()
            .filter(|word| FlowWord(**word).is_live())
            .count() as u64;
        println!("{FLOWS} flows, {} entered twice", new - FLOWS);
        assert_eq!(live, PROVEN + new, "entries, and flows counted as new");
        for cpu in [0, 1] {
            assert!(
                sum(&after[cpu..=cpu], 0, Global::Rx as usize) >= FLOWS,
                "CPU {cpu}"
            );
        }
        // In both sets, whatever was entered names that backend.
        for (flow, backend) in flows().zip(first) {
            let entries = field.entries(flow, &lines);
            assert!(!entries.is_empty(), "flow {flow} has no entry");
            assert!(
                entries.iter().all(|word| word.backend_id() == backend),
                "flow {flow}: {entries:x?}"
            );
        }
    });
}

#[test]
fn a_flow_that_arrives_on_another_cpu_keeps_its_backend() {
    field(|field| {
        let half = |first: u64, opens| -> Packets {
            (first..PROVEN + FLOWS)
                .step_by(2)
                .map(|flow| (flow, opens))
                .collect()
        };
        let (even, odd) = (PROVEN, PROVEN + 1);
        let [first, second] = both(field.kernel(), [half(even, true), half(odd, true)]);
        // Whoever were scheduled again would move.
        let ids = field.rig.tables.rings.iter_mut().flatten();
        ids.filter(|id| **id < 100)
            .for_each(|id| *id = (*id + 1) % 100);
        field.configure().unwrap();
        let before = field.kernel().counters_by_cpu().unwrap();
        let [of_odd, of_even] = both(field.kernel(), [half(odd, false), half(even, false)]);
        let after = field.kernel().counters_by_cpu().unwrap();
        assert_eq!(of_even, first, "flows that were CPU 0's");
        assert_eq!(of_odd, second, "flows that were CPU 1's");
        assert_eq!(new_flows(&after), new_flows(&before), "new flows");
    });
}
