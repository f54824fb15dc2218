//! The kernel behind the seam `Dataplane`: pins, adoption, attachment, writes and reads, with the
//! compiled program and real links, each test in namespaces of its own.

mod adoption;
mod attachment;
mod memory;
mod mutation;
mod probe;
mod program;
mod readers;
mod refusals;
mod room;
mod twin;
mod verdicts;
mod writes;

pub(crate) use program::broken_object;
pub(crate) use room::poke;
