//! postStart and preStop: how they run, and how they end.
//!
//! That a hook was begun is on disk before its process is released, with the process's pid, so that no successor begins it again: it goes on with a process that
//! still runs, takes the exit code of one that has ended from keeper, and lets a sleep have the rest of its time. What a hook prints goes to a log of its own,
//! `hooks/<n>.log` beside the instance's; its pipe is with keeper meanwhile. An HTTP request is a task of ours, and ends with us.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use husk_oci::spawn::Event;
use husk_oci::sys::{fd, process};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::exec::{Wanted, create};
use super::keeper::Exited;
use super::log::{ContainerLog, Stream};
use super::pod::{Pod, keeper_error, now, say};
use super::slots::{ExecPart, ExecSlot};
use super::start::event;
use super::streams::pump;
use crate::cgroup::CgroupDriver;
use crate::pod;
use crate::probe::{Place, http};
use crate::runtime::copy::place::open_process;
use crate::runtime::{Error, container};
use crate::state::events::EventType;
use crate::state::record::{Hook, HookAction, HookRun, HttpGet, State};
use crate::state::start_ticks;
use crate::state::timeline::Kind;

/// What a hook prints in one instance of its container: two files of at most this.
const LOG_BYTES: u64 = 64 * 1024;

/// Who asks, for servers that want to know.
const AGENT: &str = concat!("husk-lifecycle/", env!("CARGO_PKG_VERSION"));

fn host(e: impl std::fmt::Display) -> Error {
    Error::Host { what: e.to_string() }
}

/// What the request of a hook has come to.
pub(super) struct Called {
    slot: u32,
    attempt: u32,
    hook: Hook,
    end: Result<Answered, String>,
}

/// Somebody has answered.
struct Answered {
    /// Where, when it was asked by https and has answered in the clear.
    in_the_clear: Option<String>,
}

/// The requests of hooks that are being made.
pub(super) struct Calls {
    tasks: Vec<(u32, JoinHandle<()>)>,
    results: mpsc::UnboundedReceiver<Called>,
    sender: mpsc::UnboundedSender<Called>,
}

impl Calls {
    pub(super) fn new() -> Calls {
        let (sender, results) = mpsc::unbounded_channel();
        Calls { tasks: Vec::new(), results, sender }
    }

    /// Waits for a request to end.
    pub(super) async fn ended(&mut self) -> Called {
        match self.results.recv().await {
            Some(called) => called,
            // We hold a sender.
            None => std::future::pending().await,
        }
    }

    /// Gives up the request that a container's hook is making.
    fn give_up(&mut self, slot: u32) {
        for (_, task) in self.tasks.extract_if(.., |(of, _)| *of == slot) {
            task.abort();
        }
    }
}

/// Any answer is a good one: the kubelet, too, has no eye for its status.
async fn call(place: &Place<'_>, request: &HttpGet) -> Result<Answered, String> {
    match http::get(place, request, AGENT).await {
        Ok(_) => Ok(Answered { in_the_clear: None }),
        Err(http::Error::NotTls(what)) => {
            let secret = |name: &str| name.eq_ignore_ascii_case("authorization");
            let headers = request.headers.iter().filter(|(name, _)| !secret(name)).cloned().collect();
            let plain = HttpGet { tls: false, headers, ..request.clone() };
            let again = http::get(place, &plain, AGENT).await;
            let to = request.host.clone().unwrap_or_else(|| place.address.to_string());
            again.map(|_| Answered { in_the_clear: Some(to) }).map_err(|e| format!("{what}; then {e}"))
        }
        Err(e) => Err(e.to_string()),
    }
}

impl Pod {
    /// Begins a hook of a running container. One that cannot be begun has failed.
    pub(super) async fn begin_hook(&mut self, index: usize, hook: Hook) {
        self.kill_hook(index);
        if hook == Hook::PreStop {
            self.stopping_event(index);
        }
        let Some(action) = self.record.containers[index].hooks.get(hook).cloned() else { return };
        let begun = match &action {
            HookAction::Sleep { .. } => {
                pod::apply_hook_begun(&mut self.status, index, hook, &action, None, now());
                self.unsaved = true;
                return;
            }
            HookAction::Exec { command } => self.run_hook(index, hook, &action, command).await,
            HookAction::HttpGet(request) => self.begin_call(index, hook, &action, request),
        };
        if let Err(e) = begun {
            if self.hook_of(index).is_none() {
                pod::apply_hook_begun(&mut self.status, index, hook, &action, None, now());
            }
            self.end_hook(index, Err(e.to_string()));
        }
    }

    /// The hook of a container that runs now.
    fn hook_of(&self, index: usize) -> Option<&HookRun> {
        self.status.containers[index].hook.as_ref().filter(|run| !run.done)
    }

