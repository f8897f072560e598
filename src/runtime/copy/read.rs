//! Reads a tree that its owner may be changing.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use husk_oci::sys::{Errno, path};
use nix::dir::Dir;

use super::{Content, MAX_DEPTH, Meta, Sink, failed, kind_of, reopen, shown};
use crate::runtime::Error;

/// File systems that hold no files of anybody's: skipped inside a tree, copied when they are asked for by name. `linux/magic.h`
const PSEUDO: [i64; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0xf97c_ff8c, // selinuxfs
];

/// A walk through one tree.
pub struct Walk<'a> {
    sink: &'a mut dyn Sink,
    /// Told of what is left out.
    warn: &'a mut dyn FnMut(String),
    depth: usize,
}

impl<'a> Walk<'a> {
    /// Gives what it finds to `sink`; what is left out is told to `warn`, a sentence each.
    pub fn new(sink: &'a mut dyn Sink, warn: &'a mut dyn FnMut(String)) -> Walk<'a> {
        Walk { sink, warn, depth: 0 }
    }

    /// Copies what the `O_PATH` fd `found` stands for, under `name`; without one, what is in that directory.
    ///
    /// # Errors
    /// It is of a kind that is not copied, or reading or writing failed.
    pub fn copy(&mut self, found: BorrowedFd<'_>, name: Option<&CStr>) -> Result<(), Error> {
        let label = name.unwrap_or(c"/");
        let stat = path::fstat(found).map_err(|e| failed("look at", label, e))?;
        match (kind_of(&stat), name) {
            (libc::S_IFDIR, None) => self.content(found, label),
            (_, None) => Err(failed("open", label, Errno::ENOTDIR)),
            (libc::S_IFDIR | libc::S_IFREG | libc::S_IFLNK, Some(name)) => self.entry(found, &stat, name, None),
            (kind, Some(name)) => {
                let what = format!("{} is {}, which is not copied", shown(name.to_bytes()), word(kind));
                Err(Error::Host { what })
            }
        }
    }

    /// One entry, opened already. `around`: the device of the directory that it is in.
    fn entry(
        &mut self,
        found: BorrowedFd<'_>,
        stat: &libc::stat,
        name: &CStr,
        around: Option<u64>,
    ) -> Result<(), Error> {
        let meta = Meta::of(stat);
        match kind_of(stat) {
            libc::S_IFREG => {
                let file = reopen(found, libc::O_RDONLY | libc::O_NONBLOCK).map_err(|e| failed("open", name, e))?;
                let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
                let endless = size_bytes == 0 && is_pseudo(found);
                self.sink.file(name, meta, &mut Content { file: File::from(file), size_bytes, endless })
            }
            libc::S_IFLNK => {
                let mut buffer = [0; libc::PATH_MAX as usize];
                let target = path::readlinkat(found, c"", &mut buffer).map_err(|e| failed("read link", name, e))?;
                let target = CString::new(target).map_err(|_| failed("read link", name, Errno::EINVAL))?;
                self.sink.link(name, meta, &target)
            }
            libc::S_IFDIR => {
                if around.is_some_and(|device| device != stat.st_dev) && is_pseudo(found) {
                    (self.warn)(format!("{}: a file system of the kernel's, left out", shown(name.to_bytes())));
                    return Ok(());
                }
                self.sink.enter(name, meta)?;
                self.content(found, name)?;
                self.sink.leave()
            }
            kind => {
                (self.warn)(format!("{}: {}, left out", shown(name.to_bytes()), word(kind)));
                Ok(())
            }
        }
    }

    fn content(&mut self, found: BorrowedFd<'_>, name: &CStr) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let what = format!("{}: more than {MAX_DEPTH} directories in each other", shown(name.to_bytes()));
            return Err(Error::Host { what });
        }
        let dir =
            path::openat(found, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0).map_err(|e| failed("open", name, e))?;
        let device = path::fstat(dir.as_fd()).map_err(|e| failed("look at", name, e))?.st_dev;
        for child in names(dir.as_fd()).map_err(|e| failed("read", name, e))? {
            // Looked at as what it is now: from here on the name does not matter.
            let found = match path::openat(dir.as_fd(), &child, libc::O_PATH | libc::O_NOFOLLOW, 0) {
                Ok(found) => found,
                Err(Errno::ENOENT) => {
                    (self.warn)(format!("{}: gone before it was copied", shown(child.to_bytes())));
                    continue;
                }
                Err(e) => return Err(failed("open", &child, e)),
            };
            let stat = path::fstat(found.as_fd()).map_err(|e| failed("look at", &child, e))?;
            self.entry(found.as_fd(), &stat, &child, Some(device))?;
        }
        self.depth -= 1;
        Ok(())
    }
}

/// Names in a directory, `.` and `..` left out.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    // A second open file description: reading moves an offset.
    let mut dir = Dir::from_fd(path::openat(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_pseudo(fd: BorrowedFd<'_>) -> bool {
    path::fs_magic(fd).is_ok_and(|magic| PSEUDO.contains(&(magic & 0xffff_ffff)))
}

fn word(kind: u32) -> &'static str {
    match kind {
        libc::S_IFIFO => "a named pipe",
        libc::S_IFSOCK => "a socket",
        libc::S_IFCHR | libc::S_IFBLK => "a device",
        _ => "of no kind that is known",
    }
}
