//! Whether packets of full size reach a target, as one check finds out: how large they are, what fills them, and what the
//! end of the check says of it. Pure.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};

use crate::model::{Family, FullSize, TCP_HEADER, ip_header};

/// The field of a request that fills a packet.
pub(super) const FIELD: &str = "x-fairlead-padding";
/// The most bytes of it in one line: servers take lines of 8 KB and less.
const LINE: usize = 4000;
/// What stands around the value of a field: a colon, a space, CR and LF.
const AROUND: usize = 4;
/// Bytes of the option with timestamps in each segment, where both ends want it (RFC 7323 section 3.2, padded).
const TIMESTAMPS: u32 = 12;
/// Bytes of an ICMP echo request before its data (RFC 792, RFC 4443 section 4.1).
const ECHO_HEADER: u32 = 8;
/// The least that Linux takes for TCP_MAXSEG (tcp(7)).
const LEAST_SEGMENT: u32 = 88;

/// What a connected socket says of its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) family: Family,
    /// The largest packet that may leave, in bytes.
    pub(super) mtu: u32,
    /// The most data of a segment, in bytes.
    pub(super) mss: u32,
}

/// What is known of a packet of full size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// None was sent.
    Unsent,
    /// It was, and nothing tells that it has arrived.
    Silent,
    /// It has arrived, and there was no answer.
    Unanswered,
    /// It has arrived, and the target has answered or closed: if that is bad, it may be for the bytes that fill it.
    Answered,
}

/// One check with packets of full size.
#[derive(Debug)]
pub struct Trial {
    size: FullSize,
    /// What the data plane knows to fit the path to the target, in bytes; 0: nothing.
    path: u32,
    /// What is added on the way, in bytes.
    growth: u32,
    /// The largest packet, as the check sends it, and the data in it, in bytes.
    packet: AtomicU32,
    data: AtomicU32,
    /// The other end's kernel had not acknowledged it when something came from there last, or at the end.
    missing: AtomicBool,
    /// The largest packet that may leave, as routers say by now, in bytes.
    learned: AtomicU32,
    end: AtomicU8,
}

impl Trial {
    /// Of packets that go by the tunnel, or not. `path`: the largest packet that the data plane knows to fit.
    pub(super) fn new(size: FullSize, path: Option<u32>, by_tunnel: bool) -> Self {
        Self {
            size,
            path: path.unwrap_or(0),
            growth: if by_tunnel { size.growth } else { 0 },
            packet: AtomicU32::new(0),
            data: AtomicU32::new(0),
            missing: AtomicBool::new(false),
            learned: AtomicU32::new(u32::MAX),
            end: AtomicU8::new(End::Unsent as u8),
        }
    }

    /// The largest packet of the check where its socket may send ones of `mtu` bytes.
    fn largest(&self, mtu: u32) -> u32 {
        let whole = self.size.most.saturating_add(self.size.growth).min(mtu);
        let fits = match self.path {
            0 => whole,
            path => whole.min(path),
        };
        fits.saturating_sub(self.growth)
    }

    /// The largest segment that the check's socket is to send and take.
    pub(super) fn segment(&self, family: Family) -> u32 {
        let headers = ip_header(family).saturating_add(TCP_HEADER);
        let segment = self.largest(u32::MAX).saturating_sub(headers);
        segment.max(LEAST_SEGMENT)
    }

    /// Decides on the data of a segment that makes a packet of full size.
    pub(super) fn fill_segment(&self, way: Way) {
        let headers = ip_header(way.family).saturating_add(TCP_HEADER);
        let whole = self
            .segment(way.family)
            .min(way.mtu.saturating_sub(headers));
        // A segment has less room than that if it has options; or if the target wants smaller ones, and then these may be
        // taken for options: what is sent is not too large.
        let options = if way.mss < whole { TIMESTAMPS } else { 0 };
        let before = headers.saturating_add(options);
        let room = self.largest(way.mtu).saturating_sub(before).min(way.mss);
        self.data.store(room, Relaxed);
        self.packet.store(room.saturating_add(before), Relaxed);
    }

