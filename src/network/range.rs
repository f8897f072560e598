//! Address ranges: `10.1.0.0/16`, `fd00::/64`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A range of addresses of one family. Host bits of [`Range::base`] are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    base: IpAddr,
    prefix: u8,
}

/// An address as a number, shifted up so that both families begin at the top bit.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn mask(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(prefix.min(128))) }
}

impl Range {
    /// The range that an address of this prefix length is in; `None` for a length that the family does not have.
    pub fn around(ip: IpAddr, prefix: u8) -> Option<Range> {
        let width = if ip.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return None;
        }
        let base = bits(ip) & mask(prefix);
        let base = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from((base >> 96) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(base)),
        };
        Some(Range { base, prefix })
    }

    /// Its first address.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// How many bits all its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// IPv4?
    pub fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// Do both have addresses in common? Never, when the families differ.
    pub fn overlaps(&self, other: &Range) -> bool {
        let shared = mask(self.prefix.min(other.prefix));
        self.is_ipv4() == other.is_ipv4() && bits(self.base) & shared == bits(other.base) & shared
    }

    /// Is the address in it?
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && bits(ip) & mask(self.prefix) == bits(self.base)
    }

    /// Address number `n`, counted from the base; it must be below [`Range::size`].
    pub fn nth(&self, n: u32) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(n))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(n)))),
        }
    }

    /// How many addresses there are, 2^32 at most.
    pub fn size(&self) -> u64 {
        let width = if self.is_ipv4() { 32 } else { 128 };
        1 << (width - u32::from(self.prefix)).min(32)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let (ip, prefix) = text.split_once('/').ok_or_else(|| format!("{text:?}: must be address/length"))?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("{text:?}: {ip:?} is no IP address"))?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let length = prefix.parse::<u8>().ok().filter(|_| digits);
        let length = length.ok_or_else(|| format!("{text:?}: {prefix:?} is no prefix length"))?;
        let range = Range::around(ip, length).ok_or_else(|| format!("{text:?}: the prefix length is too large"))?;
        if range.base != ip {
            return Err(format!("{text:?}: has bits beyond its prefix length; {range} is the range"));
        }
        Ok(range)
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Range, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["10.1.0.0/16", "0.0.0.0/0", "10.0.0.1/32", "fd00::/64", "::/0", "::1/128"] {
            assert_eq!(range(text).to_string(), text);
        }
        for bad in
            ["10.1.0.0", "10.1.0.0/33", "10.1.0.1/16", "fd00::/129", "fd00::1/64", "x/8", "10.0.0.0/+8", "10.0.0.0/"]
        {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_by_the_shorter_prefix_and_within_a_family() {
        for (a, b, expected) in [
            ("10.1.0.0/16", "10.1.2.0/24", true),
            ("10.1.0.0/16", "10.2.0.0/16", false),
            ("0.0.0.0/0", "192.168.0.0/24", true),
            ("fd00::/8", "fd12:3456::/64", true),
            ("::/0", "0.0.0.0/0", false),
            ("::/96", "0.0.0.0/8", false),
        ] {
            assert_eq!(range(a).overlaps(&range(b)), expected, "{a} {b}");
            assert_eq!(range(b).overlaps(&range(a)), expected, "{b} {a}");
        }
        assert!(range("10.1.0.0/16").contains("10.1.255.255".parse().unwrap()));
        assert!(!range("10.1.0.0/16").contains("10.2.0.0".parse().unwrap()));
    }

    #[test]
    fn addresses_are_counted_from_the_base() {
        assert_eq!(range("10.1.0.0/16").nth(258).to_string(), "10.1.1.2");
        assert_eq!(range("fd00::/64").nth(0x1_0002).to_string(), "fd00::1:2");
        assert_eq!((range("10.1.0.0/29").size(), range("fd00::/64").size()), (8, 1 << 32));
    }
}
