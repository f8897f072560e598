//! pause as a program: signals, orphans, odd starts, and its budget.

mod common;

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use common::{children, end_of, eventually, program, resident_kib, status};
use husk_oci::sys::process::{self, Child, CloneArgs, Exit, Strings, Target, ns};
use husk_oci::sys::{cred, fd};

/// How pause is started.
#[derive(Default)]
struct Start<'a> {
    /// In a new PID namespace.
    init: bool,
    args: &'a [&'a CStr],
    /// What becomes 1 and 2; `None` = closed, and 0 with them.
    output: Option<&'a OwnedFd>,
    uid: Option<u32>,
}

/// A running pause, killed and reaped at the end of the test.
struct Pause(Child);

impl Pause {
    fn start(start: Start<'_>) -> Pause {
        let image = program(pause::image::PAUSE);
        let argv = [c"/pause"].iter().chain(start.args).map(|s| CString::from(*s)).collect();
        let (argv, env) = (Strings::new(argv), Strings::new(vec![]));
        let args = CloneArgs { namespaces: if start.init { ns::PID } else { 0 }, ..CloneArgs::default() };
        let child = process::spawn(&args, || -> Infallible {
            let failed = |_| process::exit(99);
            match start.output {
                Some(file) => {
                    fd::place(file.as_fd(), 1).unwrap_or_else(failed);
                    fd::place(file.as_fd(), 2).unwrap_or_else(failed);
                }
                None => fd::close_range(0, 2).unwrap_or_else(failed),
            }
            if let Some(uid) = start.uid {
                cred::set_gid(uid).unwrap_or_else(failed);
                cred::set_uid(uid).unwrap_or_else(failed);
            }
            process::execveat(image.as_fd(), c"", &argv, &env);
            process::exit(98)
        });
        Pause(child.unwrap())
    }

    /// As it runs in a pod, past its set-up.
    fn init() -> Pause {
        let pause = Pause::start(Start { init: true, ..Start::default() });
        pause.settle();
        pause
    }

    /// Waits until its filter is there and it waits for signals.
    fn settle(&self) {
        eventually("pause waits", || status(self.pid(), "Seccomp") == "2" && self.waits());
    }

    /// Asleep with no signal left to take.
    fn waits(&self) -> bool {
        status(self.pid(), "State").starts_with('S')
            && ["SigPnd", "ShdPnd"].iter().all(|s| status(self.pid(), s) == "0000000000000000")
    }

    fn pid(&self) -> i32 {
        self.0.pid
    }

    fn signal(&self, signal: i32) {
        process::pidfd_send_signal(self.0.pidfd.as_fd(), signal).unwrap();
    }

    fn end(&self) -> Exit {
        end_of(self.0.pidfd.as_fd())
    }

    fn exit_code(&self) -> i32 {
        let end = self.end();
        assert_eq!(end.code, libc::CLD_EXITED, "{end:?}");
        end.status
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // Both fail when the test has waited for its end already.
        let _ = process::pidfd_send_signal(self.0.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait(Target::Pidfd(self.0.pidfd.as_fd()), false, false);
    }
}

/// Starts pause with its output in a pipe; reads it to its end.
fn output_of(args: &[&CStr], then: impl FnOnce(&Pause)) -> (String, i32) {
    let (read, write) = fd::pipe(false).unwrap();
    let pause = Pause::start(Start { args, output: Some(&write), ..Start::default() });
    drop(write);
    then(&pause);
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).unwrap();
    (text, pause.exit_code())
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let pause = Pause::init();
        pause.signal(signal);
        assert_eq!(pause.exit_code(), 0);
    }
}

#[test]
fn every_other_signal_is_taken_and_dropped() {
    let deadly = [libc::SIGTERM, libc::SIGINT, libc::SIGKILL, libc::SIGSTOP];
    for init in [true, false] {
        let pause = Pause::start(Start { init, ..Start::default() });
        pause.settle();
        for signal in (1..=64).filter(|s| !deadly.contains(s)) {
            pause.signal(signal);
            eventually("the signal is taken", || pause.waits());
        }
        pause.signal(libc::SIGTERM);
        assert_eq!(pause.exit_code(), 0);
    }
}

#[test]
fn it_goes_on_after_being_stopped() {
    let pause = Pause::init();
    pause.signal(libc::SIGSTOP);
    eventually("it stops", || status(pause.pid(), "State").starts_with('T'));
    pause.signal(libc::SIGCONT);
    eventually("it waits again", || pause.waits());
    pause.signal(libc::SIGTERM);
    assert_eq!(pause.exit_code(), 0);
}

