//! The loop of one pod: events in, the rules of `pod/` asked, actions out. Every change is on disk before anybody is told of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use husk_oci::sys::netns::OwnNetns;
use husk_oci::sys::{clock, process};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::First;
use super::begin::staging;
use super::ephemeral::Leaver;
use super::hooks::{Called, Calls};
use super::keeper::{Exited, Keeper};
use super::oom::{Killed, Watching};
use super::probes::{Ended, Probing};
use super::server::{Command, Reply};
use super::slots::ExecSlot;
use super::streams::{Pump, SharedStaging};
use super::tidy;
use super::timeline::{Timeline, clock_ns};
use super::upgrade::version;
use super::watch::watch;
use crate::cgroup::Cgroupfs;
use crate::control::{Ready, Refusal, Request, Response};
use crate::pod::{self, Action, Now};
pub(super) use crate::runtime::say::say;
use crate::runtime::{Error, container};
use crate::state::Roots;
use crate::state::events::{Event, EventType};
use crate::state::pods::PodDir;
use crate::state::record::{ConditionRecord, Deletion, PodRecord, Status};
use crate::state::timeline::Kind;

/// How many turns of the scheduler the last answers get; each needs one.
const LAST_TURNS: u32 = 16;
/// How long to wait before a record that could not be written is tried again.
const SAVE_RETRY: Duration = Duration::from_millis(250);

/// A running container as the supervisor holds it; all of it can be had again from keeper and the records.
pub(super) struct Live {
    pub(super) pidfd: OwnedFd,
    pub(super) pumps: Vec<Pump>,
    /// Once it is watched for processes that are killed for want of memory.
    pub(super) memory: Option<Watching>,
}

/// What one instance of a container has beyond its process.
pub(super) struct Instance {
    pub(super) slot: u32,
    pub(super) attempt: u32,
    pub(super) cgroup: String,
    pub(super) dir: Option<PathBuf>,
    /// The file of its termination message.
    pub(super) message: Option<String>,
}

/// An instance that has ended, until its record is on disk and its output is in the log.
pub(super) struct Leaving {
    pub(super) instance: Instance,
    /// Those that have not written all there is.
    pub(super) pumps: Vec<Pump>,
}

/// An exec that runs; all of it can be had again from keeper.
pub(super) struct Exec {
    pub(super) reply: Reply,
    pub(super) connection: OwnedFd,
    pub(super) pidfd: OwnedFd,
    pub(super) slot: ExecSlot,
    /// Its own cgroup, when it has a deadline.
    pub(super) cgroup: Option<String>,
    pub(super) timed_out: bool,
    /// What it leaves is killed with it.
    pub(super) whole: bool,
}

/// Somebody who waits for a container's end.
pub(super) struct Waiting {
    pub(super) id: String,
    pub(super) reply: Reply,
    pub(super) remove: bool,
}

/// Who asked.
pub(super) struct Client {
    pub(super) reply: Reply,
    pub(super) connection: OwnedFd,
}

