//! The child between clone and `execve(2)`: walks the plan, reports numbers, touches nothing but `sys`.
//!
//! No allocation, no lock, no log, no panic, and no way out but `execve` and `exit`. Whatever it opens is dropped with its own copy
//! of the fd table.
//!
//! Files: this one has the loop and the small steps; `mounts` everything about the tree; `identity` who the process is; `terminal`;
//! `place` finds and makes paths inside the root.

mod identity;
mod mounts;
mod place;
mod terminal;

use crate::handshake::Message;
use crate::plan::{Part, Plan, Slot, Step};
use crate::sys::path::CWD;
use crate::sys::{Errno, fd, path, process};
use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why a step failed: which part of it, and what the kernel said.
pub(crate) struct Fault(Part, Errno);

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Fault(Part::Whole, errno)
    }
}

/// Names the part of a step that a call belongs to.
trait During<T> {
    fn during(self, part: Part) -> Result<T, Fault>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, part: Part) -> Result<T, Fault> {
        self.map_err(|errno| Fault(part, errno))
    }
}

type Done = Result<(), Fault>;

/// What the child knows and holds.
pub(crate) struct Init<'p> {
    pub plan: &'p Plan,
    /// By slot.
    pub fds: &'p [BorrowedFd<'p>],
    /// Ranges of fds that are not ours.
    pub gaps: &'p [(u32, u32)],
    pub report: BorrowedFd<'p>,
    /// Mounts cloned from the joined namespace; as long as `plan.cells` says.
    pub cells: &'p mut [Option<OwnedFd>],
    pub held: Held<'p>,
}

/// What steps leave for later ones.
#[derive(Default)]
pub(crate) struct Held<'p> {
    /// The root mount, once attached.
    root: Option<BorrowedFd<'p>>,
    /// For an exec: the root that was joined.
    joined_root: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    pts: Option<OwnedFd>,
    cwd: Option<OwnedFd>,
    /// The tmpfs with the cgroup hierarchies.
    cgroup: Option<OwnedFd>,
    /// The verified `/dev/null`, to hide files with.
    null: Option<OwnedFd>,
    /// An attached empty read-only tmpfs, to hide directories with.
    empty: Option<OwnedFd>,
    /// Takes the name of the AppArmor profile.
    apparmor: Option<OwnedFd>,
    /// Index of the candidate that was found.
    program: usize,
}

impl Held<'_> {
    /// The container's root.
    fn root(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.root.or(self.joined_root.as_ref().map(|r| r.as_fd())).ok_or(Fault(Part::Find, Errno::EBADF))
    }
}

/// Whose profile changes at its next `execve(2)`. Every kernel above our floor keeps AppArmor's files apart from other modules'.
const APPARMOR: &CStr = c"/proc/self/attr/apparmor/exec";

/// Exit code of a child that has reported why, or that was told to go; nobody reads it.
const GONE: i32 = 125;

impl<'p> Init<'p> {
    /// Walks the plan.
    pub(crate) fn run(mut self) -> Infallible {
        let plan = self.plan;
        // What we make gets exactly the permissions we say.
        process::umask(0);
        // For whoever looks at `ps` meanwhile; it can't fail.
        let _ = process::set_name(c"husk-init");
        for (item, step) in (0u16..).zip(&plan.steps) {
            if let Err(Fault(part, errno)) = self.apply(item, step) {
                let message = Message::Failed { item, part: part as u16, errno: errno as i32 };
                // Nobody is left to be told when this fails: the parent is gone.
                let _ = fd::send(self.report, &message.encode(), &[]);
                break;
            }
        }
        process::exit(GONE)
    }

    fn apply(&mut self, item: u16, step: &Step) -> Done {
        match step {
            Step::NotDumpable => Ok(process::set_dumpable(false)?),
            Step::CloseOthers => self.gaps.iter().try_for_each(|(a, b)| Ok(fd::close_range(*a, *b)?)),
            Step::Stdio(slots) => (0..).zip(slots).try_for_each(|(n, s)| Ok(fd::place(self.slot(*s)?, n)?)),
            Step::Session => Ok(process::setsid()?),
            Step::EnterCgroup(slot) => Ok(fd::write(self.slot(*slot)?, b"0").map(drop)?),
            Step::OomScoreAdj { text, .. } => self.oom_score_adj(item, text),
            Step::OpenAppArmor => {
                self.held.apparmor = Some(path::openat(CWD, APPARMOR, libc::O_WRONLY, 0)?);
                Ok(())
            }
            Step::AppArmor { text } => {
                let file = self.held.apparmor.as_ref().ok_or(Errno::EBADF)?;
                Ok(fd::write(file.as_fd(), text.as_bytes()).map(drop)?)
            }
            Step::Join { of, namespaces, .. } => Ok(process::setns(self.slot(*of)?, *namespaces)?),
            Step::BecomeRoot => identity::become_root(),
            Step::Unshare { namespaces } => Ok(process::unshare(*namespaces)?),
            Step::Hostname { name } => Ok(process::sethostname(name.to_bytes())?),
            Step::Domainname { name } => Ok(process::setdomainname(name.to_bytes())?),
            Step::Keyring => self.keyring(item),
            Step::Rlimit { number, limit, .. } => self.rlimit(item, *number, *limit),
            Step::Umask(mask) => {
                process::umask(*mask);
                Ok(())
            }
            Step::SeccompEarly(program) | Step::SeccompLate(program) => Ok(crate::sys::seccomp::install(program)?),
            Step::Bounding { keep, known } => identity::bounding(*keep, *known),
            Step::Ids { uid, gid, groups, keep_caps } => identity::ids(*uid, *gid, groups, *keep_caps),
            Step::Capabilities(sets) => identity::capabilities(sets),
            Step::NoNewPrivs => Ok(process::set_no_new_privs()?),
            Step::Terminal { rows, cols, uid, console } => self.terminal(*rows, *cols, *uid, console.as_ref()),
            Step::FindProgram => self.find_program(),
            Step::CloseOnExec => Ok(fd::cloexec_from(3)?),
            Step::DieWithParent => Ok(process::set_parent_death_signal(libc::SIGKILL)?),
            // A parent that died before the signal was asked for is noticed here: the packet can't be sent.
            Step::ReportCreated => self.tell(Message::Created, &[]),
            Step::AwaitStart(slot) => self.await_start(self.slot(*slot)?),
            Step::Exec => self.exec(),
            _ => self.apply_to_tree(step),
        }
    }

