//! Links, addresses and routes, through rtnetlink(7). Every function works in the network namespace of the socket that it is given.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::netlink::{ACK, Answer, Attributes, Buffer, CREATE, DUMP, EXCL, Failed, REPLACE, Socket};
use super::{Error, PodAddress, Range};

/// Sizes of `ifinfomsg`, `ifaddrmsg` and `rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
/// Temporary, deprecated, tentative or double: not an address to be known by.
const IFA_F_PASSING: u32 = 0x01 | 0x20 | 0x40 | 0x08;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, …; empty for a piece of hardware.
    pub kind: String,
    /// Its MTU.
    pub mtu: u32,
    /// The bridge that it is a port of, or 0.
    pub master: u32,
    /// It is up.
    pub up: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Of which interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// Others may know us by it: it is global and lasts.
    pub lasting: bool,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to; the default route has a length of 0.
    pub to: Range,
    /// Through which interface.
    pub index: u32,
}

fn ifinfo(index: u32, flags: u32) -> [u8; LINK] {
    let mut header = [0; LINK];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn link_of(answer: &Answer) -> Option<Link> {
    let header: [u8; LINK] = answer.header();
    let attributes = answer.attributes(LINK);
    let info = attributes.get(libc::IFLA_LINKINFO).map(Attributes);
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Some(Link {
        index: word(4),
        name: attributes.get_text(libc::IFLA_IFNAME)?,
        kind: info.and_then(|info| info.get_text(libc::IFLA_INFO_KIND)).unwrap_or_default(),
        mtu: attributes.get_u32(libc::IFLA_MTU).unwrap_or_default(),
        master: attributes.get_u32(libc::IFLA_MASTER).unwrap_or_default(),
        up: word(8) & libc::IFF_UP as u32 != 0,
    })
}

/// The interface of this name, if there is one.
///
/// # Errors
/// The kernel's.
pub fn link(socket: &Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_GETLINK, 0, &ifinfo(0, 0), |b| b.text(libc::IFLA_IFNAME, name));
    match socket.ask(&buffer) {
        Ok(answers) => Ok(answers.iter().find_map(link_of)),
        Err(Errno::ENODEV) => Ok(None),
        Err(errno) => Err(Error::sys(format_args!("look for interface {name}"), errno)),
    }
}

/// All interfaces.
///
/// # Errors
/// The kernel's.
pub fn links(socket: &Socket) -> Result<Vec<Link>, Error> {
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_GETLINK, DUMP, &ifinfo(0, 0), |_| {});
    let answers = socket.ask(&buffer).map_err(|errno| Error::sys("list interfaces", errno))?;
    Ok(answers.iter().filter_map(link_of).collect())
}

/// All addresses.
///
/// # Errors
/// The kernel's.
pub fn addresses(socket: &Socket) -> Result<Vec<Address>, Error> {
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_GETADDR, DUMP, &[0; ADDRESS], |_| {});
    let answers = socket.ask(&buffer).map_err(|errno| Error::sys("list addresses", errno))?;
    let address = |answer: &Answer| {
        let header: [u8; ADDRESS] = answer.header();
        let attributes = answer.attributes(ADDRESS);
        let bytes = attributes.get(libc::IFA_LOCAL).or_else(|| attributes.get(libc::IFA_ADDRESS))?;
        let flags = attributes.get_u32(IFA_FLAGS).unwrap_or(u32::from(header[2]));
        let of_ipv6 = header[0] == libc::AF_INET6 as u8;
        Some(Address {
            index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
            ip: ip(bytes)?,
            prefix: header[1],
            lasting: header[3] == libc::RT_SCOPE_UNIVERSE && (!of_ipv6 || flags & IFA_F_PASSING == 0),
        })
    };
    Ok(answers.iter().filter_map(address).collect())
}

/// All routes of the main table.
///
/// # Errors
/// The kernel's.
pub fn routes(socket: &Socket) -> Result<Vec<Route>, Error> {
    let mut all = Vec::new();
    for (family, nowhere) in [(libc::AF_INET, IpAddr::from([0; 4])), (libc::AF_INET6, IpAddr::from([0; 16]))] {
        let mut header = [0; ROUTE];
        header[0] = family as u8;
        let mut buffer = Buffer::default();
        buffer.message(libc::RTM_GETROUTE, DUMP, &header, |_| {});
        let answers = socket.ask(&buffer).map_err(|errno| Error::sys("list routes", errno))?;
        for answer in &answers {
            let header: [u8; ROUTE] = answer.header();
            let attributes = answer.attributes(ROUTE);
            let to = attributes.get(libc::RTA_DST).map_or(Some(nowhere), ip);
            let (Some(to), true, true) = (to, header[4] == libc::RT_TABLE_MAIN, header[7] == libc::RTN_UNICAST) else {
                continue;
            };
            let index = attributes.get_u32(libc::RTA_OIF).unwrap_or_default();
            all.extend(Range::around(to, header[1]).map(|to| Route { to, index }));
        }
    }
    Ok(all)
}

