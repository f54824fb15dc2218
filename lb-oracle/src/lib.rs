//! A slow second opinion on the data plane, and random cases to ask both about.
//!
//! [`oracle::Oracle`] says what must become of a packet: verdict, bytes and counters. It was written from the
//! documentation and the RFCs with plain collections, and sums checksums over the whole of what they cover. It shares
//! no code with the data plane but the documented hash and the numbers of counters and reasons in `lb-common`.
//!
//! [`generate`] makes a [`case::Case`] out of numbers or of a fuzzer's bytes: what the maps hold, how the control
//! plane changes them, and packets. [`case::run`] runs it through the library and asks the oracle about each packet.
//! The compiled program's turn is in `lb-tests`, which can load it.

pub mod case;
pub mod decap;
pub mod frames;
pub mod generate;
pub mod oracle;
pub mod shrink;
pub mod tally;

#[cfg(test)]
mod tests;
