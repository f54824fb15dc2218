//! The HTTPS probe: [`super::http`] over [`super::tls`].

use std::time::Duration;

use super::hearing::Hearing;
use super::http::{self, Limit};
use super::peer::Peer;
use super::tcp::deadline;
use super::tls::{self, Clients, Shaken};
use crate::model::{HttpCheck, ProbeVerdict, TlsCheck};

/// A server that speaks something else too is to speak this.
const PROTOCOLS: &[&str] = &["http/1.1"];

/// Probes `target`.
pub async fn probe(
    target: impl Into<Peer>,
    check: &HttpCheck,
    with: &TlsCheck,
    clients: &Clients,
    timeout: Duration,
    hearing: &mut Hearing,
) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let target = target.into();
    let mut request = match http::request(target.address, &named(check, with)) {
        Ok(request) => request,
        Err(verdict) => return verdict,
    };
    let trial = target.trial.clone();
    match tls::shake(target, with, PROTOCOLS, clients, deadline, timeout).await {
        Ok(Shaken { stream, warning }) => {
            let limit = Limit {
                deadline,
                timeout,
                trial: trial.as_deref(),
            };
            limit.fill(&mut request);
            let verdict = http::converse(stream, request, check, limit, hearing).await;
            tls::with(verdict, warning)
        }
        Err(verdict) => verdict,
    }
}

/// The name that TLS asks for is the host's too, if nothing else is said.
pub(super) fn named(check: &HttpCheck, with: &TlsCheck) -> HttpCheck {
    let host = check.host.as_ref().or(with.server_name.as_ref());
    HttpCheck {
        host: host.cloned(),
        ..check.clone()
    }
}

#[cfg(test)]
mod tests;
