//! The program that counts: a socket filter over every frame of an interface, which keeps none of
//! them (Documentation/bpf/standardization/instruction-set.rst has the encodings).
//!
//! It counts a frame that has not been cut into segments yet, or whose segments were joined, as
//! the frames that it is on a wire (`gso_segs`).

use std::net::IpAddr;

use lb_common::tunnel::GUE_PORT;

use crate::topology::{FAMILIES, Mac, balancer_back, client, nat_source, vip};

/// Where a frame is counted: packets out of the interface one place after those into it.
pub(crate) const SLOTS: u32 = 2;

/// What kind of interface is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A host's: what it receives and sends.
    Host,
    /// The switch port that faces the balancer: what the balancer with this address is sent, and all
    /// that comes out of it.
    Port(Mac),
}

// Fields of struct __sk_buff.
const LEN: i16 = 0;
const PKT_TYPE: i16 = 4;
const GSO_SEGS: i16 = 164;
// linux/if_packet.h
const PACKET_OTHERHOST: i32 = 3;
const PACKET_OUTGOING: i32 = 4;
/// The register that loads from the frame want the context in.
const CONTEXT: u8 = 6;
/// Helper function `bpf_map_lookup_elem`.
const LOOK_UP: i32 = 1;

// Operations: class, size or source, and mode.
const LOAD_FRAME_BYTE: u8 = 0x30;
const LOAD_FRAME_HALF: u8 = 0x28;
const LOAD_FRAME_WORD: u8 = 0x20;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const LOAD_MAP: u8 = 0x18;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const ATOMIC_ADD: u8 = 0xdb;
// Of 32 bits: with 64, the value's sign would be extended.
const EQUAL: u8 = 0x16;
const NOT_EQUAL: u8 = 0x56;
const LESS: u8 = 0xa5;
/// Of a pointer, with 0.
const IS_NULL: u8 = 0x15;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Ends of a traffic packet: one of each makes three.
const NOBODY: i32 = 0;
const CLIENT: i32 = 1;
const SERVICE: i32 = 2;

/// A place to jump to.
#[derive(Clone, Copy)]
struct Label(usize);

/// A program under construction.
#[derive(Default)]
struct Code {
    steps: Vec<(u8, u8, u8, i16, i32)>,
    /// Instruction and the label that it jumps to.
    jumps: Vec<(usize, Label)>,
    /// Instruction by label.
    labels: Vec<Option<usize>>,
}

impl Code {
    fn step(&mut self, op: u8, to: u8, from: u8, offset: i16, value: i32) {
        self.steps.push((op, to, from, offset, value));
    }

    fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.steps.len());
    }

    /// Compares a register with a value.
    fn jump(&mut self, op: u8, register: u8, value: i32, label: Label) {
        self.jumps.push((self.steps.len(), label));
        self.step(op, register, 0, 0, value);
    }

    /// Loads from the frame, in host order, into register 0. A frame that is too short ends the
    /// program.
    fn frame(&mut self, op: u8, offset: i32) {
        self.step(op, 0, 0, 0, offset);
    }

    /// `struct bpf_insn`s.
    fn finish(mut self) -> Vec<u64> {
        for (from, label) in self.jumps {
            let to = self.labels[label.0].expect("a label that was placed");
            self.steps[from].3 = i16::try_from(to - from - 1).expect("a short program");
        }
        let word = |(op, to, from, offset, value): (u8, u8, u8, i16, i32)| {
            u64::from(op)
                | u64::from(to | from << 4) << 8
                | u64::from(offset.cast_unsigned()) << 16
                | u64::from(value.cast_unsigned()) << 32
        };
        self.steps.into_iter().map(word).collect()
    }
}

fn words(address: IpAddr) -> Vec<i32> {
    let bytes = match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let word = |b: &[u8]| i32::from_be_bytes([b[0], b[1], b[2], b[3]]);
    bytes.chunks_exact(4).map(word).collect()
}

