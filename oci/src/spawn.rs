//! The parent's half: makes the plan, clones the child into its PID namespace and cgroup, and turns what the child reports into events.
//!
//! [`create`] never waits for the child. The child does not allocate or lock, so it does not matter what other threads of the parent
//! were doing; still, a process that clones is best kept single-threaded.

use crate::error::Error;
use crate::handshake::{self, Message};
use crate::init::{Held, Init};
use crate::plan::fds::{Fds, gaps};
use crate::plan::{Plan, container};
use crate::sys::process::{self, Child, CloneArgs, Target, ns};
use crate::sys::seccomp::Insn;
use crate::sys::{Errno, Result as SysResult, fd};
use oci_spec::runtime::Spec;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Which PID namespace the process is born in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidNamespace {
    /// The caller's own.
    Host,
    /// A plain member of the one that [`Join::pidfd`]'s process lives in.
    Sandbox,
    /// A new one, below that of [`Join::pidfd`]'s process (below the caller's when nothing is joined).
    Nested,
}

/// The process whose namespaces (net, ipc, uts, mount) are joined.
#[derive(Clone, Copy, Debug)]
pub struct Join<'a> {
    /// Its pidfd.
    pub pidfd: BorrowedFd<'a>,
    /// It lives in a user namespace of its own, which is joined first. The container's ids are those of that namespace.
    pub user: bool,
}

/// Where a mount of the spec comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// As the spec says: a new tmpfs, proc, sysfs, mqueue, devpts or cgroup file system, or a bind mount of a path of the caller.
    Spec,
    /// A detached mount. It is attached, not copied: after the child ran this far, the fd is of the container's mount.
    Detached(BorrowedFd<'a>),
    /// A path in the joined mount namespace, of which the container gets a clone (with what is mounted below, for `rbind`).
    Sandbox(&'a CStr),
}

/// The root file system.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// A detached mount, attached as for [`Source::Detached`].
    Detached(BorrowedFd<'a>),
    /// A directory of the caller; bind mounted with all that is mounted in it.
    Path(&'a Path),
}

/// Standard streams.
#[derive(Clone, Copy, Debug)]
pub enum Stdio<'a> {
    /// stdin, stdout and stderr.
    Fds([BorrowedFd<'a>; 3]),
    /// A terminal out of the container's own devpts; the master comes as [`Event::Terminal`].
    Terminal {
        /// Height in characters.
        rows: u16,
        /// Width in characters.
        cols: u16,
    },
}

/// The cgroups the process is put into.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placement<'a> {
    /// A cgroup v2 directory, in which the process is born.
    pub into_cgroup: Option<BorrowedFd<'a>>,
    /// `tasks` files of v1 hierarchies, open for writing, which the child enters first of all.
    pub tasks: &'a [OwnedFd],
}

/// A container to make.
#[derive(Clone, Copy)]
pub struct Create<'a> {
    /// What to make. `root.path`, `linux.resources`, `linux.cgroupsPath` and annotations are the caller's business; whatever else is not
    /// supported is refused.
    pub spec: &'a Spec,
    /// The root file system.
    pub root: Root<'a>,
    /// One for each of `spec.mounts`, in the same order; or none at all for [`Source::Spec`] everywhere.
    pub sources: &'a [Source<'a>],
    /// The sandbox.
    pub join: Option<Join<'a>>,
    /// The PID namespace.
    pub pid_namespace: PidNamespace,
    /// With [`PidNamespace::Sandbox`]: a plain member of the one that this pidfd's process lives in, which is the sandbox's or below it.
    pub pid_namespace_of: Option<BorrowedFd<'a>>,
    /// The cgroups.
    pub cgroup: Placement<'a>,
    /// The standard streams.
    pub stdio: Stdio<'a>,
    /// A byte that can be read here starts the program; its end ends the child.
    pub start: BorrowedFd<'a>,
    /// The process becomes a child of the caller's parent (`CLONE_PARENT`), which then reaps it.
    pub sibling: bool,
    /// The process is killed when its parent dies.
    pub die_with_parent: bool,
    /// An existing directory in the joined mount namespace (in the caller's when nothing is joined) over which the root is mounted before it
    /// becomes the root. Nobody else sees that mount.
    pub attach_at: &'a CStr,
    /// A compiled seccomp filter.
    pub seccomp: Option<&'a [Insn]>,
}

