//! `husk delete`: asks the pod's supervisor, or collects a pod that has none.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use husk_oci::sys::process;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, stat};

use super::{Error, remove, run::wait_until_unlocked, say, scope};
use crate::cgroup::{CgroupDriver, Cgroupfs, DriverKind};
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::state::timeline::{Step, What};
use crate::state::{Listed, Lock, LockMode, Roots};

/// How the pod shall end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; `None` = the pod's own `terminationGracePeriodSeconds`.
    pub grace_seconds: Option<u64>,
    /// SIGKILL at once.
    pub force: bool,
    /// Return when everything is gone, not when the deletion was recorded.
    pub wait: bool,
}

/// How long a supervisor that was told to kill the pod at once may take, before keeper is killed instead.
const FORCE_PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for somebody else who is removing the pod.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Ends a pod and removes it. Blocks until everything is gone, if `wait`; otherwise until the supervisor has recorded the wish. Its records need
/// not be readable: a supervisor that lives knows them by heart, and what nobody runs is found by its id.
///
/// # Errors
/// The supervisor cannot be reached although keeper lives, or something cannot be removed. A pod that is gone is success.
pub fn delete(roots: &Roots, pod: &Listed, options: DeleteOptions) -> Result<(), Error> {
    end(roots, pod, options, None)
}

/// As [`delete`], and tells when what was done: nothing of a pod whose keeper was killed, or by force although its supervisor does not answer.
///
/// # Errors
/// As [`delete`].
pub fn delete_and_tell(roots: &Roots, pod: &Listed, options: DeleteOptions) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    end(roots, pod, options, Some(&mut steps))?;
    Ok(steps)
}

/// The directory of the pod that is deleted: this one and no other, whoever makes a pod of the same name and uid anew meanwhile.
struct Held(OwnedFd);

impl Held {
    /// `None` when there is none.
    fn open(dir: &Path) -> Result<Option<Held>, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match open(dir, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Held(fd))),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(e) => Err(Error::sys(format_args!("open {}", dir.display()), e)),
        }
    }

    /// A path to it wherever it is, and when it is nowhere any more.
    fn path(&self) -> PathBuf {
        // The dot: what opens a lock does not follow a link in the last place.
        PathBuf::from(format!("/proc/self/fd/{}/.", self.0.as_raw_fd()))
    }

    fn stat(&self) -> Result<FileStat, Error> {
        fstat(&self.0).map_err(|e| Error::sys("look at the pod's directory", e))
    }

    /// Somebody holds its lock.
    fn is_live(&self) -> bool {
        matches!(Lock::attempt(&self.path(), LockMode::Shared), Ok(None))
    }

    fn is_at(&self, dir: &Path) -> bool {
        let here = |own: FileStat| stat(dir).is_ok_and(|it| (it.st_dev, it.st_ino) == (own.st_dev, own.st_ino));
        self.stat().is_ok_and(here)
    }
}

