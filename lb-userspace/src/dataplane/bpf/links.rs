//! Attachment to interfaces: a pinned bpf_link for each *name*.
//!
//! A link outlives the daemon, and its program is replaced without a gap. It does not survive its
//! device: when that is deleted, the pinned link stays with ifindex 0, updates answer ENOLINK, and a
//! new device of the same name has no program. So a pin is never believed; what the link says
//! about its interface is compared with what the name means now.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::BpfError;
use super::netdev;
use super::place::{interface_of, link_pin, list, unlink};
use super::sys::{self, LinkInfo};
use crate::model::{AttachMode, XdpMode};

/// How an interface came to run the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachedHow {
    /// A new link.
    New,
    /// The pinned link ran this very program.
    Kept,
    /// The pinned link ran another program; it was replaced without a gap.
    Replaced,
    /// The pinned link had lost its device; a new one was made.
    Renewed,
    /// The pinned link ran in another mode, which a link keeps for life; a new one was made.
    OtherMode,
}

/// What becomes of a link that runs in another mode than the wanted one. Changing it takes the program
/// off the interface for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// It stays.
    Never,
    /// It is changed. A fallback to generic mode stays.
    Changed,
    /// It is changed, and where generic mode was a fallback native mode is tried again.
    Retried,
}

impl ModeChange {
    fn wants(self, wanted: XdpMode, now: AttachMode) -> bool {
        match (wanted, now) {
            (XdpMode::Native, AttachMode::Generic) | (XdpMode::Generic, AttachMode::Native) => {
                self != Self::Never
            }
            (XdpMode::NativeOrGeneric, AttachMode::Generic) => self == Self::Retried,
            (XdpMode::Native | XdpMode::NativeOrGeneric, AttachMode::Native)
            | (XdpMode::Generic, AttachMode::Generic) => false,
        }
    }
}

/// The outcome of an attachment, for the log and `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its index now.
    pub ifindex: u32,
    /// In driver or stack; compare with what was asked for.
    pub mode: AttachMode,
    /// How it came to it.
    pub how: AttachedHow,
    /// Why native mode was refused, if generic mode is a fallback.
    pub native_refused: Option<String>,
    /// How long the interface had no program while its mode was changed.
    pub gap: Option<Duration>,
}

/// State of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// Packets on the interface pass through the program.
    Attached,
    /// The interface is there but the link is not on it: its device was deleted and made again, or renamed.
    Defunct,
    /// No interface has the name.
    Missing,
}

/// An interface that we should be attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its name.
    pub interface: String,
    /// Its index now; `None` if it is missing.
    pub ifindex: Option<u32>,
    /// `None` if it is not attached.
    pub mode: Option<AttachMode>,
    /// Whether packets pass through the program.
    pub state: AttachmentState,
}

/// What is wanted and held for one name.
#[derive(Debug)]
struct Held {
    wanted: XdpMode,
    link: Option<OwnedFd>,
}

/// All links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    held: BTreeMap<String, Held>,
}

fn pinned_link(directory: &Path, interface: &str) -> Result<Option<(OwnedFd, LinkInfo)>, BpfError> {
    let path = directory.join(link_pin(interface));
    let link = match sys::open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BpfError::system(format!("open {}", path.display()))(error)),
    };
    let info = sys::link_info(link.as_fd())
        .map_err(BpfError::system(format!("look at {}", path.display())))?;
    Ok(Some((link, info)))
}

/// Takes a link off its interface and removes its pin, whoever else holds it. False: it was on none.
pub(crate) fn release(directory: &Path, pin: &str) -> Result<bool, BpfError> {
    let path = directory.join(pin);
    let mut was_on = false;
    if let Ok(link) = sys::open_pin(&path)
        && sys::link_info(link.as_fd()).is_ok_and(|info| info.ifindex != 0)
    {
        sys::link_detach(link.as_fd())
            .map_err(BpfError::system(format!("detach {}", path.display())))?;
        was_on = true;
    }
    unlink(&path)?;
    Ok(was_on)
}

/// Interfaces that have a pinned link in `directory`.
pub(crate) fn pinned_interfaces(directory: &Path) -> Result<Vec<String>, BpfError> {
    Ok(list(directory)?
        .iter()
        .filter_map(|pin| interface_of(pin))
        .collect())
}

/// Numbers of the programs that pinned links run.
pub(crate) fn programs(directory: &Path) -> Result<Vec<u32>, BpfError> {
    let interfaces = pinned_interfaces(directory)?;
    let links = interfaces.iter().map(|name| pinned_link(directory, name));
    links
        .filter_map(|link| link.transpose())
        .map(|link| link.map(|(_, info)| info.program_id))
        .collect()
}

