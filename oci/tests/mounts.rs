//! The tree a container sees: mounts, devices, masks, and that nothing leads out of its root.

mod common;

use common::*;
use husk_oci::spawn::{PidNamespace, Source};
use husk_oci::sys::{mount, path};
use oci_spec::runtime::{LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespaceBuilder, LinuxNamespaceType, MountBuilder};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

fn lines(out: &Outcome) -> Vec<&str> {
    out.output.lines().collect()
}

#[test]
fn the_usual_file_systems_are_there_with_their_options() {
    let out = run_script("cat /proc/self/mounts");
    for (fstype, at, option) in [
        ("proc", "/proc", "rw"),
        ("tmpfs", "/dev", "nosuid"),
        ("devpts", "/dev/pts", "ptmxmode=666"),
        ("mqueue", "/dev/mqueue", "nodev"),
        ("tmpfs", "/dev/shm", "size=65536k"),
        ("sysfs", "/sys", "ro"),
    ] {
        let line = lines(&out).into_iter().find(|l| l.contains(&format!(" {at} {fstype} ")));
        let line = line.unwrap_or_else(|| panic!("{at}: {}", out.output));
        let options = line.split(' ').nth(3).unwrap();
        assert!(options.split(',').any(|o| o.starts_with(option)), "{line}");
    }
    let old_roots = lines(&out).iter().filter(|l| l.split(' ').nth(1) == Some("/")).count();
    assert_eq!(old_roots, 1, "the old root is gone: {}", out.output);
}

#[test]
fn the_default_devices_and_links_are_there() {
    let out = run_script(
        "cd /dev; stat -c '%n %t:%T %a %u' null zero full random urandom tty; readlink fd stdin stdout stderr ptmx; \
         for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x > null && echo writable",
    );
    let expected =
        "null 1:3 666 0\nzero 1:5 666 0\nfull 1:7 666 0\nrandom 1:8 666 0\nurandom 1:9 666 0\ntty 5:0 666 0\n";
    assert!(out.output.starts_with(expected), "{out:?}");
    assert!(
        out.output.ends_with("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\nwritable\n"),
        "{out:?}"
    );
}

#[test]
fn devices_of_the_spec_are_made_with_mode_and_owner() {
    let mut s = spec("stat -c '%n %t:%T %a %u:%g' /dev/fuse /dev/sub/loop; stat -c %F /dev/sub/loop");
    let device = |path: &str, typ, major, minor| {
        LinuxDeviceBuilder::default()
            .path(path)
            .typ(typ)
            .major(major)
            .minor(minor)
            .file_mode(0o640u32)
            .uid(5u32)
            .gid(6u32)
    };
    s.linux_mut().as_mut().unwrap().set_devices(Some(vec![
        device("/dev/fuse", LinuxDeviceType::C, 10i64, 229i64).build().unwrap(),
        device("/dev/sub/loop", LinuxDeviceType::B, 7i64, 0i64).build().unwrap(),
    ]));
    let (sandbox, rootfs) = (Sandbox::new(false), Rootfs::new());
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert_eq!(out.output, "/dev/fuse a:e5 640 5:6\n/dev/sub/loop 7:0 640 5:6\nblock special file\n");

    let null = LinuxDeviceBuilder::default()
        .path("/dev/null")
        .typ(LinuxDeviceType::C)
        .major(1i64)
        .minor(5i64)
        .build()
        .unwrap();
    s.linux_mut().as_mut().unwrap().set_devices(Some(vec![null]));
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err();
    assert_eq!(e.to_string(), "linux.devices[0]: /dev/null is a default device with another number");
}

#[test]
fn masked_paths_show_nothing_and_readonly_paths_can_not_be_written() {
    let (sandbox, rootfs, mut s) = (
        Sandbox::new(false),
        Rootfs::new(),
        spec(
            "wc -c < /proc/version; wc -c < /proc/timer_list; ls /sys/firmware | wc -l; echo > /sys/firmware/x; \
             echo 1 > /proc/sys/kernel/domainname; ls /proc/bus /proc/fs > /dev/null; stat -c %t:%T /proc/version; \
             grep -c ' /sys/firmware tmpfs ro,' /proc/self/mounts",
        ),
    );
    let linux = s.linux_mut().as_mut().unwrap();
    linux.masked_paths_mut().as_mut().unwrap().extend(["/proc/version".to_string(), "/not/there".to_string()]);
    linux.readonly_paths_mut().as_mut().unwrap().push("/not/there/either".to_string());
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert!(out.output.starts_with("0\n0\n0\n"), "{out:?}");
    assert_eq!(out.output.matches("Read-only file system").count(), 2, "{out:?}");
    assert!(out.output.ends_with("1:3\n1\n"), "{out:?}");
    assert!(!rootfs.path().join("not").exists(), "what is hidden is not made");
}

