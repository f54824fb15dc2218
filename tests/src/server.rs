//! The servers behind the balancer: what they answer, as pure functions. `server/*.rs` runs them.
//!
//! * HTTP: `/` answers the backend's name, `/health` what it was told to answer, `/bytes/N?seed=S`
//!   N bytes that anyone can compute.
//! * Echo, TCP and UDP: a message comes back with its first [`NAME_BYTES`] bytes replaced by the
//!   backend's name, so that a client can compare the content and knows who answered.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod control;
mod dnsmasq;
mod echo;
mod grpc;
mod http;
mod nginx;
mod program;
mod run;

pub use dnsmasq::Dnsmasq;
pub use grpc::{Grpc, Settings as GrpcSettings};
pub use nginx::Nginx;
pub(crate) use run::binary;
pub use run::{Server, lab_binary, serve};

/// The port of HTTP.
pub const HTTP_PORT: u16 = 8080;
/// The port of TCP and UDP echo.
pub const ECHO_PORT: u16 = 7000;
/// A TCP echo message.
pub const MESSAGE_BYTES: usize = 1024;
/// The place of the name in an echoed message; the rest is zero.
pub const NAME_BYTES: usize = 16;

/// What a server is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name; at most [`NAME_BYTES`] bytes.
    pub name: String,
    /// The addresses of its UDP sockets. One each, so that an answer has the address that was
    /// asked, VIPs included.
    pub udp: Vec<IpAddr>,
    /// TCP connections that each of its ports holds until they are accepted (listen(2)).
    pub backlog: i32,
}

impl Config {
    /// Of a server that has room for all who come at once.
    pub const BACKLOG: i32 = 8192;
}

/// What `/health` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
    /// Field `x-fairlead-weight`, if it is to be there.
    pub weight: Option<String>,
    /// Time before the answer.
    pub delay_ms: u64,
    /// Close the connection instead of answering.
    pub close: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            status: 200,
            body: "ok\n".to_owned(),
            weight: None,
            delay_ms: 0,
            close: false,
        }
    }
}

/// Puts the name into an echoed message, as far as it has room.
pub(crate) fn sign(message: &mut [u8], name: &str) {
    let name = name.bytes().chain(std::iter::repeat(0));
    for (to, from) in message.iter_mut().take(NAME_BYTES).zip(name) {
        *to = from;
    }
}

/// The name in an echoed message.
pub fn signature(message: &[u8]) -> &str {
    let name = &message[..NAME_BYTES.min(message.len())];
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    std::str::from_utf8(&name[..end]).unwrap_or("?")
}

/// Bytes that look random and are a function of a seed (xorshift64*, Vigna 2016).
pub struct Content {
    state: u64,
    left: usize,
}

/// The most that [`Content`] yields at once.
const CHUNK: usize = 64 * 1024;

impl Content {
    /// `length` bytes of the sequence of `seed`.
    pub fn new(length: usize, seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            left: length,
        }
    }

    /// The SHA-256 of `length` bytes of `seed`, in hexadecimal.
    pub fn sha256(length: usize, seed: u64) -> String {
        let mut hash = Sha256::new();
        Self::new(length, seed).for_each(|chunk| hash.update(chunk));
        hex(&hash.finalize())
    }
}

impl Iterator for Content {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let length = self.left.min(CHUNK);
        if length == 0 {
            return None;
        }
        self.left -= length;
        let mut chunk = Vec::with_capacity(length + 8);
        while chunk.len() < length {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let word = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
            chunk.extend_from_slice(&word.to_le_bytes());
        }
        chunk.truncate(length);
        Some(chunk)
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
