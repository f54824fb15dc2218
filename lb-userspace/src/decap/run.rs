//! `fairlead decap`: puts the decapsulator on an interface of a backend, shows it, takes it away. I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::ifaddrs::getifaddrs;
use serde::Serialize;

use super::{Rules, missing};
use crate::cli::Decap;
use crate::dataplane::bpf::decap::{Shown, attach, detach, show};
use crate::dataplane::bpf::{AttachedHow, AttachmentState};
use crate::embedded;
use crate::model::AttachMode;

/// Runs it.
pub fn run(args: &Decap) -> anyhow::Result<ExitCode> {
    let interface = &args.interface;
    if args.detach {
        match detach(&args.bpffs, interface)? {
            true => println!("{interface}: the decapsulator is taken away"),
            false => println!("{interface}: there is no decapsulator"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.show {
        let Some(shown) = show(&args.bpffs, interface)? else {
            bail!(
                "{interface}: there is no decapsulator (none has its pins in {})",
                args.bpffs.display()
            );
        };
        return tell(interface, &shown, args.json);
    }
    let own = own_addresses().context("list the addresses of this machine")?;
    let rules = Rules::new(&args.source, &args.vip, &own, args.gue_port.unwrap_or(0))?;
    let attached = attach(
        embedded::DECAPSULATOR,
        &args.bpffs,
        interface,
        &rules,
        args.xdp_mode.into(),
    )?;
    for vip in missing(&args.vip, &own) {
        eprintln!(
            "fairlead: {vip} is no address of this machine: nobody answers for it until it is one ('ip address add {vip} dev lo')"
        );
    }
    if let Some(why) = &attached.native_refused {
        eprintln!("fairlead: {interface}: native XDP refused: {why}; it runs in generic mode");
    }
    let gap = attached
        .gap
        .map_or_else(String::new, |gap| format!(", after {gap:?} without it"));
    let how = match attached.how {
        AttachedHow::New => "attached",
        AttachedHow::Kept => "attached already",
        AttachedHow::Replaced => "has new rules, without a gap",
        AttachedHow::OtherMode => "attached again, in the other mode",
        AttachedHow::Renewed => "attached again, since the interface was made anew",
    };
    println!(
        "{interface}: the decapsulator is {how}{gap} ({}): {} tunnel sources, {} VIPs. It stays until 'fairlead decap --interface {interface} --detach'",
        attached.mode,
        args.source.len(),
        args.vip.len()
    );
    Ok(ExitCode::SUCCESS)
}

/// Every address of every interface.
fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    Ok(addresses.collect())
}

/// What `--show --json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    interface: &'a str,
    state: AttachmentState,
    mode: Option<AttachMode>,
    packets: BTreeMap<&'static str, u64>,
}

/// Exit status 1 when it is not attached.
fn tell(interface: &str, shown: &Shown, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let report = Report {
            interface,
            state: shown.state,
            mode: shown.mode,
            packets: shown.fates.iter().map(|(f, n)| (f.label(), *n)).collect(),
        };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        let state = match shown.state {
            AttachmentState::Attached => "attached",
            AttachmentState::Defunct => {
                "not attached: the interface was made anew; attach it again"
            }
            AttachmentState::Missing => "not attached: the interface is gone",
        };
        let mode = shown.mode.map(|m| format!(" ({m})")).unwrap_or_default();
        println!("{interface}: {state}{mode}");
        for (fate, count) in &shown.fates {
            println!("  {:<20} {count:>12}  {}", fate.label(), fate.help().trim());
        }
    }
    Ok(match shown.state {
        AttachmentState::Attached => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
