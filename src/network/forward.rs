//! Ports of this host that lead into a pod, for as long as this process lives: `kubectl port-forward` without an API server.
//!
//! Listeners are the host's; the other end of each connection is a socket that was made in the pod's network namespace, so a server that listens on the pod's
//! loopback alone is reached, too. One thread, as [`OwnNetns::visit`] asks.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use husk_oci::errno::{Sys, io_text};
use husk_oci::sys::netns::OwnNetns;
use husk_oci::sys::{process, socket};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long a server in the pod may take to accept.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait when there is no fd for another connection.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// How often a random port is tried that is free for one address and taken for another.
const RANDOM_TRIES: u32 = 16;

/// One port of the host and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The host's; 0: one that is free.
    pub local: u16,
    /// The pod's.
    pub remote: u16,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// 127.0.0.1 and ::1, those that the host has.
    Localhost,
    /// This one.
    At(IpAddr),
}

/// The pod.
#[derive(Debug)]
pub struct Target {
    /// Its name, for messages.
    pub name: String,
    /// A pidfd of the process that holds its network namespace.
    pub holder: OwnedFd,
    /// Its addresses, for servers that do not listen on its loopback.
    pub addresses: Vec<IpAddr>,
}

/// Something to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Connections are taken.
    Listening {
        /// Here.
        at: SocketAddr,
        /// And lead to this port of the pod.
        remote: u16,
    },
    /// One was taken.
    Accepted {
        /// The host's port.
        local: u16,
    },
    /// Something went wrong with one address or connection, and others go on.
    Trouble {
        /// A sentence.
        what: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Listening { at, remote } => write!(f, "Forwarding from {at} -> {remote}"),
            Note::Accepted { local } => write!(f, "Handling connection for {local}"),
            Note::Trouble { what } => f.write_str(what),
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Ctrl-C, or another signal that asks for an end.
    Asked,
    /// The pod is over.
    PodEnded,
}

/// Forwards until it is asked to end, or the pod ends. `tell` is called for what happens; when it fails, that is the end, too.
///
/// # Errors
/// A port cannot be listened on, or the event loop fails; a sentence.
pub fn run<E>(
    target: Target,
    listen: &[Listen],
    pairs: &[Pair],
    mut tell: impl FnMut(Note) -> Result<(), E>,
) -> Result<Result<End, E>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|e| format!("start the event loop: {}", io_text(&e)))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let io = |doing: &'static str| move |e: io::Error| format!("{doing}: {}", io_text(&e));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io("watch for signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(io("watch for signals"))?;
        let own = OwnNetns::open().map_err(|e| format!("open our own network namespace: {}", Sys(e)))?;
        let inward = Rc::new(Inward { target, own });
        let (notes, mut told) = mpsc::channel(64);
        for pair in pairs {
            let mut at: Vec<(IpAddr, bool)> = Vec::new();
            for listen in listen {
                match listen {
                    Listen::Localhost => {
                        at.extend([(Ipv4Addr::LOCALHOST.into(), true), (Ipv6Addr::LOCALHOST.into(), true)]);
                    }
                    Listen::At(ip) => at.push((*ip, false)),
                }
            }
            let (listeners, troubles) = bind(&at, pair.local).await?;
            for what in troubles {
                if let Err(e) = tell(Note::Trouble { what }) {
                    return Ok(Err(e));
                }
            }
            for listener in listeners {
                let at = listener.local_addr().map_err(io("look at a listener"))?;
                if let Err(e) = tell(Note::Listening { at, remote: pair.remote }) {
                    return Ok(Err(e));
                }
                let task = accept(listener, at.port(), pair.remote, inward.clone(), notes.clone());
                tokio::task::spawn_local(task);
            }
        }
        let over = watch(&inward.target.holder).map_err(io("watch the pod"))?;
        loop {
            tokio::select! {
                biased;
                _ = interrupt.recv() => return Ok(Ok(End::Asked)),
                _ = terminate.recv() => return Ok(Ok(End::Asked)),
                _ = over.readable() => return Ok(Ok(End::PodEnded)),
                Some(note) = told.recv() => {
                    if let Err(e) = tell(note) {
                        return Ok(Err(e));
                    }
                }
            }
        }
    })
}

/// Becomes readable when the process ends.
#[allow(
    deprecated,
    reason = "what makes `new` unsound is a type whose fd changes or is closed while it is registered; an OwnedFd is given away whole"
)]
fn watch(pidfd: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd.try_clone()?, Interest::READABLE)
}

