//! Whom the counts of a pool make suspects: [`Looks`]. Part of `passive`; pure.
//!
//! A share of bad signs is large or it is not. Whose share is large, and twice that of all others together, stands out. Of
//! backends that die together none may: so those with a large share are compared with the *well* ones, too, which are no others than
//! those whose share is not large. A fault of the network or of clients that makes most handshakes fail leaves some of
//! the small ones well by chance; the well ones count by themselves only if they have many handshakes and next to none of them is bad.

use std::collections::VecDeque;

use lb_common::counter::Handshake;

use super::{Counts, Evidence, Pool, Sign};
use crate::health::nanos;

/// How long an answer may take that comes through us, nanoseconds.
const GRACE: u64 = 100_000_000;

/// How long one may take that is known of by what its client sends next: the client's way to the backend and back, and again to us.
pub(super) const FAR_GRACE: u64 = 250_000_000;

/// After so long the first SYN without an answer comes again, nanoseconds (RFC 6298 section 2.1).
const AGAIN: u64 = 1_000_000_000;

/// A backend is no suspect unless its share of bad signs is so many times that of the others, ...
const TIMES: f64 = 2.0;

/// ... and so many standard deviations apart from it.
const DEVIATIONS: f64 = 3.0;

/// The well ones are a measure of their own with so many times the handshakes that one must have, ...
const WELL_TIMES: u64 = 4;

/// ... and fewer bad ones than one of so many.
const WELL_ONE_OF: u64 = 20;

/// So many looks are looked back on at least, however far apart they are: one for what began, and as many as an answer may take.
const LEAST_BACK: usize = 2;

/// The same where an answer may take longer than it is from one look to the next but one.
const FAR_LEAST_BACK: usize = 4;

/// So many are remembered at least: what was begun before those may come again only now.
const LEAST_KEPT: usize = 6;

/// When, and what was counted of each member since ever.
type Look = (u64, Vec<Counts>);

/// Looks at the members of a pool.
#[derive(Debug)]
pub(super) struct Looks {
    /// Oldest first.
    looks: VecDeque<Look>,
    /// Since when each member has been looked at without a gap.
    since: Vec<Option<u64>>,
}

/// A pair of bad handshakes and all that could have been bad.
type Share = (u64, u64);

/// Of each sign.
type Shares = [(Sign, Share); SIGNS];

/// Signs that are looked for in a pool.
const SIGNS: usize = 3;

impl Looks {
    /// Of so many members.
    pub(super) fn new(members: usize) -> Self {
        Self {
            looks: VecDeque::new(),
            since: vec![None; members],
        }
    }

