//! The process that holds a sandbox: it makes namespaces, gives them a small root with the sandbox's shared tmpfs, loses every
//! privilege and executes an image that only waits.
//!
//! The steps, in order; each reports its number when it fails:
//!
//! 1. `clone3` with the PID and mount (and user) namespaces; the others are unshared by the child, so that the caller goes on while
//!    the kernel makes a network namespace.
//! 2. hostname, loopback, sysctls, oom_score_adj, while the host's `/proc` is still there.
//! 3. A small tmpfs becomes the root: `/root` (where containers attach theirs), the shared tmpfs, `/empty`; in a user namespace also a
//!    proc and a sysfs. Then it is read-only.
//! 4. chroot into `/empty`, so that `/proc/<pid>/root` of the holder shows nothing.
//! 5. ids, capabilities, no_new_privs; then the parent death signal, which a change of credentials would clear.
//! 6. A handshake: had the parent died before step 5 the signal would never come; but then whoever holds the other end of the socket, whose
//!    own parent death signal is the same, is dead, too, and the handshake ends the child.
//! 7. `execveat` of the image.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::errno::Sys;
use crate::spawn;
use crate::sys::process::{self, ns};
use crate::sys::{Errno, cred, fd, mount, net, path};

/// A tmpfs of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Absolute path in the holder's root, of one or two components.
    pub path: CString,
    /// Size; `None` = half of the memory, as tmpfs has it.
    pub size_bytes: Option<u64>,
    /// Permissions of its root.
    pub mode: u32,
    /// Nothing in it can be executed.
    pub noexec: bool,
}

/// Ids of a user namespace: `length` ids from 0 on inside are those from `first` on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id outside.
    pub first: u32,
    /// How many.
    pub length: u32,
}

/// A sandbox to make.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox<'a> {
    /// New namespaces, bits of [`ns`]; the mount namespace is always new.
    pub namespaces: u64,
    /// Name in the new UTS namespace.
    pub hostname: Option<&'a CStr>,
    /// Path below `/proc/sys` and value.
    pub sysctls: &'a [(CString, CString)],
    /// Shared tmpfs, made in this order, nosuid and nodev.
    pub tmpfs: &'a [Tmpfs],
    /// Static executable without needs; a sealed memfd. Best is one that `uid` can execute but not read: the kernel then keeps all but
    /// the host's root from looking into the process. With `user` it must be readable, since the kernel asks the same of whoever joins
    /// the sandbox from inside its user namespace.
    pub image: BorrowedFd<'a>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The holder becomes a child of the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
    /// Its oom_score_adj; a refusal is a warning.
    pub oom_score_adj: i32,
    /// A new user namespace; `uid` and `gid` are ids in it.
    pub user: Option<IdRange>,
}

/// A holder that runs.
#[derive(Debug)]
pub struct Held {
    /// pid in the caller's PID namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// Why there is no sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A step failed, in the caller or in the child.
    Step {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The child is gone without a word.
    Died,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Step { doing, errno } => {
                write!(f, "sandbox: {doing}: {}", Sys(*errno))?;
                match (doing.as_str(), errno) {
                    ("make its namespaces", Errno::ENOSPC) => {
                        f.write_str("; a limit of /proc/sys/user/max_*_namespaces is reached")
                    }
                    _ => Ok(()),
                }
            }
            Error::Died => f.write_str("sandbox: its process died during the set-up: it was killed"),
        }
    }
}

impl std::error::Error for Error {}

/// Steps of the child; append, never renumber.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Namespaces = 1,
    Private = 2,
    Hostname = 3,
    Loopback = 4,
    Sysctl = 5,
    OomScore = 6,
    Root = 7,
    Tmpfs = 8,
    Pivot = 9,
    Chroot = 10,
    Credentials = 11,
    DeathSignal = 12,
    Exec = 13,
    UserNamespace = 14,
    Visible = 15,
}

impl Step {
    const ALL: [Step; 15] = [
        Step::Namespaces,
        Step::Private,
        Step::Hostname,
        Step::Loopback,
        Step::Sysctl,
        Step::OomScore,
        Step::Root,
        Step::Tmpfs,
        Step::Pivot,
        Step::Chroot,
        Step::Credentials,
        Step::DeathSignal,
        Step::Exec,
        Step::UserNamespace,
        Step::Visible,
    ];