    /// How many bytes an echo request brings along to be of full size.
    pub(super) fn fill_echo(&self, family: Family, mtu: u32) -> usize {
        let packet = self.largest(mtu);
        self.packet.store(packet, Relaxed);
        let before = ip_header(family).saturating_add(ECHO_HEADER);
        let data = packet.saturating_sub(before);
        self.data.store(data, Relaxed);
        usize::try_from(data).unwrap_or(0)
    }

    /// The most bytes of a segment; 0: not decided yet.
    pub(super) fn data(&self) -> usize {
        usize::try_from(self.data.load(Relaxed)).unwrap_or(0)
    }

    /// Values of [`FIELD`] that make a segment full of a request that has so many bytes without them.
    pub(super) fn padding(&self, request: usize) -> Vec<String> {
        let around = FIELD.len().saturating_add(AROUND);
        let mut room = self.data().saturating_sub(request);
        let mut values = vec![];
        while room > 0 {
            let value = room.saturating_sub(around).clamp(1, LINE);
            // HTTP/2 makes nothing shorter of this letter (RFC 7541, appendix B).
            values.push("X".repeat(value));
            room = room.saturating_sub(around.saturating_add(value));
        }
        values
    }

    /// A packet of full size leaves now.
    pub(super) fn asks(&self) {
        self.put(End::Silent);
    }

    /// Whether a full packet is not acknowledged.
    pub(super) fn looked(&self, missing: bool) {
        self.missing.store(missing, Relaxed);
    }

    fn is_missing(&self) -> bool {
        self.missing.load(Relaxed)
    }

    /// There is an answer. It tells of a packet that is missing if the server did not want to wait for it (408 of
    /// RFC 9110 section 15.5.9).
    pub(super) fn answered(&self) {
        if !self.is_missing() {
            self.put(End::Answered);
        }
    }

    /// The connection broke, with this error of the kernel's if any. After a reset nobody knows what has arrived, and
    /// only those send one in time who do not like what they see.
    pub(super) fn broke(&self, error: Option<&io::Error>) {
        let by_target = match error.and_then(io::Error::raw_os_error) {
            Some(libc::ECONNRESET | libc::EPIPE) => true,
            Some(_) => false,
            None => !self.is_missing(),
        };
        if by_target && self.end() == End::Silent {
            self.put(End::Answered);
        }
    }

    /// The connection is no more.
    pub(super) fn ended(&self) {
        if self.end() == End::Silent && !self.is_missing() {
            self.put(End::Unanswered);
        }
    }

    /// The largest packet that may leave now, in bytes.
    pub(super) fn learned(&self, mtu: u32) {
        self.learned.store(mtu, Relaxed);
    }

    /// A check with a small packet tells what the end of this one is worth.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.end(), End::Silent | End::Answered)
    }

    fn put(&self, end: End) {
        self.end.store(end as u8, Relaxed);
    }

    pub(super) fn end(&self) -> End {
        match self.end.load(Relaxed) {
            0 => End::Unsent,
            1 => End::Silent,
            2 => End::Unanswered,
            _ => End::Answered,
        }
    }

    /// True if routers say by now that the packets of this check do not fit, so that clients are told too.
    pub(super) fn is_known_too_large(&self, path: Option<u32>) -> bool {
        let packet = self.packet.load(Relaxed);
        let sent = packet.saturating_add(self.growth);
        path.is_some_and(|path| path < sent) || self.learned.load(Relaxed) < packet
    }

    /// The words of a check that failed where the same one with small packets is good.
    pub(super) fn told(&self, words: &str) -> String {
        let packet = self.packet.load(Relaxed);
        let whole = packet.saturating_add(self.growth);
        let tunnel = match self.growth {
            0 => String::new(),
            _ => format!(", {whole} in the tunnel"),
        };
        format!(
            "{words}; it answers small packets, but not those of {packet} bytes{tunnel}: check the MTU between here and it"
        )
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
mod tests;
