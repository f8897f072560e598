//! Expressions of nf_tables: what a rule is made of. Names and numbers are those of `linux/netfilter/nf_tables.h`.

use std::net::IpAddr;

use crate::network::Range;
use crate::network::netlink::Buffer;

/// A register of four bytes; what is longer takes the next ones, too.
#[derive(Clone, Copy, Debug)]
pub struct Register(pub u32);

/// The first register, `NFT_REG32_00`.
pub const R0: Register = Register(8);
/// The second.
pub const R1: Register = Register(9);
/// The first one behind an IPv6 address in [`R0`].
pub const R4: Register = Register(12);

/// What `meta` can load.
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// Name of the interface that the packet came through.
    IncomingName = 6,
    /// Name of the interface that it leaves through.
    OutgoingName = 7,
    /// IPv4 or IPv6.
    Family = 15,
    /// Transport protocol.
    Protocol = 16,
}

/// Where `payload` reads.
#[derive(Clone, Copy, Debug)]
pub enum Header {
    /// The IP header.
    Network = 1,
    /// That of the transport protocol.
    Transport = 2,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// It is thrown away.
    Drop,
    /// The rules of the chain before go on.
    Return,
    /// The rules of another chain decide.
    Jump(&'a str),
}

/// `NFTA_LIST_ELEM`
const ELEMENT: u16 = 1;

/// Where the addresses and ports of an IP header are: offset of the source, offset of the destination, length.
fn places(ipv4: bool) -> (u32, u32, u32) {
    if ipv4 { (12, 16, 4) } else { (8, 24, 16) }
}

/// The expressions of one rule.
#[derive(Debug)]
pub struct Rule<'b>(pub &'b mut Buffer);

impl Rule<'_> {
    fn add(&mut self, name: &str, data: impl FnOnce(&mut Buffer)) {
        self.0.nest(ELEMENT, |b| {
            b.text(1, name);
            b.nest(2, data);
        });
    }

    /// Loads something about the packet.
    pub fn meta(&mut self, what: Meta, to: Register) {
        self.add("meta", |b| {
            b.be32(1, to.0);
            b.be32(2, what as u32);
        });
    }

    /// Loads bytes of the packet.
    pub fn payload(&mut self, header: Header, offset: u32, length: u32, to: Register) {
        self.add("payload", |b| {
            b.be32(1, to.0);
            b.be32(2, header as u32);
            b.be32(3, offset);
            b.be32(4, length);
        });
    }

    fn compare(&mut self, register: Register, equal: bool, value: &[u8]) {
        self.add("cmp", |b| {
            b.be32(1, register.0);
            b.be32(2, u32::from(!equal));
            b.nest(3, |b| b.attr(1, value));
        });
    }

    fn mask(&mut self, register: Register, mask: &[u8]) {
        self.add("bitwise", |b| {
            b.be32(1, register.0);
            b.be32(2, register.0);
            b.be32(3, mask.len() as u32);
            b.nest(4, |b| b.attr(1, mask));
            b.nest(5, |b| b.attr(1, &vec![0; mask.len()]));
        });
    }

    /// Goes on with packets of this family only.
    pub fn family(&mut self, ipv4: bool) {
        self.meta(Meta::Family, R0);
        let family = if ipv4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
        self.compare(R0, true, &[family as u8]);
    }

    /// Goes on with packets whose source (or destination) is in the range, or is not. The family was looked at.
    pub fn address(&mut self, source: bool, range: &Range, inside: bool) {
        let (from, to, length) = places(range.is_ipv4());
        self.payload(Header::Network, if source { from } else { to }, length, R0);
        let bytes = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let mask: Vec<u8> = (0..length)
            .map(|i| {
                let bits = u32::from(range.prefix()).saturating_sub(i * 8).min(8);
                0xff_u8.checked_shl(8 - bits).unwrap_or(0)
            })
            .collect();
        self.mask(R0, &mask);
        self.compare(R0, inside, &bytes(range.base()));
    }

    /// Loads the destination address.
    pub fn destination(&mut self, ipv4: bool, to: Register) {
        let (_, offset, length) = places(ipv4);
        self.payload(Header::Network, offset, length, to);
    }

    /// Goes on with packets through this interface only.
    pub fn interface(&mut self, which: Meta, name: &str) {
        self.meta(which, R0);
        let mut bytes = [0; 16];
        bytes[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
        self.compare(R0, true, &bytes);
    }

    /// Goes on with packets of connections whose destination was changed.
    pub fn redirected(&mut self) {
        const STATUS: u32 = 2;
        // `IPS_DST_NAT`, in the order of this machine.
        let bit = (1_u32 << 5).to_ne_bytes();
        self.add("ct", |b| {
            b.be32(1, R0.0);
            b.be32(2, STATUS);
        });
        self.mask(R0, &bit);
        self.compare(R0, false, &[0; 4]);
    }

    /// Goes on with packets to an address of the host.
    pub fn addressed_to_host(&mut self) {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        self.add("fib", |b| {
            b.be32(1, R0.0);
            b.be32(2, ADDRESS_TYPE);
            b.be32(3, DESTINATION);
        });
        self.compare(R0, true, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
    }

    /// Looks a key up in a map and goes on, with what it found, if there is something.
    pub fn lookup(&mut self, map: &str, key: Register, to: Register) {
        self.add("lookup", |b| {
            b.text(1, map);
            b.be32(2, key.0);
            b.be32(3, to.0);
        });
    }

    /// Sends the connection to another address and port.
    pub fn redirect(&mut self, ipv4: bool, address: Register, port: Register) {
        const DESTINATION: u32 = 1;
        let family = if ipv4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
        self.add("nat", |b| {
            b.be32(1, DESTINATION);
            b.be32(2, family as u32);
            b.be32(3, address.0);
            b.be32(5, port.0);
        });
    }

    /// Gives the connection the address of the interface that it leaves through.
    pub fn masquerade(&mut self) {
        self.add("masq", |_| {});
    }

    /// Ends the rule.
    pub fn verdict(&mut self, verdict: Verdict<'_>) {
        let (code, chain) = match verdict {
            Verdict::Drop => (libc::NF_DROP, None),
            Verdict::Return => (libc::NFT_RETURN, None),
            Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        };
        self.add("immediate", |b| {
            b.be32(1, 0);
            b.nest(2, |b| {
                b.nest(2, |b| {
                    b.be32(1, code as u32);
                    if let Some(chain) = chain {
                        b.text(2, chain);
                    }
                });
            });
        });
    }
}
