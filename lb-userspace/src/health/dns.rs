//! The DNS probe (RFC 1035): one query; good when its answer has the expected code and, if that is `NOERROR`, a record
//! of the type that was asked for (and the expected address among them). Over UDP an answer has no more than fits
//! without EDNS or is truncated, over TCP at most 64 KiB.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::peer::Peer;
use super::tcp::{Closing, connect, deadline};
use super::udp;
use super::verdict::{bad, failed, timed_out, void};
use crate::model::{DnsCheck, DnsRcode, DnsType, ProbeVerdict};

/// The most bytes of an answer over UDP without EDNS (section 4.2.1), and room to see that it is longer.
const DATAGRAM: usize = 4096;

/// Probes `target`.
pub async fn probe(target: impl Into<Peer>, check: &DnsCheck, timeout: Duration) -> ProbeVerdict {
    let deadline = deadline(timeout);
    let target = target.into();
    let (query, bytes) = match query(check) {
        Ok(both) => both,
        Err(verdict) => return verdict,
    };
    let exchanged = match check.tcp {
        false => datagram(target, &query, &bytes, deadline, timeout).await,
        true => stream(target, &query, &bytes, deadline, timeout).await,
    };
    match exchanged {
        Ok(answer) => judge(&answer, check),
        Err(verdict) => verdict,
    }
}

/// What is asked and its bytes, unless it cannot be.
pub(super) fn query(check: &DnsCheck) -> Result<(Message, Vec<u8>), ProbeVerdict> {
    written(check).map_err(|error| void(&format!("query: {error} (correct the service's check)")))
}

fn written(check: &DnsCheck) -> Result<(Message, Vec<u8>), hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(&check.name)?;
    name.set_fqdn(true);
    // The number is random.
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type(check.kind)));
    let bytes = message.to_vec()?;
    Ok((message, bytes))
}

async fn datagram(
    target: Peer,
    query: &Message,
    bytes: &[u8],
    deadline: Instant,
    timeout: Duration,
) -> Result<Message, ProbeVerdict> {
    let socket = udp::connected(target)
        .await
        .map_err(|error| failed("socket", &error))?;
    socket
        .send(bytes)
        .await
        .map_err(|error| udp::refused("send", &error))?;
    let mut buffer = [0; DATAGRAM];
    let read = match timeout_at(deadline, socket.recv(&mut buffer)).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return Err(udp::refused("answer", &error)),
        Err(_) => return Err(timed_out("answer", timeout)),
    };
    understood(query, buffer.get(..read).unwrap_or_default())
}

/// Over TCP each message has its length before it (section 4.2.2).
async fn stream(
    target: Peer,
    query: &Message,
    bytes: &[u8],
    deadline: Instant,
    timeout: Duration,
) -> Result<Message, ProbeVerdict> {
    let mut stream = connect(target, Closing::Orderly, deadline, timeout).await?;
    let mut framed = u16::try_from(bytes.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
        .to_vec();
    framed.extend(bytes);
    let exchange = async {
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout_at(deadline, exchange).await {
        Ok(Ok(answer)) => understood(query, &answer),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(bad("answer: closed by the target before the end"))
        }
        Ok(Err(error)) => Err(failed("answer", &error)),
        Err(_) => Err(timed_out("answer", timeout)),
    }
}

/// The answer to this very query.
pub(super) fn understood(query: &Message, bytes: &[u8]) -> Result<Message, ProbeVerdict> {
    let answer = Message::from_vec(bytes)
        .map_err(|error| bad(&format!("answer: not a DNS message: {error}")))?;
    let head = &answer.metadata;
    // A server that understands nothing need not repeat the question.
    let same = answer.queries == query.queries || answer.queries.is_empty();
    if head.id != query.metadata.id || head.message_type != MessageType::Response || !same {
        return Err(bad("answer: to another query"));
    }
    Ok(answer)
}

/// What it is worth.
pub(super) fn judge(answer: &Message, check: &DnsCheck) -> ProbeVerdict {
    let (code, expected) = (
        u16::from(answer.metadata.response_code),
        number(check.rcode),
    );
    if code != expected {
        return bad(&format!(
            "rcode {}, expected {}",
            mnemonic(code),
            mnemonic(expected)
        ));
    }
    if check.rcode != DnsRcode::NoError {
        return ProbeVerdict::Good;
    }
    let kind = record_type(check.kind);
    let records = answer.answers.iter().filter(|r| r.record_type() == kind);
    let found: Vec<&RData> = records.map(|record| &record.data).collect();
    let cut = match answer.metadata.truncation {
        true => " (the answer is truncated; `transport = \"tcp\"` gets all of it)",
        false => "",
    };
    if found.is_empty() {
        // A truncated answer may have no record at all, and still proves that there are some.
        return match answer.metadata.truncation && check.address.is_none() {
            true => ProbeVerdict::Good,
            false => bad(&format!("answer has no {kind} record{cut}")),
        };
    }
    let Some(wanted) = check.address else {
        return ProbeVerdict::Good;
    };
    if found.iter().any(|data| address(data) == Some(wanted)) {
        return ProbeVerdict::Good;
    }
    let shown: Vec<String> = found.iter().take(8).map(|data| data.to_string()).collect();
    bad(&format!(
        "answer is {}, expected {wanted}{cut}",
        shown.join(", ")
    ))
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(a.0.into()),
        RData::AAAA(aaaa) => Some(aaaa.0.into()),
        _ => None,
    }
}

fn record_type(kind: DnsType) -> RecordType {
    match kind {
        DnsType::A => RecordType::A,
        DnsType::Aaaa => RecordType::AAAA,
        DnsType::Ns => RecordType::NS,
        DnsType::Soa => RecordType::SOA,
        DnsType::Txt => RecordType::TXT,
        DnsType::Srv => RecordType::SRV,
    }
}

fn number(rcode: DnsRcode) -> u16 {
    match rcode {
        DnsRcode::NoError => 0,
        DnsRcode::FormErr => 1,
        DnsRcode::ServFail => 2,
        DnsRcode::NxDomain => 3,
        DnsRcode::NotImp => 4,
        DnsRcode::Refused => 5,
    }
}

/// The word of the IANA registry, or the number.
fn mnemonic(code: u16) -> String {
    let words = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
    ];
    match words.get(usize::from(code)) {
        Some(word) => (*word).to_owned(),
        None => code.to_string(),
    }
}

#[cfg(test)]
mod tests;
