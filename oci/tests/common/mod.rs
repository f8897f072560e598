//! What the privileged tests share: a sandbox process, a root file system of busybox, and one container run.
#![allow(dead_code, reason = "each test file uses its part")]

use husk_oci::error::Error;
use husk_oci::spawn::{Create, Event, Join, PidNamespace, Placement, Root, Source, Starting, Stdio, create};
use husk_oci::sys::process::{self, CloneArgs, Target, ns};
use husk_oci::sys::{Errno, fd, mount, path};
use oci_spec::runtime::{
    Capability, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, Spec,
};
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A directory below /tmp that goes away.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("husk-oci-{}-{n}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        TempDir(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process that holds net, ipc, uts, pid and mount namespaces like a pod's pause.
pub struct Sandbox {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub user: bool,
}

/// First host id of the test's user namespace.
pub const FIRST_ID: u32 = 100_000;

impl Sandbox {
    pub fn new(user: bool) -> Sandbox {
        let (go_r, go_w) = fd::pipe(false).unwrap();
        let (ready_r, ready_w) = fd::pipe(false).unwrap();
        let user_bit = if user { ns::USER } else { 0 };
        let namespaces = ns::NET | ns::IPC | ns::UTS | ns::PID | ns::MOUNT | user_bit;
        let args = CloneArgs { namespaces, ..CloneArgs::default() };
        let (go, ready) = (go_r.as_fd(), ready_w.as_fd());
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let child = process::spawn(&args, || {
            let set_up = || -> Result<(), Errno> {
                // Nothing of other tests may be kept open by a sandbox: not the ends of their pipes, not files they write.
                fd::place(go, 0)?;
                fd::place(ready, 1)?;
                fd::close_range(3, u32::MAX)?;
                let (go, ready) = (stdin.as_fd(), stdout.as_fd());
                process::set_parent_death_signal(libc::SIGKILL)?;
                fd::read(go, &mut [0])?;
                if user {
                    husk_oci::sys::cred::set_gid(0)?;
                    husk_oci::sys::cred::set_uid(0)?;
                }
                mount::set_propagation(c"/", mount::Propagation::Private, true)?;
                mount::mount_at(c"tmpfs", c"/tmp", c"tmpfs", 0, Some(c"mode=755"))?;
                path::chdir(c"/tmp")?;
                for dir in [c"root", c"shm", c"v"] {
                    path::mkdirat(path::CWD, dir, 0o1777)?;
                }
                mount::mount_at(c"shm", c"shm", c"tmpfs", libc::MS_NOSUID, Some(c"mode=1777"))?;
                if user {
                    // In a user namespace the kernel mounts a new proc or sysfs only where one can be seen already.
                    for (fstype, dir) in [(c"proc", c"proc"), (c"sysfs", c"sys")] {
                        path::mkdirat(path::CWD, dir, 0o755)?;
                        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
                        mount::mount_at(fstype, dir, fstype, flags, None)?;
                    }
                }
                mount::pivot_root(c".", c".")?;
                mount::umount(c".", true)?;
                process::set_dumpable(true)?;
                fd::write(ready, b"r").map(drop)
            };
            if set_up().is_err() {
                process::exit(1);
            }
            loop {
                if process::wait(Target::All, false, false).is_err() {
                    let _ = fd::poll(&mut [], Some(Duration::from_millis(20)));
                }
            }
        })
        .unwrap();
        if user {
            for file in ["uid_map", "gid_map"] {
                std::fs::write(format!("/proc/{}/{file}", child.pid), format!("0 {FIRST_ID} 65536")).unwrap();
            }
        }
        drop(go_r);
        drop(ready_w);
        fd::write(go_w.as_fd(), b"g").unwrap();
        assert_eq!(fd::read(ready_r.as_fd(), &mut [0]).unwrap(), 1, "the sandbox process failed");
        Sandbox { pid: child.pid, pidfd: child.pidfd, user }
    }

    /// Sends SIGKILL. It is dead only when all processes of its PID namespace were reaped, some of which may be our children.
    pub fn kill(&self) {
        let _ = process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    pub fn reap(&self) {
        let mut fds = [fd::PollFd::new(self.pidfd.as_fd(), fd::PollFlags::POLLIN)];
        let _ = fd::poll(&mut fds, Some(TIMEOUT));
        let _ = process::wait(Target::Pidfd(self.pidfd.as_fd()), true, false);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

/// A root file system with busybox in it.
pub struct Rootfs {
    pub dir: TempDir,
}

const APPLETS: [&str; 24] = [
    "sh", "cat", "ls", "sleep", "id", "true", "false", "echo", "stat", "readlink", "mount", "hostname", "pwd", "tty",
    "grep", "ps", "kill", "touch", "mkdir", "env", "wc", "ulimit", "dd", "stty",
];

impl Rootfs {
    pub fn new() -> Rootfs {
        let dir = TempDir::new();
        let bin = dir.0.join("bin");
        std::fs::create_dir(&bin).unwrap();
        // A link, since a file that was just written may be busy when it is executed (a child of another test has it open).
        std::fs::hard_link("/bin/busybox", bin.join("busybox"))
            .expect("the tests need busybox-static, on the file system of /tmp");
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        for d in ["etc", "tmp"] {
            std::fs::create_dir(dir.0.join(d)).unwrap();
        }
        Rootfs { dir }
    }

    pub fn path(&self) -> &Path {
        &self.dir.0
    }

    /// A detached clone of the directory; in a user namespace with its ids mapped.
    pub fn detached(&self, sandbox: &Sandbox) -> OwnedFd {
        let c = std::ffi::CString::new(self.path().to_str().unwrap()).unwrap();
        let tree = mount::clone_tree(path::CWD, &c, false).unwrap();
        let user = sandbox.user.then(|| std::fs::File::open(format!("/proc/{}/ns/user", sandbox.pid)).unwrap());
        let change = mount::SetAttr {
            propagation: Some(mount::Propagation::Private),
            idmap: user.as_ref().map(|u| u.as_fd()),
            ..mount::SetAttr::default()
        };
        mount::mount_setattr(tree.as_fd(), change).unwrap();
        tree
    }
}

pub fn bind(from: &Path, to: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(to)
        .typ("bind")
        .source(from)
        .options(options.iter().map(|s| (*s).to_string()).collect::<Vec<_>>())
        .build()
        .unwrap()
}

/// A spec that runs `sh -c script`, with the usual mounts, masks and a few capabilities.
pub fn spec(script: &str) -> Spec {
    spec_args(&["/bin/sh", "-c", script])
}

pub fn spec_args(args: &[&str]) -> Spec {
    let mut spec = Spec::default();
    let caps: std::collections::HashSet<_> =
        [Capability::Chown, Capability::Kill, Capability::Setuid, Capability::Setgid].into_iter().collect();
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(caps.clone())
        .effective(caps.clone())
        .permitted(caps)
        .inheritable(std::collections::HashSet::new())
        .ambient(std::collections::HashSet::new())
        .build()
        .unwrap();
    spec.set_hostname(None);
    let process = spec.process_mut().as_mut().unwrap();
    process.set_terminal(None);
    process.set_args(Some(args.iter().map(|s| (*s).to_string()).collect()));
    process.set_capabilities(Some(sets));
    process.set_rlimits(None);
    let linux = spec.linux_mut().as_mut().unwrap();
    linux.set_namespaces(Some(
        [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup, LinuxNamespaceType::Pid]
            .map(|typ| LinuxNamespaceBuilder::default().typ(typ).build().unwrap())
            .to_vec(),
    ));
    spec.root_mut().as_mut().unwrap().set_readonly(None);
    spec
}

/// Makes the spec fit [`PidNamespace::Sandbox`] and [`PidNamespace::Host`].
pub fn without_pid_namespace(spec: &mut Spec) {
    let list = spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
    list.retain(|n| n.typ() != LinuxNamespaceType::Pid);
}

/// What one container did.
#[derive(Debug)]
pub struct Outcome {
    pub warnings: Vec<String>,
    /// stdout and stderr together.
    pub output: String,
    /// Exit code, or 128 + signal.
    pub code: i32,
}

/// A container that was created.
pub struct Container {
    pub starting: Starting,
    pub warnings: Vec<String>,
    pub terminal: Option<OwnedFd>,
    start: OwnedFd,
    output: std::fs::File,
}

pub struct Setup<'a> {
    pub spec: &'a Spec,
    pub sandbox: &'a Sandbox,
    pub rootfs: &'a Rootfs,
    pub sources: &'a [Source<'a>],
    pub pid_namespace: PidNamespace,
    pub terminal: bool,
    pub placement: Placement<'a>,
    pub die_with_parent: bool,
    pub seccomp: Option<&'a [husk_oci::sys::seccomp::Insn]>,
}

impl<'a> Setup<'a> {
    pub fn new(sandbox: &'a Sandbox, rootfs: &'a Rootfs, spec: &'a Spec) -> Setup<'a> {
        Setup {
            spec,
            sandbox,
            rootfs,
            sources: &[],
            pid_namespace: PidNamespace::Nested,
            terminal: false,
            placement: Placement::default(),
            die_with_parent: false,
            seccomp: None,
        }
    }

    pub fn create(&self) -> Result<Container, Error> {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (out_r, out_w) = fd::pipe(false).unwrap();
        let (start_r, start_w) = fd::pipe(false).unwrap();
        let root = self.rootfs.detached(self.sandbox);
        let stdio = if self.terminal {
            Stdio::Terminal { rows: 33, cols: 77 }
        } else {
            Stdio::Fds([null.as_fd(), out_w.as_fd(), out_w.as_fd()])
        };
        let mut starting = create(&Create {
            spec: self.spec,
            root: Root::Detached(root.as_fd()),
            sources: self.sources,
            join: Some(Join { pidfd: self.sandbox.pidfd.as_fd(), user: self.sandbox.user }),
            pid_namespace: self.pid_namespace,
            pid_namespace_of: None,
            cgroup: self.placement,
            stdio,
            start: start_r.as_fd(),
            sibling: false,
            die_with_parent: self.die_with_parent,
            attach_at: c"/root",
            seccomp: self.seccomp,
        })?;
        drop(out_w);
        let (warnings, terminal) = starting.wait_created(TIMEOUT)?;
        Ok(Container { starting, warnings, terminal, start: start_w, output: out_r.into() })
    }

    pub fn run(&self) -> Result<Outcome, Error> {
        self.create()?.finish()
    }
}

impl Container {
    pub fn start(&mut self) -> Result<(), Error> {
        fd::write(self.start.as_fd(), b"s").unwrap();
        match self.starting.wait_next(Instant::now() + TIMEOUT)? {
            Some(Event::Executed) => Ok(()),
            Some(Event::Failed(e)) => Err(e),
            other => panic!("{other:?}"),
        }
    }

    /// Loses the start handle and everything else but the process.
    pub fn abandon(self) -> OwnedFd {
        self.starting.release().unwrap()
    }

    pub fn wait(&self) -> i32 {
        exit_code(self.starting.pidfd())
    }

    pub fn finish(mut self) -> Result<Outcome, Error> {
        self.start()?;
        let mut output = String::new();
        self.output.read_to_string(&mut output).unwrap();
        Ok(Outcome { warnings: std::mem::take(&mut self.warnings), output, code: self.wait() })
    }
}

/// Waits for the end of a child: exit code, or 128 + signal.
pub fn exit_code(pidfd: BorrowedFd<'_>) -> i32 {
    let mut fds = [fd::PollFd::new(pidfd, fd::PollFlags::POLLIN)];
    assert_eq!(fd::poll(&mut fds, Some(TIMEOUT)).unwrap(), 1, "the process does not end");
    let end = process::wait(Target::Pidfd(pidfd), false, false).unwrap().unwrap();
    if end.code == libc::CLD_EXITED { end.status } else { 128 + end.status }
}

/// Runs a script in a fresh sandbox and root.
pub fn run_script(script: &str) -> Outcome {
    let (sandbox, rootfs, spec) = (Sandbox::new(false), Rootfs::new(), spec(script));
    Setup::new(&sandbox, &rootfs, &spec).run().unwrap()
}

pub fn c(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_str().unwrap()).unwrap()
}

pub const SHM: &CStr = c"/shm";
