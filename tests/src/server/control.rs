//! Asks a server something from inside its own namespace: a minimal HTTP/1.1 client (RFC 9112).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::HTTP_PORT;
use crate::topology::Namespace;

/// The body of the answer; an error unless its status is 200.
pub(super) fn ask(namespace: &Namespace, method: &str, path: &str, body: &str) -> Result<String> {
    namespace.run(|| {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))
            .with_context(|| format!("connect to {server}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .context("read the answer")?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("an answer without an end")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!(
                "{method} {path}: {}",
                head.lines().next().unwrap_or_default()
            );
        }
        Ok(body.to_owned())
    })
}
