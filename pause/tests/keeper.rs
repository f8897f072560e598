//! keeper as a program: every message from both sides, hostile input, dying supervisors, and its budget.
//!
//! The supervisor is this test binary, executed again by keeper: [`fake_supervisor`] hands its socket to the test, which then
//! speaks the protocol itself, and does what the test orders over a socket of their own.

mod common;

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{children, end_of, eventually, program, resident_kib, status};
use husk_oci::sys::process::{self, Child, CloneArgs, Exit, Strings, Target};
use husk_oci::sys::{Errno, fd};
use pause::proto::{
    KEEPER_EXE_FD, KEEPER_LOCK_FD, KEEPER_READY_FD, Kind, Msg, SLOT_EXE, SLOTS, SUPERVISOR_FD, VERSION,
};

/// Set for the supervisor: where the test listens.
const ADDRESS: &str = "KEEPER_TEST_SOCKET";

/// What the test orders the supervisor to do; each order has a number with it.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Order {
    /// End with this exit code.
    Exit = 1,
    /// Make a sibling that ends with this exit code; its pid is answered.
    Sibling,
    /// Make a sibling that dies of this signal.
    Killed,
    /// Make a sibling that lives.
    Living,
    /// Make a child, which makes a child with this exit code and leaves it behind; the orphan's pid is answered.
    Orphan,
    /// Close the socket to keeper.
    HangUp,
    /// Say how many bytes the ready pipe takes: 1 or, when there is none, 0.
    Ready,
}

/// The supervisor, when keeper executes this; nothing otherwise.
#[test]
fn fake_supervisor() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let keeper = fd::inherit(SUPERVISOR_FD).unwrap();
    let ready = fd::inherit(KEEPER_READY_FD).ok();
    let test = UnixStream::connect(address).unwrap();
    fd::send(test.as_fd(), &process::getpid().to_ne_bytes(), &[keeper.as_fd()]).unwrap();
    let mut keeper = Some(keeper);
    let parent = process::getppid();
    loop {
        let mut order = [0; 5];
        match fd::read(test.as_fd(), &mut order) {
            Ok(5) => {}
            _ => process::exit(90),
        }
        let number = i32::from_ne_bytes([order[1], order[2], order[3], order[4]]);
        let sibling = CloneArgs { sibling: true, ..CloneArgs::default() };
        let answer = match order[0] {
            1 => process::exit(number),
            2 => process::spawn(&sibling, || process::exit(number)).unwrap().pid,
            3 => process::spawn(&sibling, || die_of(number)).unwrap().pid,
            4 => process::spawn(&sibling, || live(parent)).unwrap().pid,
            5 => orphan(number),
            6 => {
                keeper.take();
                0
            }
            7 => ready.as_ref().map_or(0, |r| fd::write(r.as_fd(), b"!").unwrap() as i32),
            _ => process::exit(91),
        };
        fd::write(test.as_fd(), &answer.to_ne_bytes()).unwrap();
    }
}

fn die_of(signal: i32) -> Infallible {
    process::default_signals();
    let itself = process::pidfd_open(process::getpid());
    let _ = process::unblock_signals();
    let _ = itself.and_then(|itself| process::pidfd_send_signal(itself.as_fd(), signal));
    process::exit(92)
}

/// Lives until keeper dies.
fn live(keeper: i32) -> ! {
    let _ = process::set_parent_death_signal(libc::SIGKILL);
    if process::getppid() != keeper {
        process::exit(93);
    }
    loop {
        let _ = fd::poll(&mut [], None);
    }
}

fn orphan(code: i32) -> i32 {
    let (read, write) = fd::pipe(false).unwrap();
    let middle = process::spawn(&CloneArgs::default(), || {
        if let Ok(orphan) = process::spawn(&CloneArgs::default(), || process::exit(code)) {
            let _ = fd::write(write.as_fd(), &orphan.pid.to_ne_bytes());
        }
        process::exit(0)
    });
    let mut pid = [0; 4];
    assert_eq!(fd::read(read.as_fd(), &mut pid), Ok(4));
    assert!(process::wait(Target::Pid(middle.unwrap().pid), false, false).is_ok());
    i32::from_ne_bytes(pid)
}

/// A supervisor that came up: the test's copy of its socket to keeper, and the line for orders.
struct Supervisor {
    pid: i32,
    keeper: OwnedFd,
    orders: UnixStream,
}

