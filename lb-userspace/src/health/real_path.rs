//! A check of the VIP on a backend, and what its failure means: the same check of the backend's own address tells a
//! dead server from one that clients' packets do not reach. It begins when the first one has failed, or has taken half of
//! its time, and ends with it: a result is never later for it.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::hearing::Hearing;
use super::peer::Peer;
use super::runner::{Tools, check};
use super::tcp::deadline;
use super::verdict::{bad, void, warned};
use crate::model::{ProbeVerdict, RealPath, Target};

/// Probes `target` by its real path.
pub(super) async fn probe(
    target: &Target,
    path: &RealPath,
    tools: &Tools,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let blocked = tools.no_real_path.borrow().clone();
    let address = SocketAddr::new(target.address, target.port);
    if let Some(why) = blocked {
        return without(target, path, &why, address, tools, hearing).await;
    }
    let end = deadline(target.timeout);
    let vip = Peer {
        address,
        mark: Some(path.mark),
        tunnel: path.path.is_tunnel(),
    };
    let mut vip = pin!(check(target, vip, tools, target.timeout, hearing));
    let half = target.timeout.checked_div(2).unwrap_or_default();
    let early = match timeout(half, &mut vip).await {
        Ok(ProbeVerdict::Bad(words)) => Some(words),
        Ok(verdict) => return verdict,
        Err(_) => None,
    };
    let left = end.saturating_duration_since(tokio::time::Instant::now());
    // Not a moment longer than the other one.
    let left = left.saturating_sub(Duration::from_millis(1));
    let Ok(_permit) = tools.second_checks.try_acquire() else {
        return match early {
            Some(words) => bad(&words),
            None => vip.await,
        };
    };
    // What an agent says counts only where clients are served.
    let mut unheard = Hearing::default();
    let own = check(target, address.into(), tools, left, &mut unheard);
    let mut own = pin!(timeout(left, own));
    let (words, own) = match early {
        Some(words) => (words, own.await.ok()),
        None => tokio::select! {
            biased;
            verdict = &mut vip => match verdict {
                ProbeVerdict::Bad(words) => (words, None),
                verdict => return verdict,
            },
            seen = &mut own => match vip.await {
                ProbeVerdict::Bad(words) => (words, seen.ok()),
                verdict => return verdict,
            },
        },
    };
    bad(&told(&words, own.as_ref(), path))
}

/// The check where the real path cannot be had: of the backend's own address, which is better than nothing, unless the
/// operator wants the VIP or nothing.
async fn without(
    target: &Target,
    path: &RealPath,
    why: &str,
    address: SocketAddr,
    tools: &Tools,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let why = format!("check of {}: {why}", path.vip);
    if path.only {
        return void(&why);
    }
    match check(target, address.into(), tools, target.timeout, hearing).await {
        ProbeVerdict::Good => warned(&format!("{why}; its own address is checked")),
        verdict => verdict,
    }
}

/// The words of a check that failed, with what the backend's own address had to say. The kinds of faults that the two tell
/// apart are told where no packet says which it is.
fn told(words: &str, own: Option<&ProbeVerdict>, path: &RealPath) -> String {
    let vip = path.vip;
    match own {
        Some(ProbeVerdict::Good | ProbeVerdict::Warned(_)) if path.path.is_tunnel() => format!(
            "{words}; it answers at its own address, but not as {vip} by the tunnel: {vip} is missing on it, it takes nothing out of the tunnel, or the tunnel is cut on the way"
        ),
        Some(ProbeVerdict::Good | ProbeVerdict::Warned(_)) => format!(
            "{words}; it answers at its own address, but not as {vip}: {vip} is missing on it, or its server does not listen there"
        ),
        Some(ProbeVerdict::Bad(other)) if other != words && !other.contains("timed out") => {
            format!("{words}; at its own address: {other}")
        }
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::probe::ProbePath;

    use super::*;

    fn path(source: u64) -> RealPath {
        RealPath {
            mark: 1,
            vip: "192.0.2.1".parse().unwrap(),
            only: false,
            path: ProbePath {
                source: [source; 2],
                ..ProbePath::NONE
            },
        }
    }

    #[test]
    fn what_the_own_address_says_tells_a_dead_server_from_a_way_that_is_broken() {
        let timed_out = "connect: timed out after 500 ms";
        let refused = ProbeVerdict::Bad("connect: refused".to_owned());
        let dead = ProbeVerdict::Bad("connect: timed out after 250 ms".to_owned());
        let good = ProbeVerdict::Good;
        for (own, source, expected) in [
            (None, 0, timed_out.to_owned()),
            (Some(&dead), 0, timed_out.to_owned()),
            (
                Some(&refused),
                0,
                format!("{timed_out}; at its own address: connect: refused"),
            ),
        ] {
            assert_eq!(told(timed_out, own, &path(source)), expected);
        }
        let words = told(timed_out, Some(&good), &path(0));
        assert!(words.contains("192.0.2.1 is missing on it"), "{words}");
        let words = told(timed_out, Some(&good), &path(1));
        assert!(words.contains("takes nothing out of the tunnel"), "{words}");
        assert!(
            words.len() <= super::super::verdict::REASON_BYTES,
            "{words}"
        );
    }
}
