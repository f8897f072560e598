//! A file of lines in a pod's directory to which only is added: what explains, and decides nothing. A line that was cut short (a full disk, a dead writer) is lost, and
//! nothing else. Nothing is synced.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Error, read, replace};

/// A file that is larger than this is put together.
pub(super) const COMPACT_BYTES: u64 = 48 * 1024;

/// What [`append`] adds: each entry a line of JSON.
pub(super) fn lines<T: Serialize>(entries: &[T]) -> Vec<u8> {
    let mut text = Vec::with_capacity(entries.len() * 192);
    for entry in entries {
        // A line before it may have been cut short: it ends here, and an empty line is none.
        text.push(b'\n');
        // Entries are strings and numbers: to write them to memory cannot fail.
        let _ = serde_json::to_writer(&mut text, entry);
    }
    text.push(b'\n');
    text
}

/// The entries of a file; those that were cut short or are none are left out.
pub(super) fn entries<T: DeserializeOwned>(content: &[u8]) -> impl Iterator<Item = T> {
    content
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| serde_json::from_slice::<T>(line).ok())
}

/// Adds entries to the file `name` in `dir`, which `fd` is too. `compact` puts together what a file that has grown holds, oldest first; of that the newest half is kept
/// if it is too large still. True: it was rewritten, and memory was needed for that.
///
/// # Errors
/// The file system's; the entries are lost, or some of them.
pub(super) fn append<T: Serialize + DeserializeOwned>(
    dir: &Path,
    fd: BorrowedFd<'_>,
    name: &str,
    new: &[T],
    compact: impl FnOnce(Vec<T>) -> Vec<T>,
) -> Result<bool, Error> {
    let path = || dir.join(name);
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = nix::fcntl::openat(fd, name, flags, Mode::from_bits_truncate(0o600))
        .map_err(|e| Error::sys("open", &path(), e))?;
    let mut file = File::from(file);
    file.write_all(&lines(new)).map_err(|e| Error::io("write", &path(), &e))?;
    let size = nix::sys::stat::fstat(file.as_fd()).map_err(|e| Error::sys("look at", &path(), e))?.st_size;
    if u64::try_from(size).unwrap_or(0) <= COMPACT_BYTES {
        return Ok(false);
    }
    let all = compact(entries(&read(&path())?.unwrap_or_default()).collect());
    // What is left must be small enough not to be rewritten at each entry.
    let mut kept = lines(&all);
    let mut from = 0;
    while kept.len() as u64 > COMPACT_BYTES / 2 && from < all.len() {
        from += (all.len() - from).div_ceil(4);
        kept = lines(&all[from..]);
    }
    replace(dir, fd, name, &kept)?;
    Ok(true)
}
