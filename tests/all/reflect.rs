//! A tiny XDP program that answers: it swaps the MAC and IPv4 addresses of UDP packets and sends
//! them back out of the interface they came from. The checksum stays right, if it was.

/// `struct bpf_insn` as one word: opcode, registers, offset, immediate.
const fn step(code: u64, to: u64, from: u64, offset: u64, immediate: u64) -> u64 {
    code | to << 8 | from << 12 | offset << 16 | immediate << 32
}

/// `to = *(u8, u16 or u32)(from + offset)`.
const fn load(bytes: u64, to: u64, from: u64, offset: u64) -> u64 {
    step(memory(0x61, bytes), to, from, offset, 0)
}

/// `*(u16 or u32)(r2 + offset) = from`.
const fn store(bytes: u64, offset: u64, from: u64) -> u64 {
    step(memory(0x63, bytes), 2, from, offset, 0)
}

const fn memory(word: u64, bytes: u64) -> u64 {
    match bytes {
        1 => word | 0x10,
        2 => word | 0x08,
        _ => word,
    }
}

/// The program.
pub(crate) const REFLECT: [u64; 25] = [
    load(4, 2, 1, 0),             // r2 = data
    load(4, 3, 1, 4),             // r3 = data_end
    step(0xbf, 4, 2, 0, 0),       // r4 = r2
    step(0x07, 4, 0, 0, 42),      // r4 += Ethernet + IPv4 + UDP
    step(0x2d, 4, 3, 18, 0),      // too short: pass
    load(2, 5, 2, 12),            // EtherType
    step(0x55, 5, 0, 16, 0x0008), // not IPv4: pass
    load(1, 5, 2, 23),            // protocol
    step(0x55, 5, 0, 14, 17),     // not UDP: pass
    load(4, 5, 2, 0),
    load(2, 6, 2, 4),
    load(4, 7, 2, 6),
    load(2, 8, 2, 10),
    store(4, 0, 7),
    store(2, 4, 8),
    store(4, 6, 5),
    store(2, 10, 6),
    load(4, 5, 2, 26),
    load(4, 6, 2, 30),
    store(4, 26, 6),
    store(4, 30, 5),
    step(0xb7, 0, 0, 0, 3), // XDP_TX
    step(0x95, 0, 0, 0, 0),
    step(0xb7, 0, 0, 0, 2), // XDP_PASS
    step(0x95, 0, 0, 0, 0),
];
