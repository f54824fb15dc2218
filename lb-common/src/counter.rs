//! Counters and the reasons for drops.
//!
//! `counters` holds, for each CPU, `lines_per_cpu` cache lines of eight `u64`: global lines, then
//! one line a backend, then [`DROP_LINES`] a service, then another line a backend, of [`Handshake`], which only packets that
//! begin a connection touch, and their answers. They are never reset; they are read as differences or from a recorded origin.
//!
//! The law: `rx = pass + tx + redirect + sum(drops)`, where `rx` is counted on entry and the rest
//! on exit. Per-backend and per-service lines break the same packets down.

use bytemuck::{Pod, Zeroable};

/// Eight counters. Map `counters`.
pub type CounterLine = [u64; 8];

/// The line of [`Global`].
pub const GLOBAL_LINE: u32 = 0;
/// Lines of drop reasons: room for 32.
pub const DROP_LINES: u32 = 4;
/// First line of drops; line 0 is [`Global`].
pub const DROP_LINE: u32 = 1;
/// The line of per-CPU bookkeeping that is not a counter: [`Limiter`].
pub const LIMITER_LINE: u32 = 5;
/// The second line of counters of the whole: [`More`].
pub const MORE_LINE: u32 = 6;
/// The second line of [`Limiter`].
pub const MORE_LIMITER_LINE: u32 = 7;
/// The line of [`PathError`].
pub const PATH_LINE: u32 = 8;
/// First of the lines that are no counters: for each of [`SENDERS`] groups of senders' networks, by hash, a word of what was done for
/// it ([`sender_word`]).
pub const SENDER_LINE: u32 = 9;
/// So many groups.
pub const SENDERS: u32 = 256;
/// A group gets at most one of so many of what a limit allows.
pub const SENDER_SHARE: u32 = 8;
/// The third line of counters of the whole: [`Rest`].
pub const REST_LINE: u32 = SENDER_LINE + SENDERS / 8;
/// First line of backends.
pub const BACKEND_LINE: u32 = REST_LINE + 1;

/// What was done for a group of senders: a second ([`Limiter`]) above a count of 32 bits.
#[inline(always)]
pub const fn sender_word(second: u32, count: u32) -> u64 {
    (second as u64) << 32 | count as u64
}

/// The count of a word as of a second.
#[inline(always)]
pub const fn sender_count(word: u64, second: u32) -> u32 {
    match word >> 32 == second as u64 {
        true => word as u32,
        false => 0,
    }
}

/// True for lines of bookkeeping: [`LIMITER_LINE`], [`MORE_LIMITER_LINE`] and those from [`SENDER_LINE`] on.
pub const fn is_bookkeeping(line: u32) -> bool {
    matches!(
        line,
        LIMITER_LINE | MORE_LIMITER_LINE | SENDER_LINE..REST_LINE
    )
}

/// Not a counter, in the lines of a service behind its reasons: one more than the slot of the service's ring whose turn was the last one
/// on this CPU ([`crate::Pick::Turn`]); 0: nobody had one.
pub const TURN: u32 = 31;

/// Positions in line 0.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// Packets that came in.
    Rx = 0,
    /// Packets given to the kernel.
    Pass = 1,
    /// Packets sent out of the interface they came from.
    Tx = 2,
    /// Packets sent out of another interface.
    Redirect = 3,
    /// Not a counter: the kernel's tick in which `Now` was read. Here, where every packet writes anyway.
    Tick = 4,
    /// Not a counter: the kernel clock, in nanoseconds.
    Now = 5,
    /// Packets forwarded without an entry in the flow table: it had no place for the flow, or the flow was not
    /// admitted. Each packet of such a flow, as it is new every time.
    Untracked = 6,
    /// Entries evicted for a new flow, except free and idle ones.
    Evicted = 7,
}

/// Positions in line [`MORE_LINE`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Packets forwarded without an entry since their flows were above `Control::new_flows_per_second`
    /// (among `Global::Untracked`).
    NotAdmitted = 0,
    /// "Packet too big" sent to a client (among `Tx`).
    TooBigSent = 1,
    /// Echo requests answered (among `Tx`).
    EchoReplied = 2,
    /// ICMP errors relayed (among `Tx` and `Redirect`).
    IcmpRelayed = 3,
    /// Resets sent to a client (among `Tx`).
    ResetSent = 4,
    /// Datagrams of QUIC that went where the server id in their connection id says.
    ByServerId = 5,
    /// Datagrams of QUIC with a short header whose connection id names no backend that may keep flows: they went the way
    /// of their flow.
    NoServerId = 6,
    /// Clients that lost their backend before their time, as there was no room for all ([`crate::affinity`]).
    AffinityEvicted = 7,
}

/// Positions in line [`REST_LINE`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// SYNs of services with a client option that went on without it: there was no room.
    OptionLeftOut = 0,
    /// New flows to a server that has another of the same client's port, by another service, as nobody else could be found
    /// ([`crate::ServiceEntry::SHARES`]).
    Clashed = 1,
}

