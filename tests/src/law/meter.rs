//! Counts the traffic at every interface of a topology (packet(7), with [`super::filter`]).

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use super::filter::{self, Place, SLOTS};
use super::{Flow, Reading, driver};
use crate::bpf;
use crate::topology::{Cable, Namespace, Topology};

const SO_ATTACH_BPF: i32 = 50;
const HOSTS: u32 = 0;
const PORTS: u32 = HOSTS + SLOTS;

/// Counters of a topology's traffic, from their start on.
pub struct Meter {
    counters: OwnedFd,
    sockets: Vec<OwnedFd>,
}

impl Meter {
    /// Starts to count at all interfaces that carry the traffic.
    pub fn start(topology: &Topology) -> Result<Self> {
        let mut meter = Self {
            counters: bpf::counters(PORTS + SLOTS)?,
            sockets: vec![],
        };
        for cable in topology.shape().cables() {
            meter.watch(topology, &cable)?;
        }
        Ok(meter)
    }

    /// Counts at an interface that was made anew, too.
    pub fn watch_again(&mut self, topology: &Topology, host: &str, device: &str) -> Result<()> {
        let cables = topology.shape().cables();
        let cable = cables
            .iter()
            .find(|c| c.host == host && c.device == device)
            .with_context(|| format!("no interface {device} at {host}"))?;
        self.watch(topology, cable)
    }

    fn watch(&mut self, topology: &Topology, cable: &Cable) -> Result<()> {
        let socket = if cable.host == "lb" {
            let switch = topology.namespace("switch");
            self.count(switch, &cable.port, Place::Port(cable.mac), PORTS)
        } else {
            let host = topology.namespace(&cable.host);
            self.count(host, cable.device, Place::Host, HOSTS)
        };
        self.sockets.push(socket?);
        Ok(())
    }

    fn count(&self, at: &Namespace, device: &str, place: Place, first: u32) -> Result<OwnedFd> {
        let program = filter::program(place, self.counters.as_raw_fd(), first);
        let program = bpf::load(bpf::Kind::SocketFilter, &program)?;
        at.run(|| open(device, &program))
            .with_context(|| format!("count packets at {device} of {}", at.name()))
    }

    /// What was counted until now.
    pub fn read(&self, topology: &Topology) -> Result<Reading> {
        let at = |slot| bpf::counter(&self.counters, slot);
        let mut reading = Reading {
            hosts: Flow {
                received: at(HOSTS)?,
                sent: at(HOSTS + 1)?,
            },
            // Out of a port is into the balancer.
            ports: Flow {
                received: at(PORTS)?,
                sent: at(PORTS + 1)?,
            },
            broken: topology.is_broken(),
            ..Reading::default()
        };
        let (lb, switch) = (topology.namespace("lb"), topology.namespace("switch"));
        for cable in topology.shape().cables() {
            if cable.host == "lb" {
                driver::add_statistics(&mut reading.driver, lb, cable.device)?;
                driver::add_dropped(&mut reading.driver, switch, &cable.port)?;
                driver::add_unreceived(&mut reading.driver, switch, &cable.port)?;
            }
        }
        Ok(reading)
    }
}

/// A packet socket with a program that sees every frame of an interface, both ways.
fn open(device: &str, program: &OwnedFd) -> Result<OwnedFd> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("open a packet socket")?;
    let program = program.as_raw_fd();
    // SAFETY: the option takes a descriptor, of this size, and only reads it during the call.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_ATTACH_BPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if attached != 0 {
        bail!(
            "attach a program to a packet socket: {}",
            std::io::Error::last_os_error()
        );
    }
    let all = (libc::ETH_P_ALL as u16).to_be();
    let ifindex = nix::net::if_::if_nametoindex(device)?;
    crate::capture::bind(&socket, all, ifindex)?;
    Ok(socket.into())
}
