//! cgroup hierarchies: v1, v2 and hybrid; limits, devices, placement, kill, remove.
//!
//! * [`hierarchies`] finds out once what is mounted where.
//! * [`limits`] turns Kubernetes quantities into the numbers that the kernel's files take.
//! * [`devices`] says which devices may be opened.
//! * [`enforce`] tells what this host cannot enforce, and [`hugepages`] which sizes it has.
//! * [`classes`] keeps the weights of the cgroups above pods.
//! * [`usage`] and [`oom`] read what the kernel counts.
//! * [`cgroupfs`] is the driver that works on the mounted files directly.
//! * [`systemd`] has the names of what systemd makes for a pod, [`dbus`] asks it to; inside, it is [`cgroupfs`] again.
//!
//! A cgroup is named by one path, relative to every hierarchy's mount (`husk/pods/burstable/pod<uid>/<container id>`); the driver makes
//! it wherever it is needed. Nothing in this room writes a `cgroup.procs`: the first such write after a pause waits 4 to 16 ms for an RCU
//! grace period. A process is born inside (`CLONE_INTO_CGROUP`, v2) or writes `0` to the opened `tasks` files of [`Placement`] (v1), which costs
//! some 20 us a hierarchy.
//!
//! This room must not know pods, records or the OCI spec.

pub mod cgroupfs;
pub mod classes;
mod cpuset;
pub mod dbus;
pub mod devices;
pub mod enforce;
pub mod hierarchies;
pub mod hugepages;
pub mod limits;
pub mod oom;
mod room;
pub mod systemd;
pub mod usage;

pub use cgroupfs::Cgroupfs;
pub use devices::{DeviceKind, DeviceRule, DeviceRules, Permissions};
pub use hierarchies::Hierarchies;
pub use limits::Limits;
pub use oom::OomEvents;
pub use systemd::DriverKind;
pub use usage::{Load, Usage};

use husk_oci::errno::Sys;
use nix::errno::Errno;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Makes, fills, empties and removes cgroups. Paths are relative to every hierarchy's mount, without `.`, `..` or empty components.
pub trait CgroupDriver {
    /// Makes the cgroup, its missing parents included, and writes the limits; device rules are in force before anybody can be inside. A cgroup that is already there gets the limits written
    /// again. When anything fails, all that this call made is removed before it returns.
    ///
    /// # Errors
    /// [`Error::MissingController`] when a limit is asked for that no hierarchy can enforce; [`Error::Kernel`] otherwise.
    fn create(&self, path: &str, limits: &Limits) -> Result<(), Error>;

    /// Opens what a new process needs to be put into the cgroup.
    ///
    /// # Errors
    /// [`Error::Kernel`], with `ENOENT` when the cgroup was not created.
    fn placement(&self, path: &str) -> Result<Placement, Error>;

    /// Makes a group of processes inside a cgroup, so that they can be killed by themselves: a child in the one hierarchy that kills, named
    /// `<path>/<name>` from then on. Limits and accounts are the cgroup's own; removing the cgroup removes it too.
    ///
    /// # Errors
    /// As [`CgroupDriver::placement`]; `EEXIST` when there is one of that name.
    fn create_group(&self, path: &str, name: &str) -> Result<Placement, Error>;

    /// Sends SIGKILL to every process in the cgroup and below it, those born meanwhile included. One that does not exist is a success.
    /// Returns when the signals are sent, not when the processes are gone. On v1 without a v2 tree this may block for some milliseconds.
    fn kill(&self, path: &str) -> Result<(), Error>;

    /// Removes the cgroup and all below it, in every hierarchy. `Ok(false)`: a process is still in it; try again when it has died.
    /// One that does not exist is a success.
    fn try_remove(&self, path: &str) -> Result<bool, Error>;

    /// Removes the parents of `path`, nearest first, until one is in use. `path` itself is not touched.
    fn remove_empty_parents(&self, path: &str) -> Result<(), Error>;

    /// Whether the cgroup is there, in whatever hierarchy.
    fn exists(&self, path: &str) -> Result<bool, Error>;
    /// Brings the cgroups of the classes below `pods` up to date with the pods in them, see [`classes`]; with `memory` what is protected of their
    /// memory, too. Where there is none, nothing is done.
    ///
    /// # Errors
    /// [`Error::Kernel`]; a cgroup that goes away meanwhile is none.
    fn settle(&self, pods: &str, memory: bool) -> Result<(), Error>;

