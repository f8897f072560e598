//! The log writer: moves a container's output from its pipe into its log, every byte exactly once, whatever is killed when.
//!
//! CRI log format: `TIME STREAM TAG TEXT`, `F` for a line that ends here, `P` for a piece of one; pieces end at 16 KiB, and where a chunk of
//! output ends without an end of line. Nothing is held back in memory. Files are `<attempt>.log`, then `.log.1` (the youngest of the old
//! ones) to `.log.4`; the writer rotates when a file has reached 10 MiB.
//!
//! # Why SIGKILL at any instant loses and doubles nothing
//!
//! keeper holds, beside every container's pipe, one *staging* pipe and one *journal* for the pod. A chunk goes this way:
//!
//! 1. the journal says which log, and how long it is (`end`);
//! 2. `splice(2)` moves the chunk from the container's pipe to the staging pipe: under both pipes' locks, so that every byte is in
//!    exactly one of the two at any instant;
//! 3. `tee(2)` copies the staged chunk to a pipe of our own, from where it is read, formatted and appended to the log;
//! 4. one `read(2)` empties the staging pipe. It takes what is there without waiting, so it is not interrupted half-way.
//!
//! Killed before 2: the staging pipe is empty, the journal means nothing. Killed between 2 and 4, in the middle of an append included: the
//! staging pipe is not empty, so the successor cuts the log to `end` and does 3 and 4 again. Killed after 4: done. Entries have the same
//! length the second time (the time has a fixed width), so a reader in between sees the same bytes but for the time. Rotation happens before 1,
//! when nothing is staged; killed in between its renames, a number is missing among the old files, and no data.
//!
//! A failed append (full disk) is cut off again and the chunk stays staged; the caller tries again later, the container waits meanwhile.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use husk_oci::sys::fd;
use nix::errno::Errno;

use super::journal::{Journal, Note};

/// A line's piece is at most this long; containerd's number.
const PIECE: usize = 16 << 10;
/// One chunk: as much as is moved, formatted and written at a time.
const CHUNK: usize = 16 << 10;
/// A file that has reached this is rotated.
pub const FILE_LIMIT: u64 = 10 << 20;
/// How many files one instance has, the current one included.
pub const FILES: u32 = 5;
/// Room for what is written at once.
const OUT: usize = 16 << 10;

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// stdout; a terminal's output too.
    Stdout = 1,
    /// stderr.
    Stderr = 2,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What one call to [`ContainerLog::pump`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// A chunk was written; there may be more.
    More,
    /// Nothing is there now.
    WouldBlock,
    /// Every writer has closed the pipe, and all it held is written.
    Eof,
}

/// The staging pipe and the journal, with the writer's buffers.
#[derive(Debug)]
pub struct Staging {
    read: OwnedFd,
    write: OwnedFd,
    journal: Journal,
    /// Our own pipe for a look at what is staged.
    peek: (OwnedFd, OwnedFd),
    chunk: Vec<u8>,
    out: Vec<u8>,
    /// The chunk that is staged could not be written.
    unwritten: bool,
}

impl Staging {
    /// A new one, empty.
    ///
    /// # Errors
    /// No fds or memory.
    pub fn new() -> io::Result<Staging> {
        let (read, write) = fd::pipe(true)?;
        Staging::with(read, write, Journal::new()?)
    }

    /// The one that keeper had; call [`Staging::recover`] before anything else.
    ///
    /// # Errors
    /// No fds.
    pub fn from_fds(read: OwnedFd, write: OwnedFd, journal: OwnedFd) -> io::Result<Staging> {
        Staging::with(read, write, Journal::from_fd(journal))
    }

    fn with(read: OwnedFd, write: OwnedFd, journal: Journal) -> io::Result<Staging> {
        let peek = fd::pipe(true)?;
        Ok(Staging { read, write, journal, peek, chunk: Vec::new(), out: Vec::new(), unwritten: false })
    }

