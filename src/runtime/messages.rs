//! Termination messages: each instance of a container has an empty file of its own, which anybody in it may write.
//!
//! The files are in a small tmpfs in pause's mount namespace, of which only we see more than one file: a container can fill neither the host's disk
//! (CVE-2020-8557) nor put anything else into the place of its file. We keep that directory open, so what was written is there when pause is not any more,
//! and keeper keeps it for our successors. It goes with the last of us.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use husk_oci::sys::path;
use nix::errno::Errno;

use super::Error;
use crate::state::record::{ContainerRecord, EndMessage, PodRecord};
use crate::volume;

/// Their directory in pause's mount namespace.
pub const DIR: &str = "/messages";
/// What all of a pod have together, on their way; a message is a page.
pub const BYTES: u64 = 1 << 20;
/// No message is longer (bytes): of a longer one the end counts. The kubelet's number.
pub const LIMIT: usize = 4096;

/// Where an instance leaves its message: the path in the container, and the name of the file. `None`: nowhere.
pub fn of<'a>(record: &PodRecord, container: &'a ContainerRecord, attempt: u32) -> Option<(&'a EndMessage, String)> {
    let place = container.message.as_ref().filter(|_| record.sandbox.messages)?;
    Some((place, format!("{}.{attempt}", container.name)))
}

/// Opens the directory, once pause holds it.
///
/// # Errors
/// The kernel's.
pub fn open(pause: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let failed = |e: volume::Error| Error::Host { what: format!("the place of termination messages: {e}") };
    volume::directory_in(pause, DIR).map_err(failed)
}

/// Makes an empty file for everybody.
///
/// # Errors
/// The kernel's.
pub fn create(dir: BorrowedFd<'_>, file: &str) -> Result<(), Error> {
    let name = c_string(file)?;
    let failed = |e| Error::sys("make the file for the termination message", e);
    let new = || path::openat(dir, &name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, 0o666);
    let made = match new() {
        // Of the same instance, whose supervisor was killed before it ran.
        Err(Errno::EEXIST) => path::unlinkat(dir, &name, false).and_then(|()| new()),
        other => other,
    };
    // Whatever our umask is.
    path::fchmod(std::os::fd::AsFd::as_fd(&made.map_err(failed)?), 0o666).map_err(failed)
}

/// The end of what was written; empty when nothing was.
///
/// # Errors
/// The kernel's; there is no such file.
pub fn read(dir: BorrowedFd<'_>, file: &str) -> Result<String, Error> {
    let name = c_string(file)?;
    let doing = "read the termination message";
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::from(path::openat(dir, &name, flags, 0).map_err(|e| Error::sys(doing, e))?);
    let metadata = file.metadata().map_err(|e| Error::io(doing, &e))?;
    if !metadata.is_file() {
        return Err(Error::Host { what: format!("{doing}: it is no file any more") });
    }
    let mut bytes = vec![0; LIMIT];
    let from = metadata.len().saturating_sub(LIMIT as u64);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(doing, &e)),
        }
    }
    Ok(last(&bytes[..filled], LIMIT))
}

/// Removes the file of an instance; one that is gone already is fine.
///
/// # Errors
/// The kernel's.
pub fn remove(dir: BorrowedFd<'_>, file: &str) -> Result<(), Error> {
    match path::unlinkat(dir, &c_string(file)?, false) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(Error::sys("remove a termination message", e)),
    }
}

/// At most so many of the last bytes, as text: what is not UTF-8 is replaced, and a character that was cut in two is left out.
pub fn last(bytes: &[u8], limit: usize) -> String {
    let end = &bytes[bytes.len().saturating_sub(limit)..];
    // Bytes that go on with a character which begins before.
    let cut =
        if end.len() < bytes.len() { end.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count() } else { 0 };
    let text = String::from_utf8_lossy(&end[cut..]);
    let mut from = text.len().saturating_sub(limit);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

fn c_string(name: &str) -> Result<CString, Error> {
    CString::new(name).map_err(|_| Error::Internal { what: "a NUL byte in a container's name".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;

    struct Scratch(PathBuf, File);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("husk-messages-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).expect("make a directory");
            let dir = File::open(&path).expect("open it");
            Scratch(path, dir)
        }

        fn read(&self, file: &str) -> Result<String, String> {
            read(self.1.as_fd(), file).map_err(|e| e.to_string())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("clean up");
        }
    }

    #[test]
    fn a_file_is_new_and_everybodys_and_its_end_is_read() {
        let scratch = Scratch::new("file");
        let dir = scratch.1.as_fd();
        create(dir, "a.0").expect("create");
        let path = scratch.0.join("a.0");
        assert_eq!(path.metadata().expect("it is there").mode() & 0o7777, 0o666);
        assert_eq!(scratch.read("a.0"), Ok(String::new()));
        std::fs::write(&path, "why\n").expect("write");
        assert_eq!(scratch.read("a.0"), Ok("why\n".into()));
        std::fs::write(&path, format!("{}end", "x".repeat(10_000))).expect("write");
        let said = scratch.read("a.0").expect("read");
        assert!(said.len() == LIMIT && said.ends_with("xend"), "{} bytes", said.len());
        // One that is made again is empty again.
        create(dir, "a.0").expect("create");
        assert_eq!(scratch.read("a.0"), Ok(String::new()));
        remove(dir, "a.0").expect("remove");
        remove(dir, "a.0").expect("it is gone");
        assert!(scratch.read("a.0").is_err());
    }

    #[test]
    fn what_is_no_file_is_neither_followed_nor_waited_for() {
        let scratch = Scratch::new("strange");
        std::fs::write(scratch.0.join("secret"), "secret").expect("write");
        symlink(scratch.0.join("secret"), scratch.0.join("link")).expect("link");
        nix::unistd::mkfifo(&scratch.0.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("make a fifo");
        std::fs::create_dir(scratch.0.join("dir")).expect("make a directory");
        for strange in ["link", "fifo", "dir", "nothing"] {
            assert!(scratch.read(strange).is_err(), "{strange}");
        }
        // Far more than there is memory, and nearly all of it holes.
        let sparse = File::create(scratch.0.join("sparse")).expect("create");
        sparse.set_len(1 << 40).expect("enlarge");
        sparse.write_all_at(b"end", (1 << 40) - 3).expect("write");
        assert!(scratch.read("sparse").expect("read").ends_with("\0end"));
    }

    #[test]
    fn the_end_of_bytes_is_cut_at_a_character() {
        assert_eq!(last("aäö".as_bytes(), 3), "ö");
        assert_eq!(last("aäö".as_bytes(), 4), "äö");
        assert_eq!(last(b"\xc3\x28ok", 10), "\u{fffd}(ok");
        // What replaces bytes may be longer than they were.
        let said = last(&[0xff; 100], 50);
        assert!(said.len() <= 50 && said.chars().all(|c| c == '\u{fffd}'), "{said:?}");
        assert_eq!(last(b"", 3), "");
    }
}
