//! The kernel's maps as copies of [`MemTables`], both ways.

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{DevMap, LpmTrie, lpm_trie::Key},
};
use bytemuck::Pod;
use lb_common::{
    BackendEntry, Control, Epoch, FlowWord, Header, Nanos, Tunnel,
    backend::{DEVICES, device_slot},
    counter::{LIMITER_LINE, Limiter, MORE_LIMITER_LINE, REST_LINE, SENDER_LINE, sender_word},
    fragment, timing,
};
use lb_ebpf::{
    fixture::world::{Ends, Side},
    mem::{self, AFFINITY_SETS, MemTables},
};

use super::mapped::Mapped;

/// log2 of the echo limiter's window in nanoseconds.
pub(super) const SECOND: u32 = 30;

/// A line of counters, or a set of flows.
pub(super) type Line = [u64; 8];

/// Entries of each map.
pub(super) fn sizes(tables: &MemTables, cpus: u32) -> Vec<(&'static str, u32)> {
    let of = |length: usize| u32::try_from(length).expect("maps of tests are small");
    vec![
        ("header", 1),
        ("control", 1),
        ("endpoints", of(tables.endpoints.len())),
        ("rules", of(tables.rules.len())),
        ("services", of(tables.services.len())),
        ("rings", of(tables.rings.len())),
        ("backends", of(tables.backends.len())),
        ("next_hops", of(tables.next_hops.len())),
        ("devices", DEVICES),
        ("redirects", DEVICES),
        ("source_ranges", 64),
        ("flows", of(tables.flows.len())),
        ("return_hops", of(tables.return_hops.len())),
        ("nat_flows", of(tables.nat_flows.len())),
        ("fragments", fragment::SETS),
        ("handshakes", timing::LINES),
        ("affinities", AFFINITY_SETS),
        ("counters", of(tables.counters.len()) * cpus),
    ]
}

fn put<const N: usize, V: Pod>(ebpf: &Ebpf, name: &str, values: &[V]) -> Result<()> {
    ensure!(size_of::<V>() == N, "a value for {name} is not {N} bytes");
    Mapped::new(ebpf, name, N)?.write(bytemuck::cast_slice(values))
}

/// Map `name` of lines.
pub(super) fn lines(ebpf: &Ebpf, name: &str) -> Result<Vec<Line>> {
    Ok(Mapped::new(ebpf, name, size_of::<Line>())?.read())
}

/// Writes the map `flows`.
pub(super) fn write_flows(ebpf: &Ebpf, lines: &[Line]) -> Result<()> {
    put::<64, _>(ebpf, "flows", lines)
}

/// Writes the map `counters`.
pub(super) fn write_counters(ebpf: &Ebpf, lines: &[Line]) -> Result<()> {
    put::<64, _>(ebpf, "counters", lines)
}

/// Writes zero to every line of a map.
pub(super) fn clear(ebpf: &Ebpf, name: &str) -> Result<()> {
    Mapped::new(ebpf, name, size_of::<Line>())?.clear();
    Ok(())
}

/// Copies what the control plane writes.
pub(super) fn configure(ebpf: &mut Ebpf, tables: &MemTables) -> Result<()> {
    write_sources(ebpf, tables)?;
    put::<{ size_of::<Header>() }, _>(ebpf, "header", &[tables.header])?;
    put::<{ size_of::<Control>() }, _>(ebpf, "control", &[tables.control])?;
    put::<32, _>(ebpf, "endpoints", &tables.endpoints)?;
    put::<16, _>(ebpf, "rules", &tables.rules)?;
    put::<64, _>(ebpf, "services", &tables.services)?;
    put::<8, _>(ebpf, "rings", &tables.rings)?;
    put::<64, _>(ebpf, "backends", &tables.backends)?;
    put::<32, _>(ebpf, "next_hops", &tables.next_hops)?;
    put::<32, _>(ebpf, "devices", &tables.devices)
}

/// Makes the trie hold what the tables hold.
fn write_sources(ebpf: &mut Ebpf, tables: &MemTables) -> Result<()> {
    let map = ebpf
        .map_mut("source_ranges")
        .context("the object has no map source_ranges")?;
    let mut trie: LpmTrie<_, [u8; 20], u32> =
        LpmTrie::try_from(map).context("use map source_ranges")?;
    let old: Vec<Key<[u8; 20]>> = trie.keys().collect::<Result<_, _>>()?;
    for key in old {
        trie.remove(&key).context("remove a range of sources")?;
    }
    for (key, access) in &tables.source_ranges {
        let mut data = [0; 20];
        data[..4].copy_from_slice(&key.set);
        data[4..].copy_from_slice(&key.address);
        trie.insert(&Key::new(key.bits, data), *access as u32, 0)
            .context("write a range of sources")?;
    }
    Ok(())
}