impl Held {
    /// Makes a link and its pin.
    fn create(
        &mut self,
        directory: &Path,
        program: BorrowedFd<'_>,
        (interface, ifindex): (&str, u32),
        mode: XdpMode,
    ) -> Result<(AttachMode, Option<String>), BpfError> {
        let (link, mode, native_refused) = create(program, interface, ifindex, mode)?;
        let path = directory.join(link_pin(interface));
        sys::pin(link.as_fd(), &path)
            .map_err(BpfError::system(format!("pin {}", path.display())))?;
        self.link = Some(link);
        Ok((mode, native_refused))
    }

    /// Replaces the link by one in the wanted mode, or else in the mode it had.
    fn change_mode(
        &mut self,
        directory: &Path,
        program: BorrowedFd<'_>,
        at: (&str, u32),
        before: AttachMode,
    ) -> Result<Attached, BpfError> {
        let (interface, ifindex) = at;
        let began = Instant::now();
        release(directory, &link_pin(interface))?;
        self.link = None;
        let source = match self.create(directory, program, at, self.wanted) {
            Ok((mode, native_refused)) => {
                return Ok(Attached {
                    ifindex,
                    mode,
                    how: AttachedHow::OtherMode,
                    native_refused,
                    gap: Some(began.elapsed()),
                });
            }
            Err(source) => source,
        };
        self.wanted = match before {
            AttachMode::Native => XdpMode::Native,
            AttachMode::Generic => XdpMode::Generic,
        };
        let interface = interface.to_owned();
        let source = Box::new(source);
        match self.create(directory, program, at, self.wanted) {
            Ok(_) => Err(BpfError::ModeKept {
                interface,
                mode: before,
                gap: began.elapsed(),
                source,
            }),
            Err(back) => Err(BpfError::ModeLost {
                interface,
                mode: before,
                source,
                back: Box::new(back),
            }),
        }
    }
}

impl Links {
    /// Brings an interface to run `program`, from whatever state it is in.
    pub(crate) fn attach(
        &mut self,
        directory: &Path,
        program: (BorrowedFd<'_>, u32),
        interface: &str,
        mode: XdpMode,
        change: ModeChange,
    ) -> Result<Attached, BpfError> {
        let held = self.held.entry(interface.to_owned()).or_insert(Held {
            wanted: mode,
            link: None,
        });
        held.wanted = mode;
        let Some(ifindex) = netdev::ifindex(interface) else {
            return Err(BpfError::NoInterface {
                interface: interface.to_owned(),
            });
        };
        let (fd, id) = program;
        let pin = link_pin(interface);
        let mut how = AttachedHow::New;
        if let Some((link, info)) = pinned_link(directory, interface)? {
            if info.ifindex == ifindex {
                let now = netdev::xdp_state(ifindex)?.map_or(AttachMode::Native, |s| s.mode);
                if change.wants(mode, now) {
                    drop(link);
                    return held.change_mode(directory, fd, (interface, ifindex), now);
                }
                let how = if info.program_id == id {
                    AttachedHow::Kept
                } else {
                    sys::link_update(link.as_fd(), fd).map_err(BpfError::system(format!(
                        "replace the program on {interface}"
                    )))?;
                    AttachedHow::Replaced
                };
                held.link = Some(link);
                return Ok(Attached {
                    ifindex,
                    mode: now,
                    how,
                    native_refused: None,
                    gap: None,
                });
            }
            how = AttachedHow::Renewed;
            release(directory, &pin)?;
        }
        // Our own descriptor of a link whose pin somebody removed would make the device busy.
        if let Some(old) = held.link.take()
            && sys::link_info(old.as_fd()).is_ok_and(|info| info.ifindex == ifindex)
        {
            let path = directory.join(&pin);
            sys::pin(old.as_fd(), &path)
                .map_err(BpfError::system(format!("pin {}", path.display())))?;
            drop(old);
            return self.attach(directory, program, interface, mode, change);
        }
        let (mode, native_refused) = held.create(directory, fd, (interface, ifindex), mode)?;
        Ok(Attached {
            ifindex,
            mode,
            how,
            native_refused,
            gap: None,
        })
    }

    /// The mode that was asked for an interface; `None`: it is not ours.
    pub(crate) fn wanted(&self, interface: &str) -> Option<XdpMode> {
        self.held.get(interface).map(|held| held.wanted)
    }

    /// The mode to attach an interface of ours in when it next needs that. Attaches nothing.
    pub(crate) fn set_wanted(&mut self, interface: &str, mode: XdpMode) {
        if let Some(held) = self.held.get_mut(interface) {
            held.wanted = mode;
        }
    }

    /// Takes the program off an interface, which is ours until that went well. False: it was not on it.
    pub(crate) fn detach(&mut self, directory: &Path, interface: &str) -> Result<bool, BpfError> {
        let was_on = release(directory, &link_pin(interface))?;
        self.held.remove(interface);
        Ok(was_on)
    }

    /// Every interface that is wanted.
    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>, BpfError> {
        self.held
            .iter()
            .map(|(interface, held)| {
                let ifindex = netdev::ifindex(interface);
                let on = held
                    .link
                    .as_ref()
                    .and_then(|link| sys::link_info(link.as_fd()).ok())
                    .map(|info| info.ifindex);
                let state = match (ifindex, on) {
                    (None, _) => AttachmentState::Missing,
                    (Some(now), Some(on)) if now == on => AttachmentState::Attached,
                    _ => AttachmentState::Defunct,
                };
                let mode = match (state, ifindex) {
                    (AttachmentState::Attached, Some(now)) => {
                        netdev::xdp_state(now)?.map(|found| found.mode)
                    }
                    _ => None,
                };
                Ok(Attachment {
                    interface: interface.clone(),
                    ifindex,
                    mode,
                    state,
                })
            })
            .collect()
    }

    /// The interfaces that run the program now, by index, whatever their names are now: those of held links and of pins that
    /// others made; and those that should, but have somebody else's.
    pub(crate) fn running(&self, directory: &Path) -> Result<BTreeMap<u32, AttachMode>, BpfError> {
        let mut running = BTreeMap::new();
        let held = self.held.values().filter_map(|held| held.link.as_ref());
        let mut on: Vec<u32> = held
            .map(|link| Ok(sys::link_info(link.as_fd())?.ifindex))
            .collect::<io::Result<_>>()
            .map_err(BpfError::system("look at the links"))?;
        for interface in pinned_interfaces(directory)? {
            on.extend(pinned_link(directory, &interface)?.map(|(_, info)| info.ifindex));
        }
        // Others' programs keep the driver ready as well.
        let unheld = self.held.iter().filter(|(_, held)| held.link.is_none());
        on.extend(unheld.filter_map(|(interface, _)| netdev::ifindex(interface)));
        // 0: its device is gone. So may any other be by now.
        for ifindex in on.into_iter().filter(|ifindex| *ifindex != 0) {
            if let Ok(Some(found)) = netdev::xdp_state(ifindex) {
                running.insert(ifindex, found.mode);
            }
        }
        Ok(running)
    }

    /// Every link that is held, with the name of its pin.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        self.held.iter().filter_map(|(interface, held)| {
            Some((link_pin(interface), held.link.as_ref()?.as_fd()))
        })
    }
}

