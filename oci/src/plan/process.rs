//! The part of the list that is the same for a container's first process and for an extra one: limits, identity, program.

use super::fds::Fds;
use super::{Program, Step, Target};
use crate::error::Error;
use crate::spec::cstring;
use crate::sys::process::{Limit, Strings};
use crate::sys::seccomp::Insn;
use crate::{caps, rlimit};
use oci_spec::runtime::Process;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What follows from where the process is put rather than from the spec.
pub(crate) struct Context<'a> {
    /// It enters a user namespace that is not ours.
    pub user_namespace: bool,
    pub seccomp: Option<&'a [Insn]>,
    pub die_with_parent: bool,
    /// Whoever writes a byte here starts it; `None` = at once.
    pub start: Option<BorrowedFd<'a>>,
}

/// Steps that must happen before the process leaves the host's mounts.
pub(crate) fn first_steps<'a>(
    steps: &mut Vec<Step>,
    fds: &mut Fds<'a>,
    process: &Process,
    stdio: Option<[BorrowedFd<'a>; 3]>,
    tasks: &'a [OwnedFd],
) -> Result<(), Error> {
    use std::os::fd::AsFd;
    let keep = |e| Error::prepare("keep an fd for the container", e);
    steps.extend([Step::NotDumpable, Step::CloseOthers]);
    if let Some([stdin, stdout, stderr]) = stdio {
        let slots = [fds.lend(stdin), fds.lend(stdout), fds.lend(stderr)];
        let [stdin, stdout, stderr] = slots.map(|s| s.map_err(keep));
        steps.push(Step::Stdio([stdin?, stdout?, stderr?]));
    }
    steps.push(Step::Session);
    for file in tasks {
        steps.push(Step::EnterCgroup(fds.lend(file.as_fd()).map_err(keep)?));
    }
    if let Some(value) = process.oom_score_adj() {
        if !(-1000..=1000).contains(&value) {
            return Err(Error::refused("process.oomScoreAdj", format!("{value} is not between -1000 and 1000")));
        }
        steps.push(Step::OomScoreAdj { value, text: value.to_string() });
    }
    if profile(process).is_some() {
        steps.push(Step::OpenAppArmor);
    }
    Ok(())
}

/// The AppArmor profile, when there is to be one.
fn profile(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|name| !name.is_empty())
}

/// The working directory as a place in the container.
pub(crate) fn cwd(process: &Process) -> Result<Target, Error> {
    let text = process.cwd().to_str().ok_or_else(|| Error::refused("process.cwd", "is not UTF-8"))?;
    super::container::target("process.cwd", text, false)
}

/// Steps from the moment on when the process is inside, up to `execve`.
pub(crate) fn last_steps<'a>(
    steps: &mut Vec<Step>,
    fds: &mut Fds<'a>,
    warnings: &mut Vec<String>,
    process: &Process,
    context: &Context<'a>,
) -> Result<(), Error> {
    steps.push(Step::Keyring);
    for limit in process.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        if limit.soft() > limit.hard() {
            let reason = format!("{name}: soft limit {} is above hard limit {}", limit.soft(), limit.hard());
            return Err(Error::refused("process.rlimits", reason));
        }
        let number = rlimit::number(limit.typ());
        steps.push(Step::Rlimit { name, number, limit: Limit { soft: limit.soft(), hard: limit.hard() } });
    }
    steps.push(Step::EnterCwd);
    let umask = process.user().umask().unwrap_or(0o022);
    if umask > 0o777 {
        return Err(Error::refused("process.user.umask", format!("{umask:#o} is not a mask")));
    }
    steps.push(Step::Umask(umask));
    let no_new_privs = process.no_new_privileges().unwrap_or(false);
    if let (Some(program), false) = (context.seccomp, no_new_privs) {
        steps.push(Step::SeccompEarly(program.to_vec()));
    }
    let sets = caps::from_spec(process.capabilities().as_ref(), caps::own(), context.user_namespace);
    if sets.refused != 0 {
        warnings.push(format!(
            "capabilities {} are outside of what this host allows its processes, continuing without them",
            caps::names(sets.refused)
        ));
    }
    steps.push(Step::Bounding { keep: sets.bounding, known: sets.known });
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    steps.push(Step::Ids {
        uid: user.uid(),
        gid: user.gid(),
        groups,
        keep_caps: user.uid() != 0 && sets.permitted != 0,
    });
    steps.push(Step::Capabilities(sets));
    if let Some(name) = profile(process) {
        if name.chars().any(char::is_control) {
            return Err(Error::refused("process.apparmorProfile", format!("{name:?} is no name of a profile")));
        }
        steps.push(Step::AppArmor { text: format!("exec {name}") });
    }
    if no_new_privs {
        steps.push(Step::NoNewPrivs);
        if let Some(program) = context.seccomp {
            steps.push(Step::SeccompLate(program.to_vec()));
        }
    }
    steps.extend([Step::FindProgram, Step::CloseOnExec]);
    if context.die_with_parent {
        steps.push(Step::DieWithParent);
    }
    steps.push(Step::ReportCreated);
    if let Some(start) = context.start {
        let slot = fds.lend(start).map_err(|e| Error::prepare("keep the start handle for the container", e))?;
        steps.push(Step::AwaitStart(slot));
    }
    steps.push(Step::Exec);
    Ok(())
}

/// The command, where it may be, and its environment.
pub(crate) fn program(process: &Process) -> Result<Program, Error> {
    let args = process.args().as_deref().unwrap_or_default();
    let env = process.env().as_deref().unwrap_or_default();
    let strings = |field: &str, list: &[String]| -> Result<Vec<CString>, Error> {
        list.iter().map(|s| cstring(field, s)).collect()
    };
    let argv = strings("process.args", args)?;
    let name = args.first().cloned().unwrap_or_default();
    let candidates = if name.contains('/') {
        vec![cstring("process.args", &name)?]
    } else if name.is_empty() {
        return Err(Error::refused("process.args[0]", "is empty"));
    } else {
        // The first PATH counts, as in getenv(3).
        let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        path.split(':')
            .map(|dir| if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") })
            .map(|candidate| cstring("process.env PATH", &candidate))
            .collect::<Result<_, _>>()?
    };
    let env = strings("process.env", env)?;
    Ok(Program { name, candidates, argv: Strings::new(argv), env: Strings::new(env) })
}
