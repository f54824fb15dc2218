//! Whom a datagram of QUIC names (RFC 8999 section 5, draft-ietf-quic-load-balancers sections 3 and 5), byte by byte.

use lb_common::{DropReason, FlowHash, counter::More, quic::Lengths};

use super::{
    Arrived, Oracle,
    flow::{self, Origin, Tuple},
    known::Limit,
    packet::Meaning,
};

/// Bytes that the longest server id takes with the byte before it.
const LONGEST: usize = 16;

/// What a datagram says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    /// It has a long header.
    pub(super) long: bool,
    /// The server id, if there is one.
    pub(super) server: Option<&'a [u8]>,
}

/// Reads a payload.
pub(super) fn read<'a>(payload: &'a [u8], lengths: Lengths) -> Datagram<'a> {
    let long = payload.first().is_some_and(|first| *first >= 0x80);
    let (at, declared) = match long {
        true => (6, payload.get(5).copied().map(usize::from)),
        false => (1, None),
    };
    let server = || {
        let id = payload.get(at..at + LONGEST)?;
        let config = u32::from(id[0] / 32);
        let length = (lengths.0 >> (4 * config)) as usize % 16;
        // A short header does not tell how long its connection id is.
        let fits = declared.is_none_or(|declared| declared > length);
        (length > 0 && fits).then(|| &id[1..1 + length])
    };
    Datagram {
        long,
        server: server(),
    }
}

impl Oracle {
    /// The backend that a datagram names; counted.
    pub(super) fn named(&mut self, arrived: &Arrived<'_>, service: usize) -> Option<usize> {
        let lengths = self.maps.services[service].quic;
        if lengths == Lengths::NONE {
            return None;
        }
        let ip = &arrived.ip;
        let payload = arrived.frame.get(ip.transport() + 8..ip.end)?;
        let datagram = read(payload, lengths);
        let id = datagram
            .server
            .and_then(|server_id| self.maps.named(service, server_id))
            // The client may have made it up.
            .filter(|id| !datagram.long || self.maps.backends[*id].permissions.may_take_new());
        match id {
            Some(_) => self.ledger.more(More::ByServerId),
            None if datagram.long => {}
            None => self.ledger.more(More::NoServerId),
        }
        id
    }

    /// The flow of a datagram that names its backend.
    pub(super) fn adopt(
        &mut self,
        arrived: &Arrived<'_>,
        service: usize,
        tuple: Tuple,
        hash: FlowHash,
        id: usize,
    ) -> Result<(usize, Origin), DropReason> {
        let seeker = flow::Seeker {
            service,
            tuple,
            hash,
            number: self.ledger.packets() - 1,
            meaning: Meaning::Datagram,
            epoch: arrived.epoch(),
            second: arrived.at >> 30,
        };
        let limits = &mut self.limits;
        let origin = self.flows.adopt(&self.maps, &seeker, id, || {
            limits.admit(Limit::NewFlow, arrived.at)
        })?;
        Ok((id, origin))
    }
}
