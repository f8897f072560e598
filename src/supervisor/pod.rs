//! The loop of one pod: events in, the rules of `pod/` asked, actions out. Every change is on disk before anybody is told of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use husk_oci::spawn::{Event, Starting};
use husk_oci::sys::{clock, fd, process};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::control::{Ready, Request, Response};
use super::keeper::{Exited, Keeper};
use super::log::{ContainerLog, Staging, Stream};
use super::server::{Command, bind_socket, serve};
use super::slots::{self, Part};
use super::streams::{SharedStaging, pump};
use super::watch::watch;
use crate::cgroup::{CgroupDriver, Cgroupfs};
use crate::pod::{self, Action, Now};
use crate::runtime::{Error, container, remove, sandbox};
use crate::state::pods::PodDir;
use crate::state::record::{Deletion, Exit, PodRecord, Sandbox, State, Status};
use crate::state::{Roots, start_ticks};

/// How long the set-up of one container may take before it is given up.
const CREATE_PATIENCE: Duration = Duration::from_secs(120);
/// How long output may still come after every process of a container is dead.
const DRAIN_PATIENCE: Duration = Duration::from_millis(500);
/// How many turns of the scheduler the last answers get; each needs one.
const LAST_TURNS: u32 = 16;
/// How long the dead may take to be reaped at the end.
const REAP_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before a record that could not be written is tried again.
const SAVE_RETRY: Duration = Duration::from_millis(250);

type Reply = mpsc::UnboundedSender<(Response, Option<OwnedFd>)>;

/// A running container as the supervisor holds it; all of it can be had again from keeper and the records.
struct Live {
    pidfd: OwnedFd,
    pumps: Vec<JoinHandle<()>>,
}

/// An exec that runs.
struct Exec {
    reply: Reply,
    _pidfd: OwnedFd,
}

/// The supervisor of one pod.
pub struct Pod {
    roots: Roots,
    dir: PodDir,
    record: PodRecord,
    status: Status,
    driver: Rc<Cgroupfs>,
    keeper: Keeper,
    keeper_ready: AsyncFd<OwnedFd>,
    staging: SharedStaging,
    /// pause, while it lives.
    pause: Option<OwnedFd>,
    live: Vec<Option<Live>>,
    execs: HashMap<i32, Exec>,
    /// Exits that wait for their record to be written.
    unsaved: bool,
    /// pids whose exit is in the status, to be reaped once that is on disk.
    to_reap: Vec<i32>,
    waiting_for_end: Vec<Reply>,
    commands: mpsc::UnboundedReceiver<Command>,
    command_sender: mpsc::UnboundedSender<Command>,
    /// `husk run`, until it was answered.
    ready: Option<std::fs::File>,
    warnings: Vec<String>,
    over: bool,
}

fn now() -> Now {
    Now { boot_ns: clock::boottime().as_nanos() as u64, wall: jiff::Timestamp::now() }
}

fn say(level: &str, text: impl std::fmt::Display) {
    eprintln!("{} {level}: {text}", jiff::Timestamp::now());
}

impl Pod {
    /// Takes a pod over: a new one, or one whose last supervisor died.
    ///
    /// # Errors
    /// keeper does not answer, or the records cannot be read.
    pub fn new(roots: Roots, dir: PodDir, mut keeper: Keeper, ready: Option<OwnedFd>) -> Result<Pod, Error> {
        let (record, status) =
            dir.read()?.ok_or(Error::Internal { what: format!("no records in {}", dir.path.display()) })?;
        let driver = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
        let io = |doing: &'static str| move |e: std::io::Error| Error::io(doing, &e);
        let copy = keeper.as_fd().try_clone_to_owned().map_err(io("duplicate the socket to keeper"))?;
        let staging = staging(&mut keeper)?;
        let (command_sender, commands) = mpsc::unbounded_channel();
        let live = record.containers.iter().map(|_| None).collect();
        Ok(Pod {
            roots,
            dir,
            record,
            status,
            driver: Rc::new(driver),
            keeper_ready: watch(copy).map_err(io("watch the socket to keeper"))?,
            keeper,
            staging: Rc::new(RefCell::new(staging)),
            pause: None,
            live,
            execs: HashMap::new(),
            unsaved: false,
            to_reap: Vec::new(),
            waiting_for_end: Vec::new(),
            commands,
            command_sender,
            ready: ready.map(std::fs::File::from),
            warnings: Vec::new(),
            over: false,
        })
    }

