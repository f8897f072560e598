//! Create, start, end: what a container's first process is and sees.

mod common;

use common::*;
use husk_oci::spawn::{Create, PidNamespace, Placement, Root, Stdio, create};
use husk_oci::sys::seccomp::Insn;
use husk_oci::sys::{fd, process};
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, PosixRlimitBuilder, PosixRlimitType, UserBuilder};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

#[test]
fn a_container_runs_its_program_and_its_exit_code_is_exact() {
    let out = run_script("echo hello; exit 37");
    assert_eq!((out.output.as_str(), out.code), ("hello\n", 37), "{out:?}");
    assert_eq!(out.warnings, [] as [&str; 0]);
}

#[test]
fn a_signal_that_ends_the_program_is_told_from_an_exit_code() {
    // PID 1 of a namespace ignores signals without a handler, so a member of the sandbox's is asked.
    let (sandbox, rootfs, mut spec) = (Sandbox::new(false), Rootfs::new(), spec("kill -TERM $$"));
    without_pid_namespace(&mut spec);
    let mut setup = Setup::new(&sandbox, &rootfs, &spec);
    setup.pid_namespace = PidNamespace::Sandbox;
    assert_eq!(setup.run().unwrap().code, 128 + libc::SIGTERM);
}

#[test]
fn nothing_is_executed_before_the_start() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("touch /tmp/started"));
    let mut c = Setup::new(&sandbox, &rootfs, &spec).create().unwrap();
    assert!(!rootfs.path().join("tmp/started").exists());
    c.start().unwrap();
    assert_eq!(c.wait(), 0);
    assert!(rootfs.path().join("tmp/started").exists());
}

#[test]
fn a_created_container_ends_with_its_start_handle() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("touch /tmp/started"));
    let c = Setup::new(&sandbox, &rootfs, &spec).create().unwrap();
    let pidfd = c.abandon();
    assert_eq!(exit_code(pidfd.as_fd()), 125);
    assert!(!rootfs.path().join("tmp/started").exists());
}

#[test]
fn dropping_a_container_that_was_not_started_leaves_no_process() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    let c = Setup::new(&sandbox, &rootfs, &spec).create().unwrap();
    let pid = c.starting.pid;
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    drop(c);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a zombie or a process is left");
}

#[test]
fn the_host_pid_of_a_nested_container_is_known() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("echo $$"));
    let c = Setup::new(&sandbox, &rootfs, &spec).create().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", c.starting.pid)).unwrap();
    let ns_pids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap();
    let ns_pids: Vec<i32> = ns_pids.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!(ns_pids.len(), 3, "host, sandbox, its own: {ns_pids:?}");
    assert_eq!((ns_pids[0], ns_pids[2]), (c.starting.pid, 1));
    assert_eq!(c.finish().unwrap().output, "1\n");
}

#[test]
fn a_member_of_the_sandbox_is_not_pid_1_and_sees_it() {
    let (sandbox, rootfs, mut spec) = (Sandbox::new(false), Rootfs::new(), spec("ls -d /proc/1; echo $$"));
    without_pid_namespace(&mut spec);
    let mut setup = Setup::new(&sandbox, &rootfs, &spec);
    setup.pid_namespace = PidNamespace::Sandbox;
    let out = setup.run().unwrap();
    assert!(out.output.starts_with("/proc/1\n") && !out.output.ends_with("\n1\n"), "{out:?}");
}

#[test]
fn killing_the_sandbox_kills_every_container_in_it() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("sleep 100"));
    let mut nested = Setup::new(&sandbox, &rootfs, &spec).create().unwrap();
    nested.start().unwrap();
    let mut spec = spec.clone();
    without_pid_namespace(&mut spec);
    let mut setup = Setup::new(&sandbox, &rootfs, &spec);
    setup.pid_namespace = PidNamespace::Sandbox;
    let mut member = setup.create().unwrap();
    member.start().unwrap();
    let before = Instant::now();
    sandbox.kill();
    assert_eq!((nested.wait(), member.wait()), (128 + 9, 128 + 9));
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
}

