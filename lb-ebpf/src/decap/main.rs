//! The decapsulator bound to XDP: its maps and its entry point. Built for the BPF target only, by `cargo xtask`.
#![no_std]
#![no_main]

#[path = "../context.rs"]
mod context;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::{Array, HashMap, PerCpuArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    Address,
    decap::{ADDRESSES, AddressPrefix, Fate, Standing, TRUSTED_SOURCES, VIP_PREFIXES},
};
use lb_ebpf::decap::{self, Rules};

use context::KernelFrame;

#[btf_map(name = "trusted")]
static TRUSTED: Array<AddressPrefix, { TRUSTED_SOURCES as usize }> = Array::new();
#[btf_map(name = "vip_prefixes")]
static VIP_TABLE: Array<AddressPrefix, { VIP_PREFIXES as usize }> = Array::new();
#[btf_map(name = "addresses")]
static ADDRESS_TABLE: HashMap<Key, u32, { ADDRESSES as usize }> = HashMap::new();
#[btf_map(name = "gue_port")]
static GUE_PORT: Array<u32, 1> = Array::new();
#[btf_map(name = "fates")]
static FATES: PerCpuArray<u64, 32> = PerCpuArray::new();

const _: () = assert!(Fate::ALL.len() <= 32);

/// The maps of the loaded program.
struct KernelRules;

/// An [`Address`] as two words. On the stack, eight bytes must lie at a multiple of eight ("misaligned stack
/// access", Linux 6.18), and an address of bytes need not.
#[repr(C)]
struct Key {
    words: [u64; 2],
}

impl Rules for KernelRules {
    #[inline(always)]
    fn trusts(&self, source: Address) -> bool {
        let [low, high] = source.words();
        trusts(low, high) != 0
    }

    #[inline(always)]
    fn standing(&self, address: Address) -> Standing {
        let [low, high] = address.words();
        Standing::from_u32(standing(low, high))
    }

    #[inline(always)]
    fn gue_port(&self) -> [u8; 2] {
        GUE_PORT
            .get(0)
            .map_or([0; 2], |port| (*port as u16).to_be_bytes())
    }

    #[inline(always)]
    fn count(&self, fate: Fate) {
        if let Some(counter) = FATES.get_ptr_mut(fate as u32) {
            // SAFETY: the entry is this CPU's own, and nothing else runs on it meanwhile.
            unsafe { *counter = (*counter).wrapping_add(1) };
        }
    }
}

/// 1 if tunnels may come from the address. Numbers only, as all functions that the verifier walks by themselves.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trusts(low: u64, high: u64) -> u32 {
    let source = Address::from_words([low, high]);
    for slot in 0..TRUSTED_SOURCES {
        match TRUSTED.get(slot) {
            Some(trusted) if trusted.contains(source) => return 1,
            Some(trusted) if *trusted != AddressPrefix::EMPTY => {}
            _ => return 0,
        }
    }
    0
}

/// A [`Standing`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn standing(low: u64, high: u64) -> u32 {
    let key = Key { words: [low, high] };
    // SAFETY: user space fills the map before the program is attached and never changes it afterwards.
    if let Some(number) = unsafe { ADDRESS_TABLE.get(key) } {
        return *number;
    }
    let address = Address::from_words([low, high]);
    for slot in 0..VIP_PREFIXES {
        match VIP_TABLE.get(slot) {
            Some(vips) if vips.contains(address) => return Standing::Vip as u32,
            Some(vips) if *vips != AddressPrefix::EMPTY => {}
            _ => break,
        }
    }
    Standing::Foreign as u32
}

/// The program.
#[xdp]
fn fairlead_decap(context: XdpContext) -> u32 {
    let mut frame = KernelFrame::<false>::new(&context);
    match decap::process(&mut frame, &KernelRules).is_passed_on() {
        true => XDP_PASS,
        false => XDP_DROP,
    }
}

/// The licence that the kernel reads: helpers are open to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No code path panics (a test looks for it in the object); the compiler wants the handler.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
