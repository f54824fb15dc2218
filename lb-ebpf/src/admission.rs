//! What is refused before any lookup of flows: impossible sources, and more echo requests than the
//! operator allows.

use lb_common::{Address, Control, Family, Nanos, counter};

use crate::{parse::Packet, tables::Tables};

/// log2 of the limiter's window in nanoseconds: about a second.
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

/// Takes one echo reply out of this CPU's allowance; false when it is used up.
#[inline(always)]
pub fn admits_echo<T: Tables>(tables: &T, control: &Control, now: Nanos) -> bool {
    let Some(line) = tables.counters(control.lines_per_cpu, counter::LIMITER_LINE) else {
        return false;
    };
    let window = now >> WINDOW_SHIFT;
    let same = line.word(counter::Limiter::EchoWindow as u32) == window;
    let sent = if same {
        line.word(counter::Limiter::EchoCount as u32)
    } else {
        0
    };
    if sent >= u64::from(control.echo_per_second) {
        return false;
    }
    tables.set(line, counter::Limiter::EchoWindow as u32, window);
    tables.set(
        line,
        counter::Limiter::EchoCount as u32,
        sent.wrapping_add(1),
    );
    true
}