#[test]
fn a_dead_sandbox_is_an_error_and_children_are_born_at_home_afterwards() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    sandbox.kill();
    sandbox.reap();
    let e = Setup::new(&sandbox, &rootfs, &spec).create().err().unwrap();
    assert!(e.to_string().contains("sandbox"), "{e}");
    let child = process::spawn(&process::CloneArgs::default(), || process::exit(0)).unwrap();
    assert!(std::path::Path::new(&format!("/proc/{}", child.pid)).exists());
    assert_eq!(exit_code(child.pidfd.as_fd()), 0);
}

#[test]
fn only_the_standard_streams_are_open_inside() {
    let leaked = std::fs::File::open("/").unwrap();
    let out = run_script("ls /proc/self/fd; echo; cat /proc/1/stat | wc -l");
    // The listing itself has an fd of the directory: 3.
    assert_eq!(out.output, "0\n1\n2\n3\n\n1\n", "{out:?}");
    drop(leaked);
}

#[test]
fn capabilities_are_what_was_asked_for_and_none_can_be_inherited() {
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let script = "grep ^Cap /proc/self/status; grep NoNewPrivs /proc/self/status";
    let root_spec = spec(script);
    let out = Setup::new(&sandbox, &rootfs, &root_spec).run().unwrap().output;
    // CHOWN 0, KILL 5, SETGID 6, SETUID 7
    let all = "00000000000000e1";
    let none = "0000000000000000";
    let text = |inh, prm, eff, bnd, amb| {
        format!("CapInh:\t{inh}\nCapPrm:\t{prm}\nCapEff:\t{eff}\nCapBnd:\t{bnd}\nCapAmb:\t{amb}\nNoNewPrivs:\t1\n")
    };
    assert_eq!(out, text(none, all, all, all, none));

    let mut spec = root_spec.clone();
    let user = UserBuilder::default().uid(1000u32).gid(1001u32).additional_gids(vec![7u32, 8]).build().unwrap();
    spec.process_mut().as_mut().unwrap().set_user(user);
    let out = Setup::new(&sandbox, &rootfs, &spec).run().unwrap().output;
    assert_eq!(out, text(none, none, none, all, none), "exec takes them from a user that is not root");
}

#[test]
fn the_process_has_the_user_the_groups_and_the_umask_of_the_spec() {
    let mut s = spec("id -u; id -g; id -G; umask");
    let user =
        UserBuilder::default().uid(1000u32).gid(1001u32).additional_gids(vec![7u32, 8]).umask(0o27u32).build().unwrap();
    s.process_mut().as_mut().unwrap().set_user(user);
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    assert_eq!(Setup::new(&sandbox, &rootfs, &s).run().unwrap().output, "1000\n1001\n1001 7 8\n0027\n");
}

#[test]
fn limits_beyond_ours_are_clamped_with_a_warning() {
    let mut s = spec("ulimit -n; ulimit -c; ulimit -Hn");
    let ours = process::prlimit(0, libc::RLIMIT_NOFILE, None).unwrap();
    let limit =
        |typ, soft: u64, hard: u64| PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard).build().unwrap();
    s.process_mut().as_mut().unwrap().set_rlimits(Some(vec![
        limit(PosixRlimitType::RlimitCore, 0, 0),
        limit(PosixRlimitType::RlimitNofile, 512, u64::MAX),
    ]));
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert_eq!(out.output, format!("512\n0\n{}\n", ours.hard), "{out:?}");
    assert!(out.warnings[0].starts_with("set RLIMIT_NOFILE to 512:unlimited: "), "{out:?}");
}

