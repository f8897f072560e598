//! Where an image comes from: a directory, or a tar file as if it were one.

use super::error::{Error, printable};
use super::tarball::{self, Reader, Skip};
use super::tree;
use super::unpack::tar_error;
use husk_oci::sys::path::{self, How, resolve};
use husk_oci::sys::{Errno, path as sys_path};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Members of an archive that holds an image; layouts have a few dozen.
const MAX_MEMBERS: usize = 100_000;
/// Links that one member may lead through.
const MAX_LINKS: usize = 8;

/// The first bytes of a compressed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    /// Known, and not supported.
    Other(&'static str),
}

/// Tells the compression from the first six bytes (or fewer, of a shorter file).
pub(super) fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Other("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Compression::Other("xz"),
        [b'B', b'Z', b'h', ..] => Compression::Other("bzip2"),
        _ => Compression::None,
    }
}

/// The sentence for a compression that is not supported.
pub(super) fn unsupported_compression(name: &str) -> Error {
    Error::unsupported(format!("compressed with {name}, which is not supported; only plain tar and gzip are"))
}

/// A file of a [`Source`], read from its beginning.
pub(super) struct Blob<'s> {
    file: BlobFile<'s>,
    at: u64,
    end: u64,
}

enum BlobFile<'s> {
    Own(File),
    Part(&'s File),
}

impl Blob<'_> {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buf.len());
        let file = match &self.file {
            BlobFile::Own(file) => file,
            BlobFile::Part(file) => file,
        };
        let n = file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// What a name in an archive stands for.
pub(super) enum Member {
    /// Bytes of the archive.
    Data { offset: u64, size: u64 },
    /// Another member's name.
    Link(Vec<u8>),
}

/// A directory, or a tar file with its table of contents.
pub(super) enum Source {
    Dir(OwnedFd),
    Tar { file: File, members: HashMap<Vec<u8>, Member> },
}

impl Source {
    /// Opens what `path` names. A compressed archive, or one that comes out of a pipe, is first written to an unnamed file in the directory
    /// that `spool` opens. Takes as long as a pipe's other end does.
    pub fn open(path: &Path, spool: &dyn Fn() -> Result<OwnedFd, Error>) -> Result<Source, Error> {
        let file = open_input(path)?;
        let stat = path::fstat(file.as_fd()).map_err(|e| Error::io("look at", "the file", e))?;
        let mut file = match tree::kind_of(&stat) {
            libc::S_IFDIR => return Ok(Source::Dir(file.into())),
            libc::S_IFREG => file,
            libc::S_IFIFO | libc::S_IFSOCK => spooled(file, spool()?.as_fd())?,
            _ => return Err(Error::content("is neither a directory nor a file")),
        };
        let mut head = [0u8; 6];
        let n =
            file.read_at(&mut head, 0).map_err(|e| Error::io("read", "the file", husk_oci::errno::Sys::from(&e).0))?;
        match compression(&head[..n]) {
            Compression::None => {}
            Compression::Gzip => {
                let plain = flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, file));
                file = spooled(plain, spool()?.as_fd())?;
            }
            Compression::Other(name) => return Err(unsupported_compression(name)),
        }
        let members = table_of_contents(&file)?;
        Ok(Source::Tar { file, members })
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> Result<bool, Error> {
        match self.find(name) {
            Ok(_) => Ok(true),
            Err(Error::Io { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Opens a file by its relative name.
    pub fn find(&self, name: &str) -> Result<Blob<'_>, Error> {
        let fail = |errno| Error::io("open", printable(name.as_bytes()), errno);
        match self {
            Source::Dir(dir) => {
                let flags = (libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY) as u64;
                let resolve = resolve::BENEATH | resolve::NO_MAGICLINKS;
                let c_name = tree::c(name).map_err(fail)?;
                let fd = sys_path::openat2(dir.as_fd(), &c_name, How { flags, mode: 0, resolve }).map_err(fail)?;
                let stat = path::fstat(fd.as_fd()).map_err(fail)?;
                if tree::kind_of(&stat) != libc::S_IFREG {
                    return Err(Error::content(format!("{} is not a regular file", printable(name.as_bytes()))));
                }
                Ok(Blob { file: BlobFile::Own(fd.into()), at: 0, end: stat.st_size.cast_unsigned() })
            }
            Source::Tar { file, members } => {
                let mut at = normal(name.as_bytes(), b"").ok_or_else(|| fail(Errno::ENOENT))?;
                for _ in 0..MAX_LINKS {
                    match members.get(&at).ok_or_else(|| fail(Errno::ENOENT))? {
                        Member::Data { offset, size } => {
                            return Ok(Blob { file: BlobFile::Part(file), at: *offset, end: offset + size });
                        }
                        Member::Link(target) => at = target.clone(),
                    }
                }
                Err(fail(Errno::ELOOP))
            }
        }
    }

    /// A whole file of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let mut blob = self.find(name)?;
        let shown = printable(name.as_bytes());
        if blob.len() > limit {
            return Err(Error::content(format!("{shown} has {} bytes; at most {limit} are accepted", blob.len())));
        }
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|e| Error::io("read", shown, husk_oci::errno::Sys::from(&e).0))?;
        Ok(bytes)
    }
}

