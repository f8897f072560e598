//! Words for steps: what was being done, on what, and what to do when the kernel refuses.

use super::{Part, Plan, Step};
use crate::errno::Sys;
use crate::error::Error;
use crate::sys::process::ns;
use nix::errno::Errno;

impl Plan {
    /// The sentence for a failed step; `None` for numbers that fit no step of this plan.
    pub(crate) fn failure(&self, item: u16, part: u16, errno: i32) -> Option<Error> {
        let step = self.steps.get(usize::from(item))?;
        let part = Part::from_u16(part)?;
        let errno = Errno::from_raw(errno);
        if matches!(step, Step::FindProgram | Step::Exec) {
            return Some(self.program_failure(part, errno));
        }
        let doing = step.doing(part);
        Some(Error::Init { doing, errno, advice: step.advice(part, errno) })
    }

    fn program_failure(&self, part: Part, errno: Errno) -> Error {
        let program = self.program.name.clone();
        let (missing, advice) = match errno {
            Errno::ENOENT if part == Part::Interpreter => {
                (false, Some("the file is there, but the interpreter or dynamic loader it names is not in the image"))
            }
            Errno::ENOENT if program.contains('/') => (true, Some("there is no such file in the image")),
            Errno::ENOENT => (true, Some("it is in no directory of PATH")),
            Errno::ENOTDIR => (true, None),
            Errno::ENOEXEC => {
                (false, Some("it is built for another architecture, or it is a script without a \"#!\" line"))
            }
            Errno::EACCES => (false, Some("it is a directory, not marked executable, or its file system is noexec")),
            _ => (false, None),
        };
        Error::Program { program, errno, advice, missing }
    }

    /// The sentence for a step that was done in a lesser way.
    pub(crate) fn warning(&self, item: u16, errno: i32, value: i64) -> Option<String> {
        let errno = Sys(Errno::from_raw(errno));
        Some(match self.steps.get(usize::from(item))? {
            Step::OomScoreAdj { value: wanted, .. } => {
                format!("set oom_score_adj to {wanted}: {errno}, continuing with {value}")
            }
            Step::Rlimit { name, limit, .. } => format!(
                "set {name} to {}:{}: {errno}, continuing with {}",
                bound(limit.soft),
                bound(limit.hard),
                bound(value as u64)
            ),
            Step::Keyring => format!("make a session keyring: {errno}, continuing without one"),
            _ => return None,
        })
    }
}

fn bound(n: u64) -> String {
    if n == u64::MAX { "unlimited".into() } else { n.to_string() }
}

/// Names of namespaces, `net, ipc`.
pub(crate) fn namespaces(bits: u64) -> String {
    let names = [
        (ns::USER, "user"),
        (ns::NET, "net"),
        (ns::IPC, "ipc"),
        (ns::UTS, "uts"),
        (ns::MOUNT, "mount"),
        (ns::PID, "pid"),
        (ns::CGROUP, "cgroup"),
    ];
    let names: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    names.join(", ")
}

