//! The only writer below the two state roots: layout, locks, records, atomic replacement.
//!
//! ```text
//! <state>/lock                     held while a name is reserved or a pod directory is removed
//! <state>/names/<ns>_<name>        symbolic link whose target is the uid: the reservation of a name
//! <state>/pods/<uid>/              locked (flock) by the pod's keeper for as long as the pod lives
//!                    pod.json      what was decided before the first side effect
//!                    status.json   what has happened since
//!                    events.jsonl  what Kubernetes would tell as events
//!                    timeline.jsonl  when the steps of its start and its end were taken
//!                    control.sock  the supervisor's door
//! <state>/pods/.gone-<uid>/        a pod directory that is being removed
//! <root>/state-directory           which --state this root goes with
//! <root>/pods/<uid>/               volumes/<name>, containers/<name>/<attempt>/{upper,work}
//! <root>/logs/<ns>_<name>_<uid>/   <container>/<attempt>.log
//! <root>/images/                   the image store's
//! <state>/ports                    claims to ports of the host, see ports.rs
//! <state>/hosts/table.json         names and addresses of pods, see hosts.rs
//! <root>/cni/<uid>/                how plugins of the pod's network are called, see attachments.rs
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use husk_oci::file;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;

pub mod attachments;
mod claim;
pub mod error;
pub mod events;
pub mod hosts;
mod journal;
pub mod lock;
pub mod pods;
pub mod ports;
pub mod record;
pub mod timeline;

pub use claim::Claim;
pub use error::Error;
pub use lock::{Lock, Mode as LockMode};
pub use pods::{Listed, PodEntry, Reservation, Unreadable};

/// Where the instance keeps things. Two instances with different roots never meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `--root`: images, upper directories, volumes, logs. Survives a reboot.
    pub root: PathBuf,
    /// `--state`: records, locks, sockets. Usually on a tmpfs.
    pub state: PathBuf,
}

/// `--root` when nobody says otherwise.
pub const DEFAULT_ROOT: &str = "/var/lib/husk";
/// `--state` when nobody says otherwise.
pub const DEFAULT_STATE: &str = "/run/husk";

/// The largest record that is read; a larger one is not ours.
const RECORD_LIMIT: u64 = 16 << 20;

impl Roots {
    /// Takes both paths as given, made absolute and free of `.` and `..`; touches nothing.
    ///
    /// # Errors
    /// A path is empty or holds a control character, or the working directory cannot be read.
    pub fn new(root: &Path, state: &Path) -> Result<Roots, Error> {
        Ok(Roots { root: absolute("--root", root)?, state: absolute("--state", state)? })
    }

    /// Directory of one pod's records.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.state.join("pods").join(uid)
    }

    /// Directory of one pod's volumes and upper directories.
    pub fn data_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// Directory of one pod's logs, named as the kubelet names it.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.root.join("logs").join(format!("{namespace}_{name}_{uid}"))
    }

    /// The cgroup below which this instance keeps everything: `husk`, or `husk-<hash of --state>` for another state directory.
    pub fn cgroup_parent(&self) -> String {
        if self.state == Path::new(DEFAULT_STATE) {
            return "husk".to_owned();
        }
        // FNV-1a, as it must stay the same in every build.
        let hash = self
            .state
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        format!("husk-{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
    }

    /// Makes the directories that every pod needs, readable by root alone.
    ///
    /// # Errors
    /// A directory cannot be made, or exists and is open to others than root.
    pub fn prepare(&self) -> Result<(), Error> {
        for dir in [&self.state, &self.root] {
            make_private(dir)?;
        }
        self.bind_roots()?;
        for dir in [self.state.join("pods"), self.state.join("names"), self.root.join("pods"), self.root.join("logs")] {
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create directory", &dir, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Below `--root`: which `--state` it goes with.
const PARTNER: &str = "state-directory";

impl Roots {
    /// Data whose pod the state directory does not know is garbage; so a root must not be used with two of them.
    fn bind_roots(&self) -> Result<(), Error> {
        let path = self.root.join(PARTNER);
        let ours = self.state.as_os_str().as_encoded_bytes();
        match read(&path)? {
            Some(partner) if partner == ours => Ok(()),
            Some(partner) => Err(Error::RootInUse {
                root: self.root.clone(),
                partner: PathBuf::from(std::ffi::OsString::from_vec(partner)),
            }),
            None => {
                // Two first calls must not write the same temporary file.
                let _guard = self.global_lock()?;
                if read(&path)?.is_some() {
                    return self.bind_roots();
                }
                replace(&self.root, open_dir(&self.root)?.as_fd(), PARTNER, ours)
            }
        }
    }

    /// Removes what a first call left that was killed while it tied the roots together. Missing roots are fine.
    ///
    /// # Errors
    /// The file system's.
    pub fn sweep(&self) -> Result<(), Error> {
        let left = self.root.join(format!(".{PARTNER}.new"));
        if !left.exists() {
            return Ok(());
        }
        let _guard = self.global_lock()?;
        match std::fs::remove_file(&left) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &left, &e)),
            _ => Ok(()),
        }
    }
}

