//! The store below `<root>/images/`: names to images, images to unpacked layers.
//!
//! ```text
//! images/                     0700
//!   images.json               which image has which names and layers; replaced atomically
//!   lock                      flock: exclusive to change anything, shared to keep an image from going away
//!   configs/<hex>.json        configuration blobs, as loaded, under their digest (the image id)
//!   layers/<chain id hex>/    unpacked layers, as overlayfs wants them
//!   */.tmp-*                  being made or being removed; whoever next holds the lock removes them
//! ```
//!
//! A layer is stored under its chain id (OCI image-spec "Layer ChainID"), which names it together with the layers below: directories
//! that its archive only implies get the attributes they have below, so the same archive on another base may become another tree.
//!
//! A change is made visible by one rename of `images.json`: layers and configurations are complete and synced before, and removed after.

use super::config::{self, ImageConfig};
use super::digest::Digest;
use super::error::{Error, printable};
use super::layer::{self, Passed, Target};
use super::load::{self, Planned};
use super::name::{self, Name};
use super::platform;
use super::source::{Source, open_input};
use super::tree::{self, TEMPORARY, TempDir};
use husk_oci::sys::{Errno, path};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Version of `images.json`.
const VERSION: u32 = 1;
/// Bytes of `images.json` or of a stored configuration.
const MAX_RECORD: u64 = 64 << 20;
/// Hex digits of an id that are enough to find it by.
const MIN_PREFIX: usize = 7;

/// The images of one root directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and the digest of the configuration.
    pub id: String,
    /// As loaded, with tag; empty when all were given to other images.
    pub names: Vec<String>,
    /// Of its manifest and the indexes it was found by, when it came with any.
    pub digests: Vec<String>,
    /// Bytes of file content in all its layers, unpacked; other images may share them.
    pub size_bytes: u64,
    /// When it was built, if it says so.
    pub created: Option<jiff::Timestamp>,
    /// When it came into the store.
    pub loaded: jiff::Timestamp,
    /// Unpacked layers, top first: absolute directories, as overlayfs `lowerdir` wants them.
    pub layers: Vec<PathBuf>,
    /// In OCI's words: `amd64`, `arm64`, …; not necessarily the host's.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// How its containers start.
    pub config: ImageConfig,
}

/// What [`Store::remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The image.
    pub id: String,
    /// Names that it lost.
    pub untagged: Vec<String>,
    /// Whether the image itself is gone, and not just a name.
    pub deleted: bool,
    /// Layers that went with it.
    pub layers: usize,
}

/// Keeps every image in the store as long as it lives: a shared lock.
#[must_use = "dropping the guard lets images be removed"]
#[derive(Debug)]
pub struct Held {
    _lock: OwnedFd,
}

#[derive(Serialize, Deserialize)]
struct Records {
    version: u32,
    images: Vec<Record>,
}

#[derive(Serialize, Deserialize, Clone)]
struct Record {
    id: String,
    names: Vec<String>,
    /// Of its manifest and indexes, for names with `@sha256:…`.
    digests: Vec<String>,
    loaded: jiff::Timestamp,
    /// Bottom first.
    layers: Vec<LayerRecord>,
}

#[derive(Serialize, Deserialize, Clone)]
struct LayerRecord {
    diff_id: String,
    chain_id: String,
    size_bytes: u64,
}

/// The store while it is being changed: the exclusive lock, and its directories by fd.
struct Writer<'s> {
    store: &'s Store,
    _lock: OwnedFd,
    dir: OwnedFd,
    layers: OwnedFd,
    configs: OwnedFd,
    records: Records,
}

impl Store {
    /// The store below `root`, which need not exist: then it is empty until something is loaded.
    ///
    /// # Errors
    /// When the root's absolute path cannot be told.
    pub fn open(root: &Path) -> Result<Store, Error> {
        let absolute = std::path::absolute(root)
            .map_err(|e| Error::io("find", printable(root.as_os_str().as_bytes()), husk_oci::errno::Sys::from(&e).0))?;
        Ok(Store { dir: absolute.join("images") })
    }

