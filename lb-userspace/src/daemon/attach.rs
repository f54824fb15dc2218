//! Keeps every configured interface running the program.

use crate::dataplane::bpf::{AttachMode, Attached, AttachedHow, AttachmentState, Bpf};
use crate::model::{DaemonConfig, XdpMode};
use crate::status;

/// Attaches to all interfaces of a configuration and leaves those that are not in it any more. One that
/// fails is told and tried again by netlink events and ticks; it does not keep the others waiting.
pub(super) fn all(bpf: &mut Bpf, daemon: &DaemonConfig) {
    for interface in &daemon.interfaces {
        tell(
            interface,
            daemon.xdp_mode,
            bpf.attach(interface, daemon.xdp_mode),
        );
    }
    match bpf.pinned_interfaces() {
        Ok(pinned) => {
            for interface in pinned.iter().filter(|i| !daemon.interfaces.contains(i)) {
                match bpf.detach(interface) {
                    Ok(()) => tracing::info!(%interface, "detached: not in the configuration"),
                    Err(error) => tracing::error!(%interface, %error, "detach"),
                }
            }
        }
        Err(error) => tracing::error!(%error, "list pinned links"),
    }
}

/// Attaches one again if it lost the program.
pub(super) fn again(bpf: &mut Bpf, interface: &str, mode: XdpMode) {
    match bpf.reattach(interface) {
        Ok(None) => {}
        Ok(Some(attached)) if attached.how == AttachedHow::Kept => {}
        Ok(Some(attached)) => tell(interface, mode, Ok(attached)),
        Err(error) => tell(interface, mode, Err(error)),
    }
}

fn tell(
    interface: &str,
    wanted: XdpMode,
    outcome: Result<Attached, crate::dataplane::bpf::BpfError>,
) {
    match outcome {
        Ok(attached) => {
            let (ifindex, how) = (attached.ifindex, attached.how);
            if let Some(refused) = &attached.native_refused {
                tracing::warn!(%interface, %refused, "native XDP refused: running in GENERIC mode, which is slow");
            } else if attached.mode == AttachMode::Native && wanted == XdpMode::Generic {
                tracing::warn!(%interface, "still in native mode: a pinned link keeps its mode; 'fairlead unload' and a start change it");
            } else if attached.mode == AttachMode::Generic && wanted != XdpMode::Generic {
                tracing::warn!(%interface, "running in GENERIC mode, which is slow");
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
