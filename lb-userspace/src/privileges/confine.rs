//! Gives up what the daemon does not need.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::preparer::Preparer;
use super::{Report, keep, syscalls};

/// What is left to the daemon.
#[derive(Debug)]
pub struct Confined {
    /// Who prepares the start.
    pub preparer: Preparer,
    /// How it went.
    pub report: Report,
}

/// Confines this thread, and with it all that it starts from now on, but for the preparer.
pub fn confine() -> io::Result<Confined> {
    let preparer = Preparer::start()?;
    let report = confine_thread();
    Ok(Confined { preparer, report })
}

/// Confines this thread as far as the kernel lets it.
pub fn confine_thread() -> Report {
    let mut refused = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            refused.push(format!("{what}: {why}"));
        }
    };
    let said = |result: rustix::io::Result<()>| result.map_err(|error| error.to_string());
    note("set no_new_privs", said(set_no_new_privs(true)));
    let dropped = drop_capabilities().map_err(|error| error.to_string());
    let kept = *dropped.as_ref().unwrap_or(&0);
    note("drop capabilities", dropped.map(drop));
    let filtered = syscalls::refuse().map_err(|error| error.to_string());
    note("filter system calls", filtered);
    Report { kept, refused }
}

/// Drops all but what is kept, which it gives.
fn drop_capabilities() -> rustix::io::Result<u64> {
    let kept = keep(capabilities(None)?.permitted.bits());
    bound(kept);
    clear_ambient_capability_set()?;
    let left = CapabilitySet::from_bits_retain(kept);
    set_capabilities(
        None,
        CapabilitySets {
            effective: left,
            permitted: left,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(kept)
}

/// Leaves no more than this in the bounding set. It takes CAP_SETPCAP; without it nothing is lost: that set only limits what a program can
/// gain when it is executed, and with no_new_privs it gains nothing.
fn bound(kept: u64) {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1_u64.checked_shl(number).unwrap_or(0));
        if kept & one.bits() != 0 {
            continue;
        }
        match capability_is_in_bounding_set(one) {
            Ok(true) => drop(remove_capability_from_bounding_set(one)),
            Ok(false) => {}
            // The kernel knows no more.
            Err(_) => break,
        }
    }
}
