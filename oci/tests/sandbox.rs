//! The process that holds a sandbox, with the real pause in it.

mod common;

use common::{Outcome, Rootfs, Setup, TIMEOUT, spec_args};
use husk_oci::sandbox::{Error, Held, IdRange, Launching, Sandbox, Tmpfs, start};
use husk_oci::spawn::PidNamespace;
use husk_oci::sys::process::{self, CloneArgs, Target, ns};
use husk_oci::sys::{Errno, fd, path};
use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Spec};
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

const ID: u32 = 65535;
const MIB: u64 = 1 << 20;
const USER: Option<IdRange> = Some(IdRange { first: common::FIRST_ID, length: 65536 });

/// pause as husk embeds it: sealed, and readable by root alone.
fn image() -> OwnedFd {
    image_with_mode(0o511)
}

fn image_with_mode(mode: u32) -> OwnedFd {
    let file = fd::memfd(c"pause", true).unwrap();
    assert_eq!(fd::write(file.as_fd(), pause::image::PAUSE).unwrap(), pause::image::PAUSE.len());
    path::fchmod(file.as_fd(), mode).unwrap();
    fd::seal(file.as_fd()).unwrap();
    file
}

fn tmpfs(path: &CStr, size_bytes: Option<u64>, mode: u32, noexec: bool) -> Tmpfs {
    Tmpfs { path: path.into(), size_bytes, mode, noexec }
}