/// Sets a register to what an address of the frame is. Four-byte words; the networks are those of
/// [`crate::topology`]: VIPs 10.10.0.96/27 and fd00:10::100/120, backends 10.10.1.0/24 and
/// fd00:10:1::/64 without the balancer. What stands for clients among the backends is a client.
fn classify(code: &mut Code, register: u8, offset: i32, six: bool) {
    let [v4, v6] = FAMILIES;
    let family = if six { v6 } else { v4 };
    let (client, vip, balancer, stand_in) = (
        words(client(family)),
        words(vip(family, 0)),
        words(balancer_back(family)),
        words(nat_source(family)),
    );
    let (is_client, is_service, end) = (code.label(), code.label(), code.label());
    code.step(SET, register, 0, 0, NOBODY);
    let last = client.len() - 1;
    let (vip_mask, net_mask) = if six { (!0xff, 0) } else { (!31, !255) };
    if six {
        for word in [0, 2] {
            code.frame(LOAD_FRAME_WORD, offset + 4 * word);
            code.jump(NOT_EQUAL, 0, client[word as usize], end);
        }
    }
    let back = code.label();
    if six {
        code.frame(LOAD_FRAME_WORD, offset + 4);
        code.jump(EQUAL, 0, balancer[1], back);
        code.jump(NOT_EQUAL, 0, client[1], end);
    }
    let place = offset + 4 * last as i32;
    code.frame(LOAD_FRAME_WORD, place);
    code.jump(EQUAL, 0, client[last], is_client);
    code.step(AND, 0, 0, 0, vip_mask);
    code.jump(EQUAL, 0, vip[last] & vip_mask, is_service);
    if six {
        code.jump(JUMP, 0, 0, end);
    }
    code.place(back);
    code.frame(LOAD_FRAME_WORD, place);
    code.jump(EQUAL, 0, balancer[last], end);
    code.jump(EQUAL, 0, stand_in[last], is_client);
    code.step(AND, 0, 0, 0, net_mask);
    code.jump(NOT_EQUAL, 0, balancer[last] & net_mask, end);
    code.place(is_service);
    code.step(SET, register, 0, 0, SERVICE);
    code.jump(JUMP, 0, 0, end);
    code.place(is_client);
    code.step(SET, register, 0, 0, CLIENT);
    code.place(end);
}

/// Sets two registers to what source and destination of the frame are; of a packet in a tunnel (RFC
/// 2003, RFC 2473, GUE), to what those of the inner one are. No tunnel here has options in its header.
fn ends(code: &mut Code, six: bool, source: u8, destination: u8) {
    const IP_IN_IP: [(i32, bool); 2] = [(4, false), (41, true)];
    // Offsets in the frame.
    let (protocol, inside) = if six { (20, 54) } else { (23, 34) };
    let (plain, end) = (code.label(), code.label());
    let at = |code: &mut Code, packet: i32, six: bool| {
        let (from, to) = if six { (8, 24) } else { (12, 16) };
        classify(code, source, packet + from, six);
        classify(code, destination, packet + to, six);
        code.jump(JUMP, 0, 0, end);
    };
    // Reads the byte and goes on with the inner packet at an offset, if it says that there is one.
    let choose = |code: &mut Code, byte: i32, mask: i32, values: [(i32, bool); 2], packet| {
        for (value, six) in values {
            let next = code.label();
            code.frame(LOAD_FRAME_BYTE, byte);
            code.step(AND, 0, 0, 0, mask);
            code.jump(NOT_EQUAL, 0, value, next);
            at(code, packet, six);
            code.place(next);
        }
    };
    choose(code, protocol, 0xff, IP_IN_IP, inside);
    code.frame(LOAD_FRAME_BYTE, protocol);
    code.jump(NOT_EQUAL, 0, 17, plain);
    // A datagram may be cut off before its ports.
    code.step(LOAD_WORD, 0, CONTEXT, LEN, 0);
    code.jump(LESS, 0, inside + 12, plain);
    code.frame(LOAD_FRAME_HALF, inside + 2);
    code.jump(NOT_EQUAL, 0, i32::from(GUE_PORT), plain);
    choose(
        code,
        inside + 8,
        0xf0,
        [(0x40, false), (0x60, true)],
        inside + 8,
    );
    choose(code, inside + 9, 0xff, IP_IN_IP, inside + 12);
    code.place(plain);
    at(code, 14, six);
    code.place(end);
}

