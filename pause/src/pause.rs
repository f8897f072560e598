//! pause: PID 1 of a pod. It holds the pod's namespaces by being alive, lets the kernel reap its orphans, and exits 0 on
//! SIGTERM or SIGINT from outside its PID namespace. Every other signal is taken and dropped. `-v` prints the version.
//!
//! All containers of a pod may be able to see it, so there is as little to see as possible: not dumpable, and after its first
//! microseconds a seccomp filter leaves it the two calls of its loop. It gives back its stack but for the page with its arguments
//! (`ps` reads them): that and one page of text stay resident.

use crate::arch::{self, AUDIT_ARCH, PAGE, nr};
use crate::sys::{self, Bpf, BpfProgram};

const VERSION: &str = concat!("husk pause ", env!("CARGO_PKG_VERSION"), "\n");
const NOT_INIT: &str = "pause: warning: not PID 1, orphans will not be reaped here\n";
const NO_SECCOMP: &str = "pause: cannot install its seccomp filter\n";

const BPF_LD_W_ABS: u16 = 0x20;
const BPF_JEQ: u16 = 0x15;
const BPF_RET: u16 = 0x06;
const SECCOMP_RET_KILL_PROCESS: u32 = 0x8000_0000;
const SECCOMP_RET_ALLOW: u32 = 0x7fff_0000;

/// `struct seccomp_data`: the number at offset 0, the architecture at 4.
static FILTER: [Bpf; 7] = [
    Bpf { code: BPF_LD_W_ABS, jt: 0, jf: 0, k: 4 },
    Bpf { code: BPF_JEQ, jt: 0, jf: 3, k: AUDIT_ARCH },
    Bpf { code: BPF_LD_W_ABS, jt: 0, jf: 0, k: 0 },
    Bpf { code: BPF_JEQ, jt: 2, jf: 0, k: nr::RT_SIGTIMEDWAIT as u32 },
    Bpf { code: BPF_JEQ, jt: 1, jf: 0, k: nr::EXIT_GROUP as u32 },
    Bpf { code: BPF_RET, jt: 0, jf: 0, k: SECCOMP_RET_KILL_PROCESS },
    Bpf { code: BPF_RET, jt: 0, jf: 0, k: SECCOMP_RET_ALLOW },
];

static PROGRAM: BpfProgram = BpfProgram::new(&FILTER);

/// Runs pause on the start block that the kernel left on the stack.
///
/// # Safety
/// `start` points to argc, argv, envp as the kernel lays them out, and nothing else uses the stack.
pub unsafe extern "C" fn main(start: *const usize) -> ! {
    sys::set_mask(&sys::ALL_SIGNALS);
    // With SIGCHLD ignored the kernel leaves no zombies, whenever and from wherever a child came: no wake-up, no loop, no race.
    sys::on_sigchld(&sys::SIG_IGN);
    sys::prctl(sys::PR_SET_DUMPABLE, 0);
    sys::prctl(sys::PR_SET_NO_NEW_PRIVS, 1);
    sys::set_name(c"pause");

    // SAFETY: argv starts behind argc and ends with a null pointer; without arguments this is that pointer.
    let mut arg = unsafe { start.add(1) };
    loop {
        // SAFETY: not behind the null pointer, at which the loop ends.
        let text = unsafe { *arg } as *const [u8; 3];
        if text.is_null() {
            break;
        }
        // SAFETY: in bounds, as above.
        arg = unsafe { arg.add(1) };
        // SAFETY: a shorter string is followed by others: at least the name of the executable lies behind the arguments.
        if unsafe { *text } == *b"-v\0" {
            sys::exit((sys::write(1, VERSION.as_bytes()) < 0) as usize);
        }
    }
    if sys::getpid() != 1 {
        sys::write(2, NOT_INIT.as_bytes());
    }
    let page = |address: usize| address & !(PAGE - 1);
    let from = page(start as usize) - PAGE;
    // SAFETY: the first argument, or argv's null pointer.
    let strings = unsafe { *start.wrapping_add(1) };
    // The little that `rest` needs lies right below the strings, in the page that stays anyway.
    let stack = if strings == 0 { start } else { (strings & !15) as *const usize };
    // SAFETY: the range ends before the page of the strings, and `rest` uses nothing of the old stack: all its data are statics.
    unsafe { arch::enter(from, page(strings).saturating_sub(from), stack, rest) }
}

/// The life of pause, on an empty stack.
extern "C" fn rest(_: *const usize) -> ! {
    let init = sys::getpid() == 1;
    if sys::seccomp(&PROGRAM) < 0 {
        sys::write(2, NO_SECCOMP.as_bytes());
        sys::exit(1);
    }
    let mut info = sys::SignalInfo::new();
    loop {
        let signal = sys::wait_signal(&sys::ALL_SIGNALS, &mut info);
        // A container in a shared PID namespace may send signals, but it must not end the pod: only who is outside has no pid here.
        if (signal == sys::SIGTERM as isize || signal == sys::SIGINT as isize) && (info.pid == 0 || !init) {
            sys::exit(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs [`FILTER`] on a call, with those instructions that it has.
    fn verdict(number: u32, arch: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let Bpf { code, jt, jf, k } = FILTER[at];
            at += 1;
            match code {
                BPF_LD_W_ABS => value = if k == 0 { number } else { arch },
                BPF_JEQ => at += usize::from(if value == k { jt } else { jf }),
                _ => return k,
            }
        }
    }

    #[test]
    fn two_calls_are_left_and_every_other_one_kills() {
        for number in 0..2048 {
            let allowed = [nr::RT_SIGTIMEDWAIT as u32, nr::EXIT_GROUP as u32].contains(&number);
            let expected = if allowed { SECCOMP_RET_ALLOW } else { SECCOMP_RET_KILL_PROCESS };
            assert_eq!(verdict(number, AUDIT_ARCH), expected, "call {number}");
        }
    }

    #[test]
    fn calls_of_another_architecture_kill() {
        const AUDIT_ARCH_I386: u32 = 0x4000_0003;
        const X32: u32 = 0x4000_0000;
        for number in [nr::RT_SIGTIMEDWAIT as u32, nr::EXIT_GROUP as u32] {
            assert_eq!(verdict(number, AUDIT_ARCH_I386), SECCOMP_RET_KILL_PROCESS);
            assert_eq!(verdict(number | X32, AUDIT_ARCH), SECCOMP_RET_KILL_PROCESS);
        }
    }
}
