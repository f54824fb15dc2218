//! The binding of the data plane to XDP. Built for the BPF target only, by `cargo xtask`.
#![no_std]
#![no_main]

mod context;
mod maps;
mod xdp;

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
