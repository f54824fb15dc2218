//! Interfaces, and by which of them frames of which leave.

use lb_common::{Tags, vlan::Tag};
use serde::{Deserialize, Serialize};

/// An interface, as netlink tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Carrier and administrative state are both up.
    pub up: bool,
    /// That of a VLAN.
    #[serde(default)]
    pub vlan: Option<Vlan>,
    /// The bond that it belongs to.
    #[serde(default)]
    pub bond: Option<u32>,
}

/// What makes an interface one of a VLAN (`ip link add link eth0 name eth0.100 type vlan id 100`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// The interface that it is built on, if that is in this network namespace.
    pub lower: Option<u32>,
    /// What its frames get there.
    pub tag: Tag,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl std::fmt::Display for AttachMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// The interface that frames of one leave the machine by, and the tags that they carry then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The interface.
    pub ifindex: u32,
    /// The tags.
    pub tags: Tags,
}

/// Where frames of an interface leave. `Err`: why they cannot, for people.
pub fn port<'a>(link: &'a Link, find: impl Fn(u32) -> Option<&'a Link>) -> Result<Port, String> {
    let mut lowest = link;
    let mut tags: Vec<Tag> = Vec::new();
    while let Some(vlan) = lowest.vlan {
        tags.insert(0, vlan.tag);
        let Some(lower) = vlan.lower.and_then(&find) else {
            return Err(format!(
                "what interface {} is built on is not in this network namespace",
                lowest.name
            ));
        };
        lowest = lower;
        if tags.len() > 2 {
            return Err(format!(
                "frames of interface {} have more than two tags",
                link.name
            ));
        }
    }
    if let (Some(_), false) = (lowest.bond, tags.is_empty()) {
        return Err(format!(
            "interface {} is built on {}, which belongs to a bond (build it on the bond)",
            link.name, lowest.name
        ));
    }
    let mut two = tags.into_iter();
    let mut next = || two.next().unwrap_or_default();
    Ok(Port {
        tags: Tags([next(), next()]),
        ifindex: lowest.bond.unwrap_or(lowest.ifindex),
    })
}

/// True for the usual name of a VLAN on one of these interfaces: `eth0.100`, `eth0.100.7`.
pub fn is_named_as_vlan_of(name: &str, interfaces: &[String]) -> bool {
    let is_number = |part: &str| part.parse::<u16>().is_ok_and(|vlan| vlan < 4095);
    interfaces.iter().any(|interface| {
        let rest = name.strip_prefix(interface.as_str());
        let numbers = rest.and_then(|rest| rest.strip_prefix('.'));
        numbers.is_some_and(|numbers| {
            numbers.split('.').count() <= 2 && numbers.split('.').all(is_number)
        })
    })
}

#[cfg(test)]
mod tests {
    use lb_common::vlan::{TPID_8021AD, TPID_8021Q};

    use super::*;

    fn link(ifindex: u32, vlan: Option<(u32, Tag)>) -> Link {
        let vlan = vlan.map(|(lower, tag)| Vlan {
            lower: Some(lower),
            tag,
        });
        Link {
            ifindex,
            name: format!("if{ifindex}"),
            vlan,
            ..Link::default()
        }
    }

    #[test]
    fn frames_leave_by_the_lowest_interface_with_the_lowest_tag_first() {
        let (customer, provider) = (Tags::tag(TPID_8021Q, 200), Tags::tag(TPID_8021AD, 100));
        let mut links = [
            link(1, None),
            link(2, Some((1, provider))),
            link(3, Some((2, customer))),
            link(4, Some((3, customer))),
            link(5, Some((9, customer))),
        ];
        let at = |links: &[Link; 5], index: usize| {
            port(&links[index], |wanted| {
                links.iter().find(|link| link.ifindex == wanted)
            })
        };
        let none = [0; 4];
        for (index, tags) in [
            (0, [none, none]),
            (1, [provider, none]),
            (2, [provider, customer]),
        ] {
            let tags = Tags(tags);
            assert_eq!(at(&links, index), Ok(Port { ifindex: 1, tags }));
        }
        let refused = |index| at(&links, index).unwrap_err();
        assert!(refused(3).contains("if4 have more than two tags"));
        assert!(refused(4).contains("if5 is built on is not in this network namespace"));
        // Of a bond.
        links[0].bond = Some(8);
        assert_eq!(at(&links, 0).unwrap().ifindex, 8);
        let refused = at(&links, 2).unwrap_err();
        assert!(
            refused.contains("if3 is built on if1, which belongs to a bond"),
            "{refused}"
        );
    }

    #[test]
    fn names_of_vlans_are_known() {
        let interfaces = ["eth0".to_owned(), "lan".to_owned()];
        for (name, is) in [
            ("eth0.100", true),
            ("lan.1.4094", true),
            ("eth0", false),
            ("eth0.", false),
            ("eth0.x", false),
            ("eth0.4095", false),
            ("eth0.1.2.3", false),
            ("eth1.100", false),
            ("eth0100", false),
        ] {
            assert_eq!(is_named_as_vlan_of(name, &interfaces), is, "{name}");
        }
    }
}
