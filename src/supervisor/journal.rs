//! The staging pipe and its journal: how container output gets from a pipe into a file exactly once, though the supervisor may be killed
//! between any two instructions.
//!
//! Four things outlive a supervisor, since keeper has a copy of each fd: the container's pipe *P* (one a stream), one staging pipe *B* a pod,
//! the journal *J* (a memfd of one record), and of course the log file *L*. A portion of output goes this way:
//!
//! | # | step                                  | what a new supervisor finds when the old one died after it              | what it does     |
//! |---|---------------------------------------|-------------------------------------------------------------------------|------------------|
//! | 1 | J := `Filling` for this stream        | B empty                                                                 | nothing          |
//! | 2 | `splice` P to B, at most 64 KiB       | `Filling`, B holds bytes that L has not                                 | goes on at 3     |
//! | 3 | `tee` B to a private pipe C, read C   | the same; C died with its owner                                         | goes on at 3     |
//! | 4 | rotate L if it would grow too large   | the same; L may be missing (renamed, not made again yet)                | makes L, 3       |
//! | 5 | J := `Appending`, L's inode and size  | `Appending`, L as it was                                                | cuts L (no-op), 3|
//! | 6 | append to L, as many writes as needed | `Appending`, L with a part of it, or all of it                          | cuts L to the size in J, 3 |
//! | 7 | J := `Draining`, what B shall keep    | `Draining`, L complete, B still holds what L has                        | drains B         |
//! | 8 | read the portion off B                | `Draining`, B partly or wholly drained                                  | drains the rest  |
//!
//! What this rests on:
//! * A `splice` from pipe to pipe moves buffers under both pipes' locks and looks at no signal meanwhile: a byte is in P or in B, never in both, never in
//!   neither. Nobody but us reads P or writes B.
//! * A record of J is one `pwrite` inside one page of a memfd. The kernel looks for a fatal signal before it copies, not in the middle: J is the old or
//!   the new record.
//! * Draining B need not be atomic, and isn't: J says how many bytes B shall keep, and `FIONREAD` says how many it has.
//! * A write to L need not be atomic, and isn't: J says where it began. L is not renamed between 5 and 7, and J has its inode, so that nothing but the
//!   file meant is ever cut.
//! * Nothing is held back in memory. A piece of a line that has no end yet is logged as partial (`P`) at once.
//!
//! A follower of L may have read bytes that are then cut and written again. They come back in the same place with the same length, only with other
//! times (a time is always 30 bytes wide), so it does not see them twice.
//!
//! Not covered, on purpose: the death of keeper (then the pod is over) and of the host (no `fsync`: this is a log).

use super::log::Stream;
use husk_oci::sys;
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The most that is moved, and held in memory, at once.
const PORTION: usize = 64 * 1024;

/// `husklog` and the version of the record.
const MAGIC: u64 = u64::from_le_bytes(*b"husklog\x01");

/// Length of the record.
const RECORD: usize = 48;

/// Where the portion in B stands. Numbers are on "disk": append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Filling = 1,
    Appending = 2,
    Draining = 3,
}

/// The record in J.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    phase: Phase,
    stream: Stream,
    key: u64,
    /// `Appending`: L's size before. `Draining`: how many bytes B shall keep.
    number: u64,
    /// `Appending`: L's inode.
    inode: u64,
}

impl Entry {
    fn to_bytes(self) -> [u8; RECORD] {
        let words = [MAGIC, self.phase as u64, self.stream as u64, self.key, self.number, self.inode];
        let mut bytes = [0; RECORD];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; RECORD]) -> Option<Entry> {
        let mut words = [0u64; RECORD / 8];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().ok()?);
        }
        let [MAGIC, phase, stream, key, number, inode] = words else { return None };
        let phase = [Phase::Filling, Phase::Appending, Phase::Draining].into_iter().find(|p| *p as u64 == phase)?;
        let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(|s| *s as u64 == stream)?;
        Some(Entry { phase, stream, key, number, inode })
    }
}

