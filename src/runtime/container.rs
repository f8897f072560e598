//! Creates one container: cgroup, root, mounts, process. It waits on its start handle when this is done.

use std::borrow::Cow;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use husk_oci::overlay::{self, Overlay, Upper};
use husk_oci::spawn;
use husk_oci::sys::{fd, path};
use oci_spec::runtime::Spec;
use sha2::{Digest, Sha256};

use super::{Error, mounts, spec};
use crate::cgroup::{CgroupDriver, Placement};
use crate::manifest::command;
use crate::network::Status;
use crate::state::Roots;
use crate::state::record::{ContainerRecord, MountSource, PidMode, PodRecord};

/// What every container of a pod is created with.
pub struct Context<'a> {
    /// Where things are.
    pub roots: &'a Roots,
    /// Who writes cgroups.
    pub driver: &'a dyn CgroupDriver,
    /// The pod.
    pub record: &'a PodRecord,
    /// pause.
    pub sandbox: BorrowedFd<'a>,
    /// What the pod has of a network, once it is known.
    pub network: Option<&'a Status>,
}

/// A created container.
pub struct Created {
    /// Container id.
    pub id: String,
    /// Its process, and its reports.
    pub process: spawn::Starting,
    /// Read ends of stdout and stderr, or the terminal comes later as an event.
    pub output: Option<[OwnedFd; 2]>,
    /// Write end of stdin, if it is open and no terminal.
    pub stdin: Option<OwnedFd>,
    /// Write end of the start pipe: a byte starts it, closing it ends it.
    pub start: OwnedFd,
}

/// The id of one instance of a container: 64 hexadecimal digits that follow from uid, name and attempt, so that recovery needs no ledger.
pub fn id(uid: &str, name: &str, attempt: u32) -> String {
    let digest = Sha256::digest(format!("{uid}/{name}/{attempt}"));
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// The id of one instance of a container of a pod; a CRI client knows it from the container's creation on.
pub fn instance_id(record: &PodRecord, container: &ContainerRecord, attempt: u32) -> String {
    match &container.client {
        Some(client) => client.id.clone(),
        None => id(&record.id, &container.name, attempt),
    }
}

/// The cgroup of one instance, below the pod's.
pub fn cgroup(record: &PodRecord, id: &str) -> String {
    format!("{}/{id}", record.cgroup)
}

/// Directory of one instance's upper and work directories.
pub fn data_dir(roots: &Roots, record: &PodRecord, name: &str, attempt: u32) -> PathBuf {
    roots.data_dir(&record.id).join("containers").join(name).join(attempt.to_string())
}

fn host(e: impl std::fmt::Display) -> Error {
    Error::Host { what: e.to_string() }
}

/// An instance that lacks nothing but its process. Dropping it leaves its cgroup and its directory, which go with the pod.
pub struct Prepared {
    /// Container id.
    pub id: String,
    placement: Placement,
    root: OwnedFd,
    mounted: mounts::Mounted,
    spec: Spec,
    stdio: Option<Pipes>,
    start_read: OwnedFd,
    start: OwnedFd,
}

/// Makes the cgroup and the directories of an instance; what is there already is fine.
///
/// # Errors
/// A sentence about the container. What was made goes with the pod.
pub fn places(
    roots: &Roots,
    driver: &dyn CgroupDriver,
    record: &PodRecord,
    index: usize,
    attempt: u32,
) -> Result<(), Error> {
    let container = &record.containers[index];
    let cgroup = cgroup(record, &instance_id(record, container, attempt));
    driver.create(&cgroup, &container.limits).map_err(host)?;
    directories(&data_dir(roots, record, &container.name, attempt)).map_err(|e| in_container(container, e))
}

/// Prepares an instance. With `placed`, [`places`] was called for it, and by nobody before.
///
/// # Errors
/// A sentence about the container; its cgroup is removed again, its directory goes with the pod.
pub fn prepare(context: &Context<'_>, index: usize, attempt: u32, placed: bool) -> Result<Prepared, Error> {
    let record = context.record;
    let container = &record.containers[index];
    let id = instance_id(record, container, attempt);
    let cgroup = cgroup(record, &id);
    let made = Made { driver: context.driver, cgroup: Some(&cgroup) };
    if !placed {
        // A supervisor that was killed while it made this instance has left its directories. Nothing has run in there, and the kernel refuses
        // a second volatile mount of them.
        let dir = data_dir(context.roots, record, &container.name, attempt);
        crate::volume::remove_tree(&dir).map_err(|e| in_container(container, host(e)))?;
        places(context.roots, context.driver, record, index, attempt)?;
    }
    let prepared = prepare_in(context, container, attempt, id, &cgroup).map_err(|e| in_container(container, e))?;
    made.keep();
    Ok(prepared)
}

/// Can the container be prepared only when pause is set up, and the pod has its network? A subPath of a volume in memory is looked for in pause's mount namespace, and
/// its environment may hold the pod's addresses.
pub fn needs_sandbox(container: &ContainerRecord) -> bool {
    needs_addresses(container)
        || container.mounts.iter().any(|m| m.sub_path.is_some() && matches!(m.source, MountSource::Memory { .. }))
}

fn needs_addresses(container: &ContainerRecord) -> bool {
    container.argv.iter().chain(&container.env).any(|text| command::is_late(text))
}

/// The container with the pod's addresses where its arguments and its environment ask for them.
pub fn addressed<'a>(container: &'a ContainerRecord, network: Option<&Status>) -> Cow<'a, ContainerRecord> {
    if !needs_addresses(container) {
        return Cow::Borrowed(container);
    }
    let value = |path: &str| network.map(|network| network.field(path)).unwrap_or_default();
    let settled = |list: &[String]| list.iter().map(|text| command::settle(text, &value)).collect();
    Cow::Owned(ContainerRecord { argv: settled(&container.argv), env: settled(&container.env), ..container.clone() })
}

