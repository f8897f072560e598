//! Every stage that fails says in one sentence what was being done, on what, and why; and nothing is left.

mod common;

use common::*;
use husk_oci::error::{Error, Kind};
use husk_oci::spawn::{Create, Join, PidNamespace, Placement, Root, Source, Stdio, create};
use husk_oci::sys::fd;
use oci_spec::runtime::{MountBuilder, Spec};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn failure(rootfs: &Rootfs, spec: &Spec) -> Error {
    let sandbox = Sandbox::new(false);
    Setup::new(&sandbox, rootfs, spec).run().expect_err("it has to fail")
}

#[track_caller]
fn says(e: &Error, kind: Kind, text: &str) {
    assert_eq!((e.kind(), e.to_string().as_str()), (kind, text));
}

#[test]
fn a_missing_command() {
    let rootfs = Rootfs::new();
    says(
        &failure(&rootfs, &spec_args(&["nope"])),
        Kind::NotFound,
        "execute \"nope\": no such file or directory (ENOENT); it is in no directory of PATH",
    );
    says(
        &failure(&rootfs, &spec_args(&["/bin/nope"])),
        Kind::NotFound,
        "execute \"/bin/nope\": no such file or directory (ENOENT); there is no such file in the image",
    );
}

#[test]
fn a_command_that_can_not_be_executed() {
    let rootfs = Rootfs::new();
    let file = |name: &str, content: &[u8], mode| {
        let path = rootfs.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    file("plain", b"#!/bin/sh\n", 0o644);
    let e = failure(&rootfs, &spec_args(&["/plain"]));
    assert_eq!(e.kind(), Kind::NotExecutable);
    assert!(e.to_string().starts_with("execute \"/plain\": permission denied (EACCES); "), "{e}");

    // An ELF header of another machine (EM_S390).
    let mut elf = std::fs::read("/bin/busybox").unwrap();
    elf.truncate(4096);
    elf[18..20].copy_from_slice(&22u16.to_le_bytes());
    file("foreign", &elf, 0o755);
    let e = failure(&rootfs, &spec_args(&["/foreign"]));
    assert_eq!(e.kind(), Kind::NotExecutable);
    assert!(e.to_string().contains("ENOEXEC") && e.to_string().contains("another architecture"), "{e}");

    file("script", b"#!/no/such/interpreter\n", 0o755);
    let e = failure(&rootfs, &spec_args(&["/script"]));
    assert_eq!(e.kind(), Kind::NotExecutable);
    assert!(e.to_string().contains("interpreter"), "{e}");
}

#[test]
fn a_source_that_does_not_exist() {
    let mut s = spec("true");
    s.mounts_mut().as_mut().unwrap().push(bind(Path::new("/no/such/source"), "/data", &["rbind"]));
    says(
        &failure(&Rootfs::new(), &s),
        Kind::Failed,
        "bind mount on /data: open its source /no/such/source: no such file or directory (ENOENT)",
    );
}

#[test]
fn a_directory_over_a_file() {
    let rootfs = Rootfs::new();
    std::fs::write(rootfs.path().join("file"), "").unwrap();
    let mut s = spec("true");
    s.mounts_mut().as_mut().unwrap().push(bind(Path::new("/tmp"), "/file", &["bind"]));
    let e = failure(&rootfs, &s).to_string();
    assert_eq!(
        e,
        "bind mount on /file: not a directory (ENOTDIR); one of source and mount point is a directory, the other is not"
    );
}

#[test]
fn a_file_system_that_refuses_its_options() {
    let mut s = spec("true");
    let m =
        MountBuilder::default().destination("/t").typ("tmpfs").source("tmpfs").options(vec!["size=abc".to_string()]);
    s.mounts_mut().as_mut().unwrap().push(m.build().unwrap());
    says(&failure(&Rootfs::new(), &s), Kind::Failed, "mount tmpfs on /t: invalid argument (EINVAL)");
}

#[test]
fn a_mount_point_below_a_file() {
    let rootfs = Rootfs::new();
    std::fs::write(rootfs.path().join("file"), "").unwrap();
    let mut s = spec("true");
    s.mounts_mut().as_mut().unwrap().push(bind(Path::new("/tmp"), "/file/x", &["bind"]));
    let e = failure(&rootfs, &s).to_string();
    assert!(e.starts_with("bind mount on /file/x: find /file/x in the container: not a directory (ENOTDIR)"), "{e}");
}

#[test]
fn a_shared_mount_that_the_sandbox_does_not_have() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    s.set_mounts(Some(vec![bind(Path::new("/unused"), "/data", &["bind"])]));
    let mut setup = Setup::new(&sandbox, &rootfs, &s);
    let sources = [Source::Sandbox(c"/v/none")];
    setup.sources = &sources;
    says(
        &setup.run().unwrap_err(),
        Kind::Failed,
        "mount /v/none on /data: clone it from the sandbox: no such file or directory (ENOENT)",
    );
}