    /// What keeper has to hold: both ends of the pipe and the journal.
    pub fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.read.as_fd(), self.write.as_fd(), self.journal.as_fd()]
    }

    /// Finishes what a writer that was killed had begun. Nothing to do when the staging pipe is empty.
    ///
    /// # Errors
    /// The log cannot be opened or written; what is staged stays staged.
    pub fn recover(&mut self) -> io::Result<()> {
        if fd::readable_bytes(self.read.as_fd())? == 0 {
            self.unwritten = false;
            return Ok(());
        }
        let note = self.journal.read()?.ok_or_else(|| io::Error::other("output is staged that no journal tells of"))?;
        // The log of a pod that is being removed may be gone: nobody can read it, so the bytes go, too.
        match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&note.path) {
            Ok(file) => self.finish(&file, &note),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.empty(),
            Err(e) => Err(e),
        }
    }

    /// Steps 3 and 4: what is staged goes to `file` behind `note.end`, and nowhere else.
    fn finish(&mut self, file: &File, note: &Note) -> io::Result<()> {
        self.unwritten = true;
        let staged = fd::readable_bytes(self.read.as_fd())?;
        let copied = fd::tee(self.read.as_fd(), self.peek.1.as_fd(), staged)?;
        self.chunk.resize(copied.max(1), 0);
        let got = fd::read(self.peek.0.as_fd(), &mut self.chunk)?;
        if got != copied || copied != staged {
            return Err(io::Error::other("a pipe gave less than it had"));
        }
        self.chunk.truncate(got);
        if file.metadata()?.len() != note.end {
            file.set_len(note.end)?;
        }
        if let Err(e) = append(&self.chunk, &mut self.out, note.stream, file, note.end) {
            // Half an entry must not stay; the chunk does, in the pipe.
            file.set_len(note.end)?;
            return Err(e);
        }
        self.empty()?;
        Ok(())
    }

    fn empty(&mut self) -> io::Result<()> {
        let staged = fd::readable_bytes(self.read.as_fd())?;
        self.chunk.resize(staged.max(1), 0);
        if staged > 0 && fd::read(self.read.as_fd(), &mut self.chunk)? != staged {
            return Err(io::Error::other("a pipe gave less than it had"));
        }
        self.chunk.clear();
        self.unwritten = false;
        Ok(())
    }
}

/// Formats a chunk and writes it behind `end`.
fn append(chunk: &[u8], out: &mut Vec<u8>, stream: Stream, file: &File, end: u64) -> io::Result<()> {
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.9fZ").to_string();
    let mut at = end;
    out.clear();
    out.reserve_exact(OUT);
    for line in chunk.split_inclusive(|b| *b == b'\n') {
        let (text, full) = match line.split_last() {
            Some((b'\n', text)) => (text, true),
            _ => (line, false),
        };
        let pieces = text.len().div_ceil(PIECE).max(1);
        for piece in 0..pieces {
            let part = &text[piece * PIECE..text.len().min((piece + 1) * PIECE)];
            let tag = if full && piece + 1 == pieces { 'F' } else { 'P' };
            let head = format_args!("{time} {} {tag} ", stream.word()).to_string();
            if !out.is_empty() && out.len() + head.len() + part.len() + 1 > OUT {
                file.write_all_at(out, at)?;
                at += out.len() as u64;
                out.clear();
            }
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(part);
            out.push(b'\n');
        }
    }
    file.write_all_at(out, at)?;
    out.clear();
    Ok(())
}

/// The log of one instance of a container.
#[derive(Debug)]
pub struct ContainerLog {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl fmt::Display for ContainerLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

impl ContainerLog {
    /// Opens (and makes) the log of one instance in the container's log directory.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(dir: &Path, attempt: u32) -> io::Result<ContainerLog> {
        ContainerLog::with_limit(dir, attempt, FILE_LIMIT)
    }