fn in_container(container: &ContainerRecord, e: Error) -> Error {
    match e {
        Error::Host { what } => Error::Container { container: container.name.clone(), what },
        other => other,
    }
}

/// Removes the cgroup again unless it is kept.
struct Made<'a> {
    driver: &'a dyn CgroupDriver,
    cgroup: Option<&'a str>,
}

impl Made<'_> {
    fn keep(mut self) {
        self.cgroup = None;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.cgroup
            && let Err(e) = self.driver.try_remove(path)
        {
            super::say::say("warn", format_args!("remove cgroup {path}: {e}, continuing; it goes with the pod"));
        }
    }
}

fn prepare_in(
    context: &Context<'_>,
    container: &ContainerRecord,
    attempt: u32,
    id: String,
    cgroup: &str,
) -> Result<Prepared, Error> {
    let record = context.record;
    let placement = context.driver.placement(cgroup).map_err(host)?;
    let root = root(&container.layers, &data_dir(context.roots, record, &container.name, attempt))?;
    let mut mounted = mounts::container(context.roots, record, container, attempt, context.sandbox)?;
    let given = spec::Given { mounts: std::mem::take(&mut mounted.mounts), devices: super::devices::of(container)? };
    let spec = spec::container(&addressed(container, context.network), given)?;
    let stdio = if container.tty { None } else { Some(Pipes::new(container)?) };
    let (start_read, start) = fd::pipe(false).map_err(|e| Error::sys("make the start pipe", e))?;
    Ok(Prepared { id, placement, root, mounted, spec, stdio, start_read, start })
}

impl Prepared {
    /// Clones the process, and returns while it is setting itself up. `target`: the process of the container whose PID namespace it joins, if it does.
    ///
    /// # Errors
    /// A sentence about the container. Its cgroup stays.
    pub fn launch(self, context: &Context<'_>, index: usize, target: Option<BorrowedFd<'_>>) -> Result<Created, Error> {
        let container = &context.record.containers[index];
        let sources: Vec<spawn::Source<'_>> = self.mounted.origins.iter().map(mounts::Origin::as_source).collect();
        let process = spawn::create(&spawn::Create {
            spec: &self.spec,
            root: spawn::Root::Detached(self.root.as_fd()),
            sources: &sources,
            join: Some(spawn::Join { pidfd: context.sandbox, user: false }),
            pid_namespace: match container.pid {
                PidMode::Node => spawn::PidNamespace::Host,
                PidMode::Pod | PidMode::Target => spawn::PidNamespace::Sandbox,
                PidMode::Container => spawn::PidNamespace::Nested,
            },
            pid_namespace_of: target,
            cgroup: spawn::Placement {
                into_cgroup: self.placement.into_cgroup.as_ref().map(AsFd::as_fd),
                tasks: &self.placement.tasks,
            },
            stdio: match &self.stdio {
                Some(pipes) => {
                    spawn::Stdio::Fds([pipes.stdin.as_fd(), pipes.out_write.as_fd(), pipes.err_write.as_fd()])
                }
                None => spawn::Stdio::Terminal { rows: 24, cols: 80 },
            },
            start: self.start_read.as_fd(),
            sibling: true,
            die_with_parent: container.pid == PidMode::Node,
            attach_at: c"/root",
            seccomp: None,
        });
        let process = process.map_err(|e| in_container(container, host(e)))?;
        let (output, stdin) = self.stdio.map(|p| ([p.out_read, p.err_read], p.stdin_write)).unzip();
        Ok(Created { id: self.id, process, output, stdin: stdin.flatten(), start: self.start })
    }
}

