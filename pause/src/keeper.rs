//! keeper: parent of everything in a pod. It keeps what must not be lost when the supervisor dies (the lock on the pod's directory,
//! descriptors, the exit codes of dead children) and starts the supervisor again. It decides nothing and knows no container.
//!
//! Its arguments become the supervisor's; the environment is passed on. How it talks is the table in [`proto`].
//!
//! * A supervisor that does not read its answers stops being read: one answer is kept back until there is room, and nothing is
//!   queued behind it. keeper itself never waits for anything but the next event.
//! * A supervisor that closes its end can do nothing any more; it is killed, and so started again.
//! * A dead child is announced when no answer is waiting, and stays a zombie until the supervisor says `Reap`; what
//!   a dying supervisor was told but did not acknowledge is told to the next one.
//!
//! keeper is not dumpable: it holds the pod's log pipes and terminals, which a container with the host's PID namespace must not
//! get at through `/proc/<keeper>/fd` or a core dump. The supervisor is dumpable again by its exec.

use crate::arch::{self, PAGE};
use crate::proto::{
    self, FIRST_FREE_FD, KEEPER_EXE_FD, KEEPER_LOCK_FD, KEEPER_PAUSE_FD, KEEPER_READY_FD, KEEPER_REPORT_FD, Kind, Msg,
    SLOT_EXE, SLOTS, SUPERVISOR_FD,
};
use crate::sys::{self, EAGAIN, EBADF, ECHILD, EINVAL, ENOENT, ENOSPC};
use core::cell::UnsafeCell;

const MISUSE: &str = "keeper: started without a lock, an executable or arguments for the supervisor\n";
const NO_EXEC: &str = "keeper: cannot execute the supervisor\n";

/// For the first supervisor.
const FIRSTS: [i32; 3] = [KEEPER_READY_FD, KEEPER_REPORT_FD, KEEPER_PAUSE_FD];

/// A supervisor that lived that long was not a failed start.
const SETTLED_MS: i64 = 1000;
const FIRST_DELAY_MS: i64 = 50;
const LONGEST_DELAY_MS: i64 = 1000;

/// The time to wait before the next start, from the last such time and how long the supervisor lived.
const fn next_delay(last_ms: i64, lived_ms: i64) -> i64 {
    if lived_ms >= SETTLED_MS {
        0
    } else if last_ms == 0 {
        FIRST_DELAY_MS
    } else if last_ms * 2 > LONGEST_DELAY_MS {
        LONGEST_DELAY_MS
    } else {
        last_ms * 2
    }
}

/// The lowest free number is what the kernel gives a descriptor, and besides those that are kept there are never more than these
/// open: so each kept one has a number below this.
const NUMBERS: usize = SLOTS + 8;

/// Which descriptor is kept under which key. A descriptor's number is its index; key 0 stands for none.
struct Slots {
    keys: [u64; NUMBERS],
    used: usize,
}

impl Slots {
    const fn new() -> Self {
        Slots { keys: [0; NUMBERS], used: 0 }
    }

    /// The descriptor under `key`.
    fn find(&self, key: u64) -> Option<i32> {
        if key == 0 {
            return None;
        }
        self.keys.iter().position(|k| *k == key).map(|fd| fd as i32)
    }

    /// The lowest used key from `from` on.
    fn next(&self, from: u64) -> Option<u64> {
        self.keys.iter().copied().filter(|k| *k != 0 && *k >= from).min()
    }

    /// Keeps `fd` under `key`, which is not 0; the descriptor to be closed instead of the one that was there, or an errno.
    fn put(&mut self, key: u64, fd: i32) -> Result<Option<i32>, i32> {
        let old = self.find(key);
        if old.is_none() && self.used >= SLOTS {
            return Err(ENOSPC);
        }
        *self.keys.get_mut(fd as usize).ok_or(ENOSPC)? = key;
        match old {
            Some(old) => self.clear(old),
            None => self.used += 1,
        }
        Ok(old)
    }