impl Supervisor {
    #[track_caller]
    fn order(&self, order: Order, number: i32) -> i32 {
        let [a, b, c, d] = number.to_ne_bytes();
        fd::write(self.orders.as_fd(), &[order as u8, a, b, c, d]).unwrap();
        let mut answer = [0; 4];
        match fd::read(self.orders.as_fd(), &mut answer) {
            Ok(4) => i32::from_ne_bytes(answer),
            // It has obeyed and is gone.
            _ => 0,
        }
    }

    fn kill(&self) {
        process::pidfd_send_signal(process::pidfd_open(self.pid).unwrap().as_fd(), libc::SIGKILL).unwrap();
    }

    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        assert_eq!(fd::send(self.keeper.as_fd(), packet, fds), Ok(packet.len()));
    }

    /// The next packet of keeper, with its fd.
    #[track_caller]
    fn receive(&self) -> (Msg, Option<OwnedFd>) {
        let mut poll = [fd::PollFd::new(self.keeper.as_fd(), fd::PollFlags::POLLIN)];
        assert_eq!(fd::poll(&mut poll, Some(Duration::from_secs(10))), Ok(1), "keeper says nothing");
        let mut packet = [0; 64];
        let mut got = fd::recv(self.keeper.as_fd(), &mut packet, true).unwrap();
        assert_eq!(got.len, Msg::BYTES);
        assert!(got.fds[1].is_none());
        (Msg::from_bytes(packet.first_chunk().unwrap()), got.fds[0].take())
    }

    #[track_caller]
    fn ask(&self, message: Msg, fds: &[BorrowedFd<'_>]) -> (Msg, Option<OwnedFd>) {
        self.send(&message.to_bytes(), fds);
        self.receive()
    }

    /// Asks for something that is answered by `Done`; its errno.
    #[track_caller]
    fn done(&self, kind: Kind, key: u64, fds: &[BorrowedFd<'_>]) -> i32 {
        let (answer, fd) = self.ask(Msg::new(kind, key), fds);
        assert_eq!((answer.kind, answer.key), (Kind::Done as u32, key));
        assert!(fd.is_none());
        answer.a
    }

    #[track_caller]
    fn reap(&self, pid: i32) -> i32 {
        let (answer, _) = self.ask(Msg { a: pid, ..Msg::new(Kind::Reap, 0) }, &[]);
        assert_eq!(answer.kind, Kind::Done as u32);
        answer.a
    }

    /// The next message must be this exit.
    #[track_caller]
    fn expect_exited(&self, pid: i32, code: i32, status: i32) {
        let exited = Msg { kind: Kind::Exited as u32, a: pid, b: status, pad: 0, key: code as u64 };
        assert_eq!(self.receive().0, exited);
    }

    /// Sends garbage, which must be refused; then keeper must hold as many fds as before and still answer.
    #[track_caller]
    fn refused(&self, pod: &Pod, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        let before = pod.open_fds();
        self.send(packet, fds);
        let (answer, _) = self.receive();
        assert_eq!((answer.kind, answer.a), (Kind::Done as u32, libc::EINVAL));
        assert_eq!(pod.open_fds(), before);
        assert_eq!(self.ask(Msg::new(Kind::Hello, 0), &[]).0.key, VERSION);
    }

    fn silent(&self) -> bool {
        fd::recv(self.keeper.as_fd(), &mut [0; 64], true).is_err_and(|e| e == Errno::EAGAIN)
    }
}

/// A keeper with what belongs to it; all is gone at the end of the test.
struct Pod {
    keeper: Child,
    listener: UnixListener,
    dir: PathBuf,
    /// Read end of the ready pipe.
    ready: OwnedFd,
}

impl Pod {
    /// Starts keeper, with one fd more than it should have.
    fn start() -> Pod {
        // Whatever keeper leaves behind comes to us and is reaped in drop.
        process::set_child_subreaper(true).unwrap();
        let name = format!("keeper-test-{}-{:?}", process::getpid(), std::thread::current().id());
        let dir = std::env::temp_dir().join(name.replace(['(', ')'], "-"));
        std::fs::create_dir(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("socket")).unwrap();
        let image = program(pause::image::KEEPER);
        let exe = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
        let lock = OwnedFd::from(std::fs::File::open(&dir).unwrap());
        let (ready, write) = fd::pipe(false).unwrap();
        let high = |fd: OwnedFd| fd::dup_from(fd.as_fd(), 100).unwrap();
        let (image, exe, lock, write) = (high(image), high(exe), high(lock), high(write));
        let argv = ["keeper", "husk", "--exact", "fake_supervisor", "--nocapture", "--test-threads=1"];
        let argv = Strings::new(argv.iter().map(|s| CString::new(*s).unwrap()).collect());
        let address = format!("{ADDRESS}={}", dir.join("socket").display());
        let env = Strings::new(vec![CString::new(address).unwrap()]);
        let null = OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null").unwrap());
        let keeper = process::spawn(&CloneArgs::default(), || -> Infallible {
            let failed = |_| process::exit(99);
            fd::place(null.as_fd(), 1).unwrap_or_else(failed);
            fd::place(lock.as_fd(), KEEPER_LOCK_FD).unwrap_or_else(failed);
            fd::place(exe.as_fd(), KEEPER_EXE_FD).unwrap_or_else(failed);
            fd::place(write.as_fd(), KEEPER_READY_FD).unwrap_or_else(failed);
            // One that keeper must close.
            fd::place(null.as_fd(), 50).unwrap_or_else(failed);
            process::execveat(image.as_fd(), c"", &argv, &env);
            process::exit(98)
        });
        Pod { keeper: keeper.unwrap(), listener, dir, ready }
    }

    /// The supervisor that comes up next.
    #[track_caller]
    fn supervisor(&self) -> Supervisor {
        let mut poll = [fd::PollFd::new(self.listener.as_fd(), fd::PollFlags::POLLIN)];
        assert_eq!(fd::poll(&mut poll, Some(Duration::from_secs(10))), Ok(1), "no supervisor came");
        let (orders, _) = self.listener.accept().unwrap();
        let mut pid = [0; 4];
        let mut got = fd::recv(orders.as_fd(), &mut pid, false).unwrap();
        Supervisor { pid: i32::from_ne_bytes(pid), keeper: got.fds[0].take().unwrap(), orders }
    }

    fn pid(&self) -> i32 {
        self.keeper.pid
    }

    fn open_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    fn kill(&self) {
        process::pidfd_send_signal(self.keeper.pidfd.as_fd(), libc::SIGKILL).unwrap();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let left = children(self.pid());
        // These fail when the test has ended keeper itself.
        let _ = process::pidfd_send_signal(self.keeper.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait(Target::Pidfd(self.keeper.pidfd.as_fd()), false, false);
        for pid in left {
            let _ = process::wait(Target::Pid(pid), false, false);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A process of a dead keeper, now ours, must have been killed.
#[track_caller]
fn killed(pid: i32) {
    let end = end_of(process::pidfd_open(pid).unwrap().as_fd());
    assert_eq!(end, Exit { pid, code: libc::CLD_KILLED, status: libc::SIGKILL });
}

fn some_fd() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn same_file(a: &OwnedFd, b: &OwnedFd) -> bool {
    let of = |fd: &OwnedFd| husk_oci::sys::path::fstat(fd.as_fd()).map(|s| (s.st_dev, s.st_ino)).unwrap();
    of(a) == of(b)
}

#[test]
fn hello_tells_the_version_and_how_many_supervisors_there_were() {
    let pod = Pod::start();
    for earlier in 0..3 {
        let supervisor = pod.supervisor();
        let (answer, _) = supervisor.ask(Msg::new(Kind::Hello, 5), &[]);
        assert_eq!(answer, Msg { b: earlier, ..Msg::new(Kind::Done, VERSION) });
        supervisor.kill();
    }
}

#[test]
fn what_was_put_is_got_listed_replaced_and_dropped() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let ((r1, _w1), (r2, _w2)) = (fd::pipe(false).unwrap(), fd::pipe(false).unwrap());
    let idle = pod.open_fds();
    assert_eq!(s.done(Kind::Put, 7, &[r1.as_fd()]), 0);
    assert_eq!(s.done(Kind::Put, u64::MAX, &[r1.as_fd()]), 0);
    assert_eq!(pod.open_fds(), idle + 2);
    let (answer, fd) = s.ask(Msg::new(Kind::Get, 7), &[]);
    assert_eq!((answer.kind, answer.key), (Kind::Fd as u32, 7));
    assert!(same_file(&fd.unwrap(), &r1));

    assert_eq!(s.done(Kind::Put, 7, &[r2.as_fd()]), 0);
    assert_eq!(pod.open_fds(), idle + 2);
    assert!(same_file(&s.ask(Msg::new(Kind::Get, 7), &[]).1.unwrap(), &r2));

    for (from, next) in [(0, SLOT_EXE), (2, 7), (7, 7), (8, u64::MAX)] {
        assert_eq!(s.ask(Msg::new(Kind::List, from), &[]).0, Msg::new(Kind::Item, next));
    }
    assert_eq!(s.done(Kind::Drop, u64::MAX, &[]), 0);
    assert_eq!(s.done(Kind::Drop, u64::MAX, &[]), libc::ENOENT);
    assert_eq!(s.done(Kind::List, 8, &[]), libc::ENOENT);
    assert_eq!(s.done(Kind::Get, 8, &[]), libc::ENOENT);
    assert_eq!(s.done(Kind::Drop, 7, &[]), 0);
    assert_eq!(pod.open_fds(), idle);
}

#[test]
fn what_was_put_outlives_the_supervisor() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let (read, _write) = fd::pipe(false).unwrap();
    assert_eq!(s.done(Kind::Put, 1 << 40, &[read.as_fd()]), 0);
    s.kill();
    let s = pod.supervisor();
    assert!(same_file(&s.ask(Msg::new(Kind::Get, 1 << 40), &[]).1.unwrap(), &read));
}

#[test]
fn a_full_table_refuses_new_slots_and_replaces_old_ones() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let fd = some_fd();
    // The executable has one.
    for slot in 2..SLOTS as u64 + 1 {
        assert_eq!(s.done(Kind::Put, slot, &[fd.as_fd()]), 0, "slot {slot}");
    }
    let full = pod.open_fds();
    for _ in 0..3 {
        assert_eq!(s.done(Kind::Put, 9999, &[fd.as_fd()]), libc::ENOSPC);
        assert_eq!(s.done(Kind::Put, 100, &[fd.as_fd()]), 0);
    }
    assert_eq!(pod.open_fds(), full);
    // A supervisor is started with a full table too.
    s.kill();
    let s = pod.supervisor();
    assert_eq!(s.done(Kind::Drop, 2, &[]), 0);
    assert_eq!(s.done(Kind::Put, 9999, &[fd.as_fd()]), 0);
    assert!(s.ask(Msg::new(Kind::Get, 9999), &[]).1.is_some());
    assert_eq!(pod.open_fds(), full);
}

#[test]
fn hostile_packets_are_refused_and_leave_no_fd() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let fd = some_fd();
    let (one, many) = ([fd.as_fd()], [fd.as_fd(); 8]);
    let put = Msg::new(Kind::Put, 7).to_bytes();
    let long = [put.as_slice(), &[0; 40]].concat();
    for fds in [&[], one.as_slice(), &many] {
        s.refused(&pod, &put[..1], fds);
        s.refused(&pod, &put[..23], fds);
        s.refused(&pod, &long, fds);
        s.refused(&pod, &vec![0xff; 60_000], fds);
        for kind in [0, 8, 31, 36, u32::MAX, Kind::Done as u32, Kind::Fd as u32, Kind::Item as u32, Kind::Exited as u32]
        {
            s.refused(&pod, &Msg { kind, ..Msg::new(Kind::Hello, 7) }.to_bytes(), fds);
        }
        s.refused(&pod, &Msg::new(Kind::Put, 0).to_bytes(), fds);
    }
    s.refused(&pod, &put, &many);
    s.refused(&pod, &put, &many[..2]);
    for kind in [Kind::Hello, Kind::Get, Kind::Drop, Kind::List, Kind::Reap, Kind::Quit] {
        s.refused(&pod, &Msg::new(kind, 7).to_bytes(), &one);
        s.refused(&pod, &Msg::new(kind, 7).to_bytes(), &many);
    }
    s.refused(&pod, &Msg::new(Kind::Drop, SLOT_EXE).to_bytes(), &[]);
    for pid in [0, -1, i32::MIN, s.pid] {
        s.refused(&pod, &Msg { a: pid, ..Msg::new(Kind::Reap, 0) }.to_bytes(), &[]);
    }
    assert_eq!(s.done(Kind::Put, 7, &[]), libc::EBADF);
    assert_eq!(s.done(Kind::Get, 0, &[]), libc::ENOENT);
}

#[test]
fn a_supervisor_that_does_not_read_loses_nothing_and_blocks_nobody() {
    let pod = Pod::start();
    let s = pod.supervisor();
    fd::set_nonblocking(s.keeper.as_fd(), true).unwrap();
    let hello = Msg::new(Kind::Hello, 0).to_bytes();
    let mut sent = 0;
    // Full when keeper does not read any more either.
    loop {
        match fd::send(s.keeper.as_fd(), &hello, &[]) {
            Ok(_) => sent += 1,
            Err(Errno::EAGAIN) if status(pod.pid(), "State").starts_with('S') => break,
            Err(Errno::EAGAIN) => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert!(sent > 100);
    let pid = s.order(Order::Sibling, 37);
    eventually("the sibling is dead", || status(pid, "State").starts_with('Z'));
    let mut answers = 0;
    let mut exits = 0;
    while answers < sent || exits == 0 {
        match s.receive().0 {
            Msg { kind, a: 0, key: VERSION, .. } if kind == Kind::Done as u32 => answers += 1,
            Msg { kind, a, b: 37, .. } if kind == Kind::Exited as u32 && a == pid => exits += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((answers, exits), (sent, 1));
    assert_eq!(s.reap(pid), 0);
    assert!(s.silent());
}

#[test]
fn a_stuck_supervisor_is_replaced_when_it_dies() {
    let pod = Pod::start();
    let s = pod.supervisor();
    fd::set_nonblocking(s.keeper.as_fd(), true).unwrap();
    while fd::send(s.keeper.as_fd(), &Msg::new(Kind::Get, SLOT_EXE).to_bytes(), &[]).is_ok() {}
    s.kill();
    drop(s);
    let s = pod.supervisor();
    assert_eq!(s.ask(Msg::new(Kind::Hello, 0), &[]).0.b, 1);
}

#[test]
fn a_signal_is_sent_once_however_often_and_by_whom_it_is_asked_for() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let pid = s.order(Order::Living, 0);
    let pidfd = process::pidfd_open(pid).unwrap();
    let state = || status(pid, "State").chars().next().unwrap();
    let stop = |s: &Supervisor, key: u64| {
        let (answer, _) = s.ask(Msg { a: libc::SIGSTOP, ..Msg::new(Kind::Signal, key) }, &[pidfd.as_fd()]);
        assert_eq!((answer.kind, answer.key), (Kind::Done as u32, key));
        answer.a
    };
    let go_on = || {
        process::pidfd_send_signal(pidfd.as_fd(), libc::SIGCONT).unwrap();
        eventually("it goes on", || state() != 'T');
    };
    assert_eq!(stop(&s, 9), 0);
    eventually("it is stopped", || state() == 'T');
    go_on();
    assert_eq!(stop(&s, 9), 0);
    s.kill();
    let s = pod.supervisor();
    assert_eq!(stop(&s, 9), 0);
    assert_ne!(state(), 'T', "stopped for the second time");
    assert_eq!(stop(&s, 10), 0);
    eventually("it is stopped under another number", || state() == 'T');
    go_on();
    assert_eq!(s.done(Kind::Drop, 9, &[]), 0);
    assert_eq!(stop(&s, 9), 0);
    eventually("it is stopped again once that was forgotten", || state() == 'T');
}

#[test]
fn a_signal_that_cannot_be_sent_is_not_remembered() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let idle = pod.open_fds();
    assert_eq!(s.done(Kind::Signal, 9, &[]), libc::EINVAL);
    let (answer, _) = s.ask(Msg { a: libc::SIGTERM, ..Msg::new(Kind::Signal, 9) }, &[some_fd().as_fd()]);
    assert_eq!(answer.a, libc::EBADF);
    assert_eq!(s.done(Kind::Get, 9, &[]), libc::ENOENT);
    assert_eq!(pod.open_fds(), idle);
}

#[test]
fn zombies_are_told_one_at_a_time_and_kept_until_reaped() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let first = s.order(Order::Sibling, 0);
    s.expect_exited(first, libc::CLD_EXITED, 0);
    let (second, third) = (s.order(Order::Sibling, 255), s.order(Order::Killed, libc::SIGTERM));
    eventually("all are dead", || [first, second, third].iter().all(|p| status(*p, "State").starts_with('Z')));
    assert!(s.silent());
    assert_eq!(s.reap(first), 0);
    s.expect_exited(second, libc::CLD_EXITED, 255);
    assert!(s.silent());
    // Out of turn is fine: the one that was told stays the one.
    assert_eq!(s.reap(third), 0);
    assert!(s.silent());
    assert_eq!(s.reap(second), 0);
    assert_eq!(s.reap(second), libc::ECHILD);
    assert!(s.silent());
    assert_eq!(children(pod.pid()), [s.pid]);
}

#[test]
fn a_zombie_is_told_again_to_a_new_supervisor() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let told = s.order(Order::Killed, libc::SIGKILL);
    s.expect_exited(told, libc::CLD_KILLED, libc::SIGKILL);
    let untold = s.order(Order::Sibling, 7);
    s.kill();
    let s = pod.supervisor();
    s.expect_exited(told, libc::CLD_KILLED, libc::SIGKILL);
    assert_eq!(s.reap(told), 0);
    s.expect_exited(untold, libc::CLD_EXITED, 7);
}

#[test]
fn exits_while_no_supervisor_lives_are_exact() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let living: Vec<i32> = (0..3).map(|_| s.order(Order::Living, 0)).collect();
    s.kill();
    for pid in &living {
        process::pidfd_send_signal(process::pidfd_open(*pid).unwrap().as_fd(), libc::SIGKILL).unwrap();
    }
    let s = pod.supervisor();
    for _ in 0..3 {
        let (exited, _) = s.receive();
        assert_eq!((exited.kind, exited.key as i32, exited.b), (Kind::Exited as u32, libc::CLD_KILLED, libc::SIGKILL));
        assert!(living.contains(&exited.a));
        assert_eq!(s.reap(exited.a), 0);
    }
    assert!(s.silent());
}