    fn sentence(self) -> &'static str {
        match self {
            Step::Namespaces => "make its namespaces",
            Step::Private => "make its mounts private",
            Step::Hostname => "set the hostname",
            Step::Loopback => "bring up the loopback interface",
            Step::Sysctl => "set sysctl",
            Step::OomScore => "set oom_score_adj of pause",
            Step::Root => "make pause's root",
            Step::Tmpfs => "mount tmpfs",
            Step::Pivot => "change to pause's root",
            Step::Chroot => "lock pause into an empty directory",
            Step::Credentials => "drop pause's privileges",
            Step::DeathSignal => "bind pause to the life of its parent",
            Step::Exec => "execute pause",
            Step::UserNamespace => "enter the user namespace",
            Step::Visible => "mount proc and sysfs for the containers of a user namespace",
        }
    }
}

/// A packet from the child: kind, step, item, errno.
const PACKET: usize = 8;
const KIND_WARNING: u8 = 1;
const KIND_FAILED: u8 = 2;
const KIND_READY: u8 = 3;
const KIND_NETWORK: u8 = 4;

fn packet(kind: u8, step: Step, item: usize, errno: Errno) -> [u8; PACKET] {
    let (item, errno) = ((item as u16).to_le_bytes(), (errno as i32).to_le_bytes());
    [kind, step as u8, item[0], item[1], errno[0], errno[1], errno[2], errno[3]]
}

/// A holder that is setting itself up. Dropping it ends the child.
#[derive(Debug)]
#[must_use = "dropping it kills the holder"]
pub struct Launching {
    held: Option<Held>,
    report: OwnedFd,
    items: [Vec<String>; 2],
    warnings: Vec<String>,
    network: bool,
    ready: bool,
    sibling: bool,
}

/// What one look at the holder's socket has found.
enum Heard {
    Nothing,
    Something,
    /// It is closed: by exec, or by death.
    End,
}

impl AsFd for Launching {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// A holder before its clone: everything that has to be allocated for it.
#[derive(Debug)]
pub struct Prepared<'a> {
    sandbox: &'a Sandbox<'a>,
    data: Vec<CString>,
    score: CString,
    argv: process::Strings,
    env: process::Strings,
}

/// Prepares a holder.
///
/// # Errors
/// [`Error::Step`]: a size or score that cannot be written down.
pub fn prepare<'a>(sandbox: &'a Sandbox<'a>) -> Result<Prepared<'a>, Error> {
    let data = sandbox.tmpfs.iter().map(options).collect::<Result<Vec<_>, _>>().map_err(failed("mount tmpfs"))?;
    let score =
        CString::new(sandbox.oom_score_adj.to_string()).map_err(|_| failed("set oom_score_adj")(Errno::EINVAL))?;
    let (argv, env) = (process::Strings::new(vec![c"/pause".into()]), process::Strings::new(Vec::new()));
    Ok(Prepared { sandbox, data, score, argv, env })
}

fn failed(doing: &str) -> impl Fn(Errno) -> Error + use<> {
    let doing = doing.to_owned();
    move |errno| Error::Step { doing: doing.clone(), errno }
}

/// A holder right after its clone: what [`adopt`] makes a [`Launching`] of, here or in another process.
#[derive(Debug)]
pub struct Cloned {
    /// The holder.
    pub child: process::Child,
    /// Our end of its socket. When the last copy is closed before the holder was released, it ends.
    pub report: OwnedFd,
}

