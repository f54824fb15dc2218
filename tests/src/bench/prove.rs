//! A case takes the path that it names, before and while it is timed.

use anyhow::{Context, Result, ensure};
use lb_common::counter::Global;
use lb_ebpf::{
    fixture::changes,
    mem::{self, MemFrame},
    pipeline,
    verdict::Action,
};

use super::{
    Case, Traffic,
    rig::{Counted, Rig, Target},
    world,
};
use crate::kernel::Moment;

/// Packets that make the table know a case's flows, each once.
fn fill(rig: &mut Rig) -> Result<()> {
    if rig.case.traffic == Traffic::Known {
        let flows = rig.case.flows;
        rig.time(Target::DataPlane, flows)?;
    }
    Ok(())
}

/// What must become of every packet of a case.
fn action(case: &Case) -> Action {
    match case.traffic {
        Traffic::NotOurs => Action::Pass,
        Traffic::Known | Traffic::New => Action::Tx,
    }
}

/// Some of the case's flows: the first, the last, and some between.
fn sample(case: &Case) -> Vec<u64> {
    let last = case.flows - 1;
    let mut flows = vec![0, last / 3, last / 2, last];
    flows.dedup();
    flows
}

/// Brings the rig into the state in which the case is timed, and runs packets one by one, in the kernel and
/// in the library: equal verdict, bytes and counters, and the ones that the case promises. Gives how the
/// bytes and counters differed from the library's, which is an error for the object that belongs to it.
pub fn prove(rig: &mut Rig) -> Result<Option<String>> {
    let case = rig.case.clone();
    let mut differences = Vec::new();
    if case.traffic == Traffic::New && case.flows == 1 {
        rig.one(Target::DataPlane, 0)?;
        rig.clear_before_each()?;
    }
    fill(rig)?;
    for flow in sample(&case) {
        let context = || format!("flow {flow} of '{}'", case.name);
        differences.extend(prove_flow(rig, flow).with_context(context)?);
    }
    prove_floors(rig)?;
    if rig.needs_clear_table() {
        rig.clear_flows()?;
    }
    Ok((!differences.is_empty()).then(|| differences.join("\n")))
}

fn prove_flow(rig: &mut Rig, flow: u64) -> Result<Option<String>> {
    let case = rig.case.clone();
    let packet = world::frame(&case, flow);
    let on_host = |rig: &Rig| -> Result<_> {
        let mut frame = MemFrame {
            bytes: packet.clone(),
            ifindex: rig.ends().client,
        };
        let verdict = pipeline::process(&mut frame, &rig.tables, Moment::now()?.nanos);
        Ok((verdict, frame.bytes))
    };
    if case.traffic == Traffic::Known {
        on_host(rig)?;
    }
    let host_before = mem::words(&rig.tables.counters);
    let (verdict, host_bytes) = on_host(rig)?;
    let host_changes = changes(&host_before, &mem::words(&rig.tables.counters));

    let (_, fresh) = rig.one(Target::Null, flow)?;
    ensure!(
        fresh == packet,
        "the driver made {fresh:02x?}, not {packet:02x?}"
    );
    let (before, lines_before) = (rig.counted()?, rig.counter_lines()?);
    let (action, bytes) = rig.one(Target::DataPlane, flow)?;
    let kernel_changes = changes(&lines_before, &rig.counter_lines()?);
    let change = rig.counted()?.since(&before);
    accounts(&case, &change, 1, 0)?;
    ensure!(
        action == self::action(&case) && action == verdict.action,
        "the verdict is {action:?}, the library's {:?}",
        verdict.action
    );
    let mut differences = Vec::new();
    if bytes != host_bytes {
        differences.push(format!(
            "bytes {bytes:02x?}, the library's {host_bytes:02x?}"
        ));
    }
    if kernel_changes != host_changes {
        differences.push(format!(
            "counters {kernel_changes:?}, the library's {host_changes:?}"
        ));
    }
    Ok((!differences.is_empty()).then(|| format!("flow {flow}: {}", differences.join("; "))))
}

/// The floors do what they say.
fn prove_floors(rig: &mut Rig) -> Result<()> {
    let packet = world::frame(&rig.case, 0);
    let (action, bytes) = rig.one(Target::MacSwap, 0)?;
    let swapped = [&packet[6..12], &packet[..6], &packet[12..]].concat();
    ensure!(
        action == Action::Tx && bytes == swapped,
        "mac_swap: {action:?}, {bytes:02x?}"
    );
    if !rig.case.shape().is_v6() {
        let (action, bytes) = rig.one(Target::HashLookup, 0)?;
        ensure!(
            action == Action::Tx && bytes == packet,
            "hash_lookup: {action:?}, {bytes:02x?}"
        );
    }
    Ok(())
}

/// The counters account for every packet as the case says; of new flows, `untracked` at most may have found no
/// room.
pub fn accounts(case: &Case, change: &Counted, packets: u64, untracked: u64) -> Result<()> {
    let exit = match action(case) {
        Action::Pass => Global::Pass,
        _ => Global::Tx,
    };
    let new_flows = match case.traffic {
        Traffic::New => packets,
        Traffic::Known | Traffic::NotOurs => 0,
    };
    let drops: u64 = change.totals.drops.iter().sum();
    ensure!(
        change.global(Global::Rx) == packets
            && change.global(exit) == packets
            && drops == 0
            && change.new_flows == new_flows
            && change.global(Global::Untracked) <= untracked,
        "'{}': {packets} packets, {new_flows} new flows expected, but counted: {change:?}",
        case.name
    );
    Ok(())
}
