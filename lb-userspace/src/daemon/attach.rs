//! What became of an attachment: told in the log, and shown in status.

use std::collections::BTreeMap;

use crate::dataplane::bpf::{Attached, AttachedHow, AttachmentState, Bpf, BpfError, strips_tags};
use crate::model::{AttachMode, XdpMode};
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

/// The VLANs on an interface, as netlink tells.
#[derive(Debug, Default)]
pub(super) struct Vlans {
    /// Names of their interfaces whose packets are looked at.
    pub(super) served: Vec<String>,
    /// Names of those whose packets are left to the kernel, though they are up.
    pub(super) left: Vec<String>,
    /// The cards that their frames come by: the interface itself, or what belongs to the bond.
    pub(super) cards: Vec<String>,
}

/// The attachments as status shows them. `vlans`: by the interface that they are on; `before`: as they were told last.
pub(super) fn report(
    bpf: &Bpf,
    mut vlans: BTreeMap<String, Vlans>,
    before: &[status::Attachment],
) -> Vec<status::Attachment> {
    let mut attachments = look(bpf);
    let native = attachments.iter().find(|a| a.mode == "native");
    let native = native.map(|a| a.interface.clone());
    for attachment in &mut attachments {
        let interface = &attachment.interface;
        let vlans = vlans.remove(interface).unwrap_or_default();
        // Who has no VLANs may strip what he likes.
        if attachment.ifindex != 0 && !(vlans.served.is_empty() && vlans.left.is_empty()) {
            attachment.trouble = trouble(attachment, &vlans);
        }
        if attachment.trouble.is_none() && attachment.mode == "generic" {
            attachment.trouble = native.as_deref().map(unlike);
        }
        let known = before.iter().find(|known| known.interface == *interface);
        if known.and_then(|known| known.trouble.as_ref()) != attachment.trouble.as_ref() {
            match &attachment.trouble {
                Some(trouble) => tracing::warn!(%interface, "{trouble}"),
                None => tracing::info!(%interface, "nothing is wrong with it any more"),
            }
        }
        attachment.vlans = vlans.served;
    }
    attachments
}

/// What is said of an interface in generic mode where another is in native mode.
fn unlike(native: &str) -> String {
    format!(
        "in generic mode while {native} is in native mode: what comes in by {native} cannot be sent by it, replies to its clients included (set xdp-mode = \"generic\", or have it take native mode)"
    )
}

fn trouble(attachment: &status::Attachment, vlans: &Vlans) -> Option<String> {
    if !vlans.left.is_empty() {
        return Some(format!(
            "packets of {} are left to the kernel: its index leads to the slot of another interface (make it anew)",
            vlans.left.join(", ")
        ));
    }
    let mut stripping = Vec::new();
    for card in &vlans.cards {
        match strips_tags(card) {
            Ok(features) => stripping.push((card.as_str(), features)),
            // A device that does not know the question has no such thing.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(error) => {
                return Some(format!(
                    "ask {card} whether it takes VLAN tags out of frames before a program sees them: {error} (`ethtool -k {card}` tells; rx-vlan-offload must be off)"
                ));
            }
        }
    }
    let is_bond = vlans.cards.iter().any(|card| *card != attachment.interface);
    taken_out(&stripping, is_bond && attachment.mode == "generic")
}

/// What is said where tags are taken out of frames: by cards, with the features that do it, or by the kernel, before a bond's program
/// in generic mode. (On a card that program comes first: `__netif_receive_skb_core` in Linux, net/core/dev.c.)
fn taken_out(cards: &[(&str, Vec<&str>)], generic_bond: bool) -> Option<String> {
    let at_fault = cards.iter().filter(|(_, features)| !features.is_empty());
    let cures: Vec<String> = at_fault
        .map(|(card, features)| {
            let off: Vec<String> = features.iter().map(|name| format!("{name} off")).collect();
            format!("ethtool -K {card} {}", off.join(" "))
        })
        .collect();
    if !cures.is_empty() {
        return Some(format!(
            "VLAN tags are taken out of frames before a program sees them: packets of its VLANs count as its own ({}; of a veth, the other end sends tags beside frames: there too, with txvlan off)",
            cures.join("; ")
        ));
    }
    generic_bond.then(|| {
        "VLAN tags are taken out of frames before a program in generic mode on a bond sees them: packets of its VLANs count as its own (xdp-mode = \"native\", or build the VLANs on a card)".to_owned()
    })
}

fn look(bpf: &Bpf) -> Vec<status::Attachment> {
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
            vlans: Vec::new(),
            trouble: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_tags_out_is_named_with_the_command_that_ends_it() {
        let (one, both) = (
            vec!["rx-vlan-hw-parse"],
            vec!["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"],
        );
        let cards = [("eth0", one), ("eth1", vec![]), ("eth2", both)];
        for generic_bond in [false, true] {
            let told = taken_out(&cards, generic_bond).unwrap();
            let cures = "(ethtool -K eth0 rx-vlan-hw-parse off; \
                 ethtool -K eth2 rx-vlan-hw-parse off rx-vlan-stag-hw-parse off; of a veth";
            assert!(told.contains(cures), "{told}");
        }
        let clean = [("eth1", vec![])];
        assert_eq!(taken_out(&clean, false), None);
        let told = taken_out(&clean, true).unwrap();
        assert!(
            told.contains("generic mode on a bond") && told.contains("xdp-mode = \"native\""),
            "{told}"
        );
    }

    #[test]
    fn vlans_that_are_left_to_the_kernel_are_named_with_the_cure() {
        let attachment = status::Attachment {
            interface: "eth0".to_owned(),
            ifindex: 2,
            mode: "native".to_owned(),
            state: "attached".to_owned(),
            vlans: Vec::new(),
            trouble: None,
        };
        let vlans = Vlans {
            left: vec!["eth0.100".to_owned(), "eth0.200".to_owned()],
            ..Vlans::default()
        };
        let told = trouble(&attachment, &vlans).unwrap();
        assert!(
            told.contains("packets of eth0.100, eth0.200 are left"),
            "{told}"
        );
        assert!(told.contains("make it anew"), "{told}");
    }
}
