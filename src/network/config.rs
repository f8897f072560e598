//! The `network` part of the configuration file.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Mode, Range};

/// What an administrator says about the network of pods. Everything has a default: without a file it works.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// What a pod has that says nothing else.
    pub mode: Mode,
    /// Name of the bridge; `None`: `husk0`, or one of the instance's own when it does not use the usual directories.
    pub bridge: Option<String>,
    /// IPv4 addresses of pods.
    pub ipv4: Wanted,
    /// IPv6 addresses of pods.
    pub ipv6: Wanted,
    /// MTU of pods; `None`: that of the interface that the host's default route leads to.
    pub mtu: Option<u32>,
    /// Where the plugins are.
    pub cni: Cni,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mode: Mode::Bridge,
            bridge: None,
            ipv4: Wanted::Auto,
            ipv6: Wanted::Auto,
            mtu: None,
            cni: Cni::default(),
        }
    }
}

/// Places of the Container Network Interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cni {
    /// Configurations; the first one by name counts.
    pub conf_dir: PathBuf,
    /// Plugins, looked for in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Name of the network, when it shall not be the first one.
    pub network: Option<String>,
    /// How long the plugins of a network may take together to attach a pod.
    pub timeout_seconds: u64,
}

impl Default for Cni {
    fn default() -> Cni {
        Cni {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).into(),
            network: None,
            timeout_seconds: 60,
        }
    }
}

/// Which range a family has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// One that the host does not use, chosen once.
    #[default]
    Auto,
    /// None: pods have no address of this family.
    None,
    /// This one.
    Range(Range),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Auto => f.write_str("auto"),
            Wanted::None => f.write_str("none"),
            Wanted::Range(range) => range.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wanted, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(Wanted::Auto),
            "none" => Ok(Wanted::None),
            range => range.parse().map(Wanted::Range).map_err(serde::de::Error::custom),
        }
    }
}

/// The kernel's smallest for IPv6, and its largest.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65535;
/// A shorter time is none, and what takes longer hangs.
const TIMEOUT_SECONDS: std::ops::RangeInclusive<u64> = 1..=600;
/// Fewer bits for hosts are no room for pods, more are refused as what they are: a mistake.
const IPV4_PREFIX: std::ops::RangeInclusive<u8> = 8..=29;
const IPV6_PREFIX: std::ops::RangeInclusive<u8> = 16..=112;

impl Config {
    /// What is wrong with it, by field.
    ///
    /// # Errors
    /// `field: what`, the first one.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(name) = &self.bridge {
            let bad =
                |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control() || c == '%' || !c.is_ascii();
            if name.is_empty() || name.len() > 15 || name.contains(bad) || name.starts_with('.') {
                return Err(format!("network.bridge: {name:?} cannot be the name of an interface"));
            }
        }
        for (field, wanted, ipv4, prefixes) in
            [("ipv4", self.ipv4, true, IPV4_PREFIX), ("ipv6", self.ipv6, false, IPV6_PREFIX)]
        {
            let Wanted::Range(range) = wanted else { continue };
            if range.is_ipv4() != ipv4 {
                return Err(format!("network.{field}: {range} is of the other family"));
            }
            if !prefixes.contains(&range.prefix()) {
                let (low, high) = (prefixes.start(), prefixes.end());
                return Err(format!("network.{field}: {range}: a prefix length from {low} to {high} is possible"));
            }
            let base = range.base();
            if base.is_loopback() || base.is_multicast() || base.is_unspecified() {
                return Err(format!("network.{field}: {range} cannot be addresses of pods"));
            }
        }
        if (self.ipv4, self.ipv6) == (Wanted::None, Wanted::None) {
            return Err("network.ipv6: none, and so is network.ipv4; for pods without addresses set mode: none".into());
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(format!("network.mtu: {mtu}: {} to {} are possible", MTU.start(), MTU.end()));
        }
        if !TIMEOUT_SECONDS.contains(&self.cni.timeout_seconds) {
            let (low, high) = (TIMEOUT_SECONDS.start(), TIMEOUT_SECONDS.end());
            let found = self.cni.timeout_seconds;
            return Err(format!("network.cni.timeoutSeconds: {found}: {low} to {high} are possible"));
        }
        for (field, path) in
            std::iter::once(("confDir", &self.cni.conf_dir)).chain(self.cni.bin_dirs.iter().map(|dir| ("binDirs", dir)))
        {
            if !path.is_absolute() {
                return Err(format!("network.cni.{field}: {:?}: must be an absolute path", path.display().to_string()));
            }
        }
        Ok(())
    }
}