/// What a child on its way has to say.
#[derive(Debug)]
pub enum Event {
    /// Something was done in a lesser way. One sentence.
    Warning(String),
    /// The master of the terminal.
    Terminal(OwnedFd),
    /// Everything but `execve` is done; it waits for its start.
    Created,
    /// After `Created`, the child's end of the report is closed: the program was executed, or the child was killed; the pidfd tells which.
    Executed,
    /// A step failed, or the child died. It is dead or about to die; dropping the [`Starting`] makes sure and reaps it (unless it is
    /// a sibling, which its parent reaps).
    Failed(Error),
}

/// A child between its clone and `execve(2)`. Dropping it kills (and, unless it is a sibling, reaps) a child that was not seen to execute
/// its program.
#[must_use = "dropping it kills the child"]
pub struct Starting {
    /// pid in the caller's PID namespace.
    pub pid: i32,
    /// pid of a short-lived helper that became a child of the caller's parent (which has to reap it), when the request said `sibling` and
    /// the PID namespace is nested.
    pub helper: Option<i32>,
    pidfd: OwnedFd,
    report: OwnedFd,
    plan: Plan,
    early: VecDeque<String>,
    created: bool,
    finished: bool,
    armed: bool,
    sibling: bool,
}

/// Makes the process of a container and returns at once, while it sets itself up.
///
/// # Errors
/// [`Error::Refused`] before anything was done; [`Error::Prepare`] when a source could not be opened or the process not be cloned. In both
/// cases nothing is left.
pub fn create(req: &Create<'_>) -> Result<Starting, Error> {
    let (plan, fds) = container::plan(req)?;
    let birth = Birth {
        join: req.join,
        pid_namespace: req.pid_namespace,
        pid_namespace_of: req.pid_namespace_of,
        into_cgroup: req.cgroup.into_cgroup,
        sibling: req.sibling,
    };
    launch(plan, &fds, &birth)
}

/// Where and how a process is born.
pub(crate) struct Birth<'a> {
    pub join: Option<Join<'a>>,
    pub pid_namespace: PidNamespace,
    pub pid_namespace_of: Option<BorrowedFd<'a>>,
    pub into_cgroup: Option<BorrowedFd<'a>>,
    pub sibling: bool,
}

pub(crate) fn launch(plan: Plan, fds: &Fds<'_>, birth: &Birth<'_>) -> Result<Starting, Error> {
    let (ours, theirs) = fd::seqpacket_pair().map_err(|e| Error::prepare("make the socket to init", e))?;
    let theirs = if theirs.as_raw_fd() < 3 {
        fd::dup_from(theirs.as_fd(), 3).map_err(|e| Error::prepare("make the socket to init", e))?
    } else {
        theirs
    };
    fd::set_nonblocking(ours.as_fd(), true).map_err(|e| Error::prepare("make the socket to init", e))?;
    let kept = fds.borrowed();
    let mut all = kept.clone();
    all.push(theirs.as_fd());
    let gaps = gaps(&all);
    let mut cells = Vec::new();
    cells.resize_with(plan.cells, || None);
    let init =
        Init { plan: &plan, fds: &kept, gaps: &gaps, report: theirs.as_fd(), cells: &mut cells, held: Held::default() };
    let (child, helper) = clone(birth, init).map_err(|(doing, e)| clone_error(doing, e))?;
    drop(theirs);
    let mut starting = Starting {
        pid: child.pid,
        helper,
        pidfd: child.pidfd,
        report: ours,
        early: VecDeque::new(),
        plan,
        created: false,
        finished: false,
        armed: true,
        sibling: birth.sibling,
    };
    starting.early.extend(std::mem::take(&mut starting.plan.warnings));
    if birth.pid_namespace == PidNamespace::Nested && birth.join.is_some() {
        // The helper was told the number that its own PID namespace has for the child.
        let found = host_pid(starting.pidfd.as_fd());
        starting.pid = found.map_err(|e| Error::prepare("find out the pid of the container's process", e))?;
    }
    Ok(starting)
}

fn clone_error(doing: &'static str, errno: Errno) -> Error {
    let advice = match errno {
        Errno::ENOMEM => Some("the sandbox's PID namespace has lost its init, or there is no memory left"),
        Errno::EAGAIN => Some("a limit on the number of processes is reached"),
        Errno::ESRCH => Some("the sandbox is dead"),
        _ => None,
    };
    Error::Prepare { doing: doing.into(), errno, advice }
}

