//! The bridge of an instance: its name, its ranges and its table, chosen once and kept in `<root>/network/instance.json`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use husk_oci::sys::random;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::config::Wanted;
use super::lease::Leases;
use super::netlink::Socket;
use super::{Config, Error, Place, PodAddress, Range, hash, route, sysctl};

/// Version of the file.
const VERSION: u32 = 1;
/// What a host without a default route has.
const DEFAULT_MTU: u32 = 1500;
/// Addresses that packets to anywhere would go to; nothing is sent there.
pub const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)),
];

/// What all pods of a bridge share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    version: u32,
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the nftables table.
    pub table: String,
    /// One of each family that pods have, IPv4 first.
    pub ranges: Vec<Range>,
    /// MTU of the bridge and of pods' links.
    pub mtu: u32,
}

/// Where an instance keeps what it has to remember, and what it is called by.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    /// `<root>/network`.
    pub dir: &'a Path,
    /// `husk`, or a name of its own where the instance has directories of its own.
    pub name: &'a str,
}

impl Home<'_> {
    /// The leases of this instance.
    pub fn leases(&self) -> Leases {
        Leases::new(self.dir)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("instance.json")
    }

    /// Waits until nobody else makes or removes the bridge, its table or this file.
    ///
    /// # Errors
    /// The file system's.
    pub fn lock(&self, exclusive: bool) -> Result<File, Error> {
        let path = self.dir.join("lock");
        let io = |e: std::io::Error| Error::io(format_args!("open {}", path.display()), &e);
        let open = || OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
        let opened = match open() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.dir).map_err(io)?;
                open()
            }
            other => other,
        };
        let file = opened.map_err(io)?;
        loop {
            match if exclusive { file.lock() } else { file.lock_shared() } {
                Ok(()) => return Ok(file),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format_args!("lock {}", path.display()), &e)),
            }
        }
    }

    /// What was chosen earlier, if it was.
    ///
    /// # Errors
    /// The file cannot be read, or is none.
    pub fn load(&self) -> Result<Option<Instance>, Error> {
        let path = self.file();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format_args!("read {}", path.display()), &e)),
        };
        match serde_json::from_slice::<Instance>(&bytes) {
            Ok(instance) if instance.version == VERSION => Ok(Some(instance)),
            Ok(instance) => Err(Error::refused(format!(
                "{} is of version {}, this husk knows {VERSION}",
                path.display(),
                instance.version
            ))),
            Err(e) => Err(Error::refused(format!(
                "{} is damaged: {e}; when no pod runs, remove it, and new ranges are chosen",
                path.display()
            ))),
        }
    }

    /// What was chosen earlier, where that is what the configuration says and nothing of the host's is in its way.
    ///
    /// # Errors
    /// As [`Home::load`]; the kernel's.
    pub fn chosen(&self, config: &Config) -> Result<Option<Instance>, Error> {
        let Some(earlier) = self.load()?.filter(|earlier| fits(earlier, config)) else { return Ok(None) };
        let socket = Socket::route().map_err(|e| Error::sys("open a netlink socket", e))?;
        // A bridge that is there has a route to its own range.
        let free = route::link(&socket, &earlier.bridge)?.is_some()
            || overlap(&earlier, &taken(&socket, &earlier.bridge)?).is_none();
        Ok(free.then_some(earlier))
    }

    /// Chooses: by what the configuration says, by what was chosen earlier, and by what the host's routes leave free.
    ///
    /// # Errors
    /// The ranges that are asked for are the host's, or are other ones than those in use.
    pub fn choose(&self, config: &Config) -> Result<Instance, Error> {
        let _lock = self.lock(true)?;
        if let Some(chosen) = self.chosen(config)? {
            return Ok(chosen);
        }
        let socket = Socket::route().map_err(|e| Error::sys("open a netlink socket", e))?;
        let (mut chosen, earlier) = self.decide(&socket, config)?;
        if earlier.as_ref() == Some(&chosen) {
            return Ok(chosen);
        }
        if let Some(earlier) = earlier
            && self.leases().all()?.is_empty()
        {
            // Nobody uses it any more.
            route::delete_link(&socket, &earlier.bridge)?;
        }
        chosen.version = VERSION;
        self.write(&chosen)?;
        Ok(chosen)
    }

    /// What [`Home::choose`] would give now; nothing is written, and somebody else may choose something else meanwhile.
    ///
    /// # Errors
    /// As [`Home::choose`].
    pub fn would_choose(&self, config: &Config) -> Result<Instance, Error> {
        if let Some(chosen) = self.chosen(config)? {
            return Ok(chosen);
        }
        let socket = Socket::route().map_err(|e| Error::sys("open a netlink socket", e))?;
        Ok(self.decide(&socket, config)?.0)
    }

    /// What is right now, and what was chosen earlier.
    fn decide(&self, socket: &Socket, config: &Config) -> Result<(Instance, Option<Instance>), Error> {
        let earlier = self.load()?;
        let chosen = self.fresh(socket, config, earlier.as_ref())?;
        if let Some(earlier) = &earlier
            && (&earlier.bridge, &earlier.ranges) != (&chosen.bridge, &chosen.ranges)
            && !self.leases().all()?.is_empty()
        {
            let now = |i: &Instance| i.ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(" and ");
            return Err(Error::refused(format!(
                "pods have addresses of {} on {}, and the configuration or the host's routes ask for {} on {}; delete these pods first",
                now(earlier),
                earlier.bridge,
                now(&chosen),
                chosen.bridge
            )));
        }
        Ok((chosen, earlier))
    }

    fn fresh(&self, socket: &Socket, config: &Config, earlier: Option<&Instance>) -> Result<Instance, Error> {
        let bridge = config.bridge.clone().unwrap_or_else(|| match self.name {
            "husk" => "husk0".into(),
            name => name.chars().take(15).collect(),
        });
        let taken = taken(socket, &bridge)?;
        let mut ranges = Vec::new();
        let ipv6 = if sysctl::has_ipv6() { config.ipv6 } else { Wanted::None };
        for (field, wanted, ipv4) in [("ipv4", config.ipv4, true), ("ipv6", ipv6, false)] {
            match wanted {
                Wanted::None => {}
                Wanted::Range(range) => {
                    if let Some(theirs) = taken.iter().find(|t| t.overlaps(&range)) {
                        return Err(Error::refused(format!(
                            "network.{field}: {range} overlaps {theirs}, which is the host's; choose another range"
                        )));
                    }
                    ranges.push(range);
                }
                Wanted::Auto => {
                    let before = earlier.and_then(|e| e.ranges.iter().find(|r| r.is_ipv4() == ipv4));
                    let all = before.copied().into_iter().chain(candidates(self.name, ipv4)?);
                    let free = { all }.find(|range| !taken.iter().any(|t| t.overlaps(range)));
                    ranges.push(free.ok_or_else(|| {
                        Error::refused(format!(
                            "every range that husk knows of is the host's; say in the configuration which one pods may have: network.{field}"
                        ))
                    })?);
                }
            }
        }
        if ranges.is_empty() {
            return Err(Error::refused("network.ipv4: none, and this kernel has no IPv6; use --network none"));
        }
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => uplink_mtu(socket)?.unwrap_or(DEFAULT_MTU),
        };
        Ok(Instance { version: VERSION, bridge, table: self.name.to_owned(), ranges, mtu })
    }

    fn draft(&self) -> PathBuf {
        self.dir.join(".instance.json.new")
    }

    /// Removes what somebody left who was killed while choosing.
    ///
    /// # Errors
    /// The file system's.
    pub fn sweep(&self) -> Result<(), Error> {
        let draft = self.draft();
        if !draft.exists() {
            return Ok(());
        }
        let _lock = self.lock(true)?;
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format_args!("remove {}", draft.display()), &e))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, instance: &Instance) -> Result<(), Error> {
        let path = self.file();
        let text = serde_json::to_vec(instance).map_err(|e| Error::refused(format!("write down a range: {e}")))?;
        let new = self.draft();
        let replace = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(self.dir)?.sync_all()
        };
        replace().map_err(|e| {
            // Not there, or on a file system that refuses everything: the next try overwrites it.
            let _ = std::fs::remove_file(&new);
            Error::io(format_args!("write {}", path.display()), &e)
        })
    }
}

