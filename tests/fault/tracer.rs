//! Who makes which system call, and what is done to whom right before it.
//!
//! Every process below a watched `husk` has the seccomp filter of [`super::calls`] and stands still before each call that changes something, until a thread
//! of ours (one a listener) lets it go. While that thread decides, no other watched process gets on either: the lock of [`Tracer`] is the hand on the film.
//! Processes of containers are let go at once.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::calls;
use super::sys::{self, Call};
use crate::common::outside::{alive, cmdline};

/// A part in the play of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Actor {
    /// The command line.
    Cli,
    /// keeper, from the fork on.
    Keeper,
    /// The supervisor, from the fork on; a successor goes on in its part.
    Supervisor,
    /// pause, from the clone on.
    Pause,
}

/// All of them.
pub const ACTORS: [Actor; 4] = [Actor::Cli, Actor::Keeper, Actor::Supervisor, Actor::Pause];

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Actor::Cli => "cli",
            Actor::Keeper => "keeper",
            Actor::Supervisor => "supervisor",
            Actor::Pause => "pause",
        })
    }
}

/// Who is killed, and by whose calls the moment is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Who is killed.
    pub victim: Actor,
    /// Whose calls are counted.
    pub clock: Actor,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.victim == self.clock {
            write!(f, "{}", self.victim)
        } else {
            write!(f, "{}@{}", self.victim, self.clock)
        }
    }
}

impl std::str::FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Pair, String> {
        let actor = |word: &str| {
            ACTORS.into_iter().find(|actor| actor.to_string() == word).ok_or_else(|| {
                let known: Vec<_> = ACTORS.iter().map(ToString::to_string).collect();
                format!("{word:?} is no actor: {}, or VICTIM@CLOCK", known.join(", "))
            })
        };
        let (victim, clock) = text.split_once('@').unwrap_or((text, text));
        Ok(Pair { victim: actor(victim)?, clock: actor(clock)? })
    }
}

/// SIGKILL to the victim before the clock's call number `at`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Who and by whose clock.
    pub pair: Pair,
    /// Which call.
    pub at: u64,
}

/// A kill that has happened.
#[derive(Clone, Debug)]
pub struct Killed {
    /// Who.
    pub victim: Actor,
    /// Before which call of the clock.
    pub before: String,
}

/// How many calls each actor made while others lived: what a counting run finds.
#[derive(Clone, Debug, Default)]
pub struct Census(HashMap<Pair, Vec<u64>>);

impl Census {
    /// The moments at which the pair's victim could be killed.
    pub fn points(&self, pair: Pair) -> &[u64] {
        self.0.get(&pair).map_or(&[], Vec::as_slice)
    }
}

/// A process that is held before a call.
struct Held {
    listener: Arc<OwnedFd>,
    id: u64,
}

#[derive(Default)]
struct Stage {
    /// Calls are counted, and the trigger is sharp.
    armed: bool,
    /// Nobody is killed, but all that could be is written down.
    census: Option<Census>,
    trigger: Option<Trigger>,
    killed: Option<Killed>,
    counts: HashMap<Actor, u64>,
    /// Calls as they came, for a point that is looked at by itself.
    trace: Option<Vec<String>>,
    /// From its thread to whose process a call is.
    groups: HashMap<i32, i32>,
    /// When each process had been started, so that a number that is used again is not taken for it.
    since: HashMap<i32, Option<u64>>,
    /// What each process is; `None` for one that is none of the actors.
    parts: HashMap<i32, Option<Actor>>,
    /// Those that were about to execute a program when they were seen last: to be looked at anew.
    stale: HashSet<i32>,
    launched: Vec<i32>,
    hold: Option<Actor>,
    held: Vec<Held>,
    last_call: Option<Instant>,
}

/// Watches every process of one point.
pub struct Tracer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stage: Mutex<Stage>,
    changed: Condvar,
    filter: Arc<Vec<libc::sock_filter>>,
}