/// What [`Staging::fill`] found in the container's pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// So many bytes are staged.
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// Nothing now and nothing ever: every writer has closed.
    Eof,
}

/// B and J of one pod. Give copies of [`Staging::fds`] to keeper before the first byte goes through, all three or none.
#[derive(Debug)]
pub struct Staging {
    out: OwnedFd,
    into: OwnedFd,
    journal: File,
    /// C, made on first use.
    peek: Option<(OwnedFd, OwnedFd)>,
    entry: Entry,
    /// Bytes in B.
    staged: usize,
    /// The portion being logged; empty between portions.
    bytes: Vec<u8>,
}

impl Staging {
    /// A new, empty staging pipe and journal.
    ///
    /// # Errors
    /// What `pipe2(2)` and `memfd_create(2)` say.
    pub fn new() -> io::Result<Staging> {
        let (out, into) = sys::fd::pipe(true)?;
        let journal = File::from(sys::fd::memfd(c"husk-log-journal", false)?);
        let entry = Entry { phase: Phase::Filling, stream: Stream::Stdout, key: 0, number: 0, inode: 0 };
        journal.write_all_at(&entry.to_bytes(), 0)?;
        Ok(Staging { out, into, journal, peek: None, entry, staged: 0, bytes: Vec::new() })
    }

