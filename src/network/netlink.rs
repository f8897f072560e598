//! Netlink, as much of it as a bridge and a table need: messages are put together in a buffer, sent at once, and answered before the call
//! that sends them returns. `netlink(7)`
//!
//! ```text
//! message    length, kind, flags, number, 0 | header of the protocol | attributes
//! attribute  length, kind | value, filled up to four bytes; the value of a nested one is attributes
//! ```

use std::os::fd::{AsFd, OwnedFd};

use husk_oci::sys::fd;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// What is read at once; the kernel cuts a dump to this.
const PIECE: usize = 32 << 10;

/// `NLM_F_REQUEST`, which every message of ours is.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
/// Be told of success, too.
pub const ACK: u16 = libc::NLM_F_ACK as u16;
/// Make it if it is not there.
pub const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Fail if it is there.
pub const EXCL: u16 = libc::NLM_F_EXCL as u16;
/// Put it in the place of one that is there.
pub const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
/// All there are.
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// At the end of the list.
pub const APPEND: u16 = libc::NLM_F_APPEND as u16;

const NESTED: u16 = 1 << 15;
const BYTE_ORDER: u16 = 1 << 14;

/// Messages to be sent together.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    messages: u32,
    /// The last one that asks for an answer.
    answered: u32,
}

impl Buffer {
    /// Adds a message; `body` adds its attributes.
    pub fn message(&mut self, kind: u16, flags: u16, header: &[u8], body: impl FnOnce(&mut Buffer)) {
        let start = self.bytes.len();
        self.messages += 1;
        if flags & ACK != 0 {
            self.answered = self.messages;
        }
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.messages.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        self.fill_up();
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.fill_up();
    }

