//! What a service may lower.

use crate::{
    fixture::Fixture,
    verdict::{Action, Verdict},
};

/// A packet that is not sent is as it came; but what a service has lowered may still find no way.
pub(super) fn unsent(
    fixture: &Fixture,
    verdict: Verdict,
    before: &[u8],
    after: &[u8],
) -> Result<(), String> {
    let may_differ = verdict.action == Action::Drop && is_clamped(fixture, before);
    match before == after || may_differ {
        true => Ok(()),
        false => Err("changed, but not sent".into()),
    }
}

/// A SYN of a world with services that lower its MSS.
pub(super) fn is_clamped(fixture: &Fixture, packet: &[u8]) -> bool {
    let (protocol, flags) = match packet.get(12..14) {
        Some([8, 0]) => (23, 47),
        _ => (20, 67),
    };
    fixture
        .world
        .services
        .iter()
        .any(|service| service.mss != 0)
        && packet.get(protocol) == Some(&6)
        && packet.get(flags).is_some_and(|flags| flags & 2 != 0)
}