    /// Forgets `key`; the descriptor to be closed.
    fn take(&mut self, key: u64) -> Option<i32> {
        let fd = self.find(key)?;
        self.clear(fd);
        self.used -= 1;
        Some(fd)
    }

    fn clear(&mut self, fd: i32) {
        if let Some(key) = self.keys.get_mut(fd as usize) {
            *key = 0;
        }
    }
}

/// The only writable memory besides the stack; zero at the start, so that it takes no room in the file.
struct Memory(UnsafeCell<Slots>);

// SAFETY: keeper has one thread.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new(Slots::new()));

/// Runs keeper on the start block that the kernel left on the stack.
///
/// The strings of arguments and environment lie at the end of the stack; argc, argv, envp and auxv up to 8 KiB below, at a random
/// distance. The arrays are moved up against the strings, and the stack begins anew below them: it then takes one page, not three.
///
/// # Safety
/// `start` points to argc, argv, envp as the kernel lays them out, and nothing else uses the stack.
pub unsafe extern "C" fn main(start: *const usize) -> ! {
    // SAFETY: argc is the first word.
    let argc = unsafe { *start };
    if argc < 2 {
        misuse();
    }
    let mut words = argc + 2;
    // SAFETY: envp begins behind argv's null pointer and ends with one.
    while unsafe { *start.wrapping_add(words) } != 0 {
        words += 1;
    }
    words += 1;
    // SAFETY: there is at least one argument.
    let strings = unsafe { *start.wrapping_add(1) };
    let new = ((strings - words * size_of::<usize>()) & !15) as *mut usize;
    while words > 0 {
        words -= 1;
        // SAFETY: a word of the block, which lies below the strings and so below its new place: going down, none is read
        // after it was overwritten. Volatile, since the new place is nothing the compiler knows of.
        let word = unsafe { start.wrapping_add(words).read_volatile() };
        // SAFETY: between the old block and the strings there are only auxv and random bytes, which keeper does not use.
        unsafe { new.wrapping_add(words).write_volatile(word) };
    }
    let from = (start as usize & !(PAGE - 1)) - PAGE;
    // SAFETY: `run` gets the new block and uses nothing of the old stack, which lies in lower pages.
    unsafe { arch::enter(from, (new as usize & !(PAGE - 1)) - from, new, run) }
}

fn misuse() -> ! {
    sys::write(2, MISUSE.as_bytes());
    sys::exit(2)
}

/// The life of keeper; `start` is the moved start block.
extern "C" fn run(start: *const usize) -> ! {
    // SAFETY: argc is the first word.
    let argc = unsafe { *start };
    // Without keeper's own name; behind argc, the arguments and a null pointer comes the environment.
    let argv = start.wrapping_add(2);
    let envp = start.wrapping_add(argc + 2);
    // SAFETY: this function runs once, and nobody else touches the memory.
    let slots = unsafe { &mut *MEMORY.0.get() };

    sys::set_name(c"keeper");
    sys::set_mask(&sys::ALL_SIGNALS);
    // Ignored, as a parent may have left it, the kernel would throw exit codes away.
    sys::on_sigchld(&sys::SIG_DFL);
    sys::prctl(sys::PR_SET_DUMPABLE, 0);
    sys::setsid();
    let lock = sys::fcntl(KEEPER_LOCK_FD, sys::F_SETFD, sys::FD_CLOEXEC);
    let exe = sys::fcntl(KEEPER_EXE_FD, sys::F_SETFD, sys::FD_CLOEXEC);
    if lock < 0
        || exe < 0
        || sys::prctl(sys::PR_SET_CHILD_SUBREAPER, 1) < 0
        || sys::close_from(FIRST_FREE_FD) < 0
        || slots.put(SLOT_EXE, KEEPER_EXE_FD).is_err()
    {
        misuse();
    }
    // Before anything here is opened, which would take the number of a closed one.
    let firsts = FIRSTS.map(|fd| if sys::fcntl(fd, sys::F_GETFD, 0) < 0 { -1 } else { fd });
    let signals = sys::sigchld_fd();
    if signals < 0 {
        misuse();
    }
    let mut keeper = Keeper {
        slots,
        argv,
        envp,
        own_pid: sys::getpid(),
        signals,
        firsts,
        supervisor: 0,
        socket: -1,
        starts: 0,
        since_ms: 0,
        delay_ms: 0,
        announced: 0,
        look: false,
        unsent: None,
    };
    keeper.start();
    loop {
        keeper.turn();
    }
}

