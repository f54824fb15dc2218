//! The same two paths while one thing grows: flows, services or backends.

use std::fmt;

use lb_common::{Family, Forwarding, Protocol};
use lb_userspace::maglev;
use serde::{Deserialize, Serialize};

use super::{Case, Traffic};

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Flows in turn; one service, a hundred backends.
    Flows,
    /// Services in turn, one backend each; [`FLOWS`] flows.
    Services,
    /// Backends of one service; [`FLOWS`] flows.
    Backends,
}

/// Flows of the axes that are not about flows.
pub const FLOWS: u64 = 100_000;

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flows => "flows",
            Self::Services => "services",
            Self::Backends => "backends",
        })
    }
}

impl Axis {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Flows, Self::Services, Self::Backends];

    /// Where it is measured.
    pub const fn values(self) -> &'static [u32] {
        match self {
            Self::Flows => &[10_000, 100_000, 1_000_000, 10_000_000],
            Self::Services => &[1, 10, 100, 1_000, 10_000],
            Self::Backends => &[10, 100, 1_000, 10_000, 100_000],
        }
    }

    /// What is measured at a value.
    pub fn case(self, value: u32, traffic: Traffic) -> Case {
        let (flows, services, backends) = match self {
            Self::Flows => (u64::from(value), 1, 100),
            Self::Services => (FLOWS, value, 1),
            Self::Backends => (FLOWS, 1, value),
        };
        Case {
            name: format!("{}, {value} {self}", traffic.label()),
            family: Family::V4,
            outer: Family::V4,
            protocol: Protocol::Tcp,
            forwarding: Forwarding::Ipip,
            traffic,
            flows,
            default_table: false,
            services,
            backends,
            ring: maglev::ring_size(backends as usize),
            goal: None,
        }
    }
}
