//! The TLS probe: a handshake succeeds (rustls: TLS 1.2 and 1.3). HTTPS, HTTP/2 and gRPC probes begin with it.
//!
//! With TLS 1.3 a server refuses a client's certificate only after the client thinks it is done (RFC 8446 section
//! 4.4.2.4). So the probe says goodbye (close_notify) and reads until the server does the same: an alert is bad.

mod client;
#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "small numbers in tests")]
pub(crate) mod fixture;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

pub use self::client::Clients;
use super::peer::Peer;
use super::segments::Segments;
use super::tcp::{Closing, connect, deadline};
use super::verdict::{bad, expiring, failed, timed_out, void};
use crate::model::{ProbeVerdict, TlsCheck};

/// The most bytes that are read after the handshake.
const BYTES: usize = 64 * 1024;

/// Probes `target`.
pub async fn probe(
    target: impl Into<Peer>,
    check: &TlsCheck,
    clients: &Clients,
    timeout: Duration,
) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let target = target.into();
    let shaken = shake(target, check, &[], clients, deadline, timeout).await;
    let Shaken { stream, warning } = match shaken {
        Ok(shaken) => shaken,
        Err(verdict) => return verdict,
    };
    match timeout_at(deadline, goodbye(stream)).await {
        Ok(Err(error)) if rustls_error(&error).is_some() => refusal(&error),
        // A server that closes in another way, or not at all, has shaken hands.
        _ => with(ProbeVerdict::Good, warning),
    }
}

/// Says that nothing follows, and reads what the server still says.
async fn goodbye(mut stream: TlsStream<Segments>) -> io::Result<()> {
    stream.shutdown().await?;
    let mut buffer = [0; 1024];
    let mut left = BYTES;
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}

/// A connection after the handshake.
#[derive(Debug)]
pub(crate) struct Shaken {
    /// Encrypted.
    pub(crate) stream: TlsStream<Segments>,
    /// What is wrong with the certificate, though the handshake succeeded.
    pub(crate) warning: Option<String>,
}

/// Connects and shakes hands, or says why not. `protocols` are offered by ALPN (RFC 7301).
pub(crate) async fn shake(
    target: impl Into<Peer>,
    check: &TlsCheck,
    protocols: &'static [&'static str],
    clients: &Clients,
    deadline: Instant,
    timeout: Duration,
) -> Result<Shaken, ProbeVerdict> {
    let client = match timeout_at(deadline, clients.get(check, protocols)).await {
        Ok(Ok(client)) => client,
        Ok(Err(why)) => return Err(void(&format!("tls: {why}"))),
        Err(_) => return Err(void("tls: reading the files took longer than the timeout")),
    };
    let target = target.into();
    let name = match &check.server_name {
        None => ServerName::from(target.address.ip()),
        Some(name) => ServerName::try_from(name.clone())
            .map_err(|error| void(&format!("tls: server-name '{name}': {error}")))?,
    };
    let stream = connect(target, Closing::Orderly, deadline, timeout).await?;
    let handshake = TlsConnector::from(client).connect(name, stream);
    let stream = match timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(refusal(&error)),
        Err(_) => return Err(timed_out("tls", timeout)),
    };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let warning = certificate.and_then(|der| expiry(der, check.warn_before_expiry));
    Ok(Shaken { stream, warning })
}

/// A good verdict with the warning, any other as it is.
pub(super) fn with(verdict: ProbeVerdict, warning: Option<String>) -> ProbeVerdict {
    match (verdict, warning) {
        (ProbeVerdict::Good, Some(words)) => expiring(&words),
        (verdict, _) => verdict,
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The verdict when the handshake failed.
fn refusal(error: &io::Error) -> ProbeVerdict {
    match rustls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => bad(&format!(
            "tls: the target answered with the alert {alert:?}"
        )),
        Some(error) => bad(&format!("tls: {error}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            bad("tls: closed by the target during the handshake")
        }
        None => failed("tls", error),
    }
}

/// What is to be said about the end of a certificate's time.
fn expiry(der: &[u8], warn_before: Duration) -> Option<String> {
    // What rustls has accepted and cannot be read here is not worth a warning.
    let certificate = Certificate::from_der(der).ok()?;
    let end = certificate
        .tbs_certificate
        .validity
        .not_after
        .to_unix_duration();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    match end.checked_sub(now) {
        None => Some(format!(
            "the certificate expired {} ago",
            rounded(now.saturating_sub(end))
        )),
        Some(left) if left < warn_before => {
            Some(format!("the certificate expires in {}", rounded(left)))
        }
        Some(_) => None,
    }
}

/// In whole days, or hours, or seconds.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    let unit = [86_400, 3600]
        .into_iter()
        .find(|unit| seconds >= *unit)
        .unwrap_or(1);
    let whole = seconds.saturating_sub(seconds.checked_rem(unit).unwrap_or(0));
    humantime::format_duration(Duration::from_secs(whole)).to_string()
}

#[cfg(test)]
mod tests;