    /// What systemd is to be asked for to the same end, for the units of the instance whose cgroup is `parent`; most often nothing.
    ///
    /// # Errors
    /// As [`CgroupDriver::settle`].
    fn due(&self, parent: &str) -> Result<Vec<classes::Due>, Error>;

    /// The names of the cgroups right below `path`, in whatever hierarchy; none when it does not exist.
    fn children(&self, path: &str) -> Result<Vec<String>, Error>;

    /// The pids (in the caller's PID namespace) in the cgroup and below it; empty when it does not exist.
    fn processes(&self, path: &str) -> Result<Vec<i32>, Error>;

    /// How many processes of this cgroup the kernel has killed for want of memory; 0 without a memory controller or a cgroup.
    fn oom_kills(&self, path: &str) -> Result<u64, Error>;
}

/// How a process gets into a cgroup without the cost of `cgroup.procs`.
#[derive(Debug, Default)]
pub struct Placement {
    /// Directory in the v2 tree, for `CLONE_INTO_CGROUP`.
    pub into_cgroup: Option<OwnedFd>,
    /// `tasks` files of the v1 hierarchies, open for writing: the new process writes `0` to each while it has only one thread.
    pub tasks: Vec<OwnedFd>,
}

/// What went wrong with a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No cgroup hierarchy is mounted.
    NoHierarchy,
    /// A path that could lead elsewhere.
    Path {
        /// As given.
        path: String,
    },
    /// A limit was asked for that needs a controller the host does not offer there.
    MissingController {
        /// e.g. `memory`.
        controller: &'static str,
        /// The cgroup.
        path: String,
    },
    /// Device rules were asked for, and there is neither a `devices` hierarchy nor a v2 tree.
    NoDeviceControl {
        /// The cgroup.
        path: String,
    },
    /// A limit that this host cannot enforce.
    Unenforceable {
        /// The cgroup.
        path: String,
        /// Which limit, why, and what to do.
        why: String,
    },
    /// The kernel took a value and made something else of it.
    Unlike {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        asked: String,
        /// What stands there now.
        got: String,
    },
    /// Processes were born faster than they could be killed.
    StillAlive {
        /// The cgroup.
        path: String,
        /// How many there were at the last look.
        processes: usize,
    },
    /// The kernel said no.
    Kernel {
        /// What was being done, e.g. `write 100 to`.
        doing: String,
        /// On which file or directory.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
        /// What to do about it; may be empty.
        advice: &'static str,
    },
}

impl Error {
    /// The kernel's answer, when it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    fn kernel(doing: impl Into<String>, path: &Path, source: &std::io::Error) -> Error {
        let Sys(errno) = Sys::from(source);
        let advice = match errno {
            Errno::EROFS => "the hierarchy is mounted read-only; husk needs it writable",
            Errno::EACCES | Errno::EPERM => "husk needs root and a cgroup tree that is delegated to it",
            Errno::ENOSPC => "the limit on the number of cgroups (cgroup.max.descendants) is reached",
            _ => "",
        };
        Error::Kernel { doing: doing.into(), path: path.to_path_buf(), errno, advice }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NoHierarchy => {
                write!(
                    f,
                    "find cgroups: no cgroup hierarchy is mounted; mount one, e.g. mount -t cgroup2 none /sys/fs/cgroup"
                )
            }
            Error::Path { path } => {
                write!(f, "cgroup {path:?}: not a plain relative path; components may not be empty, \".\" or \"..\"")
            }
            Error::MissingController { controller, path } => write!(
                f,
                "cgroup {path}: no {controller} controller here, the limit would have no effect; enable it on the kernel command line \
                 or in the parents' cgroup.subtree_control, or leave the {controller} limit out"
            ),
            Error::NoDeviceControl { path } => write!(
                f,
                "cgroup {path}: devices cannot be limited here; mount cgroup v2 or the v1 devices hierarchy, or say privileged: true"
            ),
            Error::Unenforceable { path, why } => write!(f, "cgroup {path}: {why}"),
            Error::Unlike { file, asked, got } => write!(
                f,
                "write {asked} to {}: the kernel made {got:?} of it; a cgroup above may allow less, or another program writes there",
                file.display()
            ),
            Error::StillAlive { path, processes } => {
                write!(
                    f,
                    "cgroup {path}: kill: {processes} processes are still there after many rounds; new ones appear faster than they die"
                )
            }
            Error::Kernel { doing, path, errno, advice } => {
                write!(f, "{doing} {}: {}", path.display(), Sys(*errno))?;
                if advice.is_empty() { Ok(()) } else { write!(f, "; {advice}") }
            }
        }
    }
}

impl std::error::Error for Error {}