struct Keeper {
    slots: &'static mut Slots,
    argv: *const usize,
    envp: *const usize,
    own_pid: i32,
    /// Readable while a SIGCHLD is pending.
    signals: i32,
    /// What is for the first supervisor, or -1.
    firsts: [i32; FIRSTS.len()],
    /// Its pid, or 0 while none runs.
    supervisor: i32,
    /// Our end, or -1.
    socket: i32,
    /// Supervisors started so far.
    starts: i32,
    /// When the supervisor was started; when it died, while none runs.
    since_ms: i64,
    /// Wait between its death and the next start.
    delay_ms: i64,
    /// The zombie that this supervisor knows of, or 0.
    announced: i32,
    /// There may be another zombie.
    look: bool,
    /// What did not fit into the socket yet, with its descriptor or -1. While it is there, nothing is received.
    unsent: Option<(Msg, i32)>,
}

impl Keeper {
    /// One round: say what is to be said, then wait for one event and take it.
    fn turn(&mut self) {
        if self.socket >= 0 {
            // The answer first: a zombie that waits behind it must be announced before we wait for another event.
            self.flush();
            if self.unsent.is_none() && self.look && self.announced == 0 {
                self.announce();
                self.flush();
            }
        }

        let mut timeout = -1;
        if self.supervisor == 0 {
            timeout = self.since_ms + self.delay_ms - sys::now_ms();
            if timeout <= 0 {
                self.start();
                return;
            }
        }
        let events = if self.unsent.is_some() { sys::POLLOUT } else { sys::POLLIN };
        let mut fds = [
            sys::Poll { fd: self.signals, events: sys::POLLIN, revents: 0 },
            sys::Poll { fd: self.socket, events, revents: 0 },
        ];
        sys::poll(&mut fds, timeout);

        if fds[0].revents != 0 {
            // First this, then the look: a child that dies in between is seen by either.
            sys::drain_sigchld(self.signals);
            self.look = true;
            if self.supervisor != 0 && sys::reap(self.supervisor) == self.supervisor {
                self.bury();
                return;
            }
        }
        if fds[1].revents != 0 && self.unsent.is_none() {
            let packet = sys::receive(self.socket);
            if packet.len > 0 {
                self.unsent = Some(self.answer(&packet));
            } else if packet.len != -EAGAIN {
                self.hang_up();
            }
        }
    }

    /// Starts a supervisor, or counts a failure as one that died at once.
    fn start(&mut self) {
        self.since_ms = sys::now_ms();
        let mut pair = [-1; 2];
        if sys::socket_pair(&mut pair) < 0 {
            self.died();
            return;
        }
        let [ours, theirs] = pair;
        let pid = sys::fork();
        if pid == 0 {
            self.become_supervisor(theirs);
        }
        sys::close(theirs);
        if pid < 0 {
            sys::close(ours);
            self.died();
            return;
        }
        for fd in &mut self.firsts {
            sys::close(*fd);
            *fd = -1;
        }
        self.supervisor = pid;
        self.socket = ours;
        self.starts = self.starts.saturating_add(1);
        self.announced = 0;
        self.look = true;
    }

