//! VLANs: which there are, and the tags of frames: mostly right.

use lb_common::{
    Tags,
    vlan::{TPID_8021AD, TPID_8021Q, Tag},
};
use lb_ebpf::fixture::{tagging::Tagging, world::Side};

use super::Choices;

/// Where tags stand.
const AT: usize = 12;

/// What frames carry on both sides; in most cases nothing.
pub(super) fn tagging(choices: &mut Choices<'_>) -> Tagging {
    if choices.below(8) < 5 {
        return Tagging::NONE;
    }
    let none = [0; 4];
    let customer = |vlan| Tags::tag(TPID_8021Q, vlan);
    let provider = |vlan| Tags::tag(TPID_8021AD, vlan);
    let all = [
        Tags::NONE,
        Tags([customer(100), none]),
        Tags([customer(4094), none]),
        Tags([provider(7), none]),
        Tags([provider(7), customer(100)]),
        Tags([customer(100), customer(1)]),
    ];
    let (client, backend) = (*choices.of(&all), *choices.of(&all));
    Tagging {
        client,
        backend,
        // Two sides of one card differ in their tags.
        stick: choices.one_in(2) && client != backend,
        bond: choices.one_in(4),
    }
}

/// The frame with tags: those of its side, or wrong ones.
pub(super) fn tag(
    choices: &mut Choices<'_>,
    tagging: &Tagging,
    side: Side,
    frame: Vec<u8>,
) -> Vec<u8> {
    let of = |side| {
        let tags: Tags = match side {
            Side::Client => tagging.client,
            Side::Backend => tagging.backend,
        };
        tags.0[..tags.count()].to_vec()
    };
    let wrong = match *tagging == Tagging::NONE {
        true => choices.one_in(24),
        false => choices.one_in(6),
    };
    let mut tags = of(side);
    if wrong {
        spoil(choices, &mut tags, [of(Side::Client), of(Side::Backend)]);
    }
    for [_, _, high, _] in &mut tags {
        // Priority and drop eligibility.
        if choices.one_in(2) {
            *high |= choices.byte() & 0xf0;
        }
    }
    let mut frame = frame;
    if frame.len() >= AT {
        frame.splice(AT..AT, tags.concat());
    }
    frame
}

fn spoil(choices: &mut Choices<'_>, tags: &mut Vec<Tag>, sides: [Vec<Tag>; 2]) {
    let types = [TPID_8021Q, TPID_8021AD, [0x91, 0], [0x88, 0xa9]];
    let any = |choices: &mut Choices<'_>| {
        let [a, b] = *choices.of(&types);
        let [c, d] = (choices.word() as u16 & 0xfff).to_be_bytes();
        [a, b, c, d]
    };
    match choices.below(10) {
        0 => *tags = choices.of(&sides).clone(),
        1 => tags.clear(),
        // A priority alone, or before another tag.
        2..=4 => {
            let [a, b] = types[choices.below(2)];
            if choices.below(4) != 0 {
                tags.clear();
            }
            tags.insert(0, [a, b, 0, 0]);
        }
        5 => {
            tags.pop();
        }
        6 => tags.reverse(),
        7 => {
            let [a, b] = *choices.of(&types);
            if let Some(first) = tags.first_mut() {
                (first[0], first[1]) = (a, b);
            }
        }
        8 => {
            for _ in 0..1 + choices.below(3) {
                let tag = any(choices);
                tags.push(tag);
            }
        }
        _ => *tags = vec![any(choices)],
    }
}