    /// Loads every image of an OCI layout (directory or tar file) or a docker archive; a gzipped or piped archive is spooled first.
    /// All of them come in, or none. Blocks while another process changes the store, and for as long as unpacking takes.
    ///
    /// A name that another image had moves to the new one. A multi-platform image is loaded for the host's architecture; one that is
    /// for a single other architecture is loaded as it is.
    ///
    /// # Errors
    /// Of kind `Content`, `Unsupported`, `Platform` or `Name` for what is in the file; `Io`; `Store`. The store is as before.
    pub fn load(&self, from: &Path) -> Result<Vec<Image>, Error> {
        let at = |e: Error| e.within(format!("load {}", printable(from.as_os_str().as_bytes())));
        // Read and understood before the lock is taken: a slow pipe keeps nobody waiting, and a bad file changes nothing.
        let source = Source::open(from, &|| self.directory()).map_err(at)?;
        let planned = load::plan(&source).map_err(at)?;
        let mut writer = self.writer()?;
        let result = writer.load(&source, &planned);
        writer.settle(result).map_err(at)
    }

    /// Makes an image with one layer out of a root file system (tar, plain or gzip; may be a pipe). It has no command of its own.
    /// The same file gives the same image id.
    ///
    /// # Errors
    /// As for [`load`](Store::load).
    pub fn import(&self, tar: &Path, name: &str) -> Result<Image, Error> {
        let name = Name::parse(name)?;
        if name.digest().is_some() {
            return Err(Error::Name { name: name.display(), why: "a digest cannot be given to an image" });
        }
        let at = |e: Error| e.within(format!("import {}", printable(tar.as_os_str().as_bytes())));
        let input = open_input(tar).map_err(at)?;
        let stat = path::fstat(input.as_fd()).map_err(|e| at(Error::io("look at", "the file", e)))?;
        if tree::kind_of(&stat) == libc::S_IFDIR {
            return Err(at(Error::content("is a directory; import takes a tar file")));
        }
        let mut writer = self.writer()?;
        let result = writer.import(input, name);
        writer.settle(result).map_err(at)
    }

    /// The image that a name, an id, or the beginning of an id stands for. Names go before beginnings of ids.
    ///
    /// # Errors
    /// Of kind `NotFound`, with names that look alike; `Name` for what cannot be a name.
    pub fn resolve(&self, name_or_id: &str) -> Result<Image, Error> {
        let records = self.records()?;
        let record = find(&records, name_or_id)?;
        self.image(record)
    }

    /// Every image, in the order of their first names.
    ///
    /// # Errors
    /// `Store` or `Io`.
    pub fn list(&self) -> Result<Vec<Image>, Error> {
        let mut images = self.records()?.images.iter().map(|r| self.image(r)).collect::<Result<Vec<Image>, Error>>()?;
        images.sort_by(|a, b| (a.names.first(), &a.id).cmp(&(b.names.first(), &b.id)));
        Ok(images)
    }

    /// Takes a name away; with the last one the image goes, and the layers that no other image has. An id takes all names away.
    /// `used_by` tells a pod that needs an image, if there is one. Blocks while another process changes the store.
    ///
    /// # Errors
    /// Of kind `InUse` when a pod needs the image and it would go; `NotFound`; `Io`, also when the image is off the list but not all of it
    /// could be deleted (the next change tries again).
    pub fn remove(&self, name_or_id: &str, used_by: &dyn Fn(&str) -> Option<String>) -> Result<Removed, Error> {
        // Before anything is made: what is not there changes nothing.
        find(&self.records()?, name_or_id)?;
        let mut writer = self.writer()?;
        let result = writer.remove(name_or_id, used_by);
        writer.settle(result)
    }

    /// Removes what a killed process left of a load or a removal. Every change of the store does this, too. Blocks while another process
    /// changes the store.
    ///
    /// # Errors
    /// `Store` or `Io`.
    pub fn tidy(&self) -> Result<(), Error> {
        // Nothing is made where there is no store.
        if !self.dir.exists() { Ok(()) } else { self.writer().map(drop) }
    }

