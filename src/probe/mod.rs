//! Probes: is a container up, alive, ready? One mechanism a file, and the state machine that decides when to ask and what an answer means.
//!
//! [`worker`] is pure: time is a parameter, and nothing here remembers anything but it. [`http`], [`tcp`] and [`grpc`] ask over the network, through sockets that are
//! made inside the pod's network namespace by the caller's only thread ([`OwnNetns::visit`]); there is no helper process, no second thread, and no name is ever looked up: a
//! host is an IP address or `localhost`. `exec` needs a process in a container, which only the supervisor can make.
//!
//! Whoever answers is a stranger: what is read from one is bounded in size, and every call is meant to be dropped when its time is over.

use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use husk_oci::sys::netns::OwnNetns;
use husk_oci::sys::socket;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpSocket, TcpStream};

pub mod grpc;
pub mod http;
mod io;
pub mod tcp;
#[cfg(test)]
mod tests;
mod tls;
pub mod url;
pub mod worker;

pub use worker::{Seen, Worker};

/// How much of an answer, or of the output of a command, is kept.
pub const OUTPUT_LIMIT: usize = 10 * 1024;

/// How often a probe is tried that could not be made at all.
pub const TRIES: u32 = 3;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Has it come up? Until then no other probe is made.
    Startup,
    /// Does it live? If not it is started again.
    Liveness,
    /// Can it be used?
    Readiness,
}

impl Kind {
    /// All of them, in the order in which they matter.
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];
}

impl fmt::Display for Kind {
    /// As events begin.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        })
    }
}

/// The probes of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// `startupProbe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Box<Probe>>,
    /// `livenessProbe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Box<Probe>>,
    /// `readinessProbe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Box<Probe>>,
}

impl Probes {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        *self == Probes::default()
    }

    /// The one of a kind.
    pub fn get(&self, kind: Kind) -> Option<&Probe> {
        match kind {
            Kind::Startup => self.startup.as_deref(),
            Kind::Liveness => self.liveness.as_deref(),
            Kind::Readiness => self.readiness.as_deref(),
        }
    }
}