    async fn run_hook(&mut self, index: usize, hook: Hook, action: &HookAction, argv: &[String]) -> Result<(), Error> {
        let made_of = self.record.containers[index].clone();
        let gone = || host("the container is not running");
        let State::Running { id, .. } = self.status.containers[index].state.clone() else { return Err(gone()) };
        let live = self.live[index].as_ref().ok_or_else(gone)?;
        let placement = self.driver.placement(&container::cgroup(&self.record, &id)).map_err(host)?;
        let null = || File::open("/dev/null").map(OwnedFd::from).map_err(|e| Error::io("open /dev/null", &e));
        let (output, write) = container::log_pipe(made_of.user.uid)?;
        let errors = write.try_clone().map_err(|e| Error::io("duplicate a pipe", &e))?;
        let fds = vec![null()?, write, errors];
        let wanted =
            Wanted { container: None, argv: argv.to_vec(), tty: false, size: None, fds, deadline_ms: 0, whole: false };
        let (start_read, start) = fd::pipe(false).map_err(|e| Error::sys("make a pipe", e))?;
        let mut process = create(&made_of, live.pidfd.as_fd(), &placement, start_read.as_fd(), &wanted)?;
        drop((start_read, wanted));
        loop {
            match event(&mut process).await? {
                Event::Warning(text) => say("warn", text),
                Event::Created => break,
                Event::Failed(e) => return Err(host(e)),
                Event::Executed | Event::Terminal(_) => return Err(host("its process died while it was created")),
            }
        }
        let slot = ExecSlot { pid: process.pid, deadline_ms: 0 };
        let kept = [(slot.of(ExecPart::Start), start.as_fd()), (slot.of(ExecPart::Output), output.as_fd())];
        self.keeper.put_many(&kept).map_err(keeper_error)?;
        let ticks = start_ticks(process.pid)?.ok_or_else(|| host("its process vanished"))?;
        pod::apply_hook_begun(&mut self.status, index, hook, action, Some((process.pid, ticks)), now());
        self.write_status()?;
        self.unsaved = false;
        self.pump_hook(index, output, false)?;
        let released = fd::write(start.as_fd(), b"1").map_err(|e| Error::sys("release the process", e));
        loop {
            match event(&mut process).await? {
                Event::Executed => break,
                Event::Failed(e) => return Err(host(e)),
                Event::Warning(text) => say("warn", text),
                Event::Terminal(_) | Event::Created => {}
            }
        }
        released?;
        self.keeper.drop_slot(slot.of(ExecPart::Start)).map_err(keeper_error)
    }

    /// Has a hook's request made. That it was begun is on disk first: it is not made twice.
    fn begin_call(&mut self, index: usize, hook: Hook, action: &HookAction, request: &HttpGet) -> Result<(), Error> {
        let from = self.probed_from()?;
        pod::apply_hook_begun(&mut self.status, index, hook, action, None, now());
        self.write_status()?;
        self.unsaved = false;
        let c = &self.status.containers[index];
        let (slot, attempt, request, sender) = (c.slot, c.attempt, request.clone(), self.calls.sender.clone());
        let task = tokio::task::spawn_local(Box::pin(async move {
            let end = call(&from.place(), &request).await;
            // Nobody wants to know any more when the supervisor has gone.
            let _ = sender.send(Called { slot, attempt, hook, end });
        }));
        self.calls.tasks.retain(|(_, earlier)| !earlier.is_finished());
        self.calls.tasks.push((slot, task));
        Ok(())
    }

    /// The request of a hook has ended.
    pub(super) fn called(&mut self, called: Called) {
        let Called { slot, attempt, hook, end } = called;
        let is = |c: &crate::state::record::Container| c.slot == slot && c.attempt == attempt;
        let Some(index) = self.status.containers.iter().position(is) else { return };
        if self.hook_of(index).is_none_or(|run| run.hook != hook) {
            return;
        }
        if let Ok(Answered { in_the_clear: Some(to) }) = &end {
            let text = format!("request to HTTPS lifecycle hook {to} got HTTP response, retry with HTTP succeeded");
            self.event(EventType::Warning, "LifecycleHTTPFallback", None, &text);
        }
        self.end_hook(index, end.map(drop));
    }

    /// A container has ended: whoever serves the request of its hook has gone, too, as a rule.
    pub(super) fn end_call(&mut self, index: usize) {
        let slot = self.status.containers[index].slot;
        if self.calls.tasks.iter().any(|(of, task)| *of == slot && !task.is_finished()) {
            self.calls.give_up(slot);
            self.end_hook(index, Err("its container has ended".into()));
        }
    }