    /// The same of other members: those that are new have not been looked at.
    pub(super) fn of(self, before: &[u32], after: &[u32]) -> Self {
        if before == after {
            return self;
        }
        let mut places: Vec<(u32, usize)> = before.iter().copied().zip(0..).collect();
        places.sort_unstable();
        let places: Vec<Option<usize>> = after
            .iter()
            .map(|id| {
                let at = places.binary_search_by_key(id, |(id, _)| *id).ok()?;
                places.get(at).map(|(_, place)| *place)
            })
            .collect();
        let looks = self.looks.into_iter().map(|(at, counts)| {
            let counts = places
                .iter()
                .map(|place| counts.get((*place)?).copied())
                .map(Option::unwrap_or_default);
            (at, counts.collect())
        });
        let since = places
            .iter()
            .map(|place| self.since.get((*place)?).copied().flatten());
        Self {
            looks: looks.collect(),
            since: since.collect(),
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.looks.len()
    }

    /// One more, of each member; `None`: it is not there, or not to be judged.
    pub(super) fn add(
        &mut self,
        now: u64,
        counted: impl Iterator<Item = Option<Counts>>,
        pool: &Pool,
    ) {
        let memory = pool.memory();
        // One more than fits in, to look back on all of it.
        while self.looks.len() >= LEAST_KEPT
            && self
                .looks
                .get(1)
                .is_some_and(|(at, _)| at.saturating_add(memory) < now)
        {
            self.looks.pop_front();
        }
        let mut all = Vec::with_capacity(self.since.len());
        for (since, counts) in self.since.iter_mut().zip(counted) {
            match counts {
                Some(_) => *since = since.or(Some(now)),
                None => *since = None,
            }
            all.push(counts.unwrap_or_default());
        }
        self.looks.push_back((now, all));
    }

    /// Who stands out, by place in the pool, with the youngest evidence.
    pub(super) fn suspects(&self, now: u64, pool: &Pool) -> Vec<(u32, Evidence)> {
        // Counts only grow: where the first and the last are the same, there was nothing between them.
        let ends = self.looks.front().zip(self.looks.back());
        if ends.is_some_and(|((_, first), (_, last))| first == last) {
            return Vec::new();
        }
        let window = nanos(pool.policy.window).saturating_add(pool.grace().saturating_sub(GRACE));
        let mut found: Vec<Option<Evidence>> = vec![None; self.since.len()];
        let mut shares = Vec::with_capacity(self.since.len());
        // From the youngest time on that may say something: who failed just now has not been bad before.
        for back in 1..self.looks.len() {
            let Some(span) = self.span(now, back, pool) else {
                break;
            };
            if back > pool.least_back() && span.at.saturating_add(window) < now {
                break;
            }
            shares.clear();
            shares.extend((0..self.since.len()).map(|member| self.shares(&span, member)));
            for which in 0..SIGNS {
                pool.judge(&shares, which, |member, sign, (bad, of)| {
                    if let Some(found) = found.get_mut(member) {
                        let over = now.saturating_sub(span.at);
                        found.get_or_insert(Evidence {
                            sign,
                            bad,
                            of,
                            over,
                        });
                    }
                });
            }
        }
        let found = pool.members.iter().zip(found);
        found.filter_map(|(id, why)| Some((*id, why?))).collect()
    }

    /// The time since so many looks ago; `None`: there was none.
    fn span(&self, now: u64, back: usize, pool: &Pool) -> Option<Span<'_>> {
        let first = self.looks.len().checked_sub(back.checked_add(1)?)?;
        let (at, then) = self.looks.get(first)?;
        let (_, last) = self.looks.back()?;
        // What began just now may still be answered.
        let old = self.until(now.saturating_sub(pool.grace()));
        let old = old.filter(|(later, _)| later > at);
        // Those that began a while ago come again now.
        let earlier = || {
            let from = at.checked_sub(AGAIN).and_then(|time| self.until(time));
            from.zip(now.checked_sub(AGAIN).and_then(|time| self.until(time)))
        };
        Some(Span {
            at: *at,
            then,
            last,
            old: old.map_or(then, |(_, old)| old),
            again: match pool.sees_answers {
                true => None,
                false => Some(earlier()),
            },
        })
    }

    /// The last look by a time.
    fn until(&self, time: u64) -> Option<&Look> {
        self.looks.iter().rev().find(|(at, _)| *at <= time)
    }

    /// What a member shows over a span; `None`: it was not looked at then.
    fn shares(&self, span: &Span<'_>, member: usize) -> Option<Shares> {
        let known = (*self.since.get(member)?)?;
        if known > span.at {
            return None;
        }
        let count = |counts: &[Counts], which: Handshake| {
            let counts = counts.get(member);
            counts
                .and_then(|c| c.get(which as usize).copied())
                .unwrap_or(0)
        };
        let since = |which| count(span.last, which).wrapping_sub(count(span.then, which));
        let begun = since(Handshake::Begun);
        let unreachable = (since(Handshake::Unreachable).min(begun), begun);
        let old = count(span.old, Handshake::Begun);
        let old = old.wrapping_sub(count(span.then, Handshake::Begun));
        let unanswered = (old.saturating_sub(since(Handshake::Answered)), old);
        let third = match span.again {
            None => (Sign::Refused, (since(Handshake::Refused).min(begun), begun)),
            Some(both) => {
                let both = both.filter(|((at, _), _)| known <= *at);
                let again = both.map_or((0, 0), |((_, from), (_, to))| {
                    let begun = count(to, Handshake::Begun);
                    let begun = begun.wrapping_sub(count(from, Handshake::Begun));
                    (since(Handshake::Resent).min(begun), begun)
                });
                (Sign::Resent, again)
            }
        };
        Some([
            (Sign::Unanswered, unanswered),
            third,
            (Sign::Unreachable, unreachable),
        ])
    }
}

