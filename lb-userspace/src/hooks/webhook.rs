//! Tells an event to a server: a POST with JSON, over HTTP/1.1 and perhaps TLS, good with a status of 200 to 299. As in a
//! check, no redirect is followed, and no more is read than the head of the answer.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::{Instant, timeout_at};

use super::Attempt;
use crate::apart::on_thread;
use crate::health::hearing::Hearing;
use crate::health::http::{self, Limit, post};
use crate::health::tcp::{Closing, connect, deadline};
use crate::health::tls::{self, Clients, Shaken};
use crate::health::verdict::{bad, failed, timed_out, void};
use crate::model::{Host, HttpCheck, ProbeVerdict, Webhook};

/// A server that speaks something else too is to speak this.
const PROTOCOLS: &[&str] = &["http/1.1"];

/// Posts it and judges the answer.
pub(crate) async fn tell(
    webhook: &Webhook,
    body: String,
    attempt: &Attempt,
    clients: &Clients,
    timeout: Duration,
) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let told = async {
        let target = address(webhook, attempt.failures, deadline, timeout).await?;
        let check = HttpCheck {
            method: "POST".to_owned(),
            path: webhook.path.clone(),
            host: Some(webhook.authority()),
            expect_status: vec![(200, 299)],
            expect_body: None,
        };
        let request = post(target, &check, Bytes::from(body))?;
        let limit = Limit {
            deadline,
            timeout,
            trial: None,
        };
        let mut nothing = Hearing::default();
        Ok(match &webhook.tls {
            None => {
                let stream = connect(target, Closing::Orderly, deadline, timeout).await?;
                http::converse(stream, request, &check, limit, &mut nothing).await
            }
            Some(with) => {
                let shaken = tls::shake(target, with, PROTOCOLS, clients, deadline, timeout);
                let Shaken { stream, .. } = shaken.await?;
                http::converse(stream, request, &check, limit, &mut nothing).await
            }
        })
    };
    told.await.unwrap_or_else(|verdict| verdict)
}

/// Where the server is. Of several addresses each attempt takes the next one.
async fn address(
    webhook: &Webhook,
    failures: u16,
    deadline: Instant,
    timeout: Duration,
) -> Result<SocketAddr, ProbeVerdict> {
    let name = match &webhook.host {
        Host::Address(address) => return Ok(SocketAddr::new(*address, webhook.port)),
        Host::Name(name) => name.clone(),
    };
    let wanted = (name.clone(), webhook.port);
    let looking = on_thread("look up", move || {
        let (name, port) = wanted;
        Ok((name.as_str(), port).to_socket_addrs()?.collect())
    });
    let found: Vec<SocketAddr> = match timeout_at(deadline, looking).await {
        Ok(Ok(Ok(found))) => found,
        Ok(Ok(Err(error))) => return Err(failed(&format!("look up '{name}'"), &error)),
        Ok(Err(undone)) => return Err(void(&format!("look up '{name}': {undone}"))),
        Err(_) => return Err(timed_out(&format!("look up '{name}'"), timeout)),
    };
    let place = usize::from(failures).checked_rem(found.len());
    let chosen = place.and_then(|place| found.get(place)).copied();
    chosen.ok_or_else(|| bad(&format!("look up '{name}': it has no address")))
}
