//! A copy as a tar stream.

use std::ffi::{CStr, CString, OsStr};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use husk_oci::sys::Errno;
use husk_oci::sys::path::{self, How, resolve};
use tar::{EntryType, Header};

use super::write::{Owner, Writer};
use super::{Content, Meta, Sink, failed, shown};
use crate::image::tarball::{Entry, Kind, Reader, Stream, TarError};
use crate::runtime::Error;

/// Writes entries as an archive, with their owners by number.
pub struct Packer<W: Write> {
    to: tar::Builder<W>,
    /// The directories that were entered.
    inside: PathBuf,
}

impl<W: Write> Packer<W> {
    /// Writes to `to`.
    pub fn new(to: W) -> Packer<W> {
        Packer { to: tar::Builder::new(to), inside: PathBuf::new() }
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        let done = self.to.finish().and_then(|()| self.to.get_mut().flush());
        done.map_err(|e| Error::io("write the archive", &e))
    }

    fn name(&self, name: &CStr) -> PathBuf {
        self.inside.join(OsStr::from_bytes(name.to_bytes()))
    }
}

fn header(kind: EntryType, meta: Meta, size_bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid.into());
    header.set_gid(meta.gid.into());
    header.set_mtime(u64::try_from(meta.mtime.0).unwrap_or(0));
    header.set_size(size_bytes);
    header
}

fn wrote(name: &CStr, done: std::io::Result<()>) -> Result<(), Error> {
    done.map_err(|e| Error::io(format_args!("write {} to the archive", shown(name.to_bytes())), &e))
}

impl<W: Write> Sink for Packer<W> {
    fn enter(&mut self, name: &CStr, meta: Meta) -> Result<(), Error> {
        let path = self.name(name);
        let header = &mut header(EntryType::Directory, meta, 0);
        let done = self.to.append_data(header, &path, std::io::empty());
        self.inside = path;
        wrote(name, done)
    }

    fn leave(&mut self) -> Result<(), Error> {
        self.inside.pop();
        Ok(())
    }

    fn file(&mut self, name: &CStr, meta: Meta, content: &mut Content) -> Result<(), Error> {
        let path = self.name(name);
        if content.endless {
            // Its size has to stand in front of it.
            let mut all = Vec::new();
            let read = (&content.file).take(ENDLESS_BYTES).read_to_end(&mut all);
            wrote(name, read.map(drop))?;
            let done = self.to.append_data(&mut header(EntryType::Regular, meta, all.len() as u64), path, &*all);
            return wrote(name, done);
        }
        // What is missing of one that becomes shorter meanwhile are zeros: the size was told.
        let data = (&content.file).chain(std::io::repeat(0)).take(content.size_bytes);
        wrote(name, self.to.append_data(&mut header(EntryType::Regular, meta, content.size_bytes), path, data))
    }

    fn link(&mut self, name: &CStr, meta: Meta, target: &CStr) -> Result<(), Error> {
        let path = self.name(name);
        let target = OsStr::from_bytes(target.to_bytes());
        wrote(name, self.to.append_link(&mut header(EntryType::Symlink, meta, 0), path, target))
    }
}

/// How much is read of a file that does not tell its size.
const ENDLESS_BYTES: u64 = 64 << 20;

/// Makes what an archive holds below `dir`. Its names stay in there, whatever links are on their way; devices and pipes are left out.
///
/// # Errors
/// The archive is damaged or says something that is refused, or an entry cannot be made.
pub fn unpack(from: impl Read, dir: &OwnedFd, owner: Owner, warn: &mut dyn FnMut(String)) -> Result<(), Error> {
    let mut archive = Reader::new(Stream(from), false);
    while let Some(entry) = archive.next_entry().map_err(|e| damaged(&e))? {
        let parts = split(&entry.name)?;
        let Some((last, parents)) = parts.split_last() else { continue };
        let parent = parent(dir.as_fd(), parents, owner)?;
        let mut writer = Writer::new(parent, owner);
        let meta = meta(&entry)?;
        match entry.kind {
            Kind::Dir => {
                writer.enter(last, meta)?;
                writer.leave()?;
            }
            Kind::File => writer.make(last, meta, |file| data(&mut archive, &entry, file))?,
            Kind::Symlink => {
                let target = CString::new(entry.link.clone()).map_err(|_| failed("make link", last, Errno::EINVAL))?;
                writer.link(last, meta, &target)?;
            }
            Kind::HardLink => {
                let of = split(&entry.link)?;
                let Some((of_last, of_parents)) = of.split_last() else {
                    return Err(failed("link to the root as", last, Errno::EISDIR));
                };
                let of_dir = below(dir.as_fd(), &join(of_parents), libc::O_PATH | libc::O_DIRECTORY);
                let of_dir = of_dir.map_err(|e| failed("find what is linked to by", last, e))?;
                writer.hard_link(of_dir.as_fd(), of_last, last)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                warn(format!("{}: a device or a named pipe, left out", shown(&entry.name)));
            }
        }
    }
    Ok(())
}

