//! A pod on the bridge: attached, looked at, taken off.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::instance::{ANYWHERE, Instance, missing};
use super::netlink::Socket;
use super::netns::within;
use super::nft::Table;
use super::{Error, Place, mac, route};

/// The interface in a pod.
pub const INTERFACE: &str = "eth0";

/// A socket for links, addresses and routes of this namespace.
///
/// # Errors
/// The kernel's.
pub fn route_socket() -> Result<Socket, Error> {
    Socket::route().map_err(|errno| Error::sys("open a netlink socket", errno))
}

/// A socket for nftables of this namespace.
///
/// # Errors
/// The kernel's; it has no nftables.
pub fn filter_socket() -> Result<Socket, Error> {
    Socket::netfilter().map_err(|errno| missing("open a netlink socket for nftables".into(), errno, "nf_tables"))
}

impl Instance {
    /// Its table.
    pub fn table(&self) -> Table<'_> {
        Table { name: &self.table, bridge: &self.bridge, ranges: &self.ranges }
    }
}

/// What makes it: the pod's namespace, seen from inside.
struct Inside {
    netns: File,
    socket: Socket,
}

/// Links a pod to the bridge, and gives it its addresses and routes: three exchanges with the kernel. Its namespace has its settings
/// ([`sysctl::of_pod`](super::sysctl::of_pod)). What is there already is fine.
///
/// # Errors
/// The kernel's. What was made goes with the pod's namespace.
pub fn attach(
    socket: &Socket,
    bridge: u32,
    place: &Place,
    has_ports: bool,
    pause: BorrowedFd<'_>,
) -> Result<(), Error> {
    let inside = within(pause, || -> Result<Inside, Error> {
        let netns =
            File::open("/proc/thread-self/ns/net").map_err(|e| Error::io("open the pod's network namespace", &e))?;
        Ok(Inside { netns, socket: route_socket()? })
    })??;
    let veth = route::Veth {
        name: &place.host_interface,
        bridge,
        peer: INTERFACE,
        mac: mac(place.number),
        mtu: place.mtu,
        // Where the host has bridges call the packet filter (br_netfilter), a connection through the host's port to the pod that it comes from
        // never leaves the bridge.
        hairpin: has_ports,
        netns: inside.netns.as_fd(),
    };
    let doing = || format!("link the pod to bridge {}", place.bridge);
    match route::create_veth(socket, veth) {
        Ok(()) => {}
        // Made by a try before ours, or left by a namespace that is on its way out.
        Err(Errno::EEXIST) if route::link(&inside.socket, INTERFACE)?.is_some() => {
            if has_ports {
                route::set_hairpin(socket, &place.host_interface)
                    .map_err(|errno| Error::sys(format_args!("let {} reach itself", place.host_interface), errno))?;
            }
        }
        Err(Errno::EEXIST) => {
            route::delete_link(socket, &place.host_interface)?;
            route::create_veth(socket, veth).map_err(|errno| missing(doing(), errno, "veth"))?;
        }
        Err(Errno::EXFULL) => {
            return Err(Error::refused(format!("{}: it has all the ports that a bridge can have (1023)", doing())));
        }
        Err(errno) => return Err(missing(doing(), errno, "veth")),
    }
    let index = route::link(&inside.socket, INTERFACE)?.map(|link| link.index);
    let index = index.ok_or_else(|| Error::refused(format!("{}: {INTERFACE} has vanished from the pod", doing())))?;
    route::give_pod(&inside.socket, index, &place.addresses)
}

/// What a pod's link lacks, in words.
///
/// # Errors
/// The kernel's.
pub fn shortcomings(socket: &Socket, place: &Place, pause: BorrowedFd<'_>) -> Result<Vec<String>, Error> {
    let mut wrong = Vec::new();
    let bridge = route::link(socket, &place.bridge)?.map(|link| link.index);
    match route::link(socket, &place.host_interface)? {
        None => return Ok(vec![format!("its link {} is missing", place.host_interface)]),
        Some(link) if Some(link.master) != bridge => {
            wrong.push(format!("its link {} is not in bridge {}", place.host_interface, place.bridge));
        }
        Some(link) if !link.up => wrong.push(format!("its link {} is down", place.host_interface)),
        Some(_) => {}
    }
    let inside = within(pause, route_socket)??;
    let there = route::addresses(&inside)?;
    for address in &place.addresses {
        if !there.iter().any(|a| a.ip == address.ip) {
            wrong.push(format!("lacks its address {}", address.ip));
        }
        if !route::routes(&inside)?.iter().any(|r| r.to.prefix() == 0 && r.to.is_ipv4() == address.ip.is_ipv4()) {
            wrong.push(format!("lacks its route through {}", address.gateway));
        }
    }
    Ok(wrong)
}

/// Makes of a pod's link what [`attach`] makes of a new one.
///
/// # Errors
/// The kernel's.
pub fn mend(socket: &Socket, bridge: u32, place: &Place, has_ports: bool, pause: BorrowedFd<'_>) -> Result<(), Error> {
    if let Some(link) = route::link(socket, &place.host_interface)?.filter(|l| l.master != bridge || !l.up) {
        route::set_master(socket, link.index, bridge)
            .map_err(|errno| Error::sys(format_args!("put {} into bridge {}", link.name, place.bridge), errno))?;
    }
    attach(socket, bridge, place, has_ports, pause)
}

/// Addresses that others know this host by, IPv4 first: the source of what it sends anywhere, else whatever lasting address it has.
///
/// # Errors
/// The kernel's.
pub fn host_addresses(socket: &Socket, bridge: Option<&str>) -> Result<Vec<std::net::IpAddr>, Error> {
    let mut all = Vec::new();
    let mut others = None;
    for to in ANYWHERE {
        if let Some((ip, _)) = route::source(socket, to)? {
            all.push(ip);
            continue;
        }
        if others.is_none() {
            let own = bridge.map_or(Ok(None), |name| route::link(socket, name))?.map(|link| link.index);
            let lasting = route::addresses(socket)?.into_iter().filter(|a| a.lasting && !a.ip.is_loopback());
            others = Some(lasting.filter(|a| Some(a.index) != own).map(|a| a.ip).collect::<Vec<_>>());
        }
        all.extend(others.iter().flatten().find(|ip| ip.is_ipv4() == to.is_ipv4()));
    }
    Ok(all)
}
