//! Makes a tree below a directory whose owner may be changing it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use husk_oci::sys::{Errno, path};
use nix::fcntl::AtFlags;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};

use super::{Content, Meta, Sink, failed, kind_of, reopen};
use crate::runtime::Error;

/// Whose the copies are, and what they keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This user's and group's; without set-id and sticky bits.
    Given {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// As before, by number, with all permission bits.
    Kept,
}

impl Owner {
    fn ids(self, meta: Meta) -> (u32, u32) {
        match self {
            Owner::Given { uid, gid } => (uid, gid),
            Owner::Kept => (meta.uid, meta.gid),
        }
    }

    fn mode(self, meta: Meta) -> u32 {
        match self {
            Owner::Given { .. } => meta.mode & 0o777,
            Owner::Kept => meta.mode,
        }
    }
}

/// Makes entries below one directory.
pub struct Writer {
    /// The directory, then those that were entered, with what the last ones get when they are left.
    dirs: Vec<(OwnedFd, Option<Meta>)>,
    owner: Owner,
}

impl Writer {
    /// Makes entries in `dir`.
    pub fn new(dir: OwnedFd, owner: Owner) -> Writer {
        Writer { dirs: vec![(dir, None)], owner }
    }

    /// The directory that entries were made in last.
    pub(super) fn into_dir(mut self) -> OwnedFd {
        // The first one stays, so there is a last one.
        let last = self.dirs.len() - 1;
        self.dirs.swap_remove(last).0
    }

    fn dir(&self) -> BorrowedFd<'_> {
        // The first one stays.
        self.dirs[self.dirs.len() - 1].0.as_fd()
    }

    /// Makes a file with what `fill` writes, and puts it in its place when it is complete: whoever opens the name sees the old or the new one.
    pub(super) fn make(
        &self,
        name: &CStr,
        meta: Meta,
        fill: impl FnOnce(&mut File) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(mounted) = self.mounted(name)? {
            // A volume of a single file: to put another in its place would take the volume out of the container.
            let kind = path::fstat(mounted.as_fd()).map_err(|e| failed("look at", name, e))?;
            if kind_of(&kind) != libc::S_IFREG {
                return Err(busy(name));
            }
            let file = reopen(mounted.as_fd(), libc::O_RDWR | libc::O_TRUNC).map_err(|e| failed("open", name, e))?;
            return fill(&mut File::from(file));
        }
        let (uid, gid) = self.owner.ids(meta);
        let (temporary, file) = self.unnamed(name)?;
        let mut file = File::from(file);
        fill(&mut file)?;
        // A change of owner clears set-id bits, so permissions come second.
        let done = path::fchown(file.as_fd(), uid, gid)
            .and_then(|()| path::fchmod(file.as_fd(), self.owner.mode(meta)))
            .and_then(|()| futimens(&file, &time(meta), &time(meta)));
        done.map_err(|e| failed("set owner and permissions of", name, e))?;
        match temporary {
            Some(temporary) => self.place(temporary, name),
            None => {
                let by_number = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let by_number = by_number.map_err(|_| failed("make", name, Errno::EINVAL))?;
                let link = |to: &CStr| {
                    nix::unistd::linkat(path::CWD, by_number.as_c_str(), self.dir(), to, AtFlags::AT_SYMLINK_FOLLOW)
                };
                match link(name) {
                    Ok(()) => Ok(()),
                    Err(Errno::EEXIST) => {
                        let temporary = Temporary::new(self.dir());
                        link(&temporary.name).map_err(|e| failed("make", name, e))?;
                        self.place(temporary, name)
                    }
                    Err(e) => Err(failed("make", name, e)),
                }
            }
        }
    }

    /// A new file that has no name, or where the file system cannot do that, one that goes when it is not placed.
    fn unnamed(&self, name: &CStr) -> Result<(Option<Temporary<'_>>, OwnedFd), Error> {
        match path::openat(self.dir(), c".", libc::O_TMPFILE | libc::O_RDWR, 0o600) {
            Ok(file) => return Ok((None, file)),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {}
            Err(e) => return Err(failed("make", name, e)),
        }
        let temporary = Temporary::new(self.dir());
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let file = path::openat(self.dir(), &temporary.name, flags, 0o600).map_err(|e| failed("make", name, e))?;
        Ok((Some(temporary), file))
    }

    /// What is mounted on this name in the container. Its mounts are not ours: the kernel would let us rename over one, and take it off in there.
    fn mounted(&self, name: &CStr) -> Result<Option<OwnedFd>, Error> {
        let found = match path::openat(self.dir(), name, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(failed("open", name, e)),
        };
        let here = mount_id(self.dir())?;
        Ok((mount_id(found.as_fd())? != here).then_some(found))
    }

    fn place(&self, temporary: Temporary<'_>, name: &CStr) -> Result<(), Error> {
        if self.mounted(name)?.is_some() {
            return Err(busy(name));
        }
        match path::rename(self.dir(), &temporary.name, self.dir(), name, true) {
            Ok(()) => Ok(()),
            Err(Errno::EBUSY) => Err(busy(name)),
            Err(e) => Err(failed("replace", name, e)),
        }
    }

    /// Another name for a file that was made before.
    ///
    /// # Errors
    /// There is no such file.
    pub(super) fn hard_link(&self, of: BorrowedFd<'_>, of_name: &CStr, name: &CStr) -> Result<(), Error> {
        let temporary = Temporary::new(self.dir());
        nix::unistd::linkat(of, of_name, self.dir(), temporary.name.as_c_str(), AtFlags::empty())
            .map_err(|e| failed("link to", of_name, e))?;
        self.place(temporary, name)
    }
}

