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
//! | 4 | rotate L if it would grow too large   | the same; L may be missing (renamed, not made again), the old files may have a gap | makes L, 3; the gap is closed when the log is next opened |
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

use super::log::{ContainerLog, Stream};
use husk_oci::sys;
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The most that is moved, and held in memory, at once.
const PORTION: usize = 64 * 1024;

/// Version of the record.
pub const VERSION: u32 = 1;

/// `husklog` and the version of the record.
const MAGIC: u64 = u64::from_le_bytes([b'h', b'u', b's', b'k', b'l', b'o', b'g', VERSION as u8]);

/// Length of the record before L's path.
const FIXED: usize = 48;

/// A record stays within one page, see above.
const PAGE: usize = 4096;

/// Where the portion in B stands. The numbers are in J, which another version may read: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Filling = 1,
    Appending = 2,
    Draining = 3,
}

/// The record in J.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    phase: Phase,
    stream: Stream,
    /// `Appending`: L's size before. `Draining`: how many bytes B shall keep.
    number: u64,
    /// `Appending`: L's inode.
    inode: u64,
    /// L.
    path: PathBuf,
}

impl Entry {
    /// What a new journal says: nothing is staged.
    fn none() -> Entry {
        Entry { phase: Phase::Filling, stream: Stream::Stdout, number: 0, inode: 0, path: PathBuf::new() }
    }

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let path = self.path.as_os_str().as_bytes();
        if path.len() > PAGE - FIXED {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let words = [MAGIC, self.phase as u64, self.stream as u64, self.number, self.inode, path.len() as u64];
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.extend_from_slice(path);
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Entry> {
        let (fixed, rest) = bytes.split_at_checked(FIXED)?;
        let mut words = [0u64; FIXED / 8];
        for (word, from) in words.iter_mut().zip(fixed.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().ok()?);
        }
        let [MAGIC, phase, stream, number, inode, length] = words else { return None };
        let phase = [Phase::Filling, Phase::Appending, Phase::Draining].into_iter().find(|p| *p as u64 == phase)?;
        let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(|s| *s as u64 == stream)?;
        let path = PathBuf::from(OsStr::from_bytes(rest.get(..usize::try_from(length).ok()?)?));
        Some(Entry { phase, stream, number, inode, path })
    }
}

