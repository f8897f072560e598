//! Makes one system call of husk fail, whichever one we like: a seccomp filter hands every call that changes a file to this process, which
//! lets it go on or answers it with an errno. The filter is inherited, so that it reaches keeper, the supervisor and the set-up of
//! containers too. No program is changed, no library preloaded, no file system needed.
//!
//! Calls are counted while an [`Injector`] is armed; only those on something below its directory count, so what a container does inside
//! its own root does not. A call that is let go is executed by the kernel as it stands (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`): good enough
//! for a test, since nobody here changes the arguments behind our back.

#![allow(unsafe_code, reason = "seccomp(2) and its ioctls have no safe wrapper; each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use husk_oci::sys::fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use super::run::{Job, Running};

/// Which calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Those that change a file or directory, or sync one.
    Writes,
    /// Those that open something to read it, or read from it.
    Reads,
    /// Those that change something, and those that make a descriptor: files, pipes, sockets.
    Descriptors,
}

/// What happens from the chosen call on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Only that one fails.
    Once,
    /// Every later one too, until [`Injector::disarm`]. Calls that give room back go on, except on a read-only or broken disk.
    On,
}

/// What is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which calls are counted.
    pub calls: Calls,
    /// Number of the first one that fails, from 0.
    pub at: u64,
    /// With this.
    pub errno: Errno,
    /// How long.
    pub lasting: Lasting,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    seen: u64,
    failed: Vec<String>,
}

struct Shared {
    dir: PathBuf,
    /// Inode, size and time of the husk binary, as `/proc/<pid>/exe` shows it through any overlay.
    binary: (u64, u64, i64),
    state: Mutex<State>,
}

/// Decides which calls fail. Lives as long as the processes that were started through it need it.
#[derive(Clone)]
pub struct Injector(Arc<Shared>);

impl Injector {
    /// Lets everything go on until it is armed. Counts calls on what is below `dir`.
    pub fn new(dir: &Path) -> Injector {
        let binary = identity(Path::new(env!("CARGO_BIN_EXE_husk"))).expect("the binary under test is there");
        Injector(Arc::new(Shared { dir: dir.to_owned(), binary, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts from 0 again, and fails what `fault` says.
    pub fn arm(&self, fault: Fault) {
        *self.state() = State { fault: Some(fault), seen: 0, failed: Vec::new() };
    }

    /// Lets everything go on from here.
    pub fn disarm(&self) {
        self.state().fault = None;
    }

    /// What was made to fail since it was armed, a line each, the first forty.
    pub fn failed(&self) -> Vec<String> {
        self.state().failed.clone()
    }

    /// Starts `job` under the filter.
    pub fn start(&self, mut job: Job) -> Running {
        let (ours, theirs) = fd::seqpacket_pair().expect("make a socket pair");
        before_exec(job.command(), move || {
            let listener = install()?;
            fd::send(theirs.as_fd(), b"l", &[listener.as_fd()])?;
            Ok(())
        });
        let running = job.start();
        let mut byte = [0; 1];
        let got = fd::recv(ours.as_fd(), &mut byte, false).expect("receive the listener");
        let listener = got.fds.into_iter().flatten().next().expect("the listener came");
        let this = self.clone();
        std::thread::spawn(move || this.serve(&listener));
        running
    }

    /// Answers until no process is left under the filter.
    fn serve(&self, listener: &OwnedFd) {
        loop {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            match fd::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => panic!("poll a seccomp listener: {errno}"),
            }
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                // ENOENT: the caller was killed meanwhile.
                if let Ok(notice) = receive(listener) {
                    let errno = self.judge(&notice);
                    answer(listener, notice.id, errno);
                }
            } else if !events.is_empty() {
                return;
            }
        }
    }

    /// The errno to fail a call with, if any.
    fn judge(&self, notice: &libc::seccomp_notif) -> Option<Errno> {
        let fault = self.state().fault?;
        let call = Call::of(notice)?;
        let object = match fault.calls {
            Calls::Writes if call.kind.writes() => self.below(&call)?,
            Calls::Reads if call.kind == Kind::Reads => self.below(&call)?,
            Calls::Descriptors if call.makes_descriptor() && self.is_husk(notice.pid) => call.describe(),
            Calls::Descriptors if call.kind.writes() => self.below(&call)?,
            _ => return None,
        };
        let gives_back = call.kind == Kind::GivesBack && matches!(fault.errno, Errno::ENOSPC | Errno::EDQUOT);
        let mut state = self.state();
        // It may have been armed anew while we looked at the caller.
        let fault = state.fault?;
        if gives_back {
            return None;
        }
        let number = state.seen;
        state.seen += 1;
        let hit = match fault.lasting {
            Lasting::Once => number == fault.at,
            Lasting::On => number >= fault.at,
        };
        if !hit {
            return None;
        }
        if state.failed.len() < 40 {
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", notice.pid)).unwrap_or_default();
            state.failed.push(format!("#{number} {} ({}): {} {object}", notice.pid, comm.trim(), call.name));
        }
        Some(fault.errno)
    }

    /// What the call is about, if that is below our directory.
    fn below(&self, call: &Call) -> Option<String> {
        let path = call.object()?;
        path.starts_with(&self.0.dir).then(|| path.display().to_string())
    }

    fn is_husk(&self, pid: u32) -> bool {
        identity(Path::new(&format!("/proc/{pid}/exe"))) == Some(self.0.binary)
    }
}

fn identity(path: &Path) -> Option<(u64, u64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime_nsec()))
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Needs room or changes something.
    Takes,
    /// Removes something.
    GivesBack,
    /// Opens to read, or reads.
    Reads,
    /// Makes a descriptor of something that is no file.
    Descriptor,
    /// Opens to write, or makes.
    Opens,
}

