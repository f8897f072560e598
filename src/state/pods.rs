//! Pod directories: reservation, listing, records, removal.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::cgroup::DriverKind;

use super::record::{ContainerKind, Owner, PodRecord, Status};
use super::{Error, Lock, LockMode, Roots, open_dir, read_record, replace_record};

/// One pod as its records tell.
#[derive(Clone, Debug, PartialEq)]
pub struct PodEntry {
    /// [`PodRecord::id`], and the name of its directory.
    pub id: String,
    /// What was decided.
    pub record: PodRecord,
    /// What has happened.
    pub status: Status,
    /// A keeper holds the pod's lock.
    pub live: bool,
}

/// What a pod directory turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    /// A pod.
    Pod(Box<PodEntry>),
    /// A directory without records: somebody is making it, or died while doing so.
    Unfinished {
        /// Its name.
        id: String,
        /// Somebody holds its lock.
        live: bool,
    },
    /// Records that cannot be read: state `Unknown`, never taken for something else.
    Unreadable(Box<Unreadable>),
}

/// A pod directory whose records cannot be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// Its name.
    pub id: String,
    /// Namespace and name, as the reservation has them; `None` when nothing points to it.
    pub name: Option<(String, String)>,
    /// Somebody holds its lock.
    pub live: bool,
    /// Why.
    pub error: Error,
}

impl Unreadable {
    /// `namespace/name`, or the id when that is all there is.
    pub fn full_name(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.clone(), |(namespace, name)| format!("{namespace}/{name}"))
    }

    /// Whether it may be taken away without being asked for: what it holds can't be read by anybody. A record of another husk is that husk's,
    /// and an error of the disk, or of ours, may pass.
    pub fn is_garbage(&self) -> bool {
        matches!(self.error, Error::Unreadable { .. })
    }
}

impl Listed {
    /// The name of its directory.
    pub fn id(&self) -> &str {
        match self {
            Listed::Pod(entry) => &entry.id,
            Listed::Unfinished { id, .. } => id,
            Listed::Unreadable(unreadable) => &unreadable.id,
        }
    }

    /// Somebody holds its lock.
    pub fn live(&self) -> bool {
        match self {
            Listed::Pod(entry) => entry.live,
            Listed::Unfinished { live, .. } => *live,
            Listed::Unreadable(unreadable) => unreadable.live,
        }
    }

    /// `namespace/name`, or the id when that is all there is.
    pub fn full_name(&self) -> String {
        match self {
            Listed::Pod(entry) => entry.full_name(),
            Listed::Unfinished { id, .. } => id.clone(),
            Listed::Unreadable(unreadable) => unreadable.full_name(),
        }
    }
}

/// A name and uid that are ours now.
#[derive(Debug)]
pub struct Reservation {
    /// The pod's directory.
    pub dir: PathBuf,
    /// Its lock, to be inherited by keeper.
    pub lock: Lock,
}

/// What [`Roots::reserve`] found.
#[derive(Debug)]
pub enum Reserved {
    /// New, empty and locked.
    New(Reservation),
    /// The same uid under the same name is there already, live or finished.
    Same(Box<PodEntry>),
    /// Somebody is just making this very pod.
    Making,
    /// A pod of that name died without being finished; it has to be collected first.
    Dead {
        /// Its id.
        id: String,
    },
}

impl Reserved {
    /// What an existing directory means to somebody who wants it (`same`) or only its name; `None`: it is taken.
    ///
    /// # Errors
    /// Its records cannot be read, and are not for us to take away.
    fn of(listed: Listed, same: bool) -> Result<Option<Reserved>, Error> {
        Ok(match listed {
            Listed::Unreadable(it) if !it.live && !it.is_garbage() => return Err(it.error),
            Listed::Pod(entry) if !entry.live && entry.status.finished_at.is_none() => {
                Some(Reserved::Dead { id: entry.id })
            }
            // Its keeper lives, and its first supervisor has not got as far as the sandbox.
            Listed::Pod(entry) if same && entry.live && entry.status.sandbox.is_none() => Some(Reserved::Making),
            Listed::Pod(entry) if same => Some(Reserved::Same(entry)),
            Listed::Unfinished { live: false, id } => Some(Reserved::Dead { id }),
            Listed::Unreadable(it) if !it.live => Some(Reserved::Dead { id: it.id }),
            Listed::Unfinished { live: true, .. } if same => Some(Reserved::Making),
            _ => None,
        })
    }
}