#[test]
fn words_that_make_no_sense_are_refused_by_field() {
    let rootfs = Rootfs::new();
    let with = |m: oci_spec::runtime::Mount| {
        let mut s = spec("true");
        s.set_mounts(Some(vec![m]));
        failure(&rootfs, &s).to_string()
    };
    let starts = |e: String, text: &str| assert!(e.starts_with(text), "{e}");
    starts(with(bind(Path::new("/tmp"), "relative", &["bind"])), "mounts[0].destination: \"relative\" is not absolute");
    starts(with(bind(Path::new("/tmp"), "/a/../b", &["bind"])), "mounts[0].destination: \"/a/../b\" has \"..\" in it");
    starts(with(bind(Path::new("/tmp"), "/", &["bind"])), "mounts[0].destination: the root can't be mounted over");
    starts(with(bind(Path::new("tmp"), "/a", &["bind"])), "mounts[0].source: \"tmp\" is not absolute");
    starts(with(bind(Path::new("/tmp"), "/a", &["bind", "idmap"])), "mounts[0].options: \"idmap\" is not supported");
    starts(with(bind(Path::new("/tmp"), "/a", &["bind", "size=1"])), "mounts[0].options: \"size=1\" means nothing");
    let ext4 = MountBuilder::default().destination("/a").typ("ext4").source("/dev/sda").build().unwrap();
    starts(with(ext4), "mounts[0].type: file system \"ext4\" is not supported");
    let mut s = spec("true");
    s.process_mut().as_mut().unwrap().set_args(Some(vec!["a\0b".into()]));
    starts(failure(&rootfs, &s).to_string(), "process.args: \"a\\0b\" has a NUL byte in it");
}

#[test]
fn a_sandbox_whose_process_is_dead_and_namespaces_that_do_not_agree() {
    let rootfs = Rootfs::new();
    let (sandbox, s) = (Sandbox::new(false), spec("true"));
    let mut setup = Setup::new(&sandbox, &rootfs, &s);
    setup.pid_namespace = PidNamespace::Sandbox;
    let e = setup.run().unwrap_err();
    assert_eq!(e.kind(), Kind::Refused);
    assert!(e.to_string().starts_with("linux.namespaces[2]: "), "{e}");
    let mut s = s.clone();
    s.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![]));
    let e = failure(&rootfs, &s);
    assert!(e.to_string().contains("mount namespace of its own"), "{e}");
}

#[test]
fn a_child_that_is_killed_while_it_sets_itself_up_is_reported_as_such() {
    let (sandbox, rootfs, s) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    let null = std::fs::File::open("/dev/null").unwrap();
    let (start, _start_w) = fd::pipe(false).unwrap();
    let root = rootfs.detached(&sandbox);
    let mut starting = create(&Create {
        spec: &s,
        root: Root::Detached(root.as_fd()),
        sources: &[],
        join: Some(Join { pidfd: sandbox.pidfd.as_fd(), user: false }),
        pid_namespace: PidNamespace::Nested,
        pid_namespace_of: None,
        cgroup: Placement::default(),
        stdio: Stdio::Fds([null.as_fd(); 3]),
        start: start.as_fd(),
        sibling: false,
        die_with_parent: false,
        attach_at: c"/root",
        seccomp: None,
    })
    .unwrap();
    husk_oci::sys::process::pidfd_send_signal(starting.pidfd(), libc::SIGKILL).unwrap();
    match starting.wait_created(TIMEOUT) {
        Err(e) => assert_eq!(e.kind(), Kind::Died, "{e}"),
        // It was quicker than we were.
        Ok(_) => assert_eq!(exit_code(starting.pidfd()), 128 + 9),
    }
}

#[test]
fn nothing_is_left_of_a_container_that_failed() {
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let mounts =
        || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains("husk-oci")).count();
    let children = || {
        let mine = format!("/proc/self/task/{}/children", nix::unistd::gettid());
        std::fs::read_to_string(mine).unwrap()
    };
    let before = children();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", sandbox.pid)).unwrap().count();
    let s = spec_args(&["nope"]);
    for _ in 0..5 {
        Setup::new(&sandbox, &rootfs, &s).run().unwrap_err();
    }
    assert_eq!((children(), mounts()), (before, 0));
    assert_eq!(std::fs::read_dir(format!("/proc/{}/fd", sandbox.pid)).unwrap().count(), fds);
}