#[test]
fn a_refused_oom_score_is_clamped_with_a_warning() {
    let mut s = spec("cat /proc/self/oom_score_adj");
    s.process_mut().as_mut().unwrap().set_oom_score_adj(Some(321));
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert_eq!((out.output.as_str(), out.warnings.len()), ("321\n", 0));
    s.process_mut().as_mut().unwrap().set_oom_score_adj(Some(-998));
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    // With CAP_SYS_RESOURCE it is granted.
    if out.output != "-998\n" {
        let ours = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        assert_eq!(out.output, ours);
        assert!(out.warnings[0].starts_with("set oom_score_adj to -998: "), "{out:?}");
    }
}

#[test]
fn signals_that_we_ignore_or_block_are_default_in_the_container() {
    // The Rust runtime ignores SIGPIPE.
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let spec = spec_args(&["/bin/grep", "-E", "^Sig(Ign|Blk|Cgt)", "/proc/self/status"]);
    let out = Setup::new(&sandbox, &rootfs, &spec).run().unwrap();
    let zero = "0000000000000000";
    assert_eq!(out.output, format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\nSigCgt:\t{zero}\n"));
}

#[test]
fn the_working_directory_is_made_inside_and_can_not_be_a_leaked_fd() {
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let mut s = spec("pwd");
    s.process_mut().as_mut().unwrap().set_cwd("/made/for/it".into());
    assert_eq!(Setup::new(&sandbox, &rootfs, &s).run().unwrap().output, "/made/for/it\n");

    for n in 0..40 {
        s.process_mut().as_mut().unwrap().set_cwd(format!("/proc/self/fd/{n}").into());
        let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err();
        assert!(e.to_string().starts_with(&format!("enter working directory /proc/self/fd/{n}")), "{e}");
    }
    std::os::unix::fs::symlink("/proc/self/fd/7", rootfs.path().join("link")).unwrap();
    s.process_mut().as_mut().unwrap().set_cwd("/link".into());
    assert!(Setup::new(&sandbox, &rootfs, &s).run().is_err());
}

#[test]
fn the_start_waits_for_nothing_of_the_parent_and_the_parent_dies_with_it_when_asked() {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("exit 3"));
    let mut setup = Setup::new(&sandbox, &rootfs, &spec);
    setup.die_with_parent = true;
    assert_eq!(setup.run().unwrap().code, 3);
}

#[test]
fn the_program_is_looked_for_in_the_path_of_its_own_environment() {
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let mut s = spec_args(&["hello", "x"]);
    std::fs::create_dir_all(rootfs.path().join("opt/a")).unwrap();
    std::fs::write(rootfs.path().join("opt/a/hello"), "#!/bin/sh\necho \"$0 $1 $V\"\n").unwrap();
    let mode = |m| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(rootfs.path().join("opt/a/hello"), std::fs::Permissions::from_mode(m)).unwrap();
    };
    mode(0o755);
    s.process_mut().as_mut().unwrap().set_env(Some(vec!["PATH=/nowhere:/opt/a".into(), "V=3".into()]));
    assert_eq!(Setup::new(&sandbox, &rootfs, &s).run().unwrap().output, "/opt/a/hello x 3\n");
}

/// Lets everything pass but `mkdir(2)` and `mkdirat(2)`, which fail with EXDEV.
fn no_directories() -> Vec<Insn> {
    let insn = |code, jt, jf, k| Insn { code, jt, jf, k };
    let mut program = vec![insn(0x20, 0, 0, 0)];
    #[cfg(target_arch = "x86_64")]
    program.push(insn(0x15, 1, 0, libc::SYS_mkdir as u32));
    program.push(insn(0x15, 0, 1, libc::SYS_mkdirat as u32));
    program.push(insn(0x06, 0, 0, 0x0005_0000 | libc::EXDEV as u32));
    program.push(insn(0x06, 0, 0, 0x7fff_0000));
    program
}