    fn slot(&self, slot: Slot) -> Result<BorrowedFd<'p>, Fault> {
        self.fds.get(slot).copied().ok_or(Fault(Part::Source, Errno::EBADF))
    }

    fn warn(&self, item: u16, errno: Errno, value: i64) -> Done {
        self.tell(Message::Warning { item, errno: errno as i32, value }, &[])
    }

    fn tell(&self, message: Message, fds: &[BorrowedFd<'_>]) -> Done {
        match fd::send(self.report, &message.encode(), fds) {
            // The parent is gone: whoever holds the start handle decides what becomes of us. A terminal must have somebody who holds it.
            Err(Errno::EPIPE | Errno::ECONNRESET) if fds.is_empty() => Ok(()),
            other => other.during(Part::Send).map(drop),
        }
    }

    /// The score we have is what the host allows: when a lower one is refused, it stays.
    fn oom_score_adj(&self, item: u16, text: &str) -> Done {
        const FILE: &CStr = c"/proc/self/oom_score_adj";
        let set = path::openat(CWD, FILE, libc::O_WRONLY, 0).and_then(|f| fd::write(f.as_fd(), text.as_bytes()));
        match set {
            Err(errno @ (Errno::EACCES | Errno::EPERM)) => {
                let file = path::openat(CWD, FILE, libc::O_RDONLY, 0)?;
                let mut buf = [0; 16];
                let len = fd::read(file.as_fd(), &mut buf)?;
                let now = str::from_utf8(&buf[..len]).ok().and_then(|t| t.trim().parse().ok());
                self.warn(item, errno, now.ok_or(Fault(Part::Verify, Errno::EINVAL))?)
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// A kernel without keyrings, or a user who has too many, gives no reason not to start.
    fn keyring(&self, item: u16) -> Done {
        match process::join_session_keyring() {
            Ok(()) | Err(Errno::ENOSYS) => Ok(()),
            Err(errno) => self.warn(item, errno, 0),
        }
    }

    /// A limit beyond what we may set is set as far as we may.
    fn rlimit(&self, item: u16, number: u32, limit: process::Limit) -> Done {
        match process::prlimit(0, number, Some(limit)) {
            Err(Errno::EPERM) => {
                let now = process::prlimit(0, number, None)?;
                let hard = limit.hard.min(now.hard);
                let least = process::Limit { soft: limit.soft.min(hard), hard };
                process::prlimit(0, number, Some(least))?;
                self.warn(item, Errno::EPERM, hard as i64)
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// The first candidate that exists and may be executed; "may not" is remembered over "is not there", as in `execvp(3)`.
    fn find_program(&mut self) -> Done {
        let mut refused = None;
        let mut last = Errno::ENOENT;
        for (i, candidate) in self.plan.program.candidates.iter().enumerate() {
            match path::executable(candidate) {
                Ok(()) => {
                    self.held.program = i;
                    return Ok(());
                }
                Err(Errno::EACCES) => refused = Some(Errno::EACCES),
                Err(errno) => last = errno,
            }
        }
        Err(refused.unwrap_or(last).into())
    }

    /// A byte is the go; the end of the pipe means that nobody can give it any more.
    fn await_start(&self, start: BorrowedFd<'_>) -> Done {
        let mut byte = [0];
        match fd::read(start, &mut byte)? {
            0 => process::exit(GONE),
            _ => Ok(()),
        }
    }

    fn exec(&self) -> Done {
        let program = &self.plan.program;
        let path = program.candidates.get(self.held.program).ok_or(Errno::ENOENT)?;
        process::default_signals();
        process::unblock_signals()?;
        let errno = process::execve(path, &program.argv, &program.env);
        // It was there a moment ago, so what is missing is most likely what it needs.
        let part = if errno == Errno::ENOENT { Part::Interpreter } else { Part::Whole };
        Err(Fault(part, errno))
    }
}
