//! A service as the map has it. Pure.

use lb_common::{ServiceEntry, flow::IdleEpochs};

use super::ServiceImage;

impl ServiceImage {
    /// As it stands in the map when half `half` of its ring pair is live; `sources`: as [`Self::source_set`].
    pub fn entry(&self, half: u8, sources: u32) -> ServiceEntry {
        let (base, length) = self.live_slice(half);
        ServiceEntry {
            ring: ServiceEntry::slice(base, length),
            address: self.address,
            port: self.port.to_be_bytes(),
            protocol: self.protocol,
            forwarding: self.forwarding,
            idle_epochs: 0,
            family: self.family,
            used: 1,
            pair: ServiceEntry::slice(self.ring_base, self.ring_capacity),
            sources,
            mid_stream: self.mid_stream,
            spread: self.spread,
            pick: self.scheduling.pick as u8,
            client_bits: self.scheduling.client_bits,
            ports: 0,
            length: 0,
            idle_others: 0,
            mss: 0,
            quic: self.quic,
            fields: self.scheduling.fields as u8,
            affinity: self.scheduling.affinity,
            reserved2: 0,
        }
        .reaching(self.reach)
        .clamping(self.mss)
        .timing(self.times)
        .sharing(self.shares)
        .idling(IdleEpochs(self.idle_epochs))
    }
}
