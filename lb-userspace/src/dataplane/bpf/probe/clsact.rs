//! The qdisc `clsact` (tc(8)), which holds filters on both ends of an interface's stack where links cannot.
//!
//! Whether it was made for us or found cannot be told after a kill. So it is taken away when our filters were on it and no
//! filter is left: whoever else needs it has one there.

use std::io;

use aya::programs::TcAttachType;
use aya::programs::tc::{self, TcError};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::super::error::BpfError;
use super::super::netdev;

/// Makes it, if there is none.
pub(super) fn add(interface: &str) -> Result<(), BpfError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(()),
        // Also what another one made: they are all alike.
        Err(_) if is_there(interface)? => Ok(()),
        Err(error) => Err(failed("add the qdisc clsact", interface, error)),
    }
}

/// Takes our filters away; false: there was none.
pub(super) fn remove_filters(
    interface: &str,
    programs: &[(TcAttachType, &str)],
) -> Result<bool, BpfError> {
    if !is_there(interface)? {
        return Ok(false);
    }
    let mut any = false;
    for (end, name) in programs {
        match tc::qdisc_detach_program(interface, *end, name) {
            Ok(()) => any = true,
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("take filters away", interface, error)),
        }
    }
    Ok(any)
}

/// Takes it away unless it holds a filter.
pub(super) fn remove_if_empty(interface: &str) -> Result<(), BpfError> {
    let Some(ifindex) = netdev::ifindex(interface) else {
        return Ok(());
    };
    let ends = [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS];
    for minor in ends {
        let mut ask = message(ifindex);
        ask.header.parent = TcHandle {
            major: TcHandle::CLSACT.major,
            minor,
        };
        let ask = RouteNetlinkMessage::GetTrafficFilter(ask);
        let filters = request(ask, NLM_F_REQUEST | NLM_F_DUMP)
            .map_err(BpfError::system(format!("list filters of {interface}")))?;
        let held = |m: &RouteNetlinkMessage| matches!(m, RouteNetlinkMessage::NewTrafficFilter(_));
        if filters.iter().any(held) {
            return Ok(());
        }
    }
    let mut delete = message(ifindex);
    delete.header.parent = TcHandle::CLSACT;
    delete.header.handle = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: 0,
    };
    let delete = RouteNetlinkMessage::DelQueueDiscipline(delete);
    request(delete, NLM_F_REQUEST | NLM_F_ACK)
        .map(drop)
        .map_err(BpfError::system(format!(
            "take the qdisc clsact off {interface}"
        )))
}

/// Is it on the interface?
fn is_there(interface: &str) -> Result<bool, BpfError> {
    let Some(ifindex) = netdev::ifindex(interface) else {
        return Ok(false);
    };
    let ask = RouteNetlinkMessage::GetQueueDiscipline(message(ifindex));
    let all = request(ask, NLM_F_REQUEST | NLM_F_DUMP)
        .map_err(BpfError::system(format!("list qdiscs of {interface}")))?;
    let ours = i32::try_from(ifindex).unwrap_or(0);
    Ok(all.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) => {
            qdisc.header.index == ours && qdisc.header.parent == TcHandle::CLSACT
        }
        _ => false,
    }))
}

fn message(ifindex: u32) -> TcMessage {
    TcMessage::with_index(i32::try_from(ifindex).unwrap_or(0))
}

fn failed(what: &str, interface: &str, error: TcError) -> BpfError {
    BpfError::system(format!("{what} on {interface}"))(io::Error::other(error))
}

/// All answers to a request.
fn request(ask: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(ask));
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX);
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(answers),
                        Some(_) => Err(error.to_io()),
                    };
                }
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
            let aligned = length.next_multiple_of(4).min(rest.len());
            rest = rest.get(aligned..).unwrap_or_default();
            if aligned == 0 {
                break;
            }
        }
    }
}