#[test]
fn a_mask_that_is_not_the_null_device_is_refused() {
    // The image brings its own /dev, bound over the one we would make, with something else under the name.
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    let dev = rootfs.path().join("mydev");
    std::fs::create_dir(&dev).unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut mounts = s.mounts().clone().unwrap();
    mounts.retain(|m| !m.destination().starts_with("/dev"));
    mounts.push(bind(&dev, "/dev", &["bind"]));
    s.set_mounts(Some(mounts));
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err();
    assert!(e.to_string().starts_with("mask /proc/"), "{e}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn a_symbolic_link_in_place_of_proc_sys_or_dev_is_refused() {
    for name in ["proc", "sys", "dev"] {
        let (sandbox, rootfs, s) = (Sandbox::new(false), Rootfs::new(), spec("true"));
        std::fs::create_dir(rootfs.path().join("elsewhere")).unwrap();
        symlink("/elsewhere", rootfs.path().join(name)).unwrap();
        let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err().to_string();
        assert!(e.contains(&format!("on /{name}: find /{name} in the container")) && e.contains("ELOOP"), "{e}");
        assert_eq!(std::fs::read_dir(rootfs.path().join("elsewhere")).unwrap().count(), 0);
    }
}

#[test]
fn a_mount_point_that_is_a_link_out_of_the_root_stays_inside() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("cat /etc/husk-oci-marker/file"));
    let (volume, outside) = (TempDir::new(), TempDir::new());
    std::fs::write(volume.0.join("file"), "volume\n").unwrap();
    // Absolute, and by way of "..": both mean a place below the root.
    let up = format!("../../../../../../{}", outside.0.strip_prefix("/").unwrap().display());
    std::fs::remove_dir(rootfs.path().join("etc")).unwrap();
    symlink(up, rootfs.path().join("etc")).unwrap();
    std::fs::create_dir_all(rootfs.path().join(outside.0.strip_prefix("/").unwrap())).unwrap();
    let mut mounts = s.mounts().clone().unwrap();
    mounts.push(bind(&volume.0, "/etc/husk-oci-marker", &["rbind"]));
    s.set_mounts(Some(mounts));
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert_eq!(out.output, "volume\n", "{out:?}");
    assert_eq!(std::fs::read_dir(&outside.0).unwrap().count(), 0, "something was made outside of the root");
    assert!(rootfs.path().join(outside.0.strip_prefix("/").unwrap()).join("husk-oci-marker").is_dir());
}

#[test]
fn a_dangling_link_in_place_of_a_mount_point_is_refused() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    symlink("/nowhere/at/all", rootfs.path().join("data")).unwrap();
    let mut mounts = s.mounts().clone().unwrap();
    mounts.push(bind(Path::new("/tmp"), "/data", &["bind"]));
    s.set_mounts(Some(mounts));
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err().to_string();
    assert!(e.starts_with("bind mount on /data: make /data in the container: ") && e.contains("leads nowhere"), "{e}");
    assert!(!rootfs.path().join("nowhere").exists());
}

#[test]
fn links_swapped_by_somebody_with_the_same_volume_never_lead_out() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("true"));
    let (volume, outside) = (TempDir::new(), TempDir::new());
    let (a, b) = (volume.0.join("x"), volume.0.join("y"));
    std::fs::create_dir(&a).unwrap();
    symlink(&outside.0, &b).unwrap();
    let mut mounts = s.mounts().clone().unwrap();
    mounts.push(bind(&volume.0, "/v", &["bind"]));
    mounts.push(bind(Path::new("/etc"), "/v/x/sub", &["bind"]));
    s.set_mounts(Some(mounts));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (ca, cb) = (c(&a), c(&b));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // RENAME_EXCHANGE
                nix::fcntl::renameat2(path::CWD, &*ca, path::CWD, &*cb, nix::fcntl::RenameFlags::RENAME_EXCHANGE)
                    .unwrap();
            }
        });
        for _ in 0..60 {
            // Whether it finds the directory or the link, which leads nowhere below the root, is chance.
            let _ = Setup::new(&sandbox, &rootfs, &s).run();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(&outside.0).unwrap().count(), 0, "something was made outside of the root");
}