/// stdin from nowhere or from whoever attaches, stdout and stderr as pipes. Pipes belong to the container's user, so that it can open
/// `/dev/stdout`.
struct Pipes {
    stdin: OwnedFd,
    stdin_write: Option<OwnedFd>,
    out_read: OwnedFd,
    out_write: OwnedFd,
    err_read: OwnedFd,
    err_write: OwnedFd,
}

/// Whoever has one end of a pipe has the other, too, so that it is never broken: when keeper is killed its fds are closed before the kernel kills the
/// pod, and no container shall see SIGPIPE in between.
fn both(end: OwnedFd) -> Result<OwnedFd, Error> {
    let path = CString::new(format!("/proc/self/fd/{}", end.as_raw_fd())).map_err(host)?;
    path::openat(nix::fcntl::AT_FDCWD, &path, libc::O_RDWR, 0).map_err(|e| Error::sys("open a pipe", e))
}

/// An end that its user may open anew.
fn given(end: OwnedFd, uid: u32) -> Result<OwnedFd, Error> {
    if uid != 0 {
        path::fchown(end.as_fd(), uid, u32::MAX).map_err(|e| Error::sys("give a pipe to the container's user", e))?;
    }
    Ok(end)
}

/// A pipe into a log: our end and the one of a container's process.
///
/// # Errors
/// The kernel's.
pub fn log_pipe(uid: u32) -> Result<(OwnedFd, OwnedFd), Error> {
    let (read, write) = fd::pipe(false).map_err(|e| Error::sys("make a log pipe", e))?;
    fd::set_nonblocking(read.as_fd(), true).map_err(|e| Error::sys("set up a log pipe", e))?;
    Ok((read, given(both(write)?, uid)?))
}

impl Pipes {
    fn new(container: &ContainerRecord) -> Result<Pipes, Error> {
        let (stdin, stdin_write) = if container.stdin {
            let (read, write) = fd::pipe(false).map_err(|e| Error::sys("make the pipe of stdin", e))?;
            // One that never ends is not to end in that instant either. One that is for a single client ends with that client.
            let read = if container.stdin_once { read } else { both(read)? };
            (given(read, container.user.uid)?, Some(write))
        } else {
            (std::fs::File::open("/dev/null").map_err(|e| Error::io("open /dev/null", &e))?.into(), None)
        };
        let uid = container.user.uid;
        let ((out_read, out_write), (err_read, err_write)) = (log_pipe(uid)?, log_pipe(uid)?);
        Ok(Pipes { stdin, stdin_write, out_read, out_write, err_read, err_write })
    }
}

fn c_string(p: &Path) -> Result<CString, Error> {
    CString::new(p.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::Internal { what: format!("a NUL byte in {}", p.display()) })
}

/// The directories of an instance.
fn directories(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::io(format_args!("create {}", dir.display()), &e))?;
    for (part, mode) in [(dir.join("upper"), 0o755), (dir.join("work"), 0o700)] {
        match std::fs::DirBuilder::new().mode(mode).create(&part) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format_args!("create {}", part.display()), &e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A detached overlay of the image's layers and a fresh upper directory.
fn root(layers: &[String], dir: &Path) -> Result<OwnedFd, Error> {
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    // The merged root shows the upper directory's permissions and owner: those of the image's root are meant.
    if let Some(top) = layers.first() {
        let meta = path::fstatat(path::CWD, &c_string(Path::new(top))?)
            .map_err(|e| Error::sys("look at the image's root", e))?;
        let name = c_string(&upper)?;
        let set = path::fchmodat(path::CWD, &name, meta.st_mode & 0o7777)
            .and_then(|()| path::fchownat(path::CWD, &name, meta.st_uid, meta.st_gid));
        set.map_err(|e| Error::sys(format_args!("set up {}", upper.display()), e))?;
    }
    let lower: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
    let upper = Some(Upper { dir: &upper, work: &work });
    overlay::detached(&Overlay { lower: &lower, upper, attributes: 0 })
        .map_err(|e| Error::Host { what: format!("the container's root: {e}") })
}