#[test]
fn a_seccomp_filter_holds_for_the_program_with_and_without_no_new_privs() {
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let program = no_directories();
    for no_new_privs in [true, false] {
        let mut s = spec("mkdir /x; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status");
        s.process_mut().as_mut().unwrap().set_no_new_privileges(Some(no_new_privs));
        let mut setup = Setup::new(&sandbox, &rootfs, &s);
        setup.seccomp = Some(&program);
        let out = setup.run().unwrap();
        let expected = format!(
            "mkdir: can't create directory '/x': Invalid cross-device link\nNoNewPrivs:\t{}\nSeccomp:\t2\n",
            no_new_privs as u8
        );
        assert_eq!(out.output, expected);
    }
}

#[test]
fn a_container_without_a_sandbox_has_the_namespaces_that_its_spec_lists() {
    let rootfs = Rootfs::new();
    let mut s = spec("echo $$; hostname; readlink /proc/self/ns/net; ls /dev/pts");
    s.set_hostname(Some("alone".into()));
    let list = s.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
    for typ in [LinuxNamespaceType::Network, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts] {
        list.push(LinuxNamespaceBuilder::default().typ(typ).build().unwrap());
    }
    let (null, file) = (std::fs::File::open("/dev/null").unwrap(), tempfile());
    let (start_r, start_w) = fd::pipe(false).unwrap();
    let mut c = create(&Create {
        spec: &s,
        root: Root::Path(rootfs.path()),
        sources: &[],
        join: None,
        pid_namespace: PidNamespace::Nested,
        pid_namespace_of: None,
        cgroup: Placement::default(),
        stdio: Stdio::Fds([null.as_fd(), file.as_fd(), file.as_fd()]),
        start: start_r.as_fd(),
        sibling: false,
        die_with_parent: true,
        attach_at: c"/mnt",
        seccomp: None,
    })
    .unwrap();
    c.wait_created(TIMEOUT).unwrap();
    fd::write(start_w.as_fd(), b"s").unwrap();
    assert_eq!(exit_code(c.pidfd()), 0);
    let mut text = String::new();
    std::io::Seek::rewind(&mut &file).unwrap();
    std::io::Read::read_to_string(&mut &file, &mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("1", "alone", "ptmx"), "{text}");
    assert_ne!(lines[2], std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

fn tempfile() -> std::fs::File {
    fd::memfd(c"output", false).unwrap().into()
}

#[test]
fn a_container_is_born_in_its_cgroups() {
    let name = format!("husk-oci-test-{}", std::process::id());
    let v1 = std::path::Path::new("/sys/fs/cgroup/pids").join(&name);
    let v2 = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .iter()
        .find(|d| std::path::Path::new(d).join("cgroup.controllers").exists())
        .map(|d| std::path::Path::new(d).join(&name));
    let v1 = v1.parent().unwrap().exists().then_some(v1);
    for dir in [&v1, &v2].into_iter().flatten() {
        std::fs::create_dir(dir).unwrap();
    }
    let tasks: Vec<std::os::fd::OwnedFd> =
        v1.iter().map(|d| std::fs::OpenOptions::new().write(true).open(d.join("tasks")).unwrap().into()).collect();
    let dir = v2.as_ref().map(|d| std::fs::File::open(d).unwrap());
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec("cat /proc/self/cgroup"));
    let mut setup = Setup::new(&sandbox, &rootfs, &spec);
    setup.placement = Placement { into_cgroup: dir.as_ref().map(|d| d.as_fd()), tasks: &tasks };
    let c = setup.create().unwrap();
    let outside = std::fs::read_to_string(format!("/proc/{}/cgroup", c.starting.pid)).unwrap();
    let inside = c.finish();
    drop((sandbox, tasks));
    for dir in [&v1, &v2].into_iter().flatten() {
        std::fs::remove_dir(dir).unwrap();
    }
    let expected = [v1.is_some(), v2.is_some()].iter().filter(|b| **b).count();
    assert_eq!(outside.matches(&name).count(), expected, "{outside}");
    let inside = inside.unwrap().output;
    assert!(!inside.contains(&name) && inside.contains(":/\n"), "the cgroup namespace hides it: {inside}");
}