fn pod(image: BorrowedFd<'_>) -> Sandbox<'_> {
    Sandbox {
        namespaces: ns::NET | ns::IPC | ns::UTS | ns::PID,
        hostname: Some(c"web-0"),
        sysctls: &[],
        tmpfs: &[],
        image,
        uid: ID,
        gid: ID,
        sibling: false,
        oom_score_adj: -998,
        user: None,
    }
}

/// A holder that is killed and reaped at the end of the test.
struct Pause {
    inner: common::Sandbox,
    warnings: Vec<String>,
}

impl Pause {
    fn launch(sandbox: &Sandbox<'_>) -> Pause {
        let (Held { pid, pidfd }, warnings) = start(sandbox).unwrap().wait().unwrap();
        Pause { inner: common::Sandbox { pid, pidfd, user: sandbox.user.is_some() }, warnings }
    }

    fn pid(&self) -> i32 {
        self.inner.pid
    }

    /// Runs `look` on a thread that has joined namespaces of the sandbox.
    fn inside<T: Send>(&self, namespaces: u64, look: impl FnOnce() -> T + Send) -> T {
        let pidfd = self.inner.pidfd.as_fd();
        std::thread::scope(|scope| {
            let looker = scope.spawn(move || {
                // Which also gives the thread a root and working directory of its own.
                process::unshare(ns::MOUNT).unwrap();
                process::setns(pidfd, namespaces).unwrap();
                look()
            });
            looker.join().unwrap()
        })
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid())
    }

    fn status(&self, field: &str) -> String {
        let text = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(field).and_then(|l| l.strip_prefix(':')));
        line.unwrap_or_else(|| panic!("no {field} in\n{text}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + TIMEOUT;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn namespace(pid: &str, name: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().to_string_lossy().into_owned()
}

#[test]
fn namespaces_are_new_or_shared_as_asked() {
    let image = image();
    let all = [("net", ns::NET), ("ipc", ns::IPC), ("uts", ns::UTS), ("pid", ns::PID)];
    let everything = ns::NET | ns::IPC | ns::UTS | ns::PID;
    for asked in [everything, 0, ns::NET | ns::UTS | ns::PID, ns::IPC, ns::PID, ns::NET | ns::UTS | ns::IPC] {
        let hostname = (asked & ns::UTS != 0).then_some(c"web-0");
        let pause = Pause::launch(&Sandbox { namespaces: asked, hostname, ..pod(image.as_fd()) });
        let pid = pause.pid().to_string();
        for (name, bit) in all {
            assert_eq!(namespace(&pid, name) != namespace("self", name), asked & bit != 0, "{name} in {asked:#x}");
        }
        assert_ne!(namespace(&pid, "mnt"), namespace("self", "mnt"));
        assert_eq!(namespace(&pid, "user"), namespace("self", "user"));
    }
}

#[test]
fn the_pod_has_its_name_its_loopback_and_its_sysctls() {
    let image = image();
    let sysctl = |name: &CStr, value: &CStr| (CString::from(name), CString::from(value));
    let sysctls = [
        sysctl(c"net/ipv4/ip_unprivileged_port_start", c"7"),
        sysctl(c"kernel/shm_rmid_forced", c"1"),
        sysctl(c"net/ipv4/ping_group_range", c"0 100"),
    ];
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim().to_owned();
    let names = [
        "kernel/hostname",
        "net/ipv4/ip_unprivileged_port_start",
        "kernel/shm_rmid_forced",
        "net/ipv4/ping_group_range",
    ];
    let before = names.map(read);
    let pause = Pause::launch(&Sandbox { sysctls: &sysctls, ..pod(image.as_fd()) });
    let seen = pause.inside(ns::NET | ns::IPC | ns::UTS, || names.map(read));
    assert_eq!(seen, ["web-0", "7", "1", "0\t100"]);
    assert_eq!(names.map(read), before);
    pause.inside(ns::NET, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        UdpSocket::bind("[::1]:0").unwrap();
    });
}

#[test]
fn the_shared_tmpfs_are_as_asked_and_all_that_is_there() {
    let image = image();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tmpfs = [
        tmpfs(c"/shm", Some(64 * MIB), 0o1777, true),
        tmpfs(c"/v/cache", Some(MIB), 0o777, false),
        tmpfs(c"/v/big", None, 0o777, false),
    ];
    let pause = Pause::launch(&Sandbox { tmpfs: &tmpfs, ..pod(image.as_fd()) });
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    let mounts = std::fs::read_to_string(pause.proc("mountinfo"));
    pause.inside(ns::MOUNT, || {
        let names = |dir: &str| {
            let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names("/"), ["empty", "root", "shm", "v"]);
        assert_eq!(names("/v"), ["big", "cache"]);
        for (dir, mode) in [("/", 0o755), ("/shm", 0o1777), ("/v/cache", 0o777), ("/v/big", 0o777)] {
            assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o7777, mode, "{dir}");
        }
        // Read-only but for the shared ones.
        for dir in ["/x", "/root/x", "/empty/x", "/v/x"] {
            assert_eq!(std::fs::create_dir(dir).unwrap_err().raw_os_error(), Some(libc::EROFS), "{dir}");
        }
        let written = std::fs::write("/v/cache/x", vec![1; 2 << 20]);
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        std::fs::write("/v/big/x", vec![1; 2 << 20]).unwrap();
        std::fs::write("/shm/x", "kept").unwrap();
        let sized = |dir: &CStr| {
            let dir = path::openat(path::CWD, dir, libc::O_PATH, 0).unwrap();
            let stat = path::fstatfs(dir.as_fd()).unwrap();
            stat.f_blocks as u64 * stat.f_bsize as u64
        };
        assert_eq!((sized(c"/shm"), sized(c"/v/cache")), (64 * MIB, MIB));
        for (dir, exec) in [("/shm/run", false), ("/v/big/run", true)] {
            std::fs::write(dir, pause::image::PAUSE).unwrap();
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
            let c = CString::new(dir).unwrap();
            assert_eq!(path::executable(&c).is_ok(), exec, "{dir}");
        }
    });
    // They are the sandbox's, not of one who looked.
    assert_eq!(pause.inside(ns::MOUNT, || std::fs::read_to_string("/shm/x").unwrap()), "kept");
    // A process that has its root in an empty directory sees no mount in its table.
    assert_eq!(mounts.unwrap_or_default(), "");
}

