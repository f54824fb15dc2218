//! A case takes the path that it names, before and while it is timed.

use anyhow::{Context, Result, ensure};
use lb_common::counter::Global;
use lb_ebpf::{
    fixture::changes,
    mem::{self, MemFrame},
    verdict::{Action, Verdict},
};

use super::{
    Case, Traffic,
    rig::{Counted, Rig, Target},
    world,
};
use crate::kernel::Moment;

/// Brings the rig into the state in which its case is timed, and on the way runs single packets of some flows in
/// the kernel and in the library. Verdict and counters must be as the case says; what differs
/// from the library besides is returned: an error, if the object and this library belong together.
pub fn prove(rig: &mut Rig) -> Result<Option<String>> {
    let case = rig.case.clone();
    match case.traffic {
        Traffic::New if case.flows == 1 => {
            rig.one(Target::DataPlane, 0)?;
            rig.clear_before_each()?;
        }
        Traffic::Known => {
            rig.time(Target::DataPlane, 0, case.flows)?;
        }
        Traffic::New | Traffic::NotOurs => {}
    }
    let mut differences = Vec::new();
    for flow in sample(&case) {
        let what = || format!("flow {flow} of '{}'", case.name);
        differences.extend(prove_flow(rig, flow).with_context(what)?);
    }
    prove_floors(rig)?;
    rig.forget_host();
    Ok((!differences.is_empty()).then(|| differences.join("\n")))
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
    let last = case.flows.saturating_sub(1);
    let mut flows = vec![0, last / 3, last / 2, last];
    flows.dedup();
    flows
}

/// What the library makes of a flow's packet now.
fn on_host(rig: &Rig, packet: &[u8]) -> Result<(Verdict, Vec<u8>)> {
    let mut frame = MemFrame::new(packet.to_vec(), rig.ends().client);
    let verdict = mem::process(&mut frame, &rig.tables, Moment::now()?.nanos);
    Ok((verdict, frame.bytes))
}

fn prove_flow(rig: &mut Rig, flow: u64) -> Result<Option<String>> {
    let case = rig.case.clone();
    let packet = world::frame(&case, flow);
    if case.traffic == Traffic::Known {
        on_host(rig, &packet)?;
    }
    let host_before = mem::words(&rig.tables.counters);
    let (verdict, host_bytes) = on_host(rig, &packet)?;
    let host_changes = changes(&host_before, &mem::words(&rig.tables.counters));

    let (_, fresh) = rig.one(Target::Null, flow)?;
    ensure!(
        fresh == packet,
        "the driver made {fresh:02x?}, not {packet:02x?}"
    );
    let (before, lines_before) = (rig.counted()?, rig.counter_lines()?);
    let (action, bytes) = rig.one(Target::DataPlane, flow)?;
    let kernel_changes = changes(&lines_before, &rig.counter_lines()?);
    accounts(&case, &rig.counted()?.since(&before), 1)?;
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
    let (action, bytes) = rig.one(Target::Grow, 0)?;
    ensure!(
        action == Action::Tx && bytes.len() == packet.len() + 20 && bytes.ends_with(&packet),
        "grow: {action:?}, {bytes:02x?}"
    );
    if !rig.case.shape().is_v6() {
        for target in [Target::HashLookup, Target::FlowLine] {
            let (action, bytes) = rig.one(target, 0)?;
            ensure!(
                action == Action::Tx && bytes == packet,
                "{target:?}: {action:?}, {bytes:02x?}"
            );
        }
    }
    Ok(())
}

/// The counters account for every packet as the case says. Of many new flows some may have found no room; that is
/// reported.
pub fn accounts(case: &Case, change: &Counted, packets: u64) -> Result<()> {
    let exit = match action(case) {
        Action::Pass => Global::Pass,
        _ => Global::Tx,
    };
    let new_flows = match case.traffic {
        Traffic::New => packets,
        Traffic::Known | Traffic::NotOurs => 0,
    };
    let drops: u64 = change.totals.drops.iter().sum();
    let no_room = change.global(Global::Untracked);
    ensure!(
        change.global(Global::Rx) == packets
            && change.global(exit) == packets
            && drops == 0
            && change.new_flows == new_flows
            && (no_room == 0 || case.needs_empty_table()),
        "'{}': {packets} packets and {new_flows} new flows expected, but counted: {change:?}",
        case.name
    );
    Ok(())
}
