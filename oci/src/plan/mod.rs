//! From a spec to a flat list of steps: everything that can fail by thought fails here, everything that has to be allocated is
//! allocated here. The list is what `init` walks and what the parent makes its sentences from.
//!
//! Files: this one has the types; `container`, `devices` and `process` fill the list; `cgroup` knows the
//! host's hierarchies; `describe` turns a step into words; `fds` is the
//! table of what the child keeps open.

pub(crate) mod cgroup;
pub(crate) mod container;
pub(crate) mod describe;
mod devices;
pub(crate) mod fds;
pub(crate) mod process;

pub use devices::DEFAULT_DEVICES;

use crate::caps;
use crate::sys::mount::{Propagation, SetAttr};
use crate::sys::process::{Limit, Strings};
use libc::c_ulong;
use std::ffi::CString;

/// Index into the fds that the child keeps.
pub(crate) type Slot = usize;

/// Everything the child needs, made before the clone.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Walked in order; the last one is [`Step::Exec`].
    pub steps: Vec<Step>,
    /// How many mounts are cloned from the joined mount namespace.
    pub cells: usize,
    pub program: Program,
    /// Told to the caller before the child says anything.
    pub warnings: Vec<String>,
}

/// What is executed.
#[derive(Debug)]
pub(crate) struct Program {
    /// As asked for.
    pub name: String,
    /// Where it may be, in the order of PATH.
    pub candidates: Vec<CString>,
    pub argv: Strings,
    pub env: Strings,
}

/// A mount point or other place, relative to the root.
#[derive(Debug)]
pub(crate) struct Target {
    /// As in the spec, for messages.
    pub container_path: String,
    /// Without the leading slash.
    pub relative: CString,
    /// A symbolic link anywhere on the way is an attack (`/proc`, `/sys`, `/dev`).
    pub no_symlinks: bool,
}

/// Where a mount that exists already comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// An fd of a detached mount.
    Slot(Slot),
    /// A clone made by [`Step::CloneShared`].
    Cell(usize),
}

/// A change of a mount's attributes without borrowed parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub set: u64,
    pub clear: u64,
    pub propagation: Option<Propagation>,
    pub recursive: bool,
}

impl From<Change> for SetAttr<'static> {
    fn from(c: Change) -> Self {
        SetAttr { set: c.set, clear: c.clear, propagation: c.propagation, recursive: c.recursive, idmap: None }
    }
}

/// A mount that later steps need an fd of; what is found there afterwards must be of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Proc,
    Sys,
    Dev,
    Pts,
    /// The tmpfs that holds the v1 hierarchies.
    Cgroup,
}

