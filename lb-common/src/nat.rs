//! Flows of `fullnat`: which address and port of the balancer's own stands for a client.
//!
//! A reply's 5-tuple (backend, NAT address and port, protocol) has exactly one slot in `nat_flows`, and a slot one flow.
//! So two flows never share a 5-tuple, a reply is found with one look, and nothing is searched for or moved. What is left to
//! choose is the port: a flow looks at the slots of [`PROBES`] candidates and takes the first that is free.
//!
//! A flow that is over keeps its slot until it has been idle for [`Stage::idle_seconds`]; then the slot is as good as free.

use bytemuck::{Pod, Zeroable};

use crate::{FlowHash, FlowKey, ReturnHop};

/// Candidates that a flow looks at. At half load one new flow in 2^16 finds none.
pub const PROBES: u32 = 16;

/// Ports in so small a number are tried one after the other.
const FEW_PORTS: u32 = 64;

/// What stands for a client: the low 32 bits of a NAT address, host order, and a port in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The last four bytes of the address, host order.
    pub low: u32,
    /// Network order.
    pub port: [u8; 2],
}

impl Candidate {
    /// Candidate `number` (below [`PROBES`]) of a flow. `low`: as `Control::nat_v4` or the end of `nat_v6`, host order;
    /// `spread`: its host bits; `ports`: [`ports`].
    #[inline(always)]
    pub const fn of(
        hash: FlowHash,
        key: &FlowKey,
        low: u32,
        spread: u32,
        ports: u32,
        number: u32,
    ) -> Self {
        let shown = hash.shown(key);
        let (first, count) = (ports & 0xffff, (ports >> 16).wrapping_add(1));
        let start = (shown >> 32) as u32;
        let step = match count <= FEW_PORTS {
            true => 1,
            // Odd, so that the ports of an even number are all different.
            false => (shown >> 16) as u32 & 0x7fff | 1,
        };
        let at = (start >> 16).wrapping_add(step.wrapping_mul(number));
        let port = first.wrapping_add(match at.checked_rem(count) {
            Some(at) => at,
            None => 0,
        });
        Self {
            low: low | start.wrapping_add(number) & spread,
            port: (port as u16).to_be_bytes(),
        }
    }
}

/// `Control::nat_ports`: the first port in the low half, and how many follow it in the high half; 0: there is no NAT.
#[inline(always)]
pub const fn ports(first: u16, last: u16) -> u32 {
    first as u32 | (last.saturating_sub(first) as u32) << 16
}

/// How far a flow is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Nobody's.
    Free = 0,
    /// Somebody's who is writing the rest of the entry.
    Writing = 1,
    /// TCP: its client has sent SYN and nothing else.
    Opening = 2,
    /// TCP.
    Established = 3,
    /// TCP: one side has sent FIN or RST.
    Closing = 4,
    /// UDP.
    Datagrams = 5,
}

impl Stage {
    const fn of(number: u64) -> Self {
        match number & 7 {
            0 => Self::Free,
            1 => Self::Writing,
            2 => Self::Opening,
            3 => Self::Established,
            4 => Self::Closing,
            _ => Self::Datagrams,
        }
    }

    /// Seconds (2^30 ns) without a packet after which the entry may be another flow's.
    ///
    /// Established: RFC 5382 REQ-5 (two hours and four minutes). Closing: twice the 60 seconds of Linux's TIME-WAIT.
    /// Datagrams: RFC 4787 REQ-5. An opening one is short, as a flood makes such.
    #[inline(always)]
    pub const fn idle_seconds(self) -> u32 {
        match self {
            Self::Free => 0,
            // A packet is never interrupted for so long.
            Self::Writing => u32::MAX,
            Self::Opening => 30,
            Self::Established => 7440,
            Self::Closing => 120,
            Self::Datagrams => 300,
        }
    }

    /// Once the client has sent a packet that is `opening` or `closing`, `silent` seconds after the one before. A closed
    /// connection with new packets after a pause is none: that FIN or RST was forged.
    #[inline(always)]
    pub const fn after(self, opening: bool, closing: bool, silent: u32) -> Self {
        match self {
            Self::Datagrams => self,
            _ if closing => Self::Closing,
            Self::Closing if opening => Self::Opening,
            Self::Closing if silent < REVIVES => Self::Closing,
            Self::Opening if opening => Self::Opening,
            // A SYN on a live connection does not make it a new one.
            _ => Self::Established,
        }
    }
}

/// Seconds of silence after which a packet of a closing connection says that it lives.
const REVIVES: u32 = 10;

/// The first word of an entry: the second of its last packet in bits 0 to 31, its stage in 32 to 39, and 24 bits of the
/// flow's hash above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u64);

impl State {
    /// Of a flow.
    #[inline(always)]
    pub const fn new(hash: FlowHash, stage: Stage, second: u32) -> Self {
        Self(second as u64 | (stage as u64) << 32 | hash.0 >> 40 << 40)
    }

    /// Its stage.
    #[inline(always)]
    pub const fn stage(self) -> Stage {
        Stage::of(self.0 >> 32)
    }

    /// The second of its last packet.
    #[inline(always)]
    pub const fn second(self) -> u32 {
        self.0 as u32
    }

