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
    let [.., a, b, c, d] = source.0;
    a == 127 || a & 0xf0 == 0xe0 || [a, b, c, d] == [0; 4] || [a, b, c, d] == [0xff; 4]
}

#[inline(always)]
fn is_martian_v6(source: Address) -> bool {
    let [high, low] = source.words();
    let unspecified_or_loopback = high == 0 && (low == 0 || low == 1_u64.to_be());
    source.0.first() == Some(&0xff) || unspecified_or_loopback || source.is_v4()
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
