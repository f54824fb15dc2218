//! Random frames to a backend: tunnels that a balancer may have sent, with anything else about them that a stranger can
//! think of.

mod lies;

use std::net::IpAddr;

use crate::generate::Choices;

pub use lies::Lie;

/// The UDP port of `gue` in these frames.
pub const GUE_PORT: u16 = 6_180;

/// Addresses of a family, as bytes.
struct Side {
    balancers: Vec<Vec<u8>>,
    strangers: Vec<Vec<u8>>,
    own: Vec<Vec<u8>>,
    vips: Vec<Vec<u8>>,
    beside: Vec<Vec<u8>>,
    clients: Vec<Vec<u8>>,
    martians: Vec<Vec<u8>>,
}

fn all(texts: &[&str]) -> Vec<Vec<u8>> {
    let octets = |text: &&str| match text.parse().expect("an address") {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    texts.iter().map(octets).collect()
}

/// What stands around the inner packet, besides an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrap {
    Plain,
    Direct,
    Header,
}

/// An IP header and what it leaves open.
#[derive(Clone, Debug)]
struct Header {
    source: Vec<u8>,
    destination: Vec<u8>,
    class: u8,
    ttl: u8,
    /// IPv4: the word of flags and offset.
    frags: u16,
    /// IPv4: words of options, which mean nothing.
    options: u8,
    /// IPv6: an extension header, its number first; its own first byte names what follows.
    extension: Option<(u8, Vec<u8>)>,
    /// Added to the length that it should say.
    longer: i16,
    /// Its version in place of the right one.
    version: Option<u8>,
    /// IPv4: added to its checksum.
    wrong: u16,
}

/// A frame before it is bytes.
#[derive(Clone, Debug)]
struct Plan {
    tags: Vec<u8>,
    outer: Header,
    wrap: Wrap,
    gue: [u8; 4],
    port: u16,
    /// Added to the length that the datagram should say.
    longer: i16,
    inner: Header,
    protocol: u8,
    payload: Vec<u8>,
    padding: usize,
    /// Bytes that are missing at the end.
    cut: usize,
}

/// Makes frames of numbers: the same in every run.
pub struct Frames {
    sides: [Side; 2],
}

impl Header {
    fn is_v4(&self) -> bool {
        self.source.len() == 4
    }

    /// The packet with this header around these bytes.
    fn around(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = |bytes: usize| {
            (bytes as u16)
                .wrapping_add_signed(self.longer)
                .to_be_bytes()
        };
        if !self.is_v4() {
            let version = self.version.unwrap_or(6) << 4;
            let (first, extension) = match &self.extension {
                None => (protocol, Vec::new()),
                Some((number, bytes)) => (*number, [&[protocol][..], &bytes[1..]].concat()),
            };
            let mut packet = vec![version | self.class >> 4, self.class << 4, 0, 0];
            packet.extend(length(extension.len() + payload.len()));
            packet.extend([first, self.ttl]);
            return [
                &packet,
                &self.source[..],
                &self.destination,
                &extension,
                payload,
            ]
            .concat();
        }
        let words = 5 + self.options;
        let mut packet = vec![self.version.unwrap_or(4) << 4 | words, self.class];
        packet.extend(length(usize::from(words) * 4 + payload.len()));
        packet.extend([0x12, 0x34]);
        packet.extend(self.frags.to_be_bytes());
        packet.extend([self.ttl, protocol, 0, 0]);
        packet.extend(&self.source);
        packet.extend(&self.destination);
        packet.resize(usize::from(words) * 4, 1);
        set_sum(&mut packet, self.wrong);
        packet.extend(payload);
        packet
    }
}

/// Gives an IPv4 header its checksum, off by `wrong`.
fn set_sum(header: &mut [u8], wrong: u16) {
    header[10..12].fill(0);
    let words = header.chunks_exact(2);
    let sum = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum::<u32>();
    let sum = !((sum % 65_535) as u16);
    header[10..12].copy_from_slice(&sum.wrapping_add(wrong).to_be_bytes());
}

