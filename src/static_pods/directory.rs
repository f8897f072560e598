//! A directory of manifests: one look at it, and the kernel's word that it has changed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use husk_oci::errno::{Sys, io_text};
use husk_oci::sys::fd;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::source::{Reader, Seen, Setting, Wanted};
use crate::manifest::MAX_BYTES;

/// Endings of names that are read. Others are editors' and package managers' leftovers more often than manifests.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// How long a file may be open for writing before that is worth a word.
const WRITING_PATIENCE: Duration = Duration::from_secs(10);

/// What tells one content of a file from another.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A directory of manifests.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    text: String,
    of: Setting,
    inotify: Arc<Inotify>,
    /// What files that have not changed said at the last look.
    read: HashMap<String, (Stamp, Result<Vec<Wanted>, String>)>,
    /// Since when files are seen to be written.
    writing: HashMap<String, Instant>,
}

/// What one file says.
enum Content {
    /// Its pods, or what is wrong with it.
    Read(Result<Vec<Wanted>, String>),
    /// Somebody has it open for writing.
    Writing,
    /// Not there any more, or no file that is looked at.
    Nothing,
}

impl Directory {
    /// Nothing is looked at yet. `of` fills in what manifests leave open.
    ///
    /// # Errors
    /// The kernel's limit of inotify instances.
    pub fn new(path: PathBuf, of: &Setting) -> Result<Directory, String> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)
            .map_err(|e| format!("watch {}: {}; see fs.inotify.max_user_instances", path.display(), Sys(e)))?;
        Ok(Directory {
            text: path.to_string_lossy().into_owned(),
            path,
            of: of.clone(),
            inotify: Arc::new(inotify),
            read: HashMap::new(),
            writing: HashMap::new(),
        })
    }

    /// What a thread may wait for changes with: `read_events` blocks.
    pub fn inotify(&self) -> Arc<Inotify> {
        self.inotify.clone()
    }

    /// Reads what has changed since the last look. Changes after this are told by [`Directory::inotify`].
    ///
    /// # Errors
    /// A sentence: the directory cannot be read as a whole.
    pub fn look(&mut self) -> Result<Seen, String> {
        // Each time: the path may lead to another directory by now. For one that is watched already this changes nothing.
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(&self.path, flags).map_err(|e| match e {
            Errno::ENOTDIR => format!("{} is no directory", self.text),
            Errno::ENOSPC => format!("watch {}: {}; see fs.inotify.max_user_watches", self.text, Sys(e)),
            _ => format!("watch {}: {}", self.text, Sys(e)),
        })?;
        let failed = |e: std::io::Error| format!("read directory {}: {}", self.text, io_text(&e));
        let mut names = Vec::new();
        let mut seen = Seen::default();
        // By its descriptor from here on: one that is moved away in the middle must not look as if its files had gone.
        let dir = File::open(&self.path).map_err(failed)?;
        let here = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let meta = dir.metadata().map_err(failed)?;
        seen.device = Some(meta.dev());
        if meta.mode() & 0o022 != 0 || meta.uid() != 0 {
            seen.notes
                .push(format!("{}: others than root may write there, and so run what they like as root", self.text));
        }
        for entry in std::fs::read_dir(&here).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else {
                seen.notes.push(format!("{}/{}: not read: its name is not UTF-8", self.text, name.to_string_lossy()));
                continue;
            };
            if !name.starts_with('.') {
                names.push(name.to_owned());
            }
        }
        names.sort();
        self.read.retain(|name, _| names.binary_search(name).is_ok());
        self.writing.retain(|name, _| names.binary_search(name).is_ok());
        for name in names {
            match self.content(&here, &name, &mut seen) {
                Content::Nothing => {}
                Content::Read(Ok(pods)) => seen.wanted.extend(pods),
                Content::Read(Err(why)) => drop(seen.unread.insert(name, Some(why))),
                Content::Writing => {
                    let since = *self.writing.entry(name.clone()).or_insert_with(Instant::now);
                    let long = since.elapsed() >= WRITING_PATIENCE;
                    let why = long.then(|| {
                        format!("{}/{name}: somebody has it open for writing; it is read when he closes it", self.text)
                    });
                    seen.unread.insert(name, why);
                    continue;
                }
            }
        }
        Ok(seen)
    }

    /// What the file `name` in `here` says.
    fn content(&mut self, here: &Path, name: &str, seen: &mut Seen) -> Content {
        let path = here.join(name);
        let wrong = |what: String| Content::Read(Err(format!("{}/{name}: {what}", self.text)));
        // Not opened before it is known to be a file: to open a pipe or a device may do things.
        let place = match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path) {
            Ok(place) => place,
            // Gone meanwhile; or a link to nothing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => match std::fs::symlink_metadata(&path) {
                Ok(_) if is_manifest(name) => return wrong("a link to nothing".into()),
                _ => return Content::Nothing,
            },
            Err(e) => return wrong(io_text(&e)),
        };
        let meta = match place.metadata() {
            Ok(meta) => meta,
            Err(e) => return wrong(io_text(&e)),
        };
        if meta.is_dir() {
            return Content::Nothing;
        }
        if !is_manifest(name) {
            let text = &self.text;
            seen.notes.push(format!("{text}/{name}: not read: names of manifests end with .yaml, .yml or .json"));
            return Content::Nothing;
        }
        if !meta.is_file() {
            return wrong("no regular file".into());
        }
        if meta.len() > MAX_BYTES as u64 {
            return wrong(format!("manifest is too large; at most {} MiB are read", MAX_BYTES >> 20));
        }
        let file = match File::open(format!("/proc/self/fd/{}", place.as_raw_fd())) {
            Ok(file) => file,
            Err(e) => return wrong(io_text(&e)),
        };
        // A file system without leases cannot tell; what is read halfway is then most often no manifest.
        if fd::has_writer(file.as_fd()) == Ok(true) {
            return Content::Writing;
        }
        self.writing.remove(name);
        let stamp = stamp(&meta);
        if let Some((known, content)) = self.read.get(name)
            && *known == stamp
        {
            return Content::Read(content.clone());
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
        if let Err(e) = (&file).take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes) {
            return wrong(io_text(&e));
        }
        let content = Reader {
            place: &self.text,
            file: Some(name),
            // The directory's, not the file's: a link may lead anywhere.
            device: seen.device,
            of: &self.of,
        }
        .read(&bytes);
        // Written in between, by one who opened it after we had asked: the next look, which that brings about, reads it again.
        if file.metadata().is_ok_and(|after| self::stamp(&after) == stamp) {
            self.read.insert(name.to_owned(), (stamp, content.clone()));
        }
        Content::Read(content)
    }
}

fn is_manifest(name: &str) -> bool {
    Path::new(name).extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.contains(&e))
}

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}
