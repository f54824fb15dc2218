//! A sent frame that is a little wrong is refused.

use lb_ebpf::{
    fixture::world::Ends,
    mem::{self, MemFrame},
};

use crate::{
    generate,
    oracle::{Opinion, Oracle, Sent},
};

const CASES: u64 = 200;

/// What came, and what must become of it, for each frame that is sent in some cases.
fn each_sent(mut look: impl FnMut(&[u8], &Opinion)) {
    for case in (0..CASES).map(generate::numbered) {
        let ends = Ends::HOST.tagged(case.tagging);
        let mut tables = case.tables(&ends);
        let mut oracle = Oracle::new(&case.world, case.mtu, case.tagging).with_room(case.room);
        for scene in &case.scenes {
            for change in &scene.changes {
                change.apply(&mut tables, &ends);
                oracle.change(change);
            }
            for arrival in &scene.packets {
                let mut frame = MemFrame::new(arrival.frame.clone(), ends.port(arrival.ingress));
                frame.room = case.room;
                mem::process(&mut frame, &tables, scene.at);
                let (before, side) = (&arrival.frame, arrival.ingress);
                let opinion = oracle.process(before, &frame.bytes, side, scene.at);
                if opinion.sent != Sent::No {
                    look(before, &opinion);
                }
            }
        }
    }
}

/// The same frames, changed at the end, and in their tags.
fn changed(frame: &[u8]) -> [(&'static str, Vec<u8>); 5] {
    let (last, all_but) = frame.split_last().unwrap();
    let tags = [[0x81, 0, 0, 1]; 3].concat();
    [
        ("longer", [frame, &[0]].concat()),
        ("shorter", all_but.to_vec()),
        ("another last byte", [all_but, &[last ^ 0x10]].concat()),
        ("more tags", [&frame[..12], &tags, &frame[12..]].concat()),
        ("nothing behind the addresses", frame[..12].to_vec()),
    ]
}

#[test]
fn a_sent_frame_that_is_a_little_wrong_is_refused() {
    let mut frames = 0;
    each_sent(|before, opinion| {
        super::check(before, opinion).unwrap();
        let output = opinion.output.as_ref().unwrap();
        for (what, output) in changed(output) {
            let wrong = Opinion {
                output: Some(output),
                ..opinion.clone()
            };
            let checked = super::check(before, &wrong);
            assert!(
                checked.is_err(),
                "{what}: {wrong:02x?}, before {before:02x?}"
            );
        }
        frames += 1;
    });
    assert!(frames > 1000, "only {frames}");
}