/// The supervisor of one pod.
pub struct Pod {
    pub(super) roots: Roots,
    pub(super) dir: PodDir,
    pub(super) record: PodRecord,
    pub(super) status: Status,
    pub(super) driver: Rc<Cgroupfs>,
    pub(super) keeper: Keeper,
    pub(super) keeper_ready: AsyncFd<OwnedFd>,
    pub(super) staging: SharedStaging,
    /// A pause that was cloned ahead of us: pidfd and socket.
    pub(super) ahead: Option<(OwnedFd, OwnedFd)>,
    /// `husk run` may still be making cgroups and directories.
    pub(super) helper: bool,
    /// Positions of containers whose places `husk run` has made, for their first attempt.
    pub(super) placed: Vec<usize>,
    /// The first container, prepared while pause was setting itself up.
    pub(super) prepared: Option<(usize, container::Prepared)>,
    /// pause, while it lives.
    pub(super) pause: Option<Rc<OwnedFd>>,
    /// Our own network namespace, for those who visit the pod's; from the first visit on.
    pub(super) own_netns: Option<Rc<OwnNetns>>,
    /// Where the sandbox keeps termination messages, if it does.
    pub(super) messages: Option<OwnedFd>,
    /// Addresses of the sandbox, for those who serve its host ports.
    pub(super) pod_addresses: Rc<RefCell<Vec<std::net::IpAddr>>>,
    pub(super) live: Vec<Option<Live>>,
    /// Instances whose end is in the status, to be freed once that is on disk and their output in the log.
    pub(super) leaving: Vec<Leaving>,
    pub(super) execs: HashMap<i32, Exec>,
    /// Exits that wait for their record to be written.
    pub(super) unsaved: bool,
    /// The last try to write it failed, and that was said.
    pub(super) complained: bool,
    /// pids whose exit is in the status, to be reaped once that is on disk.
    pub(super) to_reap: Vec<i32>,
    pub(super) waiting_for_end: Vec<Reply>,
    /// The same, and wants to hear of the steps.
    pub(super) waiting_for_steps: Vec<Reply>,
    /// Who waits for a container's end, by its id, and whether it shall be removed then.
    pub(super) waiting_for_exit: Vec<Waiting>,
    /// Who is attached to an instance of a container, by its id.
    pub(super) attached: Vec<(String, Reply)>,
    /// Who waits until an ephemeral container is gone.
    pub(super) leavers: Vec<Leaver>,
    /// What is being freed in the background.
    pub(super) freeing: Vec<JoinHandle<()>>,
    /// Who waits for a container's new resources.
    pub(super) waiting_for_resize: Vec<Reply>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) command_sender: mpsc::UnboundedSender<Command>,
    /// What the tasks that watch containers' memory tell.
    pub(super) kills: mpsc::UnboundedReceiver<Killed>,
    pub(super) killed_sender: mpsc::UnboundedSender<Killed>,
    /// Workers and results of the probes.
    pub(super) probing: Probing,
    /// Requests that hooks make.
    pub(super) calls: Calls,
    /// `husk run`, until it was answered.
    pub(super) ready: Option<OwnedFd>,
    pub(super) warnings: Vec<String>,
    /// Others have not been told yet where the pod is.
    pub(super) unnamed: bool,
    /// The task that tells them.
    pub(super) naming: Option<JoinHandle<()>>,
    pub(super) over: bool,
    /// Events that are not in their file yet.
    pub(super) events: Vec<Event>,
    /// Steps of starts and stops.
    pub(super) timeline: Timeline,
    /// A successor comes after us.
    pub(super) handed_over: bool,
    /// The task that accepts connections.
    pub(super) serving: Option<JoinHandle<()>>,
}

pub(super) fn now() -> Now {
    Now { boot_ns: clock::boottime().as_nanos() as u64, wall: jiff::Timestamp::now() }
}

impl Pod {
    /// Takes a pod over: a new one, or one whose last supervisor died.
    ///
    /// # Errors
    /// keeper does not answer.
    pub fn new(
        roots: Roots,
        dir: PodDir,
        record: PodRecord,
        status: Status,
        mut keeper: Keeper,
        first: Option<First>,
    ) -> Result<Pod, Error> {
        let driver = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
        let io = |doing: &'static str| move |e: std::io::Error| Error::io(doing, &e);
        let copy = keeper.as_fd().try_clone_to_owned().map_err(io("duplicate the socket to keeper"))?;
        let staging = staging(&mut keeper, first.is_some())?;
        let timeline = Timeline::new(first.as_ref().map_or(0, |first| first.begun_ns));
        let (ready, ahead) = first.map_or((None, None), |first| (Some(first.ready), first.pause));
        let (command_sender, commands) = mpsc::unbounded_channel();
        let (killed_sender, kills) = mpsc::unbounded_channel();
        let live = record.containers.iter().map(|_| None).collect();
        let probing = Probing::new(&record);
        Ok(Pod {
            roots,
            dir,
            record,
            status,
            driver: Rc::new(driver),
            keeper_ready: watch(copy).map_err(io("watch the socket to keeper"))?,
            keeper,
            staging: Rc::new(RefCell::new(staging)),
            ahead,
            helper: ready.is_some(),
            placed: Vec::new(),
            prepared: None,
            pause: None,
            own_netns: None,
            messages: None,
            pod_addresses: Rc::default(),
            live,
            leaving: Vec::new(),
            execs: HashMap::new(),
            unsaved: false,
            complained: false,
            to_reap: Vec::new(),
            waiting_for_end: Vec::new(),
            waiting_for_steps: Vec::new(),
            waiting_for_exit: Vec::new(),
            attached: Vec::new(),
            leavers: Vec::new(),
            freeing: Vec::new(),
            waiting_for_resize: Vec::new(),
            commands,
            command_sender,
            kills,
            killed_sender,
            probing,
            calls: Calls::new(),
            ready,
            warnings: Vec::new(),
            unnamed: false,
            naming: None,
            over: false,
            events: Vec::new(),
            timeline,
            handed_over: false,
            serving: None,
        })
    }