    /// Runs the pod to its end. keeper is told to quit before this returns.
    ///
    /// # Errors
    /// The pod could not be started (it is undone then), or keeper is gone.
    pub async fn run(mut self) -> Result<(), Error> {
        let begun = match self.status.sandbox {
            // Our predecessor had come to the end but for its last word.
            _ if self.status.finished_at.is_some() => {
                self.free();
                self.over = true;
                Ok(())
            }
            None => self.begin().await,
            Some(_) => self.recover(),
        };
        let settled = match begun {
            Ok(()) => self.settle().await,
            Err(e) => Err(e),
        };
        match settled {
            Ok(wake) => {
                let warnings = std::mem::take(&mut self.warnings);
                self.answer_run(&Ready::Started { warnings });
                // From here on this process mostly sleeps.
                process::release_free_memory();
                let mut wake = wake;
                while !self.over {
                    self.wait(wake).await?;
                    wake = self.settle().await?;
                }
            }
            Err(e) => self.undo(&e).await?,
        }
        // The connections' tasks pass on what they were given before the thread is lost to waiting for keeper.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
        self.reap_all();
        self.keeper.quit().map_err(|e| Error::Host { what: e.to_string() })
    }

    /// The pod could not be started: end what was made, tell `husk run`, and go.
    async fn undo(&mut self, error: &Error) -> Result<(), Error> {
        if self.ready.is_none() {
            // A later supervisor: nobody is there to be told, and containers may be running. keeper starts the next one.
            return Err(error.clone());
        }
        self.kill_all();
        if let Some(pause) = &self.pause {
            let _ = process::pidfd_send_signal(pause.as_fd(), libc::SIGKILL);
        }
        self.reap_all();
        let record = Some(&self.record);
        if let Err(errors) = remove::pod(&self.roots, &*self.driver, self.record.uid(), record, false) {
            for e in errors {
                say("error", format_args!("undo: {e}"));
            }
        }
        self.answer_run(&Ready::Failed { message: error.to_string() });
        Ok(())
    }

    fn answer_run(&mut self, answer: &Ready) {
        if let Some(mut pipe) = self.ready.take()
            && let Ok(text) = serde_json::to_vec(answer)
            && let Err(e) = pipe.write_all(&text)
        {
            // `husk run` was killed; the pod goes on.
            say("info", format_args!("nobody waits for the start: {e}"));
        }
    }

    /// A pod that nothing was done for yet.
    async fn begin(&mut self) -> Result<(), Error> {
        self.kill_strangers();
        self.listen(None)?;
        let pending = sandbox::start(&self.roots, &*self.driver, &self.record)?;
        let (held, warnings) = held(pending).await?;
        for warning in warnings {
            self.warn(warning);
        }
        let ticks =
            start_ticks(held.pid).ok_or_else(|| Error::Host { what: "pause died right after its start".into() })?;
        self.status.sandbox =
            Some(Sandbox { pid: held.pid, start_ticks: ticks, ready_at: jiff::Timestamp::now(), ended: false });
        self.pause = Some(held.pidfd);
        self.dir.write_status(&self.status)?;
        Ok(())
    }

