//! Starts a pod's keeper, the one process that `husk run` leaves behind by its own hand.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use husk_oci::sys::{fd, process};
use husk_pause::proto::{KEEPER_EXE_FD, KEEPER_LOCK_FD};

use super::Error;
use crate::cgroup::Placement;

/// The pipe on which the first supervisor says that the pod is up.
pub const READY_FD: i32 = husk_pause::proto::KEEPER_READY_FD;

/// What keeper is started with.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The locked pod directory; keeper holds the lock from here on.
    pub lock: BorrowedFd<'a>,
    /// The supervisor's executable.
    pub exe: BorrowedFd<'a>,
    /// Write end of the ready pipe.
    pub ready: BorrowedFd<'a>,
    /// Where messages of keeper and supervisor go.
    pub log: BorrowedFd<'a>,
    /// `argv` of the supervisor.
    pub argv: Vec<CString>,
    /// The cgroup they live in.
    pub cgroup: &'a Placement,
}

/// Starts keeper in a session and cgroup of its own. Returns once it is known to run; it is our child.
///
/// # Errors
/// The kernel's, with the step that failed.
pub fn launch(launch: Launch<'_>) -> Result<process::Child, Error> {
    const STEPS: [&str; 4] =
        ["start a session for keeper", "enter the runtime cgroup", "hand fds to keeper", "execute keeper"];
    let image = crate::embedded::memfd(c"keeper", crate::embedded::KEEPER)
        .map_err(|e| Error::io("create a memory file for keeper", &e))?;
    let (report, write) = fd::pipe(false).map_err(|e| Error::sys("make a pipe for keeper's report", e))?;
    // Numbers above those that keeper expects, so that placing one does not hit another.
    let high = |what: BorrowedFd<'_>| fd::dup_from(what, 16).map_err(|e| Error::sys("duplicate an fd for keeper", e));
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(|e| Error::io("open /dev/null", &e))?);
    let placed: [(OwnedFd, i32); 6] = [
        (high(null.as_fd())?, 0),
        (high(null.as_fd())?, 1),
        (high(launch.log)?, 2),
        (high(launch.lock)?, KEEPER_LOCK_FD),
        (high(launch.exe)?, KEEPER_EXE_FD),
        (high(launch.ready)?, READY_FD),
    ];
    let image = high(image.as_fd())?;
    let child_report = high(write.as_fd())?;
    // The end of file tells of keeper's exec, so the child's must be the only one.
    drop(write);
    // keeper hands on what follows its own name.
    let argv = process::Strings::new([c"keeper".into()].into_iter().chain(launch.argv).collect());
    let env = process::Strings::new(vec![c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()]);
    let args = process::CloneArgs {
        namespaces: 0,
        sibling: false,
        into_cgroup: launch.cgroup.into_cgroup.as_ref().map(AsFd::as_fd),
    };
    let tasks = &launch.cgroup.tasks;
    let born = process::spawn(&args, || {
        let fail = |step: u8, errno: nix::errno::Errno| -> ! {
            let errno = (errno as i32).to_ne_bytes();
            let _ = fd::write(child_report.as_fd(), &[step, errno[0], errno[1], errno[2], errno[3]]);
            process::exit(1)
        };
        if let Err(e) = process::setsid() {
            fail(0, e);
        }
        for task in tasks {
            if let Err(e) = fd::write(task.as_fd(), b"0") {
                fail(1, e);
            }
        }
        process::umask(0o022);
        for (from, number) in &placed {
            if let Err(e) = fd::place(from.as_fd(), *number) {
                fail(2, e);
            }
        }
        // A pod must not keep the caller's directory busy.
        if let Err(e) = husk_oci::sys::path::chdir(c"/") {
            fail(2, e);
        }
        fail(3, process::execveat(image.as_fd(), c"", &argv, &env))
    });
    let child = born.map_err(|e| Error::sys("start keeper", e))?;
    drop(child_report);
    let mut record = [0u8; 5];
    match fd::read(report.as_fd(), &mut record) {
        Ok(0) => Ok(child),
        Ok(5) => {
            let _ = process::wait(process::Target::Pidfd(child.pidfd.as_fd()), false, false);
            let errno = i32::from_ne_bytes([record[1], record[2], record[3], record[4]]);
            let step = STEPS.get(usize::from(record[0])).copied().unwrap_or("start keeper");
            Err(Error::sys(step, nix::errno::Errno::from_raw(errno)))
        }
        Ok(_) => Err(Error::Internal { what: "keeper's report was cut off".into() }),
        Err(e) => Err(Error::sys("read keeper's report", e)),
    }
}