/// How long a process may take to die by SIGKILL before the others go on. pause may take longer: it waits for its whole PID namespace, and
/// that for keeper.
const DYING: Duration = Duration::from_millis(30);

/// How long everybody may take to be gone at the end of a play.
const LEAVING: Duration = Duration::from_secs(5);

impl Tracer {
    /// Counts when there is no trigger.
    pub fn new(trigger: Option<Trigger>) -> Tracer {
        let census = trigger.is_none().then(Census::default);
        let stage = Stage { trigger, census, ..Stage::default() };
        let shared = Shared { stage: Mutex::new(stage), changed: Condvar::new(), filter: calls::program() };
        Tracer { shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Has `command`, and all that comes of it, watched. It is the command line from now on.
    pub fn watch(&mut self, command: &mut Command) {
        let (mut read, write) = std::io::pipe().expect("make a pipe");
        sys::watched(command, self.shared.filter.clone(), write.into());
        let shared = self.shared.clone();
        let serve = move || {
            let mut pid = [0; 4];
            read.read_exact(&mut pid).expect("the program tells its pid before it is executed");
            let pid = i32::from_ne_bytes(pid);
            let process = sys::pidfd(pid).expect("it waits for us");
            let listener = loop {
                match sys::listener_of(process.as_fd()).expect("the fds of a child of ours") {
                    Some(listener) => break listener,
                    None => thread::sleep(Duration::from_micros(20)),
                }
            };
            shared.lock().launched.push(pid);
            shared.serve(&Arc::new(listener));
        };
        self.threads.push(thread::spawn(serve));
    }

    /// From here on calls count.
    pub fn arm(&self) {
        let mut stage = self.shared.lock();
        stage.armed = true;
        stage.last_call = Some(Instant::now());
    }

    /// From here on nobody is killed.
    pub fn disarm(&self) {
        self.shared.lock().armed = false;
    }

    /// Writes every counted call down.
    pub fn record(&self) {
        self.shared.lock().trace = Some(Vec::new());
    }

    /// What was written down.
    pub fn recorded(&self) -> Vec<String> {
        self.shared.lock().trace.clone().unwrap_or_default()
    }

    /// The kill, if it has come to that.
    pub fn killed(&self) -> Option<Killed> {
        self.shared.lock().killed.clone()
    }

    /// What a counting run has found.
    pub fn census(&self) -> Census {
        self.shared.lock().census.clone().unwrap_or_default()
    }

    /// Waits until no actor has made a call for `rest`.
    pub fn quiet(&self, rest: Duration) {
        loop {
            let since = self.shared.lock().last_call.map_or(rest, |last| last.elapsed());
            match rest.checked_sub(since) {
                None | Some(Duration::ZERO) => return,
                Some(left) => thread::sleep(left),
            }
        }
    }

    /// Holds `actor`, and whoever takes its part later, before its next call until [`Tracer::release`].
    pub fn hold(&self, actor: Actor) {
        self.shared.lock().hold = Some(actor);
    }

    /// Waits until somebody is held.
    pub fn held_within(&self, patience: Duration) -> bool {
        let stage = self.shared.lock();
        let none = |stage: &mut Stage| stage.held.is_empty();
        let (_stage, waited) =
            self.shared.changed.wait_timeout_while(stage, patience, none).expect("no panic under the lock");
        !waited.timed_out()
    }

    /// Lets everybody go on.
    pub fn release(&self) {
        let mut stage = self.shared.lock();
        stage.hold = None;
        for held in std::mem::take(&mut stage.held) {
            sys::let_go(held.listener.as_fd(), held.id).expect("answer a notification");
        }
    }

    /// Waits for the end of all that was watched, which whoever lived on without us would see as ENOSYS. Those that had to be killed for it.
    pub fn finish(mut self) -> Vec<String> {
        self.disarm();
        self.release();
        let deadline = Instant::now() + LEAVING;
        let mut killed = Vec::new();
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > deadline {
                let stage = self.shared.lock();
                for pid in stage.since.keys().copied().filter(|pid| stage.is_the_same(*pid) && alive(*pid)) {
                    killed.push(format!("{pid} {}", cmdline(pid).join(" ")));
                    // It may have gone meanwhile.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("the thread of a listener does not panic");
        }
        killed.sort();
        killed.dedup();
        killed
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no panic under the lock")
    }

    fn serve(&self, listener: &Arc<OwnedFd>) {
        loop {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.expect("poll a listener"),
            };
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                if let Some(call) = sys::receive(listener.as_fd()).expect("receive a notification")
                    && self.answer(listener, &call)
                {
                    sys::let_go(listener.as_fd(), call.id).expect("answer a notification");
                }
            } else if events.contains(PollFlags::POLLHUP) {
                // Nobody is left who has the filter.
                return;
            }
        }
    }

    /// Whether the call may go on now.
    fn answer(&self, listener: &Arc<OwnedFd>, call: &Call) -> bool {
        let mut stage = self.lock();
        let Some(actor) = stage.actor(call.tid) else {
            stage.executes(call);
            return true;
        };
        if calls::consumes(call.number) && !is_channel(call.tid, call.args[0]) {
            return true;
        }
        stage.executes(call);
        stage.last_call = Some(Instant::now());
        if stage.hold == Some(actor) {
            stage.held.push(Held { listener: listener.clone(), id: call.id });
            self.changed.notify_all();
            return false;
        }
        if stage.armed {
            stage.count(actor, call);
        }
        true
    }
}

impl Stage {
    /// After an `execve` a process may be another part.
    fn executes(&mut self, call: &Call) {
        if matches!(call.number, libc::SYS_execve | libc::SYS_execveat) {
            let group = self.group(call.tid);
            self.stale.insert(group);
        }
    }