/// Clones, in the PID namespace that was asked for; back in our own afterwards whatever happens.
fn clone(birth: &Birth<'_>, init: Init<'_>) -> Result<(Child, Option<i32>), (&'static str, Errno)> {
    const CLONE: &str = "clone the container's process";
    let args = CloneArgs { namespaces: 0, sibling: birth.sibling, into_cgroup: birth.into_cgroup };
    let (join, nested) = match (birth.join, birth.pid_namespace) {
        (_, PidNamespace::Host) | (None, PidNamespace::Sandbox) => {
            return Ok((process::spawn(&args, || init.run()).map_err(|e| (CLONE, e))?, None));
        }
        (None, PidNamespace::Nested) => {
            let args = CloneArgs { namespaces: ns::PID, ..args };
            return Ok((process::spawn(&args, || init.run()).map_err(|e| (CLONE, e))?, None));
        }
        (Some(join), which) => (join, which == PidNamespace::Nested),
    };
    let of = birth.pid_namespace_of.filter(|_| !nested).unwrap_or(join.pidfd);
    let switched = Switched::to(of).map_err(|e| ("enter the sandbox's PID namespace for the next child", e))?;
    let result = if nested {
        nested_clone(birth, join, &args, init).map_err(|e| (CLONE, e))
    } else {
        process::spawn(&args, || init.run()).map(|c| (c, None)).map_err(|e| (CLONE, e))
    };
    let back = switched.back();
    match (result, back) {
        (result, Ok(())) => result,
        (Ok((child, _)), Err(e)) => {
            // A process that can't get back must not go on making children there.
            end(child.pidfd.as_fd(), birth.sibling);
            Err(("return from the sandbox's PID namespace", e))
        }
        (Err(_), Err(e)) => Err(("return from the sandbox's PID namespace", e)),
    }
}

/// The kernel makes no new PID namespace while `pid_for_children` differs from the caller's own, so a helper that was born in the sandbox's
/// does it: it shares our memory and fds, and its child is born as ours (`CLONE_PARENT`).
fn nested_clone(
    birth: &Birth<'_>,
    join: Join<'_>,
    args: &CloneArgs<'_>,
    init: Init<'_>,
) -> SysResult<(Child, Option<i32>)> {
    let mut made = Err(Errno::ECHILD);
    let helper = process::vfork_helper(birth.sibling, || {
        if join.user
            && let Err(errno) = process::setns(join.pidfd, ns::USER)
        {
            made = Err(errno);
            return;
        }
        let args = CloneArgs { namespaces: ns::PID, sibling: true, into_cgroup: args.into_cgroup };
        made = process::spawn(&args, || init.run());
    })?;
    if birth.sibling {
        return made.map(|child| (child, Some(helper)));
    }
    process::wait(Target::Pid(helper), false, false)?;
    made.map(|child| (child, None))
}

/// While this lives, our next child is born in another PID namespace.
struct Switched {
    own: Option<OwnedFd>,
}

impl Switched {
    fn to(pidfd: BorrowedFd<'_>) -> SysResult<Switched> {
        let own = process::pidfd_open(process::getpid())?;
        process::setns(pidfd, ns::PID)?;
        Ok(Switched { own: Some(own) })
    }

    fn back(mut self) -> SysResult<()> {
        self.own.take().map_or(Ok(()), |own| process::setns(own.as_fd(), ns::PID))
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            // Only reached by unwinding; there is nobody to tell.
            let _ = process::setns(own.as_fd(), ns::PID);
        }
    }
}

/// The pid behind a pidfd in our own PID namespace.
pub(crate) fn host_pid(pidfd: BorrowedFd<'_>) -> SysResult<i32> {
    match process::pidfd_pid(pidfd) {
        // KERNEL(6.13): no PIDFD_GET_INFO before.
        Err(Errno::ENOTTY | Errno::EINVAL) => {
            let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
            let text = crate::file::read_text(Path::new(&path), 512).map_err(|e| crate::errno::Sys::from(&e).0)?;
            let pid = text.lines().find_map(|l| l.strip_prefix("Pid:")).and_then(|n| n.trim().parse().ok());
            pid.filter(|pid| *pid > 0).ok_or(Errno::ESRCH)
        }
        other => other,
    }
}

