//! VLAN tags: taken off a frame as it comes, so that no other stage knows of them, and put on as it leaves.
//!
//! A frame with tags came by the interface that the kernel made for them (`eth0.100`), which is where its way back and its
//! answers leave; whose port and tags those are stands in `devices`. Frames without tags never come here, and
//! on their way out only those do that are to have some.

use lb_common::{
    Device, Tags,
    backend::device_slot,
    vlan::{self, TPID_8021AD, TPID_8021Q, Tag},
};

use crate::{
    frame::Frame,
    tables::Tables,
    verdict::{Action, Verdict},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacWords, Tagged},
};

/// Bytes of a tag.
const TAG: usize = size_of::<Tag>();
const TWO_TAGS: usize = size_of::<[Tag; 2]>();

/// How a frame came to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// By this interface; host order.
    pub port: u32,
    /// With these tags, which have been taken off.
    pub tags: Tags,
}

impl Came {
    /// As it is.
    #[inline(always)]
    pub const fn plainly(port: u32) -> Self {
        Self {
            port,
            tags: Tags::NONE,
        }
    }
}

/// True for the EtherType of a tag.
#[inline(always)]
pub(crate) const fn is_tag(ether_type: [u8; 2]) -> bool {
    matches!(ether_type, TPID_8021Q | TPID_8021AD)
}

