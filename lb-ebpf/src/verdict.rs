//! What becomes of a packet, and what is counted for it.

mod aside;
mod parcel;

use lb_common::{
    Control, Device, DropReason,
    counter::{self, Global, Handshake, More, OTHER_FLOWS, PerBackend},
};

use crate::{
    flow::Origin,
    parse::Arrival,
    tables::{CacheLine, Tables},
};

pub use aside::Aside;
pub use parcel::{PackedSending, Parcel, Refusal};

/// The one thing done with a packet. Every packet is counted under exactly one.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not ours: the kernel goes on with it, unchanged.
    Pass,
    /// Sent out of the interface it came from.
    Tx,
    /// Sent out of another interface.
    Redirect,
    /// Dropped.
    Drop,
}

/// What becomes of a packet.
///
/// A struct and not an enum with fields: where the compiler joins paths, a field that only some variants
/// have holds anything, and the verifier refuses arithmetic on what it takes for a pointer ("R9
/// bitwise operator &= on pointer prohibited", Linux 6.18). The same holds for [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub action: Action,
    /// `Redirect`: the slot in `devices` and `redirects`, and [`lb_common::Device::TAGGED`] where [`crate::vlan::leave`] has to be asked. `Drop`: the number of the [`DropReason`]. Otherwise 0.
    pub detail: u32,
}

impl Verdict {
    /// To the kernel.
    pub const PASS: Self = Self {
        action: Action::Pass,
        detail: 0,
    };
    /// Back out of the same interface.
    pub const TX: Self = Self {
        action: Action::Tx,
        detail: 0,
    };

    /// Out of the interface in a slot, which is this one.
    #[inline(always)]
    pub const fn out(slot: u32, device: &Device) -> Self {
        Self::redirect(slot | device.tagged as u32)
    }

    /// Out of the interface in a slot.
    #[inline(always)]
    pub const fn redirect(slot: u32) -> Self {
        Self {
            action: Action::Redirect,
            detail: slot,
        }
    }

    /// True where the interface in the slot has tags.
    #[inline(always)]
    pub const fn leaves_tagged(self) -> bool {
        matches!(self.action, Action::Redirect) && self.detail & Device::TAGGED as u32 != 0
    }

    /// Dropped for a reason.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self {
            action: Action::Drop,
            detail: reason as u32,
        }
    }

    /// Why the packet was dropped, if it was.
    pub fn reason(&self) -> Option<DropReason> {
        match self.action {
            Action::Drop => DropReason::ALL.get(self.detail as usize).copied(),
            Action::Pass | Action::Tx | Action::Redirect => None,
        }
    }
}

/// Whose packet it was, for the counters.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Nobody's.
    None,
    /// A service's, dropped; `subject` is its index.
    Service,
    /// Sent to a backend, and counted already.
    Counted,
    /// Sent to the client by the backend `subject`.
    Returned,
    /// An echo request, answered.
    Echo,
    /// An ICMP error, sent to the backend `subject`.
    ErrorForwarded,
    /// An ICMP error, sent to the client.
    ErrorReturned,
    /// A client's packet that was too big, answered.
    TooBig,
    /// A client's segment of no known flow, answered with a reset.
    Reset,
}

/// What was done with a packet, with all that its counters need.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Whose it was.
    pub account: Account,
    /// Service index or BackendId, by `account`.
    pub subject: u32,
}

impl Outcome {
    /// Not ours.
    pub const PASS: Self = Self::of(Verdict::PASS, Account::None, 0);

    /// An outcome without a flow.
    #[inline(always)]
    pub const fn of(verdict: Verdict, account: Account, subject: u32) -> Self {
        Self {
            verdict,
            account,
            subject,
        }
    }

    /// Dropped before its service was known.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self::of(Verdict::drop(reason), Account::None, 0)
    }

    /// Dropped on its way to or from a service.
    #[inline(always)]
    pub const fn service_drop(reason: DropReason, service: u32) -> Self {
        Self::of(Verdict::drop(reason), Account::Service, service)
    }
}

/// Where an outcome says something of a handshake.
const SAYS: u32 = 57;

/// An outcome in one word, to travel in a register between the parts of the BPF program. Bits 0
/// to 31: subject; 32 to 47: detail; 48 and 50: action and account; 57 to 59: what is said of a handshake.
#[derive(Clone, Copy)]
pub struct PackedOutcome(u64);

impl PackedOutcome {
    /// [`Outcome::PASS`].
    pub const PASS: Self = Self(0);
    /// No outcome yet: the packet is an ICMP message.
    pub const MESSAGE: Self = Self(1 << 63);

    /// No outcome yet: the packet is of a protocol that is perhaps somebody's.
    pub const OTHER: Self = Self(1 << 55);

    /// True for [`Self::OTHER`].
    #[inline(always)]
    pub const fn is_other(self) -> bool {
        self.0 == Self::OTHER.0
    }

    /// True for [`Self::MESSAGE`].
    #[inline(always)]
    pub const fn is_message(self) -> bool {
        self.0 == Self::MESSAGE.0
    }