/// Kills, and reaps what is our own child.
fn end(pidfd: BorrowedFd<'_>, sibling: bool) {
    // ESRCH: it is gone already, which is what we want.
    let _ = process::pidfd_send_signal(pidfd, libc::SIGKILL);
    if !sibling {
        // ECHILD: somebody else has reaped it.
        let _ = process::wait(Target::Pidfd(pidfd), false, false);
    }
}

impl Starting {
    /// The child's pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives the child up: it is no longer killed by the drop. Returns its pidfd.
    pub fn release(mut self) -> Result<OwnedFd, Error> {
        let copy = self
            .pidfd
            .try_clone()
            .map_err(|e| Error::prepare("copy the pidfd of the container's process", crate::errno::Sys::from(&e).0))?;
        self.armed = false;
        Ok(copy)
    }

    /// The next thing the child has said, `None` when there is nothing now. Does not wait: poll [`AsFd::as_fd`] for reading. After
    /// `Executed` or `Failed` there is nothing more.
    ///
    /// # Errors
    /// When the socket itself fails. What goes wrong in the child is an event.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        if let Some(text) = self.early.pop_front() {
            return Ok(Some(Event::Warning(text)));
        }
        if self.finished {
            return Ok(None);
        }
        let mut buf = [0; handshake::LEN + 1];
        let got = match fd::recv(self.report.as_fd(), &mut buf, true) {
            Ok(got) => got,
            Err(Errno::EAGAIN) => return Ok(None),
            // The child was killed with a packet of ours unread; there is none, but a reset is an end, too.
            Err(Errno::ECONNRESET) => return Ok(Some(self.end_of_report())),
            Err(errno) => return Err(Error::prepare("read what init reports", errno)),
        };
        if got.len == 0 {
            return Ok(Some(self.end_of_report()));
        }
        let [fd, ..] = got.fds;
        let message = Message::decode(&buf[..got.len]).filter(|_| !got.truncated);
        let event = match (message, fd) {
            (Some(Message::Warning { item, errno, value }), None) if !self.created => {
                self.plan.warning(item, errno, value).map(Event::Warning)
            }
            (Some(Message::Failed { item, part, errno }), None) => {
                self.finished = true;
                self.plan.failure(item, part, errno).map(Event::Failed)
            }
            (Some(Message::Terminal), Some(master)) if !self.created => Some(Event::Terminal(master)),
            (Some(Message::Created), None) if !self.created => {
                self.created = true;
                Some(Event::Created)
            }
            _ => None,
        };
        Ok(Some(event.unwrap_or_else(|| {
            self.finished = true;
            Event::Failed(Error::Protocol { reason: "unknown, out of order, or with the wrong contents" })
        })))
    }

    fn end_of_report(&mut self) -> Event {
        self.finished = true;
        if self.created {
            self.armed = false;
            return Event::Executed;
        }
        Event::Failed(Error::Died { stage: "during its set-up" })
    }

    /// Waits for the next event, at most until `deadline`: `None` when the time is up. For callers without an event loop.
    ///
    /// # Errors
    /// As for [`Starting::next_event`].
    pub fn wait_next(&mut self, deadline: Instant) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.next_event()? {
                return Ok(Some(event));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.finished {
                return Ok(None);
            }
            let mut fds = [fd::PollFd::new(self.report.as_fd(), fd::PollFlags::POLLIN)];
            match fd::poll(&mut fds, Some(left)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::prepare("wait for init's report", errno)),
            }
        }
    }

    /// Waits until the container is created: its warnings, and the master of its terminal if it has one.
    ///
    /// # Errors
    /// The child's failure; or that it was not ready within `timeout`.
    pub fn wait_created(&mut self, timeout: Duration) -> Result<(Vec<String>, Option<OwnedFd>), Error> {
        let deadline = Instant::now() + timeout;
        let (mut warnings, mut terminal) = (Vec::new(), None);
        loop {
            match self.wait_next(deadline)? {
                Some(Event::Warning(text)) => warnings.push(text),
                Some(Event::Terminal(master)) => terminal = Some(master),
                Some(Event::Created) => return Ok((warnings, terminal)),
                Some(Event::Failed(error)) => return Err(error),
                Some(Event::Executed) | None => {
                    return Err(Error::prepare("wait until the container is created", Errno::ETIMEDOUT));
                }
            }
        }
    }
}

impl AsFd for Starting {
    /// The report socket; readable when [`Starting::next_event`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.armed {
            end(self.pidfd.as_fd(), self.sibling);
        }
    }
}