/// Is what was chosen earlier what the configuration says now?
fn fits(earlier: &Instance, config: &Config) -> bool {
    let of = |ipv4: bool| earlier.ranges.iter().find(|r| r.is_ipv4() == ipv4);
    let ipv6 = if sysctl::has_ipv6() { config.ipv6 } else { Wanted::None };
    let family = |wanted: Wanted, ipv4: bool| match wanted {
        Wanted::Auto => of(ipv4).is_some(),
        Wanted::None => of(ipv4).is_none(),
        Wanted::Range(range) => of(ipv4) == Some(&range),
    };
    family(config.ipv4, true)
        && family(ipv6, false)
        && config.bridge.as_ref().is_none_or(|name| *name == earlier.bridge)
        && config.mtu.is_none_or(|mtu| mtu == earlier.mtu)
}

/// Ranges that the host uses for something else than this bridge.
fn taken(socket: &Socket, bridge: &str) -> Result<Vec<Range>, Error> {
    let own = route::link(socket, bridge)?.map(|link| link.index);
    let routes = route::routes(socket)?.into_iter().filter(|r| Some(r.index) != own).map(|r| r.to);
    let addresses = route::addresses(socket)?.into_iter().filter(|a| Some(a.index) != own);
    let addresses = addresses.filter_map(|a| Range::around(a.ip, a.prefix));
    // The default route leads to whatever nobody else has.
    Ok(routes.chain(addresses).filter(|r| r.prefix() != 0).collect())
}