/// Positions in line [`PATH_LINE`]: ICMP errors to a source of tunnels, about a packet in a tunnel (among `Pass`).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Too big, and the path's MTU is known now.
    Learned = 0,
    /// They quote no packet that was sent into a tunnel, or say nothing new or nothing that can be.
    Ignored = 1,
    /// Above `Control::icmp_errors_per_second`.
    Limited = 2,
    /// A backend or its network cannot be reached: [`Handshake::Unreachable`] of who it is about.
    Unreachable = 3,
    /// Others, such as a time exceeded.
    Other = 4,
}

impl PathError {
    /// Each of them, by number.
    pub const ALL: [Self; 5] = [
        Self::Learned,
        Self::Ignored,
        Self::Limited,
        Self::Unreachable,
        Self::Other,
    ];

    /// The name in metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Ignored => "ignored",
            Self::Limited => "limited",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }
}

/// Positions in a backend's line.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerBackend {
    /// Packets sent to the backend.
    Packets = 0,
    /// Bytes of those frames as they came in, Ethernet header included.
    Bytes = 1,
    /// Flows scheduled to the backend, but for [`OTHER_FLOWS`].
    NewFlows = 2,
    /// Replies translated (`dnat`, `fullnat`).
    ReplyPackets = 3,
    /// Bytes of those frames.
    ReplyBytes = 4,
    /// ICMP errors relayed to the backend.
    IcmpErrors = 5,
    /// Flows that were moved here because their backend may not keep them.
    MovedIn = 6,
    /// Not a counter, and written by the control plane: `NewFlows` and `MovedIn` of this CPU as they stood when the backend's
    /// flows were counted for [`crate::Load`].
    Counted = 7,
}

/// Positions in a backend's line of TCP handshakes ([`handshake_line`]). What they say is evidence and no proof: each of these packets can be
/// forged.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Handshakes that began: SYNs that came to the backend, but for those that are [`Self::Resent`] and those whose flow has no entry that tells what becomes
    /// of it. In the line itself: those of flows that the backend had, or that moved to it; [`begun`] adds the new ones, which are counted once.
    Begun = 0,
    /// SYNs with ACK from the backend, one that comes again among them (`dnat`, `fullnat`). Where replies take another way: clients that went on
    /// after their SYN, by anything but a RST (`l2dsr`, `ipip`, `gue`).
    Answered = 1,
    /// SYNs of a flow of a service of TCP that the backend has already and that has not been seen to end, whatever becomes of them. Of a handshake: in the
    /// epoch of the SYN before; later it is another connection's from that port.
    Resent = 2,
    /// Answers of the backend to a SYN that say no: RST with ACK and the sequence number 0 (RFC 9293 section 3.10.7.1; `dnat`,
    /// `fullnat`).
    Refused = 3,
    /// ICMP messages that a packet to the backend has not reached it: destination unreachable, but for one that is too big (`dnat`, `fullnat`, `ipip`, `gue`).
    Unreachable = 4,
}

/// Position, in a backend's line of [`Handshake`]s, of flows of TCP scheduled to it that begin no handshake of which more can be told: they were seen in
/// their middle, or their SYN found no room for an entry. (5 and 6: [`crate::timing::SUM`].)
pub const OTHER_FLOWS: u32 = 7;

fn sum(backend: &CounterLine, handshakes: &CounterLine, position: u32) -> u64 {
    let at = |line: &CounterLine, position: u32| line.get(position as usize).copied().unwrap_or(0);
    at(backend, PerBackend::NewFlows as u32).wrapping_add(at(handshakes, position))
}

/// All [`Handshake::Begun`] of a backend of a service of TCP, of its line of [`PerBackend`] and that of [`Handshake`]. It means nothing for services of
/// other protocols.
pub fn begun(backend: &CounterLine, handshakes: &CounterLine) -> u64 {
    sum(backend, handshakes, Handshake::Begun as u32)
}

/// All flows scheduled to a backend, of the same lines.
pub fn new_flows(backend: &CounterLine, handshakes: &CounterLine) -> u64 {
    sum(backend, handshakes, OTHER_FLOWS)
}

impl Handshake {
    /// Each of them, by number.
    pub const ALL: [Self; 5] = [
        Self::Begun,
        Self::Answered,
        Self::Resent,
        Self::Refused,
        Self::Unreachable,
    ];

    /// The name in metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Answered => "answered",
            Self::Resent => "resent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Positions in the lines [`LIMITER_LINE`] (below 8) and [`MORE_LIMITER_LINE`] (less 8).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limiter {
    /// The second (kernel clock / 2^30 ns) that `EchoCount` counts.
    EchoWindow = 0,
    /// Echo replies sent in it.
    EchoCount = 1,
    /// The second that `NewCount` counts.
    NewWindow = 2,
    /// New flows entered in it.
    NewCount = 3,
    /// The second that `IcmpCount` counts.
    IcmpWindow = 4,
    /// ICMP errors relayed in it.
    IcmpCount = 5,
    /// The second that `TooBigCount` counts.
    TooBigWindow = 6,
    /// "Packet too big" sent in it: apart from what is relayed, which anybody can forge.
    TooBigCount = 7,
    /// The second that `ResetCount` counts.
    ResetWindow = 8,
    /// Resets sent in it.
    ResetCount = 9,
    /// The second that `PathCount` counts.
    PathWindow = 10,
    /// ICMP errors about packets in tunnels looked at in it.
    PathCount = 11,
}