    /// Adds a number in the order of this machine.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Adds a number in the order of the network.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Adds a text with its NUL byte.
    pub fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// Adds an attribute whose value is the attributes that `body` adds.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Buffer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds bytes as they are: the header of a protocol inside an attribute.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.fill_up();
    }

    fn fill_up(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// What was put together.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One message of an answer.
#[derive(Debug)]
pub struct Answer {
    /// What it is.
    pub kind: u16,
    bytes: Vec<u8>,
}

impl Answer {
    /// The header of the protocol, of this many bytes.
    pub fn header<const N: usize>(&self) -> [u8; N] {
        let mut header = [0; N];
        if let Some(bytes) = self.bytes.get(..N) {
            header.copy_from_slice(bytes);
        }
        header
    }

    /// The attributes behind a header of `length` bytes.
    pub fn attributes(&self, length: usize) -> Attributes<'_> {
        Attributes(self.bytes.get(length.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// Attributes, one after another. What is cut off ends it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16::from_ne_bytes([*self.0.first()?, *self.0.get(1)?]));
        let kind = u16::from_ne_bytes([*self.0.get(2)?, *self.0.get(3)?]) & !(NESTED | BYTE_ORDER);
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The value of one of this kind.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        { self }.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The value as a number in the order of this machine.
    pub fn get_u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The value as a text.
    pub fn get_text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        Some(String::from_utf8_lossy(bytes.split(|b| *b == 0).next()?).into_owned())
    }
}

/// A netlink socket of the network namespace in which it was made.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// The message that failed, counted from 0, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which one; `None`: the kernel refused all of it.
    pub message: Option<usize>,
    /// Why.
    pub errno: Errno,
}

impl Socket {
    /// For links, addresses and routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn route() -> Result<Socket, Errno> {
        Socket::open(SockProtocol::NetlinkRoute)
    }

    /// For nftables; EPROTONOSUPPORT where the kernel has none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn netfilter() -> Result<Socket, Errno> {
        Socket::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Socket, Errno> {
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)
            .map(Socket)
    }

    /// Sends messages of which at least one asks for an [`ACK`], and waits until all are dealt with.
    ///
    /// # Errors
    /// The first one that failed.
    pub fn transact(&self, buffer: &Buffer) -> Result<(), Failed> {
        let failed = self.transact_all(buffer)?;
        failed.into_iter().min_by_key(|f| f.message).map_or(Ok(()), Err)
    }

    /// The same; tells of all that failed.
    ///
    /// # Errors
    /// Nothing could be sent, or nothing is answered.
    pub fn transact_all(&self, buffer: &Buffer) -> Result<Vec<Failed>, Failed> {
        let all = |errno| Failed { message: None, errno };
        self.send(buffer).map_err(all)?;
        let mut failed = Vec::new();
        let mut last = false;
        loop {
            let answers = match self.receive() {
                Ok(answers) => answers,
                // Everything is answered by the time that `send` returns.
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(all(errno)),
            };
            for (number, answer) in answers {
                if i32::from(answer.kind) != libc::NLMSG_ERROR {
                    continue;
                }
                let errno = -i32::from_ne_bytes(answer.header());
                last |= number == buffer.answered;
                if errno != 0 {
                    let message = number.checked_sub(1).map(|n| n as usize);
                    failed.push(Failed { message, errno: Errno::from_raw(errno) });
                }
            }
        }
        // Without a word about the last one nothing is known.
        if failed.is_empty() && !last { Err(all(Errno::EPROTO)) } else { Ok(failed) }
    }

    /// Sends one message and returns what is answered: one thing, or with [`DUMP`] all there are.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, buffer: &Buffer) -> Result<Vec<Answer>, Errno> {
        self.send(buffer)?;
        let mut all = Vec::new();
        loop {
            let answers = match self.receive() {
                Ok(answers) => answers,
                // One thing, without an end mark.
                Err(Errno::EAGAIN) => return Ok(all),
                Err(errno) => return Err(errno),
            };
            for (_, answer) in answers {
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(all),
                    libc::NLMSG_ERROR => match -i32::from_ne_bytes(answer.header()) {
                        0 => {}
                        errno => return Err(Errno::from_raw(errno)),
                    },
                    _ => all.push(answer),
                }
            }
        }
    }

    fn send(&self, buffer: &Buffer) -> Result<(), Errno> {
        fd::write(self.0.as_fd(), &buffer.bytes).map(drop)
    }

    /// What one read gives: messages with their numbers.
    fn receive(&self) -> Result<Vec<(u32, Answer)>, Errno> {
        let mut piece = vec![0; PIECE];
        let length = fd::read(self.0.as_fd(), &mut piece)?;
        let mut rest = &piece[..length];
        let mut answers = Vec::new();
        while let Some(header) = rest.get(..HEADER) {
            let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let length = word(0) as usize;
            let Some(bytes) = rest.get(HEADER..length) else { break };
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            answers.push((word(8), Answer { kind, bytes: bytes.to_vec() }));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_is_found_again() {
        let mut buffer = Buffer::default();
        buffer.message(7, ACK, &[1, 2, 3, 4], |b| {
            b.text(1, "ab");
            b.nest(2, |b| b.u32(3, 77));
        });
        let bytes = buffer.bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        let answer = Answer { kind: 7, bytes: bytes[HEADER..].to_vec() };
        assert_eq!(answer.header::<4>(), [1, 2, 3, 4]);
        let attributes = answer.attributes(4);
        assert_eq!(attributes.get_text(1).as_deref(), Some("ab"));
        assert_eq!(Attributes(attributes.get(2).unwrap()).get_u32(3), Some(77));
        assert_eq!(attributes.get(9), None);
    }

    #[test]
    fn attributes_that_are_cut_off_end_the_list() {
        for bytes in [&[][..], &[8, 0, 1, 0, 0], &[0, 0, 0, 0], &[3, 0, 1, 0], &[255, 255, 1, 0, 0, 0, 0, 0]] {
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn the_kernel_answers_what_it_is_asked() {
        let mut buffer = Buffer::default();
        buffer.message(libc::RTM_GETLINK, DUMP, &[0; 16], |_| {});
        let links = Socket::route().unwrap().ask(&buffer).unwrap();
        assert!(links.iter().any(|link| link.attributes(16).get_text(libc::IFLA_IFNAME).as_deref() == Some("lo")));
    }
}