#[test]
fn a_living_child_is_not_reaped_and_a_stranger_is_no_child() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let living = s.order(Order::Living, 0);
    assert_eq!(s.reap(living), libc::EAGAIN);
    assert_eq!(s.reap(process::getpid()), libc::ECHILD);
    eventually("it sleeps", || status(living, "State").starts_with('S'));
}

#[test]
fn orphans_of_the_supervisor_become_keepers_and_are_told() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let orphan = s.order(Order::Orphan, 42);
    s.expect_exited(orphan, libc::CLD_EXITED, 42);
    assert_eq!(s.reap(orphan), 0);
}

#[test]
fn the_supervisor_has_its_socket_and_nothing_else_of_keepers() {
    let pod = Pod::start();
    let s = pod.supervisor();
    // 0 to 2, the socket to keeper, the ready pipe, the line to this test.
    let open = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(open(s.pid), 6);
    assert_eq!(status(s.pid, "PPid"), pod.pid().to_string());
    assert_eq!(status(s.pid, "SigBlk"), "0000000000000000");
    let argv = std::fs::read_to_string(format!("/proc/{}/cmdline", s.pid)).unwrap();
    assert!(argv.starts_with("husk\0--exact\0fake_supervisor\0"), "{argv:?}");
    s.kill();
    let s = pod.supervisor();
    assert_eq!(open(s.pid), 5);
}

