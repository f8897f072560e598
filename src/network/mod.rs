//! The network of pods: what is wanted, what a pod was given, and how it is made and taken away.
//!
//! * [`config`]: what the configuration file says; [`range`]: address ranges
//! * [`instance`]: the bridge of an instance; [`lease`]: who has which address; [`bridge`]: a pod on it
//! * [`netlink`], [`route`], [`nft`]: how the kernel is talked to; [`netns`], [`sysctl`]: where it is told and what else it is told
//! * [`Plan`]: what was decided about one pod, in its record before anything is made; [`Status`]: what it has
//!
//! Nothing here knows pods, images or records beyond the plain data that it is given: `runtime::network` brings both together. Nothing
//! executes `ip`, `nft` or a shell.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub mod bridge;
pub mod cni;
pub mod config;
pub mod error;
pub mod forward;
pub mod instance;
pub mod lease;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod range;
pub mod route;
pub mod sysctl;

pub use config::Config;
pub use error::Error;
pub use instance::{Home, Instance};
pub use range::Range;

/// Where a pod's network comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A loopback interface and nothing else.
    #[default]
    None,
    /// The host's own.
    Host,
    /// A bridge of husk's, with addresses of husk's ranges.
    Bridge,
    /// Plugins, as the Container Network Interface has them.
    Cni,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::None, Mode::Host, Mode::Bridge, Mode::Cni];

    /// As it is written in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Mode::None => "none",
            Mode::Host => "host",
            Mode::Bridge => "bridge",
            Mode::Cni => "cni",
        }
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As CNI has it; Kubernetes writes it in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// The number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The one of this name, in small letters or capitals.
    pub fn of_name(name: &str) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A port of the host that leads to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Which protocol.
    pub protocol: Protocol,
    /// The host's.
    pub host_port: u16,
    /// The pod's.
    pub container_port: u16,
    /// The one address of the host that it is for; `None`: all, of both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}/{}", self.host_port, self.protocol),
            Some(ip) => write!(f, "{ip}:{}/{}", self.host_port, self.protocol),
            None => write!(f, "{}/{}", self.host_port, self.protocol),
        }
    }
}

/// What was decided about a pod's network before anything was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Where it comes from.
    pub mode: Mode,
    /// Ports of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// In mode `bridge`: its place on the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// A pod's place on a bridge: all that is needed to make it, to look at it and to take it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The bridge's name.
    pub bridge: String,
    /// Name of the nftables table that goes with it.
    pub table: String,
    /// The host's end of the pod's link.
    pub host_interface: String,
    /// MTU of the pod's link.
    pub mtu: u32,
    /// Number of the lease, from which the addresses follow.
    pub number: u32,
    /// One of each family that the bridge has.
    pub addresses: Vec<PodAddress>,
}

/// An address of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodAddress {
    /// The pod's.
    pub ip: IpAddr,
    /// The bridge's, which the pod's default route leads to.
    pub gateway: IpAddr,
    /// How many bits of both are the range's.
    pub prefix: u8,
}

/// FNV-1a, as names that follow from it must stay the same in every build.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The MAC address that goes with a number: with the same address comes the same one, so that nobody remembers a wrong one.
fn mac(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x0a, 0x58, a, b, c, d]
}

/// What a pod has, once it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `status.podIPs`, the primary one first; empty in mode `none`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// `status.hostIPs`, the primary one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ips: Vec<IpAddr>,
    /// The interface in the pod that has the addresses; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
}

impl Status {
    /// A field of a pod's status, as `fieldRef` names it; several addresses are separated by commas. Empty: the pod has none, or there is no such field.
    pub fn field(&self, path: &str) -> String {
        let (all, first_only) = match path {
            "status.podIP" => (&self.ips, true),
            "status.podIPs" => (&self.ips, false),
            "status.hostIP" => (&self.host_ips, true),
            "status.hostIPs" => (&self.host_ips, false),
            _ => return String::new(),
        };
        let some = all.iter().take(if first_only { 1 } else { usize::MAX });
        some.map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}