    /// Runs the pod to its end, or until a successor takes it over. At the pod's end keeper is told to quit before this returns.
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
                if self.ready.is_some() {
                    self.moment(Kind::Answer);
                }
                self.answer_run(&Ready::Started { warnings });
                self.write_events();
                self.write_timeline();
                // From here on this process mostly sleeps.
                tidy::before_sleep();
                let mut wake = wake;
                while !self.over && !self.handed_over {
                    self.join_names();
                    self.watch_memory();
                    self.wait(wake).await?;
                    if !self.handed_over {
                        wake = self.settle().await?;
                    }
                    self.write_events();
                    self.write_timeline();
                }
            }
            Err(e) => self.undo(&e).await?,
        }
        // The connections' tasks pass on what they were given before the thread is lost to waiting for keeper.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
        if self.handed_over {
            // What keeper has not read when we are gone it will not read.
            return self.keeper.confirm().map_err(keeper_error);
        }
        self.reap_all();
        self.keeper.quit().map_err(|e| Error::Host { what: e.to_string() })
    }

    /// Asks the rules and does what they say until they say nothing; when to ask again otherwise.
    async fn settle(&mut self) -> Result<Option<u64>, Error> {
        loop {
            if self.over {
                return Ok(None);
            }
            // While `husk run` waits, what there is to record is recorded with the containers' start.
            let starting = self.ready.is_some();
            if !starting {
                // A pod that is being deleted ends on a full disk too: nobody needs the record of it any more.
                if !(self.save() || self.status.deletion.is_some()) {
                    return Ok(None);
                }
                self.tidy();
                self.answer_exits();
                self.answer_attached();
                self.take_leavers_away();
                self.advance_resize();
            }
            let decision = pod::decide(&self.record, &self.status, now());
            if decision.actions.is_empty() {
                if starting && self.unsaved {
                    self.write_status()?;
                    self.unsaved = false;
                }
                return Ok(decision.wake_boot_ns);
            }
            let before = self.status.clone();
            let wake_boot_ns = decision.wake_boot_ns;
            let stops = stops(&decision.actions);
            if stops.len() > 1 {
                // Recorded together.
                self.stop(stops.clone());
            }
            for action in decision.actions {
                let done = stops.len() > 1 && matches!(action, Action::Stop { .. });
                if !done && !self.must_wait(action) {
                    self.act(action).await?;
                }
            }
            if self.status == before {
                return Ok(wake_boot_ns);
            }
        }
    }

    /// What an instance has printed and what cannot be logged now is in its pipes: it must be written before the next instance writes, and
    /// before keeper, which holds the pipes, is told to quit. Only a deletion, which takes the logs too, does not wait.
    fn must_wait(&self, action: Action) -> bool {
        match action {
            Action::Start { index, .. } => {
                self.leaving.iter().any(|l| l.instance.slot == self.status.containers[index].slot)
            }
            Action::Finish => !self.leaving.is_empty(),
            _ => false,
        }
    }

    /// Writes the status, with the conditions that follow from it.
    pub(super) fn write_status(&mut self) -> Result<(), crate::state::Error> {
        pod::apply_conditions(&self.record, &mut self.status, now());
        self.dir.write_status(&self.status)
    }

    /// Writes the status if it has changed, then lets keeper reap what it tells of. False: try again later, and decide nothing until then.
    pub(super) fn save(&mut self) -> bool {
        if self.unsaved {
            match self.write_status() {
                Ok(()) => (self.unsaved, self.complained) = (false, false),
                Err(e) => {
                    if !self.complained {
                        say("error", format_args!("{e}, trying again"));
                    }
                    self.complained = true;
                    if self.status.deletion.is_none() {
                        return false;
                    }
                }
            }
        }
        for pid in std::mem::take(&mut self.to_reap) {
            if let Err(e) = self.keeper.reap(pid) {
                say("error", e);
            }
        }
        !self.unsaved
    }

    /// Waits for the next event from which something may follow, and takes it in; `wake_boot_ns` is when something follows from time alone.
    async fn wait(&mut self, wake_boot_ns: Option<u64>) -> Result<(), Error> {
        loop {
            let news = self.wait_once(wake_boot_ns).await?;
            self.kill_late_execs();
            // Probes come and go without the rules being asked, as long as all is as it was.
            if news || wake_boot_ns.is_some_and(|at| at <= now().boot_ns) {
                return Ok(());
            }
        }
    }

    /// False: a probe was begun or has ended, and all is as it was.
    async fn wait_once(&mut self, wake_boot_ns: Option<u64>) -> Result<bool, Error> {
        self.probe().await;
        let retry = (self.unsaved || !self.to_reap.is_empty() || !self.leaving.is_empty()).then_some(SAVE_RETRY);
        let probe_boot_ns = self.probing.next();
        let due_boot_ns = [wake_boot_ns, self.next_exec_deadline(), probe_boot_ns].into_iter().flatten().min();
        self.probing.trim(due_boot_ns);
        let until = due_boot_ns.map(|at| {
            // Never zero: a time that has passed and that nothing came of must not spin.
            Duration::from_nanos(at.saturating_sub(now().boot_ns)).max(Duration::from_millis(1))
        });
        let sleep = match (retry, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut news = true;
        match self.next(sleep).await? {
            Heard::Exited(exited) => self.exited(exited).await?,
            Heard::Command(command) => self.command(command).await,
            Heard::Killed(killed) => self.killed(killed),
            Heard::Called(called) => self.called(called),
            Heard::Probed(ended) => {
                let mut next = Some(ended);
                // What must be tried again is not put off by probes.
                news = retry.is_some();
                while let Some(ended) = next {
                    news |= self.probed(ended).await;
                    next = self.probing.also_ended();
                }
                news |= self.unsaved;
            }
            Heard::Time => {
                news = retry.is_some() || probe_boot_ns != due_boot_ns || wake_boot_ns == due_boot_ns;
            }
        }
        Ok(news)
    }

    /// The next event, or the end of `sleep`.
    async fn next(&mut self, sleep: Option<Duration>) -> Result<Heard, Error> {
        loop {
            // What came between the answers of keeper; `keeper_ready` tells of the rest.
            if let Some(exited) = self.keeper.heard_exited() {
                return Ok(Heard::Exited(exited));
            }
            if let Some(e) = self.keeper.refusal() {
                say("error", e);
            }
            tokio::select! {
                biased;
                ready = self.keeper_ready.readable() => {
                    let mut ready = ready.map_err(|e| Error::io("watch keeper", &e))?;
                    match self.keeper.next_exited().map_err(keeper_error)? {
                        Some(exited) => return Ok(Heard::Exited(exited)),
                        None => ready.clear_ready(),
                    }
                }
                Some(command) = self.commands.recv() => return Ok(Heard::Command(command)),
                Some(killed) = self.kills.recv() => return Ok(Heard::Killed(killed)),
                ended = self.probing.ended() => return Ok(Heard::Probed(ended)),
                called = self.calls.ended() => return Ok(Heard::Called(called)),
                () = rest(sleep) => return Ok(Heard::Time),
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Start { index, attempt } => match self.start(index, attempt).await {
                Ok(()) => {}
                // While `husk run` waits a start that fails is its failure; later it is the container's.
                Err(e) if self.ready.is_some() => return Err(e),
                // Nothing can be started in a sandbox that is on its way out.
                Err(_) if self.notice_lost_sandbox() => {}
                Err(e) => self.start_failed(index, attempt, &e),
            },
            Action::Hook { index, hook } => self.begin_hook(index, hook).await,
            Action::EndHook { index } => self.hook_overtime(index),
            Action::Stop { index } => self.stop(vec![index]),
            Action::KillAll => self.kill_all(),
            Action::Kill { index } => {
                if self.status.deletion.is_some() {
                    self.grace_exceeded_event();
                }
                self.kill(index);
            }
            Action::End => {
                pod::apply_ending(&self.record, &mut self.status, now());
                self.unsaved = true;
            }
            Action::Expire => {
                pod::apply_deadline(&self.record, &mut self.status, now());
                let text = "Pod was active on the node longer than the specified deadline";
                self.event(EventType::Normal, "DeadlineExceeded", None, text);
                self.unsaved = true;
            }
            Action::Anew => {
                pod::apply_anew(&self.record, &mut self.status);
                self.unsaved = true;
            }
            Action::NewSandbox => self.new_sandbox().await,
            Action::Initialized => {
                pod::apply_initialized(&mut self.status, now());
                self.unsaved = true;
            }
            Action::EndSandbox => {
                self.timeline.sandbox_end_ns.get_or_insert_with(clock_ns);
                self.leave_network().await;
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

    async fn command(&mut self, command: Command) {
        let Command { request, fds, reply, connection } = command;
        match request {
            Request::Delete { grace_seconds, force, nowait, timeline } => {
                if timeline && !nowait {
                    self.waiting_for_steps.push(reply.clone());
                }
                self.delete(grace_seconds, force, nowait, reply);
            }
            Request::Exec { container, argv, tty, size, timeout_ms } => {
                let wanted = super::exec::Wanted { container, argv, tty, size, fds, deadline_ms: 0, whole: false };
                self.exec(wanted, timeout_ms.map(Duration::from_millis), Client { reply, connection }).await;
            }
            Request::Attach { container, instance, stdin, ended } => {
                let wanted = super::attach::Wanted { container, instance, stdin, ended };
                self.attach(&wanted, Client { reply, connection });
            }
            Request::Condition { kind, status, reason, message } => {
                let _ = reply.send((self.condition(&kind, status, reason, message), None));
            }
            Request::AddEphemeral => self.add_ephemeral(fds, reply).await,
            Request::RemoveEphemeral { name } => self.remove_ephemeral(name, reply),
            Request::Version => drop(reply.send((version(), None))),
            Request::Upgrade { knows } => drop(reply.send((self.hand_over(&knows, &fds), None))),
            Request::Resize { container, amounts } => self.resize(container, &amounts, reply),
            Request::Restart { container } => self.restart(container.as_deref(), &reply),
            Request::Amend => self.amend(fds, &reply),
            other => self.drive(other, fds, reply).await,
        }
    }

    /// A user sets or removes one of the pod's conditions. On disk when it is answered.
    fn condition(&mut self, kind: &str, status: Option<String>, reason: String, message: String) -> Response {
        let new =
            status.map(|status| ConditionRecord { kind: kind.to_owned(), status, since: now().wall, reason, message });
        let before = self.status.conditions.clone();
        match pod::set_condition(&mut self.status, kind, new) {
            Err(why) => Response::refused(Refusal::InvalidArgument, why),
            Ok(false) => Response::Ok,
            Ok(true) => match self.write_status() {
                Ok(()) => {
                    (self.unsaved, self.complained) = (false, false);
                    Response::Ok
                }
                Err(e) => {
                    self.status.conditions = before;
                    Response::refused(Refusal::Unknown, e.to_string())
                }
            },
        }
    }

    fn delete(&mut self, grace_seconds: Option<u64>, force: bool, nowait: bool, reply: Reply) {
        self.moment(Kind::Asked);
        let own = pod::grace_seconds(&self.record);
        let before: Option<Deletion> = self.status.deletion.clone();
        let asked = pod::request_delete(&mut self.status, own, grace_seconds, force, now());
        let next = pod::decide(&self.record, &self.status, now()).actions;
        let at_once = stops(&next);
        if asked && !at_once.is_empty() && at_once.len() == next.len() && !nowait {
            // Recorded together with the first thing that follows from it.
            self.stop(at_once);
        } else if asked || self.unsaved {
            self.unsaved = true;
            match self.write_status() {
                Ok(()) => (self.unsaved, self.complained) = (false, false),
                // Nobody would know of it any more if we died now.
                Err(e) if nowait => {
                    self.status.deletion = before;
                    let message =
                        format!("the deletion cannot be recorded: {e}; without --wait=false it goes on all the same");
                    let _ = reply.send((Response::refused(Refusal::Unknown, message), None));
                    return;
                }
                // Whoever waits for the end asks our successor again.
                Err(e) => say("warn", format_args!("{e}, deleting without a record of it")),
            }
        }
        if nowait {
            let _ = reply.send((Response::Ok, None));
        } else {
            self.waiting_for_end.push(reply);
        }
    }
}

/// What a pod's loop waits for.
enum Heard {
    /// A child of keeper is dead.
    Exited(Exited),
    /// A client asks for something.
    Command(Command),
    /// The kernel has killed something for want of memory.
    Killed(Killed),
    /// A probe has ended.
    Probed(Ended),
    /// The request of a hook has ended.
    Called(Called),
    /// What was to be waited for is due.
    Time,
}

/// Who is to be asked to stop.
fn stops(actions: &[Action]) -> Vec<usize> {
    let stop = |action: &Action| if let Action::Stop { index } = action { Some(*index) } else { None };
    actions.iter().filter_map(stop).collect()
}

pub(super) fn keeper_error(e: impl std::fmt::Display) -> Error {
    Error::Host { what: format!("keeper: {e}") }
}

async fn rest(how_long: Option<Duration>) {
    match how_long {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
