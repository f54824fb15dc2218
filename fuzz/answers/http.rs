//! Answers to checks by HTTP/1.1, and what agents say in them: as good in pieces as at once.

use lb_userspace::agent::Agent;
use lb_userspace::health::recorded::{Recorded, http};
use lb_userspace::model::{AgentSource, AgentWeight, HttpCheck, ProbeVerdict};

use super::checked;

/// The bytes choose a check and what the target says.
pub(super) fn run(bytes: &[u8]) {
    let Some((&[choice, piece], answer)) = bytes.split_first_chunk() else {
        return;
    };
    let check = HttpCheck {
        method: ["GET", "HEAD"][usize::from(choice & 1)].to_owned(),
        path: "/health".to_owned(),
        host: None,
        expect_status: vec![(200, 299), (404, 404)],
        expect_body: match choice >> 1 & 3 {
            0 | 1 => None,
            2 => Some(String::new()),
            _ => Some("ready".to_owned()),
        },
    };
    let source = match choice >> 3 & 3 {
        0 => None,
        1 => Some(AgentSource::Header),
        _ => Some(AgentSource::Body),
    };
    let ask = |piece| checked::wait(http(Recorded::new(answer, piece), &check, source));
    let (verdict, said) = ask(usize::MAX);
    checked::verdict(&verdict);
    let (in_pieces, said_in_pieces) = ask(piece.into());
    checked::verdict(&in_pieces);
    // What is wrong may be found sooner, and so be another thing.
    let is_good = verdict == ProbeVerdict::Good;
    assert_eq!(
        in_pieces == ProbeVerdict::Good,
        is_good,
        "{in_pieces:?}, {verdict:?}"
    );
    if !is_good {
        return;
    }
    assert_eq!(said_in_pieces, said);
    let Some(said) = said else {
        return;
    };
    let policy = AgentWeight {
        source: AgentSource::Body,
        least: 10,
        most: 200,
        step: 10,
    };
    let mut agent = Agent::default();
    let _told = agent.report(&policy, said.as_deref());
    agent.step(&policy, 1 << 40, 1);
    assert!((100..=2000).contains(&agent.part()), "{said:?}: {agent:?}");
}