impl Plan {
    fn bytes(&self) -> Vec<u8> {
        let inside = self.inner.around(self.protocol, &self.payload);
        let number = if self.inner.is_v4() { 4 } else { 41 };
        let (protocol, carried) = match self.wrap {
            Wrap::Plain => (number, inside),
            wrap => {
                let gue = match wrap {
                    Wrap::Header => &self.gue[..],
                    _ => &[],
                };
                let length = (8 + gue.len() + inside.len()) as u16;
                let mut datagram = vec![0xc0, 1];
                datagram.extend(self.port.to_be_bytes());
                datagram.extend(length.wrapping_add_signed(self.longer).to_be_bytes());
                datagram.extend([0, 0]);
                (17, [&datagram, gue, &inside].concat())
            }
        };
        let ether_type: [u8; 2] = match self.outer.is_v4() {
            true => [8, 0],
            false => [0x86, 0xdd],
        };
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
        frame.extend(&self.tags);
        frame.extend(ether_type);
        frame.extend(self.outer.around(protocol, &carried));
        frame.truncate(frame.len() - self.cut);
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}

impl Default for Frames {
    fn default() -> Self {
        let four = Side {
            balancers: all(&["10.9.0.0", "10.9.0.77", "10.9.0.255", "172.20.0.5"]),
            strangers: all(&[
                "10.9.1.0",
                "10.8.255.255",
                "172.20.0.4",
                "198.51.100.1",
                "10.10.1.1",
            ]),
            own: all(&["10.10.1.1", "10.10.1.9"]),
            vips: all(&["10.10.0.100", "203.0.113.0", "203.0.113.255"]),
            beside: all(&["10.10.0.101", "203.0.114.0", "10.10.1.1", "8.8.8.8"]),
            clients: all(&["198.51.100.7", "192.0.2.200", "100.64.0.1"]),
            martians: all(&[
                "127.0.0.1",
                "224.0.0.1",
                "239.255.255.255",
                "0.0.0.0",
                "255.255.255.255",
            ]),
        };
        let six = Side {
            balancers: all(&["fd00:9::", "fd00:9::beef", "fd00:9::ffff"]),
            strangers: all(&[
                "fd00:9::1:0",
                "fd00:8::beef",
                "::ffff:10.9.0.77",
                "2001:db8::1",
            ]),
            own: all(&["fd00:10:1::1", "fe80::1"]),
            vips: all(&[
                "fd00:10::100",
                "2001:db8:70::",
                "2001:db8:70::ffff:ffff:ffff:ffff",
            ]),
            beside: all(&[
                "fd00:10::101",
                "2001:db8:71::",
                "fe80::1",
                "::ffff:10.10.0.100",
            ]),
            clients: all(&["2001:db8:7::7", "2001:db8:8::1", "fe80::7"]),
            martians: all(&["::", "::1", "ff02::1", "::ffff:198.51.100.7"]),
        };
        Self { sides: [four, six] }
    }
}

/// Tags, mostly none.
fn tags(choices: &mut Choices<'_>) -> Vec<u8> {
    let outermost = *choices.of(&[[0x81, 0], [0x81, 0], [0x88, 0xa8]]);
    let mut tag = |[a, b]: [u8; 2]| [a, b, choices.byte(), choices.byte()];
    let (one, two, three) = (tag(outermost), tag([0x81, 0]), tag([0x81, 0]));
    match choices.below(8) {
        0 | 1 => one.to_vec(),
        2 => [one, two].concat(),
        3 => vec![0x81, 0, one[2] & 0xe0, 0],
        // Behind more than two, of which one names no VLAN.
        4 if outermost == [0x88, 0xa8] => {
            let none = [0x81, 0, three[2] & 0xe0, 0];
            match three[3] & 1 {
                0 => [one, none, three].concat(),
                _ => [one, two, none].concat(),
            }
        }
        _ => Vec::new(),
    }
}

impl Frames {
    fn side(&self, is_v4: bool) -> &Side {
        &self.sides[usize::from(!is_v4)]
    }