#[test]
fn double_forked_orphans_leave_no_zombies() {
    let pause = Pause::init();
    let (gate, hold) = fd::pipe(false).unwrap();
    // Only for what this thread clones from here on.
    process::setns(pause.0.pidfd.as_fd(), ns::PID).unwrap();
    for _ in 0..50 {
        let middle = process::spawn(&CloneArgs::default(), || -> Infallible {
            let orphan = process::spawn(&CloneArgs::default(), || -> Infallible {
                // Ends when the test closes its end of the pipe.
                let _ = fd::close_range(hold_number(&hold), hold_number(&hold));
                let _ = fd::read(gate.as_fd(), &mut [0]);
                process::exit(3)
            });
            process::exit(orphan.is_err().into())
        });
        assert_eq!(end_of(middle.unwrap().pidfd.as_fd()).status, 0);
    }
    assert_eq!(children(pause.pid()).len(), 50);
    drop(hold);
    eventually("no child is left", || children(pause.pid()).is_empty());
    pause.signal(libc::SIGTERM);
    assert_eq!(pause.exit_code(), 0);
}

fn hold_number(fd: &OwnedFd) -> u32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd() as u32
}

#[test]
fn its_end_ends_every_process_in_its_namespace() {
    let pause = Pause::init();
    process::setns(pause.0.pidfd.as_fd(), ns::PID).unwrap();
    let (gate, _hold) = fd::pipe(false).unwrap();
    let member = process::spawn(&CloneArgs::default(), || -> Infallible {
        let _ = fd::read(gate.as_fd(), &mut [0]);
        process::exit(0)
    });
    pause.signal(libc::SIGKILL);
    let end = end_of(member.unwrap().pidfd.as_fd());
    assert_eq!((end.code, end.status), (libc::CLD_KILLED, libc::SIGKILL));
}

#[test]
fn v_prints_the_version() {
    let version = concat!("husk pause ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    assert_eq!(output_of(&[c"-v"], |_| ()), (version.clone(), 0));
    assert_eq!(output_of(&[c"", c"x", c"-v"], |_| ()), (version, 0));
}

#[test]
fn v_without_a_stdout_fails() {
    let pause = Pause::start(Start { args: &[c"-v"], ..Start::default() });
    assert_eq!(pause.exit_code(), 1);
}

#[test]
fn not_being_pid_1_is_a_warning() {
    let (text, code) = output_of(&[c"-vv"], |pause| {
        pause.settle();
        pause.signal(libc::SIGTERM);
    });
    assert_eq!((text.as_str(), code), ("pause: warning: not PID 1, orphans will not be reaped here\n", 0));
}

#[test]
fn closed_stdio_does_not_matter() {
    for init in [true, false] {
        let pause = Pause::start(Start { init, output: None, ..Start::default() });
        pause.settle();
        assert!((0..3).all(|fd| std::fs::read_link(format!("/proc/{}/fd/{fd}", pause.pid())).is_err()));
        pause.signal(libc::SIGTERM);
        assert_eq!(pause.exit_code(), 0);
    }
}

#[test]
fn it_confines_itself() {
    use std::os::unix::fs::MetadataExt;
    let pause = Pause::start(Start { init: true, uid: Some(65535), ..Start::default() });
    pause.settle();
    assert_eq!(status(pause.pid(), "NoNewPrivs"), "1");
    assert_eq!(status(pause.pid(), "Name"), "pause");
    assert_eq!(status(pause.pid(), "CapEff"), "0000000000000000");
    // The files of a process that is not dumpable are root's, whoever it runs as.
    assert_eq!(status(pause.pid(), "Uid").split_whitespace().next(), Some("65535"));
    assert_eq!(std::fs::metadata(format!("/proc/{}/stat", pause.pid())).unwrap().uid(), 0);
}

#[test]
fn another_process_of_its_user_cannot_look_into_it() {
    let pause = Pause::start(Start { init: true, uid: Some(65535), ..Start::default() });
    pause.settle();
    let paths = ["mem", "root/", "exe", "environ"];
    let paths = paths.map(|p| CString::new(format!("/proc/{}/{p}", pause.pid())).unwrap());
    let spy = process::spawn(&CloneArgs::default(), || -> Infallible {
        if cred::set_gid(65535).is_err() || cred::set_uid(65535).is_err() {
            process::exit(98);
        }
        for (i, path) in paths.iter().enumerate() {
            if husk_oci::sys::path::openat(nix::fcntl::AT_FDCWD, path, libc::O_RDONLY, 0).is_ok() {
                process::exit(1 + i as i32);
            }
        }
        process::exit(0)
    });
    assert_eq!(end_of(spy.unwrap().pidfd.as_fd()).status, 0);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn it_keeps_its_budget_of_file_and_memory() {
    assert!(pause::image::PAUSE.len() <= 1024, "{} bytes", pause::image::PAUSE.len());
    // The kernel puts the stack at random: once is not enough.
    for _ in 0..20 {
        let pause = Pause::init();
        let resident = resident_kib(pause.pid());
        assert!(resident <= 8, "{resident} KiB");
    }
}