#[test]
fn only_the_first_supervisor_has_the_ready_pipe() {
    let pod = Pod::start();
    let s = pod.supervisor();
    assert_eq!(s.order(Order::Ready, 0), 1);
    let mut text = [0; 8];
    assert_eq!(fd::read(pod.ready.as_fd(), &mut text), Ok(1));
    s.kill();
    // Nobody else holds it, so this is its end.
    assert_eq!(fd::read(pod.ready.as_fd(), &mut text), Ok(0));
    assert_eq!(pod.supervisor().order(Order::Ready, 0), 0);
}

#[test]
fn a_supervisor_that_exits_is_started_again_whatever_it_says() {
    let pod = Pod::start();
    for code in [0, 1, 101] {
        let s = pod.supervisor();
        s.order(Order::Exit, code);
    }
    pod.supervisor();
}

#[test]
fn supervisors_that_die_young_are_started_more_and_more_slowly() {
    let pod = Pod::start();
    let mut last = Instant::now();
    let mut waited = Vec::new();
    for _ in 0..4 {
        let s = pod.supervisor();
        waited.push(last.elapsed());
        s.kill();
        last = Instant::now();
    }
    for (waited, least_ms) in waited.iter().skip(1).zip([50, 100, 200]) {
        assert!(*waited >= Duration::from_millis(least_ms), "{waited:?} < {least_ms} ms");
    }
}