/// Listens on all addresses at one port. An address that may be missing is left out, as long as there is another; what was left out is told.
async fn bind(at: &[(IpAddr, bool)], port: u16) -> Result<(Vec<TcpListener>, Vec<String>), String> {
    for _ in 0..RANDOM_TRIES {
        let (mut listeners, mut troubles): (Vec<TcpListener>, Vec<String>) = (Vec::new(), Vec::new());
        let mut again = false;
        for (ip, may_miss) in at {
            let chosen = listeners.first().and_then(|l| l.local_addr().ok()).map_or(port, |at| at.port());
            match TcpListener::bind(SocketAddr::new(*ip, chosen)).await {
                Ok(listener) => listeners.push(listener),
                // Free for one address, taken for the other.
                Err(e) if port == 0 && e.kind() == io::ErrorKind::AddrInUse => again = true,
                // A host without IPv6.
                Err(e) if *may_miss && matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) => {}
                Err(e) => {
                    let what = format!("listen on {}: {}", SocketAddr::new(*ip, chosen), io_text(&e));
                    if !may_miss {
                        return Err(what);
                    }
                    troubles.push(what);
                }
            }
        }
        if again {
            continue;
        }
        if listeners.is_empty() {
            let nothing = || format!("listen on port {port}: this host has no loopback address");
            return Err(if troubles.is_empty() { nothing() } else { troubles.join("; ") });
        }
        return Ok((listeners, troubles));
    }
    Err("listen on a random port: none is free for all addresses".into())
}

/// What a connection's way into the pod takes.
struct Inward {
    target: Target,
    own: OwnNetns,
}

async fn accept(listener: TcpListener, local: u16, remote: u16, inward: Rc<Inward>, notes: mpsc::Sender<Note>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Nobody reads the notes any more when all is over.
                let _ = notes.send(Note::Accepted { local }).await;
                let (inward, notes) = (inward.clone(), notes.clone());
                tokio::task::spawn_local(async move {
                    if let Err(why) = carry(stream, remote, &inward).await {
                        let what = format!("an error occurred forwarding {local} -> {remote}: {why}");
                        let _ = notes.send(Note::Trouble { what }).await;
                    }
                });
            }
            Err(e) => {
                let full = matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM));
                if full {
                    let what = format!("accept a connection for {local}: {}, trying again", io_text(&e));
                    let _ = notes.send(Note::Trouble { what }).await;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                // What else there is concerns one connection that is gone already; see accept(2).
            }
        }
    }
}

/// Carries one connection to its end. An end of one direction is passed on, and the other goes on.
async fn carry(mut outside: TcpStream, port: u16, to: &Inward) -> Result<(), String> {
    let mut inside = dial(port, to).await?;
    // Small messages go through at once, as they would without us.
    let _ = (outside.set_nodelay(true), inside.set_nodelay(true));
    match tokio::io::copy_bidirectional(&mut outside, &mut inside).await {
        Ok(_) => Ok(()),
        // One side has had enough; the other one sees it by the end of its connection.
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Ok(()),
        Err(e) => Err(io_text(&e)),
    }
}

/// Connects to a port of the pod: its loopback, IPv4 first, then its addresses.
async fn dial(port: u16, to: &Inward) -> Result<TcpStream, String> {
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut first = None;
    for ip in loopback.into_iter().chain(to.target.addresses.iter().copied()) {
        let address = SocketAddr::new(ip, port);
        let why = match connect(address, to).await {
            Ok(stream) => return Ok(stream),
            Err(e) => format!("connect to {address} inside pod {}: {e}", to.target.name),
        };
        // That of the most usual address says most.
        first.get_or_insert(why);
    }
    Err(first.unwrap_or_default())
}

async fn connect(address: SocketAddr, to: &Inward) -> Result<TcpStream, String> {
    let made = to.own.visit(to.target.holder.as_fd(), || socket::tcp(address.is_ipv6()));
    let made = made.flatten().map_err(|e| match e {
        Errno::ESRCH => "the pod has ended".to_owned(),
        e => Sys(e).to_string(),
    })?;
    let connecting = from_fd(made).connect(address);
    match tokio::time::timeout(DIAL_PATIENCE, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(io_text(&e)),
        Err(_) => Err(format!("no answer within {} s", DIAL_PATIENCE.as_secs())),
    }
}

/// tokio's socket around one that was made elsewhere.
fn from_fd(made: OwnedFd) -> TcpSocket {
    TcpSocket::from_std_stream(std::net::TcpStream::from(made))
}

/// Every fd that a connection takes is one of ours: as many as we may have.
pub fn raise_fd_limit() {
    if let Ok(limit) = process::prlimit(0, libc::RLIMIT_NOFILE, None) {
        // With fewer there are fewer connections, and those that do not fit are told.
        let _ = process::prlimit(0, libc::RLIMIT_NOFILE, Some(process::Limit { soft: limit.hard, hard: limit.hard }));
    }
}
