//! Changes of what the maps hold. Pure, part of `world`.

use lb_common::{Load, Protocol, Tunnel};
use lb_ebpf::fixture::world::{Change, ServiceSpec, Side, World};

use super::{Choices, permissions, ranges, ring};

/// Changes that the control plane may make of a world.
pub(in crate::generate) struct Changes {
    world: World,
    /// Services whose sources have changed: once, as each of two sets is written in full before it is named.
    switched: Vec<u32>,
}

impl Changes {
    pub(in crate::generate) fn of(world: &World) -> Self {
        Self {
            world: world.clone(),
            switched: Vec::new(),
        }
    }

    /// One to three.
    pub(in crate::generate) fn some(&mut self, choices: &mut Choices<'_>) -> Vec<Change> {
        if self.world.backends.is_empty() {
            return Vec::new();
        }
        let count = 1 + choices.below(3);
        (0..count).flat_map(|_| self.change(choices)).collect()
    }

    fn change(&mut self, choices: &mut Choices<'_>) -> Vec<Change> {
        let service = choices.below(self.world.services.len()) as u32;
        let id = choices.below(self.world.backends.len()) as u32;
        let owner = self.world.backends[id as usize].service;
        match choices.below(28) {
            0..=9 => {
                let permissions = permissions(choices, &self.world, owner);
                vec![Change::Permissions(id, permissions)]
            }
            10..=13 => vec![Change::Ring(
                service,
                ring(choices, &self.world, service as usize),
            )],
            14 | 15 => vec![Change::Neighbour(id, [2, 0, 0, 0xbe, 1, choices.byte()])],
            16 => vec![Change::Unresolved(id)],
            17 => vec![Change::Retire(id)],
            18 => vec![Change::NextHop(
                id,
                choices.below(self.world.backends.len() + 1) as u32,
            )],
            19 => vec![Change::NoDevice(
                *choices.of(&[Side::Client, Side::Backend]),
            )],
            20 => self.other_forwarding(choices, service),
            21 => self.reassign(choices, id, service),
            22..=25 => self.count_flows(choices, owner),
            _ => self.switch_sources(choices, service),
        }
    }

    /// Another one, known or not, where backends have no tunnel of their own.
    fn other_forwarding(&self, choices: &mut Choices<'_>, service: u32) -> Vec<Change> {
        let backends = self.world.backends.iter();
        let mut own = backends.filter(|backend| backend.service == service);
        let number = match self.world.services[service as usize].reach {
            None => *choices.of(&[0, 1, 2, 3, 9]),
            // To translate for a range may be more than can be done.
            Some(_) => *choices.of(&[0, 2, 3, 9]),
        };
        match own.all(|backend| backend.tunnel == Tunnel::USUAL) {
            true => vec![Change::Forwarding(service, number)],
            false => Vec::new(),
        }
    }

    /// Of most backends of a service; seldom so many that the product of all would not fit a word.
    fn count_flows(&self, choices: &mut Choices<'_>, service: u32) -> Vec<Change> {
        let cpus = *choices.of(&[0, 1, 1, 2, 64]);
        let backends = (0..).zip(&self.world.backends);
        let own = backends.filter(|(_, backend)| backend.service == service);
        own.filter_map(|(id, _)| {
            let flows = *choices.of(&[0, 0, 1, 2, 3, 7, u32::MAX]);
            let weight = *choices.of(&[1, 1, 2, 3, 1000, 2_000_000]);
            let load = match choices.below(6) {
                0 => return None,
                1 => Load::UNKNOWN,
                _ => Load::new(flows, weight),
            };
            Some(Change::Load(id, load, cpus))
        })
        .collect()
    }

    /// To one of the same family, as it must be, that does not take more than can be forwarded so.
    fn reassign(&mut self, choices: &mut Choices<'_>, id: u32, service: u32) -> Vec<Change> {
        let owner = self.world.backends[id as usize].service;
        let [old, new] = [owner, service].map(|index| &self.world.services[index as usize]);
        let usual =
            |service: &ServiceSpec| service.reach.is_none() && service.protocol != Protocol::Sctp;
        // Where a backend has its service's port, as SCTP's, that stays the same, too.
        let kind = |of: &ServiceSpec| {
            (
                of.forwarding,
                of.protocol,
                of.reach.is_some(),
                of.vip.port(),
            )
        };
        let alike = usual(old) && usual(new) || kind(old) == kind(new);
        if old.vip.is_ipv4() != new.vip.is_ipv4() || !alike {
            return Vec::new();
        }
        self.world.backends[id as usize].service = service;
        let permissions = permissions(choices, &self.world, service);
        vec![
            Change::Permissions(id, permissions),
            Change::Reassign(id, service),
        ]
    }

    fn switch_sources(&mut self, choices: &mut Choices<'_>, service: u32) -> Vec<Change> {
        let spec = &self.world.services[service as usize];
        if spec.sources.is_empty() || self.switched.contains(&service) {
            return Vec::new();
        }
        self.switched.push(service);
        let ranges = match choices.one_in(4) {
            true => Vec::new(),
            false => ranges(choices, spec.vip.is_ipv4()),
        };
        vec![Change::Sources(service, 1, ranges)]
    }
}
