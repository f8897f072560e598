//! The log writer: container output in the CRI log format, rotated while written.
//!
//! A container has a directory of logs. Instance *n* writes `<n>.log`; before that would grow beyond [`FILE_LIMIT`] it becomes `<n>.log.1`, which
//! becomes `<n>.log.2`, and so on; there are [`FILES`]. A line is `<RFC 3339 time, nanoseconds> <stdout|stderr> <F|P> <bytes>`; `P` marks a piece of a line that
//! goes on in the next record of the same stream. Bytes are written as they came.
//!
//! Why a kill at any instant neither loses nor doubles a byte is argued in [`super::journal`].
//!
//! When the log can't be written (a full disk, for one) nothing is dropped: the bytes stay in the pipes, the container waits in `write(2)` once
//! its pipe is full too, and the caller tries again after a while. All streams of a pod share the staging pipe, so all wait.

use super::journal::Filled;
pub use super::journal::Staging;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A log file does not grow beyond this.
pub const FILE_LIMIT: u64 = 10 * 1024 * 1024;

/// How many files one instance has, the current one included.
pub const FILES: u32 = 5;

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

/// What one call of [`ContainerLog::pump`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Something was logged; there may be more.
    More,
    /// Nothing to read now: wait for readiness.
    WouldBlock,
    /// Every writer has closed its end and everything is logged.
    Eof,
}

/// The log of one instance of a container.
#[derive(Debug)]
pub struct ContainerLog {
    path: PathBuf,
    current: Option<File>,
    max_bytes: u64,
}