/// A time that is looked back on.
struct Span<'a> {
    at: u64,
    then: &'a [Counts],
    last: &'a [Counts],
    /// By when handshakes had begun that should have been answered by now.
    old: &'a [Counts],
    /// Where answers are not seen: from which look to which handshakes began that come again over the span; `None`: too long ago.
    again: Option<Option<(&'a Look, &'a Look)>>,
}

impl Pool {
    /// How long an answer may take, nanoseconds.
    fn grace(&self) -> u64 {
        match self.sees_answers {
            true => GRACE,
            false => FAR_GRACE,
        }
    }

    /// How many looks are looked back on at least.
    fn least_back(&self) -> usize {
        match self.sees_answers {
            true => LEAST_BACK,
            false => FAR_LEAST_BACK,
        }
    }

    /// How long a look is remembered, nanoseconds.
    fn memory(&self) -> u64 {
        let window = nanos(self.policy.window);
        match self.sees_answers {
            true => window,
            false => window.saturating_add(AGAIN),
        }
    }

    /// Names those that stand out by one of the signs.
    fn judge(
        &self,
        shares: &[Option<Shares>],
        which: usize,
        mut name: impl FnMut(usize, Sign, Share),
    ) {
        let of_sign = shares
            .iter()
            .map(|shares| shares.and_then(|shares| shares.get(which).copied()));
        let (mut all, mut well) = ((0, 0), (0, 0));
        for (_, share) in of_sign.clone().flatten() {
            all = plus(all, share);
            if self.is_known(share) && !self.is_large(share) {
                well = plus(well, share);
            }
        }
        let well = Some(well).filter(|well| self.is_enough(*well));
        for (member, shown) in of_sign.enumerate() {
            let Some((sign, share)) = shown.filter(|(_, share)| self.is_large(*share)) else {
                continue;
            };
            let others = (all.0.saturating_sub(share.0), all.1.saturating_sub(share.1));
            // Of others with fewer handshakes nothing is known.
            if !self.is_known(others)
                || exceeds(share, others)
                || well.is_some_and(|well| exceeds(share, well))
            {
                name(member, sign, share);
            }
        }
    }

    /// There are so many handshakes that they say something.
    fn is_known(&self, (_, of): Share) -> bool {
        of >= u64::from(self.policy.least)
    }

    fn is_large(&self, (bad, of): Share) -> bool {
        bad > 0
            && self.is_known((bad, of))
            && bad.saturating_mul(100) >= of.saturating_mul(u64::from(self.policy.percent))
    }

    /// The well ones are so many, and so well, that they are a measure by themselves.
    fn is_enough(&self, (bad, of): Share) -> bool {
        of >= u64::from(self.policy.least).saturating_mul(WELL_TIMES)
            && bad.saturating_mul(WELL_ONE_OF) < of
    }
}

/// A share is [`TIMES`] the other one, and chance does not explain it: the two differ by [`DEVIATIONS`] standard deviations of what
/// equal ones would (the chi-squared test of two shares).
fn exceeds((bad, of): Share, (others_bad, others): Share) -> bool {
    let [bad, of, others_bad, others] = [bad, of, others_bad, others].map(|count| count as f64);
    let (found, expected) = (bad * others, others_bad * of);
    let (all_bad, all) = (bad + others_bad, of + others);
    found >= expected * TIMES
        && (found - expected).powi(2) * all
            >= DEVIATIONS.powi(2) * of * others * all_bad * (all - all_bad)
}

fn plus((bad, of): Share, (more_bad, more): Share) -> Share {
    (bad.saturating_add(more_bad), of.saturating_add(more))
}
