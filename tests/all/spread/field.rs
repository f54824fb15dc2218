//! The compiled program with one service of ten backends, whose rings are those that the control plane fills.

use std::ops::Range;

use lb_common::{
    Family, FlowWord, Forwarding, HashKey, Load, Permissions, Pick, Protocol, Scheduling,
    ServiceEntry,
    counter::{BACKEND_LINE, PerBackend},
    hash::FlowTuple,
};
use lb_ebpf::{fixture::world::address, verdict::Action};
use lb_tests::{
    bench::{
        Case, Traffic,
        rig::{Rig, Target, driver_bytes, in_namespace},
        world,
    },
    kernel::{object_bytes, stay_on},
};
use lb_userspace::{
    maglev::{self, Member},
    turns,
};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

use super::Bound;

/// Flows of a test: above 100,000.
pub const FLOWS: u64 = 1 << 17;
/// Flow numbers with the same bits above these have the same client, at another port.
pub const PORT_BITS: u32 = 14;

/// Whose the [`FLOWS`] of a test are.
#[derive(Clone, Copy, Debug)]
pub enum Crowd {
    /// Of eight clients with all of their ports: the driver makes them, which is quick.
    Few,
    /// Of [`CLIENTS`] with [`EACH`] flows: a packet a call.
    Many,
}

/// Clients of [`Crowd::Many`], and flows of each.
pub const CLIENTS: u64 = 1 << 13;
pub const EACH: u64 = FLOWS / CLIENTS;

impl Crowd {
    /// How many a hash of the client deals, or in [`Self::Few`] one of the flow.
    pub fn dealt(self) -> u64 {
        match self {
            Self::Few => FLOWS,
            Self::Many => CLIENTS,
        }
    }

    fn flows(self) -> Vec<u64> {
        match self {
            Self::Few => (0..FLOWS).collect(),
            Self::Many => (0..FLOWS)
                .map(|n| ((n / EACH) << PORT_BITS) | (n % EACH))
                .collect(),
        }
    }
}
/// Of rings.
const KEY: HashKey = HashKey([7, 11]);
/// Slots that the service has, or more for many backends.
const ROOM: u32 = 4096;

/// The program and what it was told.
pub struct Field {
    pub rig: Rig,
    weights: Vec<u16>,
    /// As it was filled last.
    ring: Vec<u32>,
    /// Flows that each backend got until they were looked at last.
    seen: Vec<u64>,
    cpus: Vec<u32>,
}

fn case(traffic: Traffic, backends: u32) -> Case {
    Case {
        name: "spread".to_owned(),
        family: Family::V4,
        outer: Family::V4,
        protocol: Protocol::Tcp,
        forwarding: Forwarding::L2dsr,
        traffic,
        flows: lb_ebpf::bench::MAX_FLOWS,
        // Of the default size, as only one flow at a time has.
        default_table: true,
        services: 1,
        backends,
        ring: maglev::ring_size(backends as usize).max(ROOM),
        goal: None,
    }
}

/// Runs a test over a pool with these weights.
pub fn field<R: Send>(
    weights: &[u16],
    scheduling: Scheduling,
    work: impl FnOnce(&mut Field) -> R + Send,
) -> R {
    let (object, driver) = (object_bytes().unwrap(), driver_bytes().unwrap());
    // Loading keeps the thread on one of them.
    let cpus = allowed_cpus();
    in_namespace(|ends| {
        let backends = weights.len() as u32;
        let case = Case {
            flows: FLOWS,
            ..case(Traffic::New, backends)
        };
        let mut tables = world::tables(&case, &ends)?;
        let service = &mut tables.services[0];
        service.pick = scheduling.pick as u8;
        service.fields = scheduling.fields as u8;
        service.client_bits = scheduling.client_bits;
        service.affinity = scheduling.affinity;
        let mut field = Field {
            rig: Rig::over(&object, &driver, &case, tables, ends)?,
            weights: weights.to_vec(),
            ring: Vec::new(),
            seen: vec![0; weights.len()],
            cpus,
        };
        field.fill();
        Ok(work(&mut field))
    })
    .unwrap()
}

