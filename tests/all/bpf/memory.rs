//! What the maps cost, as the kernel counts it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;
use lb_common::limits;
use lb_userspace::dataplane::bpf::{Bpf, Settings};
use lb_userspace::model::Limits;

use super::room::{Room, in_room};

/// Bytes of all pinned maps: `memlock` in fdinfo (`map_mem_usage` in kernel/bpf).
fn counted(room: &Room) -> u64 {
    let pins = fs::read_dir(room.pins()).unwrap();
    let mut sum = 0;
    for pin in pins.map(|pin| pin.unwrap().path()) {
        // A directory says which object the program is of.
        if pin.is_dir() || pin.ends_with("program") {
            continue;
        }
        let map = MapData::from_pin(&pin).unwrap();
        let fd = map.fd().as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let mut lines = info.lines();
        let bytes = lines
            .find_map(|line| line.strip_prefix("memlock:"))
            .unwrap();
        println!("{}: {}", pin.display(), bytes.trim());
        sum += bytes.trim().parse::<u64>().unwrap();
    }
    sum
}

#[test]
fn maps_of_the_default_limits_take_what_the_formula_and_the_readme_say() {
    in_room(|room| {
        let number = |limit: &limits::Limit| u32::try_from(limit.default).unwrap();
        let settings = Settings {
            limits: Limits {
                flows: number(&limits::FLOWS),
                services: number(&limits::SERVICES),
                backends: number(&limits::BACKENDS),
                ring_slots: number(&limits::RING_SLOTS),
                next_hops: number(&limits::NEXT_HOPS),
                source_ranges: number(&limits::SOURCE_RANGES),
                nat_flows: number(&limits::NAT_FLOWS),
                affinities: number(&limits::AFFINITIES),
            },
            ..room.settings()
        };
        let (bpf, _) = Bpf::open(&settings).unwrap();
        let (counted, formula) = (counted(room), bpf.geometry().bytes());
        let cpus = u64::from(bpf.geometry().cpus);
        println!("{counted} bytes counted, {formula} by the formula, {cpus} CPUs");
        // Pages, and the devmap, which the formula leaves out.
        assert!(
            counted >= formula && counted < formula + (1 << 18),
            "{counted}, {formula}"
        );
        // README: 59.5 MB, and 0.53 MB for each CPU.
        let told = 59_500_000 + 530_000 * cpus;
        assert!(
            counted.abs_diff(told) < told / 50,
            "{counted}, README: {told}"
        );
    });
}