    /// Keeps images from being removed: take it before [`resolve`](Store::resolve), drop it when what was resolved is on record. Blocks while
    /// another process changes the store. `None` when there is no store yet, so nothing to keep.
    ///
    /// # Errors
    /// `Io`.
    pub fn hold(&self) -> Result<Option<Held>, Error> {
        let fail = |errno| Error::io("lock", self.dir.display(), errno);
        let dir = match tree::open_dir(&self.dir) {
            Ok(dir) => dir,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        match path::openat(dir.as_fd(), c"lock", libc::O_RDONLY | libc::O_NOFOLLOW, 0) {
            Ok(file) => {
                let file = std::fs::File::from(file);
                file.lock_shared().map_err(|e| fail(husk_oci::errno::Sys::from(&e).0))?;
                Ok(Some(Held { _lock: file.into() }))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// Opens `images/`, made where it is missing.
    fn directory(&self) -> Result<OwnedFd, Error> {
        let fail = |errno| Error::io("open", self.dir.display(), errno);
        let root = self.dir.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|e| Error::io("make", root.display(), husk_oci::errno::Sys::from(&e).0))?;
        let root = tree::open_dir(root).map_err(fail)?;
        tree::private_dir(root.as_fd(), c"images").map_err(fail)
    }

    fn writer(&self) -> Result<Writer<'_>, Error> {
        let fail = |errno| Error::io("open", self.dir.display(), errno);
        let dir = self.directory()?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW;
        let file = path::openat(dir.as_fd(), c"lock", flags, 0o600).map_err(fail)?;
        let file = std::fs::File::from(file);
        file.lock().map_err(|e| Error::io("lock", self.dir.display(), husk_oci::errno::Sys::from(&e).0))?;
        let layers = tree::private_dir(dir.as_fd(), c"layers").map_err(fail)?;
        let configs = tree::private_dir(dir.as_fd(), c"configs").map_err(fail)?;
        let records = self.records()?;
        let writer = Writer { store: self, _lock: file.into(), dir, layers, configs, records };
        writer.sweep()?;
        Ok(writer)
    }

    fn records(&self) -> Result<Records, Error> {
        let path = self.dir.join("images.json");
        let damaged = |why: String| Error::Store { path: path.display().to_string(), why };
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Records { version: VERSION, images: Vec::new() }),
            Err(errno) => return Err(Error::io("read", path.display(), errno)),
        };
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if head.version != VERSION {
            return Err(damaged(format!("has version {}; this husk knows {VERSION}", head.version)));
        }
        let records: Records = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        for record in &records.images {
            // What is joined to a path was checked when it was written; a damaged file must not lead elsewhere.
            let ids = record.layers.iter().map(|l| &l.chain_id).chain([&record.id]);
            for id in ids {
                Digest::parse(id).map_err(|e| damaged(e.to_string()))?;
            }
        }
        Ok(records)
    }

    fn image(&self, record: &Record) -> Result<Image, Error> {
        let id = Digest::parse(&record.id)?;
        let path = self.dir.join("configs").join(format!("{}.json", id.hex()));
        let damaged = |why: String| Error::Store { path: path.display().to_string(), why };
        let bytes = read_limited(&path).map_err(|e| Error::io("read", path.display(), e))?;
        if Digest::of(&bytes) != id {
            return Err(damaged("does not have the digest that it is stored under; load the image again".to_string()));
        }
        let parsed = config::parse(&bytes).map_err(|e| damaged(e.to_string()))?;
        Ok(Image {
            id: record.id.clone(),
            names: record.names.clone(),
            digests: record.digests.clone(),
            size_bytes: record.layers.iter().map(|l| l.size_bytes).sum(),
            created: parsed.created,
            loaded: record.loaded,
            layers: record
                .layers
                .iter()
                .rev()
                .map(|l| self.dir.join("layers").join(l.chain_id.trim_start_matches("sha256:")))
                .collect(),
            architecture: parsed.architecture,
            os: parsed.os,
            config: parsed.config,
        })
    }
}