    /// The child's way from fork to exec. Every descriptor but 0 to 2 and those for the first supervisor is CLOEXEC.
    fn become_supervisor(&self, socket: i32) -> ! {
        sys::prctl(sys::PR_SET_PDEATHSIG, sys::SIGKILL);
        // A parent that died before the line above sent no signal.
        if sys::getppid() != self.own_pid {
            sys::exit(127);
        }
        sys::dup_to(socket, SUPERVISOR_FD);
        sys::set_mask(&sys::NO_SIGNALS);
        if let Some(exe) = self.slots.find(SLOT_EXE) {
            // SAFETY: both arrays are the kernel's own, moved as they were.
            unsafe { sys::exec_fd(exe, self.argv, self.envp) };
        }
        sys::write(2, NO_EXEC.as_bytes());
        sys::exit(127)
    }

    /// The supervisor is dead and reaped.
    fn bury(&mut self) {
        sys::close(self.socket);
        self.socket = -1;
        self.supervisor = 0;
        self.unsent = None;
        self.died();
    }

    fn died(&mut self) {
        let now = sys::now_ms();
        self.delay_ms = next_delay(self.delay_ms, now - self.since_ms);
        self.since_ms = now;
    }

    /// The other end is closed: whoever holds it can be of no use.
    fn hang_up(&mut self) {
        sys::close(self.socket);
        self.socket = -1;
        self.unsent = None;
        if self.supervisor != 0 {
            // Not reaped yet, so that the pid is still its own.
            sys::kill(self.supervisor, sys::SIGKILL);
        }
    }

    /// Prepares the announcement of the first zombie, if there is one.
    fn announce(&mut self) {
        let mut info = sys::ChildInfo::new();
        sys::look_for_zombie(&mut info);
        self.look = false;
        // The supervisor itself is reaped when its SIGCHLD is taken, which is pending now; that looks again.
        if info.pid != 0 && info.pid != self.supervisor {
            self.announced = info.pid;
            self.unsent = Some((
                Msg { kind: Kind::Exited as u32, a: info.pid, b: info.status, pad: 0, key: info.code as i64 as u64 },
                -1,
            ));
        }
    }

    /// Sends what is unsent, if there is room for it.
    fn flush(&mut self) {
        let Some((message, fd)) = self.unsent else { return };
        let result = sys::send(self.socket, &message, fd);
        if result == -EAGAIN {
            return;
        }
        self.unsent = None;
        if result < 0 {
            if fd < 0 {
                self.hang_up();
            } else {
                // A descriptor that cannot be sent now (ETOOMANYREFS) is no broken connection: say so instead.
                self.unsent = Some((Msg { kind: Kind::Done as u32, a: -result, ..message }, -1));
            }
        }
    }

    /// Does what a packet asks; the answer, and the descriptor that goes with it or -1.
    fn answer(&mut self, packet: &sys::Packet) -> (Msg, i32) {
        let Msg { kind, a, key, .. } = packet.message;
        let whole = packet.len as usize == size_of::<Msg>() && !packet.long;
        let kind = if whole { Kind::from_u32(kind) } else { None };
        let mut came = packet.fd;
        let mut reply = Msg::new(Kind::Done, key);
        let mut lent = -1;
        match kind {
            Some(Kind::Put) if key != 0 && !(packet.fds_lost && came >= 0) => {
                if packet.fds_lost {
                    reply.a = ENOSPC;
                } else if came < 0 {
                    reply.a = EBADF;
                } else {
                    match self.slots.put(key, came) {
                        Ok(old) => {
                            came = old.unwrap_or(-1);
                            if key == SLOT_EXE {
                                // It makes room for another, which is no failure however short it has lived.
                                self.since_ms -= SETTLED_MS;
                            }
                        }
                        Err(errno) => reply.a = errno,
                    }
                }
            }
            Some(Kind::Signal) if key != 0 && a > 0 && came >= 0 && !packet.fds_lost => {
                if self.slots.find(key).is_none() {
                    // The slot first: a signal that was sent must never be forgotten.
                    match self.slots.put(key, came) {
                        Ok(_) => {
                            reply.a = -sys::pidfd_send_signal(came, a as usize);
                            if reply.a == 0 {
                                came = -1;
                            } else {
                                self.slots.take(key);
                            }
                        }
                        Err(errno) => reply.a = errno,
                    }
                }
            }
            _ if came >= 0 || packet.fds_lost => reply.a = EINVAL,
            Some(Kind::Hello) => {
                reply.key = proto::VERSION;
                reply.b = self.starts - 1;
            }
            Some(Kind::Get) => match self.slots.find(key) {
                Some(fd) => {
                    reply.kind = Kind::Fd as u32;
                    lent = fd;
                }
                None => reply.a = ENOENT,
            },
            // Without it there would be no next supervisor.
            Some(Kind::Drop) if key != SLOT_EXE => match self.slots.take(key) {
                Some(fd) => came = fd,
                None => reply.a = ENOENT,
            },
            Some(Kind::List) => match self.slots.next(key) {
                Some(next) => {
                    reply.kind = Kind::Item as u32;
                    reply.key = next;
                }
                None => reply.a = ENOENT,
            },
            // 0 and below would mean any child.
            Some(Kind::Reap) if a > 0 => {
                reply.key = a as u64;
                reply.a = self.reap(a);
            }
            Some(Kind::Quit) => {
                // The lock goes with us, and who then finds it free must find nobody of the pod alive.
                if self.supervisor != 0 {
                    sys::end(self.supervisor);
                }
                sys::exit(0)
            }
            _ => reply.a = EINVAL,
        }
        sys::close(came);
        (reply, lent)
    }