fn overlap<'a>(instance: &Instance, taken: &'a [Range]) -> Option<&'a Range> {
    taken.iter().find(|t| instance.ranges.iter().any(|r| r.overlaps(t)))
}

/// Ranges to choose from: private ones that few others choose, in an order that is the instance's own, so that two seldom choose one.
fn candidates(name: &str, ipv4: bool) -> Result<Vec<Range>, Error> {
    let seed = hash(name.as_bytes());
    if ipv4 {
        let start = if name == "husk" { 0 } else { seed % 96 };
        let ten = (0..96).map(|i| IpAddr::from([10, 129 + ((start + i) % 96) as u8, 0, 0]));
        let rest = (16..32).rev().map(|i| IpAddr::from([172, i, 0, 0]));
        return Ok(ten.chain(rest).filter_map(|ip| Range::around(ip, 16)).collect());
    }
    // RFC 4193 wants 40 random bits, so that two sites that meet one day do not meet in these.
    let random = u128::from_ne_bytes(random::bytes().map_err(|e| Error::sys("choose a range of IPv6 addresses", e))?);
    let range = |bits: u128| {
        let site = bits & ((1 << 40) - 1);
        Range::around(IpAddr::from(((0xfd_u128 << 120) | (site << 80)).to_be_bytes()), 64)
    };
    Ok([random, random >> 80].into_iter().filter_map(range).collect())
}

fn uplink_mtu(socket: &Socket) -> Result<Option<u32>, Error> {
    for to in ANYWHERE {
        if let Some((_, index)) = route::source(socket, to)? {
            return Ok(route::links(socket)?.iter().find(|l| l.index == index).map(|l| l.mtu.clamp(1280, 65535)));
        }
    }
    Ok(None)
}

impl Instance {
    /// The bridge's own address in each range.
    pub fn gateways(&self) -> Vec<(IpAddr, u8)> {
        self.ranges.iter().map(|r| (r.nth(1), r.prefix())).collect()
    }

    /// How many addresses there are in the smallest range.
    pub fn size(&self) -> u64 {
        self.ranges.iter().map(Range::size).min().unwrap_or(0)
    }

    /// A pod's place, with this number.
    pub fn place(&self, id: &str, number: u32) -> Place {
        let unique = hash(format!("{}/{id}", self.table).as_bytes());
        Place {
            bridge: self.bridge.clone(),
            table: self.table.clone(),
            host_interface: format!("hv{:012x}", unique & 0xffff_ffff_ffff),
            mtu: self.mtu,
            number,
            addresses: self
                .ranges
                .iter()
                .map(|r| PodAddress { ip: r.nth(number), gateway: r.nth(1), prefix: r.prefix() })
                .collect(),
        }
    }