    /// A tunnel that a balancer may have sent, if nobody changes it.
    fn honest(&self, choices: &mut Choices<'_>) -> Plan {
        let (inside, outside) = (choices.one_in(2), choices.one_in(2));
        let header = |choices: &mut Choices<'_>, from: &[Vec<u8>], to: &[Vec<u8>]| Header {
            source: choices.of(from).clone(),
            destination: choices.of(to).clone(),
            class: choices.byte(),
            ttl: *choices.of(&[2, 64, 255]),
            frags: 0x4000,
            options: 0,
            extension: None,
            longer: 0,
            version: None,
            wrong: 0,
        };
        let side = self.side(outside);
        let mut outer = header(choices, &side.balancers, &side.own);
        let side = self.side(inside);
        let mut inner = header(choices, &side.clients, &side.vips);
        // A router marks only who knows of marks.
        if inner.class & 3 == 0 && outer.class & 3 == 3 {
            outer.class &= !3;
        }
        let wrap = *choices.of(&[Wrap::Plain, Wrap::Direct, Wrap::Header]);
        let protocol = *choices.of(&[6, 6, 17, 17, 1, 58, 132, 50]);
        let length = 8 + choices.below(40);
        let mut payload: Vec<u8> = (0..length).map(|_| choices.byte()).collect();
        // No port of `gue`.
        payload[2] |= 0x80;
        match (choices.below(8), inside) {
            (0, true) => inner.frags = *choices.of(&[0x2000, 0x2001, 185]),
            (0, false) => {
                let of = *choices.of(&[6, 17, 58, 132, 50]);
                let place = *choices.of(&[[0, 1], [0, 9], [5, 0xc0]]);
                payload.splice(0..0, [of, 0, place[0], place[1], 0, 0, 0, 7]);
            }
            _ => {}
        }
        let is_piece = payload.len() > length;
        Plan {
            tags: tags(choices),
            outer,
            wrap,
            gue: [0, if inside { 4 } else { 41 }, 0, 0],
            port: GUE_PORT,
            longer: 0,
            inner,
            protocol: if is_piece { 44 } else { protocol },
            payload,
            padding: if choices.one_in(8) {
                choices.below(20)
            } else {
                0
            },
            cut: 0,
        }
    }

    /// A tunnel about which one thing is forged, and what that is.
    pub fn forged(&self, number: u64) -> (Lie, Vec<u8>) {
        let choices = &mut Choices::numbered(number);
        let mut plan = self.honest(choices);
        let lie = self.lie(choices, &mut plan);
        (lie, plan.bytes())
    }

    /// Anything: a tunnel, mostly with a few things forged or bytes changed.
    pub fn any(&self, number: u64) -> Vec<u8> {
        let choices = &mut Choices::numbered(number);
        let mut plan = self.honest(choices);
        for _ in 0..*choices.of(&[0, 0, 1, 2]) {
            self.lie(choices, &mut plan);
        }
        let mut frame = plan.bytes();
        match choices.below(4) {
            0 => mutate(choices, &mut frame),
            1 if plan.outer.is_v4() => {
                mutate(choices, &mut frame);
                // So that more than the checksum's test sees it.
                if let Some(header) = frame.get_mut(14 + plan.tags.len()..34 + plan.tags.len()) {
                    set_sum(header, 0);
                }
            }
            _ => {}
        }
        frame
    }
}

/// Changes bytes, mostly of headers; takes some away, puts some in, cuts the end.
fn mutate(choices: &mut Choices<'_>, frame: &mut Vec<u8>) {
    for _ in 0..1 + choices.below(3) {
        let within = match choices.one_in(4) {
            true => frame.len(),
            false => frame.len().min(80),
        };
        let at = choices.below(within);
        match choices.below(8) {
            0..4 => frame[at] = choices.byte(),
            4 => frame[at] ^= 1 << choices.below(8),
            5 => frame[at] = *choices.of(&[0, 4, 6, 17, 41, 44, 47, 60, 0x81, 0x88, 0xa8, 0xff]),
            6 => frame.insert(at, choices.byte()),
            // No frame is shorter than an Ethernet header.
            _ => {
                let length = 14 + choices.below(frame.len());
                frame.truncate(length);
            }
        }
        if frame.len() < 15 {
            return;
        }
    }
}