    /// Reaps a dead child that is not the supervisor; 0 or an errno.
    fn reap(&mut self, pid: i32) -> i32 {
        if pid == self.supervisor {
            return EINVAL;
        }
        let result = sys::reap(pid);
        if result == 0 {
            return EAGAIN;
        }
        if pid == self.announced && (result == pid || result == -ECHILD) {
            self.announced = 0;
            self.look = true;
        }
        if result < 0 { -result } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_starts_at_50_ms_doubles_and_stays_at_a_second() {
        let mut delay = 0;
        let mut seen = [0; 7];
        for place in &mut seen {
            delay = next_delay(delay, SETTLED_MS - 1);
            *place = delay;
        }
        assert_eq!(seen, [50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_settled_supervisor_is_started_again_at_once() {
        assert_eq!(next_delay(LONGEST_DELAY_MS, SETTLED_MS), 0);
        assert_eq!(next_delay(0, 0), FIRST_DELAY_MS);
    }

    #[test]
    fn a_key_keeps_one_descriptor_and_gives_back_the_one_it_replaces() {
        let mut slots = Slots::new();
        assert_eq!(slots.put(7, 10), Ok(None));
        assert_eq!(slots.put(7, 11), Ok(Some(10)));
        assert_eq!(slots.find(7), Some(11));
        assert_eq!(slots.used, 1);
        assert_eq!(slots.take(7), Some(11));
        assert_eq!(slots.take(7), None);
        assert_eq!(slots.used, 0);
    }

    #[test]
    fn key_0_is_never_found() {
        let mut slots = Slots::new();
        assert_eq!(slots.find(0), None);
        assert_eq!(slots.take(0), None);
        assert_eq!(slots.next(0), None);
    }

    #[test]
    fn keys_are_listed_from_the_lowest() {
        let mut slots = Slots::new();
        for (key, fd) in [(u64::MAX, 6), (3, 7), (40, 8)] {
            slots.put(key, fd).unwrap();
        }
        assert_eq!(slots.next(0), Some(3));
        assert_eq!(slots.next(4), Some(40));
        assert_eq!(slots.next(41), Some(u64::MAX));
    }

    #[test]
    fn a_full_table_refuses_new_keys_and_replaces_old_ones() {
        let mut slots = Slots::new();
        for i in 0..SLOTS {
            assert_eq!(slots.put(i as u64 + 1, i as i32 + 6), Ok(None));
        }
        assert_eq!(slots.put(9999, 5), Err(ENOSPC));
        assert_eq!(slots.put(1, SLOTS as i32 + 6), Ok(Some(6)));
        assert_eq!(slots.take(2), Some(7));
        assert_eq!(slots.put(9999, 7), Ok(None));
    }
}