/// Lines of each CPU for a geometry.
pub const fn lines_per_cpu(backends: u32, services: u32) -> u32 {
    BACKEND_LINE
        .saturating_add(backends.saturating_mul(2))
        .saturating_add(services.saturating_mul(DROP_LINES))
}

/// The line of a backend's [`Handshake`]s, relative to its CPU's lines: from the last one on backwards.
#[inline(always)]
pub const fn handshake_line(lines_per_cpu: u32, backend: u32) -> u32 {
    lines_per_cpu.wrapping_sub(1).wrapping_sub(backend)
}

/// First drop line of a service, relative to its CPU's lines.
#[inline(always)]
pub const fn service_line(backends: u32, service: u32) -> u32 {
    BACKEND_LINE
        .wrapping_add(backends)
        .wrapping_add(service.wrapping_mul(DROP_LINES))
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal;)+) => {
        /// Why a packet was dropped. The number is the counter's index and the label the value of
        /// `reason` in metrics, logs and JSON. Append-only: numbers stand in pinned maps.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// Every reason, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name in metrics, logs and JSON.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence for people.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends before a header that its own fields promise.
    Truncated = 0, "truncated";
    /// A header contradicts itself: a length below its minimum, a version that is not the EtherType's.
    Malformed = 1, "malformed";
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = 2, "bad_ip_checksum";
    /// The IPv4 packet to a VIP carries options.
    IpOptions = 3, "ip_options";
    /// The IPv6 packet to a VIP carries extension headers before the transport header.
    ExtensionHeader = 4, "extension_header";
    /// The packet to a VIP is a later fragment, and the first one, which has the ports, has not been seen: it is lost, comes later, or was long ago. Or it is of ICMP, or of IPv6 with more headers before what it carries.
    Fragment = 5, "fragment";
    /// The source is one that no client can have: the VIP itself, loopback, multicast, broadcast or unspecified; with `dnat` also that of
    /// the chosen backend, which cannot be its own client there.
    MartianSource = 6, "martian_source";
    /// The TTL or hop limit would reach zero.
    TtlExpired = 7, "ttl_expired";
    /// No backend of the service may take a new flow.
    NoBackend = 8, "no_backend";
    /// The next hop of the chosen backend is not resolved.
    NextHopUnresolved = 9, "next_hop_unresolved";
    /// The flow table has no room and the service needs an entry (`dnat`, `fullnat`).
    FlowTableFull = 10, "flow_table_full";
    /// The way back to the client is not known, or its interface is not ours any more.
    NoReturnHop = 11, "no_return_hop";
    /// More echo requests than the limit allows.
    EchoLimited = 12, "echo_limited";
    /// An ICMP error quotes a flow of a VIP that no backend owns.
    IcmpNoFlow = 13, "icmp_no_flow";
    /// The maps contradict each other: an index leads nowhere. Never happens by design; reported as an alarm.
    MapInconsistent = 14, "map_inconsistent";
    /// The packet does not fit through the tunnel to its backend, and its sender was not told: the limit of such answers is reached, or it is an ICMP error itself.
    PacketTooBig = 15, "packet_too_big";
    /// More ICMP errors to relay than the limit allows.
    IcmpLimited = 16, "icmp_limited";
    /// More new flows than the limit allows, and the service needs an entry for each (`dnat`, `fullnat`).
    NotAdmitted = 17, "not_admitted";
    /// The driver left no room before the packet for another header.
    NoHeadroom = 18, "no_headroom";
    /// A TCP segment that opens no connection belongs to no known flow, and the service has `mid-stream` drop or reset.
    MidStream = 19, "mid_stream";
    /// The service does not serve this source (`allow`, `deny`).
    SourceDenied = 20, "source_denied";
    /// The control plane has given no sign of life for `dead-after`, and `when-dead` is drop.
    ControlPlaneDead = 21, "control_plane_dead";
    /// A TCP segment of a flow whose backend has left and resets its flows (`drain-policy`, `on-down`); it was not answered, as it is a RST itself or the limit of resets is reached.
    BackendLeft = 22, "backend_left";
    /// No port of a NAT address is free for the new flow to its backend (`fullnat`): all that it may have are in use, or the table is full.
    NatPortsExhausted = 23, "nat_ports_exhausted";
}

const _: () = assert!(DropReason::ALL.len() <= TURN as usize && TURN < 8 * DROP_LINES);

impl Global {
    /// A line of them without what is not a counter.
    pub const fn counters(line: CounterLine) -> CounterLine {
        let [a, b, c, d, _, _, e, f] = line;
        [a, b, c, d, 0, 0, e, f]
    }
}

/// All counters of one CPU or summed over all, by name; what tests and metrics compare.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Totals {
    /// Line 0, by [`Global`]; zero where that is not a counter.
    pub global: [u64; 8],
    /// Drops by [`DropReason`].
    pub drops: [u64; 32],
}