/// Copies everything, with flows and limiter as they would be if the time `at` were `now`.
pub(super) fn write(
    ebpf: &mut Ebpf,
    tables: &MemTables,
    cpu: u32,
    cpus: u32,
    at: Nanos,
    now: Nanos,
) -> Result<()> {
    configure(ebpf, tables)?;
    let mut control = tables.control;
    control.alive_until = tables.alive_until_at(at, now);
    put::<{ size_of::<Control>() }, _>(ebpf, "control", &[control])?;
    put::<64, _>(
        ebpf,
        "flows",
        &tables.flows_at(Epoch::at(at), Epoch::at(now)),
    )?;
    put::<64, _>(ebpf, "backends", &tables.backends_at(at, now))?;
    put::<64, _>(ebpf, "return_hops", &mem::words(&tables.return_hops))?;
    put::<64, _>(ebpf, "nat_flows", &tables.nat_flows_at(at, now))?;
    put::<64, _>(ebpf, "fragments", &tables.fragments_at(at, now))?;
    put::<64, _>(ebpf, "handshakes", &tables.handshakes_at(at, now))?;
    put::<64, _>(ebpf, "affinities", &tables.affinities_at(at, now))?;
    let mut mine = mem::words(&tables.counters);
    let limiter = mine
        .get_mut(LIMITER_LINE as usize)
        .context("no line for the limiter")?;
    for window in [
        Limiter::EchoWindow,
        Limiter::NewWindow,
        Limiter::IcmpWindow,
        Limiter::TooBigWindow,
    ] {
        let window = &mut limiter[window as usize];
        *window = window
            .wrapping_sub(at >> SECOND)
            .wrapping_add(now >> SECOND);
    }
    let more = mine
        .get_mut(MORE_LIMITER_LINE as usize)
        .context("no second line for the limiter")?;
    for window in [Limiter::ResetWindow, Limiter::PathWindow] {
        let window = &mut more[window as usize & 7];
        *window = window
            .wrapping_sub(at >> SECOND)
            .wrapping_add(now >> SECOND);
    }
    let senders = mine
        .get_mut(SENDER_LINE as usize..REST_LINE as usize)
        .context("no lines for senders")?;
    for word in senders.iter_mut().flatten().filter(|word| **word != 0) {
        let second = (*word >> 32)
            .wrapping_sub(at >> SECOND)
            .wrapping_add(now >> SECOND);
        *word = sender_word(second as u32, *word as u32);
    }
    let all: Vec<Line> = (0..cpus)
        .flat_map(|number| match number == cpu {
            true => mine.clone(),
            false => vec![[0; 8]; mine.len()],
        })
        .collect();
    put::<64, _>(ebpf, "counters", &all)
}

/// The counters of our CPU. Those of the others must be as they were: zero.
pub(super) fn counters(ebpf: &Ebpf, tables: &MemTables, cpu: u32, cpus: u32) -> Result<Vec<Line>> {
    let all = lines(ebpf, "counters")?;
    let per_cpu = tables.counters.len();
    ensure!(
        all.len() == per_cpu * cpus as usize,
        "counters have {} lines",
        all.len()
    );
    for (number, lines) in (0..).zip(all.chunks(per_cpu)) {
        let untouched = lines.iter().all(|line| *line == [0; 8]);
        ensure!(
            number == cpu || untouched,
            "CPU {number} counted a packet of CPU {cpu}"
        );
    }
    let mine = all
        .chunks(per_cpu)
        .nth(cpu as usize)
        .context("no lines for our CPU")?;
    Ok(mine.to_vec())
}

/// What the data plane has written into map `backends`, as it would be if the time `from` were `to`.
pub(super) fn paths(ebpf: &Ebpf, from: Nanos, to: Nanos) -> Result<Vec<Tunnel>> {
    const WORD: usize = std::mem::offset_of!(BackendEntry, tunnel) / 8;
    let backends = lines(ebpf, "backends")?;
    let learned = |line: &Line| Tunnel(line[WORD]).learned().moved(from, to);
    Ok(backends.iter().map(learned).collect())
}

/// Map `flows`, as it would be if the epoch `from` were `to`.
pub(super) fn flows(ebpf: &Ebpf, from: Epoch, to: Epoch) -> Result<Vec<Line>> {
    let shift = from.until(to);
    let moved = |word: u64| match FlowWord(word) {
        free if !free.is_live() => word,
        live => {
            let epoch = Epoch(live.epoch().0.wrapping_add(shift));
            FlowWord::new(live.tag(), live.backend_id(), live.rank(), epoch).0
        }
    };
    Ok(lines(ebpf, "flows")?
        .into_iter()
        .map(|line| line.map(moved))
        .collect())
}

/// Leaves the interface of one slot in the devmap, or none.
pub(super) fn open_redirect(ebpf: &mut Ebpf, ends: &Ends, slot: Option<u32>) -> Result<()> {
    let map = ebpf
        .map_mut("redirects")
        .context("the object has no map redirects")?;
    let mut redirects = DevMap::try_from(map).context("use map redirects")?;
    let sides = [Side::Client, Side::Backend];
    let ports = sides.map(|side| (ends.port(side), ends.port(side)));
    let interfaces = sides.map(|side| (ends.ifindex(side), ends.port(side)));
    for (ifindex, port) in ports.into_iter().chain(interfaces) {
        let place = device_slot(ifindex);
        // Interface 0 empties a slot.
        let target = if slot == Some(place) { port } else { 0 };
        redirects
            .set(place, target, None, 0)
            .with_context(|| format!("set redirect {place} to interface {target}"))?;
    }
    Ok(())
}
