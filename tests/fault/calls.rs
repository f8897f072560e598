//! Which system calls change something that others can see, and the seccomp program that stops a process before each of them.

use std::sync::Arc;

/// Calls that always count.
macro_rules! calls {
    ($($name:ident)*) => { &[$((libc::$name, stringify!($name))),*] };
}

/// Files, their contents and attributes; mounts; namespaces; processes; sockets and pipes that somebody else holds the other end of.
const CHANGING: &[(libc::c_long, &str)] = calls! {
    SYS_write SYS_writev SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_sendfile SYS_copy_file_range SYS_splice SYS_tee SYS_vmsplice
    SYS_truncate SYS_ftruncate SYS_fallocate SYS_fsync SYS_fdatasync SYS_syncfs SYS_sync
    SYS_mkdirat SYS_mknodat SYS_symlinkat SYS_linkat SYS_unlinkat SYS_renameat2 SYS_openat2
    SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_flock
    SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
    SYS_mount_setattr SYS_sethostname
    SYS_unshare SYS_setns SYS_setsid
    SYS_clone SYS_clone3 SYS_execve SYS_execveat SYS_exit_group SYS_wait4
    SYS_kill SYS_tkill SYS_tgkill SYS_rt_sigqueueinfo SYS_pidfd_send_signal
    SYS_bind SYS_listen SYS_connect SYS_accept SYS_accept4 SYS_shutdown SYS_sendto SYS_sendmsg SYS_sendmmsg
    SYS_bpf
};

/// The older names of some of them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[(libc::c_long, &str)] = calls! {
    SYS_creat SYS_mkdir SYS_rmdir SYS_mknod SYS_symlink SYS_link SYS_unlink SYS_rename SYS_renameat SYS_chmod SYS_chown SYS_lchown
    SYS_utimes SYS_fork SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[(libc::c_long, &str)] = calls! { SYS_renameat };

/// Calls that take something out of a pipe or a socket, for good. Those on other files change nothing; the program cannot tell, so they are
/// stopped too, and [`consumes`] says which are to be looked at.
const CONSUMING: &[(libc::c_long, &str)] = calls! { SYS_read SYS_readv SYS_recvfrom SYS_recvmsg };

/// Calls that count when some bits of an argument are set: number, name, argument, bits.
const WRITING: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;
const IF_ANY: &[(libc::c_long, &str, u32, u32)] = &[
    (libc::SYS_openat, "SYS_openat", 2, WRITING),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "SYS_open", 1, WRITING),
];
/// Calls that count unless some bits of an argument are set: keeper looks at a zombie with WNOWAIT, and leaves it.
const UNLESS_ANY: &[(libc::c_long, &str, u32, u32)] = &[(libc::SYS_waitid, "SYS_waitid", 3, libc::WNOWAIT as u32)];

/// Whether the call matters only if its first argument is a pipe or a socket.
pub fn consumes(number: i64) -> bool {
    CONSUMING.iter().any(|(call, _)| *call == number)
}

/// `openat` for 257.
pub fn name(number: i64) -> String {
    let plain = [CHANGING, OLDER, CONSUMING].into_iter().flatten().map(|(call, name)| (*call, *name));
    let masked = IF_ANY.iter().chain(UNLESS_ANY).map(|(call, name, ..)| (*call, *name));
    plain
        .chain(masked)
        .find(|(call, _)| *call == number)
        .map_or_else(|| format!("call {number}"), |(_, name)| name.trim_start_matches("SYS_").to_owned())
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn low_word_of(argument: u32) -> u32 {
    16 + 8 * argument
}

/// A comparison reaches 255 instructions far, so the list is cut into pieces with an end of their own.
const PIECE: usize = 200;

/// The program: `SECCOMP_RET_USER_NOTIF` for the calls above, `SECCOMP_RET_ALLOW` for all others.
pub fn program() -> Arc<Vec<libc::sock_filter>> {
    let code = |bits: u32| u16::try_from(bits).expect("16 bits");
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let any_bit = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
    let ret = code(libc::BPF_RET | libc::BPF_K);
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).expect("a small number");
    let (notify, allow) = (step(ret, libc::SECCOMP_RET_USER_NOTIF, 0, 0), step(ret, libc::SECCOMP_RET_ALLOW, 0, 0));

    let mut program = vec![step(load, ARCH, 0, 0), step(equal, ARCHITECTURE, 1, 0), allow, step(load, NUMBER, 0, 0)];
    for (list, when_set, otherwise) in [(IF_ANY, notify, allow), (UNLESS_ANY, allow, notify)] {
        for (call, _, argument, bits) in list {
            program.extend([
                step(equal, number(*call), 0, 4),
                step(load, low_word_of(*argument), 0, 0),
                step(any_bit, *bits, 0, 1),
                when_set,
                otherwise,
            ]);
        }
    }
    let plain: Vec<_> = [CHANGING, OLDER, CONSUMING].into_iter().flatten().map(|(call, _)| number(*call)).collect();
    for piece in plain.chunks(PIECE) {
        for (index, call) in piece.iter().enumerate() {
            // Over the rest of the piece and over the jump behind it.
            let far = u8::try_from(piece.len() - index).expect("a piece is short");
            program.push(step(equal, *call, far, 0));
        }
        program.extend([step(code(libc::BPF_JMP | libc::BPF_JA), 1, 0, 0), notify]);
    }
    program.push(allow);
    Arc::new(program)
}