impl PodEntry {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        self.record.full_name()
    }
}

impl PodRecord {
    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or("")
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    /// The systemd scope that the pod's cgroup and those of its keeper are in, relative to every hierarchy's mount; none with another driver.
    pub fn scope(&self) -> Option<&str> {
        match self.cgroup_driver {
            DriverKind::Cgroupfs => None,
            DriverKind::Systemd => self.cgroup.rsplit_once('/').map(|(scope, _)| scope),
        }
    }

    /// The cgroup of keeper, supervisor and pause: shared by all pods of the instance, or the pod's own within its scope.
    pub fn runtime_cgroup(&self, roots: &Roots) -> String {
        format!("{}/runtime", self.scope().map_or_else(|| roots.cgroup_parent(), str::to_owned))
    }

    /// A CRI client decides what happens in the pod, not the rules of `pod/`.
    pub fn driven(&self) -> bool {
        self.owner == Owner::Cri
    }
}

impl Roots {
    fn name_link(&self, namespace: &str, name: &str) -> PathBuf {
        // Neither can hold an underscore (DNS-1123).
        self.state.join("names").join(format!("{namespace}_{name}"))
    }

    pub(super) fn global_lock(&self) -> Result<Lock, Error> {
        Lock::wait(&self.state.join("lock"), LockMode::Exclusive)
    }