#[test]
fn a_supervisor_that_hangs_up_is_replaced() {
    let pod = Pod::start();
    let Supervisor { pid, keeper, orders } = pod.supervisor();
    // Ours is a copy.
    drop(keeper);
    let (copy, _other) = fd::pipe(false).unwrap();
    let s = Supervisor { pid, keeper: copy, orders };
    s.order(Order::HangUp, 0);
    let next = pod.supervisor();
    assert_ne!(next.pid, pid);
    assert_eq!(children(pod.pid()), [next.pid]);
}

#[test]
fn quit_ends_keeper_with_0_and_the_pod_with_it() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let (living, supervisor) = (s.order(Order::Living, 0), s.pid);
    eventually("it lives", || status(living, "State").starts_with('S'));
    s.send(&Msg::new(Kind::Quit, 0).to_bytes(), &[]);
    let end = end_of(pod.keeper.pidfd.as_fd());
    assert_eq!((end.code, end.status), (libc::CLD_EXITED, 0));
    assert!(!std::path::Path::new(&format!("/proc/{supervisor}")).exists(), "keeper reaps it before it goes");
    killed(living);
}

#[test]
fn the_death_of_keeper_ends_the_pod() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let (living, supervisor) = (s.order(Order::Living, 0), s.pid);
    // Past the line that ties it to keeper.
    eventually("it lives", || status(living, "State").starts_with('S'));
    pod.kill();
    end_of(pod.keeper.pidfd.as_fd());
    killed(supervisor);
    killed(living);
}

