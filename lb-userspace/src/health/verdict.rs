//! The words of a verdict: how an error or an answer becomes [`ProbeVerdict`], and whose fault it
//! is. Errors of our own host (descriptors, memory, ports, a local ban) are void: they say nothing
//! about the target. Error numbers: connect(2), socket(2), tcp(7).

use std::io;
use std::time::Duration;

use crate::model::ProbeVerdict;

/// The most bytes a reason has.
pub const REASON_BYTES: usize = 256;

/// Bad, in these words: control characters are escaped, the rest is verbatim, and what does not
/// fit into [`REASON_BYTES`] is cut.
pub fn bad(words: &str) -> ProbeVerdict {
    ProbeVerdict::Bad(bounded(words))
}

/// Good, with these words of warning, treated as in [`bad`].
pub fn warned(words: &str) -> ProbeVerdict {
    ProbeVerdict::Warned(bounded(words))
}

/// Good, with these words of what expires, treated as in [`bad`].
pub fn expiring(words: &str) -> ProbeVerdict {
    ProbeVerdict::Expiring(bounded(words))
}

/// Void, in these words, treated as in [`bad`].
pub fn void(words: &str) -> ProbeVerdict {
    ProbeVerdict::Void(bounded(words))
}

/// The verdict when `phase` did not end within `timeout`, which began with the probe.
pub fn timed_out(phase: &str, timeout: Duration) -> ProbeVerdict {
    bad(&format!(
        "{phase}: timed out after {} ms",
        timeout.as_millis()
    ))
}

/// The verdict when `phase` failed with `error`.
pub fn failed(phase: &str, error: &io::Error) -> ProbeVerdict {
    let words = format!("{phase}: {}", words_of(error));
    if is_ours(error) {
        void(&words)
    } else {
        bad(&words)
    }
}

/// True when the error is about this host, not about the target or the path to it. `EHOSTUNREACH`
/// and `ENETUNREACH` are the path's; a lost carrier is told by netlink, not from here.
fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EADDRNOTAVAIL
                | libc::EADDRINUSE
                | libc::EAFNOSUPPORT
                | libc::EACCES
                | libc::EPERM
                | libc::EINTR
                | libc::EINVAL
        )
    )
}

/// Short words for what people see often, the system's for the rest.
fn words_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "refused".into(),
        Some(libc::ECONNRESET) => "reset".into(),
        Some(libc::EPIPE) => "closed by the target".into(),
        Some(libc::ETIMEDOUT) => "no answer, the kernel gave up".into(),
        Some(libc::EHOSTUNREACH) => "host unreachable".into(),
        Some(libc::ENETUNREACH) => "network unreachable".into(),
        Some(libc::EMFILE) => "no file descriptor left in this process (raise LimitNOFILE)".into(),
        Some(libc::ENFILE) => "no file descriptor left on this host (raise fs.file-max)".into(),
        Some(libc::EADDRNOTAVAIL) => {
            "no local address or port left (widen net.ipv4.ip_local_port_range)".into()
        }
        Some(libc::EACCES | libc::EPERM) => "forbidden on this host (look at its firewall)".into(),
        _ => error.to_string(),
    }
}

/// `words` with control characters escaped, at most [`REASON_BYTES`] long.
pub fn bounded(words: &str) -> String {
    let mut text = String::new();
    for c in words.chars() {
        let before = text.len();
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
        if text.len() > REASON_BYTES {
            text.truncate(before);
            break;
        }
    }
    text
}