/// The CPUs that this thread may use.
fn allowed_cpus() -> Vec<u32> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let is_set = |cpu: &u32| allowed.is_set(*cpu as usize).unwrap_or(false);
    (0..CpuSet::count() as u32).filter(is_set).collect()
}

impl Field {
    /// Writes the ring of those that take new flows.
    pub fn fill(&mut self) {
        let takes = |id: u32| {
            self.rig.tables.backends[id as usize]
                .permissions
                .may_take_new()
        };
        let names: Vec<String> = (0..self.weights.len())
            .map(|id| format!("web/b{id}"))
            .collect();
        let members: Vec<Member<'_>> = (0..)
            .zip(&names)
            .zip(&self.weights)
            .filter(|((id, _), _)| takes(*id))
            .map(|((id, name), &weight)| Member {
                id,
                name,
                weight: weight.into(),
            })
            .collect();
        let size = maglev::ring_size(self.weights.len());
        let ring = match self.rig.tables.services[0].pick == Pick::Turn as u8 {
            true => turns::fill(&members, size),
            false => maglev::fill(&members, size, KEY),
        };
        let tables = &mut self.rig.tables;
        tables.write_ring(0, &ring);
        tables.services[0].ring = ServiceEntry::slice(0, ring.len() as u32);
        self.ring = ring;
        self.rig.configure().unwrap();
    }

    /// The ring as it was filled last.
    pub fn ring(&self) -> Vec<u32> {
        self.ring.clone()
    }

    fn run(&mut self, traffic: Traffic, flows: Range<u64>) {
        let case = case(traffic, self.weights.len() as u32);
        self.rig.plan = world::plan(&case, 1);
        let packets = flows.end - flows.start;
        self.rig
            .time(Target::DataPlane, flows.start, packets)
            .unwrap();
    }

    /// The first packet of each flow.
    pub fn open(&mut self, flows: Range<u64>) {
        self.run(Traffic::New, flows);
    }

    /// Another packet of each flow.
    pub fn send(&mut self, flows: Range<u64>) {
        self.run(Traffic::Known, flows);
    }

    /// Each flow of a crowd: its first packet, or another one.
    fn cross(&mut self, traffic: Traffic, crowd: Crowd) {
        let Crowd::Many = crowd else {
            return self.run(traffic, 0..FLOWS);
        };
        let case = case(traffic, self.weights.len() as u32);
        let kernel = self.rig.kernel();
        let ifindex = kernel.ends().client;
        for flow in crowd.flows() {
            let (action, _, _) = kernel.run(&world::frame(&case, flow), ifindex, 1).unwrap();
            assert_eq!(action, Action::Tx, "flow {flow}");
        }
    }

    /// The first packet of each flow of a crowd.
    pub fn open_all(&mut self, crowd: Crowd) {
        self.cross(Traffic::New, crowd);
    }

    /// Another packet of each flow of a crowd.
    pub fn send_all(&mut self, crowd: Crowd) {
        self.cross(Traffic::Known, crowd);
    }

    /// The flow table knows nobody any more.
    pub fn forget(&mut self) {
        self.rig.clear_flows().unwrap();
    }

    /// The backend takes no new flows, and the ring is filled again.
    pub fn leave(&mut self, id: u32) {
        self.rig.tables.backends[id as usize].permissions = Permissions(Permissions::KEEP);
        self.fill();
    }

    /// The backend takes no new flows, and the ring still names it.
    pub fn deny(&mut self, id: u32) {
        self.rig.tables.backends[id as usize].permissions = Permissions(Permissions::KEEP);
        self.rig.configure().unwrap();
    }

    /// What these backends may take and keep, whatever the ring says.
    pub fn permit(&mut self, ids: Range<u32>, permissions: Permissions) {
        let ids = ids.start as usize..ids.end as usize;
        for backend in &mut self.rig.tables.backends[ids] {
            backend.permissions = permissions;
        }
        self.rig.configure().unwrap();
    }