/// One probe with its defaults, and with its port looked up. `v1.Probe`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What is done.
    pub handler: Handler,
    /// `initialDelaySeconds`, from the container's start.
    pub initial_delay_seconds: u32,
    /// `timeoutSeconds`, at least 1.
    pub timeout_seconds: u32,
    /// `periodSeconds`, at least 1.
    pub period_seconds: u32,
    /// `successThreshold`, at least 1.
    pub success_threshold: u32,
    /// `failureThreshold`, at least 1.
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds`: in place of the pod's, when the container is stopped because of this probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Handler {
    /// Run a command in the container; exit code 0 is good.
    Exec {
        /// Its words, expanded.
        command: Vec<String>,
    },
    /// Ask an HTTP server; 200 to 399 is good.
    HttpGet(HttpGet),
    /// Connect.
    TcpSocket {
        /// `None`: the pod's own address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// 1 to 65535.
        port: u16,
    },
    /// Ask a server by `grpc.health.v1`.
    Grpc {
        /// 1 to 65535.
        port: u16,
        /// The service that is asked for; empty: the server as a whole.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        service: String,
    },
}

/// `httpGet` of a hook or a probe, with its port looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGet {
    /// `host`: an IP address or `localhost`; `None`: the pod's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `port`, 1 to 65535.
    pub port: u16,
    /// `scheme` is HTTPS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// `path`, with its query.
    pub path: String,
    /// `httpHeaders`, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// What one probe has come to, with what there is to tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Good.
    Success,
    /// Good, and somebody should know this.
    Warning(String),
    /// Bad.
    Failure(String),
    /// The probe could not be made. It says nothing about the container.
    Error(String),
}

impl Outcome {
    /// Good or bad; `None` where it says nothing.
    pub fn passed(&self) -> Option<bool> {
        match self {
            Outcome::Success | Outcome::Warning(_) => Some(true),
            Outcome::Failure(_) => Some(false),
            Outcome::Error(_) => None,
        }
    }
}

/// From where a probe is made.
#[derive(Debug)]
pub struct Place<'a> {
    /// The pod's network namespace, an nsfs file or the pidfd of a process in it, and ours to come back to; `None`: ours is the pod's.
    pub netns: Option<(BorrowedFd<'a>, &'a OwnNetns)>,
    /// The pod's address, for a probe without `host`.
    pub address: IpAddr,
    /// What it waits for, for the message when its time is over.
    pub progress: Cell<&'static str>,
}

impl<'a> Place<'a> {
    /// In a network namespace, to an address of the pod; without one to the loopback.
    pub fn new(netns: Option<(BorrowedFd<'a>, &'a OwnNetns)>, address: Option<IpAddr>) -> Place<'a> {
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Place { netns, address, progress: Cell::new("to begin") }
    }

    /// The address that a `host` means.
    ///
    /// # Errors
    /// It is a name, which nobody looks up here.
    fn host(&self, host: Option<&str>) -> Result<IpAddr, String> {
        match host.unwrap_or_default() {
            "" => Ok(self.address),
            host => address(host).ok_or_else(|| format!("{host:?} is neither an IP address nor localhost")),
        }
    }

    /// For at most one piece of data each way.
    async fn connect(&self, to: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.progress.set("for the connection");
        let make = || socket::tcp(to.is_ipv6());
        let socket = match self.netns {
            Some((netns, own)) => own.visit(netns, make).flatten(),
            None => make(),
        };
        let socket = socket.map_err(|errno| ConnectError::Socket { errno })?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await.map_err(|e| ConnectError::refused(to, &e))
    }

    /// For a dialogue of small messages that are answered at once.
    async fn connect_to_talk(&self, to: SocketAddr) -> Result<TcpStream, ConnectError> {
        let stream = self.connect(to).await?;
        stream.set_nodelay(true).map_err(|e| ConnectError::refused(to, &e))?;
        Ok(stream)
    }
}

/// The IP address that the `host` of a probe is: one, or `localhost`.
pub fn address(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    host.parse().ok()
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// Nobody answers there.
    Refused {
        /// Where.
        to: SocketAddr,
        /// The kernel's word.
        why: String,
    },
    /// Not even tried: the sandbox is gone, or our process has no more fds.
    Socket {
        /// The kernel's word.
        errno: Errno,
    },
}

impl ConnectError {
    fn refused(to: SocketAddr, why: &std::io::Error) -> ConnectError {
        ConnectError::Refused { to, why: husk_oci::errno::io_text(why) }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Refused { to, why } => write!(f, "connect to {to}: {why}"),
            ConnectError::Socket { errno } => {
                write!(f, "make a socket in the pod's network namespace: {}", husk_oci::errno::Sys(*errno))
            }
        }
    }
}

/// Makes a probe over the network, in the time that it has.
pub async fn ask(place: &Place<'_>, probe: &Probe) -> Outcome {
    let limit = std::time::Duration::from_secs(probe.timeout_seconds.into());
    let asked = async {
        match &probe.handler {
            Handler::HttpGet(request) => http::check(place, request).await,
            Handler::TcpSocket { host, port } => tcp::check(place, host.as_deref(), *port).await,
            Handler::Grpc { port, service } => grpc::check(place, *port, service).await,
            Handler::Exec { .. } => Outcome::Error("a command is not asked over the network".into()),
        }
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let what = match &probe.handler {
                Handler::HttpGet(request) => http::describe(place, request),
                Handler::TcpSocket { host, port } => tcp::describe(place, host.as_deref(), *port),
                Handler::Grpc { port, service } => grpc::describe(place, *port, service),
                Handler::Exec { .. } => String::new(),
            };
            let waited = place.progress.get();
            Outcome::Failure(format!("{what}: waited {} s in vain {waited}", probe.timeout_seconds))
        }
    }
}

/// At most [`OUTPUT_LIMIT`] of what a stranger has said, as text.
pub fn text(mut bytes: Vec<u8>) -> String {
    bytes.truncate(OUTPUT_LIMIT);
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}