impl Writer<'_> {
    fn load(&mut self, source: &Source, planned: &[Planned]) -> Result<Vec<Image>, Error> {
        let mut ids = Vec::new();
        for image in planned {
            let label = image.names.first().map_or_else(|| "the image without a name".to_string(), Name::display);
            ids.push(self.add(source, image).map_err(|e| e.within(label))?);
        }
        self.publish()?;
        ids.iter().map(|id| self.image(id)).collect()
    }

    fn import(&mut self, input: std::fs::File, name: Name) -> Result<Image, Error> {
        let made = TempDir::new(self.layers.as_fd()).map_err(|e| Error::io("make", "a layer's directory", e))?;
        let passed = layer::pass(input, None, Some(Target { root: made.fd(), lower: &[] }), true)?;
        let config_bytes = serde_json::to_vec(&serde_json::json!({
            "architecture": platform::HOST,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [passed.diff_id.as_str()]},
        }))
        .map_err(|e| Error::content(e.to_string()))?;
        // Of a single layer, the chain id is the diff id.
        let chain_id = passed.diff_id.clone();
        self.keep(made, &chain_id)?;
        let id = self.config(&config_bytes)?;
        self.record(Record {
            id: id.to_string(),
            names: vec![name.display()],
            digests: Vec::new(),
            loaded: jiff::Timestamp::now(),
            layers: vec![LayerRecord {
                diff_id: passed.diff_id.to_string(),
                chain_id: chain_id.to_string(),
                size_bytes: passed.unpacked.bytes,
            }],
        });
        self.publish()?;
        self.image(&id)
    }

    /// Brings one image in, up to its record.
    fn add(&mut self, source: &Source, image: &Planned) -> Result<Digest, Error> {
        let mut layers: Vec<LayerRecord> = Vec::new();
        for planned in &image.layers {
            let chain_id = match layers.last() {
                None => planned.diff_id.clone(),
                Some(below) => Digest::of(format!("{} {}", below.chain_id, planned.diff_id).as_bytes()),
            };
            let size_bytes = self
                .layer(source, planned, &chain_id, &layers)
                .map_err(|e| e.within(format!("layer {}", planned.diff_id)))?;
            layers.push(LayerRecord {
                diff_id: planned.diff_id.to_string(),
                chain_id: chain_id.to_string(),
                size_bytes,
            });
        }
        let id = self.config(&image.config_bytes)?;
        self.record(Record {
            id: id.to_string(),
            names: image.names.iter().map(|n| Name::display(&n.without_digest())).collect(),
            digests: image.digests.iter().map(Digest::to_string).collect(),
            loaded: jiff::Timestamp::now(),
            layers,
        });
        Ok(id)
    }

    /// Checks one layer and unpacks it, unless it is there: its content bytes.
    fn layer(
        &self,
        source: &Source,
        planned: &load::PlannedLayer,
        chain_id: &Digest,
        below: &[LayerRecord],
    ) -> Result<u64, Error> {
        let blob = source.find(&planned.file)?;
        if let Some((_, size)) = &planned.blob
            && *size != blob.len()
        {
            return Err(Error::content(format!("the blob has {} bytes, expected {size}", blob.len())));
        }
        let digest = planned.blob.as_ref().map(|(digest, _)| digest);
        let check = |passed: &Passed| {
            if passed.diff_id == planned.diff_id {
                return Ok(());
            }
            let (expected, found) = (planned.diff_id.to_string(), passed.diff_id.to_string());
            Err(Error::Digest { what: "decompressed layer".to_string(), expected, found })
        };
        let known = self.records.images.iter().flat_map(|i| &i.layers).find(|l| l.chain_id == chain_id.as_str());
        if let Some(known) = known {
            // Already unpacked; the file is still checked, for it may be what the user wants to know.
            check(&layer::pass(blob, digest, None, false)?)?;
            return Ok(known.size_bytes);
        }
        let lower = below
            .iter()
            .rev()
            .map(|l| {
                let name = layer_name(&l.chain_id)?;
                tree::open_child_dir(self.layers.as_fd(), &name, libc::O_RDONLY)
                    .map_err(|e| Error::io("open", format!("the layer {} below", l.chain_id), e))
            })
            .collect::<Result<Vec<OwnedFd>, Error>>()?;
        let made = TempDir::new(self.layers.as_fd()).map_err(|e| Error::io("make", "its directory", e))?;
        let passed = layer::pass(blob, digest, Some(Target { root: made.fd(), lower: &lower }), false)?;
        check(&passed)?;
        self.keep(made, chain_id)?;
        Ok(passed.unpacked.bytes)
    }

    /// Gives an unpacked layer its name. It is synced by [`publish`](Writer::publish), before anything refers to it.
    fn keep(&self, made: TempDir<'_>, chain_id: &Digest) -> Result<(), Error> {
        let name = layer_name(chain_id.as_str())?;
        match made.keep(&name) {
            // Of this very change (two images share it), or named by a change that then failed and could not clean up.
            Ok(()) | Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(()),
            Err(errno) => Err(Error::io("name", format!("the layer {chain_id}"), errno)),
        }
    }

    fn config(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let id = Digest::of(bytes);
        tree::replace(self.configs.as_fd(), &config_name(id.as_str())?, bytes)
            .map_err(|e| Error::io("write", format!("the configuration {id}"), e))?;
        Ok(id)
    }

    /// Puts an image on the list in memory. Its names leave other images.
    fn record(&mut self, mut new: Record) {
        for record in &mut self.records.images {
            record.names.retain(|name| !new.names.iter().any(|n| same_name(n, name)));
        }
        if let Some(at) = self.records.images.iter().position(|r| r.id == new.id) {
            let old = self.records.images.remove(at);
            new.names = old.names.into_iter().chain(new.names).collect();
            new.digests.extend(old.digests);
        }
        let mut seen = HashSet::new();
        new.names.retain(|n| seen.insert(n.clone()));
        new.digests.sort();
        new.digests.dedup();
        self.records.images.push(new);
    }

    /// Makes the change visible, once what it refers to is on disk.
    fn publish(&self) -> Result<(), Error> {
        nix::unistd::syncfs(self.layers.as_fd()).map_err(|e| Error::io("sync", self.store.dir.display(), e))?;
        let bytes = serde_json::to_vec_pretty(&self.records).map_err(|e| Error::content(e.to_string()))?;
        tree::replace(self.dir.as_fd(), c"images.json", &bytes)
            .map_err(|e| Error::io("write", self.store.dir.join("images.json").display(), e))
    }

    fn image(&self, id: &Digest) -> Result<Image, Error> {
        match self.records.images.iter().find(|r| r.id == id.as_str()) {
            Some(record) => self.store.image(record),
            None => Err(Error::NotFound { name: id.to_string(), near: Vec::new() }),
        }
    }

    fn remove(&mut self, name_or_id: &str, used_by: &dyn Fn(&str) -> Option<String>) -> Result<Removed, Error> {
        let found = find(&self.records, name_or_id)?;
        let (id, names) = (found.id.clone(), found.names.clone());
        let lost: Vec<String> = match Name::parse(name_or_id) {
            Ok(_) if is_id(name_or_id) => names.clone(),
            Ok(asked) => {
                let by_name: Vec<String> =
                    names.iter().filter(|n| asked.digest().is_none() && same_as(&asked, n)).cloned().collect();
                // Found by digest or by the beginning of its id.
                if by_name.is_empty() { names.clone() } else { by_name }
            }
            Err(_) => names.clone(),
        };
        let deleted = lost.len() == names.len();
        if deleted {
            if let Some(pod) = used_by(&id) {
                return Err(Error::InUse { name: name_or_id.to_string(), pod });
            }
            self.records.images.retain(|r| r.id != id);
        } else {
            for record in self.records.images.iter_mut().filter(|r| r.id == id) {
                record.names.retain(|n| !lost.contains(n));
            }
        }
        self.publish()?;
        let layers = self.sweep()?;
        Ok(Removed { id, untagged: lost, deleted, layers })
    }

    /// Removes what nothing refers to any more: left by a crash, by a failed load, or by the change just made. The number of layers among it.
    fn sweep(&self) -> Result<usize, Error> {
        let unreadable = |errno| Error::io("read", self.store.dir.display(), errno);
        let mut layers = 0;
        let known: HashSet<Vec<u8>> = self
            .records
            .images
            .iter()
            .flat_map(|r| r.layers.iter().map(|l| l.chain_id.as_str()).chain([r.id.as_str()]))
            .map(|id| id.trim_start_matches("sha256:").as_bytes().to_vec())
            .collect();
        for (dir, suffix) in [(&self.dir, None), (&self.layers, Some("")), (&self.configs, Some(".json"))] {
            for name in tree::names(dir.as_fd()).map_err(unreadable)? {
                let bytes = name.to_bytes();
                let temporary = bytes.starts_with(TEMPORARY.as_bytes());
                let orphan = suffix.and_then(|s| bytes.strip_suffix(s.as_bytes())).is_some_and(|hex| {
                    std::str::from_utf8(hex).is_ok_and(super::digest::is_hex64) && !known.contains(hex)
                });
                if temporary || orphan {
                    self.discard(dir.as_fd(), &name, temporary)?;
                    layers += usize::from(suffix == Some(""));
                }
            }
        }
        Ok(layers)
    }

    /// Renamed aside first: half a layer must never bear a layer's name.
    fn discard(&self, dir: BorrowedFd<'_>, name: &CString, temporary: bool) -> Result<(), Error> {
        let at = |e: Error| e.within(format!("clean up {}", self.store.dir.display()));
        if temporary {
            return tree::remove(dir, name).map_err(at);
        }
        let aside = tree::temporary_name();
        path::rename(dir, name, dir, &aside, false)
            .map_err(|e| at(Error::io("rename", printable(name.to_bytes()), e)))?;
        tree::remove(dir, &aside).map_err(at)
    }

    /// After a failed change, what it made before it failed goes, and the list in memory is that on disk again.
    fn settle<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            // The failure is what there is to tell; what cannot be cleaned up now, the next change cleans up or reports.
            if let Ok(records) = self.store.records() {
                self.records = records;
                let _ = self.sweep();
            }
        }
        result
    }
}

