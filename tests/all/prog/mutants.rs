//! Packets of fixtures, changed at random, through both twins.

use lb_ebpf::fixture::{self, Step};
use lb_tests::kernel::{SHORTEST, in_namespace};

use super::{load, run_both};

/// Changed packets for each packet of each fixture, unless the environment says how many.
const EACH: usize = 4;
/// The variable that says it: an emulated machine runs fewer.
const VARIABLE: &str = "FAIRLEAD_CHANGED_PACKETS";

/// Marsaglia's xorshift64 with a fixed start: the same packets in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// One to four changes: a bit, a byte, a cut, or more at the end.
    fn change(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(packet.len());
            match self.below(8) {
                0 => packet.truncate(at.max(SHORTEST)),
                1 => packet.extend((0..at % 64).map(|_| self.next() as u8)),
                2..=4 => packet[at] ^= 1 << self.below(8),
                // Mostly headers, where it matters.
                _ => {
                    let at = at.min(self.below(80)).min(packet.len() - 1);
                    packet[at] = [0, 1, 0xff, self.next() as u8][self.below(4)];
                }
            }
        }
        packet
    }
}

#[test]
fn packets_changed_at_random_fare_alike_on_host_and_kernel() {
    let each = std::env::var(VARIABLE).map_or(EACH, |text| text.parse().unwrap());
    let failures = in_namespace(|ends| {
        let mut kernel = load(ends, false);
        let mut random = Random(0x0fa1_41ea_d0fa_141e);
        let (mut failures, mut ran) = (Vec::new(), 0);
        for fixture in fixture::all() {
            let mut tables = fixture.world.tables(&ends);
            for step in &fixture.steps {
                if step.packet.len() < SHORTEST {
                    continue;
                }
                for change in &step.before {
                    change.apply(&mut tables, &ends);
                }
                for _ in 0..each {
                    let packet = random.change(&step.packet);
                    let step = Step {
                        before: Vec::new(),
                        packet,
                        ..step.clone()
                    };
                    ran += 1;
                    if let Some(difference) = run_both(&mut kernel, &mut tables, &step) {
                        failures.push(format!(
                            "{}, packet {:02x?}:\n{difference}",
                            fixture.name, step.packet
                        ));
                    }
                }
            }
        }
        println!("{ran} changed packets in the kernel");
        assert!(ran > 0, "{VARIABLE} is {each}");
        failures
    })
    .unwrap();
    let shown = failures
        .iter()
        .take(5)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        failures.is_empty(),
        "{} differ, among them:\n{shown}",
        failures.len()
    );
}