type Created = (OwnedFd, AttachMode, Option<String>);

fn create(
    program: BorrowedFd<'_>,
    interface: &str,
    ifindex: u32,
    mode: XdpMode,
) -> Result<Created, BpfError> {
    let native = || {
        sys::link_create(program, ifindex, sys::XDP_DRV)
            .map_err(|source| creation_error(interface, ifindex, source, true))
    };
    let generic = || {
        sys::link_create(program, ifindex, sys::XDP_SKB)
            .map_err(|source| creation_error(interface, ifindex, source, false))
    };
    match mode {
        XdpMode::Native => Ok((native()?, AttachMode::Native, None)),
        XdpMode::Generic => Ok((generic()?, AttachMode::Generic, None)),
        XdpMode::NativeOrGeneric => match native() {
            Ok(link) => Ok((link, AttachMode::Native, None)),
            Err(BpfError::NoNative { source, .. }) => {
                Ok((generic()?, AttachMode::Generic, Some(source.to_string())))
            }
            Err(other) => Err(other),
        },
    }
}

fn creation_error(interface: &str, ifindex: u32, source: io::Error, native: bool) -> BpfError {
    let interface = interface.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            let (holder, off) = match netdev::xdp_state(ifindex) {
                Ok(Some(found)) => (
                    format!("XDP program {} ({})", found.program_id, found.mode),
                    match found.mode {
                        AttachMode::Native => "xdp",
                        AttachMode::Generic => "xdpgeneric",
                    },
                ),
                _ => ("another XDP program".to_owned(), "xdp"),
            };
            BpfError::Busy {
                interface,
                holder,
                off,
            }
        }
        Some(libc::ENODEV) => BpfError::NoInterface { interface },
        Some(libc::EPERM | libc::ENOMEM) => BpfError::System {
            what: format!("attach to {interface}"),
            source,
        },
        _ if native => BpfError::NoNative {
            advice: netdev::advice(netdev::kind(ifindex).as_ref()),
            interface,
            source,
        },
        _ => BpfError::System {
            what: format!("attach to {interface} in generic mode"),
            source,
        },
    }
}
