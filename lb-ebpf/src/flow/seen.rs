//! Entries of flows that packets were seen of.

use lb_common::{Epoch, FlowWord, flow::Step};

use super::Entry;
use crate::tables::Tables;

/// Notes that a flow was seen. The usual case writes nothing. True: this packet has changed the entry.
#[inline(always)]
pub fn refresh<T: Tables>(tables: &T, entry: &Entry<'_>, epoch: Epoch, step: Step) -> bool {
    let seen = entry.word.seen(epoch, step);
    // Whoever was faster has noted the same or something newer.
    seen != entry.word && tables.exchange_flow(entry.line, entry.way, entry.word, seen)
}

/// The same for an entry known by its position.
#[inline(always)]
pub fn refresh_at<T: Tables>(
    tables: &T,
    set: u32,
    way: u32,
    word: FlowWord,
    epoch: Epoch,
    step: Step,
) {
    if word.seen(epoch, step) != word
        && let Some(line) = tables.flows(set)
    {
        refresh(
            tables,
            &Entry {
                set,
                line,
                way,
                word,
            },
            epoch,
            step,
        );
    }
}
