//! An extra process in a running container.

use crate::error::Error;
use crate::plan::fds::Fds;
use crate::plan::process::{self, Context};
use crate::plan::{Plan, Step};
use crate::spawn::{Birth, Join, PidNamespace, Placement, Starting, Stdio, launch};
use crate::spec::{self, Given};
use crate::sys::process::ns;
use crate::sys::seccomp::Insn;
use oci_spec::runtime::Process;
use std::os::fd::BorrowedFd;

/// A process to start in a container.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    /// What to run, as whom, where. Unlike a container's first process, this one's working directory is not made.
    pub process: &'a Process,
    /// A process of the container, whose namespaces (net, ipc, uts, mount, cgroup) are joined, and of whose PID namespace the new process
    /// becomes a member. `user`: it lives in a user namespace of its own.
    pub container: Join<'a>,
    /// The cgroups.
    pub cgroup: Placement<'a>,
    /// The standard streams; a terminal is made out of the container's devpts.
    pub stdio: Stdio<'a>,
    /// A byte that can be read here starts the program and the end ends the process; `None` = at once.
    pub start: Option<BorrowedFd<'a>>,
    /// The process becomes a child of the caller's parent (`CLONE_PARENT`).
    pub sibling: bool,
    /// The process is killed when its parent dies.
    pub die_with_parent: bool,
    /// A compiled seccomp filter.
    pub seccomp: Option<&'a [Insn]>,
}

/// Clones the process and returns at once. What it reports is what a container's first process reports: `Created` once it is set up,
/// then `Executed` or `Failed`, whose error's kind tells a missing command (127) from one that can't be executed (126).
///
/// # Errors
/// [`Error::Refused`] before anything was done; [`Error::Prepare`] when the process could not be cloned.
pub fn exec(req: &Exec<'_>) -> Result<Starting, Error> {
    let (plan, fds) = plan(req)?;
    let birth = Birth {
        join: Some(req.container),
        pid_namespace: PidNamespace::Sandbox,
        pid_namespace_of: None,
        into_cgroup: req.cgroup.into_cgroup,
        sibling: req.sibling,
    };
    launch(plan, &fds, &birth)
}

fn plan<'a>(req: &Exec<'a>) -> Result<(Plan, Fds<'a>), Error> {
    let terminal = match req.stdio {
        Stdio::Fds(_) => None,
        Stdio::Terminal { rows, cols } => Some((rows, cols)),
    };
    let given = Given { seccomp: req.seccomp.is_some(), terminal: terminal.is_some() };
    spec::check_process(req.process, given)?;
    let mut steps = Vec::with_capacity(48);
    let mut fds = Fds::default();
    let stdio = match req.stdio {
        Stdio::Fds(fds) => Some(fds),
        Stdio::Terminal { .. } => None,
    };
    process::first_steps(&mut steps, &mut fds, req.process, stdio, req.cgroup.tasks)?;
    let of = fds.lend(req.container.pidfd).map_err(|e| Error::prepare("keep the container's pidfd", e))?;
    let user = req.container.user;
    let namespaces = if user { ns::USER } else { 0 } | ns::NET | ns::IPC | ns::UTS | ns::MOUNT | ns::CGROUP;
    steps.push(Step::Join { of, namespaces, what: "the container".into() });
    if user {
        steps.push(Step::BecomeRoot);
    }
    steps.push(Step::OpenRoot);
    if let Some((rows, cols)) = terminal {
        steps.push(Step::Terminal { rows, cols, uid: req.process.user().uid(), console: None });
    }
    steps.push(Step::OpenCwd { target: process::cwd(req.process)?, create: false });
    let mut warnings = Vec::new();
    let context =
        Context { user_namespace: user, seccomp: req.seccomp, die_with_parent: req.die_with_parent, start: req.start };
    process::last_steps(&mut steps, &mut fds, &mut warnings, req.process, &context)?;
    Ok((Plan { steps, cells: 0, program: process::program(req.process)?, warnings }, fds))
}
