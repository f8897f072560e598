//! The loop of one pod: events in, the rules of `pod/` asked, actions out. Every change is on disk before anybody is told of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use husk_oci::sys::netns::OwnNetns;
use husk_oci::sys::{clock, process};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::First;
use super::begin::staging;
use super::ephemeral::Leaver;
use super::hooks::Calls;
use super::keeper::Keeper;
use super::oom::{Killed, Watching};
use super::probes::Probing;
use super::server::{Command, Reply};
use super::slots::ExecSlot;
use super::streams::{Pump, SharedStaging};
use super::tidy;
use super::timeline::{Timeline, clock_ns};
use super::watch::watch;
use crate::cgroup::Cgroupfs;
use crate::control::Ready;
use crate::pod::{self, Action, Now};
pub(super) use crate::runtime::say::say;
use crate::runtime::{Error, container};
use crate::state::Roots;
use crate::state::events::{Event, EventType};
use crate::state::pods::PodDir;
use crate::state::record::{PodRecord, Status};
use crate::state::timeline::Kind;

/// How many turns of the scheduler the last answers get; each needs one.
const LAST_TURNS: u32 = 16;

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
}

/// Who is to be asked to stop.
pub(super) fn stops(actions: &[Action]) -> Vec<usize> {
    let stop = |action: &Action| if let Action::Stop { index } = action { Some(*index) } else { None };
    actions.iter().filter_map(stop).collect()
}

pub(super) fn keeper_error(e: impl std::fmt::Display) -> Error {
    Error::Host { what: format!("keeper: {e}") }
}