    /// Reserves an id, and a name with it if one is given, and makes the pod's directory, locked by us.
    ///
    /// # Errors
    /// The name or the id belongs to another pod, or the file system refuses.
    pub fn reserve(&self, name: Option<(&str, &str)>, id: &str) -> Result<Reserved, Error> {
        let _guard = self.global_lock()?;
        let link = name.map(|(namespace, name)| self.name_link(namespace, name));
        if let (Some(link), Some((namespace, name))) = (&link, name)
            && let Ok(owner) = std::fs::read_link(link)
        {
            let owner = owner.to_string_lossy().into_owned();
            match self.look(&owner)?.map(|listed| Reserved::of(listed, owner == id)).transpose()? {
                Some(Some(found)) => return Ok(found),
                Some(None) => {
                    return Err(Error::NameTaken { namespace: namespace.into(), name: name.into(), uid: owner });
                }
                None => std::fs::remove_file(link).map_err(|e| Error::io("remove stale name", link, &e))?,
            }
        }
        let dir = self.pod_dir(id);
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return match (self.look(id)?, name) {
                    // Without a name the id is all there is to reserve.
                    (Some(listed), None) => {
                        Reserved::of(listed, true)?.ok_or(Error::UidTaken { uid: id.into(), other: id.into() })
                    }
                    (Some(Listed::Pod(entry)), _) => Err(Error::UidTaken { uid: id.into(), other: entry.full_name() }),
                    (Some(Listed::Unreadable(it)), _) if it.live || !it.is_garbage() => Err(it.error),
                    _ => Ok(Reserved::Dead { id: id.into() }),
                };
            }
            Err(e) => return Err(Error::io("create directory", &dir, &e)),
        }
        let made = Lock::wait(&dir, LockMode::Exclusive).and_then(|lock| {
            if let Some(link) = &link {
                std::os::unix::fs::symlink(id, link).map_err(|e| Error::io("reserve name", link, &e))?;
            }
            Ok(lock)
        });
        match made {
            Ok(lock) => Ok(Reserved::New(Reservation { dir, lock })),
            Err(e) => {
                // Nobody has seen the directory: we still hold the instance's lock.
                let _ = std::fs::remove_dir(&dir);
                Err(e)
            }
        }
    }

    /// All pod directories, in no particular order; names that are being removed are left out.
    ///
    /// # Errors
    /// The directory of pods cannot be read. An absent one is an empty list.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut found = Vec::new();
        for id in self.ids()? {
            match self.look(&id) {
                Ok(listed) => found.extend(listed),
                // One that cannot even be opened must not hide the others.
                Err(error) => found.push(self.unreadable(id, false, error)),
            }
        }
        Ok(found)
    }

    /// The names of all pod directories; nothing is read of them.
    ///
    /// # Errors
    /// As [`Roots::list`].
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        let dir = self.state.join("pods");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("read directory", &dir, &e)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::io("read directory", &dir, &e))?.file_name();
            ids.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
        }
        Ok(ids)
    }

    /// Directories `.gone-*` whose remover was killed.
    pub fn half_removed(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.state.join("pods")).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(".gone-")).map(|e| e.path()).collect()
    }

    /// One pod by namespace and name, or by uid.
    ///
    /// # Errors
    /// There is none, or its records cannot be read.
    pub fn find(&self, namespace: &str, name: &str) -> Result<PodEntry, Error> {
        match self.find_any(namespace, name)? {
            Listed::Pod(entry) => Ok(*entry),
            Listed::Unreadable(unreadable) => Err(unreadable.error),
            Listed::Unfinished { .. } => Err(Error::NotFound { namespace: namespace.into(), name: name.into() }),
        }
    }

    /// One pod by namespace and name, or by uid, whether its records can be read or not. Never [`Listed::Unfinished`].
    ///
    /// # Errors
    /// There is none.
    pub fn find_any(&self, namespace: &str, name: &str) -> Result<Listed, Error> {
        let not_found = || Error::NotFound { namespace: namespace.into(), name: name.into() };
        if name.is_empty() || name.contains('/') || namespace.contains('/') || name.starts_with('.') {
            return Err(not_found());
        }
        let id = match std::fs::read_link(self.name_link(namespace, name)) {
            Ok(id) => id.to_string_lossy().into_owned(),
            Err(_) => name.to_owned(),
        };
        match self.look(&id) {
            Ok(Some(Listed::Pod(entry))) if id != name || entry.record.namespace() == namespace => {
                Ok(Listed::Pod(entry))
            }
            Ok(Some(Listed::Unreadable(it))) => Ok(Listed::Unreadable(it)),
            Ok(_) => self.find_driven(namespace, name)?.map(|entry| Listed::Pod(Box::new(entry))).ok_or_else(not_found),
            Err(error) => Ok(self.unreadable(id, false, error)),
        }
    }

    /// Sandboxes of a CRI client reserve no name, and there may be several of one: the newest.
    fn find_driven(&self, namespace: &str, name: &str) -> Result<Option<PodEntry>, Error> {
        let named = |listed| match listed {
            Listed::Pod(e) if e.record.driven() && e.record.namespace() == namespace && e.record.name() == name => {
                Some(*e)
            }
            _ => None,
        };
        Ok(self.list()?.into_iter().filter_map(named).max_by_key(|e| (e.record.attempt, e.record.created_at)))
    }

    /// Reads one pod directory; `None` when there is none (any more).
    ///
    /// # Errors
    /// The directory cannot be opened or locked.
    pub fn look(&self, id: &str) -> Result<Option<Listed>, Error> {
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            // What a name points to may be anything after a crash of the disk.
            return Ok(None);
        }
        let dir = self.pod_dir(id);
        let live = match Lock::attempt(&dir, LockMode::Shared) {
            Ok(lock) => lock.is_none(),
            Err(e) => match not_a_directory(&dir) {
                None => return Ok(None),
                Some(true) => {
                    let error = Error::Unreadable { path: dir, why: "it is no directory".into() };
                    return Ok(Some(self.unreadable(id.to_owned(), false, error)));
                }
                Some(false) => return Err(e),
            },
        };
        let id = id.to_owned();
        Ok(Some(match read_both(&dir) {
            // Records without a sandbox and without a keeper: whoever was making the pod was killed before anything ran.
            Ok(Some((_, status))) if !live && status.sandbox.is_none() && status.finished_at.is_none() => {
                Listed::Unfinished { id, live }
            }
            Ok(Some((record, status))) => Listed::Pod(Box::new(PodEntry { id, record, status, live })),
            Ok(None) if !dir.exists() => return Ok(None),
            // A supervisor listens, so the records were there: somebody has taken them away.
            Ok(None) if live && dir.join("control.sock").exists() => {
                let why = "it is missing although the pod runs".into();
                let missing = ["pod.json", "status.json"].map(|name| dir.join(name)).into_iter().find(|p| !p.exists());
                match missing {
                    Some(path) => self.unreadable(id, live, Error::Unreadable { path, why }),
                    // It has come, or the pod is just being removed.
                    None => return self.look(&id),
                }
            }
            Ok(None) => Listed::Unfinished { id, live },
            Err(_) if not_a_directory(&dir).is_none() => return Ok(None),
            Err(_) if not_a_directory(&dir) == Some(true) => {
                let error = Error::Unreadable { path: dir, why: "it is no directory".into() };
                self.unreadable(id, live, error)
            }
            Err(error) => self.unreadable(id, live, error),
        }))
    }

    /// Whether a keeper (or whoever makes or collects the pod) holds the lock.
    pub fn is_live(&self, id: &str) -> bool {
        matches!(Lock::attempt(&self.pod_dir(id), LockMode::Shared), Ok(None))
    }

    fn unreadable(&self, id: String, live: bool, error: Error) -> Listed {
        let name = self.names_of(&id).first().and_then(|link| {
            let (namespace, name) = link.file_name()?.to_str()?.split_once('_')?;
            Some((namespace.to_owned(), name.to_owned()))
        });
        Listed::Unreadable(Box::new(Unreadable { id, name, live, error }))
    }

    /// The reservations that point to an id.
    fn names_of(&self, id: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.state.join("names")).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|link| std::fs::read_link(link).is_ok_and(|owner| owner == Path::new(id))).collect()
    }

    /// Removes names that point to no pod. Whoever reserves one meanwhile is waited for.
    ///
    /// # Errors
    /// The file system's.
    pub fn sweep_names(&self) -> Result<(), Error> {
        let dangling = |link: &PathBuf| {
            std::fs::read_link(link)
                .is_ok_and(|id| std::fs::symlink_metadata(self.state.join("pods").join(id)).is_err())
        };
        let entries = std::fs::read_dir(self.state.join("names")).into_iter().flatten().flatten().map(|e| e.path());
        let mut suspects: Vec<PathBuf> = entries.filter(dangling).collect();
        if suspects.is_empty() {
            return Ok(());
        }
        let _guard = self.global_lock()?;
        suspects.retain(dangling);
        suspects.iter().try_for_each(|link| std::fs::remove_file(link).map_err(|e| Error::io("remove name", link, &e)))
    }

    /// Takes a pod that has no keeper for good: its lock, so that nobody else collects it. `None` when it lives or is gone.
    ///
    /// # Errors
    /// The directory cannot be opened or locked.
    pub fn seize(&self, uid: &str) -> Result<Option<Lock>, Error> {
        let _guard = self.global_lock()?;
        let dir = self.pod_dir(uid);
        match Lock::attempt(&dir, LockMode::Exclusive) {
            Err(e) => match not_a_directory(&dir) {
                None => Ok(None),
                // A link cannot be locked, and is nobody's pod.
                Some(true) => Lock::attempt(&self.state.join("pods"), LockMode::Shared),
                Some(false) => Err(e),
            },
            other => other,
        }
    }

    /// Calls `act` if no pod lives, while none can be reserved.
    ///
    /// # Errors
    /// The instance's lock or list cannot be had.
    pub fn when_quiet(&self, act: impl FnOnce()) -> Result<(), Error> {
        if !self.state.exists() {
            return Ok(());
        }
        let _guard = self.global_lock()?;
        if self.is_quiet()? {
            act();
        }
        Ok(())
    }

    /// Whether no pod lives. Nothing is read of them.
    ///
    /// # Errors
    /// As [`Roots::list`].
    pub fn is_quiet(&self) -> Result<bool, Error> {
        Ok(!self.ids()?.iter().any(|id| self.is_live(id)))
    }

    /// Forgets a pod: its name and its directory. The caller holds the pod's lock (or is its supervisor) and has removed everything else.
    ///
    /// # Errors
    /// The file system's; what could be removed is removed.
    pub fn forget(&self, uid: &str, name: Option<(&str, &str)>) -> Result<(), Error> {
        let dir = self.pod_dir(uid);
        let gone = self.state.join("pods").join(format!(".gone-{uid}"));
        {
            let _guard = self.global_lock()?;
            // Left of an earlier pod of this id whose remover was killed; whoever makes the pod again does not wait for gc.
            remove_flat(&gone)?;
            // First, so that a pod which could not be removed still has its name. A name without a pod is nobody's: the next one who
            // wants it, or gc, takes it away.
            match std::fs::rename(&dir, &gone) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("set aside", &dir, &e)),
                _ => {}
            }
            let links = match name {
                Some((namespace, name)) => vec![self.name_link(namespace, name)],
                // The record is unreadable: find the name by its target.
                None => self.names_of(uid),
            };
            for link in links {
                if std::fs::read_link(&link).is_ok_and(|owner| owner == Path::new(uid)) {
                    std::fs::remove_file(&link).map_err(|e| Error::io("remove name", &link, &e))?;
                }
            }
        }
        remove_flat(&gone)
    }
}

