//! Which backend a packet's flow gets, what of that is counted, and flows that one server could not tell apart.

use lb_common::{DropReason, FlowHash, Forwarding, Protocol, Spread, counter::Rest};

use super::{
    Arrived, Oracle, choice,
    flow::{Origin, Seeker, Tuple},
    known::Limit,
    packet::Meaning,
};

impl Oracle {
    /// The backend of a packet's flow, and what follows from a new one.
    pub(super) fn assign(
        &mut self,
        arrived: &Arrived<'_>,
        service: usize,
        tuple: Tuple,
        hash: FlowHash,
        meaning: Meaning,
    ) -> Result<(usize, Origin), DropReason> {
        let seeker = Seeker {
            service,
            tuple,
            hash,
            number: self.ledger.packets() - 1,
            meaning,
            epoch: arrived.epoch(),
            second: arrived.at >> 30,
        };
        if self.maps.services[service].spread == Spread::Datagram {
            // By its number among all packets, from 0 on.
            return Ok((choice::choose_alone(&self.maps, &seeker)?, Origin::Alone));
        }
        let begins_again = self.flows.begins(&seeker);
        let (limits, ledger) = (&mut self.limits, &self.ledger);
        let assigned = self.flows.assign(&self.maps, ledger, &seeker, || {
            limits.admit(Limit::NewFlow, arrived.at)
        });
        if let Some(slot) = self.flows.turn(service) {
            self.ledger.turn(service, slot);
        }
        // Counted where every opening packet is TCP's.
        let counts = self.maps.services[service].protocol == Protocol::Tcp as u8;
        let assigned = assigned.map(|(id, origin)| {
            let begins = match origin {
                Origin::New | Origin::Moved => meaning.may_begin(),
                Origin::Reopened | Origin::ReopenedProven => begins_again,
                _ => false,
            };
            match self.maps.services[service].shares && begins {
                true => self.kept_apart(&seeker, id, origin),
                false => (id, origin),
            }
        });
        if let Ok((id, origin)) = assigned
            && counts
        {
            let forwarding = self.maps.backends[id].forwarding;
            // Who shares servers translates, whatever a broken entry says.
            let shares = self.maps.services[service].shares && begins_again;
            let sees_answers = shares || forwarding.is_some_and(Forwarding::translates);
            self.ledger.shown(id, origin, sees_answers);
        }
        assigned
    }

    /// Where a flow goes that begins, so that its server can tell it from the client's others.
    fn kept_apart(&mut self, seeker: &Seeker, id: usize, origin: Origin) -> (usize, Origin) {
        match self.flows.keep_apart(&self.maps, seeker, id) {
            None => {
                self.ledger.rest(Rest::Clashed);
                self.met.clashed = true;
                (id, origin)
            }
            Some(found) if found != id => {
                self.met.kept_apart = true;
                (
                    found,
                    if origin == Origin::Moved {
                        origin
                    } else {
                        Origin::New
                    },
                )
            }
            Some(_) => (id, origin),
        }
    }
}