impl Step {
    /// What was being done, in words that follow "container web: ".
    fn doing(&self, part: Part) -> String {
        let at = |path: &str, whole: String| match part {
            Part::Find => format!("{whole}: find {path} in the container"),
            Part::Make => format!("{whole}: make {path} in the container"),
            Part::Verify => format!("{whole}: look at what is at {path} now"),
            Part::Attributes => format!("{whole}: set its options"),
            Part::Owner => format!("{whole}: set its owner"),
            Part::Source => format!("{whole}: open its source"),
            Part::Send => format!("{whole}: hand it over"),
            Part::Whole | Part::Interpreter => whole,
        };
        match self {
            Step::NotDumpable => "make init undumpable".into(),
            Step::CloseOthers => "close what belongs to the parent".into(),
            Step::Stdio(_) => "set up stdin, stdout and stderr".into(),
            Step::Session => "start a session".into(),
            Step::EnterCgroup(_) => "enter the container's cgroup".into(),
            Step::OomScoreAdj { value, .. } => format!("set oom_score_adj to {value}"),
            Step::Join { namespaces: bits, what, .. } => format!("join the namespaces {} of {what}", namespaces(*bits)),
            Step::BecomeRoot => "become root of the user namespace".into(),
            Step::CloneShared { path, container_path, .. } => {
                format!("mount {} on {container_path}: clone it from the sandbox", path.to_string_lossy())
            }
            Step::Unshare { namespaces: bits } => format!("make new namespaces {}", namespaces(*bits)),
            Step::PrivateMounts => "make the mounts private".into(),
            Step::AttachRoot { at, .. } => format!("attach the root file system at {}", at.to_string_lossy()),
            Step::MountNew { target, fstype, .. } => {
                let path = &target.container_path;
                at(path, format!("mount {} on {path}", fstype.to_string_lossy()))
            }
            Step::MountExisting { target, .. } => {
                let path = &target.container_path;
                at(path, format!("bind mount on {path}"))
            }
            Step::CgroupHierarchy { name, .. } => {
                format!("mount cgroup {} in the container's cgroup directory", name.to_string_lossy())
            }
            Step::CgroupReadonly => "make the container's cgroup directory read-only".into(),
            Step::OpenDev { .. } => at("/dev", "make the default devices".into()),
            Step::DevDirectory { name } => format!("make directory /dev/{}", name.to_string_lossy()),
            Step::DevLink { name, to } => {
                format!("make link /dev/{} to {}", name.to_string_lossy(), to.to_string_lossy())
            }
            Step::Device { target, .. } => at(&target.container_path, format!("make device {}", target.container_path)),
            Step::Terminal { .. } => at("/dev/pts", "open a terminal".into()),
            Step::Sysctl { name, value, .. } => format!("set sysctl {name} to {value:?}"),
            Step::Mask { target } => at(&target.container_path, format!("mask {}", target.container_path)),
            Step::ReadonlyPath { target } => {
                at(&target.container_path, format!("make {} read-only", target.container_path))
            }
            Step::OpenCwd { target, .. } => {
                at(&target.container_path, format!("enter working directory {}", target.container_path))
            }
            Step::RootAttributes { .. } => "set the options of the root file system".into(),
            Step::Pivot => "make the container's root the root".into(),
            Step::OpenRoot => "open the container's root".into(),
            Step::Hostname { name } => format!("set the host name to {}", name.to_string_lossy()),
            Step::Domainname { name } => format!("set the domain name to {}", name.to_string_lossy()),
            Step::Keyring => "make a session keyring".into(),
            Step::Rlimit { name, limit, .. } => format!("set {name} to {}:{}", bound(limit.soft), bound(limit.hard)),
            Step::EnterCwd => match part {
                Part::Verify => "enter the working directory: it is not inside the container".into(),
                _ => "enter the working directory".into(),
            },
            Step::Umask(_) => "set the umask".into(),
            Step::SeccompEarly(_) | Step::SeccompLate(_) => "install the seccomp filter".into(),
            Step::Bounding { .. } => "limit the capability bounding set".into(),
            Step::Ids { uid, gid, .. } => match part {
                Part::Owner => format!("set the supplementary groups of user {uid}"),
                _ => format!("become user {uid}, group {gid}"),
            },
            Step::Capabilities(_) => "set the capabilities".into(),
            Step::OpenAppArmor => "confine it with AppArmor".into(),
            Step::AppArmor { text } => {
                format!("confine it by the AppArmor profile {}", text.strip_prefix("exec ").unwrap_or(text))
            }
            Step::NoNewPrivs => "set no_new_privs".into(),
            Step::FindProgram | Step::Exec => "execute the program".into(),
            Step::CloseOnExec => "mark what is open as closing on exec".into(),
            Step::DieWithParent => "tie the life of init to its parent's".into(),
            Step::ReportCreated => "report that the container was created".into(),
            Step::AwaitStart(_) => "wait to be started".into(),
        }
    }