impl Kind {
    fn writes(self) -> bool {
        matches!(self, Kind::Takes | Kind::GivesBack | Kind::Opens)
    }
}

/// Where the object of a call is found in its arguments.
#[derive(Clone, Copy, Debug)]
enum Object {
    None,
    Fd(usize),
    /// Path in this argument, relative to the working directory.
    Path(usize),
    /// Directory fd and path.
    At(usize, usize),
}

struct Call {
    pid: u32,
    name: &'static str,
    kind: Kind,
    object: Object,
    args: [u64; 6],
}

/// Every call that is handed to us.
const CALLS: &[(i64, &str, Kind, Object)] = &[
    (libc::SYS_openat, "openat", Kind::Opens, Object::At(0, 1)),
    (libc::SYS_openat2, "openat2", Kind::Opens, Object::At(0, 1)),
    (libc::SYS_read, "read", Kind::Reads, Object::Fd(0)),
    (libc::SYS_pread64, "pread64", Kind::Reads, Object::Fd(0)),
    (libc::SYS_write, "write", Kind::Takes, Object::Fd(0)),
    (libc::SYS_pwrite64, "pwrite64", Kind::Takes, Object::Fd(0)),
    (libc::SYS_writev, "writev", Kind::Takes, Object::Fd(0)),
    (libc::SYS_copy_file_range, "copy_file_range", Kind::Takes, Object::Fd(2)),
    (libc::SYS_sendfile, "sendfile", Kind::Takes, Object::Fd(0)),
    (libc::SYS_ftruncate, "ftruncate", Kind::Takes, Object::Fd(0)),
    (libc::SYS_fallocate, "fallocate", Kind::Takes, Object::Fd(0)),
    (libc::SYS_fsync, "fsync", Kind::Takes, Object::Fd(0)),
    (libc::SYS_fdatasync, "fdatasync", Kind::Takes, Object::Fd(0)),
    (libc::SYS_syncfs, "syncfs", Kind::Takes, Object::Fd(0)),
    (libc::SYS_fchmod, "fchmod", Kind::Takes, Object::Fd(0)),
    (libc::SYS_fchmodat, "fchmodat", Kind::Takes, Object::At(0, 1)),
    (libc::SYS_fchown, "fchown", Kind::Takes, Object::Fd(0)),
    (libc::SYS_fchownat, "fchownat", Kind::Takes, Object::At(0, 1)),
    (libc::SYS_utimensat, "utimensat", Kind::Takes, Object::At(0, 1)),
    (libc::SYS_mkdirat, "mkdirat", Kind::Takes, Object::At(0, 1)),
    (libc::SYS_mknodat, "mknodat", Kind::Takes, Object::At(0, 1)),
    (libc::SYS_symlinkat, "symlinkat", Kind::Takes, Object::At(1, 2)),
    (libc::SYS_linkat, "linkat", Kind::Takes, Object::At(2, 3)),
    (libc::SYS_renameat, "renameat", Kind::Takes, Object::At(2, 3)),
    (libc::SYS_renameat2, "renameat2", Kind::Takes, Object::At(2, 3)),
    (libc::SYS_unlinkat, "unlinkat", Kind::GivesBack, Object::At(0, 1)),
    (libc::SYS_bind, "bind", Kind::Takes, Object::None),
    (libc::SYS_flock, "flock", Kind::Takes, Object::Fd(0)),
    (libc::SYS_socket, "socket", Kind::Descriptor, Object::None),
    (libc::SYS_socketpair, "socketpair", Kind::Descriptor, Object::None),
    (libc::SYS_pipe2, "pipe2", Kind::Descriptor, Object::None),
    (libc::SYS_memfd_create, "memfd_create", Kind::Descriptor, Object::None),
    (libc::SYS_epoll_create1, "epoll_create1", Kind::Descriptor, Object::None),
    (libc::SYS_eventfd2, "eventfd2", Kind::Descriptor, Object::None),
    (libc::SYS_inotify_init1, "inotify_init1", Kind::Descriptor, Object::None),
    (libc::SYS_pidfd_open, "pidfd_open", Kind::Descriptor, Object::None),
    (libc::SYS_open_tree, "open_tree", Kind::Descriptor, Object::None),
    (libc::SYS_fsopen, "fsopen", Kind::Descriptor, Object::None),
    (libc::SYS_fsmount, "fsmount", Kind::Descriptor, Object::None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", Kind::Opens, Object::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Kind::Takes, Object::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_symlink, "symlink", Kind::Takes, Object::Path(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", Kind::Takes, Object::Path(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Kind::Takes, Object::Path(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Kind::GivesBack, Object::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Kind::GivesBack, Object::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", Kind::Takes, Object::Path(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chown, "chown", Kind::Takes, Object::Path(0)),
];

impl Call {
    fn of(notice: &libc::seccomp_notif) -> Option<Call> {
        let number = i64::from(notice.data.nr);
        let (_, name, mut kind, object) = *CALLS.iter().find(|(nr, ..)| *nr == number)?;
        let args = notice.data.args;
        if kind == Kind::Opens {
            let flags = match name {
                "open" => args[1] as i32,
                "openat" => args[2] as i32,
                // `struct open_how` begins with 64 bits of flags.
                _ => u64::from_ne_bytes(memory(notice.pid, args[2], 8).try_into().ok()?) as i32,
            };
            let changes = libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY | libc::O_RDWR;
            if flags & libc::O_PATH != 0 || flags & changes == 0 {
                kind = Kind::Reads;
            }
        }
        Some(Call { pid: notice.pid, name, kind, object, args })
    }

    fn makes_descriptor(&self) -> bool {
        matches!(self.kind, Kind::Descriptor | Kind::Opens)
            || (self.kind == Kind::Reads && self.name.starts_with("open"))
    }

    fn describe(&self) -> String {
        self.object().map_or_else(String::new, |path| path.display().to_string())
    }

    /// The file or directory that it is about, as an absolute path.
    fn object(&self) -> Option<PathBuf> {
        let fd = |number: u64| std::fs::read_link(format!("/proc/{}/fd/{}", self.pid, number as i32)).ok();
        let place = |at: u64| match at as i32 {
            libc::AT_FDCWD => std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok(),
            _ => fd(at),
        };
        let text = |address: u64| {
            let bytes = memory(self.pid, address, 4096);
            let end = bytes.iter().position(|b| *b == 0)?;
            Some(PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&bytes[..end])))
        };
        match self.object {
            // The address of a Unix socket: behind two bytes of family, through /proc/self/fd.
            Object::None if self.name == "bind" => {
                let path = text(self.args[1] + 2)?;
                let rest = path.strip_prefix("/proc/self/fd").ok()?;
                let mut parts = rest.components();
                let number: u64 = parts.next()?.as_os_str().to_str()?.parse().ok()?;
                Some(fd(number)?.join(parts.as_path()))
            }
            Object::None => None,
            Object::Fd(index) => fd(self.args[index]),
            Object::Path(index) => Some(place(libc::AT_FDCWD as u64)?.join(text(self.args[index])?)),
            Object::At(at, index) => {
                let path = text(self.args[index])?;
                if path.is_absolute() { Some(path) } else { Some(place(self.args[at])?.join(path)) }
            }
        }
    }
}

/// Calls `act` in the child between fork and exec.
fn before_exec(command: &mut std::process::Command, act: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    use std::os::unix::process::CommandExt;
    // SAFETY: what is passed here makes system calls on what it owns and allocates a little, which glibc allows after a fork: it
    // holds the allocator's locks across it.
    unsafe { command.pre_exec(act) };
}

/// At most `length` bytes of a process's memory, fewer at the end of a mapping.
fn memory(pid: u32, address: u64, length: usize) -> Vec<u8> {
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/mem")) else { return Vec::new() };
    let mut bytes = vec![0; length];
    // A string near the end of its page: what can be read up to there is enough.
    let first = length.min(4096 - (address % 4096) as usize);
    let Ok(mut have) = file.read_at(&mut bytes[..first], address) else { return Vec::new() };
    if have == first && first < length && !bytes[..have].contains(&0) {
        have += file.read_at(&mut bytes[first..], address + first as u64).unwrap_or(0);
    }
    bytes.truncate(have);
    bytes
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const USER_NOTIF: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;

/// Puts this process and all its descendants under the filter. Called between fork and exec, so it does not allocate much: the child is
/// a copy of a process whose other threads may hold the allocator's lock, which glibc's `fork` takes care of.
fn install() -> io::Result<OwnedFd> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let give = libc::BPF_RET | libc::BPF_K;
    // arch stands behind the number.
    let mut program = vec![statement(load, 4), jump(ARCH, 1, 0), statement(give, ALLOW), statement(load, 0)];
    for (number, ..) in CALLS {
        program.push(jump(*number as u32, 0, 1));
        program.push(statement(give, USER_NOTIF));
    }
    program.push(statement(give, ALLOW));
    let whole = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    const SET_MODE_FILTER: usize = 1;
    const NEW_LISTENER: usize = 1 << 3;
    // SAFETY: `whole` names `len` instructions of `program`; both outlive the call, which only reads them.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, NEW_LISTENER, &raw const whole) };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) })
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and `_SEND`: `_IOWR('!', n, size)`.
const fn request(number: u64, size: usize) -> u64 {
    (3 << 30) | ((size as u64) << 16) | (0x21 << 8) | number
}

fn receive(listener: &OwnedFd) -> nix::Result<libc::seccomp_notif> {
    // SAFETY: a structure of integers, for which zeros are valid, and which the kernel wants zeroed.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let number = request(0, size_of::<libc::seccomp_notif>());
    // SAFETY: the number says that the kernel writes one such structure, which is ours.
    Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), number, &raw mut notice) })?;
    Ok(notice)
}

fn answer(listener: &OwnedFd, id: u64, errno: Option<Errno>) {
    const CONTINUE: u32 = 1;
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: errno.map_or(0, |e| -(e as i32)),
        flags: if errno.is_some() { 0 } else { CONTINUE },
    };
    let number = request(1, size_of::<libc::seccomp_notif_resp>());
    // SAFETY: the number says that the kernel reads one such structure, which is ours. ENOENT: the caller is dead.
    unsafe { libc::ioctl(listener.as_raw_fd(), number, &raw mut response) };
}
