//! How a supervisor comes to a pod: a new one, or one whose last supervisor died.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use husk_oci::sandbox as oci;
use husk_oci::sys::{fd, process};
use nix::errno::Errno;

use super::end::siblings;
use super::keeper::Keeper;
use super::log::{Staging, Stream};
use super::pod::{Leaving, Live, Pod, keeper_error, now, say};
use super::server::{bind_socket, serve};
use super::slots::{self, ExecSlot, Part};
use super::streams::Pump;
use super::timeline::clock_ns;
use super::watch::watch;
use crate::control::{HELPED, Ready};
use crate::network;
use crate::pod;
use crate::runtime::cni::Holder;
use crate::runtime::copy::place::open_process;
use crate::runtime::{Error, container, remove, sandbox};
use crate::state::record::{Exit, Sandbox, State};
use crate::state::start_ticks;
use crate::state::timeline::{Kind, RunTimes};

impl Pod {
    /// The pod could not be started: end what was made, tell `husk run`, and go.
    pub(super) async fn undo(&mut self, error: &Error) -> Result<(), Error> {
        if self.ready.is_none() {
            // A later supervisor: nobody is there to be told, and containers may be running. keeper starts the next one.
            return Err(error.clone());
        }
        // Nothing is taken away while `husk run` still makes it. An error means that it is gone.
        let _ = self.helped().await;
        self.kill_all();
        self.leave_network().await;
        if let Some(pause) = &self.pause {
            let _ = process::pidfd_send_signal(pause.as_fd(), libc::SIGKILL);
        }
        self.reap_all();
        let record = Some(&self.record);
        if let Err(errors) = remove::pod(&self.roots, &*self.driver, &self.record.id, record, false) {
            for e in errors {
                say("error", format_args!("undo: {e}"));
            }
        }
        self.answer_run(&Ready::Failed { message: error.to_string() });
        Ok(())
    }

    pub(super) fn answer_run(&mut self, answer: &Ready) {
        if let Some(socket) = self.ready.take()
            && let Ok(text) = serde_json::to_vec(answer)
            && let Err(e) = UnixStream::from(socket).write_all(&text)
        {
            // `husk run` was killed; the pod goes on.
            say("info", format_args!("nobody waits for the start: {e}"));
        }
    }