#[test]
fn binds_of_files_and_directories_get_their_flags_and_what_is_below_them() {
    let (sandbox, rootfs, mut s) = (
        Sandbox::new(false),
        Rootfs::new(),
        spec("cat /a/deep/file; cat /dir/f; touch /dir/g; touch /rw/g && echo ok; grep ' /dir ' /proc/self/mounts"),
    );
    let volume = TempDir::new();
    std::fs::write(volume.0.join("f"), "content\n").unwrap();
    let mut mounts = s.mounts().clone().unwrap();
    mounts.push(bind(&volume.0.join("f"), "/a/deep/file", &["bind", "ro"]));
    mounts.push(bind(&volume.0, "/dir", &["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]));
    mounts.push(bind(&volume.0, "/rw", &["bind", "rw"]));
    s.set_mounts(Some(mounts));
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    let l = lines(&out);
    assert_eq!(l[..2], ["content", "content"], "{out:?}");
    assert!(l[2].contains("Read-only file system"), "{out:?}");
    assert_eq!(l[3], "ok");
    assert!(l[4].contains(" ro,nosuid,nodev,noexec,"), "{out:?}");
}

#[test]
fn mounts_of_the_sandbox_are_shared_and_detached_ones_are_attached() {
    let (sandbox, rootfs, mut s) =
        (Sandbox::new(false), Rootfs::new(), spec("cat /dev/shm/* /det/f; echo two > /dev/shm/b"));
    let volume = TempDir::new();
    std::fs::write(volume.0.join("f"), "detached\n").unwrap();
    std::fs::write(format!("/proc/{}/root/shm/a", sandbox.pid), "one\n").unwrap();
    let mut mounts = s.mounts().clone().unwrap();
    let shm = mounts.iter().position(|m| m.destination() == Path::new("/dev/shm")).unwrap();
    mounts[shm] = bind(Path::new("/unused"), "/dev/shm", &["bind"]);
    mounts.push(bind(Path::new("/unused"), "/det", &["bind", "ro"]));
    let tree = mount::clone_tree(path::CWD, &c(&volume.0), false).unwrap();
    let mut sources = vec![Source::Spec; mounts.len()];
    sources[shm] = Source::Sandbox(SHM);
    sources[mounts.len() - 1] = Source::Detached(tree.as_fd());
    s.set_mounts(Some(mounts));
    let mut setup = Setup::new(&sandbox, &rootfs, &s);
    setup.sources = &sources;
    assert_eq!(setup.run().unwrap().output, "one\ndetached\n");
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/root/shm/b", sandbox.pid)).unwrap(), "two\n");
}

#[test]
fn a_readonly_root_can_not_be_written_and_its_volumes_can() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("touch /x; touch /v/x && echo ok"));
    let volume = TempDir::new();
    s.root_mut().as_mut().unwrap().set_readonly(Some(true));
    let mut mounts = s.mounts().clone().unwrap();
    mounts.push(bind(&volume.0, "/v", &["bind"]));
    s.set_mounts(Some(mounts));
    s.process_mut().as_mut().unwrap().set_cwd("/made".into());
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert!(lines(&out)[0].contains("Read-only file system") && lines(&out)[1] == "ok", "{out:?}");
    assert!(rootfs.path().join("made").is_dir());
}

#[test]
fn cgroups_are_shown_from_the_containers_own_and_can_not_be_written() {
    let (sandbox, rootfs, mut s) = (
        Sandbox::new(false),
        Rootfs::new(),
        spec("ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/x; grep -c cgroup /proc/self/mounts"),
    );
    let mut mounts = s.mounts().clone().unwrap();
    mounts.retain(|m| m.typ().as_deref() != Some("cgroup"));
    let options = ["nosuid", "noexec", "nodev", "relatime", "ro"].map(String::from).to_vec();
    let m = MountBuilder::default().destination("/sys/fs/cgroup").typ("cgroup").source("cgroup").options(options);
    mounts.push(m.build().unwrap());
    s.set_mounts(Some(mounts));
    let out = Setup::new(&sandbox, &rootfs, &s).run().unwrap();
    assert!(out.output.contains("Read-only file system"), "{out:?}");
    let hierarchies = std::fs::read_to_string("/proc/self/cgroup").unwrap().lines().count();
    if hierarchies > 1 {
        assert!(out.output.contains("pids\n"), "{out:?}");
        assert_eq!(lines(&out).last().unwrap().parse::<usize>().unwrap(), hierarchies + 1, "{out:?}");
    }
}

#[test]
fn sysctls_reach_the_namespace_and_nothing_else() {
    let (sandbox, rootfs, mut s) =
        (Sandbox::new(false), Rootfs::new(), spec("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"));
    let set = |name: &str, value: &str| Some([(name.to_string(), value.to_string())].into_iter().collect());
    s.linux_mut().as_mut().unwrap().set_sysctl(set("net.ipv4.ip_unprivileged_port_start", "77"));
    assert_eq!(Setup::new(&sandbox, &rootfs, &s).run().unwrap().output, "77\n");
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_ne!(host, "77\n");
    s.linux_mut().as_mut().unwrap().set_sysctl(set("kernel.core_pattern", "x"));
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err().to_string();
    assert!(e.starts_with("linux.sysctl[\"kernel.core_pattern\"]: "), "{e}");
    s.linux_mut().as_mut().unwrap().set_sysctl(set("net.ipv4.no_such_thing", "1"));
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err().to_string();
    assert_eq!(e, "set sysctl net.ipv4.no_such_thing to \"1\": no such file or directory (ENOENT)");
}

#[test]
fn a_host_name_needs_and_gets_a_namespace_of_its_own() {
    let (sandbox, rootfs, mut s) = (Sandbox::new(false), Rootfs::new(), spec("hostname"));
    s.set_hostname(Some("inside".into()));
    let e = Setup::new(&sandbox, &rootfs, &s).run().unwrap_err().to_string();
    assert!(e.starts_with("hostname: needs a UTS namespace"), "{e}");
    let uts = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Uts).build().unwrap();
    s.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap().push(uts);
    assert_eq!(Setup::new(&sandbox, &rootfs, &s).run().unwrap().output, "inside\n");
    assert_ne!(nix::unistd::gethostname().unwrap(), "inside");
}