    /// What to do about it, where we know.
    fn advice(&self, part: Part, errno: Errno) -> Option<&'static str> {
        match (self, part, errno) {
            (Step::MountNew { .. } | Step::OpenDev { .. }, Part::Find, Errno::ELOOP) => {
                Some("the image has a symbolic link there, which is refused since it could lead the mount elsewhere")
            }
            (_, Part::Make, Errno::EROFS) => Some("the root file system can't be written: add the path to the image"),
            (_, Part::Make, Errno::EEXIST) => Some("a symbolic link that leads nowhere is in the way"),
            (_, Part::Find | Part::Make, Errno::ENOTDIR) => Some("a file is where a directory has to be"),
            (Step::MountExisting { .. }, Part::Whole, Errno::ENOTDIR) => {
                Some("one of source and mount point is a directory, the other is not")
            }
            (
                Step::MountNew { .. } | Step::Terminal { .. } | Step::Mask { .. } | Step::Device { .. },
                Part::Verify,
                Errno::EINVAL,
            ) => Some("something else is in its place"),
            (Step::Join { .. }, _, Errno::ESRCH) => Some("the process that holds them is dead"),
            (Step::Terminal { .. }, Part::Find, Errno::ENOENT) => Some("a terminal needs a devpts mount at /dev/pts"),
            (Step::EnterCgroup(_), _, Errno::EAGAIN) => Some("its limit on the number of processes is reached"),
            (Step::OpenAppArmor, _, Errno::ENOENT) => Some("the host's kernel has no AppArmor, or it is switched off"),
            (Step::AppArmor { .. }, _, Errno::ENOENT) => {
                Some("no profile of this name is loaded, see apparmor_parser(8)")
            }
            (Step::Ids { .. }, Part::Whole, Errno::EINVAL) => Some("the id is not mapped in the user namespace"),
            (Step::MountNew { .. }, Part::Whole, Errno::EPERM) => Some(
                "it needs CAP_SYS_ADMIN, and in a user namespace a proc or sysfs that the sandbox can see in whole",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Program;
    use crate::sys::process::Strings;

    fn plan(step: Step) -> Plan {
        Plan {
            steps: vec![step],
            cells: 0,
            program: Program {
                name: "sh".into(),
                candidates: vec![],
                argv: Strings::new(vec![]),
                env: Strings::new(vec![]),
            },
            warnings: vec![],
        }
    }

    #[test]
    fn a_missing_command_is_not_found_and_a_foreign_one_not_executable() {
        let p = plan(Step::Exec);
        let e = p.failure(0, 0, libc::ENOENT).unwrap();
        assert_eq!(e.kind(), crate::error::Kind::NotFound);
        assert_eq!(e.to_string(), "execute \"sh\": no such file or directory (ENOENT); it is in no directory of PATH");
        let e = p.failure(0, 0, libc::ENOEXEC).unwrap();
        assert_eq!(e.kind(), crate::error::Kind::NotExecutable);
        assert!(e.to_string().contains("another architecture"), "{e}");
        assert_eq!(
            p.failure(0, Part::Interpreter as u16, libc::ENOENT).unwrap().kind(),
            crate::error::Kind::NotExecutable
        );
    }

    #[test]
    fn numbers_that_fit_no_step_are_no_sentence() {
        let p = plan(Step::Session);
        assert!(p.failure(1, 0, 1).is_none());
        assert!(p.failure(0, 99, 1).is_none());
        assert!(p.warning(0, 1, 1).is_none(), "a session can't be started in a lesser way");
    }

    #[test]
    fn a_refused_score_says_what_it_is_now() {
        let p = plan(Step::OomScoreAdj { value: -998, text: "-998".into() });
        assert_eq!(
            p.warning(0, libc::EACCES, 0).unwrap(),
            "set oom_score_adj to -998: permission denied (EACCES), continuing with 0"
        );
    }
}
