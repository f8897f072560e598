//! The log writer's note to its successor: which log the staged bytes belong to, and where that log ended before them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use husk_oci::sys::fd;
use nix::sys::uio::{pread, pwrite};

use super::log::Stream;

/// One note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The log file.
    pub path: PathBuf,
    /// Its size before the staged bytes.
    pub end: u64,
    /// The stream they came from.
    pub stream: Stream,
}

/// Bytes before the path: size, stream, length of the path.
const HEADER: usize = 8 + 1 + 2;
/// A note stays within one page, so that writing it is one copy that nothing interrupts.
const PAGE: usize = 4096;

/// A memory file that outlives the supervisor in keeper.
#[derive(Debug)]
pub struct Journal(OwnedFd);

impl Journal {
    /// A new, empty one.
    pub fn new() -> nix::Result<Journal> {
        Ok(Journal(fd::memfd(c"husk-journal", false)?))
    }

    /// The one that keeper had.
    pub fn from_fd(fd: OwnedFd) -> Journal {
        Journal(fd)
    }

    /// Replaces the note.
    pub fn write(&self, path: &Path, end: u64, stream: Stream) -> nix::Result<()> {
        let path = path.as_os_str().as_encoded_bytes();
        let mut page = [0u8; PAGE];
        let place = page.get_mut(HEADER..HEADER + path.len()).ok_or(nix::errno::Errno::ENAMETOOLONG)?;
        place.copy_from_slice(path);
        page[..8].copy_from_slice(&end.to_le_bytes());
        page[8] = stream as u8;
        page[9..HEADER].copy_from_slice(&(path.len() as u16).to_le_bytes());
        let length = HEADER + path.len();
        match pwrite(&self.0, &page[..length], 0)? {
            n if n == length => Ok(()),
            _ => Err(nix::errno::Errno::EIO),
        }
    }

    /// Reads the note; `None` when there is none.
    pub fn read(&self) -> nix::Result<Option<Note>> {
        use std::os::unix::ffi::OsStrExt;
        let mut page = [0u8; PAGE];
        let got = pread(&self.0, &mut page, 0)?;
        let length = usize::from(u16::from_le_bytes([page[9], page[10]]));
        if got < HEADER || got < HEADER + length || length == 0 {
            return Ok(None);
        }
        let mut end = [0u8; 8];
        end.copy_from_slice(&page[..8]);
        Ok(Some(Note {
            path: Path::new(std::ffi::OsStr::from_bytes(&page[HEADER..HEADER + length])).to_owned(),
            end: u64::from_le_bytes(end),
            stream: if page[8] == Stream::Stderr as u8 { Stream::Stderr } else { Stream::Stdout },
        }))
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_note_replaces_a_longer_one_whole() {
        let journal = Journal::new().unwrap();
        assert_eq!(journal.read().unwrap(), None);
        journal.write(Path::new("/a/long/path/0.log"), 7, Stream::Stderr).unwrap();
        journal.write(Path::new("/b"), 1 << 40, Stream::Stdout).unwrap();
        let note = Note { path: "/b".into(), end: 1 << 40, stream: Stream::Stdout };
        assert_eq!(journal.read().unwrap(), Some(note));
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let long = "x".repeat(PAGE);
        assert!(Journal::new().unwrap().write(Path::new(&long), 0, Stream::Stdout).is_err());
    }
}
