//! Floods through the compiled program, over maps of the real size: no proven flow moves (RELIABILITY A1 to A3).

use std::ops::Range;

use lb_common::{
    FlowWord, Permissions,
    counter::{Global, LIMITER_LINE, Limiter, MORE_LINE, More, PerBackend},
};
use lb_tests::{
    bench::{
        floods::{Field, Kind, PROVEN, SOURCES},
        rig::{Counted, Target, driver_bytes, in_namespace},
    },
    kernel::{Moment, object_bytes},
};

use crate::stage::long;

/// The backend that leaves.
const LEAVER: u32 = 7;
/// Sources of each flood upon the table that the first has filled: four for every entry, and as many as the
/// first has with `FAIRLEAD_LONG=1`.
fn more() -> u64 {
    if long() { SOURCES } else { 4 << 20 }
}

/// Parts of a flood, between which the proven flows send.
const PARTS: u64 = 4;

fn field<R: Send>(work: impl FnOnce(&mut Field) -> R + Send) -> R {
    let (object, driver) = (object_bytes().unwrap(), driver_bytes().unwrap());
    in_namespace(|ends| Ok(work(&mut Field::new(&object, &driver, ends)?))).unwrap()
}

/// How many flows each backend has.
fn shares(mapping: &[u32]) -> Vec<u64> {
    let mut shares = vec![0; 100];
    for id in mapping {
        shares[*id as usize] += 1;
    }
    shares
}

/// Each proven flow sends a packet, and it reaches the backend that the mapping says.
fn talk(field: &mut Field, kind: Kind, mapping: &[u32], what: &str) {
    let packets = field.per_backend(PerBackend::Packets).unwrap();
    let before = field.rig.counted().unwrap();
    field.run(kind, 0, PROVEN).unwrap();
    let change = field.rig.counted().unwrap().since(&before);
    let reached: Vec<u64> = field
        .per_backend(PerBackend::Packets)
        .unwrap()
        .iter()
        .zip(packets)
        .map(|(after, before)| after - before)
        .collect();
    assert_eq!(reached, shares(mapping), "{what}: packets by backend");
    assert_eq!(change.new_flows, 0, "{what}: flows scheduled anew");
    let quiet = [Global::Untracked, Global::Evicted].map(|which| change.global(which));
    assert_eq!(quiet, [0, 0], "{what}: untracked, evicted");
    assert_eq!(change.global(Global::Tx), PROVEN, "{what}");
}

fn stays(field: &mut Field, mapping: &[u32], what: &str) {
    let now = field.mapping().unwrap();
    let moved: Vec<_> = (0..mapping.len())
        .filter(|flow| now[*flow] != mapping[*flow])
        .collect();
    assert!(
        moved.is_empty(),
        "{what}: {} flows moved: {moved:?}",
        moved.len()
    );
}

/// Each of so many sources sends one packet of each kind, in parts, and the proven flows go on.
fn flood(field: &mut Field, kinds: &[Kind], sources: Range<u64>, mapping: &[u32]) {
    let what = format!("{kinds:?} flood");
    let before = field.rig.counted().unwrap();
    for part in 0..PARTS {
        for kind in kinds {
            let packets = (sources.end - sources.start) / PARTS;
            field
                .run(*kind, sources.start + part * packets, packets)
                .unwrap();
        }
        talk(field, Kind::Ack, mapping, &what);
    }
    let change: Counted = field.rig.counted().unwrap().since(&before);
    let count = sources.end - sources.start;
    let sent = count * kinds.len() as u64 + PARTS * PROVEN;
    assert_eq!(change.global(Global::Tx), sent, "{what}: forwarded");
    assert_eq!(
        change.totals.drops.iter().sum::<u64>(),
        0,
        "{what}: dropped"
    );
    let [untracked, evicted] =
        [Global::Untracked, Global::Evicted].map(|which| change.global(which));
    println!("{what}: {sent} packets, {untracked} flows untracked, {evicted} evictions");
    // It did press on the table.
    assert!(
        untracked + evicted > count / 2,
        "{what}: {untracked} {evicted}"
    );
    stays(field, mapping, &what);
}

/// The backend takes no new flows, and rings are another's; or it is gone.
fn withdraw(field: &mut Field, permissions: Permissions) {
    let tables = &mut field.rig.tables;
    tables.backends[LEAVER as usize].permissions = permissions;
    for id in tables.rings.iter_mut().flatten().filter(|id| **id < 100) {
        // Nobody stays where it was: whoever is scheduled again moves.
        *id = (*id + 31) % 100;
        if *id == LEAVER {
            *id = LEAVER + 1;
        }
    }
    field.configure().unwrap();
}