impl Sink for Writer {
    fn enter(&mut self, name: &CStr, meta: Meta) -> Result<(), Error> {
        let made = match path::mkdirat(self.dir(), name, 0o700) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(e) => return Err(failed("make directory", name, e)),
        };
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let dir = path::openat(self.dir(), name, flags, 0).map_err(|e| match e {
            Errno::ELOOP | Errno::ENOTDIR => Error::Host {
                what: format!("{} is there and is no directory; links are not followed", super::shown(name.to_bytes())),
            },
            e => failed("open", name, e),
        })?;
        // Somebody may have put another one of theirs in its place: that keeps its owner.
        let stat = path::fstat(dir.as_fd()).map_err(|e| failed("look at", name, e))?;
        let ours = made
            && (stat.st_uid, stat.st_mode & 0o7777) == (nix::unistd::geteuid().as_raw(), 0o700)
            && is_empty(dir.as_fd()).map_err(|e| failed("read", name, e))?;
        if ours {
            let (uid, gid) = self.owner.ids(meta);
            path::fchown(dir.as_fd(), uid, gid)
                .and_then(|()| path::fchmod(dir.as_fd(), self.owner.mode(meta)))
                .map_err(|e| failed("set owner and permissions of", name, e))?;
        }
        self.dirs.push((dir, ours.then_some(meta)));
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        if self.dirs.len() > 1
            && let Some((dir, Some(meta))) = self.dirs.pop()
        {
            futimens(&dir, &time(meta), &time(meta)).map_err(|e| Error::sys("set the time of a directory", e))?;
        }
        Ok(())
    }

    fn file(&mut self, name: &CStr, meta: Meta, content: &mut Content) -> Result<(), Error> {
        self.make(name, meta, |file| {
            fill(content, file).map_err(|e| Error::io(format_args!("copy {}", super::shown(name.to_bytes())), &e))
        })
    }

    fn link(&mut self, name: &CStr, meta: Meta, target: &CStr) -> Result<(), Error> {
        let temporary = Temporary::new(self.dir());
        path::symlinkat(target, self.dir(), &temporary.name).map_err(|e| failed("make link", name, e))?;
        let (uid, gid) = self.owner.ids(meta);
        let found = path::openat(self.dir(), &temporary.name, libc::O_PATH | libc::O_NOFOLLOW, 0)
            .map_err(|e| failed("open", name, e))?;
        if path::fstat(found.as_fd()).is_ok_and(|stat| kind_of(&stat) == libc::S_IFLNK) {
            path::fchownat(found.as_fd(), c"", uid, gid).map_err(|e| failed("set the owner of", name, e))?;
            let at = time(meta);
            // Only its time: whatever else is under that name by now loses nothing by it.
            utimensat(self.dir(), temporary.name.as_c_str(), &at, &at, UtimensatFlags::NoFollowSymlink)
                .map_err(|e| failed("set the time of", name, e))?;
        }
        self.place(temporary, name)
    }
}

/// Copies what the file held when it was opened, holes as holes.
fn fill(content: &mut Content, to: &mut File) -> std::io::Result<()> {
    if content.endless {
        return std::io::copy(&mut content.file, to).map(drop);
    }
    let end = content.size_bytes;
    let offset = |n: u64| libc::off_t::try_from(n).map_err(|_| std::io::Error::from_raw_os_error(libc::EFBIG));
    let mut at = 0;
    let mut length = end;
    while at < end {
        let data = match lseek(&content.file, offset(at)?, Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            // Nothing but a hole up to the end.
            Err(Errno::ENXIO) => break,
            // A file system that knows of no holes.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        if data >= end {
            break;
        }
        let hole = lseek(&content.file, offset(data)?, Whence::SeekHole).map_or(end, i64::cast_unsigned);
        let hole = if hole > data { hole.min(end) } else { end };
        content.file.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(data))?;
        let copied = std::io::copy(&mut (&content.file).take(hole - data), to)?;
        if copied < hole - data {
            // It has become shorter meanwhile.
            length = data + copied;
            break;
        }
        at = hole;
    }
    to.set_len(length)
}

fn busy(name: &CStr) -> Error {
    Error::Host { what: format!("replace {}: something is mounted there (EBUSY)", super::shown(name.to_bytes())) }
}

/// Which mount an open file was reached through. `proc_pid_fdinfo(5)`
fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    let place = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = husk_oci::file::read_text(std::path::Path::new(&place), 4096)
        .map_err(|e| Error::io(format_args!("read {place}"), &e))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| Error::Internal { what: format!("no mnt_id in {place}") })
}

fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut entries = nix::dir::Dir::from_fd(path::openat(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?)?;
    for entry in entries.iter() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn time(meta: Meta) -> TimeSpec {
    TimeSpec::new(meta.mtime.0, i64::from(meta.mtime.1))
}

/// A name that nobody else uses; what bears it goes when this is dropped.
struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    name: CString,
}

impl Temporary<'_> {
    fn new(dir: BorrowedFd<'_>) -> Temporary<'_> {
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let n = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let nanos = husk_oci::sys::clock::realtime().as_nanos();
        let name = CString::new(format!(".husk-cp-{}-{n}-{nanos:x}", std::process::id())).expect("digits have no NUL");
        Temporary { dir, name }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // ENOENT: it was renamed, or never made.
        let _ = path::unlinkat(self.dir, &self.name, false);
    }
}