impl Prepared<'_> {
    /// Clones the holder. Does not allocate: a process between its own clone and exec may call it, and pass the result on. Not for a
    /// sandbox with a user namespace of its own, whose ids [`start`] maps.
    ///
    /// # Errors
    /// The kernel's, for the socket or the clone.
    pub fn clone_holder(&self) -> Result<Cloned, Errno> {
        let (report, child) = fd::seqpacket_pair()?;
        let sandbox = self.sandbox;
        let born = sandbox.namespaces & ns::PID | ns::MOUNT | if sandbox.user.is_some() { ns::USER } else { 0 };
        let args = process::CloneArgs { namespaces: born, sibling: sandbox.sibling, into_cgroup: None };
        let kept = [sandbox.image.as_raw_fd() as u32, child.as_raw_fd() as u32];
        let made = process::spawn(&args, || {
            let (step, item, errno) = match close_others(kept) {
                Err(errno) => (Step::Namespaces, 0, errno),
                Ok(()) => match set_up(self, child.as_fd()) {
                    Err(at) => at,
                    Ok(never) => match never {},
                },
            };
            let _ = fd::send(child.as_fd(), &packet(KIND_FAILED, step, item, errno), &[]);
            process::exit(1)
        })?;
        Ok(Cloned { child: made, report })
    }
}

/// Closes what is not the child's: it must not keep anything open that others wait for, least of all the other end of its own socket.
fn close_others(kept: [u32; 2]) -> Result<(), Errno> {
    let (low, high) = (kept[0].min(kept[1]), kept[0].max(kept[1]));
    let ranges = [(3, low.saturating_sub(1)), (low + 1, high.saturating_sub(1)), (high + 1, u32::MAX)];
    ranges.into_iter().filter(|(first, last)| first <= last).try_for_each(|(first, last)| fd::close_range(first, last))
}

impl Cloned {
    /// Of the fds of a holder that another process has cloned and passed on.
    ///
    /// # Errors
    /// The kernel's when it does not tell the pid.
    pub fn from_fds(pidfd: OwnedFd, report: OwnedFd) -> Result<Cloned, Error> {
        let pid = match spawn::host_pid(pidfd.as_fd()) {
            // Dead, and reaped already where SIGCHLD is ignored. Its report still says which step has failed.
            Err(Errno::ESRCH) => 0,
            other => other.map_err(failed("find out the pid of pause"))?,
        };
        Ok(Cloned { child: process::Child { pid, pidfd }, report })
    }
}

/// Starts a holder; returns right after the clone.
///
/// # Errors
/// [`Error::Step`] of the caller's part.
pub fn start(sandbox: &Sandbox<'_>) -> Result<Launching, Error> {
    let cloned = prepare(sandbox)?.clone_holder().map_err(failed(Step::Namespaces.sentence()))?;
    let launching = adopt(sandbox.sysctls, sandbox.tmpfs, sandbox.sibling, cloned);
    if let (Some(range), Some(held)) = (sandbox.user, &launching.held) {
        map_ids(held.pid, range).map_err(failed("map the ids of the user namespace"))?;
        fd::send(launching.report.as_fd(), b"m", &[]).map_err(failed("map the ids of the user namespace"))?;
    }
    Ok(launching)
}

/// Takes charge of a holder that was cloned, maybe by another process. `sysctls` and `tmpfs` are what it was cloned with, to name in errors;
/// `sibling`: somebody else reaps it.
pub fn adopt(sysctls: &[(CString, CString)], tmpfs: &[Tmpfs], sibling: bool, cloned: Cloned) -> Launching {
    let name = |s: &CString| s.to_string_lossy().into_owned();
    Launching {
        held: Some(Held { pid: cloned.child.pid, pidfd: cloned.child.pidfd }),
        report: cloned.report,
        items: [sysctls.iter().map(|(n, _)| name(n)).collect(), tmpfs.iter().map(|t| name(&t.path)).collect()],
        warnings: Vec::new(),
        network: false,
        ready: false,
        sibling,
    }
}

/// `mount(2)` data of a tmpfs.
fn options(t: &Tmpfs) -> Result<CString, Errno> {
    let size = t.size_bytes.map_or(String::new(), |s| format!(",size={s}"));
    CString::new(format!("mode={:o}{size}", t.mode)).map_err(|_| Errno::EINVAL)
}

fn map_ids(pid: i32, range: IdRange) -> Result<(), Errno> {
    for file in ["uid_map", "gid_map"] {
        let written = std::fs::write(format!("/proc/{pid}/{file}"), format!("0 {} {}\n", range.first, range.length));
        written.map_err(|e| Sys::from(&e).0)?;
    }
    Ok(())
}

type Failure = (Step, usize, Errno);