#[test]
fn no_flood_moves_a_proven_flow_while_a_backend_leaves() {
    field(|field| {
        let mut mapping = field.mapping().unwrap();
        assert!(shares(&mapping).iter().all(|share| *share > 0));
        talk(field, Kind::Ack, &mapping, "before");
        let mut last = PROVEN;
        let mut sources = |count| {
            last += count;
            last - count..last
        };
        flood(field, &[Kind::Syn], sources(SOURCES), &mapping);
        withdraw(field, Permissions(Permissions::KEEP));
        flood(field, &[Kind::SynAck], sources(more()), &mapping);
        flood(field, &[Kind::Ack], sources(more()), &mapping);

        withdraw(field, Permissions::NONE);
        field.run(Kind::Ack, 0, PROVEN).unwrap();
        let after = field.mapping().unwrap();
        for (flow, (old, new)) in mapping.iter().zip(&after).enumerate() {
            assert_ne!(*new, LEAVER, "flow {flow} has a backend that is gone");
            assert!(
                new == old || *old == LEAVER,
                "flow {flow} moved from {old} to {new}"
            );
        }
        mapping = after;
        talk(field, Kind::Ack, &mapping, "after the backend has left");
        flood(field, &[Kind::Udp], sources(more()), &mapping);
        flood(field, &[Kind::Rst, Kind::Syn], sources(more()), &mapping);
    });
}

#[test]
fn forged_resets_ends_and_openings_move_no_proven_flow() {
    field(|field| {
        let mapping = field.mapping().unwrap();
        for kinds in [
            [Kind::Rst, Kind::Syn],
            [Kind::Fin, Kind::Syn],
            [Kind::SynAck, Kind::Rst],
        ] {
            for kind in kinds {
                talk(field, kind, &mapping, &format!("forged {kind}"));
                stays(field, &mapping, &format!("forged {kind}"));
            }
            // Now that all of them look closed, room is wanted, and the ring names others.
            withdraw(field, Permissions::ALL);
            field.run(Kind::Syn, PROVEN, SOURCES / 4).unwrap();
            talk(
                field,
                Kind::Ack,
                &mapping,
                "after a flood upon closed flows",
            );
            stays(field, &mapping, "after a flood upon closed flows");
        }
    });
}

#[test]
fn each_cpu_enters_as_many_new_flows_a_second_as_it_may_and_counts_the_rest() {
    const ALLOWED: u32 = 12_345;
    // Few enough that a second of a busy machine has room for them.
    const SENT: u64 = 40_000;
    let live = |field: &mut Field| {
        let flows = field.kernel().flows().unwrap();
        let words = flows.iter().flatten();
        words.filter(|word| FlowWord(**word).is_live()).count() as u64
    };
    field(|field| {
        field.rig.tables.control.new_flows_per_second = ALLOWED;
        field.configure().unwrap();
        let mapping = field.mapping().unwrap();
        let mut first = PROVEN;
        let (mut whole, mut tries) = (0, 0);
        while whole < 2 {
            tries += 1;
            assert!(tries <= 60, "no run of {SENT} packets within one second");
            let (had, before) = (live(field), field.rig.counted().unwrap());
            let lines = field.rig.counter_lines().unwrap();
            let window =
                |lines: &[[u64; 8]]| lines[LIMITER_LINE as usize][Limiter::NewWindow as usize];
            let (moment, last) = (Moment::now().unwrap(), window(&lines));
            field.rig.plan = lb_tests::bench::floods::plan(Kind::Syn);
            field.rig.time(Target::DataPlane, first, SENT).unwrap();
            first += SENT;
            let lasted = moment.lasts().unwrap();
            talk(field, Kind::Ack, &mapping, "while no new flow is admitted");
            let after = field.rig.counter_lines().unwrap();
            if !lasted || window(&after) == last {
                // Two windows had a part in it, or an earlier one's allowance was used up.
                continue;
            }
            whole += 1;
            let change = field.rig.counted().unwrap().since(&before);
            let more = |lines: &[[u64; 8]]| lines[MORE_LINE as usize][More::NotAdmitted as usize];
            let refused = SENT - u64::from(ALLOWED);
            assert_eq!(live(field) - had, u64::from(ALLOWED), "entered");
            assert_eq!(more(&after) - more(&lines), refused, "not admitted");
            assert_eq!(change.global(Global::Untracked), refused, "untracked");
            assert_eq!(
                change.global(Global::Tx),
                SENT + PROVEN,
                "forwarded all the same"
            );
        }
    });
}