/// Opens a file, directory or pipe that the user named. A pipe without a writer blocks until one comes, as with any program.
pub(super) fn open_input(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|e| Error::io("open", "the file", husk_oci::errno::Sys::from(&e).0))
}

/// Copies a stream into a file without a name.
fn spooled(mut from: impl Read, dir: BorrowedFd<'_>) -> Result<File, Error> {
    let fail = |errno| Error::io("write", "a temporary copy in the image store", errno);
    let name = tree::temporary_name();
    let fd = path::openat(dir, &name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, 0o600)
        .map_err(fail)?;
    match path::unlinkat(dir, &name, false) {
        // No lock is held here: whoever holds it may have swept the name already.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(fail(errno)),
    }
    let mut file = File::from(fd);
    let mut buf = vec![0; 1 << 17];
    loop {
        match from.read(&mut buf) {
            Ok(0) => {
                file.rewind().map_err(|e| fail(husk_oci::errno::Sys::from(&e).0))?;
                return Ok(file);
            }
            Ok(n) => file.write_all(&buf[..n]).map_err(|e| fail(husk_oci::errno::Sys::from(&e).0))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(super::unpack::read_error(&e)),
        }
    }
}

/// Reads a file's headers and jumps over what is between them.
struct Seeking<'f> {
    file: &'f File,
    at: u64,
    len: u64,
    /// Headers come one by one: read in bigger pieces.
    buf: Vec<u8>,
    buf_at: u64,
}

impl Read for Seeking<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffered = self.at.checked_sub(self.buf_at).filter(|n| *n < self.buf.len() as u64);
        let start = match buffered {
            Some(start) => start as usize,
            None => {
                self.buf.resize(4096, 0);
                let n = self.file.read_at(&mut self.buf, self.at)?;
                self.buf.truncate(n);
                self.buf_at = self.at;
                0
            }
        };
        let n = out.len().min(self.buf.len() - start);
        out[..n].copy_from_slice(&self.buf[start..start + n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Skip for Seeking<'_> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        let to = self.at.checked_add(n).filter(|to| *to <= self.len).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at = to;
        Ok(())
    }
}

fn table_of_contents(file: &File) -> Result<HashMap<Vec<u8>, Member>, Error> {
    let len = file.metadata().map_err(|e| Error::io("look at", "the archive", husk_oci::errno::Sys::from(&e).0))?.len();
    let mut reader = Reader::new(Seeking { file, at: 0, len, buf: Vec::new(), buf_at: 0 }, true);
    let mut members = HashMap::new();
    while let Some(entry) = reader.next_entry().map_err(tar_error)? {
        let Some(name) = normal(&entry.name, b"") else { continue };
        let directory: &[u8] = name.iter().rposition(|b| *b == b'/').map_or(b"", |at| &name[..at]);
        let member = match entry.kind {
            tarball::Kind::File if entry.sparse.is_some() => {
                return Err(Error::unsupported(format!("{} is stored as a sparse file", printable(&entry.name))));
            }
            tarball::Kind::File => Member::Data { offset: reader.position(), size: entry.size },
            // Old archives store a layer once and link to it.
            tarball::Kind::Symlink => match normal(&entry.link, directory) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            tarball::Kind::HardLink => match normal(&entry.link, b"") {
                Some(target) => Member::Link(target),
                None => continue,
            },
            // Nothing an image is made of: it is never looked up, and never made.
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MAX_MEMBERS {
            return Err(Error::content(format!("more than {MAX_MEMBERS} files; not an archive of an image")));
        }
    }
    Ok(members)
}

/// A name without `.`, `..` and empty parts, relative to a directory; none when it leaves the archive or is nothing.
fn normal(name: &[u8], directory: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let start: &[u8] = if name.starts_with(b"/") { b"" } else { directory };
    for part in start.split(|b| *b == b'/').chain(name.split(|b| *b == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_archives_are_normalised_and_cannot_leave() {
        let n = |name: &str, dir: &str| normal(name.as_bytes(), dir.as_bytes()).map(|v| String::from_utf8(v).unwrap());
        assert_eq!(n("./a//b/", ""), Some("a/b".into()));
        assert_eq!(n("../x/layer.tar", "y"), Some("x/layer.tar".into()));
        assert_eq!(n("/a", "y"), Some("a".into()));
        assert_eq!(n("../../x", "y"), None);
        assert_eq!(n(".", ""), None);
    }

    #[test]
    fn compressions_are_told_apart() {
        assert_eq!(compression(b"\x1f\x8b\x08"), Compression::Gzip);
        assert_eq!(compression(b"\x28\xb5\x2f\xfd"), Compression::Other("zstd"));
        assert_eq!(compression(b""), Compression::None);
    }
}