    fn group(&mut self, tid: i32) -> i32 {
        if let Some(group) = self.groups.get(&tid) {
            return *group;
        }
        let group = status(tid).map_or(tid, |status| status.group);
        self.groups.insert(tid, group);
        self.since.insert(group, husk::state::start_ticks(group).expect("/proc can be read"));
        group
    }

    fn actor(&mut self, tid: i32) -> Option<Actor> {
        let group = self.group(tid);
        if !self.stale.remove(&group)
            && let Some(part) = self.parts.get(&group)
        {
            return *part;
        }
        let part = self.part(group);
        self.parts.insert(group, part);
        part
    }

    /// What a process is, by its arguments, its parent and its PID namespace.
    fn part(&self, pid: i32) -> Option<Actor> {
        let status = status(pid)?;
        let words = cmdline(pid);
        let first = words.first().map(String::as_str).unwrap_or_default();
        let parent = self.parts.get(&status.parent).copied().flatten();
        if self.launched.contains(&pid) {
            // Until its execve it is a copy of us.
            return first.ends_with("/husk").then_some(Actor::Cli);
        }
        if first == "keeper" && status.own_pids.len() == 1 {
            return Some(if parent == Some(Actor::Keeper) { Actor::Supervisor } else { Actor::Keeper });
        }
        match status.own_pids.as_slice() {
            [_] if words.get(1).is_some_and(|word| word == "supervisor") => Some(Actor::Supervisor),
            // On its way to become keeper.
            [_] if self.launched.contains(&status.parent) => Some(Actor::Keeper),
            [_, 1] => Some(Actor::Pause),
            _ => None,
        }
    }

    /// Is the process of this number still the one that we have seen under it?
    fn is_the_same(&self, pid: i32) -> bool {
        let since = self.since.get(&pid).copied().flatten();
        since.is_some() && husk::state::start_ticks(pid).expect("/proc can be read") == since
    }

    /// Who plays a part now.
    fn player(&self, actor: Actor) -> Option<i32> {
        let playing = |(pid, part): (&i32, &Option<Actor>)| (*part == Some(actor)).then_some(*pid);
        self.parts.iter().filter_map(playing).find(|pid| self.is_the_same(*pid) && alive(*pid))
    }

