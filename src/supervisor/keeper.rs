//! The supervisor's half of keeper's protocol, see [`husk_pause::proto`].
//!
//! keeper answers within microseconds, since it never waits for anything itself; but each wait for it costs two changes of processes. So what
//! need not be known at once is asked without a wait, and [`Keeper::confirm`] is called where something depends on it. Exits that are
//! announced in between are kept for [`Keeper::next_exited`].

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use husk_oci::errno::Sys;
use husk_oci::sys::fd;
use husk_pause::proto::{Kind, Msg, VERSION};
use nix::errno::Errno;

/// Requests that may be under way at a time: as many answers always fit into a socket, so neither side can come to wait for the other.
const UNDER_WAY: usize = 16;

/// The socket to keeper.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    exited: VecDeque<Exited>,
    /// What was asked and is not answered yet, oldest first.
    asked: VecDeque<Msg>,
    /// The first refusal of a put or of our version since [`Keeper::confirm`].
    refused: Option<Error>,
    /// The last refusal of something else.
    complaint: Option<Error>,
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
    /// Takes the socket over and asks which protocol is spoken, without waiting for the answer.
    ///
    /// # Errors
    /// keeper is gone.
    pub fn new(socket: OwnedFd) -> Result<Keeper> {
        let mut keeper =
            Keeper { socket, exited: VecDeque::new(), asked: VecDeque::new(), refused: None, complaint: None };
        keeper.ask(Msg::new(Kind::Hello, 0), &[])?;
        Ok(keeper)
    }

    /// An exit that was announced before some answer that has been read, and not yet returned. Asks nobody.
    pub fn heard_exited(&mut self) -> Option<Exited> {
        self.exited.pop_front()
    }

    /// An exit that was announced and not yet returned. Does not wait. keeper announces the next one when this one was reaped.
    ///
    /// # Errors
    /// keeper is gone.
    pub fn next_exited(&mut self) -> Result<Option<Exited>> {
        loop {
            if let Some(exited) = self.heard_exited() {
                return Ok(Some(exited));
            }
            match self.receive(true)? {
                None => return Ok(None),
                Some(answer) if answer.kind == Kind::Exited => self.exited.push_back(exited(&answer.message)),
                Some(answer) => self.take_in(answer)?,
            }
        }
    }

    /// Sends a signal, unless that was done under this slot before, by us or by a predecessor. keeper holds the pidfd there until it is dropped.
    ///
    /// # Errors
    /// [`Error::Refused`] with the kernel's errno (ESRCH: it is dead), or with ENOSPC when keeper is full.
    pub fn signal_once(&mut self, slot: u64, pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
        let request = Msg { a: signal, ..Msg::new(Kind::Signal, slot) };
        let answer = self.exchange(request, &[pidfd])?;
        finished(Kind::Signal, &answer)
    }

    /// Keeps a copy of `fd` in keeper, instead of the one that was there. Whether keeper did it is known after [`Keeper::confirm`].
    ///
    /// # Errors
    /// keeper is gone.
    pub fn put(&mut self, slot: u64, fd: BorrowedFd<'_>) -> Result<()> {
        self.ask(Msg::new(Kind::Put, slot), &[fd])
    }

    /// Closes what is in a slot; an empty one is fine.
    ///
    /// # Errors
    /// keeper is gone.
    pub fn drop_slot(&mut self, slot: u64) -> Result<()> {
        self.ask(Msg::new(Kind::Drop, slot), &[])
    }

    /// As [`Keeper::put`] of each, confirmed.
    ///
    /// # Errors
    /// The first refusal; the others were tried all the same.
    pub fn put_many(&mut self, fds: &[(u64, BorrowedFd<'_>)]) -> Result<()> {
        fds.iter().try_for_each(|(slot, fd)| self.put(*slot, *fd))?;
        self.confirm()
    }

    /// Has a dead child reaped, after which its exit is known to nobody but us. See [`Keeper::refusal`].
    ///
    /// # Errors
    /// keeper is gone.
    pub fn reap(&mut self, pid: i32) -> Result<()> {
        self.ask(Msg { a: pid, ..Msg::new(Kind::Reap, 0) }, &[])
    }

    /// Waits until keeper has answered all that it was asked for.
    ///
    /// # Errors
    /// [`Error::Version`], or the first put that was refused since the last call: [`Error::Refused`] with ENOSPC when keeper is full, EINVAL for
    /// slot 0.
    pub fn confirm(&mut self) -> Result<()> {
        self.catch_up()?;
        self.refused.take().map_or(Ok(()), Err)
    }

    /// What else keeper has refused, as far as it has answered: a reap with EAGAIN when the process lives, ECHILD when it is no child of keeper
    /// (any more).
    pub fn refusal(&mut self) -> Option<Error> {
        self.complaint.take()
    }

    /// A copy of the fd in a slot (CLOEXEC), `None` when it is empty.
    ///
    /// # Errors
    /// keeper is gone, or the copy could not be made.
    pub fn get(&mut self, slot: u64) -> Result<Option<OwnedFd>> {
        let answer = self.exchange(Msg::new(Kind::Get, slot), &[])?;
        match (answer.kind, answer.fd) {
            (Kind::Fd, Some(fd)) => Ok(Some(fd)),
            // The kernel could not give us the copy: our table is full.
            (Kind::Fd, None) => Err(Error::Socket { doing: "receive an fd", errno: Errno::EMFILE }),
            (Kind::Done, _) if answer.message.a == Errno::ENOENT as i32 => Ok(None),
            (kind, fd) => finished(Kind::Get, &Answer { kind, message: answer.message, fd })
                .and(Err(Error::Protocol { request: Some(Kind::Get), got: kind as u32 })),
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
            let answer = self.exchange(Msg::new(Kind::List, from), &[])?;
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

    /// Asks for something whose answer can wait.
    fn ask(&mut self, request: Msg, fds: &[BorrowedFd<'_>]) -> Result<()> {
        while self.asked.len() >= UNDER_WAY {
            let answer = self.answer()?;
            self.take_in(answer)?;
        }
        self.send(request, fds)?;
        self.asked.push_back(request);
        Ok(())
    }

    /// Asks, and waits for the answer.
    fn exchange(&mut self, request: Msg, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        self.catch_up()?;
        self.send(request, fds)?;
        self.answer()
    }

    /// Waits for the answers to all that was asked.
    fn catch_up(&mut self) -> Result<()> {
        while !self.asked.is_empty() {
            let answer = self.answer()?;
            self.take_in(answer)?;
        }
        Ok(())
    }

    /// The answer to the oldest request. A refusal is kept for [`Keeper::confirm`].
    fn take_in(&mut self, answer: Answer) -> Result<()> {
        let unasked = Error::Protocol { request: None, got: answer.message.kind };
        let request = self.asked.pop_front().and_then(|asked| Kind::from_u32(asked.kind)).ok_or(unasked)?;
        let result = match finished(request, &answer) {
            Ok(()) if request == Kind::Hello && answer.message.key != VERSION => {
                Err(Error::Version { theirs: answer.message.key })
            }
            Err(Error::Refused { request: Kind::Drop, errno: Errno::ENOENT, .. }) => Ok(()),
            other => other,
        };
        match result {
            Err(e @ Error::Protocol { .. }) => return Err(e),
            Err(e) if matches!(request, Kind::Put | Kind::Hello) => drop(self.refused.get_or_insert(e)),
            Err(e) => self.complaint = Some(e),
            Ok(()) => {}
        }
        Ok(())
    }

    fn send(&mut self, message: Msg, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match fd::send(self.socket.as_fd(), &message.to_bytes(), fds) {
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("send", errno)),
        }
    }

    /// The next answer; exits before it are kept.
    fn answer(&mut self) -> Result<Answer> {
        loop {
            match self.receive(false)? {
                Some(answer) if answer.kind == Kind::Exited => self.exited.push_back(exited(&answer.message)),
                Some(answer) => return Ok(answer),
                None => return Err(Error::Protocol { request: None, got: 0 }),
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

/// Is this a `Done` that says success?
fn finished(request: Kind, answer: &Answer) -> Result<()> {
    if answer.kind != Kind::Done {
        return Err(Error::Protocol { request: Some(request), got: answer.message.kind });
    }
    match answer.message.a {
        0 => Ok(()),
        errno => Err(Error::Refused { request, key: answer.message.key, errno: Errno::from_raw(errno) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our half, and a socket on which the test plays keeper.
    fn pair() -> (Keeper, OwnedFd) {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        (
            Keeper { socket: ours, exited: VecDeque::new(), asked: VecDeque::new(), refused: None, complaint: None },
            theirs,
        )
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
        keeper.confirm().unwrap();
        assert_eq!(keeper.next_exited(), Ok(Some(Exited { pid: 7, code: 1, status: 37 })));
        assert_eq!(keeper.next_exited(), Ok(None));
    }

    #[test]
    fn dropping_an_empty_slot_is_fine_and_getting_it_gives_nothing() {
        let (mut keeper, other) = pair();
        say(&other, done(Errno::ENOENT as i32, 9));
        assert_eq!(keeper.drop_slot(9).and(keeper.confirm()), Ok(()));
        say(&other, done(Errno::ENOENT as i32, 9));
        assert!(keeper.get(9).unwrap().is_none());
    }

    #[test]
    fn a_refusal_names_the_request_the_slot_and_the_errno() {
        let (mut keeper, other) = pair();
        say(&other, done(Errno::EAGAIN as i32, 4711));
        assert_eq!(keeper.reap(4711).and(keeper.confirm()), Ok(()));
        let error = keeper.refusal().unwrap();
        assert_eq!(error.to_string(), format!("have keeper reap process 4711: {}", Sys(Errno::EAGAIN)));
    }

    #[test]
    fn of_many_puts_the_first_refusal_is_told_and_every_answer_is_read() {
        let (mut keeper, other) = pair();
        let fd = other.as_fd();
        for slot in 2..40 {
            say(&other, done(if slot < 3 { 0 } else { Errno::ENOSPC as i32 }, slot));
            keeper.put(slot, fd).unwrap();
        }
        let refused = Error::Refused { request: Kind::Put, key: 3, errno: Errno::ENOSPC };
        assert_eq!(keeper.confirm(), Err(refused));
        assert_eq!(keeper.confirm(), Ok(()));
        assert_eq!(keeper.next_exited(), Ok(None));
    }

    #[test]
    fn answers_that_nobody_waited_for_are_taken_in_with_the_exits_between_them() {
        let (mut keeper, other) = pair();
        keeper.drop_slot(9).unwrap();
        keeper.reap(7).unwrap();
        say(&other, done(0, 9));
        say(&other, death(8, 1));
        say(&other, done(Errno::ECHILD as i32, 7));
        assert_eq!(keeper.next_exited().unwrap().map(|e| e.pid), Some(8));
        assert_eq!(keeper.next_exited(), Ok(None));
        assert_eq!(keeper.confirm(), Ok(()));
        assert_eq!(keeper.refusal(), Some(Error::Refused { request: Kind::Reap, key: 7, errno: Errno::ECHILD }));
    }

    #[test]
    fn another_version_is_refused() {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        say(&theirs, done(0, VERSION + 1));
        let error = Keeper::new(ours).and_then(|mut keeper| keeper.confirm()).unwrap_err();
        assert_eq!(error, Error::Version { theirs: VERSION + 1 });
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_an_error() {
        let (mut keeper, other) = pair();
        say(&other, done(0, 0));
        assert_eq!(keeper.next_exited(), Err(Error::Protocol { request: None, got: 32 }));
        fd::send(other.as_fd(), b"short", &[]).unwrap();
        assert_eq!(keeper.next_exited(), Err(Error::Protocol { request: None, got: 0 }));
        say(&other, Msg { kind: 77, ..done(0, 0) });
        assert_eq!(keeper.reap(1).and(keeper.confirm()), Err(Error::Protocol { request: None, got: 77 }));
    }

    #[test]
    fn a_dead_keeper_is_gone() {
        let (mut keeper, other) = pair();
        drop(other);
        assert_eq!(keeper.reap(1), Err(Error::Gone));
        assert_eq!(keeper.next_exited(), Err(Error::Gone));
    }
}