/// The child. No allocation, no locks; leaves by exec, or with the step that failed.
fn set_up(prepared: &Prepared<'_>, report: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    let Prepared { sandbox, data, score, argv, env } = prepared;
    let at = |step: Step| move |errno: Errno| (step, 0, errno);
    if sandbox.user.is_some() {
        let mut mapped = [0u8; 1];
        match fd::read(report, &mut mapped) {
            Ok(1) => {}
            _ => process::exit(1),
        }
        cred::set_gid(0).and_then(|()| cred::set_uid(0)).map_err(at(Step::UserNamespace))?;
    }
    let rest = sandbox.namespaces & (ns::NET | ns::IPC | ns::UTS);
    if rest != 0 {
        process::unshare(rest).map_err(at(Step::Namespaces))?;
    }
    mount::set_propagation(c"/", mount::Propagation::Private, true).map_err(at(Step::Private))?;
    if let Some(name) = sandbox.hostname {
        process::sethostname(name.to_bytes()).map_err(at(Step::Hostname))?;
    }
    if rest & ns::NET != 0 {
        net::loopback_up().map_err(at(Step::Loopback))?;
    }
    kernel_settings(sandbox, score, report)?;
    if rest & ns::NET != 0 {
        // Where nobody hears it, nobody hears that it is ready either.
        let _ = fd::send(report, &packet(KIND_NETWORK, Step::Sysctl, 0, Errno::UnknownErrno), &[]);
    }
    let null = path::openat(cwd(), c"/dev/null", libc::O_RDWR, 0).map_err(at(Step::Root))?;
    new_root(sandbox, data)?;
    path::chroot(c"/empty").and_then(|()| path::chdir(c"/")).map_err(at(Step::Chroot))?;
    for number in 0..3 {
        fd::place(null.as_fd(), number).map_err(at(Step::Exec))?;
    }
    fd::cloexec_from(3).map_err(at(Step::Exec))?;
    credentials(sandbox.uid, sandbox.gid).map_err(at(Step::Credentials))?;
    process::set_parent_death_signal(libc::SIGKILL).map_err(at(Step::DeathSignal))?;
    let ready = packet(KIND_READY, Step::DeathSignal, 0, Errno::UnknownErrno);
    let mut go = [0u8; 1];
    if fd::send(report, &ready, &[]).is_err() || fd::read(report, &mut go) != Ok(1) {
        // Nobody is there to hold a sandbox for.
        process::exit(1);
    }
    Err((Step::Exec, 0, process::execveat(sandbox.image, c"", argv, env)))
}

fn cwd() -> BorrowedFd<'static> {
    nix::fcntl::AT_FDCWD
}

fn write_file(dir: BorrowedFd<'_>, name: &CStr, value: &CStr) -> Result<(), Errno> {
    let file = path::openat(dir, name, libc::O_WRONLY | libc::O_NOFOLLOW, 0)?;
    fd::write(file.as_fd(), value.to_bytes()).map(drop)
}

/// sysctls go through the host's `/proc`: those of net, ipc and uts belong to the namespaces of whoever opens them.
fn kernel_settings(sandbox: &Sandbox<'_>, score: &CStr, report: BorrowedFd<'_>) -> Result<(), Failure> {
    if !sandbox.sysctls.is_empty() {
        let sysctl = path::openat(cwd(), c"/proc/sys", libc::O_PATH | libc::O_DIRECTORY, 0);
        let sysctl = sysctl.map_err(|errno| (Step::Sysctl, 0, errno))?;
        for (item, (name, value)) in sandbox.sysctls.iter().enumerate() {
            write_file(sysctl.as_fd(), name, value).map_err(|errno| (Step::Sysctl, item, errno))?;
        }
    }
    if let Err(errno) = write_file(cwd(), c"/proc/self/oom_score_adj", score) {
        let _ = fd::send(report, &packet(KIND_WARNING, Step::OomScore, 0, errno), &[]);
    }
    Ok(())
}

