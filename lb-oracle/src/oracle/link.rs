//! Interfaces, and the tags of their frames: IEEE 802.1Q, `docs/vlan.md`. To everything else there are no tags.

use lb_common::{DropReason, backend::device_slot, vlan::Tag};
use lb_ebpf::{
    fixture::{
        tagging::Tagging,
        world::{self, Ends, Side},
    },
    verdict::Verdict,
};

use super::{
    Met, Opinion,
    packet::{ETHERNET, Mac},
};

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A side's: a card, or the one that the kernel made for tags on it.
    Of(Side),
    /// A card by itself, where all that is on it has tags.
    Card(Side),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To the kernel.
    Pass,
    /// Back out of the same card.
    Tx,
    /// Out of an interface.
    Redirect(Link),
    /// Dropped.
    Drop(DropReason),
}

impl Fate {
    /// With real interfaces.
    #[must_use]
    pub const fn verdict(self, ends: &Ends) -> Verdict {
        match self {
            Self::Pass => Verdict::PASS,
            Self::Tx => Verdict::TX,
            Self::Redirect(Link::Of(side)) => Verdict::redirect(ends.slot(side)),
            Self::Redirect(Link::Card(side)) => Verdict::redirect(device_slot(ends.port(side))),
            Self::Drop(reason) => Verdict::drop(reason),
        }
    }
}

/// How a frame came.
#[derive(Clone, Debug)]
pub(super) struct Came {
    /// The card.
    card: Side,
    /// The interface that card and tags name.
    pub(super) link: Link,
    /// As they stood in the frame, the first on the wire first.
    pub(super) tags: Vec<Tag>,
}

impl Came {
    /// How long its tags are.
    pub(super) const fn bytes(&self) -> usize {
        self.tags.len() * TAG
    }
}

/// All interfaces.
pub(super) struct Links {
    tagging: Tagging,
    gone: Vec<Side>,
    /// Toward the clients, in bytes.
    mtu: u32,
}

/// Where tags stand.
const TAGS: usize = 12;
/// Bytes of one.
const TAG: usize = 4;

fn is_tag(ether_type: &[u8]) -> bool {
    matches!(ether_type, [0x81, 0] | [0x88, 0xa8])
}

/// The tags of a frame, however many.
fn tags_of(frame: &[u8]) -> Vec<Tag> {
    let words = frame.get(TAGS..).unwrap_or_default().chunks_exact(TAG);
    words
        .take_while(|word| is_tag(&word[..2]))
        .map(|word| word.try_into().expect("four bytes"))
        .collect()
}

/// The frame without them.
pub(super) fn without_tags(frame: &[u8]) -> Vec<u8> {
    let tags = tags_of(frame).len() * TAG;
    [
        &frame[..frame.len().min(TAGS)],
        &frame[(TAGS + tags).min(frame.len())..],
    ]
    .concat()
}

fn with(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    [&frame[..TAGS], &tags.concat(), &frame[TAGS..]].concat()
}

/// The same VLANs without priority.
fn plain(tags: &[Tag]) -> Vec<Tag> {
    let plain = |[a, b, c, d]: &Tag| [*a, *b, c % 16, *d];
    tags.iter().map(plain).collect()
}

impl Links {
    pub(super) fn new(tagging: Tagging, mtu: u32) -> Self {
        Self {
            tagging,
            gone: Vec::new(),
            mtu,
        }
    }

    /// A side's interface is not there any more.
    pub(super) fn lose(&mut self, side: Side) {
        self.gone.push(side);
    }

    pub(super) fn has(&self, link: Link) -> bool {
        match link {
            Link::Of(side) => !self.gone.contains(&side),
            Link::Card(_) => true,
        }
    }

    /// The largest packet that it sends.
    pub(super) fn mtu(&self, link: Link) -> u32 {
        match link {
            Link::Of(Side::Client) => self.mtu,
            Link::Of(side) | Link::Card(side) => world::mtu(side),
        }
    }

    /// Our address there.
    pub(super) const fn mac(link: Link) -> Mac {
        match link {
            Link::Of(side) | Link::Card(side) => world::our_mac(side),
        }
    }

    fn card(&self, side: Side) -> Side {
        match self.tagging.stick {
            true => Side::Client,
            false => side,
        }
    }

    fn tags(&self, link: Link) -> Vec<Tag> {
        let tags = match link {
            Link::Of(Side::Client) => self.tagging.client.0,
            Link::Of(Side::Backend) => self.tagging.backend.0,
            Link::Card(_) => return Vec::new(),
        };
        tags.into_iter().filter(|tag| is_tag(&tag[..2])).collect()
    }

    /// The interface of a card's frames without tags.
    fn bare(&self, card: Side) -> Link {
        self.named(card, &[]).unwrap_or(Link::Card(card))
    }

    fn named(&self, card: Side, tags: &[Tag]) -> Option<Link> {
        let sides = [Side::Client, Side::Backend].into_iter();
        let mut there = sides.filter(|side| self.card(*side) == card);
        let side = there.find(|side| self.tags(Link::Of(*side)) == tags)?;
        Some(Link::Of(side))
    }

    /// How a frame came by the card of a side; `None`: the kernel is to see what it does with it.
    pub(super) fn enter(&self, side: Side, frame: &[u8]) -> Option<Came> {
        let card = self.card(side);
        let (bare, tags) = (self.bare(card), tags_of(frame));
        let came = |link, tags| Some(Came { card, link, tags });
        let behind = frame.get(TAGS + tags.len() * TAG..ETHERNET + tags.len() * TAG);
        let carries_ip = matches!(behind, Some([8, 0] | [0x86, 0xdd]));
        match &tags[..] {
            [] => came(bare, tags),
            [_, _, _, ..] => None,
            _ if !carries_ip || !self.has(bare) => None,
            // Nothing but a priority.
            [[_, _, high, low]] if high % 16 == 0 && *low == 0 => came(bare, tags),
            _ => {
                let link = self.named(card, &plain(&tags))?;
                self.has(link).then_some(())?;
                came(link, tags)
            }
        }
    }

    /// The same opinion with tags: those that the frame came with where it goes back or passes, those of the interface
    /// that it leaves by, with the priority that it came with, otherwise. Two VLANs of one card are one cable. `room`: bytes before the frame; one that they have no room in is lost.
    pub(super) fn leave(&self, came: &Came, opinion: Opinion, room: usize) -> Opinion {
        let Some(output) = &opinion.output else {
            return opinion;
        };
        let (tags, fate) = match opinion.fate {
            Fate::Redirect(link) => {
                let mut tags = self.tags(link);
                if let (Some(first), Some([_, _, priority, _])) =
                    (tags.first_mut(), came.tags.first())
                {
                    first[2] |= priority / 16 * 16;
                }
                let is_tagged = !tags.is_empty() || !came.tags.is_empty();
                let to = match link {
                    Link::Of(side) => self.card(side),
                    Link::Card(card) => card,
                };
                // What belongs to a bond leaves by the bond.
                let bonded = self.tagging.bond && to == Side::Client;
                match is_tagged && to == came.card && !bonded {
                    true => (tags, Fate::Tx),
                    false => (tags, opinion.fate),
                }
            }
            fate => (came.tags.clone(), fate),
        };
        if tags.len() * TAG > room {
            let met = Met {
                untagged: true,
                ..opinion.met
            };
            return Opinion {
                met,
                ..Opinion::dropped(DropReason::MapInconsistent)
            };
        }
        Opinion {
            output: Some(with(output, &tags)),
            fate,
            ..opinion
        }
    }
}