fn find<'r>(records: &'r Records, name_or_id: &str) -> Result<&'r Record, Error> {
    let all = &records.images;
    let not_found = || {
        let names: Vec<String> = all.iter().flat_map(|r| r.names.iter().cloned()).collect();
        Error::NotFound { name: name_or_id.to_string(), near: name::near(name_or_id, &names) }
    };
    if let Some(hex) = name_or_id.strip_prefix("sha256:") {
        return by_prefix(all, hex, name_or_id)?.ok_or_else(not_found);
    }
    let asked = Name::parse(name_or_id)?;
    if let Some(digest) = asked.digest() {
        let repository = asked.canonical_repository();
        let of_repository =
            |r: &&Record| r.names.iter().any(|n| Name::parse(n).is_ok_and(|n| n.canonical_repository() == repository));
        return all
            .iter()
            .filter(|r| r.id == digest.as_str() || r.digests.iter().any(|d| d == digest.as_str()))
            .find(of_repository)
            .ok_or_else(not_found);
    }
    if let Some(record) = all.iter().find(|r| r.names.iter().any(|n| same_as(&asked, n))) {
        return Ok(record);
    }
    by_prefix(all, name_or_id, name_or_id)?.ok_or_else(not_found)
}

fn by_prefix<'r>(all: &'r [Record], hex: &str, asked: &str) -> Result<Option<&'r Record>, Error> {
    if hex.len() < MIN_PREFIX || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(None);
    }
    let mut fits = all.iter().filter(|r| r.id.trim_start_matches("sha256:").starts_with(hex));
    let first = fits.next();
    match fits.count() {
        0 => Ok(first),
        more => Err(Error::Ambiguous { prefix: asked.to_string(), count: more + 1 }),
    }
}

/// Whether the text can only be an id.
fn is_id(text: &str) -> bool {
    text.starts_with("sha256:")
}

fn same_as(asked: &Name, stored: &str) -> bool {
    Name::parse(stored).is_ok_and(|n| n.same(asked))
}

fn same_name(a: &str, b: &str) -> bool {
    Name::parse(a).is_ok_and(|a| same_as(&a, b))
}

fn layer_name(chain_id: &str) -> Result<CString, Error> {
    tree::c(Digest::parse(chain_id)?.hex()).map_err(|e| Error::io("name", "a layer", e))
}

fn config_name(id: &str) -> Result<CString, Error> {
    tree::c(format!("{}.json", Digest::parse(id)?.hex())).map_err(|e| Error::io("name", "a configuration", e))
}

fn read_limited(path: &Path) -> Result<Vec<u8>, Errno> {
    let errno = |e: std::io::Error| husk_oci::errno::Sys::from(&e).0;
    let mut bytes = Vec::with_capacity(8 << 10);
    std::fs::File::open(path).map_err(errno)?.take(MAX_RECORD).read_to_end(&mut bytes).map_err(errno)?;
    Ok(bytes)
}
