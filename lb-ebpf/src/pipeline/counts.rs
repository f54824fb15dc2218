//! Counts what became of packets, in functions of their own.

use lb_common::counter;

use super::Context;
use crate::{
    tables::Tables,
    verdict::{self, PackedOutcome, Parcel, Refusal, Sent, Verdict},
};

/// Counts the end of a packet with this [`PackedOutcome`]. In the kernel this is a function of its own: each end would be followed
/// through all that is counted.
#[inline(always)]
pub fn count_outcome<T: Tables>(tables: &T, word: u64, bytes: u64) {
    let packed = PackedOutcome::of(word);
    if let Some(control) = tables.control()
        && let Some(global) = tables.counters(control.lines_per_cpu, counter::GLOBAL_LINE)
    {
        verdict::count(
            tables,
            control,
            global,
            &packed.into(),
            packed.says(),
            bytes,
        );
    }
}

/// Counts a packet of a flow that has its backend: sent, or not because it does not fit.
#[inline(always)]
pub(crate) fn count<T: Tables>(
    cx: &Context<'_, T>,
    sent: &Sent,
    sending: Result<Verdict, Refusal>,
) {
    let parcel = match sending {
        Ok(verdict) => Parcel::new(sent, verdict).word(),
        // The flow is in the table although its packet goes nowhere: its next one will not be new.
        Err(Refusal(word)) if word >> 8 != 0 => Parcel::new(sent, Verdict::TX).word() | STAYS,
        Err(_) => return,
    };
    cx.tables.count_parcel(parcel, sent.bytes);
}

/// In what [`count_parcel`] is given: the packet is not sent.
const STAYS: u64 = 1 << 63;

/// Counts a packet with what is told of it in a [`Parcel`]. In the kernel this is a function of its own: each of its callers would be
/// followed through all that it counts.
#[inline(always)]
pub fn count_parcel<T: Tables>(tables: &T, word: u64, bytes: u64) {
    let parcel = Parcel::open(word & !STAYS, 0);
    let (Some(control), Some(sent)) = (tables.control(), parcel.sent(bytes)) else {
        return;
    };
    let first = tables.first_counter(control.lines_per_cpu);
    let line = |line: u32| tables.counter(first.wrapping_add(line));
    let Some(global) = line(counter::GLOBAL_LINE) else {
        return;
    };
    if word & STAYS == 0 {
        verdict::count_sent(tables, global, first, &sent, parcel.verdict());
    } else if let Some(line) = line(counter::BACKEND_LINE.wrapping_add(sent.backend)) {
        verdict::count_origin(tables, global, first, line, &sent);
    }
}