/// A tmpfs with nothing but mount points becomes the root of the mount namespace; the old root goes.
fn new_root(sandbox: &Sandbox<'_>, data: &[CString]) -> Result<(), Failure> {
    let at = |step: Step| move |errno: Errno| (step, 0, errno);
    let root = || -> Result<OwnedFd, Errno> {
        let fs = mount::fsopen(c"tmpfs")?;
        mount::fsconfig_set_string(fs.as_fd(), c"mode", c"755")?;
        mount::fsconfig_set_string(fs.as_fd(), c"size", c"64k")?;
        mount::fsconfig_create(fs.as_fd())?;
        let root = mount::fsmount(fs.as_fd(), mount::attr::NOSUID | mount::attr::NODEV | mount::attr::NOEXEC)?;
        mount::attach_at(root.as_fd(), cwd(), c"/")?;
        path::fchdir(root.as_fd())?;
        for name in [c"root", c"v", c"empty"] {
            path::mkdirat(root.as_fd(), name, 0o755)?;
        }
        Ok(root)
    };
    let root = root().map_err(at(Step::Root))?;
    if sandbox.user.is_some() {
        visible_kernel(root.as_fd(), sandbox.namespaces).map_err(at(Step::Visible))?;
    }
    for (item, (tmpfs, data)) in sandbox.tmpfs.iter().zip(data).enumerate() {
        mount_tmpfs(root.as_fd(), tmpfs, data).map_err(|errno| (Step::Tmpfs, item, errno))?;
    }
    let pivot = || -> Result<(), Errno> {
        let old = path::openat(cwd(), c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        path::fchdir(root.as_fd())?;
        mount::pivot_root(c".", c".")?;
        path::fchdir(old.as_fd())?;
        mount::umount(c".", true)?;
        let read_only = mount::SetAttr { set: mount::attr::RDONLY, ..mount::SetAttr::default() };
        mount::mount_setattr(root.as_fd(), read_only)
    };
    pivot().map_err(at(Step::Pivot))
}

/// In a user namespace the kernel mounts a new proc or sysfs only where one can be seen in whole already: so that containers may have
/// theirs, the sandbox's own are there, for the namespaces that are its own.
fn visible_kernel(root: BorrowedFd<'_>, namespaces: u64) -> Result<(), Errno> {
    for (bit, fstype) in [(ns::PID, c"proc"), (ns::NET, c"sysfs")] {
        if namespaces & bit != 0 {
            path::mkdirat(root, fstype, 0o755)?;
            let point = path::openat(root, fstype, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
            path::fchdir(point.as_fd())?;
            mount::mount_here(fstype, fstype, libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, None)?;
        }
    }
    Ok(())
}

fn mount_tmpfs(root: BorrowedFd<'_>, tmpfs: &Tmpfs, data: &CStr) -> Result<(), Errno> {
    let relative = tmpfs.path.to_bytes_with_nul().get(1..).and_then(|b| CStr::from_bytes_with_nul(b).ok());
    let relative = relative.ok_or(Errno::EINVAL)?;
    path::mkdirat(root, relative, 0o755)?;
    let point = path::openat(root, relative, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)?;
    path::fchdir(point.as_fd())?;
    let noexec = if tmpfs.noexec { libc::MS_NOEXEC } else { 0 };
    mount::mount_here(c"tmpfs", c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV | noexec, Some(data))
}

/// Nothing is left: groups, ids, every capability set, and no way to get any of it back.
fn credentials(uid: u32, gid: u32) -> Result<(), Errno> {
    cred::clear_ambient()?;
    let mut cap = 0;
    while let Ok(there) = cred::in_bounding(cap) {
        if there {
            cred::drop_bounding(cap)?;
        }
        cap += 1;
    }
    cred::set_groups(&[])?;
    cred::set_gid(gid)?;
    cred::set_uid(uid)?;
    cred::capset(cred::CapSets::default())?;
    process::set_no_new_privs()
}

impl Launching {
    /// The holder, until it was returned: others may refer to it by this before it is ready.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.held.as_ref().map(|held| held.pidfd.as_fd())
    }

    /// The holder and its warnings once the image runs, `None` while it is being set up. Does not wait: poll [`AsFd::as_fd`].
    ///
    /// # Errors
    /// The step that failed; the child is dead then.
    #[allow(
        clippy::should_implement_trait,
        reason = "what is not there yet and what failed are told apart, so it is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<(Held, Vec<String>)>, Error> {
        loop {
            match self.hear()? {
                Heard::Nothing => return Ok(None),
                Heard::Something => {}
                Heard::End => return self.end(),
            }
        }
    }

    /// Its network namespace is there with its settings, and can be given links while the holder goes on. Does not wait: poll [`AsFd::as_fd`].
    ///
    /// # Errors
    /// As [`Launching::next`].
    pub fn has_network(&mut self) -> Result<bool, Error> {
        while !self.network {
            match self.hear()? {
                Heard::Nothing => return Ok(false),
                Heard::Something => {}
                Heard::End => return Err(Error::Died),
            }
        }
        Ok(true)
    }

    /// Takes in one report, if there is one.
    fn hear(&mut self) -> Result<Heard, Error> {
        let mut packet = [0u8; PACKET + 1];
        let got = match fd::recv(self.report.as_fd(), &mut packet, true) {
            Ok(got) => got.len,
            Err(Errno::EAGAIN) => return Ok(Heard::Nothing),
            // Told once, ahead of what it had sent before it died.
            Err(Errno::ECONNRESET) => return Ok(Heard::Something),
            Err(errno) => return Err(Error::Step { doing: "read what pause reports".into(), errno }),
        };
        if got == 0 {
            return Ok(Heard::End);
        }
        let errno = Errno::from_raw(i32::from_le_bytes([packet[4], packet[5], packet[6], packet[7]]));
        let item = usize::from(u16::from_le_bytes([packet[2], packet[3]]));
        let step = Step::ALL.into_iter().find(|s| *s as u8 == packet[1]);
        match (got, packet[0], step) {
            (PACKET, KIND_NETWORK, _) => self.network = true,
            (PACKET, KIND_READY, _) if !self.ready => {
                self.ready = true;
                let go = fd::send(self.report.as_fd(), b"g", &[]);
                go.map_err(|errno| Error::Step { doing: "release pause".into(), errno })?;
            }
            (PACKET, KIND_WARNING, Some(step)) => {
                self.warnings.push(format!("{}: {}, continuing without it", step.sentence(), Sys(errno)));
            }
            (PACKET, KIND_FAILED, Some(step)) => {
                return Err(Error::Step { doing: self.sentence(step, item), errno });
            }
            _ => return Err(Error::Step { doing: "understand what pause reports".into(), errno: Errno::EPROTO }),
        }
        Ok(Heard::Something)
    }

    /// As [`Launching::next`], but waits.
    ///
    /// # Errors
    /// As [`Launching::next`].
    pub fn wait(&mut self) -> Result<(Held, Vec<String>), Error> {
        loop {
            if let Some(done) = self.next()? {
                return Ok(done);
            }
            let mut fds = [fd::PollFd::new(self.report.as_fd(), fd::PollFlags::POLLIN)];
            match fd::poll(&mut fds, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Step { doing: "wait for pause".into(), errno }),
            }
        }
    }

    fn sentence(&self, step: Step, item: usize) -> String {
        let item = match step {
            Step::Sysctl => self.items[0].get(item).map(|name| name.replace('/', ".")),
            Step::Tmpfs => self.items[1].get(item).cloned(),
            _ => None,
        };
        item.map_or_else(|| step.sentence().to_owned(), |item| format!("{} {item}", step.sentence()))
    }

    /// The report is closed.
    fn end(&mut self) -> Result<Option<(Held, Vec<String>)>, Error> {
        if !self.ready {
            return Err(Error::Died);
        }
        let Some(held) = self.held.take() else { return Err(Error::Died) };
        let mut dead = [fd::PollFd::new(held.pidfd.as_fd(), fd::PollFlags::POLLIN)];
        if fd::poll(&mut dead, Some(std::time::Duration::ZERO)) == Ok(1) {
            return Err(Error::Died);
        }
        Ok(Some((held, std::mem::take(&mut self.warnings))))
    }
}

impl Drop for Launching {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            // ESRCH: it is gone already.
            let _ = process::pidfd_send_signal(held.pidfd.as_fd(), libc::SIGKILL);
            if !self.sibling {
                let _ = process::wait(process::Target::Pidfd(held.pidfd.as_fd()), false, false);
            }
        }
    }
}
