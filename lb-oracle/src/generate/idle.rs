//! After how much silence flows begin anew, where a service takes several protocols.

use lb_common::{Protocol, flow::IdleEpochs};
use lb_ebpf::fixture::world::World;

use super::Choices;

/// Gives some services of any protocol times for SCTP, for protocols without ports, and for TCP.
pub(super) fn vary(choices: &mut Choices<'_>, world: &mut World) {
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