    /// As [`ContainerLog::open`], with another size at which a file is rotated.
    ///
    /// # Errors
    /// The file system's.
    pub fn with_limit(dir: &Path, attempt: u32, limit: u64) -> io::Result<ContainerLog> {
        let path = dir.join(format!("{attempt}.log"));
        let file = match open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                open(&path)?
            }
            other => other?,
        };
        let size = file.metadata()?.len();
        Ok(ContainerLog { path, file, size, limit })
    }

    /// Moves one chunk from `pipe` (non-blocking) into the log. Never waits.
    ///
    /// # Errors
    /// The log cannot be written (a full disk): call again later; until then no output of the pod is moved, and nothing is lost.
    pub fn pump(&mut self, staging: &mut Staging, stream: Stream, pipe: BorrowedFd<'_>) -> io::Result<Pumped> {
        if staging.unwritten {
            // It may have been this log's, whose end has moved then.
            staging.recover()?;
            self.size = self.file.metadata()?.len();
        }
        if self.size >= self.limit {
            self.rotate()?;
        }
        staging.journal.write(&self.path, self.size, stream)?;
        let moved = match fd::splice(pipe, staging.write.as_fd(), CHUNK) {
            Ok(0) => return Ok(Pumped::Eof),
            Ok(n) => n,
            Err(Errno::EAGAIN) => return Ok(Pumped::WouldBlock),
            // A terminal whose last process is gone.
            Err(Errno::EIO) => return Ok(Pumped::Eof),
            Err(e) => return Err(e.into()),
        };
        debug_assert!(moved <= CHUNK);
        let note = Note { path: self.path.clone(), end: self.size, stream };
        staging.finish(&self.file, &note)?;
        self.size = self.file.metadata()?.len();
        Ok(Pumped::More)
    }

    /// `n.log.3` becomes `n.log.4`, and so on; the current file becomes `n.log.1`, and a new one is begun.
    fn rotate(&mut self) -> io::Result<()> {
        let old = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..FILES - 1).rev() {
            match std::fs::rename(old(number), old(number + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, old(1))?;
        self.file = open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("husk-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// The text of all entries, ends of line put back.
    fn text(dir: &Path) -> Vec<u8> {
        let mut all = Vec::new();
        let mut files: Vec<PathBuf> = (1..FILES).rev().map(|n| dir.join(format!("0.log.{n}"))).collect();
        files.push(dir.join("0.log"));
        for file in files.iter().filter(|f| f.exists()) {
            for entry in std::fs::read(file).unwrap().split_inclusive(|b| *b == b'\n') {
                let entry = entry.strip_suffix(b"\n").expect("an entry ends");
                let mut parts = entry.splitn(4, |b| *b == b' ');
                let time = std::str::from_utf8(parts.next().unwrap()).unwrap().to_owned();
                assert_eq!(time.len(), "2026-01-02T03:04:05.123456789Z".len(), "{time}");
                time.parse::<jiff::Timestamp>().unwrap();
                assert!(matches!(parts.next().unwrap(), b"stdout" | b"stderr"));
                let tag = parts.next().unwrap();
                let piece = parts.next().unwrap();
                assert!(piece.len() <= PIECE);
                all.extend_from_slice(piece);
                if tag == b"F" {
                    all.push(b'\n');
                }
            }
        }
        all
    }

    fn pump_all(log: &mut ContainerLog, staging: &mut Staging, data: &[u8]) {
        let (read, write) = fd::pipe(true).unwrap();
        let mut rest = data;
        while !rest.is_empty() {
            match fd::write(write.as_fd(), &rest[..rest.len().min(50_000)]) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::EAGAIN) => {
                    assert_eq!(log.pump(staging, Stream::Stdout, read.as_fd()).unwrap(), Pumped::More)
                }
                Err(e) => panic!("{e}"),
            }
        }
        drop(write);
        while log.pump(staging, Stream::Stdout, read.as_fd()).unwrap() != Pumped::Eof {}
    }

    #[test]
    fn binary_long_and_unended_lines_come_back_as_they_were() {
        let dir = scratch("binary");
        let mut data: Vec<u8> = (0..=255u8).cycle().take(200_000).collect();
        data.extend_from_slice(&[b'x'; 70_000]);
        data.extend_from_slice(&[b'\n'; 5_000]);
        data.extend_from_slice(b"no end");
        let mut log = ContainerLog::open(&dir, 0).unwrap();
        pump_all(&mut log, &mut Staging::new().unwrap(), &data);
        assert_eq!(text(&dir), data);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn rotation_keeps_the_youngest_files_and_cuts_no_entry() {
        let dir = scratch("rotate");
        let data: Vec<u8> = (0..40_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let mut log = ContainerLog::with_limit(&dir, 0, 100_000).unwrap();
        pump_all(&mut log, &mut Staging::new().unwrap(), &data);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), FILES as usize);
        let kept = text(&dir);
        assert!(data.ends_with(&kept) && kept.len() > 50_000, "{}", kept.len());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_successor_finishes_what_was_staged_and_cuts_off_half_an_entry() {
        let dir = scratch("recover");
        let mut staging = Staging::new().unwrap();
        let mut log = ContainerLog::open(&dir, 0).unwrap();
        pump_all(&mut log, &mut staging, b"before\n");
        let end = log.size;
        for half in [&b""[..], b"2026-01-02T03:04:05.123456789Z stdout F stag"] {
            staging.journal.write(&log.path, end, Stream::Stdout).unwrap();
            fd::write(staging.write.as_fd(), b"staged\nand more").unwrap();
            log.file.write_all_at(half, end).unwrap();
            let [read, write, journal] = staging.fds().map(|f| f.try_clone_to_owned().unwrap());
            let mut successor = Staging::from_fds(read, write, journal).unwrap();
            successor.recover().unwrap();
            assert_eq!(text(&dir), b"before\nstaged\nand more");
            log.file.set_len(end).unwrap();
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