    /// The staging pipe and journal of an earlier supervisor, in the order of [`Staging::fds`]. When [`Staging::pending`] then names a
    /// stream, its log has to be finished ([`super::log::ContainerLog::settle`]) or given up ([`Staging::discard`]) first.
    ///
    /// # Errors
    /// `InvalidData` when the journal is not one that this version understands.
    pub fn from_fds([out, into, journal]: [OwnedFd; 3]) -> io::Result<Staging> {
        let journal = File::from(journal);
        let mut record = [0; RECORD];
        journal.read_exact_at(&mut record, 0)?;
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "the log journal is of another version");
        let entry = Entry::from_bytes(&record).ok_or_else(unknown)?;
        let staged = sys::fd::readable_bytes(out.as_fd())?;
        let mut this = Staging { out, into, journal, peek: None, entry, staged, bytes: Vec::new() };
        if entry.phase == Phase::Draining {
            this.drain_to(entry.number as usize)?;
        }
        Ok(this)
    }

    /// What keeper has to keep: the two ends of B, and J.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.out.as_fd(), self.into.as_fd(), self.journal.as_fd()]
    }

    /// The key of the stream whose bytes are staged and not all logged yet: after a crash, or after an error from its log.
    pub fn pending(&self) -> Option<u64> {
        (self.staged > 0).then_some(self.entry.key)
    }

    /// Throws away what is staged: for a container whose log was removed meanwhile. The number of bytes lost.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn discard(&mut self) -> io::Result<usize> {
        let lost = self.staged;
        self.record(Entry { phase: Phase::Draining, number: 0, ..self.entry })?;
        self.drain_to(0)?;
        Ok(lost)
    }

    /// Frees the memory that a busy stream has used. For when nothing is readable any more.
    pub(super) fn idle(&mut self) {
        self.bytes = Vec::new();
    }

    /// The stream of what is staged.
    pub(super) fn stream(&self) -> Stream {
        self.entry.stream
    }

    /// Bytes in B.
    pub(super) fn staged(&self) -> usize {
        self.staged
    }

    /// Steps 1 and 2. B must be empty.
    pub(super) fn fill(&mut self, key: u64, stream: Stream, pipe: BorrowedFd<'_>) -> io::Result<Filled> {
        debug_assert_eq!(self.staged, 0);
        self.record(Entry { phase: Phase::Filling, stream, key, number: 0, inode: 0 })?;
        match sys::fd::splice(pipe, self.into.as_fd(), PORTION) {
            // A terminal says EIO when its last user has gone.
            Ok(0) | Err(Errno::EIO) => Ok(Filled::Eof),
            Ok(n) => {
                self.staged = n;
                Ok(Filled::Bytes(n))
            }
            Err(Errno::EAGAIN) => Ok(Filled::Empty),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Step 3: the first bytes of B, at most [`PORTION`], which stay there.
    pub(super) fn peek(&mut self) -> io::Result<&[u8]> {
        // Whatever goes wrong, a C with leftovers must not be used again.
        let (out, into) = match self.peek.take() {
            Some(pipe) => pipe,
            None => sys::fd::pipe(true)?,
        };
        let n = sys::fd::tee(self.out.as_fd(), into.as_fd(), PORTION)?;
        self.bytes.clear();
        self.bytes.resize(n, 0);
        let mut have = 0;
        // More than one read when the container wrote in packets (O_DIRECT).
        while have < n {
            match sys::fd::read(out.as_fd(), &mut self.bytes[have..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => have += more,
            }
        }
        self.peek = Some((out, into));
        Ok(&self.bytes)
    }

    /// The portion that was peeked at last.
    pub(super) fn portion(&self) -> &[u8] {
        &self.bytes
    }

    /// Where an append that may have been interrupted began: inode and size.
    pub(super) fn unfinished(&self) -> Option<(u64, u64)> {
        (self.entry.phase == Phase::Appending).then_some((self.entry.inode, self.entry.number))
    }

    /// Step 5.
    pub(super) fn begin_append(&mut self, inode: u64, size: u64) -> io::Result<()> {
        self.record(Entry { phase: Phase::Appending, number: size, inode, ..self.entry })
    }

    /// Steps 7 and 8: the portion is in the log.
    pub(super) fn appended(&mut self) -> io::Result<()> {
        let keep = self.staged - self.bytes.len();
        self.record(Entry { phase: Phase::Draining, number: keep as u64, ..self.entry })?;
        self.drain_to(keep)
    }

    fn record(&mut self, entry: Entry) -> io::Result<()> {
        // Only when the kernel has the new record may we act on it, so the copy in memory is changed last.
        match self.journal.write_at(&entry.to_bytes(), 0)? {
            RECORD => self.entry = entry,
            _ => return Err(io::ErrorKind::WriteZero.into()),
        }
        Ok(())
    }

    fn drain_to(&mut self, keep: usize) -> io::Result<()> {
        while self.staged > keep {
            let n = (self.staged - keep).min(PORTION);
            if self.bytes.len() < n {
                self.bytes.resize(n, 0);
            }
            match sys::fd::read(self.out.as_fd(), &mut self.bytes[..n])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => self.staged -= more,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for phase in [Phase::Filling, Phase::Appending, Phase::Draining] {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let entry = Entry { phase, stream, key: 7, number: u64::MAX, inode: 3 };
                assert_eq!(Entry::from_bytes(&entry.to_bytes()), Some(entry));
            }
        }
    }

    #[test]
    fn a_foreign_record_is_refused() {
        let good = Entry { phase: Phase::Filling, stream: Stream::Stdout, key: 7, number: 0, inode: 3 }.to_bytes();
        for at in [0, 7, 8, 16] {
            let mut bad = good;
            bad[at] ^= 0x55;
            assert_eq!(Entry::from_bytes(&bad), None, "{at}");
        }
    }

    #[test]
    fn a_packet_with_a_packet_boundary_inside_is_peeked_whole() {
        use std::io::Write;
        let (out, into) = nix::unistd::pipe2(nix::fcntl::OFlag::O_DIRECT | nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut writer = File::from(into);
        writer.write_all(b"one").unwrap();
        writer.write_all(b"two").unwrap();
        let mut staging = Staging::new().unwrap();
        assert_eq!(staging.fill(1, Stream::Stdout, out.as_fd()).unwrap(), Filled::Bytes(6));
        assert_eq!(staging.peek().unwrap(), b"onetwo");
        staging.appended().unwrap();
        assert_eq!(staging.pending(), None);
        assert_eq!(staging.fill(1, Stream::Stdout, out.as_fd()).unwrap(), Filled::Empty);
        drop(writer);
        assert_eq!(staging.fill(1, Stream::Stdout, out.as_fd()).unwrap(), Filled::Eof);
    }
}