/// What [`Staging::fill`] found in the container's pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Something is staged now.
    Bytes,
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
        let entry = Entry::none();
        journal.write_all_at(&entry.to_bytes()?, 0)?;
        Ok(Staging { out, into, journal, peek: None, entry, staged: 0, bytes: Vec::new() })
    }

    /// The staging pipe and journal of an earlier supervisor, in the order of [`Staging::fds`].
    ///
    /// # Errors
    /// `InvalidData` when the journal is not one that this version understands.
    pub fn from_fds(out: OwnedFd, into: OwnedFd, journal: OwnedFd) -> io::Result<Staging> {
        let journal = File::from(journal);
        let mut page = [0; PAGE];
        let length = journal.read_at(&mut page, 0)?;
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "the log journal is of another version");
        let entry = Entry::from_bytes(&page[..length]).ok_or_else(unknown)?;
        let staged = sys::fd::readable_bytes(out.as_fd())?;
        Ok(Staging { out, into, journal, peek: None, entry, staged, bytes: Vec::new() })
    }

    /// What keeper has to keep: the two ends of B, and J.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.out.as_fd(), self.into.as_fd(), self.journal.as_fd()]
    }

    /// Finishes what a writer that was killed, or that met an error, had begun. Costs nothing when nothing is staged. What belongs to a
    /// log whose directory is gone (its pod is being removed) is dropped: nobody could read it.
    ///
    /// # Errors
    /// The log cannot be opened or written; what is staged stays staged, and the call can be repeated.
    pub fn recover(&mut self) -> io::Result<()> {
        if self.entry.phase == Phase::Draining {
            self.drain_to(self.entry.number as usize)?;
        }
        if self.staged == 0 {
            return Ok(());
        }
        if self.entry.path.parent().is_none_or(|dir| !dir.is_dir()) {
            return self.discard();
        }
        ContainerLog::of_path(self.entry.path.clone()).settle(self)
    }

    /// Throws away what is staged.
    fn discard(&mut self) -> io::Result<()> {
        self.record(Entry { phase: Phase::Draining, number: 0, ..self.entry.clone() })?;
        self.drain_to(0)
    }

    /// Frees the memory that a busy stream has used. For when nothing is readable any more.
    pub(super) fn idle(&mut self) {
        self.bytes = Vec::new();
    }

    /// The stream of what is staged.
    pub(super) fn stream(&self) -> Stream {
        self.entry.stream
    }

    /// Bytes in B that are not logged.
    pub(super) fn staged(&self) -> usize {
        self.staged
    }

    /// Steps 1 and 2. B must be empty.
    pub(super) fn fill(&mut self, log: &Path, stream: Stream, pipe: BorrowedFd<'_>) -> io::Result<Filled> {
        debug_assert_eq!(self.staged, 0);
        let (phase, path) = (Phase::Filling, log.to_path_buf());
        self.record(Entry { phase, stream, number: 0, inode: 0, path })?;
        match sys::fd::splice(pipe, self.into.as_fd(), PORTION) {
            // A terminal says EIO when its last user has gone.
            Ok(0) | Err(Errno::EIO) => Ok(Filled::Eof),
            Ok(n) => {
                self.staged = n;
                Ok(Filled::Bytes)
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
        self.record(Entry { phase: Phase::Appending, number: size, inode, ..self.entry.clone() })
    }

    /// Steps 7 and 8: the portion is in the log.
    pub(super) fn appended(&mut self) -> io::Result<()> {
        let keep = self.staged - self.bytes.len();
        self.record(Entry { phase: Phase::Draining, number: keep as u64, ..self.entry.clone() })?;
        self.drain_to(keep)
    }

    fn record(&mut self, entry: Entry) -> io::Result<()> {
        // Only when the kernel has the new record may we act on it, so the copy in memory is changed last.
        let bytes = entry.to_bytes()?;
        if self.journal.write_at(&bytes, 0)? != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.entry = entry;
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
                let entry = Entry { phase, stream, number: u64::MAX, inode: 3, path: "/logs/c/0.log".into() };
                let mut bytes = entry.to_bytes().unwrap();
                assert_eq!(Entry::from_bytes(&bytes), Some(entry.clone()));
                // The rest of a longer record that stood there before.
                bytes.extend(b"more");
                assert_eq!(Entry::from_bytes(&bytes), Some(entry));
            }
        }
    }

    #[test]
    fn a_foreign_record_is_refused() {
        let good = Entry { path: "/p".into(), ..Entry::none() }.to_bytes().unwrap();
        for at in [0, 7, 8, 16, 40] {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            assert_eq!(Entry::from_bytes(&bad), None, "{at}");
        }
        assert_eq!(Entry::from_bytes(b""), None);
        assert_eq!(Entry::from_bytes(&good[..good.len() - 1]), None);
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let entry = Entry { path: "x".repeat(PAGE).into(), ..Entry::none() };
        assert_eq!(entry.to_bytes().unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }

    /// A container may switch its end of the pipe to packets (`fcntl(2)` with O_DIRECT); a read then ends at each of them.
    #[test]
    fn output_in_packets_is_peeked_and_drained_whole() {
        use std::io::Write;
        let (out, into) = nix::unistd::pipe2(nix::fcntl::OFlag::O_DIRECT | nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut writer = File::from(into);
        writer.write_all(b"one").unwrap();
        writer.write_all(b"two").unwrap();
        let mut staging = Staging::new().unwrap();
        let log = Path::new("/p");
        assert_eq!(staging.fill(log, Stream::Stdout, out.as_fd()).unwrap(), Filled::Bytes);
        assert_eq!(staging.peek().unwrap(), b"onetwo");
        staging.appended().unwrap();
        assert_eq!(staging.staged(), 0);
        assert_eq!(staging.fill(log, Stream::Stdout, out.as_fd()).unwrap(), Filled::Empty);
        drop(writer);
        assert_eq!(staging.fill(log, Stream::Stdout, out.as_fd()).unwrap(), Filled::Eof);
    }

    #[test]
    fn output_of_a_log_whose_directory_is_gone_is_dropped() {
        let (out, into) = sys::fd::pipe(false).unwrap();
        sys::fd::write(into.as_fd(), b"x").unwrap();
        let mut staging = Staging::new().unwrap();
        staging.fill(Path::new("/nowhere/at/all/0.log"), Stream::Stdout, out.as_fd()).unwrap();
        staging.recover().unwrap();
        assert_eq!(staging.staged(), 0);
        assert!(!Path::new("/nowhere").exists());
    }
}