fn absolute(option: &'static str, path: &Path) -> Result<PathBuf, Error> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.iter().any(|b| b.is_ascii_control()) {
        return Err(Error::BadRoot { option, path: path.to_owned() });
    }
    let full = std::path::absolute(path).map_err(|e| Error::io("find the working directory for", path, &e))?;
    let mut clean = PathBuf::from("/");
    for part in full.components() {
        match part {
            std::path::Component::Normal(p) => clean.push(p),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    Ok(clean)
}

fn make_private(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    match std::fs::symlink_metadata(dir) {
        Ok(meta) => {
            if !meta.is_dir() || meta.uid() != 0 {
                return Err(Error::NotOurs { path: dir.to_owned() });
            }
            if meta.mode() & 0o077 != 0 {
                // CVE-2024-25621: state that others can read. Ours alone from here on.
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
                    .map_err(|e| Error::io("make private", dir, &e))?;
            }
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::io("create directory", dir, &e)),
        Err(e) => Err(Error::io("look at", dir, &e)),
    }
}

/// Opens a directory for use as an anchor.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    nix::fcntl::openat(
        AT_FDCWD,
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::sys("open directory", path, e))
}

/// Replaces `dir/name` so that a reader, or a crash, sees the old or the new content and nothing else.
///
/// # Errors
/// The file system's. Nothing but the old file is left then.
pub fn replace(dir: &Path, dir_fd: BorrowedFd<'_>, name: &str, content: &[u8]) -> Result<(), Error> {
    let temporary = format!(".{name}.new");
    let path = dir.join(name);
    let done = write_new(dir_fd, &temporary, content)
        .and_then(|()| nix::fcntl::renameat(dir_fd, temporary.as_str(), dir_fd, name));
    if let Err(errno) = done {
        // The temporary file is overwritten by the next try; removing it now is for a full disk's sake.
        let _ = nix::unistd::unlinkat(dir_fd, temporary.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir);
        return Err(Error::sys("write", &path, errno));
    }
    nix::unistd::fsync(dir_fd).map_err(|e| Error::sys("sync the directory of", &path, e))
}