    /// Moves what a hook prints into its log, together with the container's own output.
    fn pump_hook(&mut self, index: usize, output: OwnedFd, left_over: bool) -> Result<(), Error> {
        let dir = Path::new(&self.record.log_dir).join(&self.record.containers[index].name).join("hooks");
        let attempt = self.status.containers[index].attempt;
        let log = ContainerLog::bounded(&dir, attempt, LOG_BYTES)
            .map_err(|e| Error::io(format_args!("open log in {}", dir.display()), &e))?;
        fd::set_nonblocking(output.as_fd(), true).map_err(|e| Error::sys("set up a log pipe", e))?;
        let log = Rc::new(RefCell::new(log));
        let pump = pump(self.staging.clone(), log, Stream::Stdout, output, left_over)
            .map_err(|e| Error::io("watch a log pipe", &e))?;
        if let Some(live) = &mut self.live[index] {
            live.pumps.push(pump);
        }
        Ok(())
    }

    /// A child of keeper has ended: true when it was a hook.
    pub(super) fn hook_exited(&mut self, exited: Exited) -> bool {
        let is = |run: &HookRun| !run.done && run.process.is_some_and(|(pid, _)| pid == exited.pid);
        let Some(index) = self.status.containers.iter().position(|c| c.hook.as_ref().is_some_and(is)) else {
            return false;
        };
        let end = match super::end::code_and_signal(exited) {
            (0, _) => Ok(()),
            (_, Some(signal)) => Err(format!("its command was killed by signal {signal}")),
            (code, None) => Err(format!("its command ended with exit code {code}")),
        };
        self.end_hook(index, end);
        true
    }

    /// The time of a hook is over.
    pub(super) fn hook_overtime(&mut self, index: usize) {
        let Some(run) = self.hook_of(index) else { return };
        let end = pod::hook_overtime(run, now());
        self.kill_hook(index);
        self.end_hook(index, end);
    }

    /// A hook is over.
    fn end_hook(&mut self, index: usize, end: Result<(), String>) {
        let Some(run) = self.hook_of(index).cloned() else { return };
        let kind = match run.hook {
            Hook::PostStart => Kind::PostStart,
            Hook::PreStop => Kind::PreStop,
        };
        self.container_step(kind, index, self.status.containers[index].attempt, run.begun_boot_ns);
        if let Err(why) = &end {
            let (reason, text) = match run.hook {
                Hook::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                Hook::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
            };
            self.container_event(EventType::Warning, reason, index, &format!("{text}: {why}"));
            say("warn", format_args!("container {}: {text}: {why}", self.record.containers[index].name));
        }
        self.drop_hook_slots(&run);
        self.unsaved |= pod::apply_hook_end(&self.record, &mut self.status, index, end, now());
    }

    fn drop_hook_slots(&mut self, run: &HookRun) {
        let Some((pid, _)) = run.process else { return };
        for part in [ExecPart::Start, ExecPart::Output] {
            if let Err(e) = self.keeper.drop_slot(ExecSlot { pid, deadline_ms: 0 }.of(part)) {
                say("error", format_args!("drop an fd of keeper: {e}"));
            }
        }
    }

    /// Ends the process of a hook that runs, if it has one.
    pub(super) fn kill_hook(&mut self, index: usize) {
        self.calls.give_up(self.status.containers[index].slot);
        let Some(run) = self.hook_of(index).cloned() else { return };
        if let Some((pid, ticks)) = run.process
            && let Ok(Some(pidfd)) = open_process(pid, ticks)
        {
            // Gone already is what is wanted.
            let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        self.drop_hook_slots(&run);
    }

    /// Whether an exec that keeper has something of is a hook that runs.
    pub(super) fn is_hook(&self, slot: ExecSlot) -> bool {
        let is = |run: &HookRun| !run.done && run.process.is_some_and(|(pid, _)| pid == slot.pid);
        self.status.containers.iter().any(|c| c.hook.as_ref().is_some_and(is))
    }

    /// Goes on with the hook that a container had when the last supervisor died.
    pub(super) fn recover_hook(&mut self, index: usize) -> Result<(), Error> {
        let Some(run) = self.hook_of(index).cloned() else { return Ok(()) };
        let Some((pid, ticks)) = run.process else {
            let sleeps = run.deadline_boot_ns.is_some();
            if !sleeps {
                self.end_hook(index, Err("husk's supervisor died meanwhile, and it is not run twice".into()));
            }
            return Ok(());
        };
        let slot = ExecSlot { pid, deadline_ms: 0 };
        if open_process(pid, ticks)?.is_none() {
            self.end_hook(index, Err("its end could not be recorded".into()));
            return Ok(());
        }
        if let Some(output) = self.keeper_get(slot.of(ExecPart::Output))? {
            self.pump_hook(index, output, true)?;
        }
        if let Some(start) = self.keeper_get(slot.of(ExecPart::Start))? {
            // What was released twice was released once.
            let _ = fd::write(start.as_fd(), b"1");
            self.keeper.drop_slot(slot.of(ExecPart::Start)).map_err(keeper_error)?;
        }
        Ok(())
    }
}