    /// No outcome yet: the packet is a piece of a datagram.
    pub const FRAGMENT: Self = Self(1 << 62);
    /// No outcome yet: the packet is too big. Bits 0 to 31: service; 32 to 60: what fits.
    const TOO_BIG: u64 = 1 << 61;

    /// Sent back out of the same interface to a backend, and counted: the usual end.
    pub const SENT: Self = Self::counted(Verdict::TX);

    /// From [`Self::word`].
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        Self(word)
    }

    /// The word.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// True for [`Self::FRAGMENT`].
    #[inline(always)]
    pub const fn is_fragment(self) -> bool {
        self.0 == Self::FRAGMENT.0
    }

    /// A packet too big for the way to its service's backend, where `mtu` bytes of IP packet fit.
    #[inline(always)]
    pub const fn too_big(mtu: u32, service: u32) -> Self {
        Self(Self::TOO_BIG | service as u64 | (mtu as u64 & 0xff_ffff) << 32)
    }

    /// What fits, and the service, of [`Self::too_big`].
    #[inline(always)]
    pub const fn what_fits(self) -> Option<(u32, u32)> {
        match self.0 & Self::TOO_BIG {
            0 => None,
            _ => Some(((self.0 >> 32) as u32 & 0xff_ffff, self.0 as u32)),
        }
    }

    /// [`Outcome::service_drop`].
    #[inline(always)]
    pub const fn service_drop(reason: u8, service: u32) -> Self {
        Self(
            service as u64
                | (reason as u64) << 32
                | (Action::Drop as u64) << 48
                | (Account::Service as u64) << 50,
        )
    }

    /// What a [`Refusal`] means: a drop, or [`Self::too_big`].
    #[inline(always)]
    pub const fn refused(refusal: Refusal, service: u32) -> Self {
        match refusal.0 >> 8 {
            0 => Self::service_drop(refusal.reason(), service),
            room => Self::too_big(room, service),
        }
    }

    /// The same, and its packet says this of a handshake with the subject: a [`Handshake`], or 0. (The mask tells the verifier that no
    /// other bit is touched; the compiler, which knows that it is idle, would leave it out.)
    #[inline(always)]
    pub fn saying(self, says: u32) -> Self {
        Self(self.0 | (u64::from(core::hint::black_box(says)) & 7) << SAYS)
    }

    /// What is said of a handshake with the subject: a [`Handshake`], or 0.
    #[inline(always)]
    pub const fn says(self) -> u32 {
        (self.0 >> SAYS) as u32 & 7
    }

    /// Sent to a backend, and counted.
    #[inline(always)]
    pub const fn counted(verdict: Verdict) -> Self {
        Self(
            (verdict.detail as u64) << 32
                | (verdict.action as u64) << 48
                | (Account::Counted as u64) << 50,
        )
    }
}

impl From<Outcome> for PackedOutcome {
    #[inline(always)]
    fn from(outcome: Outcome) -> Self {
        Self(
            u64::from(outcome.subject)
                | u64::from(outcome.verdict.detail as u16) << 32
                | (outcome.verdict.action as u64) << 48
                | (outcome.account as u64) << 50,
        )
    }
}

impl From<PackedOutcome> for Outcome {
    #[inline(always)]
    fn from(PackedOutcome(word): PackedOutcome) -> Self {
        let action = match word >> 48 & 3 {
            0 => Action::Pass,
            1 => Action::Tx,
            2 => Action::Redirect,
            _ => Action::Drop,
        };
        let account = match word >> 50 & 15 {
            0 => Account::None,
            1 => Account::Service,
            2 => Account::Counted,
            3 => Account::Returned,
            4 => Account::Echo,
            5 => Account::ErrorForwarded,
            6 => Account::ErrorReturned,
            7 => Account::TooBig,
            _ => Account::Reset,
        };
        Self {
            verdict: Verdict {
                action,
                detail: (word >> 32) as u32 & 0xffff,
            },
            account,
            subject: word as u32,
        }
    }
}

/// Adds to one position of a line of this CPU.
#[inline(always)]
fn add<T: Tables>(tables: &T, control: &Control, line: u32, position: u32, by: u64) {
    if let Some(line) = tables.counters(control.lines_per_cpu, line) {
        tables.add(line, position, by);
    }
}

#[inline(always)]
fn add_more<T: Tables>(tables: &T, control: &Control, which: More) {
    add(tables, control, counter::MORE_LINE, which as u32, 1);
}