fn write_new(dir: BorrowedFd<'_>, name: &str, content: &[u8]) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mode = Mode::from_bits_truncate(0o600);
    let fd = match nix::fcntl::openat(dir, name, flags, mode) {
        Err(Errno::EEXIST) => {
            // Left by a writer that was killed. There is one writer at a time, so it is nobody's.
            nix::unistd::unlinkat(dir, name, nix::unistd::UnlinkatFlags::NoRemoveDir)?;
            nix::fcntl::openat(dir, name, flags, mode)?
        }
        other => other?,
    };
    let mut rest = content;
    while !rest.is_empty() {
        match nix::unistd::write(&fd, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    nix::unistd::fsync(fd.as_fd())
}

/// Reads a record whole. Absent = `None`.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => {
            // A link, a socket, a device without a driver: whatever it is, it is not what we have written.
            let strange = std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file());
            return Err(if strange { strange_kind(path) } else { Error::io("open", path, &e) });
        }
    };
    let meta = file.metadata().map_err(|e| Error::io("look at", path, &e))?;
    if !meta.is_file() {
        return Err(strange_kind(path));
    }
    // One byte more than there is: one read, and one that tells of the end.
    let mut content = Vec::with_capacity(meta.len().min(RECORD_LIMIT) as usize + 1);
    file.take(RECORD_LIMIT + 1).read_to_end(&mut content).map_err(|e| Error::io("read", path, &e))?;
    if content.len() as u64 > RECORD_LIMIT {
        return Err(Error::Unreadable { path: path.to_owned(), why: "larger than any record".to_owned() });
    }
    Ok(Some(content))
}

fn strange_kind(path: &Path) -> Error {
    Error::Unreadable { path: path.to_owned(), why: "it is no regular file".into() }
}

/// Reads and checks one versioned JSON record.
pub(crate) fn read_record<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Some(content) = read(path)? else { return Ok(None) };
    let unreadable = |e: serde_json::Error| Error::Unreadable { path: path.to_owned(), why: e.to_string() };
    match serde_json::from_slice::<T>(&content) {
        Ok(record) => match serde_json::from_slice::<Versioned>(&content).map_err(unreadable)?.version {
            record::VERSION => Ok(Some(record)),
            found => Err(Error::Version { path: path.to_owned(), found }),
        },
        Err(e) => match serde_json::from_slice::<Versioned>(&content) {
            Ok(v) if v.version != record::VERSION => Err(Error::Version { path: path.to_owned(), found: v.version }),
            _ => Err(unreadable(e)),
        },
    }
}

/// The kernel's boot id: pids and CLOCK_BOOTTIME mean nothing beyond it.
///
/// # Errors
/// `/proc` is not there.
pub fn boot_id() -> Result<String, Error> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = file::read_text(path, 64).map_err(|e| Error::io("read", path, &e))?;
    Ok(text.trim().to_owned())
}

/// Field 22 of `/proc/<pid>/stat`: when the process started, in clock ticks since boot. `None` when there is no such process.
///
/// # Errors
/// It cannot be read though the process may be there.
pub fn start_ticks(pid: i32) -> Result<Option<u64>, Error> {
    Ok(stat(pid)?.and_then(|stat| after_name(&stat).nth(19)?.parse().ok()))
}

/// The parent of a process, if it is still the one that started then; [`start_ticks`].
///
/// # Errors
/// It cannot be read though the process may be there.
pub fn parent_of(pid: i32, ticks: u64) -> Result<Option<i32>, Error> {
    let Some(stat) = stat(pid)? else { return Ok(None) };
    let fields: Vec<&str> = after_name(&stat).collect();
    let same = fields.get(19).and_then(|f| f.parse::<u64>().ok()) == Some(ticks);
    Ok(fields.get(1).filter(|_| same).and_then(|f| f.parse().ok()))
}

/// Whether a process will still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    /// It lives on, as far as the kernel knows.
    Living,
    /// It is dead, is just ending, or was sent SIGKILL.
    Dying,
}

/// Looks whether a process is dead or about to be, without waiting for it.
///
/// # Errors
/// It cannot be read though the process may be there.
pub fn doom(pid: i32) -> Result<Doom, Error> {
    /// See `include/linux/sched.h`.
    const PF_EXITING: u64 = 4;
    let Some(stat) = stat(pid)? else { return Ok(Doom::Dying) };
    let mut fields = after_name(&stat);
    // proc_pid_stat(5): state and flags.
    let dead = matches!(fields.next(), Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    if dead || flags & PF_EXITING != 0 {
        return Ok(Doom::Dying);
    }
    // What is pending for the whole process stays so when its thread has taken the signal, until it is exiting.
    let Some(status) = of_process(pid, "status", 8192)? else { return Ok(Doom::Dying) };
    let killed = status.lines().any(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
    });
    Ok(if killed { Doom::Dying } else { Doom::Living })
}