impl fmt::Display for ContainerLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl ContainerLog {
    /// Makes the directory if it is missing and opens (or goes on with) the log of instance `attempt`. Logs of instances before the
    /// previous one are removed.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(dir: &Path, attempt: u32) -> io::Result<ContainerLog> {
        remove_instances_below(dir, attempt.saturating_sub(1))?;
        ContainerLog::with_limit(dir, attempt, FILE_LIMIT)
    }

    /// [`ContainerLog::open`] with two files of at most `bytes` in all of them: what is older goes.
    ///
    /// # Errors
    /// The file system's.
    pub fn bounded(dir: &Path, attempt: u32, bytes: u64) -> io::Result<ContainerLog> {
        remove_instances_below(dir, attempt.saturating_sub(1))?;
        ContainerLog::with_limit(dir, attempt, bytes)
    }

    /// Opens the log with files of at most `max_bytes`; other instances are let be.
    ///
    /// # Errors
    /// The file system's.
    pub fn with_limit(dir: &Path, attempt: u32, max_bytes: u64) -> io::Result<ContainerLog> {
        let mut log = ContainerLog { max_bytes, ..ContainerLog::of_path(dir.join(format!("{attempt}.log"))) };
        log.reopen()?;
        // A kill may have come in the middle of a rotation.
        log.close_gaps()?;
        Ok(log)
    }

    /// A log where a client wants it; when it is rotated is the client's affair too.
    ///
    /// # Errors
    /// The file system's.
    pub fn of_client(path: &Path) -> io::Result<ContainerLog> {
        let mut log = ContainerLog::of_path(path.to_owned());
        log.reopen()?;
        Ok(log)
    }

    /// The log at `path`, to be opened when it is written, and not to be rotated.
    pub(super) fn of_path(path: PathBuf) -> ContainerLog {
        ContainerLog { path, current: None, max_bytes: u64::MAX }
    }

    /// The file that is written now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves at most 64 KiB from `pipe` into the log; what could not be logged by an earlier call (for any log) goes first. Does not block,
    /// except on the disk. `pipe` is the read end of a pipe, or a terminal's master in non-blocking mode.
    ///
    /// # Errors
    /// The log cannot be written (a full disk): call again later; until then no output of the pod is moved, and nothing is lost.
    pub fn pump(&mut self, staging: &mut Staging, stream: Stream, pipe: BorrowedFd<'_>) -> io::Result<Pumped> {
        staging.recover()?;
        match staging.fill(&self.path, stream, pipe)? {
            Filled::Bytes => {
                self.settle(staging)?;
                Ok(Pumped::More)
            }
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

    /// Logs what is staged, which must be for this log.
    pub(super) fn settle(&mut self, staging: &mut Staging) -> io::Result<()> {
        while staging.staged() > 0 {
            self.prepare(staging)?;
            self.append(staging)?;
            staging.appended()?;
        }
        Ok(())
    }

    /// Steps 3 to 5 of the journal's table, with what an interrupted append has left cut off first.
    fn prepare(&mut self, staging: &mut Staging) -> io::Result<()> {
        let (mut inode, mut size) = self.look()?;
        if let Some((its, before)) = staging.unfinished()
            && its == inode
            && before < size
        {
            self.file()?.set_len(before)?;
            size = before;
        }
        let needed: usize = pieces(staging.peek()?).map(|p| HEADER + p.text.len() + 1).sum();
        if size > 0 && size + needed as u64 > self.max_bytes {
            self.rotate()?;
            (inode, size) = self.look()?;
        }
        staging.begin_append(inode, size)
    }

    /// Step 6.
    fn append(&mut self, staging: &Staging) -> io::Result<()> {
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
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => IoSlice::advance_slices(&mut rest, n),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Inode and size of the current file, which is made again if somebody has removed it.
    fn look(&mut self) -> io::Result<(u64, u64)> {
        let mut stat = self.file()?.metadata()?;
        if stat.nlink() == 0 {
            self.reopen()?;
            stat = self.file()?.metadata()?;
        }
        Ok((stat.ino(), stat.len()))
    }

    fn file(&mut self) -> io::Result<&File> {
        if self.current.is_none() {
            self.reopen()?;
        }
        Ok(self.current.as_ref().expect("reopen sets it or fails"))
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.current = None;
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
        let file = match options.open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let dir = self.path.parent().unwrap_or(Path::new("."));
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                options.open(&self.path)
            }
            other => other,
        };
        self.current = Some(file?);
        Ok(())
    }

    /// `<n>.log.<number>`
    fn old(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> io::Result<()> {
        // The last one is replaced by its younger neighbour.
        for number in (1..=self.close_gaps()?.min(FILES - 2)).rev() {
            std::fs::rename(self.old(number), self.old(number + 1))?;
        }
        std::fs::rename(&self.path, self.old(1))?;
        self.reopen()
    }

    /// Numbers the old files from 1 without a gap, as a reader expects them, and keeps no more than there shall be: how many there are.
    fn close_gaps(&self) -> io::Result<u32> {
        let mut count = 0;
        for found in self.numbers()? {
            if count == FILES - 1 {
                std::fs::remove_file(self.old(found))?;
                continue;
            }
            count += 1;
            if found != count {
                std::fs::rename(self.old(found), self.old(count))?;
            }
        }
        Ok(count)
    }

    /// The numbers of the old files that are there, the youngest first.
    fn numbers(&self) -> io::Result<Vec<u32>> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name().and_then(|n| n.to_str())) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let file = entry?.file_name();
            let number: Option<u32> = file.to_str().and_then(|f| f.strip_prefix(name)?.strip_prefix('.')?.parse().ok());
            numbers.extend(number.filter(|n| *n > 0));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// Removes the logs of all instances before `keep_from`. A directory that does not exist has none.
fn remove_instances_below(dir: &Path, keep_from: u32) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let instance = name.to_str().and_then(|n| n.split_once(".log")?.0.parse::<u32>().ok());
        if instance.is_some_and(|n| n < keep_from) {
            match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
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
    use std::os::fd::AsFd;

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
        let [out, into, journal] = staging.fds().map(|fd| fd.try_clone_to_owned().unwrap());
        drop(staging);
        Staging::from_fds(out, into, journal).unwrap()
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
                assert_eq!(staging.fill(log.path(), Stream::Stdout, out.as_fd()).unwrap(), Filled::Bytes);
                assert_eq!(staging.staged(), sent.len());
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
            staging.recover().unwrap();
            let mut log = ContainerLog::open(&dir, 0).unwrap();
            while log.pump(&mut staging, Stream::Stdout, out.as_fd()).unwrap() != Pumped::Eof {}
            let expected = [b"before\n".as_slice(), &sent].concat();
            assert!(text(log.path()) == expected, "step {step}");
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
        log.pump(&mut staging, Stream::Stderr, out.as_fd()).unwrap();
        into.write_all(b"two\n").unwrap();
        staging.fill(log.path(), Stream::Stderr, out.as_fd()).unwrap();
        std::fs::rename(log.path(), tmp.0.join("2.log.1")).unwrap();
        let mut staging = after_a_kill(staging);
        staging.recover().unwrap();
        assert_eq!(text(&tmp.0.join("2.log.1")), b"one\n");
        assert_eq!(text(log.path()), b"two\n");
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
            log.pump(&mut staging, Stream::Stdout, out.as_fd()).unwrap();
        }
        assert_eq!(log.numbers().unwrap(), [1, 2, 3, 4]);
        let mut all = Vec::new();
        for n in (1..=4).rev() {
            assert!(log.old(n).metadata().unwrap().len() <= 1000);
            all.extend(text(&log.old(n)));
        }
        all.extend(text(log.path()));
        let last: Vec<&[u8]> = all.split(|b| *b == b'\n').collect();
        assert!(last[last.len() - 2].starts_with(b"line 99 "));
        let first: usize = String::from_utf8_lossy(last[0]).split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(last.len() - 1, 100 - first);
    }

    #[test]
    fn a_gap_that_a_killed_rotation_has_left_is_closed() {
        let tmp = Tmp::new("gap");
        for n in [1, 3, 4, 9, 11] {
            std::fs::write(tmp.0.join(format!("0.log.{n}")), n.to_string()).unwrap();
        }
        let log = ContainerLog::open(&tmp.0, 0).unwrap();
        assert_eq!(log.numbers().unwrap(), [1, 2, 3, 4]);
        assert_eq!(
            (1..=4).map(|n| std::fs::read_to_string(log.old(n)).unwrap()).collect::<Vec<_>>(),
            ["1", "3", "4", "9"]
        );
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
        log.pump(&mut staging, Stream::Stdout, out.as_fd()).unwrap();
        assert_eq!(text(log.path()), b"still here\n");
    }

    #[test]
    fn what_another_log_could_not_take_goes_there_first() {
        let tmp = Tmp::new("other");
        let (out, into) = husk_oci::sys::fd::pipe(false).unwrap();
        let mut into = File::from(into);
        let mut staging = Staging::new().unwrap();
        let (mut one, mut two) =
            (ContainerLog::open(&tmp.0.join("1"), 0).unwrap(), ContainerLog::open(&tmp.0.join("2"), 0).unwrap());
        into.write_all(b"for one\n").unwrap();
        staging.fill(one.path(), Stream::Stderr, out.as_fd()).unwrap();
        one.prepare(&mut staging).unwrap();
        into.write_all(b"for two\n").unwrap();
        assert_eq!(two.pump(&mut staging, Stream::Stdout, out.as_fd()).unwrap(), Pumped::More);
        assert_eq!((text(one.path()), text(two.path())), (b"for one\n".to_vec(), b"for two\n".to_vec()));
    }

    #[test]
    fn logs_before_the_previous_instance_are_removed() {
        let tmp = Tmp::new("old");
        for name in ["0.log", "0.log.1", "1.log", "2.log.7", "2.log", "notes.log", "10.log"] {
            std::fs::write(tmp.0.join(name), "").unwrap();
        }
        let log = ContainerLog::open(&tmp.0, 3).unwrap();
        let mut left: Vec<String> =
            std::fs::read_dir(&tmp.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["10.log", "2.log", "2.log.7", "3.log", "notes.log"]);
        drop(log);
        remove_instances_below(&tmp.0.join("none"), 2).unwrap();
    }
}
