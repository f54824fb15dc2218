//! What a check that failed means. Others, made within the same time, tell a dead server from one that clients' packets do
//! not reach, or only small ones: against a check of the VIP stands the same one of the backend's own address, against one with packets of full
//! size the same one with small packets. They begin when the first one has failed, or has taken half of its time, and end with
//! it: a result is never later for them.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::full_size::{End, Trial};
use super::hearing::Hearing;
use super::peer::Peer;
use super::refusals::{Refusal, Sure};
use super::runner::{Tools, check};
use super::tcp::deadline;
use super::verdict::{bad, void, warned};
use crate::model::{ProbeVerdict, RealPath, Target};

/// Probes `target` by its real path, with packets of full size if it is to have them.
pub(super) async fn probe(target: &Target, tools: &Tools, hearing: &mut Hearing) -> ProbeVerdict {
    let Some(path) = &target.real_path else {
        return with_others(target, None, tools, hearing).await;
    };
    let blocked = tools.no_real_path.borrow().clone();
    match blocked {
        Some(why) => without(target, path, &why, tools, hearing).await,
        None => with_others(target, Some(path), tools, hearing).await,
    }
}

/// The check where the real path cannot be had: of the backend's own address, which is better than nothing, unless the
/// operator wants the VIP or nothing.
async fn without(
    target: &Target,
    path: &RealPath,
    why: &str,
    tools: &Tools,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let why = format!("check of {}: {why}", path.vip);
    if path.only {
        return void(&why);
    }
    match with_others(target, None, tools, hearing).await {
        ProbeVerdict::Good => warned(&format!("{why}; its own address is checked")),
        verdict => verdict,
    }
}

/// The check, by the path if there is one, with the others that explain its failure.
async fn with_others(
    target: &Target,
    path: Option<&RealPath>,
    tools: &Tools,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let own = Peer::from(SocketAddr::new(target.address, target.port));
    let by_tunnel = path.is_some_and(|path| path.path.is_tunnel());
    let small = Peer {
        mark: path.map(|path| path.mark),
        small: by_tunnel || target.full_size.is_some(),
        ..own.clone()
    };
    let refusal = match target.full_size {
        None => Refusal::Never,
        Some(_) => tools.refusals.of(&target.backend, Instant::now()),
    };
    let on_trial = target.full_size.filter(|_| refusal != Refusal::Lately);
    let trial = on_trial.map(|size| {
        let known = tools.path_to(size.backend);
        Arc::new(Trial::new(size, known, by_tunnel))
    });
    let full = Peer {
        trial: trial.clone(),
        ..small.clone()
    };
    let end = deadline(target.timeout);
    let judged = |verdict| match refusal {
        Refusal::Lately => refused(verdict),
        Refusal::Never => verdict,
        Refusal::Before => {
            if is_good(&verdict) {
                tools.refusals.forget(&target.backend);
            }
            verdict
        }
    };
    // Not a moment longer than the first one.
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        left.saturating_sub(Duration::from_millis(1))
    };
    // What an agent says counts only in the check whose verdict does.
    let mut small_hearing = Hearing::to(target.agent);
    let (words, others) = {
        let mut first = pin!(check(target, full, tools, target.timeout, hearing));
        let wait = match refusal {
            // It will do so again, and both are to fit into the time.
            Refusal::Before => Duration::ZERO,
            Refusal::Never | Refusal::Lately => target.timeout.checked_div(2).unwrap_or_default(),
        };
        let early = match timeout(wait, &mut first).await {
            Ok(ProbeVerdict::Bad(words)) => Some(words),
            Ok(verdict) => return judged(verdict),
            Err(_) => None,
        };
        let others = Others {
            target,
            tools,
            small: trial
                .as_ref()
                .filter(|trial| refusal == Refusal::Before || trial.is_open())
                .map(|_| &small),
            own: path.map(|_| &own),
        };
        // Few get here: the future of all the others is small.
        let mut others = Box::pin(others.made(left(), &mut small_hearing));
        match early {
            Some(words) => (words, others.await),
            None => tokio::select! {
                biased;
                verdict = &mut first => match verdict {
                    ProbeVerdict::Bad(words) => (words, others.await),
                    verdict => return judged(verdict),
                },
                seen = &mut others => match first.await {
                    ProbeVerdict::Bad(words) => (words, seen),
                    verdict => return judged(verdict),
                },
            },
        }
    };
    let Seen { small: seen, own } = others;
    let own = own.as_ref();
    let Some(trial) = trial else {
        return bad(&told(&words, own, path));
    };
    match (trial.end(), seen) {
        (End::Answered, seen) => {
            *hearing = small_hearing;
            let seen = match seen {
                None if !left().is_zero() => {
                    *hearing = Hearing::to(target.agent);
                    // What the answer is worth must be known, however many others are made.
                    let check = check(target, small, tools, target.timeout, hearing);
                    timeout(left(), Box::pin(check)).await.ok()
                }
                seen => seen,
            };
            // Then the small one goes alone, and has all the time.
            let now = Instant::now();
            let remember = |sure| tools.refusals.remember(&target.backend, now, sure);
            match seen {
                None => {
                    remember(Sure::Yes);
                    bad(&told(&words, own, path))
                }
                Some(ProbeVerdict::Bad(words)) => bad(&told(&words, own, path)),
                Some(verdict @ ProbeVerdict::Void(_)) => verdict,
                Some(verdict) => {
                    remember(Sure::Perhaps);
                    refused(verdict)
                }
            }
        }
        (End::Silent, Some(verdict)) if is_good(&verdict) => {
            let known = on_trial.and_then(|size| tools.path_to(size.backend));
            if trial.is_known_too_large(known) {
                *hearing = small_hearing;
                return verdict;
            }
            bad(&trial.told(&words))
        }
        _ => bad(&told(&words, own, path)),
    }
}

