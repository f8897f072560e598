//! The table of an instance: made, looked at, changed and removed, each in one transaction.

use std::net::IpAddr;

use nix::errno::Errno;

use super::expr::{Header, Meta, R0, R1, R4, Rule, Verdict};
use crate::network::instance::missing;
use crate::network::netlink::{ACK, APPEND, Answer, Attributes, Buffer, CREATE, DUMP, EXCL, Failed, Socket};
use crate::network::{Error, Place, Port, Protocol, Range, hash};

/// Size of `nfgenmsg`.
const HEADER: usize = 4;
const INET: u8 = libc::NFPROTO_INET as u8;
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

/// The kernel's numbers of nft's types, for whoever lists the table.
const IPV4_ADDRESS: u32 = 7;
const IPV6_ADDRESS: u32 = 8;
const PROTOCOL: u32 = 12;
const SERVICE: u32 = 13;
/// How many bits each part of a type takes.
const TYPE_BITS: u32 = 6;
const MAP: u32 = 0x8;

fn kind(message: i32) -> u16 {
    SUBSYSTEM | message as u16
}

fn header() -> [u8; HEADER] {
    [INET, 0, 0, 0]
}

/// The maps: name, whether of IPv4, whether the host's address is part of the key.
const MAPS: [(&str, bool, bool); 4] =
    [("hosts4", true, true), ("ports4", true, false), ("hosts6", false, true), ("ports6", false, false)];

/// The chains: name, and for those that the kernel calls type, hook and priority.
type Hook = (&'static str, u32, i32);
const CHAINS: [(&str, Option<Hook>); 5] = [
    ("ports", None),
    ("martians", Some(("filter", libc::NF_INET_PRE_ROUTING as u32, -300))),
    ("prerouting", Some(("nat", libc::NF_INET_PRE_ROUTING as u32, -100))),
    ("output", Some(("nat", libc::NF_INET_LOCAL_OUT as u32, -100))),
    ("postrouting", Some(("nat", libc::NF_INET_POST_ROUTING as u32, 100))),
];

/// A port of the host that leads to a pod, in one of the maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Which map.
    pub map: &'static str,
    key: Vec<u8>,
    value: Vec<u8>,
    /// The pod's id.
    pub id: String,
}

/// The parts of a key or value, each filled up to four bytes.
fn concatenated(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(part);
        all.resize(all.len().next_multiple_of(4), 0);
    }
    all
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// What the maps have to hold for a pod.
pub fn elements(id: &str, place: &Place, ports: &[Port]) -> Vec<Element> {
    let mut all = Vec::new();
    for port in ports {
        for address in &place.addresses {
            let ipv4 = address.ip.is_ipv4();
            if port.host_ip.is_some_and(|ip| ip.is_ipv4() != ipv4) {
                continue;
            }
            let map = MAPS.iter().find(|(_, of4, hosts)| (*of4, *hosts) == (ipv4, port.host_ip.is_some()));
            let Some((map, ..)) = map else { continue };
            let (protocol, number) = ([port.protocol.number()], port.host_port.to_be_bytes());
            let host = port.host_ip.map(octets).unwrap_or_default();
            let key = if host.is_empty() {
                concatenated(&[&protocol, &number])
            } else {
                concatenated(&[&host, &protocol, &number])
            };
            let value = concatenated(&[&octets(address.ip), &port.container_port.to_be_bytes()]);
            all.push(Element { map, key, value, id: id.to_owned() });
        }
    }
    all
}

impl Element {
    /// The port as it is written.
    pub fn describe(&self) -> String {
        let width = self.key.len();
        let number = self.key.get(width - 4..width - 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let protocol = match self.key.get(width - 8) {
            Some(6) => Protocol::Tcp.name(),
            Some(17) => Protocol::Udp.name(),
            _ => Protocol::Sctp.name(),
        };
        format!("{number}/{protocol} in map {}", self.map)
    }
}

/// nft's own way to keep a comment: type 0, length, text, NUL.
fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(250)];
    let mut all = vec![0, (text.len() + 1) as u8];
    all.extend_from_slice(text);
    all.push(0);
    all
}

fn read_comment(bytes: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = bytes else { return None };
    let text = rest.get(..usize::from(*length).checked_sub(1)?)?;
    String::from_utf8(text.to_vec()).ok()
}

/// The table of an instance.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// Its name.
    pub name: &'a str,
    /// The bridge that it is about.
    pub bridge: &'a str,
    /// The ranges of pods.
    pub ranges: &'a [Range],
}