#[test]
fn pause_has_nothing_and_shows_nothing() {
    let image = image();
    let pause = Pause::launch(&pod(image.as_fd()));
    eventually("its filter", || pause.status("Seccomp") == "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(pause.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(pause.status("NoNewPrivs"), "1");
    for ids in ["Uid", "Gid"] {
        assert_eq!(pause.status(ids), format!("{ID} {ID} {ID} {ID}"));
    }
    assert_eq!(pause.status("Groups"), "");
    assert_eq!(pause.status("NSpid"), format!("{} 1", pause.pid()));
    assert_eq!(std::fs::read_to_string(pause.proc("cmdline")).unwrap(), "/pause\0");
    assert_eq!(std::fs::read_to_string(pause.proc("environ")).unwrap(), "");
    let mut fds: Vec<_> = std::fs::read_dir(pause.proc("fd")).unwrap().map(|e| e.unwrap().path()).collect();
    fds.sort();
    assert_eq!(fds.len(), 3, "{fds:?}");
    for fd in fds {
        let rdev = |path: &Path| std::fs::metadata(path).unwrap().rdev();
        assert_eq!(rdev(&fd), rdev(Path::new("/dev/null")));
    }
    for dir in ["root", "cwd"] {
        assert_eq!(std::fs::read_dir(pause.proc(dir)).unwrap().count(), 0, "{dir}");
    }
    // Not dumpable: its files are root's.
    assert_eq!(std::fs::metadata(pause.proc("stat")).unwrap().uid(), 0);
    let smaps = std::fs::read_to_string(pause.proc("smaps")).unwrap();
    let resident = smaps.lines().filter_map(|l| l.strip_prefix("Rss:"));
    let resident: u64 = resident.map(|l| l.trim().trim_end_matches(" kB").parse::<u64>().unwrap()).sum();
    assert!(resident <= 8, "{resident} KiB");
}

#[test]
fn an_oom_score_that_the_host_refuses_is_a_warning() {
    let image = image();
    let pause = Pause::launch(&pod(image.as_fd()));
    let score = std::fs::read_to_string(pause.proc("oom_score_adj")).unwrap();
    match pause.warnings.as_slice() {
        [] => assert_eq!(score, "-998\n"),
        [warning] => {
            assert!(warning.starts_with("set oom_score_adj of pause: ") && warning.contains("(EACCES)"), "{warning}");
            assert_eq!(score, std::fs::read_to_string("/proc/self/oom_score_adj").unwrap());
        }
        more => panic!("{more:?}"),
    }
}

/// Adds the capabilities that would help to get at another process.
fn mighty(spec: &mut Spec) {
    use Capability::{DacOverride, DacReadSearch, Kill, SysAdmin, SysPtrace};
    let caps = HashSet::from([DacOverride, DacReadSearch, Kill, SysAdmin, SysPtrace]);
    let sets = LinuxCapabilitiesBuilder::default().bounding(caps.clone()).effective(caps.clone()).permitted(caps);
    let sets = sets.inheritable(HashSet::new()).ambient(HashSet::new()).build().unwrap();
    spec.process_mut().as_mut().unwrap().set_capabilities(Some(sets));
}

/// Tries from inside a shared PID namespace to get at pause.
const ATTACK: &str = "
for f in mem environ maps; do head -c 1 /proc/1/$f >/dev/null 2>&1 && echo read $f; done
for f in root exe cwd fd/0; do readlink /proc/1/$f >/dev/null 2>&1 && echo link $f; done
ls /proc/1/root/ >/dev/null 2>&1 && echo ls root
kill -9 1; kill -STOP 1; kill -SEGV 1; kill -SYS 1
echo done";

fn attack(pause: &Pause, with_capabilities: bool) -> Outcome {
    let rootfs = Rootfs::new();
    std::os::unix::fs::symlink("busybox", rootfs.path().join("bin/head")).unwrap();
    let mut spec = spec_args(&["/bin/sh", "-c", ATTACK]);
    common::without_pid_namespace(&mut spec);
    if with_capabilities {
        mighty(&mut spec);
    }
    Setup { pid_namespace: PidNamespace::Sandbox, ..Setup::new(&pause.inner, &rootfs, &spec) }.run().unwrap()
}

fn alive(pause: &Pause) -> bool {
    pause.status("State").starts_with('S')
}

#[test]
fn a_container_in_the_same_pid_namespace_cannot_get_at_pause() {
    let image = image();
    let pause = Pause::launch(&pod(image.as_fd()));
    let outcome = attack(&pause, false);
    assert_eq!((outcome.output.trim(), outcome.code), ("done", 0));
    assert!(alive(&pause));
}

#[test]
fn a_container_with_cap_sys_ptrace_sees_an_empty_directory() {
    let image = image();
    let pause = Pause::launch(&pod(image.as_fd()));
    // Such a one may trace everything it sees; pause has nothing that would be worth it, and the filter holds for a traced one too.
    let outcome = attack(&pause, true);
    assert!(outcome.output.trim().ends_with("done"), "{}", outcome.output);
    assert!(!outcome.output.contains("error"), "{}", outcome.output);
    assert!(alive(&pause));
}

#[test]
fn in_a_user_namespace_no_capability_helps_against_an_unreadable_pause() {
    let image = image();
    let pause = Pause::launch(&Sandbox { user: USER, ..pod(image.as_fd()) });
    let outcome = attack(&pause, true);
    assert_eq!((outcome.output.trim(), outcome.code), ("done", 0));
    assert!(alive(&pause));
}

#[test]
fn a_user_namespace_maps_the_ids_and_owns_the_others() {
    let image = image_with_mode(0o555);
    let tmpfs = [tmpfs(c"/shm", Some(MIB), 0o1777, true)];
    let pause = Pause::launch(&Sandbox { user: USER, tmpfs: &tmpfs, ..pod(image.as_fd()) });
    let pid = pause.pid().to_string();
    assert_ne!(namespace(&pid, "user"), namespace("self", "user"));
    let map = std::fs::read_to_string(pause.proc("uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &common::FIRST_ID.to_string(), "65536"]);
    let outside = common::FIRST_ID + ID;
    assert_eq!(pause.status("Uid"), format!("{outside} {outside} {outside} {outside}"));
    let rootfs = Rootfs::new();
    let spec = spec_args(&["/bin/sh", "-c", "id -u; hostname; ls /sys/class/net; cat /proc/self/uid_map"]);
    let outcome = Setup::new(&pause.inner, &rootfs, &spec).run().unwrap();
    let words: Vec<_> = outcome.output.split_whitespace().collect();
    assert_eq!(words, ["0", "web-0", "lo", "0", &common::FIRST_ID.to_string(), "65536"]);
}

#[test]
fn the_death_of_pause_kills_containers_with_a_pid_namespace_of_their_own() {
    let image = image_with_mode(0o555);
    for user in [None, USER] {
        let pause = Pause::launch(&Sandbox { user, ..pod(image.as_fd()) });
        let rootfs = Rootfs::new();
        let spec = spec_args(&["/bin/sleep", "1000"]);
        let mut container = Setup::new(&pause.inner, &rootfs, &spec).create().unwrap();
        container.start().unwrap();
        pause.inner.kill();
        assert_eq!(container.wait(), 128 + libc::SIGKILL);
    }
}

/// Set for the process that plays keeper.
const PLAY_KEEPER: &str = "HUSK_OCI_TEST_KEEPER";

/// keeper's part, when the test below executes this; nothing otherwise. Its child launches pause as a sibling and waits to be killed.
#[test]
fn play_keeper() {
    if std::env::var_os(PLAY_KEEPER).is_none() {
        return;
    }
    let supervisor = process::spawn(&CloneArgs::default(), || {
        let image = image();
        let (held, _) = start(&Sandbox { sibling: true, ..pod(image.as_fd()) }).unwrap().wait().unwrap();
        eprintln!("pause {}", held.pid);
        loop {
            let _ = fd::poll(&mut [], None);
        }
    });
    eprintln!("supervisor {}", supervisor.unwrap().pid);
    // The end of the input is the end of the supervisor; the next one is ours.
    std::io::stdin().read_exact(&mut [0]).unwrap();
    process::wait(Target::All, false, false).unwrap();
    eprintln!("reaped 0");
    std::io::stdin().read_exact(&mut [0]).unwrap();
}

#[test]
fn pause_outlives_the_one_who_launched_it_and_dies_with_its_parent() {
    let mut keeper = Command::new("/proc/self/exe")
        .args(["--exact", "play_keeper", "--nocapture", "--test-threads=1"])
        .env(PLAY_KEEPER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(keeper.stderr.take().unwrap()));
    let mut numbers = std::collections::HashMap::new();
    let mut next = |key: &str| {
        while !numbers.contains_key(key) {
            let line = lines.next().unwrap().unwrap();
            if let Some((name, number)) = line.split_once(' ')
                && let Ok(number) = number.parse::<i32>()
            {
                numbers.insert(name.to_owned(), number);
            }
        }
        numbers[key]
    };
    let (pause, supervisor) = (next("pause"), next("supervisor"));
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(parent(pause), keeper.id());
    let pause = process::pidfd_open(pause).unwrap();
    process::pidfd_send_signal(process::pidfd_open(supervisor).unwrap().as_fd(), libc::SIGKILL).unwrap();
    let mut input = keeper.stdin.take().unwrap();
    input.write_all(b"x").unwrap();
    next("reaped");
    assert_eq!(process::pidfd_send_signal(pause.as_fd(), 0), Ok(()));

    // So that what keeper leaves comes to us and is reaped.
    process::set_child_subreaper(true).unwrap();
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    let mut fds = [fd::PollFd::new(pause.as_fd(), fd::PollFlags::POLLIN)];
    assert_eq!(fd::poll(&mut fds, Some(TIMEOUT)), Ok(1), "pause lives on");
    let end = process::wait(Target::Pidfd(pause.as_fd()), false, false).unwrap().unwrap();
    assert_eq!((end.code, end.status), (libc::CLD_KILLED, libc::SIGKILL));
}

fn failure(sandbox: &Sandbox<'_>) -> String {
    start(sandbox).and_then(|mut l: Launching| l.wait()).unwrap_err().to_string()
}

#[test]
fn a_failed_step_is_told_in_one_sentence() {
    let image = image();
    let sysctls = [(c"kernel/shm_rmid_forced".into(), c"1".into()), (c"net/nonsense".into(), c"1".into())];
    assert_eq!(
        failure(&Sandbox { sysctls: &sysctls, ..pod(image.as_fd()) }),
        "sandbox: set sysctl net.nonsense: no such file or directory (ENOENT)"
    );
    let twice = [tmpfs(c"/shm", None, 0o777, false), tmpfs(c"/shm", None, 0o777, false)];
    assert_eq!(
        failure(&Sandbox { tmpfs: &twice, ..pod(image.as_fd()) }),
        "sandbox: mount tmpfs /shm: file exists (EEXIST)"
    );
    let text = fd::memfd(c"text", true).unwrap();
    fd::write(text.as_fd(), b"no program").unwrap();
    assert_eq!(failure(&pod(text.as_fd())), "sandbox: execute pause: exec format error (ENOEXEC)");
    let long = CString::new("x".repeat(65)).unwrap();
    assert_eq!(
        failure(&Sandbox { hostname: Some(&long), ..pod(image.as_fd()) }),
        "sandbox: set the hostname: invalid argument (EINVAL)"
    );
}

#[test]
fn a_holder_that_is_killed_during_its_set_up_has_died() {
    let image = image();
    let mut launching = start(&pod(image.as_fd())).unwrap();
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    for pid in children.split_whitespace() {
        let _ = process::pidfd_send_signal(process::pidfd_open(pid.parse().unwrap()).unwrap().as_fd(), libc::SIGKILL);
    }
    assert_eq!(launching.wait().unwrap_err(), Error::Died);
}

#[test]
fn a_launch_that_is_dropped_leaves_no_process() {
    let image = image();
    drop(start(&pod(image.as_fd())).unwrap());
    // This thread's children are those of no other test.
    assert_eq!(std::fs::read_to_string("/proc/thread-self/children").unwrap(), "");
    assert_eq!(process::wait(Target::Pid(process::getpid()), true, false), Err(Errno::ECHILD));
}
