//! The log writer: container output in the CRI log format, rotated while written.
//!
//! A container has a directory of logs. Instance *n* writes `<n>.log`; when that would grow beyond [`MAX_BYTES`] it is renamed to
//! `<n>.log.<s>`, `s` counting from 1 upwards (the highest is the newest), and begun anew; of the renamed ones the newest
//! [`KEEP`] stay. A line is `<RFC 3339 time, nanoseconds> <stdout|stderr> <F|P> <bytes>`; `P` marks a piece of a line that goes on in the
//! next record of the same stream. Bytes are written as they came.
//!
//! Why a kill at any instant neither loses nor doubles a byte is argued in [`super::journal`].
//!
//! When the log can't be written (a full disk, for one) nothing is dropped: the bytes stay in the pipes, the container waits in `write(2)` once
//! its pipe is full too, and the caller tries again after a while. All streams of a pod share the staging pipe, so all wait.

use super::journal::{Filled, Staging};
use husk_oci::errno::io_text;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A log file does not grow beyond this.
pub const MAX_BYTES: u64 = 10 * 1024 * 1024;

/// How many full files of an instance are kept beside the current one.
pub const KEEP: usize = 4;

/// A longer line is split into pieces of this many bytes.
pub const MAX_PIECE: usize = 16 * 1024;

/// Which output of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// fd 1, or a terminal.
    Stdout = 1,
    /// fd 2.
    Stderr = 2,
}

impl Stream {
    /// The word in the log.
    pub const fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// What one call of [`ContainerLog::pump`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// So many bytes were logged; there may be more.
    Bytes(usize),
    /// Nothing to read now: wait for readiness.
    WouldBlock,
    /// Every writer has closed its end and everything is logged.
    Eof,
}

/// Why output could not be logged. Nothing is lost; the same call again goes on where this one stopped.
#[derive(Debug)]
pub enum Error {
    /// The staging pipe holds bytes of another stream, whose log has to be tried again first.
    Busy {
        /// Key of that stream.
        key: u64,
    },
    /// A file or directory of the log.
    File {
        /// What was being done.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The container's pipe, the staging pipe or the journal.
    Pipe {
        /// What the kernel said.
        source: io::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Busy { key } => {
                write!(f, "log: the staging pipe is in use by stream {key}, whose log has to be written first")
            }
            Error::File { doing, path, source } => {
                write!(f, "log: {doing} {}: {}", path.display(), io_text(source))?;
                match source.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT) => {
                        f.write_str("; make room: containers wait with their output until then, none of it is lost")
                    }
                    _ => Ok(()),
                }
            }
            Error::Pipe { source } => write!(f, "log: move container output: {}", io_text(source)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Busy { .. } => None,
            Error::File { source, .. } | Error::Pipe { source } => Some(source),
        }
    }
}

/// The log of one instance of a container.
#[derive(Debug)]
pub struct ContainerLog {
    dir: PathBuf,
    name: String,
    current: Option<File>,
    max_bytes: u64,
}

