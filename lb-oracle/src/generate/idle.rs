//! After how much silence flows begin anew, where a service takes several protocols, and for how long ports of `fullnat` are kept.

use lb_common::{Protocol, flow::IdleEpochs, nat::Idle};
use lb_ebpf::fixture::world::{Change, World};

use super::Choices;

/// What some worlds say of either.
pub(super) fn vary(choices: &mut Choices<'_>, world: &mut World) {
    services(choices, world);
    if choices.one_in(3) {
        let mut kept = || *choices.of(&[1, 3, 17, 18, 40, 70]);
        let idle = Idle {
            handshake: kept(),
            established: kept(),
            closing: kept(),
            datagrams: kept(),
            unanswered: kept(),
        };
        world.changes.push(Change::NatIdle(idle));
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