    /// Seconds since its last packet; 0 if that is yet to come, as another CPU's clock may be ahead.
    #[inline(always)]
    pub const fn silent(self, now: u32) -> u32 {
        match now.wrapping_sub(self.second()) {
            ahead if ahead >> 31 != 0 => 0,
            silent => silent,
        }
    }

    /// Another flow may have it.
    #[inline(always)]
    pub const fn is_over(self, now: u32) -> bool {
        match self.stage() {
            Stage::Free => true,
            stage => self.silent(now) > stage.idle_seconds(),
        }
    }

    /// It may be this flow's.
    #[inline(always)]
    pub const fn is_of(self, hash: FlowHash) -> bool {
        self.0 >> 40 == hash.0 >> 40 && !matches!(self.stage(), Stage::Free)
    }

    /// The same flow, at another stage and time.
    #[inline(always)]
    pub const fn at(self, stage: Stage, second: u32) -> Self {
        Self(second as u64 | (stage as u64) << 32 | self.0 >> 40 << 40)
    }
}

/// Positions of the words of an entry. Map `nat_flows`: one line an entry.
pub mod word {
    /// A [`super::State`], the only word that is changed by compare-and-exchange.
    pub const STATE: u32 = 0;
    /// The client's address, as [`crate::Address::words`]: this and the next word.
    pub const CLIENT: u32 = 1;
    /// The flow's hash.
    pub const HASH: u32 = 3;
    /// [`super::Ends`].
    pub const ENDS: u32 = 4;
    /// BackendId in the low half, [`super::Candidate::low`] in the high half.
    pub const BACKEND: u32 = 5;
    /// A [`crate::ReturnHop`].
    pub const HOP: u32 = 6;
}

/// The ports of an entry and its protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ends {
    /// The client's, network order.
    pub client: [u8; 2],
    /// What the client sent to, network order.
    pub service: [u8; 2],
    /// Ours, network order.
    pub nat: [u8; 2],
    /// IANA number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

const _: () = assert!(size_of::<Ends>() == 8 && size_of::<ReturnHop>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashKey;

    #[test]
    fn candidates_stay_within_the_ports_and_the_prefix() {
        let key = HashKey([1, 2]).expand();
        for (first, last) in [(1024, 65_535), (5000, 5000), (5000, 5007), (1, 65_535)] {
            for n in 0..2000_u64 {
                let hash = FlowHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                for number in 0..PROBES {
                    let of = Candidate::of(hash, &key, 0xc633_6400, 3, ports(first, last), number);
                    let port = u16::from_be_bytes(of.port);
                    assert!((first..=last).contains(&port), "{first}-{last}: {port}");
                    assert_eq!(of.low & !3, 0xc633_6400);
                }
            }
        }
    }

    #[test]
    fn candidates_of_one_flow_differ_and_few_ports_are_all_tried() {
        let key = HashKey([1, 2]).expand();
        for n in 0..2000_u64 {
            let hash = FlowHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for (last, distinct) in [(65_535, PROBES), (1024 + 7, 8), (1024 + 40, PROBES)] {
                let mut seen = [[0; 2]; PROBES as usize];
                for (number, place) in (0..).zip(&mut seen) {
                    *place = Candidate::of(hash, &key, 0, 0, ports(1024, last), number).port;
                }
                seen.sort_unstable();
                let different = 1 + seen.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert_eq!(different, distinct as usize, "{n} {last}");
            }
        }
    }

    #[test]
    fn an_entry_is_over_when_its_stage_has_been_idle_for_long_enough() {
        let hash = FlowHash(0xdead_beef_0123_4567);
        for stage in [
            Stage::Opening,
            Stage::Established,
            Stage::Closing,
            Stage::Datagrams,
        ] {
            for began in [1000, u32::MAX - 5] {
                let state = State::new(hash, stage, began);
                assert_eq!((state.stage(), state.second()), (stage, began));
                assert!(state.is_of(hash) && !state.is_of(FlowHash(!hash.0)));
                let last = began.wrapping_add(stage.idle_seconds());
                assert!(!state.is_over(last) && state.is_over(last.wrapping_add(1)));
                assert!(!state.is_over(began.wrapping_sub(3)));
            }
        }
        assert!(State(0).is_over(0) && !State::new(hash, Stage::Writing, 0).is_over(1 << 30));
    }

    #[test]
    fn a_connection_goes_through_its_stages() {
        use Stage::{Closing, Datagrams, Established, Opening};
        for (from, opening, closing, silent, to) in [
            (Opening, true, false, 1, Opening),
            (Opening, false, false, 0, Established),
            (Opening, false, true, 0, Closing),
            (Established, true, false, 60, Established),
            (Established, false, true, 60, Closing),
            (Closing, false, false, 1, Closing),
            (Closing, false, false, 10, Established),
            (Closing, false, true, 60, Closing),
            (Closing, true, false, 0, Opening),
            (Datagrams, false, true, 0, Datagrams),
            (Datagrams, false, false, 99, Datagrams),
        ] {
            assert_eq!(from.after(opening, closing, silent), to, "{from:?}");
        }
    }
}