fn end(roots: &Roots, pod: &Listed, options: DeleteOptions, mut steps: Option<&mut Vec<Step>>) -> Result<(), Error> {
    let (id, dir) = (pod.id(), roots.pod_dir(pod.id()));
    if let Listed::Unreadable(it) = pod
        && !it.live
        && !it.is_garbage()
        && !options.force
    {
        let what = format!("{}; with --force it is removed all the same", it.error);
        return Err(Error::Pod { pod: pod.full_name(), what });
    }
    let request = Request::Delete {
        grace_seconds: options.grace_seconds,
        force: options.force,
        nowait: !options.wait,
        timeline: steps.is_some(),
    };
    let held = Held::open(&dir)?;
    // What is no directory is no pod, but may be taken away.
    let is_there = || held.as_ref().map_or_else(|| dir.symlink_metadata().is_ok(), |held| held.is_at(&dir));
    let lives = || held.as_ref().is_some_and(Held::is_live);
    let at = held.as_ref().map_or_else(|| dir.clone(), Held::path);
    loop {
        if !lives() {
            let detect = || Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() });
            // Most often its supervisor has left nothing.
            if is_there() {
                if let Some(steps) = steps.as_deref_mut().filter(|steps| steps.is_empty()) {
                    // One that came to its end by itself.
                    let plays = roots.timeline(id)?.into_iter();
                    steps.extend(plays.filter(|p| p.what == What::Stop).flat_map(|p| p.steps));
                }
                let collected = remove::collect(roots, &detect()?, id).map_err(|errors| join(&errors))?;
                if !collected && is_there() {
                    // Somebody holds its lock: another who collects it, or keeper, and the look above went wrong.
                    std::thread::sleep(LOOK_AGAIN);
                    continue;
                }
            }
            if roots.is_quiet()? {
                return remove::runtime_cgroup(roots, &detect()?);
            }
            // With the cgroupfs driver whoever removed the pod has done so.
            let units = matches!(pod, Listed::Pod(entry) if entry.record.cgroup_driver == DriverKind::Systemd);
            if units && let Err(e) = detect().and_then(|driver| scope::weigh(roots, &driver)) {
                say::say("warn", format_args!("weigh the pods that go on: {e}, continuing; husk gc tries again"));
            }
            return Ok(());
        }
        let answer = if options.force {
            Client::ask_within(&at, &request, &[], lives, FORCE_PATIENCE)
        } else {
            Client::ask(&at, &request, &[], lives).map(|(_, response, _)| response)
        };
        match answer {
            Ok(Response::Error { message, .. }) => return Err(Error::Pod { pod: pod.full_name(), what: message }),
            Ok(_) if !options.wait => return Ok(()),
            Ok(Response::Ended { steps: told }) => {
                if let Some(steps) = steps.as_deref_mut() {
                    *steps = told;
                }
                wait_until_unlocked(&at);
            }
            // The records go with the supervisor's last act; what is left when keeper is gone is ours.
            Ok(_) => wait_until_unlocked(&at),
            Err(_) if options.force && lives() => {
                if let Some(held) = &held {
                    end_keeper(roots, pod, held, &dir)?;
                }
                wait_until_unlocked(&at);
            }
            Err(e) if lives() => {
                let what = format!(
                    "its supervisor does not answer: {}; see supervisor.log in {}, or use --force",
                    husk_oci::errno::io_text(&e),
                    dir.display()
                );
                return Err(Error::Pod { pod: pod.full_name(), what });
            }
            // It came to its end before the answer did.
            Err(_) => {}
        }
    }
}

pub(super) fn join(errors: &[Error]) -> Error {
    Error::Host { what: errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ") }
}

/// Kills the keeper of a pod whose supervisor is of no use, and by that everything in the pod.
fn end_keeper(roots: &Roots, pod: &Listed, held: &Held, dir: &Path) -> Result<(), Error> {
    let driver = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
    let wanted = held.stat()?;
    // The lock does not tell who holds it: `flock` knows the process that took it, which was `husk run`. keeper has it as this fd.
    let lock = husk_pause::proto::KEEPER_LOCK_FD;
    let holds = |pid: i32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let has = stat(format!("/proc/{pid}/fd/{lock}").as_str());
        comm.trim_end() == "keeper" && has.is_ok_and(|has| (has.st_dev, has.st_ino) == (wanted.st_dev, wanted.st_ino))
    };
    let record = if let Listed::Pod(entry) = pod { Some(&entry.record) } else { None };
    let mut pids = Vec::new();
    for path in remove::runtime_cgroups(roots, pod.id(), record) {
        pids.extend(driver.processes(&path).map_err(|e| Error::Host { what: e.to_string() })?);
    }
    for pid in pids {
        // First the fd, then the look: so it is this very process that is looked at.
        if let Ok(pidfd) = process::pidfd_open(pid)
            && holds(pid)
        {
            return match process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
                Err(Errno::ESRCH) | Ok(()) => Ok(()),
                Err(e) => Err(Error::sys(format_args!("kill keeper {pid}"), e)),
            };
        }
    }
    if !held.is_live() {
        return Ok(());
    }
    let what = format!("no keeper holds {}, though it is locked; see who does: fuser -v {0}", dir.display());
    Err(Error::Host { what })
}