/// What a check with a small request says where the server refuses a large one.
fn refused(verdict: ProbeVerdict) -> ProbeVerdict {
    match verdict {
        ProbeVerdict::Good => warned(
            "it answers short requests, but not long ones: large packets are not tested (let it take longer headers, or set full-size = false)",
        ),
        verdict => verdict,
    }
}

/// Checks that explain the failure of another one: to whom they go, if they are made.
struct Others<'c> {
    target: &'c Target,
    tools: &'c Tools,
    small: Option<&'c Peer>,
    own: Option<&'c Peer>,
}

/// What came of them in time.
#[derive(Default)]
struct Seen {
    small: Option<ProbeVerdict>,
    own: Option<ProbeVerdict>,
}

impl Others<'_> {
    /// Makes them within this time, unless too many are under way.
    async fn made(self, left: Duration, small_hearing: &mut Hearing) -> Seen {
        if self.small.is_none() && self.own.is_none() {
            return Seen::default();
        }
        let Ok(_permit) = self.tools.second_checks.try_acquire() else {
            return Seen::default();
        };
        let mut unheard = Hearing::default();
        let (small, own) = tokio::join!(
            self.one(self.small, left, small_hearing),
            self.one(self.own, left, &mut unheard),
        );
        Seen { small, own }
    }

    async fn one(
        &self,
        peer: Option<&Peer>,
        left: Duration,
        hearing: &mut Hearing,
    ) -> Option<ProbeVerdict> {
        // One that has no time to end says nothing.
        let most = self.target.timeout;
        let check = check(self.target, peer?.clone(), self.tools, most, hearing);
        timeout(left, check).await.ok()
    }
}

fn is_good(verdict: &ProbeVerdict) -> bool {
    matches!(
        verdict,
        ProbeVerdict::Good | ProbeVerdict::Warned(_) | ProbeVerdict::Expiring(_)
    )
}

/// The words of a check that failed, with what the backend's own address had to say. The kinds of faults that the two tell
/// apart are told where no packet says which it is.
fn told(words: &str, own: Option<&ProbeVerdict>, path: Option<&RealPath>) -> String {
    let Some(path) = path else {
        return words.to_owned();
    };
    let vip = path.vip;
    match own {
        Some(own) if is_good(own) && path.path.is_tunnel() => format!(
            "{words}; it answers at its own address, but not as {vip} by the tunnel: {vip} is missing on it, it takes nothing out of the tunnel, or the tunnel is cut on the way"
        ),
        Some(own) if is_good(own) => format!(
            "{words}; it answers at its own address, but not as {vip}: {vip} is missing on it, or its server does not listen there"
        ),
        Some(ProbeVerdict::Bad(other)) if other != words && !other.contains("timed out") => {
            format!("{words}; at its own address: {other}")
        }
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests;
