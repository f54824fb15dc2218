//! QUIC connection ids that name a server in plain text (draft-ietf-quic-load-balancers-21, sections 3 and 5).
//!
//! ```text
//!  0 1 2 3 4 5 6 7
//! +-----+---------+------------------+-----------
//! | cfg | any     | server id        | nonce ...
//! | (3) | (5)     | (1 to 15 bytes)  |
//! +-----+---------+------------------+-----------
//! ```
//!
//! `cfg` is the config id, which says how long the server id is; 7 is of ids that name nobody. The five bits
//! after it are the id's length or anything: nobody here needs them, since a server id begins at the second byte.

use bytemuck::{Pod, Zeroable};

use crate::{Address, EndpointKey, Protocol, rule};

/// Bytes of the longest server id.
pub const MAX_SERVER_ID: usize = 15;
/// The largest config id that names servers.
pub const MAX_CONFIG: u8 = 6;
/// Config ids of a service at a time: the one in use, and the one before or after it.
pub const MAX_CONFIGS: usize = 2;

/// Bytes of a connection id that are looked at.
pub const PREFIX: usize = 1 + MAX_SERVER_ID;

/// How long server ids are under each config id: 4 bits for each, in bytes, from the lowest; 0: the config id is
/// not in use. All zero: the service's packets are not QUIC's.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Lengths(pub u32);

impl Lengths {
    /// No config id is in use.
    pub const NONE: Self = Self(0);

    /// With another config id (0 to [`MAX_CONFIG`]; others change nothing) and the length of its server ids (1 to
    /// [`MAX_SERVER_ID`]).
    #[must_use]
    pub const fn with(self, config: u8, length: usize) -> Self {
        if config > MAX_CONFIG || length == 0 || length > MAX_SERVER_ID {
            return self;
        }
        let shift = (config as u32).wrapping_mul(4);
        Self(self.0 & !(15 << shift) | (length as u32) << shift)
    }

    /// Bytes of the server id of a connection id that begins with this byte; 0: it names nobody.
    #[inline(always)]
    pub const fn of(self, first: u8) -> u32 {
        self.0 >> ((first >> 5) as u32).wrapping_mul(4) & 15
    }
}

/// What a backend is found by: its service, and the beginning of a connection id that names it under a config id whose
/// server ids have `length` bytes. The endpoint's kind is [`crate::EndpointKind::ServerId`]; only it says that the address is none.
#[inline(always)]
pub fn key(service: u32, connection_id: [u8; PREFIX], length: u32) -> EndpointKey {
    let [a, b] = Address(connection_id).words();
    let [high, low] = rule::mask(length.wrapping_add(1).wrapping_mul(8));
    // Of the first byte only the config id counts.
    let high = high & !(0x1f << 56);
    EndpointKey {
        address: Address::from_words([a & high.to_be(), b & low.to_be()]),
        port: (service as u16).to_be_bytes(),
        protocol: Protocol::Udp as u8,
    }
}

const _: () = assert!(crate::limits::SERVICES.max <= 1 << 16);
