//! What the kernel's network stack says about XDP on an interface (rtnetlink(7), `IFLA_XDP`).

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::error::BpfError;
use crate::model::AttachMode;

/// A program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XdpState {
    pub(crate) mode: AttachMode,
    pub(crate) program_id: u32,
}

/// The index of an interface; `None`: there is none of this name.
pub(crate) fn ifindex(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// True if no interface has this index.
pub(crate) fn is_gone(ifindex: u32) -> bool {
    // nix 0.31 takes the null pointer that says "none" for success, and an empty name for the answer.
    if_indextoname(ifindex).map_or(true, |name| name.is_empty())
}

/// The program that runs on an interface; `None`: there is none.
pub(crate) fn xdp_state(ifindex: u32) -> Result<Option<XdpState>, BpfError> {
    let link = query(ifindex).map_err(BpfError::system(format!(
        "ask the kernel about interface {ifindex}"
    )))?;
    Ok(link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => state(xdp),
            _ => None,
        }))
}

fn state(xdp: &[LinkXdp]) -> Option<XdpState> {
    let attached = xdp.iter().find_map(|x| match x {
        LinkXdp::Attached(attached) => Some(attached),
        _ => None,
    })?;
    let mode = match attached {
        XdpAttached::None => return None,
        XdpAttached::SocketBuffer => AttachMode::Generic,
        _ => AttachMode::Native,
    };
    let program_id = xdp.iter().find_map(|x| match x {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    Some(XdpState {
        mode,
        program_id: program_id.unwrap_or(0),
    })
}

/// An interface that stands on others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// That of a VLAN.
    Vlan {
        /// The name of what it is built on.
        lower: String,
    },
    /// A bond.
    Bond,
}

/// What kind of interface it is; `None`: of no kind that is known here.
pub(crate) fn kind(ifindex: u32) -> Option<Kind> {
    let link = query(ifindex).ok()?;
    let is = |wanted: &InfoKind| {
        link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(wanted.clone())),
            _ => false,
        })
    };
    if is(&InfoKind::Bond) {
        return Some(Kind::Bond);
    }
    let lower = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Link(lower) => Some(*lower),
            _ => None,
        });
    let lower = lower.and_then(|lower| if_indextoname(lower).ok());
    let lower = lower.and_then(|name| name.into_string().ok());
    is(&InfoKind::Vlan).then(|| Kind::Vlan {
        lower: lower.unwrap_or_else(|| "what it is built on".to_owned()),
    })
}

/// Why an interface may refuse native XDP, and what to do.
pub(super) fn advice(kind: Option<&Kind>) -> String {
    match kind {
        Some(Kind::Vlan { lower }) => format!(
            "it is the interface of a VLAN: name {lower} in its place, whose VLANs are served; see docs/vlan.md"
        ),
        Some(Kind::Bond) => "a bond has it where all that belong to it have it, in modes balance-rr, active-backup, \
             balance-xor and 802.3ad, and not with xmit_hash_policy vlan+srcmac"
            .to_owned(),
        None => "the driver may not support it or its MTU is too large for it; 'xdp-mode = \"generic\"' works everywhere but is slower"
            .to_owned(),
    }
}

fn query(ifindex: u32) -> io::Result<LinkMessage> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(
        header,
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)),
    );
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

    let (answer, _) = socket.recv_from_full()?;
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is not about a link",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_have_native_xdp_is_told_what_may() {
        let lower = "eth0.7".to_owned();
        let vlan = advice(Some(&Kind::Vlan { lower }));
        assert!(vlan.contains("name eth0.7 in its place"), "{vlan}");
        let bond = advice(Some(&Kind::Bond));
        for mode in ["balance-rr", "active-backup", "balance-xor", "802.3ad"] {
            assert!(bond.contains(mode), "{bond}");
        }
        let other = advice(None);
        assert!(
            other.contains("'xdp-mode = \"generic\"' works everywhere"),
            "{other}"
        );
    }
}
