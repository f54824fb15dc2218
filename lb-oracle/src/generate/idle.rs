//! After how much silence flows begin anew, where a service takes several protocols, and for how long ports of `fullnat` are kept.

use lb_common::{Forwarding, Protocol, flow::IdleEpochs, nat::Idle};
use lb_ebpf::fixture::world::{Change, World};

use super::Choices;
use crate::case::Scene;

/// What some worlds say of either.
pub(super) fn vary(choices: &mut Choices<'_>, world: &mut World) {
    services(choices, world);
    if choices.one_in(3) {
        world.changes.push(Change::NatIdle(kept(choices)));
    }
}

/// What some say later, while flows have ports.
pub(super) fn reload(choices: &mut Choices<'_>, world: &World, scenes: &mut [Scene]) {
    let mut services = world.services.iter();
    if !services.any(|service| service.forwarding == Forwarding::Fullnat) || choices.one_in(2) {
        return;
    }
    for scene in scenes.iter_mut().skip(1) {
        if choices.one_in(3) {
            scene.changes.push(Change::NatIdle(kept(choices)));
        }
    }
}

/// For how long ports are kept.
fn kept(choices: &mut Choices<'_>) -> Idle {
    let mut seconds = || *choices.of(&[1, 3, 17, 18, 40, 70]);
    Idle {
        handshake: seconds(),
        established: seconds(),
        closing: seconds(),
        datagrams: seconds(),
        unanswered: seconds(),
    }
}

/// Gives some services of any protocol times for SCTP, for protocols without ports, and for TCP.
fn services(choices: &mut Choices<'_>, world: &mut World) {
    let any = world.services.iter_mut();
    for service in any.filter(|service| service.protocol == Protocol::Any) {
        if choices.one_in(2) {
            continue;
        }
        let datagrams = service.idle_epochs as u8 & 15;
        let mut limit = || choices.below(6) as u8;
        let usual = IdleEpochs::new(datagrams, limit(), limit(), limit());
        service.idle_epochs = usual.with_others(limit(), limit()).0;
    }
}
