//! An extra process in a running container.

mod common;

use common::*;
use husk_oci::error::{Error, Kind};
use husk_oci::exec::{Exec, exec};
use husk_oci::spawn::{Event, Join, Placement, Stdio};
use husk_oci::sys::fd;
use oci_spec::runtime::{LinuxCapabilities, Process, Spec, UserBuilder};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

struct Running {
    container: Container,
    sandbox: Sandbox,
    _rootfs: Rootfs,
    spec: Spec,
}

impl Running {
    fn new() -> Running {
        let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("mkdir /tmp/here; sleep 100"));
        let mut container = Setup::new(&sandbox, &rootfs, &spec).create().unwrap();
        container.start().unwrap();
        Running { container, sandbox, _rootfs: rootfs, spec }
    }

    fn process(&self, args: &[&str]) -> Process {
        let mut p = self.spec.process().clone().unwrap();
        p.set_args(Some(args.iter().map(|s| (*s).to_string()).collect()));
        p
    }

    fn exec(&self, process: &Process) -> Result<(String, i32), Error> {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (out_r, out_w) = fd::pipe(false).unwrap();
        let mut starting = exec(&Exec {
            process,
            container: Join { pidfd: self.container.starting.pidfd(), user: false },
            cgroup: Placement::default(),
            stdio: Stdio::Fds([null.as_fd(), out_w.as_fd(), out_w.as_fd()]),
            start: None,
            sibling: false,
            die_with_parent: false,
            seccomp: None,
        })?;
        drop(out_w);
        starting.wait_created(TIMEOUT)?;
        match starting.wait_next(Instant::now() + TIMEOUT)?.unwrap() {
            Event::Executed => {}
            Event::Failed(e) => return Err(e),
            other => panic!("{other:?}"),
        }
        let mut text = String::new();
        std::fs::File::from(out_r).read_to_string(&mut text).unwrap();
        Ok((text, exit_code(starting.pidfd())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sandbox.kill();
        self.container.wait();
    }
}

#[test]
fn it_is_in_all_namespaces_of_the_container_and_its_exit_code_is_exact() {
    let r = Running::new();
    let (text, code) = r
        .exec(&r.process(&[
            "sh",
            "-c",
            "readlink /proc/self/ns/*; readlink /proc/1/ns/*; cat /proc/self/cgroup; exit 5",
        ]))
        .unwrap();
    assert_eq!(code, 5);
    let links: Vec<&str> = text.lines().filter(|l| l.contains(":[")).collect();
    assert_eq!(links[..links.len() / 2], links[links.len() / 2..], "{text}");
    assert!(text.contains(":/\n"), "{text}");
}

#[test]
fn it_has_no_fd_beyond_the_streams_and_no_inheritable_capability() {
    let r = Running::new();
    let (text, _) =
        r.exec(&r.process(&["sh", "-c", "ls /proc/self/fd; grep -E 'Cap(Inh|Amb|Bnd)' /proc/self/status"])).unwrap();
    let none = "0000000000000000";
    assert_eq!(text, format!("0\n1\n2\n3\nCapInh:\t{none}\nCapBnd:\t00000000000000e1\nCapAmb:\t{none}\n"));
}

#[test]
fn a_missing_command_is_127_and_one_that_can_not_be_executed_126() {
    let r = Running::new();
    for (args, kind) in [
        (["no-such-command"], Kind::NotFound),
        (["/no/such/command"], Kind::NotFound),
        (["/tmp"], Kind::NotExecutable),
        (["/proc/version"], Kind::NotExecutable),
    ] {
        let e = r.exec(&r.process(&args)).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().starts_with(&format!("execute {:?}: ", args[0])), "{e}");
    }
}

#[test]
fn the_working_directory_must_exist() {
    let r = Running::new();
    let mut p = r.process(&["pwd"]);
    p.set_cwd("/tmp/not/here".into());
    let e = r.exec(&p).unwrap_err();
    assert!(e.to_string().starts_with("enter working directory /tmp/not/here: find"), "{e}");
    // The container makes it when it comes to it; "not yet" is not what is tested.
    let deadline = Instant::now() + TIMEOUT;
    p.set_cwd("/tmp/here".into());
    loop {
        match r.exec(&p) {
            Ok((text, _)) => break assert_eq!(text, "/tmp/here\n"),
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
    }
}

#[test]
fn it_runs_as_the_user_it_was_asked_to() {
    let r = Running::new();
    let mut p = r.process(&["sh", "-c", "id -u; id -G; grep CapPrm /proc/self/status"]);
    p.set_user(UserBuilder::default().uid(77u32).gid(78u32).additional_gids(vec![79u32]).build().unwrap());
    p.set_capabilities(None::<LinuxCapabilities>);
    assert_eq!(r.exec(&p).unwrap().0, "77\n78 79\nCapPrm:\t0000000000000000\n");
}

#[test]
fn its_terminal_is_of_the_containers_devpts() {
    let r = Running::new();
    let mut p = r.process(&["sh", "-c", "tty; stty size"]);
    p.set_terminal(Some(true));
    let mut starting = exec(&Exec {
        process: &p,
        container: Join { pidfd: r.container.starting.pidfd(), user: false },
        cgroup: Placement::default(),
        stdio: Stdio::Terminal { rows: 10, cols: 20 },
        start: None,
        sibling: false,
        die_with_parent: false,
        seccomp: None,
    })
    .unwrap();
    let (_, master) = starting.wait_created(TIMEOUT).unwrap();
    let master: OwnedFd = master.unwrap();
    assert_eq!(exit_code(starting.pidfd()), 0);
    let mut text = Vec::new();
    // EIO is how a pty ends.
    let _ = std::fs::File::from(master).read_to_end(&mut text);
    assert_eq!(String::from_utf8(text).unwrap(), "/dev/pts/0\r\n10 20\r\n");
}