impl ContainerLog {
    /// Makes the directory if it is missing and opens (or goes on with) the log of instance `attempt`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(dir: &Path, attempt: u32) -> Result<ContainerLog, Error> {
        ContainerLog::with_limit(dir, attempt, MAX_BYTES)
    }

    /// The same with files of at most `max_bytes`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn with_limit(dir: &Path, attempt: u32, max_bytes: u64) -> Result<ContainerLog, Error> {
        let mut log = ContainerLog { dir: dir.to_path_buf(), name: format!("{attempt}.log"), current: None, max_bytes };
        log.reopen()?;
        // A kill may have come between a rotation and its clean-up.
        log.prune()?;
        Ok(log)
    }

    /// The file that is written now.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Moves at most 64 KiB from `pipe` into the log. Does not block, except on the disk. `key` names the stream of the pod and is what
    /// [`Staging::pending`] answers to the next supervisor; `pipe` is the read end of a pipe, or a terminal's master in non-blocking mode.
    ///
    /// # Errors
    /// After any error nothing is lost: call again later. With [`Error::Busy`] the stream named there goes first.
    pub fn pump(
        &mut self,
        staging: &mut Staging,
        key: u64,
        stream: Stream,
        pipe: BorrowedFd<'_>,
    ) -> Result<Pumped, Error> {
        match staging.pending() {
            Some(other) if other != key => return Err(Error::Busy { key: other }),
            Some(_) => return self.settle(staging).map(Pumped::Bytes),
            None => {}
        }
        match staging.fill(key, stream, pipe).map_err(|source| Error::Pipe { source })? {
            Filled::Bytes(_) => self.settle(staging).map(Pumped::Bytes),
            Filled::Empty => {
                staging.idle();
                Ok(Pumped::WouldBlock)
            }
            Filled::Eof => {
                staging.idle();
                Ok(Pumped::Eof)
            }
        }
    }

    /// Logs what is staged for this log, which [`Staging::pending`] must say; the number of bytes.
    ///
    /// # Errors
    /// As [`ContainerLog::pump`].
    pub fn settle(&mut self, staging: &mut Staging) -> Result<usize, Error> {
        let all = staging.staged();
        while staging.staged() > 0 {
            self.prepare(staging)?;
            self.append(staging)?;
            staging.appended().map_err(|source| Error::Pipe { source })?;
        }
        Ok(all)
    }

    /// Steps 3 to 5 of the journal's table, with what an interrupted append has left cut off first.
    fn prepare(&mut self, staging: &mut Staging) -> Result<(), Error> {
        let (mut inode, mut size) = self.look()?;
        if let Some((its, before)) = staging.unfinished()
            && its == inode
            && before < size
        {
            self.file()?.set_len(before).map_err(|e| self.error("cut back", e))?;
            size = before;
        }
        let bytes = staging.peek().map_err(|source| Error::Pipe { source })?;
        let needed: usize = pieces(bytes).map(|p| HEADER + p.text.len() + 1).sum();
        if size > 0 && size + needed as u64 > self.max_bytes {
            self.rotate()?;
            (inode, size) = self.look()?;
        }
        staging.begin_append(inode, size).map_err(|source| Error::Pipe { source })
    }

    /// Step 6.
    fn append(&mut self, staging: &Staging) -> Result<(), Error> {
        const SLICES: usize = 512;
        let header = |tag| format!("{} {} {tag} ", now(), staging.stream().word());
        let (partial, full) = (header('P'), header('F'));
        let mut pieces = pieces(staging.portion()).peekable();
        let mut slices = Vec::with_capacity(SLICES);
        while pieces.peek().is_some() {
            slices.clear();
            for piece in pieces.by_ref().take(SLICES / 3) {
                slices.push(IoSlice::new(if piece.full { &full } else { &partial }.as_bytes()));
                slices.push(IoSlice::new(piece.text));
                slices.push(IoSlice::new(b"\n"));
            }
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                match self.file()?.write_vectored(rest) {
                    Ok(0) => return Err(self.error("append to", io::ErrorKind::WriteZero.into())),
                    Ok(n) => IoSlice::advance_slices(&mut rest, n),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(self.error("append to", e)),
                }
            }
        }
        Ok(())
    }

    /// Inode and size of the current file, which is opened again if somebody has removed it.
    fn look(&mut self) -> Result<(u64, u64), Error> {
        let stat = self.file()?.metadata().map_err(|e| self.error("look at", e))?;
        if stat.nlink() > 0 {
            return Ok((stat.ino(), stat.len()));
        }
        self.reopen()?;
        let stat = self.file()?.metadata().map_err(|e| self.error("look at", e))?;
        Ok((stat.ino(), stat.len()))
    }

    fn file(&mut self) -> Result<&File, Error> {
        if self.current.is_none() {
            self.reopen()?;
        }
        Ok(self.current.as_ref().expect("reopen sets it or fails"))
    }

    fn reopen(&mut self) -> Result<(), Error> {
        self.current = None;
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let file = match options.open(self.path()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
                made.map_err(|source| Error::File { doing: "make", path: self.dir.clone(), source })?;
                options.open(self.path())
            }
            other => other,
        };
        self.current = Some(file.map_err(|e| self.error("open", e))?);
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), Error> {
        let newest =
            rotated(&self.dir, &self.name).map_err(|e| self.error("list the directory of", e))?.last().copied();
        let next = newest.unwrap_or(0) + 1;
        let to = self.dir.join(format!("{}.{next}", self.name));
        std::fs::rename(self.path(), to).map_err(|e| self.error("rotate", e))?;
        self.reopen()?;
        self.prune()
    }

    fn prune(&mut self) -> Result<(), Error> {
        let all = rotated(&self.dir, &self.name).map_err(|e| self.error("list the directory of", e))?;
        for old in all.iter().rev().skip(KEEP) {
            let path = self.dir.join(format!("{}.{old}", self.name));
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { doing: "remove", path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn error(&self, doing: &'static str, source: io::Error) -> Error {
        Error::File { doing, path: self.path(), source }
    }
}

/// Numbers of the full files that belong to `name`, the oldest first.
///
/// # Errors
/// What reading the directory says.
pub fn rotated(dir: &Path, name: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.file_name();
        let number: Option<u64> = file.to_str().and_then(|f| f.strip_prefix(name)?.strip_prefix('.')?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes the logs of all instances below `keep_from`: what CRI's `RemoveContainer` does for one that is gone.
///
/// # Errors
/// [`Error::File`]; a directory that does not exist is a success.
pub fn remove_instances_below(dir: &Path, keep_from: u32) -> Result<(), Error> {
    let at_dir = |source| Error::File { doing: "list", path: dir.to_path_buf(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at_dir)?,
    };
    for entry in entries {
        let entry = entry.map_err(at_dir)?;
        let name = entry.file_name();
        let instance = name.to_str().and_then(|n| n.split_once(".log")?.0.parse::<u32>().ok());
        if instance.is_some_and(|n| n < keep_from) {
            match std::fs::remove_file(entry.path()) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { doing: "remove", path: entry.path(), source });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// `2026-01-02T03:04:05.000000006Z`, a space, six letters of the stream, a space, the tag, a space.
const HEADER: usize = 30 + 1 + 6 + 1 + 1 + 1;

/// The time as the log has it, always 30 bytes.
fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// One record to be.
struct Piece<'a> {
    text: &'a [u8],
    /// It ends a line.
    full: bool,
}

/// Cuts output into records.
fn pieces(mut rest: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // A line of exactly MAX_PIECE bytes is still one piece: its end is looked for one byte further.
        let window = &rest[..rest.len().min(MAX_PIECE + 1)];
        let piece = match window.iter().position(|b| *b == b'\n') {
            Some(end) => Piece { text: &rest[..end], full: true },
            None => Piece { text: &rest[..window.len().min(MAX_PIECE)], full: false },
        };
        rest = &rest[piece.text.len() + usize::from(piece.full)..];
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, OwnedFd};

    struct Tmp(PathBuf);

    impl Tmp {
        fn new(name: &str) -> Tmp {
            let dir = std::env::temp_dir().join(format!("husk-log-{}-{name}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            Tmp(dir)
        }
    }

    impl Drop for Tmp {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn text(path: &Path) -> Vec<u8> {
        let raw = std::fs::read(path).unwrap();
        raw.split_inclusive(|b| *b == b'\n').fold(Vec::new(), |mut out, line| {
            out.extend(&line[HEADER..line.len() - 1]);
            if line[HEADER - 2] == b'F' {
                out.push(b'\n');
            }
            out
        })
    }

    /// What a new supervisor gets from keeper.
    fn after_a_kill(staging: Staging) -> Staging {
        let fds: Vec<OwnedFd> = staging.fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        drop(staging);
        Staging::from_fds(fds.try_into().unwrap()).unwrap()
    }

    #[test]
    fn lines_are_cut_at_newlines_and_at_16_kib() {
        let cut = |bytes: &[u8]| pieces(bytes).map(|p| (p.text.len(), p.full)).collect::<Vec<_>>();
        assert_eq!(cut(b""), []);
        assert_eq!(cut(b"\n"), [(0, true)]);
        assert_eq!(cut(b"a\n\nbc"), [(1, true), (0, true), (2, false)]);
        let mut long = vec![b'x'; MAX_PIECE];
        assert_eq!(cut(&long), [(MAX_PIECE, false)]);
        long.push(b'\n');
        assert_eq!(cut(&long), [(MAX_PIECE, true)]);
        long.insert(0, 0);
        assert_eq!(cut(&long), [(MAX_PIECE, false), (1, true)]);
    }

    #[test]
    fn the_time_is_always_as_wide_as_the_header_says() {
        assert_eq!(now().len(), 30);
        assert_eq!(format!("{:.9}", jiff::Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000000Z");
    }

    /// Dies after each step of the table in `journal`, and in the middle of those that are not atomic.
    #[test]
    fn a_kill_after_any_step_neither_loses_nor_doubles() {
        let tmp = Tmp::new("steps");
        let sent: Vec<u8> = (0..3000).flat_map(|n| format!("line {n}\n").into_bytes()).chain(*b"open end").collect();
        for step in 0..9 {
            let dir = tmp.0.join(step.to_string());
            let (out, into) = husk_oci::sys::fd::pipe(false).unwrap();
            File::from(into).write_all(&sent).unwrap();
            let mut staging = Staging::new().unwrap();
            let mut log = ContainerLog::open(&dir, 0).unwrap();
            log.file().unwrap().write_all(b"2026-01-02T03:04:05.000000006Z stdout F before\n").unwrap();
            if step >= 1 {
                let Filled::Bytes(n) = staging.fill(9, Stream::Stdout, out.as_fd()).unwrap() else { panic!() };
                assert_eq!(n, sent.len());
            }
            if step >= 2 {
                staging.peek().unwrap();
            }
            if step >= 3 {
                log.prepare(&mut staging).unwrap();
            }
            if step >= 4 {
                log.append(&staging).unwrap();
            }
            match step {
                // In the middle of the append.
                5 => log.file().unwrap().set_len(1000).unwrap(),
                6 => staging.appended().unwrap(),
                // Before and in the middle of the drain: the record is there, B is not empty.
                7 | 8 => {
                    staging.appended().unwrap();
                    let left = if step == 7 { sent.len() } else { 100 };
                    let b = File::from(staging.fds()[1].try_clone_to_owned().unwrap());
                    (&b).write_all(&sent[sent.len() - left..]).unwrap();
                }
                _ => {}
            }
            drop(log);
            let mut staging = after_a_kill(staging);
            let mut log = ContainerLog::open(&dir, 0).unwrap();
            if let Some(key) = staging.pending() {
                assert_eq!(key, 9);
                log.settle(&mut staging).unwrap();
            }
            while log.pump(&mut staging, 9, Stream::Stdout, out.as_fd()).unwrap() != Pumped::Eof {}
            let expected = [b"before\n".as_slice(), &sent].concat();
            assert!(text(&log.path()) == expected, "step {step}");
        }
    }

    #[test]
    fn a_kill_between_rename_and_new_file_goes_on_with_a_new_file() {
        let tmp = Tmp::new("rotate");
        let (out, into) = husk_oci::sys::fd::pipe(false).unwrap();
        let mut into = File::from(into);
        let mut staging = Staging::new().unwrap();
        let mut log = ContainerLog::open(&tmp.0, 2).unwrap();
        into.write_all(b"one\n").unwrap();
        log.pump(&mut staging, 1, Stream::Stderr, out.as_fd()).unwrap();
        into.write_all(b"two\n").unwrap();
        staging.fill(1, Stream::Stderr, out.as_fd()).unwrap();
        std::fs::rename(log.path(), tmp.0.join("2.log.1")).unwrap();
        let mut staging = after_a_kill(staging);
        let mut log = ContainerLog::open(&tmp.0, 2).unwrap();
        assert_eq!(log.settle(&mut staging).unwrap(), 4);
        assert_eq!(text(&tmp.0.join("2.log.1")), b"one\n");
        assert_eq!(text(&log.path()), b"two\n");
    }

    #[test]
    fn rotation_keeps_five_files_and_none_is_too_large() {
        let tmp = Tmp::new("keep");
        let (out, into) = husk_oci::sys::fd::pipe(false).unwrap();
        let mut into = File::from(into);
        let mut staging = Staging::new().unwrap();
        let mut log = ContainerLog::with_limit(&tmp.0, 0, 1000).unwrap();
        for n in 0..100 {
            into.write_all(format!("line {n} {}\n", "x".repeat(100)).as_bytes()).unwrap();
            log.pump(&mut staging, 1, Stream::Stdout, out.as_fd()).unwrap();
        }
        let numbers = rotated(&tmp.0, "0.log").unwrap();
        assert_eq!(numbers.len(), KEEP);
        assert_eq!(*numbers.last().unwrap(), numbers[0] + 3);
        let mut all = Vec::new();
        for n in &numbers {
            let path = tmp.0.join(format!("0.log.{n}"));
            assert!(path.metadata().unwrap().len() <= 1000);
            all.extend(text(&path));
        }
        all.extend(text(&log.path()));
        let last: Vec<&[u8]> = all.split(|b| *b == b'\n').collect();
        assert!(last[last.len() - 2].starts_with(b"line 99 "));
        let first: usize = String::from_utf8_lossy(last[0]).split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(last.len() - 1, 100 - first);
    }

    #[test]
    fn a_log_that_was_removed_is_made_again() {
        let tmp = Tmp::new("removed");
        let dir = tmp.0.join("c");
        let (out, into) = husk_oci::sys::fd::pipe(false).unwrap();
        let mut into = File::from(into);
        let mut staging = Staging::new().unwrap();
        let mut log = ContainerLog::open(&dir, 0).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        into.write_all(b"still here\n").unwrap();
        log.pump(&mut staging, 1, Stream::Stdout, out.as_fd()).unwrap();
        assert_eq!(text(&log.path()), b"still here\n");
    }

    #[test]
    fn another_stream_waits_while_one_is_staged() {
        let tmp = Tmp::new("busy");
        let (out, into) = husk_oci::sys::fd::pipe(false).unwrap();
        File::from(into).write_all(b"x").unwrap();
        let mut staging = Staging::new().unwrap();
        let mut log = ContainerLog::open(&tmp.0, 0).unwrap();
        staging.fill(1, Stream::Stdout, out.as_fd()).unwrap();
        let error = log.pump(&mut staging, 2, Stream::Stdout, out.as_fd()).unwrap_err();
        assert!(matches!(error, Error::Busy { key: 1 }));
        assert_eq!(staging.discard().unwrap(), 1);
        assert_eq!(log.pump(&mut staging, 2, Stream::Stdout, out.as_fd()).unwrap(), Pumped::Eof);
    }

    #[test]
    fn logs_of_older_instances_are_removed() {
        let tmp = Tmp::new("old");
        for name in ["0.log", "0.log.1", "1.log", "2.log.7", "2.log", "notes.log", "10.log"] {
            std::fs::write(tmp.0.join(name), "").unwrap();
        }
        remove_instances_below(&tmp.0, 2).unwrap();
        let mut left: Vec<String> =
            std::fs::read_dir(&tmp.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["10.log", "2.log", "2.log.7", "notes.log"]);
        remove_instances_below(&tmp.0.join("none"), 2).unwrap();
    }
}
