//! The supervisor's half of keeper's protocol, see [`husk_pause::proto`].
//!
//! Requests wait for their answer; keeper answers within microseconds, since it never waits for anything itself. Exits that are
//! announced in between are kept for [`Keeper::next_exited`].

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use husk_oci::errno::Sys;
use husk_oci::sys::fd;
use husk_pause::proto::{Kind, Msg, VERSION};
use nix::errno::Errno;

/// Requests that [`Keeper::put_many`] has under way at a time: as many answers always fit into a socket, so neither side can
/// come to wait for the other.
const UNDER_WAY: usize = 16;

/// The socket to keeper.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    exited: VecDeque<Exited>,
    earlier_supervisors: u32,
}

/// A child of keeper is dead, and a zombie until it is reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Its pid.
    pub pid: i32,
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub code: i32,
    /// Exit code or signal, as `code` says.
    pub status: i32,
}

/// Why keeper could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// keeper has closed its end: it is dead, and the pod with it.
    Gone,
    /// The socket failed.
    Socket {
        /// `send` or `receive`.
        doing: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// keeper refused a request.
    Refused {
        /// What was asked.
        request: Kind,
        /// About which slot or pid.
        key: u64,
        /// keeper's or its kernel's answer.
        errno: Errno,
    },
    /// keeper said what the protocol does not allow here.
    Protocol {
        /// What was asked, if anything.
        request: Option<Kind>,
        /// The kind that came, as a number; 0 for a packet of the wrong length.
        got: u32,
    },
    /// keeper is from another version of husk.
    Version {
        /// Its version of the protocol.
        theirs: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gone => f.write_str("keeper is gone, and the pod ends with it"),
            Error::Socket { doing, errno } => write!(f, "{doing} on keeper's socket: {}", Sys(*errno)),
            Error::Refused { request: Kind::Put, errno: Errno::ENOSPC, .. } => {
                write!(f, "put an fd into keeper: it is full; a pod can have {} fds there", husk_pause::proto::SLOTS)
            }
            Error::Refused { request: Kind::Reap, key, errno } => {
                write!(f, "have keeper reap process {key}: {}", Sys(*errno))
            }
            Error::Refused { request, key, errno } => {
                write!(f, "ask keeper to {request:?} slot {key:#x}: {}", Sys(*errno))
            }
            Error::Protocol { request: Some(request), got } => {
                write!(f, "keeper answered {request:?} with a message of kind {got}, which it must not")
            }
            Error::Protocol { request: None, got } => write!(f, "keeper sent a message of kind {got} unasked"),
            Error::Version { theirs } => {
                write!(
                    f,
                    "keeper speaks version {theirs} of its protocol, must be {VERSION}; it was started by another husk"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

type Result<T> = std::result::Result<T, Error>;

/// An answer of keeper.
struct Answer {
    kind: Kind,
    message: Msg,
    fd: Option<OwnedFd>,
}

impl Keeper {
    /// Takes the socket over and asks which protocol is spoken.
    ///
    /// # Errors
    /// [`Error::Version`], or keeper is gone.
    pub fn new(socket: OwnedFd) -> Result<Keeper> {
        let mut keeper = Keeper { socket, exited: VecDeque::new(), earlier_supervisors: 0 };
        let message = keeper.done(Msg::new(Kind::Hello, 0), Kind::Hello)?;
        if message.key != VERSION {
            return Err(Error::Version { theirs: message.key });
        }
        keeper.earlier_supervisors = message.b.unsigned_abs();
        Ok(keeper)
    }

    /// How many supervisors of this pod there were before this one.
    pub fn earlier_supervisors(&self) -> u32 {
        self.earlier_supervisors
    }

    /// An exit that was announced and not yet returned. Does not wait. keeper announces the next one when this one was reaped.
    ///
    /// # Errors
    /// keeper is gone.
    pub fn next_exited(&mut self) -> Result<Option<Exited>> {
        if let Some(exited) = self.exited.pop_front() {
            return Ok(Some(exited));
        }
        match self.receive(true)? {
            None => Ok(None),
            Some(answer) if answer.kind == Kind::Exited => Ok(Some(exited(&answer.message))),
            Some(answer) => Err(Error::Protocol { request: None, got: answer.message.kind }),
        }
    }

    /// Keeps a copy of `fd` in keeper, instead of the one that was there.
    ///
    /// # Errors
    /// [`Error::Refused`] with ENOSPC when keeper is full, EINVAL for slot 0.
    pub fn put(&mut self, slot: u64, fd: BorrowedFd<'_>) -> Result<()> {
        self.put_many(&[(slot, fd)])
    }

    /// As [`Keeper::put`] of each, in about the time of one.
    ///
    /// # Errors
    /// The first refusal; the others were tried all the same.
    pub fn put_many(&mut self, fds: &[(u64, BorrowedFd<'_>)]) -> Result<()> {
        let mut refused = None;
        let mut asked = fds.iter();
        let mut under_way = 0;
        loop {
            if under_way < UNDER_WAY
                && let Some((slot, fd)) = asked.next()
            {
                self.send(Msg::new(Kind::Put, *slot), &[*fd])?;
                under_way += 1;
                continue;
            }
            if under_way == 0 {
                return refused.map_or(Ok(()), Err);
            }
            let answer = self.answer(Kind::Put)?;
            under_way -= 1;
            if let Err(e) = finished(Kind::Put, answer) {
                refused.get_or_insert(e);
            }
        }
    }

    /// Sends a signal, unless that was done under this slot before, by us or by a predecessor. keeper holds the pidfd there until it is dropped.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's errno (ESRCH: it is dead), or with ENOSPC when keeper is full.
    pub fn signal_once(&mut self, slot: u64, pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
        self.send(Msg { a: signal, ..Msg::new(Kind::Signal, slot) }, &[pidfd])?;
        let answer = self.answer(Kind::Signal)?;
        finished(Kind::Signal, answer).map(drop)
    }

    /// A copy of the fd in a slot (CLOEXEC), `None` when it is empty.
    ///
    /// # Errors
    /// keeper is gone, or the copy could not be made.
    pub fn get(&mut self, slot: u64) -> Result<Option<OwnedFd>> {
        self.send(Msg::new(Kind::Get, slot), &[])?;
        let answer = self.answer(Kind::Get)?;
        match (answer.kind, answer.fd) {
            (Kind::Fd, Some(fd)) => Ok(Some(fd)),
            // The kernel could not give us the copy: our table is full.
            (Kind::Fd, None) => Err(Error::Socket { doing: "receive an fd", errno: Errno::EMFILE }),
            (Kind::Done, _) if answer.message.a == Errno::ENOENT as i32 => Ok(None),
            (kind, fd) => finished(Kind::Get, Answer { kind, message: answer.message, fd })
                .and(Err(Error::Protocol { request: Some(Kind::Get), got: kind as u32 })),
        }
    }

    /// Closes what is in a slot; an empty one is fine.
    ///
    /// # Errors
    /// keeper is gone.
    pub fn drop_slot(&mut self, slot: u64) -> Result<()> {
        match self.done(Msg::new(Kind::Drop, slot), Kind::Drop) {
            Err(Error::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The used slots, lowest first.
    ///
    /// # Errors
    /// keeper is gone.
    pub fn slots(&mut self) -> Result<Vec<u64>> {
        let mut slots = Vec::new();
        let mut from = 0;
        loop {
            self.send(Msg::new(Kind::List, from), &[])?;
            let answer = self.answer(Kind::List)?;
            match answer.kind {
                Kind::Item if answer.message.key >= from => {
                    slots.push(answer.message.key);
                    match answer.message.key.checked_add(1) {
                        Some(next) => from = next,
                        None => return Ok(slots),
                    }
                }
                Kind::Done if answer.message.a == Errno::ENOENT as i32 => return Ok(slots),
                kind => return Err(Error::Protocol { request: Some(Kind::List), got: kind as u32 }),
            }
        }
    }

    /// Has a dead child reaped, after which its exit is known to nobody but us.
    ///
    /// # Errors
    /// [`Error::Refused`]: EAGAIN when the process lives, ECHILD when it is no child of keeper (any more).
    pub fn reap(&mut self, pid: i32) -> Result<()> {
        self.done(Msg { a: pid, ..Msg::new(Kind::Reap, 0) }, Kind::Reap).map(drop)
    }

    /// Ends keeper, and by that everything in the pod, this process included: it does not return while keeper lives. (Were we to exit by
    /// ourselves, keeper could see that first and start another supervisor.)
    ///
    /// # Errors
    /// keeper cannot be asked.
    pub fn quit(&mut self) -> Result<()> {
        self.send(Msg::new(Kind::Quit, 0), &[])?;
        loop {
            match self.receive(false) {
                Ok(_) | Err(Error::Protocol { .. }) => {}
                Err(_) => return Ok(()),
            }
        }
    }

    /// Asks what is answered with `Done`.
    fn done(&mut self, message: Msg, request: Kind) -> Result<Msg> {
        self.send(message, &[])?;
        let answer = self.answer(request)?;
        finished(request, answer)
    }

    fn send(&mut self, message: Msg, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match fd::send(self.socket.as_fd(), &message.to_bytes(), fds) {
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("send", errno)),
        }
    }

    /// The answer to the oldest request; exits before it are kept.
    fn answer(&mut self, request: Kind) -> Result<Answer> {
        loop {
            match self.receive(false)? {
                Some(answer) if answer.kind == Kind::Exited => self.exited.push_back(exited(&answer.message)),
                Some(answer) => return Ok(answer),
                None => return Err(Error::Protocol { request: Some(request), got: 0 }),
            }
        }
    }

    /// One packet; `None` when none is there and we should not wait.
    fn receive(&mut self, dont_wait: bool) -> Result<Option<Answer>> {
        // One byte more than a message, to notice a longer packet.
        let mut packet = [0; Msg::BYTES + 1];
        let mut got = match fd::recv(self.socket.as_fd(), &mut packet, dont_wait) {
            Ok(got) => got,
            Err(Errno::EAGAIN) if dont_wait => return Ok(None),
            Err(errno) => return Err(failed("receive", errno)),
        };
        if got.len == 0 {
            return Err(Error::Gone);
        }
        let message = packet.first_chunk().filter(|_| got.len == Msg::BYTES).map(Msg::from_bytes);
        let Some(message) = message else { return Err(Error::Protocol { request: None, got: 0 }) };
        let Some(kind) = Kind::from_u32(message.kind) else {
            return Err(Error::Protocol { request: None, got: message.kind });
        };
        Ok(Some(Answer { kind, message, fd: got.fds.first_mut().and_then(Option::take) }))
    }
}

impl AsFd for Keeper {
    /// Readable when [`Keeper::next_exited`] may have one; exits that came during a request are not seen here, so ask it first.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failed(doing: &'static str, errno: Errno) -> Error {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => Error::Gone,
        errno => Error::Socket { doing, errno },
    }
}

fn exited(message: &Msg) -> Exited {
    Exited { pid: message.a, code: message.key as i32, status: message.b }
}

/// The message of a `Done` that says success.
fn finished(request: Kind, answer: Answer) -> Result<Msg> {
    if answer.kind != Kind::Done {
        return Err(Error::Protocol { request: Some(request), got: answer.message.kind });
    }
    match answer.message.a {
        0 => Ok(answer.message),
        errno => Err(Error::Refused { request, key: answer.message.key, errno: Errno::from_raw(errno) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our half, and a socket on which the test plays keeper.
    fn pair() -> (Keeper, OwnedFd) {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        (Keeper { socket: ours, exited: VecDeque::new(), earlier_supervisors: 0 }, theirs)
    }

    fn say(socket: &OwnedFd, message: Msg) {
        fd::send(socket.as_fd(), &message.to_bytes(), &[]).unwrap();
    }

    fn done(a: i32, key: u64) -> Msg {
        Msg { a, ..Msg::new(Kind::Done, key) }
    }

    fn death(pid: i32, status: i32) -> Msg {
        Msg { a: pid, b: status, ..Msg::new(Kind::Exited, 1) }
    }

    #[test]
    fn an_exit_that_comes_before_an_answer_is_not_lost() {
        let (mut keeper, other) = pair();
        say(&other, death(7, 37));
        say(&other, done(0, 9));
        keeper.drop_slot(9).unwrap();
        assert_eq!(keeper.next_exited(), Ok(Some(Exited { pid: 7, code: 1, status: 37 })));
        assert_eq!(keeper.next_exited(), Ok(None));
    }

    #[test]
    fn dropping_an_empty_slot_is_fine_and_getting_it_gives_nothing() {
        let (mut keeper, other) = pair();
        say(&other, done(Errno::ENOENT as i32, 9));
        assert_eq!(keeper.drop_slot(9), Ok(()));
        say(&other, done(Errno::ENOENT as i32, 9));
        assert!(keeper.get(9).unwrap().is_none());
    }

    #[test]
    fn a_refusal_names_the_request_the_slot_and_the_errno() {
        let (mut keeper, other) = pair();
        say(&other, done(Errno::EAGAIN as i32, 4711));
        let error = keeper.reap(4711).unwrap_err();
        assert_eq!(error.to_string(), format!("have keeper reap process 4711: {}", Sys(Errno::EAGAIN)));
    }

    #[test]
    fn of_many_puts_the_first_refusal_is_told_and_every_answer_is_read() {
        let (mut keeper, other) = pair();
        say(&other, done(0, 2));
        say(&other, done(Errno::ENOSPC as i32, 3));
        say(&other, done(Errno::EBADF as i32, 4));
        let fd = other.as_fd();
        let refused = keeper.put_many(&[(2, fd), (3, fd), (4, fd)]).unwrap_err();
        assert_eq!(refused, Error::Refused { request: Kind::Put, key: 3, errno: Errno::ENOSPC });
        assert_eq!(keeper.next_exited(), Ok(None));
    }

    #[test]
    fn another_version_is_refused() {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        say(&theirs, done(0, VERSION + 1));
        assert_eq!(Keeper::new(ours).unwrap_err(), Error::Version { theirs: VERSION + 1 });
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_an_error() {
        let (mut keeper, other) = pair();
        say(&other, done(0, 0));
        assert_eq!(keeper.next_exited(), Err(Error::Protocol { request: None, got: 32 }));
        fd::send(other.as_fd(), b"short", &[]).unwrap();
        assert_eq!(keeper.next_exited(), Err(Error::Protocol { request: None, got: 0 }));
        say(&other, Msg { kind: 77, ..done(0, 0) });
        assert_eq!(keeper.reap(1), Err(Error::Protocol { request: None, got: 77 }));
    }

    #[test]
    fn a_dead_keeper_is_gone() {
        let (mut keeper, other) = pair();
        drop(other);
        assert_eq!(keeper.reap(1), Err(Error::Gone));
        assert_eq!(keeper.next_exited(), Err(Error::Gone));
    }
}