#[test]
fn it_has_a_session_of_its_own_and_ignores_signals() {
    let pod = Pod::start();
    let s = pod.supervisor();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pod.pid())).unwrap();
    assert_eq!(stat.rsplit(')').next().unwrap().split_whitespace().nth(3), Some(pod.pid().to_string().as_str()));
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        process::pidfd_send_signal(pod.keeper.pidfd.as_fd(), signal).unwrap();
    }
    assert_eq!(s.ask(Msg::new(Kind::Hello, 0), &[]).0.key, VERSION);
    // Open: 0 to 2, lock, executable, signals, socket. Not what the test left open.
    assert_eq!(pod.open_fds(), 7);
    assert_eq!(status(pod.pid(), "Name"), "keeper");
}

#[test]
fn wrong_use_is_refused() {
    let image = program(pause::image::KEEPER);
    let (argv, env) = (Strings::new(vec![c"keeper".into()]), Strings::new(vec![]));
    let (more, null) = (Strings::new(vec![c"keeper".into(), c"husk".into()]), some_fd());
    for (argv, lock) in [(&argv, true), (&more, false)] {
        let child = process::spawn(&CloneArgs::default(), || -> Infallible {
            let image = fd::dup_from(image.as_fd(), 100);
            let placed = fd::place(null.as_fd(), 2).and_then(|()| fd::place(null.as_fd(), KEEPER_EXE_FD));
            let lock = if lock { fd::place(null.as_fd(), KEEPER_LOCK_FD) } else { fd::close_range(3, 3) };
            if let (Ok(image), Ok(()), Ok(())) = (image, placed, lock) {
                process::execveat(image.as_fd(), c"", argv, &env);
            }
            process::exit(98)
        });
        assert_eq!(end_of(child.unwrap().pidfd.as_fd()).status, 2);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn it_keeps_its_budget_of_file_and_memory() {
    assert!(pause::image::KEEPER.len() <= 4096, "{} bytes", pause::image::KEEPER.len());
    let fd = some_fd();
    for _ in 0..10 {
        let pod = Pod::start();
        let s = pod.supervisor();
        assert_eq!(s.done(Kind::Put, 7, &[fd.as_fd()]), 0);
        let pid = s.order(Order::Sibling, 1);
        s.expect_exited(pid, libc::CLD_EXITED, 1);
        assert_eq!(s.reap(pid), 0);
        let resident = resident_kib(pod.pid());
        assert!(resident <= 12, "{resident} KiB");
    }
}