fn damaged(e: &TarError) -> Error {
    let what = match e {
        TarError::Early => "the archive ends early".to_owned(),
        TarError::Refused(why) => why.clone(),
        TarError::Read(e) => return Error::io("read the archive", e),
    };
    Error::Host { what }
}

fn refused<T>(name: &[u8], why: &str) -> Result<T, Error> {
    Err(Error::Host { what: format!("archive: {}: {why}", shown(name)) })
}

/// The parts of a name, without empty ones and `.`.
fn split(name: &[u8]) -> Result<Vec<CString>, Error> {
    let parts = name.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let parts: Vec<CString> = parts.filter_map(|part| CString::new(part).ok()).collect();
    if parts.len() > super::MAX_DEPTH || parts.iter().any(|part| part.to_bytes() == b"..") {
        return refused(name, "a name with .. in it, or of too many parts");
    }
    Ok(parts)
}

fn join(parts: &[CString]) -> Vec<u8> {
    parts.iter().map(|part| part.to_bytes()).collect::<Vec<_>>().join(&b'/')
}

/// Opens below `dir` as if it were the root.
fn below(dir: BorrowedFd<'_>, name: &[u8], flags: i32) -> Result<OwnedFd, Errno> {
    let name = CString::new(if name.is_empty() { b"." } else { name }).map_err(|_| Errno::EINVAL)?;
    let resolve = resolve::IN_ROOT | resolve::NO_MAGICLINKS;
    path::openat2(dir, &name, How { flags: flags as u64, mode: 0, resolve })
}

/// The directory that an entry is in; those that no entry has told of are made.
fn parent(dir: BorrowedFd<'_>, parts: &[CString], owner: Owner) -> Result<OwnedFd, Error> {
    const FLAGS: i32 = libc::O_RDONLY | libc::O_DIRECTORY;
    let open = |count: usize| below(dir, &join(&parts[..count]), FLAGS);
    // From the deepest that is there.
    let mut there = parts.len();
    let mut opened = loop {
        match open(there) {
            Ok(opened) => break opened,
            Err(Errno::ENOENT) if there > 0 => there -= 1,
            Err(e) => return Err(failed("open", &parts[there.saturating_sub(1)], e)),
        }
    };
    for part in &parts[there..] {
        let (uid, gid) = match owner {
            Owner::Given { uid, gid } => (uid, gid),
            Owner::Kept => (0, 0),
        };
        let mut writer = Writer::new(opened, owner);
        writer.enter(part, Meta { mode: 0o755, uid, gid, mtime: now() })?;
        opened = writer.into_dir();
    }
    Ok(opened)
}

fn now() -> (i64, u32) {
    let now = husk_oci::sys::clock::realtime();
    (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos())
}

fn meta(entry: &Entry) -> Result<Meta, Error> {
    let id = |id: u64| match u32::try_from(id) {
        // Above it, ids turn negative in somebody's arithmetic.
        Ok(id) if id <= i32::MAX as u32 => Ok(id),
        _ => refused(&entry.name, "its owner is no user or group id"),
    };
    Ok(Meta { mode: entry.mode, uid: id(entry.uid)?, gid: id(entry.gid)?, mtime: entry.mtime })
}

fn data<R: Read>(archive: &mut Reader<Stream<R>>, entry: &Entry, file: &mut std::fs::File) -> Result<(), Error> {
    use std::os::unix::fs::FileExt;
    let failed = |e: &std::io::Error| Error::io(format_args!("write {}", shown(&entry.name)), e);
    let whole = [(0, entry.size)];
    let mut buffer = vec![0; 128 << 10];
    for (offset, length) in entry.sparse.as_deref().unwrap_or(&whole) {
        let (mut at, end) = (*offset, offset + length);
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = archive.read_data(&mut buffer[..want]).map_err(|e| damaged(&e))?;
            if got == 0 {
                return Err(damaged(&TarError::Early));
            }
            file.write_all_at(&buffer[..got], at).map_err(|e| failed(&e))?;
            at += got as u64;
        }
    }
    if entry.sparse.is_some() { file.set_len(entry.size).map_err(|e| failed(&e)) } else { Ok(()) }
}
