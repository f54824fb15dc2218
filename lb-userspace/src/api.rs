//! What the command line and the daemon say to each other: HTTP/1.1 with JSON over a unix socket
//! of mode 0600. Every change is a POST; a GET has no effect.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | - | [`crate::status::Status`] |
//! | `GET /v1/why?backend=BACKEND` | - | [`crate::why::Why`] |
//! | `POST /v1/admin` | [`Admin`] | [`Done`] |
//! | `POST /v1/reload` | [`Reload`] | [`Done`] |
//! | `POST /v1/failback` | [`Failback`] | [`Done`] |
//!
//! An error has status 409 (refused, with the cure) or 4xx of HTTP itself and a [`Refused`] body.

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, BackendKey, Name};

pub(crate) mod aside;
pub mod client;
mod reserve;
pub mod server;

/// Changes a backend's admin state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// The backend.
    pub backend: BackendKey,
    /// Its new state.
    pub state: AdminState,
    /// For `draining`: milliseconds until the drain policy acts; `None`: never.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Do it even if no backend of the service is left for new flows.
    #[serde(default)]
    pub force: bool,
}

/// Applies the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Consent to a configuration that drops nine tenths or more.
    #[serde(default)]
    pub allow_shrink: bool,
}

/// Lets the new flows of a service return to its first tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failback {
    /// The service.
    pub service: Name,
}

/// It was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, for people.
    pub message: String,
}

/// It was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, and what to do.
    pub error: String,
}
