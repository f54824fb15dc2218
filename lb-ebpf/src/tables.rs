//! Every map that the data plane may touch.

use lb_common::{
    BackendEntry, Control, Device, EndpointSlot, FlowWord, NextHop, ReturnHop, ServiceEntry,
};

/// The maps. In the kernel they are map statics, on the host plain collections. Lookups that leave
/// a map's bounds give `None`.
pub trait Tables {
    /// Map `control`.
    fn control(&self) -> Option<&Control>;
    /// Map `endpoints`.
    fn endpoint(&self, index: u32) -> Option<&EndpointSlot>;
    /// Map `services`.
    fn service(&self, index: u32) -> Option<&ServiceEntry>;
    /// Map `rings`: two BackendIds.
    fn ring_word(&self, index: u32) -> Option<[u32; 2]>;
    /// Map `backends`.
    fn backend(&self, id: u32) -> Option<&BackendEntry>;
    /// Map `next_hops`.
    fn next_hop(&self, index: u32) -> Option<&NextHop>;
    /// Map `devices`.
    fn device(&self, slot: u32) -> Option<&Device>;
    /// Map `flows`: entry `way` of `set`, read as one word.
    fn flow(&self, set: u32, way: u32) -> Option<FlowWord>;
    /// Replaces `current` by `new`; false when another CPU was faster. A read-only program
    /// answers true and writes nothing.
    fn exchange_flow(&self, set: u32, way: u32, current: FlowWord, new: FlowWord) -> bool;
    /// Map `return_hops`.
    fn return_hop(&self, set: u32, way: u32) -> Option<ReturnHop>;
    /// Writes map `return_hops`, as one word. Nothing in a read-only program.
    fn set_return_hop(&self, set: u32, way: u32, hop: ReturnHop);
    /// Adds to a counter of this CPU; `line` is relative to the CPU's lines. Nothing in a
    /// read-only program.
    fn count(&self, line: u32, position: u32, by: u64);
    /// Reads a counter of this CPU.
    fn counter(&self, line: u32, position: u32) -> u64;
    /// Sets a word of this CPU's lines (limiters). Nothing in a read-only program.
    fn set_counter(&self, line: u32, position: u32, value: u64);
}