#[test]
fn no_mount_of_a_container_reaches_the_sandbox_or_the_host() {
    let (sandbox, rootfs, s) = (Sandbox::new(false), Rootfs::new(), spec("sleep 100"));
    let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    let pause = sandbox.pid.to_string();
    let before = (of("self"), of(&pause));
    let mut c = Setup::new(&sandbox, &rootfs, &s).create().unwrap();
    c.start().unwrap();
    let ours = |text: String| text.lines().filter(|l| l.contains(rootfs.path().to_str().unwrap())).count();
    assert_eq!((ours(of("self")), of(&pause)), (0, before.1));
    sandbox.kill();
    assert_eq!(c.wait(), 128 + 9);
}

#[test]
fn the_terminal_is_of_the_containers_own_devpts() {
    let (sandbox, rootfs, mut s) = (
        Sandbox::new(false),
        Rootfs::new(),
        spec("tty; stty size; stat -c %u /dev/pts/0; echo x > /dev/console; echo y > /dev/tty"),
    );
    s.process_mut().as_mut().unwrap().set_terminal(Some(true));
    let user = oci_spec::runtime::UserBuilder::default().uid(1000u32).gid(1000u32).build().unwrap();
    s.process_mut().as_mut().unwrap().set_user(user);
    let mut setup = Setup::new(&sandbox, &rootfs, &s);
    setup.terminal = true;
    setup.pid_namespace = PidNamespace::Nested;
    let mut c = setup.create().unwrap();
    let master: std::fs::File = c.terminal.take().unwrap().into();
    c.start().unwrap();
    assert_eq!(c.wait(), 0);
    let mut text = Vec::new();
    // EIO is how a pty ends.
    let _ = std::io::Read::read_to_end(&mut &master, &mut text);
    assert_eq!(String::from_utf8(text).unwrap(), "/dev/pts/0\r\n33 77\r\n1000\r\nx\r\ny\r\n");
}
