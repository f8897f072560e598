//! Starts a pod's keeper, the one process that `husk run` leaves behind by its own hand.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use husk_oci::sandbox;
use husk_oci::sys::{fd, process};
use husk_pause::proto::{KEEPER_EXE_FD, KEEPER_LOCK_FD, KEEPER_PAUSE_FD, KEEPER_READY_FD, KEEPER_REPORT_FD};

use super::Error;
use crate::cgroup::Placement;

/// What keeper is started with.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The locked pod directory; keeper holds the lock from here on.
    pub lock: BorrowedFd<'a>,
    /// The supervisor's executable.
    pub exe: BorrowedFd<'a>,
    /// The supervisor's end of the socket to us.
    pub ready: BorrowedFd<'a>,
    /// pause, to be cloned as keeper's child before keeper is executed: making its namespaces takes about as long as executing keeper and
    /// the supervisor.
    pub pause: &'a sandbox::Prepared<'a>,
    /// Where messages of keeper and supervisor go.
    pub log: BorrowedFd<'a>,
    /// `argv` of the supervisor.
    pub argv: Vec<CString>,
    /// The cgroup they live in.
    pub cgroup: &'a Placement,
}

/// Starts keeper, and pause as its child, in a session and cgroup of their own. Returns when it is cloned.
///
/// # Errors
/// The kernel's, with the step that failed.
pub fn launch(launch: Launch<'_>) -> Result<Launched, Error> {
    let image = crate::embedded::memfd(c"keeper", crate::embedded::KEEPER)
        .map_err(|e| Error::io("create a memory file for keeper", &e))?;
    let (report, write) = fd::pipe(false).map_err(|e| Error::sys("make a pipe for keeper's report", e))?;
    // Numbers above those that keeper expects, so that placing one does not hit another.
    let high = |what: BorrowedFd<'_>| fd::dup_from(what, 16);
    let numbered = |what: BorrowedFd<'_>| high(what).map_err(|e| Error::sys("duplicate an fd for keeper", e));
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(|e| Error::io("open /dev/null", &e))?);
    let placed: [(OwnedFd, i32); 6] = [
        (numbered(null.as_fd())?, 0),
        (numbered(null.as_fd())?, 1),
        (numbered(launch.log)?, 2),
        (numbered(launch.lock)?, KEEPER_LOCK_FD),
        (numbered(launch.exe)?, KEEPER_EXE_FD),
        (numbered(launch.ready)?, KEEPER_READY_FD),
    ];
    let image = numbered(image.as_fd())?;
    let child_report = numbered(write.as_fd())?;
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
        // When it cannot be cloned, the supervisor tries again, and can say more about it.
        let pause =
            launch.pause.clone_holder().and_then(|p| Ok((high(p.report.as_fd())?, high(p.child.pidfd.as_fd())?)));
        let pause = pause
            .as_ref()
            .map(|(report, pidfd)| [(report.as_fd(), KEEPER_REPORT_FD), (pidfd.as_fd(), KEEPER_PAUSE_FD)]);
        for (from, number) in
            placed.iter().map(|(from, number)| (from.as_fd(), *number)).chain(pause.into_iter().flatten())
        {
            if let Err(e) = fd::place(from, number) {
                fail(2, e);
            }
        }
        // A pod must not keep the caller's directory busy.
        if let Err(e) = husk_oci::sys::path::chdir(c"/") {
            fail(2, e);
        }
        fail(3, process::execveat(image.as_fd(), c"", &argv, &env))
    });
    Ok(Launched { child: born.map_err(|e| Error::sys("start keeper", e))?, report })
}

/// keeper on its way to its exec.
#[derive(Debug)]
pub struct Launched {
    /// It is our child.
    pub child: process::Child,
    report: OwnedFd,
}

impl Launched {
    /// Waits until keeper runs.
    ///
    /// # Errors
    /// The kernel's, with the step that failed; the child is reaped then.
    pub fn confirm(&self) -> Result<(), Error> {
        const STEPS: [&str; 4] =
            ["start a session for keeper", "enter the runtime cgroup", "hand fds to keeper", "execute keeper"];
        let mut record = [0u8; 5];
        match fd::read(self.report.as_fd(), &mut record) {
            Ok(0) => Ok(()),
            Ok(5) => {
                let _ = process::wait(process::Target::Pidfd(self.child.pidfd.as_fd()), false, false);
                let errno = i32::from_ne_bytes([record[1], record[2], record[3], record[4]]);
                let step = STEPS.get(usize::from(record[0])).copied().unwrap_or("start keeper");
                Err(Error::sys(step, nix::errno::Errno::from_raw(errno)))
            }
            Ok(_) => Err(Error::Internal { what: "keeper's report was cut off".into() }),
            Err(e) => Err(Error::sys("read keeper's report", e)),
        }
    }
}