    /// Children of keeper that no record knows: a sandbox whose supervisor died before it could write it down.
    fn kill_strangers(&self) {
        for pid in siblings() {
            if let Ok(pidfd) = process::pidfd_open(pid) {
                let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// Has keeper reap all that is dead, until nobody but us is left: what keeper leaves goes to the host's init, and may stay a zombie there
    /// for a while.
    fn reap_all(&mut self) {
        let deadline = Instant::now() + REAP_PATIENCE;
        while !siblings().is_empty() && Instant::now() < deadline {
            match self.keeper.next_exited() {
                Ok(Some(exited)) => drop(self.keeper.reap(exited.pid)),
                Ok(None) => std::thread::sleep(Duration::from_micros(200)),
                Err(_) => return,
            }
        }
    }

    /// A pod whose last supervisor died: the records say what runs, keeper has the fds and the dead.
    fn recover(&mut self) -> Result<(), Error> {
        let listener = self.keeper_get(slots::CONTROL)?;
        self.listen(listener)?;
        if let Some(sandbox) = self.status.sandbox.clone().filter(|s| !s.ended) {
            // keeper has not reaped pause unless its end is on disk, so the pid cannot be another's.
            self.pause = Some(open_process(sandbox.pid, sandbox.start_ticks)?);
        }
        let attempts: Vec<u32> = self.status.containers.iter().map(|c| c.attempt).collect();
        let slots = self.keeper.slots().map_err(keeper_error)?;
        for slot in slots {
            if !slots::is_current(&self.record, &attempts, slot) {
                // Of an instance that was never recorded: its process dies when its start pipe closes.
                self.keeper.drop_slot(slot).map_err(keeper_error)?;
            }
        }
        for (index, attempt) in attempts.into_iter().enumerate() {
            let State::Running { pid, start_ticks, .. } = self.status.containers[index].state else {
                for part in slots::PARTS {
                    self.keeper.drop_slot(slots::of(index, attempt, part)).map_err(keeper_error)?;
                }
                continue;
            };
            let pidfd = open_process(pid, start_ticks)?;
            if let Some(start) = self.keeper_get(slots::of(index, attempt, Part::Start))? {
                // The last supervisor may have died between the record and the release. Once released nobody reads any more: EPIPE.
                let _ = fd::write(start.as_fd(), b"1");
            }
            let mut pumps = Vec::new();
            for (part, stream) in
                [(Part::Stdout, Stream::Stdout), (Part::Stderr, Stream::Stderr), (Part::Terminal, Stream::Stdout)]
            {
                if let Some(pipe) = self.keeper_get(slots::of(index, attempt, part))? {
                    pumps.push((stream, pipe));
                }
            }
            let pumps = self.pumps(index, attempt, pumps)?;
            self.live[index] = Some(Live { pidfd, pumps });
        }
        say("info", "took over from a supervisor that died");
        Ok(())
    }

    fn keeper_get(&mut self, slot: u64) -> Result<Option<OwnedFd>, Error> {
        self.keeper.get(slot).map_err(keeper_error)
    }

    /// Serves the control socket, on a listener that keeper holds for our successor.
    fn listen(&mut self, listener: Option<OwnedFd>) -> Result<(), Error> {
        let listener = match listener {
            Some(listener) => listener,
            None => {
                let dir = std::fs::File::open(&self.dir.path).map_err(|e| Error::io("open the pod's directory", &e))?;
                let listener = bind_socket(dir.as_fd()).map_err(|e| Error::io("make the control socket", &e))?;
                self.keeper.put(slots::CONTROL, listener.as_fd()).map_err(keeper_error)?;
                listener
            }
        };
        let commands = self.command_sender.clone();
        tokio::task::spawn_local(async move {
            if let Err(e) = serve(listener, commands).await {
                say("error", format_args!("control socket: {e}"));
            }
        });
        Ok(())
    }

    fn warn(&mut self, text: String) {
        say("warn", &text);
        if self.ready.is_some() {
            self.warnings.push(text);
        }
    }

    /// Starts the log pumps of one instance.
    fn pumps(&self, index: usize, attempt: u32, pipes: Vec<(Stream, OwnedFd)>) -> Result<Vec<JoinHandle<()>>, Error> {
        let dir = std::path::Path::new(&self.record.log_dir).join(&self.record.containers[index].name);
        let log = ContainerLog::open(&dir, attempt)
            .map_err(|e| Error::io(format_args!("open log in {}", dir.display()), &e))?;
        let log = Rc::new(RefCell::new(log));
        let start = |(stream, pipe): (Stream, OwnedFd)| {
            fd::set_nonblocking(pipe.as_fd(), true).map_err(|e| Error::sys("set up a log pipe", e))?;
            pump(self.staging.clone(), log.clone(), stream, pipe).map_err(|e| Error::io("watch a log pipe", &e))
        };
        pipes.into_iter().map(start).collect()
    }

    /// Asks the rules and does what they say until they say nothing; when to ask again otherwise.
    async fn settle(&mut self) -> Result<Option<u64>, Error> {
        loop {
            if self.over || !self.save() {
                return Ok(None);
            }
            let before = self.status.clone();
            let decision = pod::decide(&self.record, &self.status, now());
            if decision.actions.is_empty() {
                return Ok(decision.wake_boot_ns);
            }
            for action in decision.actions {
                self.act(action).await?;
            }
            if self.status == before {
                return Ok(decision.wake_boot_ns);
            }
        }
    }

    /// Writes the status if it has changed, then lets keeper reap what it tells of. False: try again later, and decide nothing until then.
    fn save(&mut self) -> bool {
        if self.unsaved {
            if let Err(e) = self.dir.write_status(&self.status) {
                say("error", format_args!("{e}, trying again"));
                return false;
            }
            self.unsaved = false;
        }
        for pid in std::mem::take(&mut self.to_reap) {
            if let Err(e) = self.keeper.reap(pid) {
                say("error", format_args!("reap {pid}: {e}"));
            }
        }
        true
    }

    /// Waits for the next event and takes it in.
    async fn wait(&mut self, wake_boot_ns: Option<u64>) -> Result<(), Error> {
        let retry = (self.unsaved || !self.to_reap.is_empty()).then_some(SAVE_RETRY);
        let until = wake_boot_ns.map(|at| {
            // Never zero: a time that has passed and that nothing came of must not spin.
            Duration::from_nanos(at.saturating_sub(now().boot_ns)).max(Duration::from_millis(1))
        });
        let sleep = match (retry, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let exited = loop {
            if let Some(exited) = self.keeper.next_exited().map_err(keeper_error)? {
                break Some(exited);
            }
            tokio::select! {
                biased;
                ready = self.keeper_ready.readable() => {
                    let mut ready = ready.map_err(|e| Error::io("watch keeper", &e))?;
                    match self.keeper.next_exited().map_err(keeper_error)? {
                        Some(exited) => break Some(exited),
                        None => ready.clear_ready(),
                    }
                }
                Some(command) = self.commands.recv() => {
                    self.command(command).await;
                    break None;
                }
                () = rest(sleep) => break None,
            }
        };
        match exited {
            Some(exited) => self.exited(exited).await,
            None => Ok(()),
        }
    }

    /// A child of keeper is dead.
    async fn exited(&mut self, exited: Exited) -> Result<(), Error> {
        let at = |state: &State| matches!(state, State::Running { pid, .. } if *pid == exited.pid);
        if let Some(index) = self.status.containers.iter().position(|c| at(&c.state)) {
            self.container_exited(index, exited).await;
            return Ok(());
        }
        if self.status.sandbox.as_ref().is_some_and(|s| s.pid == exited.pid && !s.ended) {
            self.pause = None;
            pod::apply_sandbox_end(&self.record, &mut self.status);
            self.unsaved = true;
        } else if let Some(exec) = self.execs.remove(&exited.pid) {
            let (exit_code, signal) = code_and_signal(exited);
            // Who asked may have gone.
            let _ = exec.reply.send((Response::Exited { exit_code, signal }, None));
        }
        if !self.to_reap.contains(&exited.pid) {
            self.to_reap.push(exited.pid);
        }
        self.save();
        Ok(())
    }

    async fn container_exited(&mut self, index: usize, exited: Exited) {
        let State::Running { id, started_at, .. } = self.status.containers[index].state.clone() else { return };
        let attempt = self.status.containers[index].attempt;
        let cgroup = container::cgroup(&self.record, &id);
        // In a shared PID namespace others of the container may live on; they end with it (and with them the writers of its log).
        if let Err(e) = self.driver.kill(&cgroup) {
            say("error", format_args!("kill what is left in {cgroup}: {e}"));
        }
        if let Some(live) = self.live[index].take() {
            drain(live.pumps).await;
        }
        let oom = self.driver.oom_kills(&cgroup).unwrap_or(0) > 0;
        let (exit_code, signal) = code_and_signal(exited);
        let reason = match (oom && signal == Some(libc::SIGKILL), exit_code) {
            (true, _) => "OOMKilled",
            (_, 0) => "Completed",
            _ => "Error",
        };
        let time = now();
        let exit = Exit {
            id,
            attempt,
            exit_code,
            signal,
            reason: reason.into(),
            message: String::new(),
            started_at: Some(started_at),
            finished_at: time.wall,
            finished_boot_ns: time.boot_ns,
        };
        self.unsaved |= pod::apply_exit(&self.record, &mut self.status, index, exit);
        self.to_reap.push(exited.pid);
        if self.save() {
            self.forget_instance(index, attempt, cgroup);
        }
    }

    /// Frees what an instance had: its fds in keeper, its cgroup, its upper directory. In the background where it may take time.
    fn forget_instance(&mut self, index: usize, attempt: u32, cgroup: String) {
        for part in slots::PARTS {
            if let Err(e) = self.keeper.drop_slot(slots::of(index, attempt, part)) {
                say("error", format_args!("drop an fd of keeper: {e}"));
            }
        }
        let name = &self.record.containers[index].name;
        let dir = container::data_dir(&self.roots, &self.record, name, attempt);
        let driver = self.driver.clone();
        tokio::task::spawn_local(async move {
            remove_cgroup(&driver, &cgroup).await;
            remove_dir(&dir).await;
        });
    }

    async fn act(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Start { index, attempt } => match self.start(index, attempt).await {
                Ok(()) => {}
                // While `husk run` waits a start that fails is its failure; later it is the container's.
                Err(e) if self.ready.is_some() => return Err(e),
                Err(e) => self.start_failed(index, attempt, &e),
            },
            Action::StopAll => self.stop_all(),
            Action::KillAll => self.kill_all(),
            Action::Initialized => {
                pod::apply_initialized(&mut self.status, now());
                self.unsaved = true;
            }
            Action::EndSandbox => {
                if let Some(pause) = &self.pause
                    && let Err(e) = process::pidfd_send_signal(pause.as_fd(), libc::SIGKILL)
                    && e != nix::errno::Errno::ESRCH
                {
                    say("error", format_args!("end pause: {}", husk_oci::errno::Sys(e)));
                }
            }
            Action::Finish => self.finish(),
            Action::Remove => self.remove(),
        }
        Ok(())
    }

    fn start_failed(&mut self, index: usize, attempt: u32, e: &Error) {
        say("error", e);
        let time = now();
        let exit = Exit {
            id: container::id(self.record.uid(), &self.record.containers[index].name, attempt),
            attempt,
            exit_code: 128,
            signal: None,
            reason: "StartError".into(),
            message: e.to_string(),
            started_at: None,
            finished_at: time.wall,
            finished_boot_ns: time.boot_ns,
        };
        self.unsaved |= pod::apply_exit(&self.record, &mut self.status, index, exit);
    }

    /// Creates and starts one instance: process made, fds with keeper, record on disk, then released.
    async fn start(&mut self, index: usize, attempt: u32) -> Result<(), Error> {
        let name = self.record.containers[index].name.clone();
        let in_container = |what: String| Error::Container { container: name.clone(), what };
        let pause = self.pause.as_ref().ok_or_else(|| in_container("the sandbox is gone".into()))?;
        let context = container::Context {
            roots: &self.roots,
            driver: &*self.driver,
            record: &self.record,
            sandbox: pause.as_fd(),
        };
        let created = container::create(&context, index, attempt)?;
        let cgroup = container::cgroup(&self.record, &created.id);
        let done = self.start_created(index, attempt, created).await;
        if done.is_err() {
            if let Err(e) = self.driver.kill(&cgroup) {
                say("error", format_args!("kill what is left in {cgroup}: {e}"));
            }
            if let Some(live) = self.live[index].take() {
                drain(live.pumps).await;
            }
            self.forget_instance(index, attempt, cgroup);
        }
        done.map_err(|e| match e {
            Error::Container { .. } => e,
            other => in_container(other.to_string()),
        })
    }

    async fn start_created(&mut self, index: usize, attempt: u32, created: container::Created) -> Result<(), Error> {
        let container::Created { id, mut process, output, start } = created;
        let slot = |part| slots::of(index, attempt, part);
        let mut kept: Vec<(u64, BorrowedFd<'_>)> = vec![(slot(Part::Start), start.as_fd())];
        if let Some([out, err]) = &output {
            kept.extend([(slot(Part::Stdout), out.as_fd()), (slot(Part::Stderr), err.as_fd())]);
        }
        self.keeper.put_many(&kept).map_err(keeper_error)?;
        let mut terminal = None;
        loop {
            match event(&mut process).await? {
                Event::Warning(text) => self.warn(format!("container {}: {text}", self.record.containers[index].name)),
                Event::Terminal(master) => terminal = Some(master),
                Event::Created => break,
                Event::Failed(e) => return Err(Error::Host { what: e.to_string() }),
                Event::Executed => return Err(Error::Host { what: "its process died while it was created".into() }),
            }
        }
        let mut pipes = Vec::new();
        if let Some([out, err]) = output {
            pipes.extend([(Stream::Stdout, out), (Stream::Stderr, err)]);
        }
        if let Some(master) = terminal {
            self.keeper.put(slot(Part::Terminal), master.as_fd()).map_err(keeper_error)?;
            pipes.push((Stream::Stdout, master));
        }
        let pid = process.pid;
        let ticks = start_ticks(pid).ok_or_else(|| Error::Host { what: "its process vanished".into() })?;
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|e| Error::io("duplicate a pidfd", &e))?;
        let pumps = self.pumps(index, attempt, pipes)?;
        self.live[index] = Some(Live { pidfd, pumps });
        let before = self.status.clone();
        pod::apply_start(&mut self.status, index, attempt, id, pid, ticks, now());
        if let Err(e) = self.dir.write_status(&self.status) {
            self.status = before;
            return Err(e.into());
        }
        fd::write(start.as_fd(), b"1").map_err(|e| Error::sys("release the process", e))?;
        loop {
            match event(&mut process).await {
                Ok(Event::Warning(text)) => self.warn(text),
                Ok(Event::Executed) => break,
                Ok(Event::Failed(e)) => {
                    self.status = before;
                    self.unsaved = true;
                    return Err(Error::Host { what: e.to_string() });
                }
                Ok(_) => {}
                Err(e) => {
                    say("error", &e);
                    break;
                }
            }
        }
        // Released and executed: the start pipe has no reader any more.
        self.keeper.drop_slot(slot(Part::Start)).map_err(keeper_error)
    }

    fn stop_all(&mut self) {
        let unasked = |c: &crate::state::record::Container| matches!(c.state, State::Running { stopping: false, .. });
        let all = self.status.containers.iter().enumerate();
        let signals: Vec<usize> = all.filter(|(_, c)| unasked(c)).map(|(index, _)| index).collect();
        pod::apply_stopping(&mut self.status);
        // On disk first: a signal that was sent is never sent again by a successor.
        self.unsaved = true;
        if !self.save() {
            say("warn", "stopping without a record of it, continuing");
        }
        for index in signals {
            if let Some(live) = &self.live[index]
                && let Err(e) =
                    process::pidfd_send_signal(live.pidfd.as_fd(), self.record.containers[index].stop_signal)
                && e != nix::errno::Errno::ESRCH
            {
                say(
                    "error",
                    format_args!("stop container {}: {}", self.record.containers[index].name, husk_oci::errno::Sys(e)),
                );
            }
        }
    }

    fn kill_all(&mut self) {
        for live in self.live.iter().flatten() {
            let _ = process::pidfd_send_signal(live.pidfd.as_fd(), libc::SIGKILL);
        }
        for c in &self.status.containers {
            if let State::Running { id, .. } = &c.state
                && let Err(e) = self.driver.kill(&container::cgroup(&self.record, id))
            {
                say("error", format_args!("kill container {}: {e}", c.name));
            }
        }
    }

    /// Phase Succeeded or Failed: logs and records stay, everything else goes.
    fn finish(&mut self) {
        self.status.finished_at = Some(jiff::Timestamp::now());
        if let Err(e) = self.dir.write_status(&self.status) {
            self.status.finished_at = None;
            say("error", format_args!("{e}, trying again"));
            self.unsaved = true;
            return;
        }
        self.free();
        self.over = true;
    }

    /// What a finished pod needs no more.
    fn free(&self) {
        for e in sandbox::free(&self.roots, &*self.driver, &self.record).err().into_iter().flatten() {
            say("error", e);
        }
    }

    fn remove(&mut self) {
        let record = Some(&self.record);
        let done = remove::pod(&self.roots, &*self.driver, self.record.uid(), record, false);
        let answer = match done {
            Ok(()) => Response::Ok,
            Err(errors) => {
                let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                say("error", &message);
                Response::Error { exit_code: 1, message }
            }
        };
        for reply in self.waiting_for_end.drain(..) {
            let _ = reply.send((answer.clone(), None));
        }
        self.over = true;
    }

    async fn command(&mut self, command: Command) {
        let Command { request, fds, reply } = command;
        match request {
            Request::Delete { grace_seconds, force, nowait } => {
                let own = self.record.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
                let own = own.and_then(|g| u64::try_from(g).ok()).unwrap_or(30);
                let before: Option<Deletion> = self.status.deletion.clone();
                if pod::request_delete(&mut self.status, own, grace_seconds, force, now()) {
                    self.unsaved = true;
                    if let Err(e) = self.dir.write_status(&self.status) {
                        self.status.deletion = before;
                        let message = format!("the deletion cannot be recorded: {e}");
                        let _ = reply.send((Response::Error { exit_code: 1, message }, None));
                        return;
                    }
                    self.unsaved = false;
                }
                if nowait {
                    let _ = reply.send((Response::Ok, None));
                } else {
                    self.waiting_for_end.push(reply);
                }
            }
            Request::Exec { container, argv, tty, size } => {
                let wanted = super::exec::Wanted { container, argv, tty, size, fds };
                match self.exec(wanted).await {
                    Ok((pid, exec_fd, pidfd)) => {
                        let _ = reply.send((Response::Started, exec_fd));
                        self.execs.insert(pid, Exec { reply, _pidfd: pidfd });
                    }
                    Err((exit_code, message)) => {
                        let _ = reply.send((Response::Error { exit_code, message }, None));
                    }
                }
            }
        }
    }

    /// Runs one more process in a container.
    async fn exec(&mut self, wanted: super::exec::Wanted) -> Result<(i32, Option<OwnedFd>, OwnedFd), (i32, String)> {
        let ours = |message: String| (125, message);
        let index = super::exec::target(&self.record, &self.status, wanted.container.as_deref()).map_err(ours)?;
        let name = self.record.containers[index].name.clone();
        let live = self.live[index].as_ref().ok_or_else(|| ours(format!("container {name} is not running")))?;
        let State::Running { id, .. } = &self.status.containers[index].state else {
            return Err(ours(format!("container {name} is not running")));
        };
        let cgroup = container::cgroup(&self.record, id);
        let mut process = super::exec::create(&self.record, index, live.pidfd.as_fd(), &*self.driver, &cgroup, &wanted)
            .map_err(|e| ours(e.to_string()))?;
        let mut terminal = None;
        loop {
            match event(&mut process).await.map_err(|e| ours(e.to_string()))? {
                Event::Warning(text) => say("warn", text),
                Event::Terminal(master) => terminal = Some(master),
                Event::Created => {}
                Event::Executed => break,
                Event::Failed(e) => return Err((super::exec::exit_code(&e), format!("container {name}: {e}"))),
            }
        }
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|e| ours(husk_oci::errno::io_text(&e)))?;
        Ok((process.pid, terminal, pidfd))
    }
}

/// The log writer's staging: keeper's, with what a dead supervisor left in it brought to an end, or a new one.
fn staging(keeper: &mut Keeper) -> Result<Staging, Error> {
    let [a, b, c] = slots::STAGING;
    let kept = (
        keeper.get(a).map_err(keeper_error)?,
        keeper.get(b).map_err(keeper_error)?,
        keeper.get(c).map_err(keeper_error)?,
    );
    let io = |e: std::io::Error| Error::io("set up the log writer", &e);
    if let (Some(read), Some(write), Some(journal)) = kept {
        let mut staging = Staging::from_fds(read, write, journal).map_err(io)?;
        if let Err(e) = staging.recover() {
            // A full disk, say: the first pump tries again, and the pod must be watched meanwhile.
            say("warn", format_args!("finish what the last log writer had begun: {e}, trying again later"));
        }
        return Ok(staging);
    }
    let staging = Staging::new().map_err(io)?;
    let [read, write, journal] = staging.fds();
    keeper.put_many(&[(a, read), (b, write), (c, journal)]).map_err(keeper_error)?;
    Ok(staging)
}

fn keeper_error(e: impl std::fmt::Display) -> Error {
    Error::Host { what: format!("keeper: {e}") }
}

/// A process of the records as a pidfd. keeper has not reaped it, so the pid is still its own; the start time is looked at all the same.
fn open_process(pid: i32, ticks: u64) -> Result<OwnedFd, Error> {
    let pidfd =
        process::pidfd_open(pid).map_err(|e| Error::sys(format_args!("find process {pid} of the records"), e))?;
    match start_ticks(pid) {
        Some(found) if found == ticks => Ok(pidfd),
        _ => Err(Error::Host { what: format!("process {pid} is not the one of the records") }),
    }
}

/// keeper's other children, the dead included.
fn siblings() -> Vec<i32> {
    let (keeper, own) = (process::getppid(), process::getpid());
    let list = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).filter(|pid| *pid != own).collect()
}

/// Exit code as Kubernetes has it, and the signal.
fn code_and_signal(exited: Exited) -> (i32, Option<i32>) {
    if exited.code == libc::CLD_EXITED { (exited.status, None) } else { (128 + exited.status, Some(exited.status)) }
}

async fn rest(how_long: Option<Duration>) {
    match how_long {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until pause runs.
async fn held(mut launching: husk_oci::sandbox::Launching) -> Result<(husk_oci::sandbox::Held, Vec<String>), Error> {
    let io = |e: std::io::Error| Error::io("watch pause", &e);
    let watched = watch(launching.as_fd().try_clone_to_owned().map_err(io)?).map_err(io)?;
    loop {
        if let Some(done) = launching.next().map_err(|e| Error::Host { what: e.to_string() })? {
            return Ok(done);
        }
        watched.readable().await.map_err(io)?.clear_ready();
    }
}

/// The next report of a process that is being made.
async fn event(process: &mut Starting) -> Result<Event, Error> {
    let host = |e: husk_oci::error::Error| Error::Host { what: e.to_string() };
    if let Some(event) = process.next_event().map_err(host)? {
        return Ok(event);
    }
    let copy = process.as_fd().try_clone_to_owned().map_err(|e| Error::io("watch a new process", &e))?;
    let watched = watch(copy).map_err(|e| Error::io("watch a new process", &e))?;
    let wait = async {
        loop {
            let mut guard = watched.readable().await.map_err(|e| Error::io("watch a new process", &e))?;
            match process.next_event().map_err(host)? {
                Some(event) => return Ok(event),
                None => guard.clear_ready(),
            }
        }
    };
    match tokio::time::timeout(CREATE_PATIENCE, wait).await {
        Ok(event) => event,
        Err(_) => {
            Err(Error::Host { what: format!("its set-up takes longer than {} s, given up", CREATE_PATIENCE.as_secs()) })
        }
    }
}

/// Waits for the end of a dead container's output. What some other process still holds open is not waited for.
async fn drain(pumps: Vec<JoinHandle<()>>) {
    let all = async {
        for pump in pumps {
            let _ = pump.await;
        }
    };
    if tokio::time::timeout(DRAIN_PATIENCE, all).await.is_err() {
        say("warn", "a log pipe stays open after its container's end, continuing without waiting for it");
    }
}

async fn remove_cgroup(driver: &Cgroupfs, path: &str) {
    let mut pause = Duration::from_millis(1);
    for _ in 0..12 {
        match driver.try_remove(path) {
            Ok(true) => return,
            Ok(false) => tokio::time::sleep(pause).await,
            Err(e) => return say("warn", format_args!("remove cgroup {path}: {e}, continuing; it goes with the pod")),
        }
        pause *= 2;
    }
    say("warn", format_args!("cgroup {path} is still in use, continuing; it goes with the pod"));
}

async fn remove_dir(dir: &std::path::Path) {
    match crate::volume::RemoveTree::new(dir) {
        Ok(mut tree) => loop {
            match tree.step(64) {
                Ok(true) => return,
                Ok(false) => tokio::task::yield_now().await,
                Err(e) => return say("warn", format_args!("{e}, continuing; it goes with the pod")),
            }
        },
        Err(e) => say("warn", format_args!("{e}, continuing; it goes with the pod")),
    }
}