    /// How far shares may be from the weights' where chance deals flows by the ring.
    pub fn dealt(&self) -> Bound {
        let (_, slots) = ServiceEntry::unslice(self.rig.tables.services[0].ring);
        Bound::Dealt {
            slots: slots.into(),
        }
    }

    /// Weights of rings that are filled from now on.
    pub fn set_weights(&mut self, weights: &[u16]) {
        self.weights = weights.to_vec();
    }

    /// The CPUs that packets may be handled on.
    pub fn cpus(&self) -> Vec<u32> {
        self.cpus.clone()
    }

    /// From now on packets are handled on this CPU.
    pub fn stay_on(&mut self, cpu: u32) {
        stay_on(cpu).unwrap();
    }

    /// It takes them again.
    pub fn come_back(&mut self, id: u32) {
        self.rig.tables.backends[id as usize].permissions = Permissions::ALL;
        self.fill();
    }

    /// The control plane has counted: each backend has so many flows, and new ones are handled on so many CPUs.
    pub fn count(&mut self, flows: &[u32], cpus: u32) {
        let weights = self.weights.clone();
        let backends = self.rig.tables.backends.iter_mut();
        for ((backend, flows), weight) in backends.zip(flows).zip(weights) {
            backend.load = Load::new(*flows, weight.into());
        }
        self.rig.tables.control.flow_cpus = cpus;
        self.rig.configure().unwrap();
        let mut lines = self.rig.kernel().counters_by_cpu().unwrap();
        let first = BACKEND_LINE as usize;
        for line in lines
            .iter_mut()
            .flat_map(|lines| &mut lines[first..first + flows.len()])
        {
            line[PerBackend::Counted as usize] =
                line[PerBackend::NewFlows as usize] + line[PerBackend::MovedIn as usize];
        }
        self.rig.kernel().write_counters(&lines).unwrap();
    }

    /// A backend has another weight from now on, and the ring is filled again.
    pub fn weigh(&mut self, id: u32, weight: u16) {
        self.weights[id as usize] = weight;
        self.fill();
    }

    /// New flows of each backend since the beginning.
    pub fn shares(&mut self) -> Vec<u64> {
        let cpus = self.rig.kernel().counters_by_cpu().unwrap();
        let share = |id: usize| {
            let lines = cpus.iter().map(|lines| &lines[BACKEND_LINE as usize + id]);
            lines.map(|line| line[PerBackend::NewFlows as usize]).sum()
        };
        (0..self.weights.len()).map(share).collect()
    }

    /// New flows of each backend since this was asked last.
    pub fn new_shares(&mut self) -> Vec<u64> {
        let shares = self.shares();
        let seen = std::mem::replace(&mut self.seen, shares.clone());
        shares
            .iter()
            .zip(seen)
            .map(|(now, then)| now - then)
            .collect()
    }

    /// The backend of each flow of a crowd, as the flow table has it.
    pub fn mapping(&mut self, crowd: Crowd) -> Vec<u32> {
        let control = self.rig.tables.control;
        let lines = self.rig.kernel().flows().unwrap();
        let vip = world::vip(Family::V4, 0);
        let find = |flow: u64| {
            let client = world::client(Family::V4, flow);
            let tuple = FlowTuple {
                client: address(client),
                vip: address(vip),
                client_port: client.port().to_be_bytes(),
                vip_port: vip.port().to_be_bytes(),
                protocol: Protocol::Tcp as u8,
            };
            let hash = tuple.hash(&control.multipliers);
            let sets = hash.sets(control.flow_mask, control.flow_base_bits);
            [sets.first, sets.second]
                .iter()
                .flat_map(|set| lines[*set as usize])
                .map(FlowWord)
                .find(|word| word.matches(sets.tag))
                .map(FlowWord::backend_id)
                .unwrap_or_else(|| panic!("flow {flow} has no entry"))
        };
        crowd.flows().into_iter().map(find).collect()
    }
}
