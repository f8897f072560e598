//! Unpacks one layer into a directory of its own, in the form that overlayfs wants.
//!
//! The archive is a stranger's. Every name is resolved by the kernel inside the layer's root (`openat2(2)` with `RESOLVE_IN_ROOT`),
//! every file is made with `O_EXCL` relative to the directory so found, and owner, permissions and attributes are set through the fd
//! of what was made. Rules, where formats leave a choice:
//!
//! * A name with `..` is refused; an absolute name begins at the layer's root.
//! * A name may pass through a symbolic link of the same layer; the link counts inside the root. One that leads nowhere is refused.
//! * A later entry replaces an earlier one; a directory over a directory only changes its attributes.
//! * Hard links may name files of the same layer only.
//! * Device nodes are not made, except the six that every container has (null, zero, full, random, urandom, tty): a container gets its
//!   devices from the runtime. A device 0:0, overlayfs's sign for "deleted", is refused.
//! * Owners above 2^31-1 are refused.
//! * Of extended attributes `security.capability` and `user.*` are kept, but not `user.overlay.*`; the others mean something to the host only.
//! * Directories that no entry describes get the attributes they have in the layers below, else root's and 0755.

use super::error::{Error, printable};
use super::tarball::{Entry, Kind, Reader, Skip, TarError};
use super::tree::{self, Sys};
use husk_oci::sys::{Errno, path, xattr};
use nix::fcntl::AtFlags;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Largest owner id: above it, ids turn negative in somebody's arithmetic.
const MAX_ID: u64 = i32::MAX as u64;
/// Character devices that a layer may hold: what the device rules of every container allow.
const HARMLESS_DEVICES: [(u32, u32); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];
/// What AUFS, the first user of whiteouts, kept for itself in the root of a layer.
const AUFS_OWN: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file content.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

/// A failure at one entry.
enum Fault {
    /// A system call failed.
    Sys(&'static str, Errno),
    /// Refused: a sentence.
    Refused(String),
    /// The archive could not be read on.
    Tar(TarError),
}

fn refused<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(why.into()))
}

/// Names the call an errno came from.
trait During<T> {
    fn during(self, call: &'static str) -> Result<T, Fault>;
}

impl<T> During<T> for Sys<T> {
    fn during(self, call: &'static str) -> Result<T, Fault> {
        self.map_err(|errno| Fault::Sys(call, errno))
    }
}

/// Unpacks `archive` into `root`, an empty directory that nobody else knows. `lower` are the roots of the layers below, top first.
///
/// Blocks for as long as the archive is; what was made stays when it fails, the caller removes it.
///
/// # Errors
/// `Content` for what is refused, `Io` when the kernel refuses (a full disk is ENOSPC or EDQUOT).
pub fn unpack<R: Skip>(archive: &mut Reader<R>, root: BorrowedFd<'_>, lower: &[OwnedFd]) -> Result<Unpacked, Error> {
    let mut unpacker =
        Unpacker { root, lower, dir: None, times: Vec::new(), done: Unpacked::default(), buf: vec![0; 1 << 17] };
    let at_root = |errno| Error::io("prepare", "the layer's root", errno);
    path::fchmod(root, 0o755).map_err(at_root)?;
    loop {
        let entry = match archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(e) => return Err(tar_error(e)),
        };
        unpacker.done.entries += 1;
        unpacker.apply(&entry, archive).map_err(|fault| match fault {
            Fault::Sys(call, errno) => Error::io(call, printable(&entry.name), errno),
            Fault::Refused(why) => Error::content(format!("entry {}: {why}", printable(&entry.name))),
            Fault::Tar(e) => tar_error(e),
        })?;
    }
    unpacker.finish()
}

/// The room's error for a failure to read an archive.
pub(super) fn tar_error(e: TarError) -> Error {
    match e {
        TarError::Early => Error::content("the archive ends early"),
        TarError::Refused(why) => Error::content(why),
        TarError::Read(e) => read_error(&e),
    }
}

