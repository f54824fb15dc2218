//! What became of an attachment: told in the log, and shown in status.

use crate::dataplane::bpf::{AttachMode, Attached, AttachedHow, AttachmentState, Bpf, BpfError};
use crate::model::XdpMode;
use crate::status;

/// Attaches one again if it lost the program.
pub(super) fn again(bpf: &mut Bpf, interface: &str, mode: XdpMode) {
    match bpf.reattach(interface) {
        Ok(None) => {}
        Ok(Some(attached)) if attached.how == AttachedHow::Kept => {}
        Ok(Some(attached)) => tell(interface, mode, Ok(attached)),
        Err(error) => tell(interface, mode, Err(error)),
    }
}

/// Tells how an attachment went. One that failed is tried again by netlink events and ticks.
pub(super) fn tell(interface: &str, wanted: XdpMode, outcome: Result<Attached, BpfError>) {
    match outcome {
        Ok(attached) => {
            let (ifindex, how) = (attached.ifindex, attached.how);
            if let Some(refused) = &attached.native_refused {
                tracing::warn!(%interface, %refused, "native XDP refused: running in GENERIC mode, which is slow");
            } else if attached.mode == AttachMode::Generic && wanted != XdpMode::Generic {
                tracing::warn!(%interface, "running in GENERIC mode, which is slow");
            }
            if let Some(gap) = attached.gap {
                tracing::warn!(%interface, ?gap, "mode changed: packets passed by the program for this long");
            }
            tracing::info!(%interface, ifindex, ?how, mode = ?attached.mode, "attached");
        }
        Err(error) => tracing::error!(%interface, "attach: {error}"),
    }
}

/// The attachments as status shows them.
pub(super) fn report(bpf: &Bpf) -> Vec<status::Attachment> {
    let attachments = match bpf.attachments() {
        Ok(attachments) => attachments,
        Err(error) => {
            tracing::error!(%error, "look at the attachments");
            return Vec::new();
        }
    };
    attachments
        .into_iter()
        .map(|a| status::Attachment {
            interface: a.interface,
            ifindex: a.ifindex.unwrap_or(0),
            mode: match a.mode {
                Some(AttachMode::Native) => "native".to_owned(),
                Some(AttachMode::Generic) => "generic".to_owned(),
                None => "none".to_owned(),
            },
            state: match a.state {
                AttachmentState::Attached => "attached".to_owned(),
                AttachmentState::Defunct => {
                    "defunct: the device was made again or renamed".to_owned()
                }
                AttachmentState::Missing => "missing: no such interface".to_owned(),
            },
        })
        .collect()
}
