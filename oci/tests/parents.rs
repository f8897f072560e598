//! Who is whose child: a container that is born as a child of the caller's parent outlives the caller.

mod common;

use common::*;
use husk_oci::spawn::{Create, Join, PidNamespace, Placement, Root, Stdio, create};
use husk_oci::sys::fd;
use husk_oci::sys::process::{self, Target};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio as Std};

/// Not a test of its own: what the next test runs in a process of its own, whose parent is the test.
#[test]
#[ignore = "is run by a_sibling_belongs_to_the_parent_of_its_maker_and_survives_it"]
fn supervisor() {
    let Ok(pid) = std::env::var("HUSK_OCI_SANDBOX") else { return };
    let root = std::env::var("HUSK_OCI_ROOT").unwrap();
    let pidfd = process::pidfd_open(pid.parse().unwrap()).unwrap();
    let spec = spec("sleep 0.3; exit 37");
    let null = std::fs::File::open("/dev/null").unwrap();
    let (start_r, start_w) = fd::pipe(false).unwrap();
    let mut c = create(&Create {
        spec: &spec,
        root: Root::Path(Path::new(&root)),
        sources: &[],
        join: Some(Join { pidfd: pidfd.as_fd(), user: false }),
        pid_namespace: PidNamespace::Nested,
        pid_namespace_of: None,
        cgroup: Placement::default(),
        stdio: Stdio::Fds([null.as_fd(); 3]),
        start: start_r.as_fd(),
        sibling: true,
        die_with_parent: false,
        attach_at: c"/root",
        seccomp: None,
    })
    .unwrap();
    c.wait_created(TIMEOUT).unwrap();
    // On a line of its own: the harness has written to the same stream.
    println!("\npids {} {}", c.helper.unwrap(), c.pid);
    fd::write(start_w.as_fd(), b"s").unwrap();
    drop(c.release().unwrap());
}

#[test]
fn a_sibling_belongs_to_the_parent_of_its_maker_and_survives_it() {
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "supervisor", "--nocapture", "--test-threads=1"])
        .env("HUSK_OCI_SANDBOX", sandbox.pid.to_string())
        .env("HUSK_OCI_ROOT", rootfs.path())
        .stdout(Std::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|l| l.starts_with("pids ")).expect("the supervisor failed");
    let pids: Vec<i32> = line.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    assert!(child.wait().unwrap().success());
    let helper = process::wait(Target::Pid(pids[0]), false, false).unwrap().unwrap();
    assert_eq!((helper.code, helper.status), (libc::CLD_EXITED, 0));
    let container = process::wait(Target::Pid(pids[1]), false, false).unwrap().unwrap();
    assert_eq!(
        (container.code, container.status),
        (libc::CLD_EXITED, 37),
        "its maker is dead, its exit code is not lost"
    );
}