type Write<'a> = Box<dyn Fn(&mut Rule<'_>) + 'a>;

impl Table<'_> {
    /// Every rule: its chain, and what it says.
    fn rules(&self) -> Vec<(&'static str, Write<'_>)> {
        let mut rules: Vec<(&'static str, Write<'_>)> = Vec::new();
        let loopback = Range::around(IpAddr::from([127, 0, 0, 0]), 8);
        let loopback6 = Range::around(IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 128);
        let local: Vec<Range> = loopback.into_iter().chain(loopback6).collect();
        for range in local.clone() {
            rules.push((
                "martians",
                Box::new(move |r| {
                    r.interface(Meta::IncomingName, self.bridge);
                    r.family(range.is_ipv4());
                    r.address(false, &range, true);
                    r.verdict(Verdict::Drop);
                }),
            ));
        }
        // The first rule whose map has the key ends it, so those with an address come first.
        for (map, ipv4, hosts) in MAPS {
            rules.push((
                "ports",
                Box::new(move |r| {
                    r.family(ipv4);
                    let mut at = R0;
                    if hosts {
                        r.destination(ipv4, R0);
                        at = if ipv4 { R1 } else { R4 };
                    }
                    r.meta(Meta::Protocol, at);
                    r.payload(Header::Transport, 2, 2, super::expr::Register(at.0 + 1));
                    r.lookup(map, R0, R0);
                    r.redirect(ipv4, R0, if ipv4 { R1 } else { R4 });
                }),
            ));
        }
        let to_host: fn(&mut Rule<'_>) = |r| {
            r.addressed_to_host();
            r.verdict(Verdict::Jump("ports"));
        };
        rules.push(("prerouting", Box::new(to_host)));
        // What the host sends to its own loopback addresses stays there: the pod could not answer it. The supervisor passes it on.
        for range in local {
            rules.push((
                "output",
                Box::new(move |r| {
                    r.family(range.is_ipv4());
                    r.address(false, &range, true);
                    r.verdict(Verdict::Return);
                }),
            ));
        }
        rules.push(("output", Box::new(to_host)));
        let multicast = [
            Range::around(IpAddr::from([224, 0, 0, 0]), 4),
            Range::around(IpAddr::from(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
        ];
        for range in self.ranges {
            let many = multicast.into_iter().flatten().find(|m| m.is_ipv4() == range.is_ipv4());
            rules.push((
                "postrouting",
                Box::new(move |r| {
                    r.family(range.is_ipv4());
                    r.address(true, range, true);
                    r.address(false, range, false);
                    if let Some(many) = &many {
                        r.address(false, many, false);
                    }
                    r.masquerade();
                }),
            ));
            // From a pod through an address of the host back to a pod: the answer has to come back through the host, too.
            rules.push((
                "postrouting",
                Box::new(move |r| {
                    r.family(range.is_ipv4());
                    r.address(true, range, true);
                    r.interface(Meta::OutgoingName, self.bridge);
                    r.redirected();
                    r.masquerade();
                }),
            ));
        }
        rules
    }

    /// A rule's comment: a digest of what it says.
    fn mark(write: &Write<'_>) -> String {
        let mut said = Buffer::default();
        write(&mut Rule(&mut said));
        format!("husk {:016x}", hash(said.bytes()))
    }

    fn transaction(&self, socket: &Socket, body: impl FnOnce(&mut Buffer)) -> Result<(), Failed> {
        let mut buffer = Buffer::default();
        let batch = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
        buffer.message(BATCH_BEGIN, 0, &batch, |_| {});
        body(&mut buffer);
        buffer.message(BATCH_END, 0, &batch, |_| {});
        socket.transact(&buffer)
    }

    fn error(&self, doing: &str, errno: Errno) -> Error {
        missing(format!("{doing} table inet {}", self.name), errno, "nf_tables")
    }

    /// Is it there?
    ///
    /// # Errors
    /// The kernel's.
    pub fn exists(&self, socket: &Socket) -> Result<bool, Error> {
        let mut buffer = Buffer::default();
        buffer.message(kind(libc::NFT_MSG_GETTABLE), 0, &header(), |b| b.text(1, self.name));
        match socket.ask(&buffer) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            // nfnetlink(7) without the part that this is for.
            Err(Errno::EINVAL) => Err(self.error("look for", Errno::EOPNOTSUPP)),
            Err(errno) => Err(self.error("look for", errno)),
        }
    }

    /// Makes it anew with these elements, in place of one that is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(&self, socket: &Socket, elements: &[Element]) -> Result<(), Error> {
        let made = self.transaction(socket, |b| {
            // It cannot be removed unless it is there.
            b.message(kind(libc::NFT_MSG_NEWTABLE), CREATE, &header(), |b| b.text(1, self.name));
            b.message(kind(libc::NFT_MSG_DELTABLE), 0, &header(), |b| b.text(1, self.name));
            b.message(kind(libc::NFT_MSG_NEWTABLE), CREATE, &header(), |b| b.text(1, self.name));
            for (number, (map, ipv4, hosts)) in MAPS.into_iter().enumerate() {
                self.new_map(b, map, ipv4, hosts, number as u32 + 1);
            }
            for (chain, hook) in CHAINS {
                b.message(kind(libc::NFT_MSG_NEWCHAIN), CREATE, &header(), |b| {
                    b.text(1, self.name);
                    b.text(3, chain);
                    if let Some((class, hook, priority)) = hook {
                        b.nest(4, |b| {
                            b.be32(1, hook);
                            b.be32(2, priority as u32);
                        });
                        b.be32(5, libc::NF_ACCEPT as u32);
                        b.text(7, class);
                    }
                });
            }
            self.add(b, elements);
            for (chain, write) in self.rules() {
                b.message(kind(libc::NFT_MSG_NEWRULE), CREATE | APPEND | ACK, &header(), |b| {
                    b.text(1, self.name);
                    b.text(2, chain);
                    b.nest(4, |b| write(&mut Rule(b)));
                    b.attr(7, &comment(&Self::mark(&write)));
                });
            }
        });
        made.map_err(|failed| match failed.errno {
            // The table was made before, so it is a chain's type or an expression that is not there.
            errno @ Errno::ENOENT => Error::Sys {
                doing: format!("make table inet {}", self.name),
                errno,
                advice: "the kernel lacks a part of nf_tables: load the modules nft_chain_nat, nft_nat, nft_masq, nft_fib_inet and nft_ct, or use \
                         --network none or host"
                    .into(),
            },
            errno => self.error("make", errno),
        })
    }

    fn new_map(&self, b: &mut Buffer, map: &str, ipv4: bool, hosts: bool, number: u32) {
        let (address, width) = if ipv4 { (IPV4_ADDRESS, 4) } else { (IPV6_ADDRESS, 16) };
        let port = (PROTOCOL << TYPE_BITS) | SERVICE;
        let key = if hosts { (address << (2 * TYPE_BITS)) | port } else { port };
        b.message(kind(libc::NFT_MSG_NEWSET), CREATE, &header(), |b| {
            b.text(1, self.name);
            b.text(2, map);
            b.be32(3, MAP);
            b.be32(4, key);
            b.be32(5, 8 + if hosts { width } else { 0 });
            b.be32(6, (address << TYPE_BITS) | SERVICE);
            b.be32(7, width + 4);
            b.be32(10, number);
        });
    }

    fn each(&self, b: &mut Buffer, message: i32, flags: u16, elements: &[Element], with_value: bool) {
        for (map, ..) in MAPS {
            let of_map: Vec<&Element> = elements.iter().filter(|e| e.map == map).collect();
            // The length of an attribute has 16 bits.
            for some in of_map.chunks(256) {
                b.message(kind(message), flags, &header(), |b| {
                    b.text(1, self.name);
                    b.text(2, map);
                    b.nest(3, |b| {
                        for element in some {
                            b.nest(1, |b| {
                                b.nest(1, |b| b.attr(1, &element.key));
                                if with_value {
                                    b.nest(2, |b| b.attr(1, &element.value));
                                    b.attr(6, &comment(&element.id));
                                }
                            });
                        }
                    });
                });
            }
        }
    }

    fn add(&self, b: &mut Buffer, elements: &[Element]) {
        self.each(b, libc::NFT_MSG_NEWSETELEM, CREATE | ACK, elements, true);
    }

    fn delete(&self, b: &mut Buffer, elements: &[Element]) {
        self.each(b, libc::NFT_MSG_DELSETELEM, ACK, elements, false);
    }

    /// Has these elements lead to where they say, whatever they led to before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn insert(&self, socket: &Socket, elements: &[Element]) -> Result<(), Error> {
        if elements.is_empty() {
            return Ok(());
        }
        // Most often nobody has these ports, and all the others need not be read.
        let new =
            self.transaction(socket, |b| self.each(b, libc::NFT_MSG_NEWSETELEM, CREATE | EXCL | ACK, elements, true));
        match new {
            Ok(()) => return Ok(()),
            Err(Failed { errno: Errno::EEXIST | Errno::EBUSY, .. }) => {}
            Err(failed) => return Err(self.error("add ports to", failed.errno)),
        }
        let there = self.elements(socket)?;
        if elements.iter().all(|e| there.contains(e)) {
            return Ok(());
        }
        let old: Vec<Element> =
            there.into_iter().filter(|t| elements.iter().any(|e| (e.map, &e.key) == (t.map, &t.key))).collect();
        let done = self.transaction(socket, |b| {
            self.delete(b, &old);
            self.add(b, elements);
        });
        done.map_err(|failed| self.error("add ports to", failed.errno))
    }

    /// Removes the elements of pods that `gone` names by their ids. A table that is gone is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, socket: &Socket, gone: impl Fn(&str) -> bool) -> Result<usize, Error> {
        // Somebody else may remove one of them between the look and the deed.
        for _ in 0..8 {
            let old: Vec<Element> = match self.elements(socket) {
                Ok(all) => all.into_iter().filter(|e| gone(&e.id)).collect(),
                Err(e) if e.errno() == Some(Errno::ENOENT) => return Ok(0),
                Err(e) => return Err(e),
            };
            if old.is_empty() {
                return Ok(0);
            }
            match self.transaction(socket, |b| self.delete(b, &old)) {
                Ok(()) => return Ok(old.len()),
                Err(Failed { errno: Errno::ENOENT, .. }) => {}
                Err(failed) => return Err(self.error("remove ports from", failed.errno)),
            }
        }
        Err(self.error("remove ports from", Errno::EBUSY))
    }

    /// All elements of all maps.
    ///
    /// # Errors
    /// The kernel's; ENOENT without the table.
    pub fn elements(&self, socket: &Socket) -> Result<Vec<Element>, Error> {
        let mut all = Vec::new();
        for (map, ..) in MAPS {
            let mut buffer = Buffer::default();
            buffer.message(kind(libc::NFT_MSG_GETSETELEM), DUMP, &header(), |b| {
                b.text(1, self.name);
                b.text(2, map);
            });
            let answers = socket.ask(&buffer).map_err(|errno| self.error("read", errno))?;
            for answer in &answers {
                let list = answer.attributes(HEADER).get(3).map(Attributes);
                all.extend(list.into_iter().flatten().filter_map(|(_, bytes)| {
                    let element = Attributes(bytes);
                    let bytes_of = |kind| Attributes(element.get(kind)?).get(1).map(<[u8]>::to_vec);
                    let id = element.get(6).and_then(read_comment).unwrap_or_default();
                    Some(Element { map, key: bytes_of(1)?, value: bytes_of(2)?, id })
                }));
            }
        }
        Ok(all)
    }

    /// What is not as it has to be, in words; empty when all is well. `wanted`: the elements of all pods.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check(&self, socket: &Socket, wanted: &[Element]) -> Result<Vec<String>, Error> {
        if !self.exists(socket)? {
            return Ok(vec![format!("table inet {} is missing", self.name)]);
        }
        let mut wrong = Vec::new();
        let mut buffer = Buffer::default();
        buffer.message(kind(libc::NFT_MSG_GETCHAIN), DUMP, &header(), |_| {});
        let answers = socket.ask(&buffer).map_err(|errno| self.error("read", errno))?;
        let ours = |a: &&Answer| a.attributes(HEADER).get_text(1).as_deref() == Some(self.name);
        let chains: Vec<(String, bool)> = answers
            .iter()
            .filter(ours)
            .filter_map(|a| Some((a.attributes(HEADER).get_text(3)?, a.attributes(HEADER).get(4).is_some())))
            .collect();
        let mut buffer = Buffer::default();
        buffer.message(kind(libc::NFT_MSG_GETRULE), DUMP, &header(), |b| b.text(1, self.name));
        let answers = socket.ask(&buffer).map_err(|errno| self.error("read", errno))?;
        let there: Vec<(String, String)> = answers
            .iter()
            .filter(ours)
            .filter_map(|a| {
                let attributes = a.attributes(HEADER);
                Some((attributes.get_text(2)?, attributes.get(7).and_then(read_comment).unwrap_or_default()))
            })
            .collect();
        let rules = self.rules();
        for (chain, hook) in CHAINS {
            if !chains.iter().any(|(name, hooked)| name == chain && *hooked == hook.is_some()) {
                wrong.push(format!("chain {chain} of table inet {} is missing", self.name));
                continue;
            }
            let expected = rules.iter().filter(|(of, _)| *of == chain).map(|(_, write)| Self::mark(write));
            let found = there.iter().filter(|(of, _)| of == chain).map(|(_, mark)| mark.clone());
            if !expected.eq(found) {
                wrong.push(format!("chain {chain} of table inet {} has other rules than it should have", self.name));
            }
        }
        let elements = match self.elements(socket) {
            Ok(elements) => elements,
            Err(e) if e.errno() == Some(Errno::ENOENT) => {
                wrong.push(format!("a map of table inet {} is missing", self.name));
                return Ok(wrong);
            }
            Err(e) => return Err(e),
        };
        for element in wanted.iter().filter(|e| !elements.contains(e)) {
            wrong.push(format!("port {} does not lead to pod {}", element.describe(), element.id));
        }
        for element in elements.iter().filter(|e| !wanted.contains(e)) {
            wrong.push(format!("port {} leads to pod {}, which does not have it", element.describe(), element.id));
        }
        Ok(wrong)
    }

    /// Removes it with all it holds; one that is gone is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn destroy(&self, socket: &Socket) -> Result<(), Error> {
        let gone = self.transaction(socket, |b| {
            b.message(kind(libc::NFT_MSG_DELTABLE), ACK, &header(), |b| b.text(1, self.name));
        });
        match gone {
            Ok(()) | Err(Failed { errno: Errno::ENOENT, .. }) => Ok(()),
            Err(failed) => Err(self.error("remove", failed.errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PodAddress;

    fn place() -> Place {
        let address = |ip: &str, gateway: &str, prefix| PodAddress {
            ip: ip.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            prefix,
        };
        Place {
            bridge: "b".into(),
            table: "t".into(),
            host_interface: "h".into(),
            mtu: 1500,
            number: 5,
            addresses: vec![address("10.1.0.5", "10.1.0.1", 16), address("fd00::5", "fd00::1", 64)],
        }
    }

    #[test]
    fn a_port_leads_to_the_addresses_of_its_families() {
        let port = |host_ip: Option<&str>| Port {
            protocol: Protocol::Udp,
            host_port: 0x1234,
            container_port: 80,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let all = elements("id", &place(), &[port(None)]);
        assert_eq!(all.iter().map(|e| e.map).collect::<Vec<_>>(), ["ports4", "ports6"]);
        assert_eq!(all[0].key, [17, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(all[0].value, [10, 1, 0, 5, 0, 80, 0, 0]);
        let one = elements("id", &place(), &[port(Some("192.0.2.7"))]);
        assert_eq!(one.iter().map(|e| e.map).collect::<Vec<_>>(), ["hosts4"]);
        assert_eq!(one[0].key, [192, 0, 2, 7, 17, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(one[0].describe(), "4660/udp in map hosts4");
        assert_eq!(elements("id", &place(), &[port(Some("fd99::1"))])[0].map, "hosts6");
    }

    #[test]
    fn comments_are_read_as_they_were_written() {
        for text in ["", "a", "8f14e45f-ceea-467f-a8bb-1d5b9c4b2b7e"] {
            assert_eq!(read_comment(&comment(text)).as_deref(), Some(text));
        }
        for bytes in [&[][..], &[0], &[1, 2, 0, 0], &[0, 9, b'a', 0], &[0, 0]] {
            assert_eq!(read_comment(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_rule_that_says_something_else_has_another_mark() {
        let ranges: [Range; 2] = ["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let table = Table { name: "t", bridge: "b", ranges: &ranges };
        let mut marks: Vec<_> = table.rules().iter().map(|(chain, write)| (*chain, Table::mark(write))).collect();
        let count = marks.len();
        marks.sort();
        marks.dedup();
        assert_eq!(marks.len(), count);
        let other: [Range; 2] = ["10.2.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()];
        let other = Table { ranges: &other, ..table };
        let differing =
            table.rules().iter().zip(other.rules()).filter(|(a, b)| Table::mark(&a.1) != Table::mark(&b.1)).count();
        assert_eq!(differing, 2);
    }
}
