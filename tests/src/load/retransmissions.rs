//! TCP segments that a host sent again, from its SNMP counters (RFC 4022, tcpRetransSegs).

use std::fs;

use anyhow::{Context, Result};

use crate::topology::Namespace;

/// `TcpRetransSegs` of a namespace.
pub fn retransmissions(namespace: &Namespace) -> Result<u64> {
    // /proc/net is that of the process's first thread.
    let text = namespace
        .run(|| fs::read_to_string("/proc/thread-self/net/snmp"))
        .context("read /proc/thread-self/net/snmp")?;
    parse(&text).context("no tcpRetransSegs in /proc/thread-self/net/snmp")
}

/// The file has two lines for each protocol: names, then values.
fn parse(text: &str) -> Option<u64> {
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next()?, tcp.next()?);
    let mut fields = names.split(' ').zip(values.split(' '));
    fields
        .find(|(name, _)| *name == "RetransSegs")?
        .1
        .parse()
        .ok()
}