/// The program that counts at a place into two slots of a map, from `first` on.
pub(crate) fn program(place: Place, map: i32, first: u32) -> Vec<u64> {
    const SLOT: u8 = 7;
    const SOURCE: u8 = 8;
    const DESTINATION: u8 = 9;
    const STACK: u8 = 10;
    let mut code = Code::default();
    let end = code.label();
    code.step(MOVE, CONTEXT, 1, 0, 0);

    // Which way.
    let (outgoing, direction_known) = (code.label(), code.label());
    code.step(LOAD_WORD, SLOT, CONTEXT, PKT_TYPE, 0);
    code.jump(EQUAL, SLOT, PACKET_OUTGOING, outgoing);
    if matches!(place, Place::Host) {
        code.jump(EQUAL, SLOT, PACKET_OTHERHOST, end);
    }
    code.step(SET, SLOT, 0, 0, first as i32);
    code.jump(JUMP, 0, 0, direction_known);
    code.place(outgoing);
    if let Place::Port([a, b, c, d, e, f]) = place {
        code.frame(LOAD_FRAME_WORD, 0);
        code.jump(NOT_EQUAL, 0, i32::from_be_bytes([a, b, c, d]), end);
        code.frame(LOAD_FRAME_HALF, 4);
        code.jump(NOT_EQUAL, 0, i32::from(u16::from_be_bytes([e, f])), end);
    }
    code.step(SET, SLOT, 0, 0, first as i32 + 1);
    code.place(direction_known);

    // Who to whom.
    let (six, known) = (code.label(), code.label());
    code.frame(LOAD_FRAME_HALF, 12);
    code.jump(EQUAL, 0, 0x86dd, six);
    code.jump(NOT_EQUAL, 0, 0x0800, end);
    ends(&mut code, false, SOURCE, DESTINATION);
    code.jump(JUMP, 0, 0, known);
    code.place(six);
    // Neighbours look for what stands for clients, and the balancer's kernel answers as that (RFC 4861 section 4).
    let no_discovery = code.label();
    code.frame(LOAD_FRAME_BYTE, 20);
    code.jump(NOT_EQUAL, 0, 58, no_discovery);
    code.frame(LOAD_FRAME_BYTE, 54);
    (133..=137).for_each(|kind| code.jump(EQUAL, 0, kind, end));
    code.place(no_discovery);
    ends(&mut code, true, SOURCE, DESTINATION);
    code.place(known);
    code.step(ADD_REGISTER, SOURCE, DESTINATION, 0, 0);
    code.jump(NOT_EQUAL, SOURCE, CLIENT + SERVICE, end);

    // How many.
    let counted = code.label();
    code.step(LOAD_WORD, DESTINATION, CONTEXT, GSO_SEGS, 0);
    code.jump(NOT_EQUAL, DESTINATION, 0, counted);
    code.step(SET, DESTINATION, 0, 0, 1);
    code.place(counted);
    code.step(STORE_WORD, STACK, SLOT, -4, 0);
    code.step(MOVE, 2, STACK, 0, 0);
    code.step(ADD, 2, 0, 0, -4);
    // A map's descriptor takes two instructions.
    code.step(LOAD_MAP, 1, 1, 0, map);
    code.step(0, 0, 0, 0, 0);
    code.step(CALL, 0, 0, 0, LOOK_UP);
    code.jump(IS_NULL, 0, 0, end);
    code.step(ATOMIC_ADD, 0, DESTINATION, 0, 0);
    code.place(end);
    code.step(SET, 0, 0, 0, 0);
    code.step(EXIT, 0, 0, 0, 0);
    code.finish()
}