/// The address of ours that packets to `to` carry, and the interface that they leave through; `None` where no route leads there.
///
/// # Errors
/// The kernel's.
pub fn source(socket: &Socket, to: IpAddr) -> Result<Option<(IpAddr, u32)>, Error> {
    let mut header = [0; ROUTE];
    (header[0], header[1]) = (family(to), if to.is_ipv4() { 32 } else { 128 });
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_GETROUTE, 0, &header, |b| b.attr(libc::RTA_DST, &octets(to)));
    match socket.ask(&buffer) {
        Ok(answers) => Ok(answers.first().and_then(|answer| {
            let attributes = answer.attributes(ROUTE);
            Some((ip(attributes.get(libc::RTA_PREFSRC)?)?, attributes.get_u32(libc::RTA_OIF)?))
        })),
        Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL | Errno::EAFNOSUPPORT) => Ok(None),
        Err(errno) => Err(Error::sys(format_args!("look for a route to {to}"), errno)),
    }
}

/// Makes a bridge, up, with a MAC address of its own: else it would have that of whichever port is there. EEXIST when there is something of
/// this name.
///
/// # Errors
/// The kernel's, which has no bridges at all with EOPNOTSUPP.
pub fn create_bridge(socket: &Socket, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), Errno> {
    let mut buffer = Buffer::default();
    let header = ifinfo(0, libc::IFF_UP as u32);
    buffer.message(libc::RTM_NEWLINK, ACK | CREATE | EXCL, &header, |b| {
        b.text(libc::IFLA_IFNAME, name);
        b.u32(libc::IFLA_MTU, mtu);
        b.attr(libc::IFLA_ADDRESS, &mac);
        b.nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_KIND, "bridge");
            // Who wants to hear of a neighbour is asked by multicast, and without a querier snooping forgets who listens.
            b.nest(libc::IFLA_INFO_DATA, |b| b.attr(IFLA_BR_MCAST_SNOOPING, &[0]));
        });
    });
    socket.transact(&buffer).map_err(|failed| failed.errno)
}

/// A link between a bridge and a pod.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the host's end.
    pub name: &'a str,
    /// The bridge that it becomes a port of.
    pub bridge: u32,
    /// Name of the pod's end.
    pub peer: &'a str,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// MTU of both.
    pub mtu: u32,
    /// The pod gets back what it has sent to itself by way of the bridge.
    pub hairpin: bool,
    /// The pod's network namespace.
    pub netns: BorrowedFd<'a>,
}

/// Makes both ends of a link at once, each where it belongs, and the host's up: to make it here and move it costs some 20 ms. It goes when the pod's
/// namespace does. EEXIST when there is something of one of these names.
///
/// # Errors
/// The kernel's, which has no such links at all with EOPNOTSUPP.
pub fn create_veth(socket: &Socket, veth: Veth<'_>) -> Result<(), Errno> {
    let up = libc::IFF_UP as u32;
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, up), |b| {
        b.text(libc::IFLA_IFNAME, veth.name);
        b.u32(libc::IFLA_MTU, veth.mtu);
        b.u32(libc::IFLA_MASTER, veth.bridge);
        b.nest(libc::IFLA_LINKINFO, |b| {
            b.text(libc::IFLA_INFO_KIND, "veth");
            b.nest(libc::IFLA_INFO_DATA, |b| {
                b.nest(VETH_INFO_PEER, |b| {
                    // It cannot be up before there is another end.
                    b.raw(&ifinfo(0, 0));
                    b.text(libc::IFLA_IFNAME, veth.peer);
                    b.u32(libc::IFLA_MTU, veth.mtu);
                    b.attr(libc::IFLA_ADDRESS, &veth.mac);
                    b.u32(libc::IFLA_NET_NS_FD, veth.netns.as_raw_fd() as u32);
                });
            });
        });
    });
    if veth.hairpin {
        put_hairpin(&mut buffer, veth.name);
    }
    socket.transact(&buffer).map_err(|failed| failed.errno)
}

/// Brings an interface up.
///
/// # Errors
/// The kernel's.
pub fn set_up(socket: &Socket, index: u32) -> Result<(), Errno> {
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_SETLINK, ACK, &ifinfo(index, libc::IFF_UP as u32), |_| {});
    socket.transact(&buffer).map_err(|failed| failed.errno)
}