/// Removes a directory of plain files; absent is fine.
pub(crate) fn remove_flat(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
            std::fs::remove_file(dir).map_err(|e| Error::io("remove", dir, &e))
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir, &e)),
        _ => Ok(()),
    }
}

/// `None` when there is nothing, or nothing that can be looked at.
fn not_a_directory(path: &Path) -> Option<bool> {
    std::fs::symlink_metadata(path).ok().map(|meta| !meta.is_dir())
}

fn read_both(dir: &Path) -> Result<Option<(PodRecord, Status)>, Error> {
    let Some(mut record) = read_record::<PodRecord>(&dir.join("pod.json"))? else { return Ok(None) };
    let Some(status) = read_record::<Status>(&dir.join("status.json"))? else { return Ok(None) };
    if record.driven() {
        record.containers.clear();
    }
    record.containers.extend(status.containers.iter().filter_map(|c| c.made_of.as_deref().cloned()));
    if status.containers.len() == record.containers.len() {
        return Ok(Some((record, status)));
    }
    Err(Error::Unreadable {
        path: dir.join("status.json"),
        why: "it has another number of containers than pod.json".into(),
    })
}

/// The supervisor's hold on its pod's directory.
#[derive(Debug)]
pub struct PodDir {
    /// The directory.
    pub path: PathBuf,
    fd: OwnedFd,
}