    /// Makes the bridge if it is not there, and what the host needs to pass its packets on. True: it was made.
    ///
    /// # Errors
    /// The kernel's; something else has the name.
    pub fn ensure_bridge(&self, socket: &Socket) -> Result<(u32, bool), Error> {
        let (link, made) = match route::link(socket, &self.bridge)? {
            Some(link) => (link, false),
            None => {
                if let Some(theirs) = overlap(self, &taken(socket, &self.bridge)?) {
                    return Err(Error::refused(format!(
                        "pods have addresses of {}, and {theirs} is the host's now; delete the pods, or set network.ipv4 and network.ipv6 in \
                         the configuration",
                        self.ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(" and ")
                    )));
                }
                match route::create_bridge(socket, &self.bridge, super::mac(1), self.mtu) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(missing(format!("make bridge {}", self.bridge), errno, "bridge")),
                }
                let link = route::link(socket, &self.bridge)?;
                (link.ok_or_else(|| Error::refused(format!("bridge {} vanished", self.bridge)))?, true)
            }
        };
        if link.kind != "bridge" {
            return Err(Error::refused(format!(
                "interface {} is there and is no bridge; say in the configuration how husk's shall be called: network.bridge",
                self.bridge
            )));
        }
        Ok((link.index, made))
    }

    /// What is not as [`Instance::furnish`] leaves it, in words.
    ///
    /// # Errors
    /// The kernel's.
    pub fn shortcomings(&self, socket: &Socket) -> Result<Vec<String>, Error> {
        let mut wrong = Vec::new();
        match route::link(socket, &self.bridge)? {
            Some(link) => {
                let there = route::addresses(socket)?;
                let missing = self.gateways().into_iter().filter(|(ip, prefix)| {
                    !there.iter().any(|a| (a.index, a.ip, a.prefix) == (link.index, *ip, *prefix))
                });
                wrong.extend(
                    missing.map(|(ip, prefix)| format!("bridge {} lacks its address {ip}/{prefix}", self.bridge)),
                );
                if !link.up {
                    wrong.push(format!("bridge {} is down", self.bridge));
                }
            }
            None => wrong.push(format!("bridge {} is missing", self.bridge)),
        }
        for (name, ipv4) in sysctl::FORWARDING.into_iter().zip([true, false]) {
            if self.ranges.iter().any(|r| r.is_ipv4() == ipv4) && sysctl::get(name).as_deref() != Some("1") {
                wrong.push(format!("net/{name} is off: the host passes nothing on"));
            }
        }
        Ok(wrong)
    }

    /// Gives a bridge that was just made, or lost something, what it has to have.
    ///
    /// # Errors
    /// The kernel's.
    pub fn furnish(&self, socket: &Socket, index: u32) -> Result<(), Error> {
        let ipv6 = self.ranges.iter().any(|r| !r.is_ipv4());
        if ipv6 || sysctl::has_ipv6() {
            sysctl::set(&format!("ipv6/conf/{}/accept_ra", self.bridge), "0")?;
        }
        route::set_up(socket, index)
            .map_err(|errno| Error::sys(format_args!("bring up bridge {}", self.bridge), errno))?;
        route::give_bridge(socket, index, &self.gateways())
            .map_err(|errno| Error::sys(format_args!("give bridge {} its addresses", self.bridge), errno))?;
        sysctl::forward(self.ranges.iter().any(Range::is_ipv4), ipv6)
    }
}

/// A refusal that most often means that a part of the kernel is missing.
pub fn missing(doing: String, errno: Errno, module: &str) -> Error {
    let advice = match errno {
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::ENOENT | Errno::EAFNOSUPPORT => {
            format!("the kernel has no {module}: load the module {module}, or use --network none or host")
        }
        _ => String::new(),
    };
    Error::Sys { doing, errno, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_private_and_whole() {
        for name in ["husk", "husk-0badcafe"] {
            let ipv4 = candidates(name, true).unwrap();
            assert_eq!(ipv4.len(), 112);
            for range in &ipv4 {
                let IpAddr::V4(base) = range.base() else { panic!("{range}") };
                assert!(base.is_private() && range.prefix() == 16, "{range}");
                assert_eq!(ipv4.iter().filter(|r| r.overlaps(range)).count(), 1, "{range}");
            }
        }
        let ipv6 = candidates("husk", false).unwrap();
        for range in &ipv6 {
            let text = range.to_string();
            assert!(text.starts_with("fd") && range.prefix() == 64, "{text}");
            let IpAddr::V6(base) = range.base() else { panic!("{range}") };
            assert_eq!(base.segments()[3], 0, "{text}: the subnet is ours to number");
        }
        assert_ne!(candidates("husk", false).unwrap(), ipv6);
        assert_ne!(candidates("husk", true).unwrap()[0], candidates("husk-0badcafe", true).unwrap()[0]);
    }
}