/// `/proc/<pid>/stat`; `None` when there is no such process.
fn stat(pid: i32) -> Result<Option<String>, Error> {
    of_process(pid, "stat", 512)
}

/// A file of `/proc/<pid>`; `None` when there is no such process.
fn of_process(pid: i32, name: &str, room: usize) -> Result<Option<String>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    match file::read_text(&path, room) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => Err(Error::io("read", &path, &e)),
    }
}

/// The fields from the third on: the name in brackets may hold blanks and brackets itself.
fn after_name(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace()
}

/// Appends to a file that only its owner reads, creating it; for the supervisor's own log.
pub fn append_file(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| Error::io("open", path, &e))
}

/// Writes a record as JSON.
pub(crate) fn replace_record<T: serde::Serialize>(
    dir: &Path,
    dir_fd: BorrowedFd<'_>,
    name: &str,
    record: &T,
) -> Result<(), Error> {
    let mut content = Vec::with_capacity(4096);
    serde_json::to_writer(&mut content, record)
        .map_err(|e| Error::Unreadable { path: dir.join(name), why: e.to_string() })?;
    content.write_all(b"\n").map_err(|e| Error::io("write", &dir.join(name), &e))?;
    replace(dir, dir_fd, name, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_state_directories_have_two_cgroup_parents() {
        let of = |state: &str| Roots { root: "/r".into(), state: state.into() }.cgroup_parent();
        assert_eq!(of("/run/husk"), "husk");
        assert_ne!(of("/run/a"), of("/run/b"));
        assert!(of("/run/a").starts_with("husk-"));
    }

    #[test]
    fn roots_are_made_absolute_and_lexically_clean() {
        let r = Roots::new(Path::new("/a/./b/../c"), Path::new("/x/")).unwrap();
        assert_eq!(r.root, Path::new("/a/c"));
        assert_eq!(r.state, Path::new("/x"));
        assert!(Roots::new(Path::new("/a\nb"), Path::new("/x")).is_err());
        assert!(Roots::new(Path::new(""), Path::new("/x")).is_err());
    }

    #[test]
    fn a_record_of_another_version_is_named_as_such() {
        let dir = std::env::temp_dir().join(format!("husk-state-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let fd = open_dir(&dir).unwrap();
        replace(&dir, fd.as_fd(), "x.json", b"{\"version\":99,\"new\":1}").unwrap();
        let read = read_record::<record::Status>(&dir.join("x.json"));
        assert!(matches!(read, Err(Error::Version { found: 99, .. })), "{read:?}");
        replace(&dir, fd.as_fd(), "x.json", b"{\"vers").unwrap();
        assert!(matches!(read_record::<record::Status>(&dir.join("x.json")), Err(Error::Unreadable { .. })));
        assert!(read_record::<record::Status>(&dir.join("y.json")).unwrap().is_none());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn who_lives_is_not_dying_and_who_is_gone_is() {
        let is = |pid: i32| doom(pid).expect("it can be read");
        assert_eq!(is(std::process::id().cast_signed()), Doom::Living);
        assert_eq!(is(i32::MAX), Doom::Dying);
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("spawn");
        let pid = child.id().cast_signed();
        assert_eq!(is(pid), Doom::Living);
        child.kill().expect("kill");
        assert_eq!(is(pid), Doom::Dying, "killed or a zombie");
        child.wait().expect("wait");
    }

    #[test]
    fn our_own_start_ticks_can_be_read() {
        assert!(start_ticks(std::process::id() as i32).unwrap().unwrap() > 0);
        assert_eq!(start_ticks(-1), Ok(None));
    }
}
