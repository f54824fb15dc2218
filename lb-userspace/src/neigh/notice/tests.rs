//! Messages about links, byte by byte as rtnetlink(7) has them.

use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What a message about `eth0.100` says with more attributes.
fn read(more: &[Vec<u8>]) -> Link {
    // struct ifinfomsg: family, padding, type (Ethernet), index, flags, change.
    let mut body = vec![0, 0];
    body.extend(1_u16.to_ne_bytes());
    body.extend(7_u32.to_ne_bytes());
    body.extend([0; 8]);
    body.extend(attribute(3, b"eth0.100\0"));
    body.extend(attribute(4, &1500_u32.to_ne_bytes()));
    body.extend(more.concat());
    match link(false, &body).unwrap() {
        Some(Notice::Link(state)) => state.link,
        other => panic!("{other:?}"),
    }
}

fn info(kind: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let kind = attribute(1, format!("{kind}\0").as_bytes());
    attribute(18, &[kind, attribute(2 | 0x8000, &data.concat())].concat())
}

#[test]
fn a_vlan_says_its_tag_and_what_it_is_built_on() {
    let lower = attribute(5, &3_u32.to_ne_bytes());
    let number = attribute(1, &100_u16.to_ne_bytes());
    let provider = attribute(5, &[0x88, 0xa8]);
    let customer = info("vlan", std::slice::from_ref(&number));
    let found = read(&[lower.clone(), customer]);
    let vlan = |lower, tag| Some(Vlan { lower, tag });
    assert_eq!(found.vlan, vlan(Some(3), [0x81, 0, 0, 100]));
    assert_eq!((found.bond, found.ifindex), (None, 7));
    let both = info("vlan", &[number.clone(), provider]);
    let found = read(&[lower.clone(), both.clone()]);
    assert_eq!(found.vlan, vlan(Some(3), [0x88, 0xa8, 0, 100]));
    // What it is built on is in another network namespace: the number means another interface here.
    let elsewhere = attribute(37, &0_u32.to_ne_bytes());
    assert_eq!(
        read(&[lower.clone(), elsewhere, both]).vlan,
        vlan(None, [0x88, 0xa8, 0, 100])
    );
    // A veth has a peer, and other kinds have other data.
    assert_eq!(
        read(&[lower.clone(), info("veth", std::slice::from_ref(&number))]).vlan,
        None
    );
    assert_eq!(read(&[lower]).vlan, None);
}

#[test]
fn what_belongs_to_a_bond_says_so_and_a_port_of_a_bridge_does_not() {
    let master = attribute(10, &9_u32.to_ne_bytes());
    let of = |kind: &str| attribute(18, &attribute(4, format!("{kind}\0").as_bytes()));
    assert_eq!(read(&[master.clone(), of("bond")]).bond, Some(9));
    assert_eq!(read(&[master, of("bridge")]).bond, None);
    assert_eq!(read(&[of("bond")]).bond, None);
}
