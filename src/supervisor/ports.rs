//! Ports of the host: reserved by a socket that listens (SCTP: by a lock), so that no other pod and no other program can have them, and served on the loopback
//! interface. What comes from elsewhere the packet filter sends to the pod; it cannot do that for what the host sends to its own loopback
//! addresses, which must not leave that interface (`route_localnet` would let them, and let pods reach what listens there: CVE-2020-8558). So the
//! supervisor passes that on. The sockets are with keeper: they live as long as the pod, not as long as a supervisor.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen, setsockopt, shutdown,
    socket, sockopt,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::pod::{Pod, keeper_error, say};
use super::slots;
use crate::network::{Mode, Port, Protocol};
use crate::runtime::Error;
use crate::state::Listed;

/// Connections, and peers of a UDP port, that are served at once; more wait, or are not heard. They are for a look by hand, not for traffic.
const AT_ONCE: usize = 64;
/// How long a UDP peer is remembered after its last answer.
const UDP_IDLE: Duration = Duration::from_secs(30);
/// What is moved at once of a connection.
const PIECE: usize = 8 << 10;
/// How long to wait after a refusal (no more fds) before the next connection is taken.
const PAUSE: Duration = Duration::from_millis(250);

/// The addresses of the pod, which a new sandbox may change.
type PodAddresses = Rc<RefCell<Vec<IpAddr>>>;

impl Pod {
    /// Reserves the pod's host ports, or finds those that an earlier supervisor has reserved.
    ///
    /// # Errors
    /// A port is taken, by another pod (which is named) or by a program.
    pub(super) fn reserve_ports(&mut self) -> Result<Vec<(Port, OwnedFd)>, Error> {
        let plan = self.record.sandbox.network.clone();
        if !matches!(plan.mode, Mode::Bridge | Mode::Cni) {
            return Ok(Vec::new());
        }
        let mut reserved = Vec::new();
        for (slot, port) in slots::PORTS.zip(plan.ports) {
            if let Some(there) = self.keeper_get(slot)? {
                reserved.push((port, there));
                continue;
            }
            let claimed = match port.protocol {
                // Its sockets are of a module of their own, which most hosts do not have and no port forwarding needs.
                Protocol::Sctp => self.roots.claim_port(port.host_port, port.host_ip)?.ok_or(Errno::EADDRINUSE),
                Protocol::Tcp | Protocol::Udp => reserve(&port),
            };
            let socket = match claimed {
                Ok(socket) => socket,
                Err(Errno::EADDRINUSE) => {
                    let why = match self.holder(&port) {
                        Some(pod) => format!("is taken by pod {pod}"),
                        None if port.protocol == Protocol::Sctp => "is taken by a pod that has just ended".to_owned(),
                        None => format!(
                            "is taken by a program of the host; ss -lnp 'sport = :{}' tells which one",
                            port.host_port
                        ),
                    };
                    return Err(self.taken(&port, &why));
                }
                Err(Errno::EADDRNOTAVAIL) => {
                    return Err(self.taken(&port, "cannot be reserved: hostIP is no address of this host"));
                }
                Err(errno) => {
                    return Err(self.taken(&port, &format!("cannot be reserved: {}", husk_oci::errno::Sys(errno))));
                }
            };
            self.keeper.put(slot, socket.as_fd()).map_err(keeper_error)?;
            reserved.push((port, socket));
        }
        self.keeper.confirm().map_err(keeper_error)?;
        Ok(reserved)
    }

    fn taken(&self, port: &Port, why: &str) -> Error {
        Error::Pod { pod: self.record.full_name(), what: format!("hostPort {port} {why}") }
    }

    /// The other pod that has the port.
    fn holder(&self, port: &Port) -> Option<String> {
        let clashes = |other: &Port| {
            (other.protocol, other.host_port) == (port.protocol, port.host_port)
                && (other.host_ip.is_none() || port.host_ip.is_none() || other.host_ip == port.host_ip)
        };
        self.roots.list().ok()?.into_iter().find_map(|listed| match listed {
            Listed::Pod(e) if e.live && e.id != self.record.id && e.status.finished_at.is_none() => {
                e.record.sandbox.network.ports.iter().any(clashes).then(|| e.record.full_name())
            }
            _ => None,
        })
    }

    /// Serves reserved ports on the loopback interface.
    pub(super) fn serve_ports(&mut self, ports: Vec<(Port, OwnedFd)>) {
        for (port, socket) in ports {
            let addresses = self.pod_addresses.clone();
            tokio::task::spawn_local(async move {
                let served = match port.protocol {
                    Protocol::Tcp => serve_tcp(socket, port, addresses).await,
                    Protocol::Udp => serve_udp(socket, port, addresses).await,
                    Protocol::Sctp => Ok(()),
                };
                if let Err(e) = served {
                    let what = husk_oci::errno::io_text(&e);
                    say(
                        "warn",
                        format_args!("hostPort {port} on the loopback interface: {what}, continuing without it"),
                    );
                }
            });
        }
    }

    /// Takes in what addresses the sandbox has now.
    pub(super) fn note_addresses(&mut self) {
        let network = self.status.sandbox.as_ref().and_then(|s| s.network.as_ref());
        *self.pod_addresses.borrow_mut() = network.map(|n| n.ips.clone()).unwrap_or_default();
    }
}

