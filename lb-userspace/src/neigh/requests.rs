//! Requests to the kernel over rtnetlink(7).
//!
//! A request is answered before `sendto` returns (the kernel works on it in the caller's context),
//! so [`Requests`] never waits.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::netlink::{DATAGRAM, NetlinkError, hint, prepare, receive};
use super::notice::{Message, Notice, read};
use super::{Answer, Hop, InterfaceAddress, LinkState, Neighbour, Solicit, host_prefix};

/// Requests in one `sendto`: their answers fit the smallest receive buffer the kernel gives.
pub const BATCH: usize = 32;

/// A socket for requests.
#[derive(Debug)]
pub struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        prepare(&mut socket, &[])?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<LinkState>, NetlinkError> {
        let all = self.dump(
            "list links",
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
        )?;
        Ok(all
            .into_iter()
            .filter_map(|n| {
                if let Notice::Link(l) = n {
                    Some(l)
                } else {
                    None
                }
            })
            .collect())
    }

    /// All neighbour entries of both families.
    pub fn neighbours(&mut self) -> Result<Vec<(Hop, Neighbour)>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let all = self.dump("list neighbours", ask)?;
        Ok(all
            .into_iter()
            .filter_map(|n| {
                if let Notice::Neighbour(h, s) = n {
                    Some((h, s))
                } else {
                    None
                }
            })
            .collect())
    }

    /// All addresses of all interfaces, and whether each is tentative.
    pub fn addresses(&mut self) -> Result<Vec<(InterfaceAddress, bool)>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let all = self.dump("list addresses", ask)?;
        Ok(all
            .into_iter()
            .filter_map(|n| {
                if let Notice::Address { at, tentative } = n {
                    Some((at, tentative))
                } else {
                    None
                }
            })
            .collect())
    }

    /// The ways to at most [`BATCH`] addresses.
    pub fn ways(&mut self, addresses: &[IpAddr]) -> Result<Vec<Answer>, NetlinkError> {
        let asks = addresses.iter().map(|&to| {
            let mut message = RouteMessage::default();
            message.header.address_family = family(to);
            message.header.destination_prefix_length = host_prefix(to);
            message
                .attributes
                .push(RouteAttribute::Destination(to.into()));
            (RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST)
        });
        let answers = self.exchange(asks.collect())?;
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Ok(Some(Notice::Route { answer, .. })) => answer,
                Ok(_) => Answer::None("the kernel named no route".to_owned()),
                Err(e) => Answer::None(format!("no route: {}", io::Error::from_raw_os_error(e))),
            })
            .collect())
    }

    /// Solicits at most [`BATCH`] neighbours: `None`: done, or why the kernel refused.
    pub fn solicit(&mut self, list: &[Solicit]) -> Result<Vec<Option<String>>, NetlinkError> {
        let ended = list.iter().filter(|s| s.restart).map(|s| {
            let message = neighbour_message(s.hop);
            let flags = NLM_F_REQUEST | NLM_F_ACK;
            (RouteNetlinkMessage::DelNeighbour(message), flags)
        });
        // An entry that is not there need not be ended.
        self.exchange(ended.collect())?;
        let asks = list.iter().map(|Solicit { hop, managed, .. }| {
            let mut message = neighbour_message(*hop);
            message.header.flags = NeighbourFlags::Use;
            // Releasing makes no entry where there is none.
            let mut flags = NLM_F_REQUEST | NLM_F_ACK;
            if *managed {
                flags |= NLM_F_CREATE | NLM_F_REPLACE;
                message
                    .attributes
                    .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            }
            (RouteNetlinkMessage::NewNeighbour(message), flags)
        });
        let answers = self.exchange(asks.collect())?;
        Ok(answers
            .into_iter()
            .map(|answer| {
                answer.err().map(|e| {
                    let source = io::Error::from_raw_os_error(e);
                    format!("{source}{}", hint(&source))
                })
            })
            .collect())
    }

    /// Adds an address to an interface, without duplicate address detection.
    pub fn add_address(&mut self, address: InterfaceAddress) -> Result<(), NetlinkError> {
        let InterfaceAddress {
            ifindex,
            address: ip,
            prefix,
        } = address;
        let ask = RouteNetlinkMessage::NewAddress(address_message(address));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.one(
            format!("add {ip}/{prefix} to interface {ifindex}"),
            ask,
            flags,
        )
    }

    /// Takes an address from an interface.
    pub fn remove_address(&mut self, address: InterfaceAddress) -> Result<(), NetlinkError> {
        let InterfaceAddress {
            ifindex,
            address: ip,
            prefix,
        } = address;
        let ask = RouteNetlinkMessage::DelAddress(address_message(address));
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.one(
            format!("remove {ip}/{prefix} from interface {ifindex}"),
            ask,
            flags,
        )
    }

    fn one(
        &mut self,
        request: String,
        ask: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        for answer in self.exchange(vec![(ask, flags)])? {
            answer.map_err(|e| NetlinkError::Refused {
                request: request.clone(),
                source: io::Error::from_raw_os_error(e),
            })?;
        }
        Ok(())
    }

    /// Sends requests together; per request its answer, or an error number.
    fn exchange(
        &mut self,
        asks: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<Result<Option<Notice>, i32>>, NetlinkError> {
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let count = asks.len();
        self.send(asks)?;
        let mut answers = Vec::new();
        answers.resize_with(count, || None);
        while answers.iter().any(Option::is_none) {
            for (sequence, _, message) in self.receive()? {
                let place = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if let Some(place) = answers.get_mut(place) {
                    *place = Some(match message {
                        Message::Notice(notice) => Ok(Some(notice)),
                        Message::Error(0) | Message::Done | Message::Other => Ok(None),
                        Message::Error(code) => Err(code),
                    });
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// A list. One that changed while it was read is read again.
    fn dump(&mut self, what: &str, ask: RouteNetlinkMessage) -> Result<Vec<Notice>, NetlinkError> {
        let refused = |code| NetlinkError::Refused {
            request: what.to_owned(),
            source: io::Error::from_raw_os_error(code),
        };
        for _ in 0..16 {
            self.send(vec![(ask.clone(), NLM_F_REQUEST | NLM_F_DUMP)])?;
            let mut all = Vec::new();
            let mut torn = false;
            'more: loop {
                for (sequence, flags, message) in self.receive()? {
                    if sequence != self.sequence {
                        continue;
                    }
                    torn |= flags & NLM_F_DUMP_INTR != 0;
                    match message {
                        Message::Notice(notice) => all.push(notice),
                        Message::Other | Message::Error(0) => {}
                        Message::Done => break 'more,
                        Message::Error(code) => return Err(refused(code)),
                    }
                }
            }
            if !torn {
                return Ok(all);
            }
        }
        Err(refused(libc::EINTR))
    }

    fn send(&mut self, asks: Vec<(RouteNetlinkMessage, u16)>) -> Result<(), NetlinkError> {
        let mut bytes = Vec::new();
        for (ask, flags) in asks {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::from(ask));
            message.finalize();
            let start = bytes.len();
            let end = start.saturating_add(message.buffer_len());
            bytes.resize(end.next_multiple_of(4), 0);
            message.serialize(bytes.get_mut(start..end).unwrap_or_default());
        }
        self.socket
            .send(&bytes, 0)
            .map(drop)
            .map_err(|source| NetlinkError::Socket {
                call: "send",
                source,
            })
    }

    fn receive(&mut self) -> Result<Vec<(u32, u16, Message)>, NetlinkError> {
        let bytes =
            receive(&self.socket, &mut self.buffer).map_err(|source| NetlinkError::Socket {
                call: "recv",
                source,
            })?;
        Ok(read(bytes)?)
    }
}

fn address_message(address: InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.address);
    message.header.prefix_len = address.prefix;
    message.header.index = address.ifindex;
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
        AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
    ];
    message
}

fn neighbour_message((ifindex, address): Hop) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    let destination = NeighbourAttribute::Destination(address.into());
    message.attributes.push(destination);
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