/// One thing the child does.
#[derive(Debug)]
pub(crate) enum Step {
    /// First of all: nobody in a namespace we join may look into us, whose memory is a copy of our parent's.
    NotDumpable,
    /// Also first: no fd of the parent may be open when foreign code could reach it.
    CloseOthers,
    /// 0, 1 and 2.
    Stdio([Slot; 3]),
    /// A session of its own, so that a terminal can become its controlling one.
    Session,
    /// Writes `0` to an opened `tasks` file (v1). Before the cgroup namespace, whose root is the cgroup of that moment.
    EnterCgroup(Slot),
    /// Through `/proc/self`, so while the host's proc is still there.
    OomScoreAdj {
        value: i32,
        text: String,
    },
    /// Opens the file that takes the profile, through `/proc/self`, so while the host's proc is still there.
    OpenAppArmor,
    /// Joins namespaces of a process or the one behind an nsfs file.
    Join {
        of: Slot,
        namespaces: u64,
        what: String,
    },
    /// In a user namespace that was just entered we are nobody until we take its root.
    BecomeRoot,
    /// Clones a mount of the joined mount namespace. Before we leave it.
    CloneShared {
        path: CString,
        recursive: bool,
        cell: usize,
        container_path: String,
    },
    /// New namespaces.
    Unshare {
        namespaces: u64,
    },
    /// No mount of ours may travel back. Before the first mount.
    PrivateMounts,
    /// Attaches the detached root in the joined (or copied) tree.
    AttachRoot {
        root: Slot,
        at: CString,
    },
    /// A new file system.
    MountNew {
        target: Target,
        fstype: CString,
        source: CString,
        flags: c_ulong,
        data: Option<CString>,
        keep: Option<Keep>,
    },
    /// A mount that exists.
    MountExisting {
        target: Target,
        from: Origin,
        changes: Vec<Change>,
    },
    /// One v1 hierarchy (`None` = the v2 tree) in the tmpfs for them. Its root is that of the cgroup namespace.
    CgroupHierarchy {
        name: CString,
        v1: Option<CString>,
        flags: c_ulong,
    },
    /// After the directories were made in it.
    CgroupReadonly,
    /// Opens `/dev` of the image, when no file system is mounted there.
    OpenDev {
        target: Target,
    },
    /// A directory in `/dev`.
    DevDirectory {
        name: CString,
    },
    /// A symbolic link in `/dev`.
    DevLink {
        name: CString,
        to: CString,
    },
    /// A device node. `mode` includes the file type.
    Device {
        target: Target,
        in_dev: Option<CString>,
        mode: u32,
        dev: u64,
        owner: Option<(u32, u32)>,
    },
    /// A pty out of the container's own devpts; its master goes to the parent.
    /// `console`: where to mount its slave as well.
    Terminal {
        rows: u16,
        cols: u16,
        uid: u32,
        console: Option<Target>,
    },
    /// Into the verified proc. Before `/proc/sys` becomes read-only.
    Sysctl {
        name: String,
        path: CString,
        value: String,
    },
    /// Nothing to see there.
    Mask {
        target: Target,
    },
    /// Bound onto itself, read-only with all below.
    ReadonlyPath {
        target: Target,
    },
    /// Finds (or makes, while the root can be written) the working directory.
    OpenCwd {
        target: Target,
        create: bool,
    },
    /// Attributes of the root mount itself.
    RootAttributes {
        change: Change,
    },
    /// Leaves the old tree.
    Pivot,
    /// For an exec: the joined root is the root.
    OpenRoot,
    Hostname {
        name: CString,
    },
    Domainname {
        name: CString,
    },
    /// Not the keyring of whoever started us.
    Keyring,
    Rlimit {
        name: String,
        number: u32,
        limit: Limit,
    },
    /// Enters what OpenCwd found, and looks where that is. After the pivot.
    EnterCwd,
    Umask(u32),
    /// A filter without no_new_privs needs CAP_SYS_ADMIN, which goes away next.
    SeccompEarly(Vec<crate::sys::seccomp::Insn>),
    /// Bounding set. Needs CAP_SETPCAP, so before the other sets.
    Bounding {
        keep: u64,
        known: u8,
    },
    /// Groups and ids. `keep_caps`: the permitted set must survive leaving uid 0.
    Ids {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        keep_caps: bool,
    },
    /// The other four sets.
    Capabilities(caps::Sets),
    /// The profile that `execve` will change to, `exec NAME` in the kernel's words.
    AppArmor {
        text: String,
    },
    NoNewPrivs,
    /// Last of what restricts us: the filter need not allow anything of the above.
    SeccompLate(Vec<crate::sys::seccomp::Insn>),
    /// Looks for the program as the user who will execute it, so that a wrong command fails `create`.
    FindProgram,
    /// Just before the report: what is still open of ours ends with exec.
    CloseOnExec,
    /// After the credentials, since their change clears it.
    DieWithParent,
    /// Tells the parent.
    ReportCreated,
    /// Waits for the byte.
    AwaitStart(Slot),
    /// Signals to default and unblocked, then the program.
    Exec,
}

/// Which part of a step failed. Wire format: append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Part {
    /// The step as such.
    Whole = 0,
    /// Finding the place.
    Find = 1,
    /// Making a missing mount point, directory or file.
    Make = 2,
    /// Looking at the result: it is not what it has to be.
    Verify = 3,
    /// Setting attributes.
    Attributes = 4,
    /// Changing an owner.
    Owner = 5,
    /// The source.
    Source = 6,
    /// Sending something to the parent.
    Send = 7,
    /// A program that is there, but what it needs is not.
    Interpreter = 8,
}

impl Part {
    /// Decodes a number off the wire.
    pub(crate) fn from_u16(n: u16) -> Option<Part> {
        Some(match n {
            0 => Part::Whole,
            1 => Part::Find,
            2 => Part::Make,
            3 => Part::Verify,
            4 => Part::Attributes,
            5 => Part::Owner,
            6 => Part::Source,
            7 => Part::Send,
            8 => Part::Interpreter,
            _ => return None,
        })
    }
}