/// A socket that has the port: of both families where it is for all addresses.
fn reserve(port: &Port) -> Result<OwnedFd, Errno> {
    let ip = port.host_ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    match reserve_at(port, ip) {
        // A host without IPv6.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if port.host_ip.is_none() => {
            reserve_at(port, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
        other => other,
    }
}

fn reserve_at(port: &Port, ip: IpAddr) -> Result<OwnedFd, Errno> {
    let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let udp = port.protocol == Protocol::Udp;
    let kind = if udp { SockType::Datagram } else { SockType::Stream };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if ip.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &port.host_ip.is_some())?;
    }
    if !udp {
        // Connections of an earlier pod that are not quite over are nobody's claim. With UDP it would let two have the port.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    match SocketAddr::new(ip, port.host_port) {
        SocketAddr::V4(at) => bind(socket.as_raw_fd(), &SockaddrIn::from(at))?,
        SocketAddr::V6(at) => bind(socket.as_raw_fd(), &SockaddrIn6::from(at))?,
    }
    if !udp {
        listen(&socket, Backlog::new(128)?)?;
    }
    Ok(socket)
}

/// Where in the pod a peer's words go to: the address of its own family, if the pod has one.
fn target(addresses: &PodAddresses, ipv4: bool, port: &Port) -> Option<SocketAddr> {
    let addresses = addresses.borrow();
    let ip = addresses.iter().find(|ip| ip.is_ipv4() == ipv4).or(addresses.first())?;
    Some(SocketAddr::new(*ip, port.container_port))
}

async fn serve_tcp(socket: OwnedFd, port: Port, addresses: PodAddresses) -> io::Result<()> {
    let listener = TcpListener::from_std(std::net::TcpListener::from(socket))?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return Ok(()) };
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Whoever comes to another address of the host is the packet filter's to send on: that it did not means that its table is gone, and
        // what the pod would see from here is not where the connection comes from.
        let Some(local) = client.local_addr().ok().map(|a| a.ip().to_canonical()).filter(IpAddr::is_loopback) else {
            continue;
        };
        let Some(target) = target(&addresses, local.is_ipv4(), &port) else { continue };
        tokio::task::spawn_local(async move {
            if let Ok(pod) = TcpStream::connect(target).await {
                let _ = tokio::join!(pass(&client, &pod), pass(&pod, &client));
            }
            drop(place);
        });
    }
}

/// Moves bytes one way until their end, which it passes on, too.
async fn pass(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let moved = async {
        loop {
            from.readable().await?;
            // Not kept while nothing comes.
            let mut piece = [0; PIECE];
            let mut rest = match from.try_read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => &piece[..length],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e),
            };
            while !rest.is_empty() {
                to.writable().await?;
                match to.try_write(rest) {
                    Ok(length) => rest = &rest[length..],
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
        }
    };
    let moved = moved.await;
    let how = if moved.is_ok() { Shutdown::Write } else { Shutdown::Both };
    // It may be gone already.
    let _ = shutdown(to.as_raw_fd(), how);
    if moved.is_err() {
        let _ = shutdown(from.as_raw_fd(), Shutdown::Both);
    }
    moved
}

async fn serve_udp(socket: OwnedFd, port: Port, addresses: PodAddresses) -> io::Result<()> {
    let socket = Rc::new(UdpSocket::from_std(std::net::UdpSocket::from(socket))?);
    let peers: Rc<RefCell<HashMap<SocketAddr, Rc<UdpSocket>>>> = Rc::default();
    loop {
        socket.readable().await?;
        let mut datagram = vec![0; 1 << 16];
        let (length, peer) = match socket.try_recv_from(&mut datagram) {
            Ok(received) => received,
            // Also what a peer that is gone leaves on the socket.
            Err(_) => continue,
        };
        if !peer.ip().to_canonical().is_loopback() {
            continue;
        }
        let known = peers.borrow().get(&peer).cloned();
        let pod = match known {
            Some(pod) => pod,
            None if peers.borrow().len() >= AT_ONCE => continue,
            None => {
                let Some(target) = target(&addresses, peer.ip().to_canonical().is_ipv4(), &port) else { continue };
                let any =
                    if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
                let Ok(pod) = UdpSocket::bind(SocketAddr::new(any, 0)).await else { continue };
                if pod.connect(target).await.is_err() {
                    continue;
                }
                let pod = Rc::new(pod);
                peers.borrow_mut().insert(peer, pod.clone());
                let (peers, socket, pod_side) = (peers.clone(), socket.clone(), pod.clone());
                tokio::task::spawn_local(async move {
                    answer(&pod_side, &socket, peer).await;
                    peers.borrow_mut().remove(&peer);
                });
                pod
            }
        };
        // A datagram that cannot be sent is lost, as datagrams are.
        // (A socket that is new to the event loop is not known to be ready yet.)
        let _ = pod.send(&datagram[..length]).await;
    }
}

/// Passes the pod's answers to a peer, until there are none for a while.
async fn answer(pod: &UdpSocket, socket: &UdpSocket, peer: SocketAddr) {
    while let Ok(Ok(())) = tokio::time::timeout(UDP_IDLE, pod.readable()).await {
        let mut datagram = vec![0; 1 << 16];
        match pod.try_recv(&mut datagram) {
            Ok(length) => drop(socket.send_to(&datagram[..length], peer).await),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // Nobody listens in the pod.
            Err(_) => return,
        }
    }
}