/// The room's error for a failure of a reader, which may be a decompressor.
pub(super) fn read_error(e: &io::Error) -> Error {
    match e.raw_os_error() {
        Some(n) => Error::io("read", "the archive", Errno::from_raw(n)),
        None if e.kind() == io::ErrorKind::UnexpectedEof => Error::content("the archive ends early"),
        None => Error::content(format!("the compressed data is damaged: {e}")),
    }
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    lower: &'a [OwnedFd],
    /// The directory that the last entry was in, as entries come in runs; forgotten whenever something is removed.
    dir: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose times are set last, since filling them changes it.
    times: Vec<(Vec<u8>, (i64, u32))>,
    done: Unpacked,
    buf: Vec<u8>,
}

impl Unpacker<'_> {
    fn apply<R: Skip>(&mut self, entry: &Entry, archive: &mut Reader<R>) -> Result<(), Fault> {
        let parts = split(&entry.name)?;
        let Some((last, parents)) = parts.split_last() else {
            if entry.kind != Kind::Dir {
                return refused("the layer's root must be a directory");
            }
            return self.root_entry(entry);
        };
        if parents.iter().chain([last]).take(1).any(|first| AUFS_OWN.contains(first)) {
            return Ok(());
        }
        if let Some(part) = parents.iter().find(|p| p.starts_with(b".wh.")) {
            return refused(format!("the whiteout {} is used as a directory", printable(part)));
        }
        let parent_name = parents.join(&b'/');
        let parent = self.parent(&parent_name, parents)?;
        let result = self.entry(entry, parent.as_fd(), last, archive);
        // Kept for the next entry unless something was removed meanwhile.
        if let Ok(false) = result {
            self.dir = Some((parent_name, parent));
        }
        result.map(drop)
    }

    /// Makes one entry; whether anything that existed was removed for it.
    fn entry<R: Skip>(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        last: &[u8],
        archive: &mut Reader<R>,
    ) -> Result<bool, Fault> {
        if let Some(hidden) = last.strip_prefix(b".wh.") {
            self.whiteout(parent, hidden)?;
            return Ok(false);
        }
        let (uid, gid) = owner(entry)?;
        let name = tree::c(last).during("use the name")?;
        if entry.kind == Kind::HardLink {
            return self.hard_link(entry, parent, &name);
        }
        let existing = self.existing(parent, &name)?;
        let keeps = entry.kind == Kind::Dir && matches!(existing, Some(Existing::Dir));
        let removed = existing.is_some() && !keeps;
        if removed {
            self.remove(parent, &name)?;
        }
        match entry.kind {
            Kind::File => self.file(entry, parent, &name, (uid, gid), archive)?,
            Kind::Dir => {
                if !keeps {
                    path::mkdirat(parent, &name, 0o700).during("make the directory")?;
                }
                let dir = tree::open_child_dir(parent, &name, libc::O_RDONLY).during("open the directory")?;
                attributes(dir.as_fd(), entry, (uid, gid))?;
                if matches!(existing, Some(Existing::Whiteout)) {
                    // The lower directory of this name is hidden, not merged.
                    xattr::fsetxattr(dir.as_fd(), c"trusted.overlay.opaque", b"y").during("mark as opaque")?;
                }
                let parts = split(&entry.name)?;
                self.times.push((parts.join(&b'/'), entry.mtime));
            }
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return refused("a symbolic link to nothing");
                }
                let target = tree::c(&entry.link).during("use the link")?;
                path::symlinkat(&target, parent, &name).during("make the symbolic link")?;
                path::fchownat(parent, &name, uid, gid).during("set the owner of")?;
                let time = timespec(entry.mtime);
                utimensat(parent, name.as_c_str(), &time, &time, UtimensatFlags::NoFollowSymlink)
                    .during("set the time of")?;
            }
            Kind::Fifo => self.node(entry, parent, &name, libc::S_IFIFO, (uid, gid))?,
            Kind::Char if entry.device == (0, 0) => {
                return refused("a device 0:0, which would hide a file of the layers below");
            }
            Kind::Char if HARMLESS_DEVICES.contains(&entry.device) => {
                self.node(entry, parent, &name, libc::S_IFCHR, (uid, gid))?;
            }
            Kind::Char | Kind::Block => {}
            Kind::HardLink => unreachable!("handled above"),
        }
        Ok(removed)
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), Fault> {
        let ids = owner(entry)?;
        attributes(self.root, entry, ids)?;
        self.times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    /// The directory that `parts` names, made where it is missing.
    fn parent(&mut self, name: &[u8], parts: &[&[u8]]) -> Result<OwnedFd, Fault> {
        if let Some((known, fd)) = self.dir.take()
            && known == name
        {
            return Ok(fd);
        }
        match tree::open_in(self.root, name, libc::O_PATH | libc::O_DIRECTORY) {
            Ok(fd) => return Ok(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(Fault::Sys("open the directory of", errno)),
        }
        let mut at = tree::open_in(self.root, b"", libc::O_PATH | libc::O_DIRECTORY).during("open the root of")?;
        for n in 1..=parts.len() {
            // One step where the next part is a directory; from the root again, as far as here, where it is a link.
            let step = tree::c(parts[n - 1]).during("use the name")?;
            at = match tree::open_child_dir(at.as_fd(), &step, libc::O_PATH) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => self.missing_parent(at.as_fd(), parts[n - 1], &parts[..n].join(&b'/'))?,
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    let prefix = parts[..n].join(&b'/');
                    match tree::open_in(self.root, &prefix, libc::O_PATH | libc::O_DIRECTORY) {
                        Ok(fd) => fd,
                        Err(Errno::ENOENT | Errno::ENOTDIR) => {
                            self.missing_parent(at.as_fd(), parts[n - 1], &prefix)?
                        }
                        Err(errno) => return Err(Fault::Sys("open the directory of", errno)),
                    }
                }
                Err(errno) => return Err(Fault::Sys("open the directory of", errno)),
            };
        }
        Ok(at)
    }

    /// Makes a directory that no entry has described (yet).
    fn missing_parent(&mut self, parent: BorrowedFd<'_>, last: &[u8], prefix: &[u8]) -> Result<OwnedFd, Fault> {
        let name = tree::c(last).during("use the name")?;
        let hidden = match self.existing(parent, &name)? {
            None => false,
            Some(Existing::Whiteout) => {
                path::unlinkat(parent, &name, false).during("replace")?;
                true
            }
            Some(Existing::Link) => {
                return refused(format!(
                    "its directory {} is a symbolic link that leads to no directory of the layer",
                    printable(prefix)
                ));
            }
            Some(Existing::Dir | Existing::Other) => {
                return refused(format!("its directory {} is not a directory", printable(prefix)));
            }
        };
        path::mkdirat(parent, &name, 0o700).during("make the directory of")?;
        let dir = tree::open_child_dir(parent, &name, libc::O_RDONLY).during("open the directory of")?;
        let like = if hidden { None } else { self.below(prefix)? };
        let (uid, gid, mode) = like.map_or((0, 0, 0o755), |s| (s.st_uid, s.st_gid, s.st_mode & 0o7777));
        path::fchown(dir.as_fd(), uid, gid).during("set the owner of the directory of")?;
        path::fchmod(dir.as_fd(), mode).during("set the permissions of the directory of")?;
        if hidden {
            xattr::fsetxattr(dir.as_fd(), c"trusted.overlay.opaque", b"y").during("mark as opaque")?;
        }
        Ok(dir)
    }

    /// The directory of that name in the layers below, as it shows through.
    fn below(&self, name: &[u8]) -> Result<Option<libc::stat>, Fault> {
        for layer in self.lower {
            match tree::open_in(layer.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW) {
                Ok(fd) => {
                    let stat = path::fstat(fd.as_fd()).during("look below for")?;
                    // Anything else has been replaced by the directory that is about to be made.
                    return Ok((tree::kind_of(&stat) == libc::S_IFDIR).then_some(stat));
                }
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(Fault::Sys("look below for", errno)),
            }
        }
        Ok(None)
    }

    fn existing(&self, parent: BorrowedFd<'_>, name: &CString) -> Result<Option<Existing>, Fault> {
        match path::fstatat(parent, name) {
            Ok(stat) => Ok(Some(match tree::kind_of(&stat) {
                libc::S_IFDIR => Existing::Dir,
                libc::S_IFLNK => Existing::Link,
                libc::S_IFCHR if stat.st_rdev == 0 => Existing::Whiteout,
                _ => Existing::Other,
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Fault::Sys("look for", errno)),
        }
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<(), Fault> {
        self.dir = None;
        tree::remove(parent, name).map_err(|e| match e {
            Error::Io { errno, .. } => Fault::Sys("replace", errno),
            other => Fault::Refused(other.to_string()),
        })
    }

    /// `.wh.NAME`: NAME of the layers below is gone. It says nothing about a NAME of this layer, wherever that stands in the archive.
    fn whiteout(&mut self, parent: BorrowedFd<'_>, hidden: &[u8]) -> Result<(), Fault> {
        if hidden == b".wh..opq" {
            // An O_PATH fd takes no attributes.
            let dir = tree::open_child_dir(parent, c".", libc::O_RDONLY).during("open the directory of")?;
            return self.opaque(dir.as_fd());
        }
        if hidden.starts_with(b".wh.") || matches!(hidden, b"" | b"." | b"..") {
            return refused("not a whiteout that is known");
        }
        let name = tree::c(hidden).during("use the name")?;
        if self.lower.is_empty() {
            // Nothing below, nothing to hide.
            return Ok(());
        }
        match self.existing(parent, &name)? {
            None => path::mknodat(parent, &name, libc::S_IFCHR, 0).during("make the whiteout"),
            Some(Existing::Dir) => {
                let dir = tree::open_child_dir(parent, &name, libc::O_RDONLY).during("open the directory of")?;
                self.opaque(dir.as_fd())
            }
            Some(_) => Ok(()),
        }
    }

    fn opaque(&self, dir: BorrowedFd<'_>) -> Result<(), Fault> {
        if self.lower.is_empty() {
            return Ok(());
        }
        xattr::fsetxattr(dir, c"trusted.overlay.opaque", b"y").during("mark as opaque")
    }

    fn hard_link(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &CString) -> Result<bool, Fault> {
        let shown = printable(&entry.link);
        let parts = match split(&entry.link) {
            Ok(parts) => parts,
            Err(_) => return refused(format!("a hard link to {shown}, a name with ..")),
        };
        let Some((last, parents)) = parts.split_last() else {
            return refused("a hard link to the layer's root");
        };
        let absent = || format!("a hard link to {shown}, which is not in this layer before it");
        let source_dir = match tree::open_in(self.root, &parents.join(&b'/'), libc::O_PATH | libc::O_DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return refused(absent()),
            Err(errno) => return Err(Fault::Sys("open the link target of", errno)),
        };
        let source = tree::c(last).during("use the link")?;
        let stat = match path::fstatat(source_dir.as_fd(), &source) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return refused(absent()),
            Err(errno) => return Err(Fault::Sys("look for the link target of", errno)),
        };
        if tree::kind_of(&stat) == libc::S_IFDIR {
            return refused(format!("a hard link to {shown}, a directory"));
        }
        if tree::kind_of(&stat) == libc::S_IFCHR && stat.st_rdev == 0 {
            return refused(format!("a hard link to {shown}, which this layer hides"));
        }
        let mut removed = false;
        if let Ok(existing) = path::fstatat(parent, name) {
            if (existing.st_dev, existing.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(false);
            }
            self.remove(parent, name)?;
            removed = true;
        }
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is that link once more, wherever it points.
        nix::unistd::linkat(source_dir.as_fd(), source.as_c_str(), parent, name.as_c_str(), AtFlags::empty())
            .during("make the hard link")?;
        Ok(removed)
    }

    fn file<R: Skip>(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &CString,
        ids: (u32, u32),
        archive: &mut Reader<R>,
    ) -> Result<(), Fault> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let file = File::from(path::openat(parent, name, flags, 0o600).during("make")?);
        let whole = [(0, entry.size)];
        let pieces: &[(u64, u64)] = entry.sparse.as_deref().unwrap_or(&whole);
        for (offset, length) in pieces {
            let mut at = *offset;
            let end = offset + length;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buf.len());
                let n = archive.read_data(&mut self.buf[..want]).map_err(Fault::Tar)?;
                if n == 0 {
                    return Err(Fault::Tar(TarError::Early));
                }
                file.write_all_at(&self.buf[..n], at)
                    .map_err(|e| Fault::Sys("write", husk_oci::errno::Sys::from(&e).0))?;
                at += n as u64;
                self.done.bytes += n as u64;
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size).map_err(|e| Fault::Sys("set the size of", husk_oci::errno::Sys::from(&e).0))?;
        }
        attributes(file.as_fd(), entry, ids)?;
        let time = timespec(entry.mtime);
        futimens(file.as_fd(), &time, &time).during("set the time of")
    }

    /// A pipe or a harmless device. Never opened: opening has effects.
    fn node(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &CString,
        kind: u32,
        ids: (u32, u32),
    ) -> Result<(), Fault> {
        let device = path::makedev(entry.device.0, entry.device.1);
        path::mknodat(parent, name, kind | 0o600, device).during("make")?;
        path::fchownat(parent, name, ids.0, ids.1).during("set the owner of")?;
        // Follows links, but this name was made just now, exclusively, in a tree that nobody else can reach.
        path::fchmodat(parent, name, entry.mode).during("set the permissions of")?;
        let time = timespec(entry.mtime);
        utimensat(parent, name.as_c_str(), &time, &time, UtimensatFlags::NoFollowSymlink).during("set the time of")
    }

    fn finish(self) -> Result<Unpacked, Error> {
        for (name, mtime) in self.times.iter().rev() {
            let time = timespec(*mtime);
            let set = match tree::open_in(self.root, name, libc::O_RDONLY | libc::O_DIRECTORY) {
                Ok(dir) => futimens(dir, &time, &time),
                // Replaced by a later entry.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
                Err(errno) => Err(errno),
            };
            set.map_err(|e| Error::io("set the time of", printable(name), e))?;
        }
        Ok(self.done)
    }
}