/// Makes an interface a port of a bridge.
///
/// # Errors
/// The kernel's.
pub fn set_master(socket: &Socket, index: u32, bridge: u32) -> Result<(), Errno> {
    let mut buffer = Buffer::default();
    let header = ifinfo(index, libc::IFF_UP as u32);
    buffer.message(libc::RTM_SETLINK, ACK, &header, |b| b.u32(libc::IFLA_MASTER, bridge));
    socket.transact(&buffer).map_err(|failed| failed.errno)
}

/// Lets a port of a bridge get back what came from it.
///
/// # Errors
/// The kernel's.
pub fn set_hairpin(socket: &Socket, name: &str) -> Result<(), Errno> {
    let mut buffer = Buffer::default();
    put_hairpin(&mut buffer, name);
    socket.transact(&buffer).map_err(|failed| failed.errno)
}

fn put_hairpin(buffer: &mut Buffer, name: &str) {
    buffer.message(libc::RTM_NEWLINK, ACK, &ifinfo(0, 0), |b| {
        b.text(libc::IFLA_IFNAME, name);
        b.nest(libc::IFLA_LINKINFO, |b| {
            b.text(IFLA_INFO_SLAVE_KIND, "bridge");
            b.nest(IFLA_INFO_SLAVE_DATA, |b| b.attr(IFLA_BRPORT_MODE, &[1]));
        });
    });
}

/// Removes an interface; one that is gone is fine.
///
/// # Errors
/// The kernel's.
pub fn delete_link(socket: &Socket, name: &str) -> Result<(), Error> {
    let mut buffer = Buffer::default();
    buffer.message(libc::RTM_DELLINK, ACK, &ifinfo(0, 0), |b| b.text(libc::IFLA_IFNAME, name));
    match socket.transact(&buffer) {
        Ok(()) | Err(Failed { errno: Errno::ENODEV, .. }) => Ok(()),
        Err(failed) => Err(Error::sys(format_args!("remove interface {name}"), failed.errno)),
    }
}

fn put_address(buffer: &mut Buffer, index: u32, ip: IpAddr, prefix: u8) {
    let mut header = [0; ADDRESS];
    (header[0], header[1]) = (family(ip), prefix);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    buffer.message(libc::RTM_NEWADDR, ACK | CREATE | REPLACE, &header, |b| {
        b.attr(libc::IFA_LOCAL, &octets(ip));
        b.attr(libc::IFA_ADDRESS, &octets(ip));
        if let IpAddr::V4(ip) = ip {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            b.attr(libc::IFA_BROADCAST, &(u32::from(ip) | host).to_be_bytes());
        } else {
            // Nobody else can have it, and a pod shall not wait a second to find that out.
            b.u32(IFA_FLAGS, IFA_F_NODAD);
        }
    });
}

/// Gives the bridge its addresses; those that it has already are fine.
///
/// # Errors
/// The kernel's.
pub fn give_bridge(socket: &Socket, index: u32, addresses: &[(IpAddr, u8)]) -> Result<(), Errno> {
    let mut buffer = Buffer::default();
    for (ip, prefix) in addresses {
        put_address(&mut buffer, index, *ip, *prefix);
    }
    socket.transact(&buffer).map_err(|failed| failed.errno)
}

/// Brings the pod's end up, with its addresses and default routes, in one go; what is there already is fine. `socket` is of the pod's namespace.
///
/// # Errors
/// The kernel's, with what it refused.
pub fn give_pod(socket: &Socket, index: u32, addresses: &[PodAddress]) -> Result<(), Error> {
    let mut buffer = Buffer::default();
    for a in addresses {
        put_address(&mut buffer, index, a.ip, a.prefix);
    }
    buffer.message(libc::RTM_SETLINK, ACK, &ifinfo(index, libc::IFF_UP as u32), |_| {});
    for a in addresses {
        let mut header = [0; ROUTE];
        header[0] = family(a.gateway);
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = libc::RTPROT_STATIC;
        header[6] = libc::RT_SCOPE_UNIVERSE;
        header[7] = libc::RTN_UNICAST;
        buffer.message(libc::RTM_NEWROUTE, ACK | CREATE | REPLACE, &header, |b| {
            b.attr(libc::RTA_GATEWAY, &octets(a.gateway));
            b.u32(libc::RTA_OIF, index);
        });
    }
    socket.transact(&buffer).map_err(|failed| {
        let count = addresses.len();
        let doing = match failed.message {
            Some(n) if n < count => format!("give the pod the address {}/{}", addresses[n].ip, addresses[n].prefix),
            Some(n) if n == count => "bring up the pod's end of its link".into(),
            Some(n) if n <= 2 * count => format!("give the pod a route through {}", addresses[n - count - 1].gateway),
            _ => "give the pod its addresses".into(),
        };
        Error::sys(doing, failed.errno)
    })
}