/// Counts the end of a packet of `bytes`: everything but `Global::Rx`. `says`: as [`PackedOutcome::says`].
#[inline(always)]
pub fn count<T: Tables>(
    tables: &T,
    control: &Control,
    global: &CacheLine,
    outcome: &Outcome,
    says: u32,
    bytes: u64,
) {
    let verdict = outcome.verdict;
    match verdict.action {
        Action::Pass => tables.add(global, Global::Pass as u32, 1),
        Action::Tx => tables.add(global, Global::Tx as u32, 1),
        Action::Redirect => tables.add(global, Global::Redirect as u32, 1),
        Action::Drop => count_drop(tables, control, counter::DROP_LINE, verdict.detail),
    }
    match outcome.account {
        Account::None | Account::Counted => {}
        Account::Service => {
            if let Some(header) = tables.header() {
                let line = counter::service_line(header.backends, outcome.subject);
                count_drop(tables, control, line, verdict.detail);
            }
        }
        Account::Returned => {
            if let Some(line) = backend_line(tables, control, outcome.subject) {
                tables.add(line, PerBackend::ReplyPackets as u32, 1);
                tables.add(line, PerBackend::ReplyBytes as u32, bytes);
            }
            if says != 0 {
                tables.count_handshake(outcome.subject, says);
            }
        }
        Account::Echo => add_more(tables, control, More::EchoReplied),
        Account::ErrorForwarded => {
            add_more(tables, control, More::IcmpRelayed);
            if let Some(line) = backend_line(tables, control, outcome.subject) {
                tables.add(line, PerBackend::IcmpErrors as u32, 1);
            }
        }
        Account::ErrorReturned => {
            add_more(tables, control, More::IcmpRelayed);
            if says != 0 {
                tables.count_handshake(outcome.subject, says);
            }
        }
        Account::TooBig => add_more(tables, control, More::TooBigSent),
        Account::Reset => add_more(tables, control, More::ResetSent),
    }
}

#[inline(always)]
fn backend_line<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    backend: u32,
) -> Option<&'t CacheLine> {
    tables.counters(
        control.lines_per_cpu,
        counter::BACKEND_LINE.wrapping_add(backend),
    )
}

/// A packet that was sent to a backend.
pub struct Sent {
    /// The backend.
    pub backend: u32,
    /// How its flow came there.
    pub origin: Origin,
    /// What the packet means for its flow: an untracked one is counted by those that may begin it.
    pub arrival: Arrival,
    /// Bytes of its frame as it came.
    pub bytes: u64,
}

/// Counts a packet that was sent to a backend: everything but `Global::Rx`. `first` is the index of this CPU's
/// first line.
#[inline(always)]
pub fn count_sent<T: Tables>(
    tables: &T,
    global: &CacheLine,
    first: u32,
    sent: &Sent,
    verdict: Verdict,
) {
    let way = match verdict.action {
        Action::Tx => Global::Tx,
        _ => Global::Redirect,
    };
    let line = counter::BACKEND_LINE.wrapping_add(sent.backend);
    let Some(line) = tables.counter(first.wrapping_add(line)) else {
        return tables.add(global, way as u32, 1);
    };
    tables.add_all([
        (global, way as u32, 1),
        (line, PerBackend::Packets as u32, 1),
        (line, PerBackend::Bytes as u32, sent.bytes),
    ]);
    if !matches!(sent.origin, Origin::Known) {
        count_origin(tables, global, first, line, sent);
    }
}

/// Counts how a packet's flow came to its backend, whatever becomes of the packet. `line`: the backend's.
#[inline(always)]
pub fn count_origin<T: Tables>(
    tables: &T,
    global: &CacheLine,
    first: u32,
    line: &CacheLine,
    sent: &Sent,
) {
    let (opens, is_datagram) = (sent.arrival.is_opening(), sent.arrival.is_datagram());
    // A new flow's handshake is not counted twice: it costs each SYN.
    let (new, others) = (Ok(PerBackend::NewFlows), Err(OTHER_FLOWS));
    let which = match sent.origin {
        Origin::Known | Origin::Alone => return,
        Origin::New | Origin::NewEvicting => {
            if matches!(sent.origin, Origin::NewEvicting) {
                tables.add(global, Global::Evicted as u32, 1);
            }
            if opens || is_datagram { new } else { others }
        }
        Origin::Moved => {
            tables.add(line, PerBackend::MovedIn as u32, 1);
            if !opens {
                return;
            }
            Err(Handshake::Begun as u32)
        }
        Origin::Untracked | Origin::NotAdmitted => {
            if matches!(sent.origin, Origin::NotAdmitted)
                && let Some(more) = tables.counter(first.wrapping_add(counter::MORE_LINE))
            {
                tables.add(more, More::NotAdmitted as u32, 1);
            }
            tables.add(global, Global::Untracked as u32, 1);
            match (opens, is_datagram) {
                // Without an entry nobody could tell what becomes of its handshake.
                (true, _) => others,
                (_, true) => new,
                _ => return,
            }
        }
    };
    match which {
        Ok(which) => tables.add(line, which as u32, 1),
        Err(which) => tables.count_handshake(sent.backend, which),
    }
}

/// Counts a [`Handshake`] of a backend.
#[inline(always)]
pub fn count_handshake<T: Tables>(tables: &T, backend: u32, which: u32) {
    if let Some(control) = tables.control() {
        let line = counter::handshake_line(control.lines_per_cpu, backend);
        add(tables, control, line, which, 1);
    }
}

/// Reasons stand eight to a line.
#[inline(always)]
fn count_drop<T: Tables>(tables: &T, control: &Control, first: u32, number: u32) {
    add(
        tables,
        control,
        first.wrapping_add(number >> 3),
        number & 7,
        1,
    );
}