    /// A pod that nothing was done for yet.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        let mut pause_from = clock_ns();
        let (mut pending, pidfd) = self.launching()?;
        self.listen(None)?;
        self.step(Kind::Adopt, self.timeline.begun_ns);
        let ports = self.reserve_ports()?;
        let linked = self.link_network(&mut pending, pidfd.as_fd()).await?;
        let helped = match self.helped().await? {
            Some(times) => {
                self.run_steps(times);
                // It was cloned before us.
                pause_from = times.launched;
                true
            }
            None => {
                let from = clock_ns();
                sandbox::prepare(&self.roots, &*self.driver, &self.record)?;
                self.step(Kind::Places, from);
                false
            }
        };
        self.prepare_first(pidfd.as_fd(), helped)?;
        self.status.sandbox = Some(self.hold(pending, pause_from, linked).await?);
        self.serve_ports(ports);
        // On disk with the first container's start, or with the next change: until then nothing runs that a successor would not end.
        self.unsaved = true;
        Ok(())
    }

    /// Waits until pause, which was cloned at `pause_from`, holds the pod's namespaces, and has plugins attach them where that is theirs to do.
    pub(super) async fn hold(
        &mut self,
        pending: oci::Launching,
        pause_from: u64,
        linked: network::Status,
    ) -> Result<Sandbox, Error> {
        let (held, warnings) = held(pending).await?;
        self.keeper.confirm().map_err(keeper_error)?;
        for warning in warnings {
            self.warn(warning);
        }
        self.step(Kind::Sandbox, pause_from);
        self.open_messages(held.pidfd.as_fd())?;
        self.pause = Some(Rc::new(held.pidfd));
        let ticks =
            start_ticks(held.pid)?.ok_or_else(|| Error::Host { what: "pause died right after its start".into() })?;
        let network = self.attach_network(linked, Holder { pid: held.pid, start_ticks: ticks }).await?;
        Ok(Sandbox {
            pid: held.pid,
            start_ticks: ticks,
            ready_at: jiff::Timestamp::now(),
            ended: false,
            attempt: 0,
            retry_boot_ns: None,
            network: Some(Box::new(network)),
        })
    }

    /// pause, on its way, and its pidfd: the one that was cloned ahead of us, or a new one.
    pub(super) fn launching(&mut self) -> Result<(oci::Launching, OwnedFd), Error> {
        let host = |e: oci::Error| Error::Host { what: e.to_string() };
        let launching = match self.ahead.take() {
            Some((pidfd, report)) => sandbox::adopt(&self.record, oci::Cloned::from_fds(pidfd, report).map_err(host)?)?,
            None => {
                self.kill_strangers();
                sandbox::launch(&self.record)?
            }
        };
        let pidfd = launching.pidfd().and_then(|fd| fd.try_clone_to_owned().ok());
        let pidfd = pidfd.ok_or_else(|| Error::Host { what: "duplicate pause's pidfd: no more fds".into() })?;
        Ok((launching, pidfd))
    }

    /// Waits for what `husk run` does meanwhile. With times: it has made all that [`sandbox::prepare`] makes, and the places of the first containers.
    async fn helped(&mut self) -> Result<Option<RunTimes>, Error> {
        let Some(socket) = self.ready.as_ref().filter(|_| self.helper) else { return Ok(None) };
        let io = |e: std::io::Error| Error::io("wait for husk run", &e);
        let watched = watch(socket.try_clone().map_err(io)?).map_err(io)?;
        let mut message = [0; 1 + RunTimes::BYTES];
        loop {
            match fd::recv(watched.get_ref().as_fd(), &mut message, true) {
                Ok(got) => {
                    self.helper = false;
                    let [word, times @ ..] = &message;
                    // So little is never cut in two.
                    let said = got.len == message.len() && *word == HELPED;
                    return Ok(said.then(|| RunTimes::from_bytes(times)));
                }
                Err(Errno::EAGAIN) => watched.readable().await.map_err(io)?.clear_ready(),
                Err(Errno::ECONNRESET) => return Ok(None),
                Err(e) => return Err(Error::sys("wait for husk run", e)),
            }
        }
    }

    /// Prepares the first container as far as it goes without a sandbox that is up, while pause is setting itself up.
    fn prepare_first(&mut self, pause: BorrowedFd<'_>, placed: bool) -> Result<(), Error> {
        self.placed = if placed { pod::first(&self.record) } else { Vec::new() };
        let first = pod::first(&self.record).first().copied();
        let Some(index) = first.filter(|index| !container::needs_sandbox(&self.record.containers[*index])) else {
            return Ok(());
        };
        let placed = self.placed.contains(&index);
        let from = clock_ns();
        self.prepared = Some((index, container::prepare(&self.context(pause), index, 0, placed)?));
        self.container_step(Kind::Prepare, index, 0, from);
        Ok(())
    }

    /// Children of keeper that no record knows: a sandbox whose supervisor died before it could write it down.
    pub(super) fn kill_strangers(&self) {
        for pid in siblings() {
            if let Ok(pidfd) = process::pidfd_open(pid) {
                let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }

    /// A pod whose last supervisor died: the records say what runs, keeper has the fds and the dead.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        let listener = self.keeper_get(slots::CONTROL)?;
        self.listen(listener)?;
        if let Some(sandbox) = self.status.sandbox.clone().filter(|s| !s.ended) {
            self.pause = open_process(sandbox.pid, sandbox.start_ticks)?.map(Rc::new);
            if self.pause.is_none() {
                pod::apply_sandbox_end(&self.record, &mut self.status);
                self.unsaved = true;
            }
        }
        self.recover_messages()?;
        let ports = self.reserve_ports().unwrap_or_else(|e| {
            say("warn", format_args!("{e}, continuing without it"));
            Vec::new()
        });
        self.note_addresses();
        self.serve_ports(ports);
        let attempts: Vec<u32> = self.status.containers.iter().map(|c| c.attempt).collect();
        let slots = self.keeper.slots().map_err(keeper_error)?;
        self.recover_execs(&slots)?;
        for slot in slots {
            if ExecSlot::read(slot).is_none() && !slots::is_current(&self.status, slot) {
                // Of an instance that was never recorded: its process dies when its start pipe closes.
                self.keeper.drop_slot(slot).map_err(keeper_error)?;
            }
        }
        for (index, attempt) in attempts.into_iter().enumerate() {
            let number = self.status.containers[index].slot;
            let State::Running { id, pid, start_ticks, started_at, stopping } =
                self.status.containers[index].state.clone()
            else {
                self.recover_ended(index, attempt)?;
                continue;
            };
            let Some(pidfd) = open_process(pid, start_ticks)? else {
                self.recover_lost(index, attempt, id, started_at);
                self.recover_ended(index, attempt)?;
                continue;
            };
            if let Some(start) = self.keeper_get(slots::of(number, attempt, Part::Start))? {
                // The last supervisor may have died between the record and the release. Once released nobody reads any more: EPIPE.
                let _ = fd::write(start.as_fd(), b"1");
            }
            self.recover_attaching(index, &id, attempt)?;
            let pumps = self.recover_pumps(index, attempt, false)?;
            self.live[index] = Some(Live { pidfd, pumps, memory: None });
            self.recover_hook(index)?;
            if stopping {
                // The last supervisor may have died between the record and the signal.
                self.send_stop_signal(index);
            }
        }
        // It may have died before it had told the others.
        self.unnamed = true;
        say("info", "took over from an earlier supervisor");
        Ok(())
    }

    /// Pumps for what keeper holds of an instance's output.
    fn recover_pumps(&mut self, index: usize, attempt: u32, left_over: bool) -> Result<Vec<Pump>, Error> {
        let number = self.status.containers[index].slot;
        let mut pipes = Vec::new();
        for (part, stream) in
            [(Part::Stdout, Stream::Stdout), (Part::Stderr, Stream::Stderr), (Part::Terminal, Stream::Stdout)]
        {
            if let Some(pipe) = self.keeper_get(slots::of(number, attempt, part))? {
                pipes.push((stream, pipe));
            }
        }
        if pipes.is_empty() {
            return Ok(Vec::new());
        }
        self.pumps(index, attempt, pipes, left_over)
    }

    /// An instance that does not run (any more). What it has printed may not be in its log yet.
    fn recover_ended(&mut self, index: usize, attempt: u32) -> Result<(), Error> {
        let c = &self.status.containers[index];
        let number = c.slot;
        // Of one that was made and never recorded: it dies when this closes.
        self.keeper.drop_slot(slots::of(number, attempt, Part::Start)).map_err(keeper_error)?;
        let exit = match &c.state {
            State::Terminated(exit) => Some(exit),
            _ => c.last.as_ref(),
        };
        let Some(id) = exit.filter(|exit| exit.attempt == attempt).map(|exit| exit.id.clone()) else {
            for part in slots::PARTS {
                self.keeper.drop_slot(slots::of(number, attempt, part)).map_err(keeper_error)?;
            }
            return Ok(());
        };
        let instance = self.instance(index, attempt, &id, self.record.driven());
        let pumps = self.recover_pumps(index, attempt, true)?;
        self.leaving.push(Leaving { instance, pumps });
        Ok(())
    }

    /// A container whose process is gone without a record of how: it was reaped in the course of a deletion that could not be written down.
    fn recover_lost(&mut self, index: usize, attempt: u32, id: String, started_at: jiff::Timestamp) {
        let time = now();
        let exit = Exit {
            id,
            attempt,
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".into(),
            message: "its end could not be recorded".into(),
            started_at: Some(started_at),
            finished_at: time.wall,
            finished_boot_ns: time.boot_ns,
            oom_kills: 0,
        };
        self.unsaved |= pod::apply_exit(&self.record, &mut self.status, index, exit);
    }

    pub(super) fn keeper_get(&mut self, slot: u64) -> Result<Option<OwnedFd>, Error> {
        self.keeper.get(slot).map_err(keeper_error)
    }

    /// Serves the control socket, on a listener that keeper holds for our successor.
    pub(super) fn listen(&mut self, listener: Option<OwnedFd>) -> Result<(), Error> {
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
        self.serving = Some(tokio::task::spawn_local(async move {
            if let Err(e) = serve(listener, commands).await {
                say("error", format_args!("control socket: {e}"));
            }
        }));
        Ok(())
    }

    /// Leaves new connections to a successor.
    pub(super) fn stop_listening(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    pub(super) fn warn(&mut self, text: String) {
        say("warn", &text);
        if self.ready.is_some() {
            self.warnings.push(text);
        }
    }
}

/// Waits until pause runs.
pub(super) async fn held(mut launching: oci::Launching) -> Result<(oci::Held, Vec<String>), Error> {
    let io = |e: std::io::Error| Error::io("watch pause", &e);
    let watched = watch(launching.as_fd().try_clone_to_owned().map_err(io)?).map_err(io)?;
    loop {
        if let Some(done) = launching.next().map_err(|e| Error::Host { what: e.to_string() })? {
            return Ok(done);
        }
        watched.readable().await.map_err(io)?.clear_ready();
    }
}

/// The log writer's staging: keeper's, with what a dead supervisor left in it brought to an end, or a new one. Before the `first` supervisor there
/// was none.
pub(super) fn staging(keeper: &mut Keeper, first: bool) -> Result<Staging, Error> {
    let [a, b, c] = slots::STAGING;
    let io = |e: std::io::Error| Error::io("set up the log writer", &e);
    if !first
        && let (Some(read), Some(write), Some(journal)) = (
            keeper.get(a).map_err(keeper_error)?,
            keeper.get(b).map_err(keeper_error)?,
            keeper.get(c).map_err(keeper_error)?,
        )
    {
        let mut staging = Staging::from_fds(read, write, journal).map_err(io)?;
        if let Err(e) = staging.recover() {
            // A full disk, say: the first pump tries again, and the pod must be watched meanwhile.
            say("warn", format_args!("finish what the last log writer had begun: {e}, trying again later"));
        }
        return Ok(staging);
    }
    let staging = Staging::new().map_err(io)?;
    let [read, write, journal] = staging.fds();
    for (slot, fd) in [(a, read), (b, write), (c, journal)] {
        keeper.put(slot, fd).map_err(keeper_error)?;
    }
    Ok(staging)
}