/// The tags of a frame that carries an IP packet behind them; `None`: it does not, or has more than two.
#[inline(always)]
pub(crate) fn read<F: Frame>(frame: &F) -> Option<Tags> {
    let is_ip = |ether_type| matches!(ether_type, ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
    let one = frame.header::<Tagged<1>>(0)?;
    if is_ip(one.ether_type) {
        let [tag] = one.tags;
        return Some(Tags([tag, [0; 4]]));
    }
    let two = frame.header::<Tagged<2>>(0)?;
    let [_, [a, b, ..]] = two.tags;
    (is_tag([a, b]) && is_ip(two.ether_type)).then_some(Tags(two.tags))
}

/// More tags than two, of which one names no VLAN: the kernel takes such tags off until something else comes, which nobody has looked at.
#[inline(always)]
pub(crate) fn hides<F: Frame>(frame: &F) -> bool {
    let Some(three) = frame.header::<Tagged<3>>(0) else {
        return false;
    };
    let mut are_tags = true;
    let mut names_all = true;
    for [a, b, c, d] in three.tags {
        are_tags &= is_tag([a, b]);
        names_all &= (c & 0x0f) | d != 0;
    }
    are_tags && !names_all
}

/// The interface of tags on a port, and `None` where the kernel has none.
#[inline(always)]
fn interface<T: Tables>(tables: &T, port: u32, tags: Tags) -> Option<u32> {
    let home = vlan::home(port, tags);
    for probe in 0..vlan::PROBES {
        let slot = device_slot(home.wrapping_add(probe));
        let named = tables.device(slot)?.vlan;
        let device = tables.device(device_slot(named))?;
        if named != 0 && device.ifindex == named && device.port == port && device.tags == tags {
            return Some(named);
        }
    }
    None
}

/// Takes the tags off a frame that came by an interface of ours, and says so to the frame. `None`, and the frame is as it
/// was: the kernel is to see what it does with it.
#[inline(always)]
pub fn enter<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Option<Came> {
    let port = frame.ingress_ifindex();
    let tags = read(frame)?;
    let device = tables.device(device_slot(port))?;
    if device.ifindex != port {
        return None;
    }
    let ifindex = match tags.is_priority_alone() {
        true => port,
        // What belongs to a bond came by the bond.
        false => interface(tables, device.port, tags.plain())?,
    };
    take_off(frame, tags)?;
    frame.came_by(ifindex);
    Some(Came { port, tags })
}

/// Takes off the tags that a frame has, of which there is one at least.
#[inline(always)]
pub(crate) fn take_off<F: Frame>(frame: &mut F, tags: Tags) -> Option<()> {
    let macs = *frame.header::<MacWords>(0)?;
    let shrunk = match tags.count() {
        1 => frame.shrink_head(TAG as u16),
        _ => frame.shrink_head(TWO_TAGS as u16),
    };
    if !shrunk {
        return None;
    }
    *frame.header_mut::<MacWords>(0)? = macs;
    Some(())
}

/// Puts tags on a frame. False: there is no room for them.
#[inline(always)]
fn put<F: Frame, const N: usize>(frame: &mut F, tags: [Tag; N]) -> bool {
    let bytes = N.wrapping_mul(TAG);
    let Some(macs) = frame.header::<MacWords>(0).copied() else {
        return false;
    };
    if !frame.grow_head(bytes as u16) {
        return false;
    }
    // What follows the tags stands there already: the EtherType.
    match frame.header_mut::<Tagged<N>>(0) {
        Some(front) => {
            front.macs = macs;
            front.tags = tags;
            true
        }
        None => false,
    }
}

/// Puts these tags on a frame, if any. False: there is no room for them.
#[inline(always)]
pub(crate) fn put_all<F: Frame>(frame: &mut F, Tags(tags): Tags) -> bool {
    match Tags(tags).count() {
        0 => true,
        1 => put(frame, [tags[0]]),
        _ => put(frame, tags),
    }
}

/// True where [`leave`] has something to do.
#[inline(always)]
pub const fn leaves_otherwise(came: &Came, verdict: Verdict) -> bool {
    came.tags.count() != 0 || verdict.leaves_tagged()
}

const TAGGED: u32 = Device::TAGGED as u32;

/// The frame as it leaves: what passes and what goes back with the tags that it came with, what goes out elsewhere with those
/// of its interface and the priority that it came with. The verdict is the port's then. Dropped frames stay without theirs.
/// `None`: there is no room for the tags, in a frame that is counted as sent, or the port is gone.
#[inline(always)]
pub fn leave<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    came: &Came,
    verdict: Verdict,
) -> Option<Verdict> {
    match verdict.action {
        Action::Drop => Some(verdict),
        Action::Pass | Action::Tx => put_all(frame, came.tags).then_some(verdict),
        Action::Redirect => {
            let slot = verdict.detail & !TAGGED;
            let device = tables.device(slot)?;
            let tags = match device.tags.count() {
                0 => Tags::NONE,
                _ => device.tags.with_priority_of(&came.tags),
            };
            if !put_all(frame, tags) {
                return None;
            }
            Some(match device.port == came.port {
                true => Verdict::TX,
                false => Verdict::redirect(slot),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Fate, Step, world::Ends};
    use crate::mem::{self, MemFrame};

    /// A forwarded packet, with these words after its addresses, and what becomes of it.
    fn with(words: &[u8]) -> (Verdict, Vec<u8>, Step) {
        let fixtures = fixture::forwarding::all();
        let forwarded = |step: &Step| matches!(step.fate, Fate::Redirect(_));
        let fixture = fixtures.iter().find(|f| forwarded(&f.steps[0])).unwrap();
        let step = fixture.steps[0].clone();
        let ends = Ends::HOST;
        let mut frame = MemFrame::new(step.packet.clone(), ends.ifindex(step.ingress));
        frame.bytes.splice(12..12, words.iter().copied());
        let tables = fixture.world.tables(&ends);
        let verdict = mem::process(&mut frame, &tables, step.at);
        (verdict, frame.bytes, step)
    }

    #[test]
    fn a_priority_alone_is_no_vlan_and_does_not_leave_without_one() {
        let (verdict, bytes, step) = with(&[0x81, 0, 0xe0, 0]);
        let expected = step.expected(&Ends::HOST);
        assert_eq!((verdict, bytes), (expected.verdict, expected.output));
    }

    #[test]
    fn tags_of_no_interface_three_tags_and_priorities_before_tags_are_the_kernels() {
        for words in [
            &[0x81, 0, 0, 9][..],
            &[0x88, 0xa8, 0, 9],
            &[0x81, 0, 0, 9, 0x81, 0, 0, 9],
            &[0x81, 0, 0, 0, 0x81, 0, 0, 9],
            &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0],
            // Another EtherType behind the tag.
            &[0x81, 0, 0, 0, 0x08, 0x06],
            // And nothing.
            &[0x81, 0],
        ] {
            let (verdict, bytes, step) = with(words);
            let mut expected = step.packet.clone();
            expected.splice(12..12, words.iter().copied());
            assert_eq!((verdict, bytes), (Verdict::PASS, expected), "{words:x?}");
        }
    }
}
