//! What is refused: impossible sources, and more echo requests, ICMP errors and new flows than the operator
//! allows each CPU per second.

use lb_common::{
    Address, Control, Epoch, Family, Nanos,
    counter::{self, Limiter, SENDER_LINE, SENDER_SHARE, SENDERS, sender_count, sender_word},
    flow::{EPOCH_SHIFT, EPOCHS},
    hash::FlowTuple,
};

use crate::{parse::Packet, tables::Tables};

/// log2 of the limits' window in nanoseconds: about a second.
const WINDOW_SHIFT: u32 = 30;

/// True for a source that no client of this VIP can have: the VIP itself ("land"), loopback,
/// multicast, broadcast, unspecified (RFC 1122 section 3.2.1.3), and IPv4-mapped in IPv6.
#[inline(always)]
pub fn is_martian(packet: &Packet) -> bool {
    packet.source.words() == packet.destination.words()
        || match packet.family {
            Family::V4 => is_martian_v4(packet.source),
            Family::V6 => is_martian_v6(packet.source),
        }
}

#[inline(always)]
fn is_martian_v4(source: Address) -> bool {
    let [_, low] = source.words();
    let address = u64::from_be(low) as u32;
    address >> 24 == 127 || address >> 28 == 0xe || address == 0 || address == u32::MAX
}

#[inline(always)]
fn is_martian_v6(source: Address) -> bool {
    let [high, low] = source.words().map(u64::from_be);
    // Unspecified and loopback, multicast, IPv4-mapped.
    high == 0 && low <= 1 || high >> 56 == 0xff || source.is_v4()
}

/// What is limited per CPU and second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Echo replies: `Control::echo_per_second`.
    Echo,
    /// New flows entered into the table: `Control::new_flows_per_second`.
    NewFlow,
    /// ICMP errors relayed: `Control::icmp_errors_per_second`.
    IcmpError,
    /// "Packet too big" sent: as many again.
    TooBig,
    /// Resets sent: `Control::resets_per_second`.
    Reset,
    /// ICMP errors about packets in tunnels: as many again as are relayed.
    Path,
}

/// The network of a sender, which is taken for one: 24 bits of an IPv4 address, 56 of an IPv6 one.
#[inline(always)]
fn network(sender: Address) -> Address {
    let [high, low] = sender.words();
    Address::from_words(match sender.is_v4() {
        true => [high, low & !0xff_u64.to_be()],
        false => [high & !0xff_u64.to_be(), 0],
    })
}

/// As [`admits`], of something that anybody makes us do: no network of senders gets more than its share, one of [`SENDER_SHARE`], of a
/// CPU's allowance, so that none takes it away from all others. Networks are told apart by a secret hash.
#[inline(always)]
pub fn admits_from<T: Tables>(
    tables: &T,
    control: &Control,
    what: Limited,
    second: u32,
    sender: Address,
) -> bool {
    let group = tables.hash_flow(&FlowTuple {
        client: network(sender),
        vip: Address::from_words([0, 0]),
        client_port: [what as u8, 0],
        vip_port: [0, 0],
        protocol: 0,
    }) as u32
        & (SENDERS - 1);
    let (line, at) = (SENDER_LINE.wrapping_add(group >> 3), group & 7);
    let Some(line) = tables.counters(control.lines_per_cpu, line) else {
        return false;
    };
    let done = sender_count(line.word(at), second);
    if done >= control.icmp_errors_per_second.div_ceil(SENDER_SHARE)
        || !admits(tables, control, what, second)
    {
        return false;
    }
    tables.set(line, at, sender_word(second, done.wrapping_add(1)));
    true
}

/// The second that limits count by: 2^30 nanoseconds.
#[inline(always)]
pub const fn second(now: Nanos) -> u32 {
    (now >> WINDOW_SHIFT) as u32
}

/// The epoch that a second lies in.
#[inline(always)]
pub const fn epoch(second: u32) -> Epoch {
    Epoch((second >> (EPOCH_SHIFT - WINDOW_SHIFT)) as u8 & (EPOCHS - 1))
}

/// Takes one out of this CPU's allowance; false when it is used up.
#[inline(always)]
pub fn admits<T: Tables>(tables: &T, control: &Control, what: Limited, second: u32) -> bool {
    let (window_at, count_at, limit) = match what {
        Limited::Echo => (
            Limiter::EchoWindow,
            Limiter::EchoCount,
            control.echo_per_second,
        ),
        Limited::NewFlow => (
            Limiter::NewWindow,
            Limiter::NewCount,
            control.new_flows_per_second,
        ),
        Limited::IcmpError => (
            Limiter::IcmpWindow,
            Limiter::IcmpCount,
            control.icmp_errors_per_second,
        ),
        Limited::TooBig => (
            Limiter::TooBigWindow,
            Limiter::TooBigCount,
            control.icmp_errors_per_second,
        ),
        Limited::Reset => (
            Limiter::ResetWindow,
            Limiter::ResetCount,
            control.resets_per_second,
        ),
        Limited::Path => (
            Limiter::PathWindow,
            Limiter::PathCount,
            control.icmp_errors_per_second,
        ),
    };
    let (window_at, count_at) = (window_at as u32, count_at as u32);
    let line = match what {
        Limited::Reset | Limited::Path => counter::MORE_LIMITER_LINE,
        _ => counter::LIMITER_LINE,
    };
    let Some(line) = tables.counters(control.lines_per_cpu, line) else {
        return false;
    };
    let window = u64::from(second);
    let used = match line.word(window_at) == window {
        true => line.word(count_at),
        false => 0,
    };
    if used >= u64::from(limit) {
        return false;
    }
    tables.set(line, window_at, window);
    tables.set(line, count_at, used.wrapping_add(1));
    true
}