impl PodDir {
    /// Opens it.
    ///
    /// # Errors
    /// It is not there, or not a directory.
    pub fn open(path: PathBuf) -> Result<PodDir, Error> {
        let fd = open_dir(&path)?;
        Ok(PodDir { path, fd })
    }

    /// Reads both records.
    ///
    /// # Errors
    /// They are unreadable or of another version. `None` when one is absent.
    pub fn read(&self) -> Result<Option<(PodRecord, Status)>, Error> {
        read_both(&self.path)
    }

    /// Writes `pod.json`, without the containers that stand in the status; synced when this returns.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_record(&self, record: &PodRecord) -> Result<(), Error> {
        if !record.driven() && record.containers.iter().all(|c| c.kind != ContainerKind::Ephemeral) {
            return replace_record(&self.path, self.fd.as_fd(), "pod.json", record);
        }
        let mut own = record.clone();
        own.containers.retain(|c| !record.driven() && c.kind != ContainerKind::Ephemeral);
        replace_record(&self.path, self.fd.as_fd(), "pod.json", &own)
    }

    /// Replaces `status.json`; synced when this returns.
    ///
    /// # Errors
    /// The file system's; the old status is still there then.
    pub fn write_status(&self, status: &Status) -> Result<(), Error> {
        replace_record(&self.path, self.fd.as_fd(), "status.json", status)
    }

    /// Adds to the pod's events. Not synced. True: the file was rewritten, and memory was needed for that.
    ///
    /// # Errors
    /// The file system's; the events are lost, or some of them.
    pub fn add_events(&self, events: &[super::events::Event]) -> Result<bool, Error> {
        super::events::append(&self.path, self.fd.as_fd(), events)
    }

    /// Adds to the pod's timeline, as [`PodDir::add_events`] does.
    ///
    /// # Errors
    /// The file system's; the steps are lost, or some of them.
    pub fn add_steps(&self, steps: &[super::timeline::Step]) -> Result<bool, Error> {
        super::timeline::append(&self.path, self.fd.as_fd(), steps)
    }
}