    fn count(&mut self, clock: Actor, call: &Call) {
        let count = self.counts.entry(clock).or_default();
        *count += 1;
        let now = *count;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{clock}:{now} [{}] {} {}", call.tid, calls::name(call.number), describe(call)));
        }
        let lives = |victim: &Actor| *victim == clock || self.player(*victim).is_some();
        let living: Vec<Actor> =
            if self.census.is_some() { ACTORS.into_iter().filter(lives).collect() } else { Vec::new() };
        if let Some(census) = &mut self.census {
            for victim in living {
                census.0.entry(Pair { victim, clock }).or_default().push(now);
            }
            return;
        }
        let Some(trigger) = self.trigger else { return };
        if self.killed.is_some() || trigger.pair.clock != clock || trigger.at != now {
            return;
        }
        let victim = trigger.pair.victim;
        let pid = if victim == clock { Some(self.group(call.tid)) } else { self.player(victim) };
        let Some(pid) = pid else { return };
        let process = sys::pidfd(pid);
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            self.killed = Some(Killed { victim, before: format!("{} {}", calls::name(call.number), describe(call)) });
            if let Ok(process) = process {
                sys::dies(&process, DYING);
            }
        }
    }
}

/// What the harness wants to know of a process.
struct Status {
    group: i32,
    parent: i32,
    /// Its pids, from our PID namespace down to its own.
    own_pids: Vec<i32>,
}

fn status(pid: i32) -> Option<Status> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Some(Status {
        group: field("Tgid")?.trim().parse().ok()?,
        parent: field("PPid")?.trim().parse().ok()?,
        own_pids: field("NSpid")?.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
    })
}

/// Whether reading from this fd takes something away from others.
fn is_channel(tid: i32, fd: u64) -> bool {
    let target = fs::read_link(format!("/proc/{tid}/fd/{fd}")).unwrap_or_default();
    let target = target.to_string_lossy();
    target.starts_with("pipe:") || target.starts_with("socket:") || target.starts_with("/dev/p")
}

/// The file behind the first argument, or the first path among the arguments, for whoever reads a report.
fn describe(call: &Call) -> String {
    let fd_first =
        |fd: u64| fs::read_link(format!("/proc/{}/fd/{fd}", call.tid)).map(|path| path.display().to_string());
    let path_at = |address: u64| text_at(call.tid, address).map(|text| format!("{text:?}"));
    let words: Vec<String> = match call.number {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir | libc::SYS_rmdir | libc::SYS_unlink | libc::SYS_open | libc::SYS_creat => {
            path_at(call.args[0]).into_iter().collect()
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename | libc::SYS_symlink | libc::SYS_link => {
            call.args[..2].iter().filter_map(|a| path_at(*a)).collect()
        }
        libc::SYS_execve | libc::SYS_umount2 | libc::SYS_fsopen => path_at(call.args[0]).into_iter().collect(),
        libc::SYS_openat
        | libc::SYS_mkdirat
        | libc::SYS_unlinkat
        | libc::SYS_open_tree
        | libc::SYS_execveat
        | libc::SYS_renameat
        | libc::SYS_symlinkat => path_at(call.args[1]).into_iter().collect(),
        libc::SYS_clone
        | libc::SYS_clone3
        | libc::SYS_unshare
        | libc::SYS_exit_group
        | libc::SYS_kill
        | libc::SYS_wait4
        | libc::SYS_waitid => {
            vec![format!("{:#x}", call.args[0])]
        }
        _ => fd_first(call.args[0]).into_iter().collect(),
    };
    words.join(" ")
}

/// A string in the memory of a process.
fn text_at(tid: i32, address: u64) -> Option<String> {
    use std::os::unix::fs::FileExt;
    let memory = fs::File::open(format!("/proc/{tid}/mem")).ok()?;
    let mut bytes = [0; 256];
    let length = memory.read_at(&mut bytes, address).ok()?;
    let text = bytes[..length].split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}
