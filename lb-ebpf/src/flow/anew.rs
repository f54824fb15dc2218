//! When what is known of a flow is over, so that another may begin in its place.

use lb_common::{FlowRank, FlowWord};

use super::Seeker;
use crate::service::Backend;

/// True when a known flow whose backend may keep it is a new one all the same.
///
/// A SYN on a live mapping keeps it, or anyone could move flows by spoofing one; only where the
/// backend takes no new flows and the old connection was seen to end is it a new connection. That end may be
/// forged as well. So a proven flow must have been silent since, until the table itself takes it for
/// finished and would let it go; any packet of a later epoch revives it before. A connection of which nothing but SYNs came, or
/// nothing for as long as the table can tell, has nothing to lose where its backend is down. Where the service says for how long silent flows are known, that counts for all
/// backends.
#[inline(always)]
pub(super) fn starts_anew(seeker: &Seeker<'_>, word: FlowWord, backend: Backend<'_>) -> bool {
    let idle = seeker.service.entry.idle().narrowed(seeker.which);
    if seeker.arrival.is_opening() {
        let permissions = backend.state.permissions();
        let has_ended = !permissions.may_take_new() && seems_over(seeker, word);
        let has_no_more = matches!(word.rank(), FlowRank::Opening | FlowRank::Idle);
        let in_vain = permissions.lets_handshakes_go() && has_no_more;
        return has_ended || in_vain || idle.are_over(word, seeker.epoch, false);
    }
    seeker.arrival.is_datagram() && idle.are_over(word, seeker.epoch, true)
}

/// A connection that was seen to end, and that the table would let go by now.
#[inline(always)]
pub(super) fn seems_over(seeker: &Seeker<'_>, word: FlowWord) -> bool {
    word.rank().is_closing() && word.eviction(seeker.epoch) != 0
}