/// What stands where an entry is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    Dir,
    Link,
    Whiteout,
    Other,
}

/// The parts of a name, without empty ones and `.`.
fn split(name: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    if name.len() > 4095 {
        return refused("a name of more than 4095 bytes");
    }
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).collect();
    if parts.iter().any(|p| *p == b"..") {
        return refused("a name with .. in it");
    }
    Ok(parts)
}

fn owner(entry: &Entry) -> Result<(u32, u32), Fault> {
    let narrow = |id: u64, what: &str| match u32::try_from(id) {
        Ok(id) if u64::from(id) <= MAX_ID => Ok(id),
        _ => refused(format!("{what} id {id} is outside 0 to {MAX_ID}")),
    };
    Ok((narrow(entry.uid, "user")?, narrow(entry.gid, "group")?))
}

/// Owner, then permissions (a change of owner clears setuid), then attributes (it clears capabilities too).
fn attributes(fd: BorrowedFd<'_>, entry: &Entry, (uid, gid): (u32, u32)) -> Result<(), Fault> {
    path::fchown(fd, uid, gid).during("set the owner of")?;
    path::fchmod(fd, entry.mode).during("set the permissions of")?;
    for (name, value) in &entry.xattrs {
        let kept =
            name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."));
        if kept {
            let name = tree::c(name).during("use an attribute's name of")?;
            xattr::fsetxattr(fd, &name, value).during("set an extended attribute of")?;
        }
    }
    Ok(())
}

fn timespec((seconds, nanos): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, i64::from(nanos))
}
