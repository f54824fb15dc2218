//! Flows of `fullnat`: which address and port of the balancer's own stands for a client.
//!
//! A reply's 5-tuple (backend, NAT address and port, protocol) has exactly one slot in `nat_flows`, and a slot one flow.
//! So two flows never share a 5-tuple, a reply is found with one look, and nothing is searched for or moved. What is left to
//! choose is the port: a flow looks at the slots of [`PROBES`] candidates and takes the first that is free, or
//! else takes the place of the unproven flow ([`Stage::is_unproven`]) among them that has been silent longest.
//!
//! A flow that is over keeps its slot until it has been silent for as long as [`Idle`] says of its stage; then the slot is as good as free.

use bytemuck::{Pod, Zeroable};

use crate::{FlowHash, FlowKey, ReturnHop};

mod idle;
mod state;

pub use idle::{Idle, IdleTable, seconds};
pub use state::{Stage, State};

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

/// The second that entries count by, of 2^30 ns, at a time of the kernel's clock.
#[inline(always)]
pub const fn second(now: u64) -> u32 {
    (now >> 30) as u32
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
}
