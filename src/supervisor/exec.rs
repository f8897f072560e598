//! One more process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use husk_oci::errno::Sys;
use husk_oci::spawn::Event;
use husk_oci::sys::{fd, path, process};
use husk_oci::{exec, spawn};

use super::pod::{Client, Exec, Pod, keeper_error, now, say};
use super::server::{Reply, resume, send_now};
use super::slots::{ExecPart, ExecSlot};
use super::start::event;
use crate::cgroup::{CgroupDriver, Placement};
use crate::control::{Refusal, Response};
use crate::runtime::{Error, container, spec};
use crate::state::record::{ContainerKind, ContainerRecord, PodRecord, State, Status};

/// What `husk exec` exits with when husk itself failed.
const OURS: i32 = 125;

/// What a client asks for.
#[derive(Debug)]
pub struct Wanted {
    /// Container name; `None` = the first app container.
    pub container: Option<String>,
    /// Command and arguments.
    pub argv: Vec<String>,
    /// With a terminal of its own.
    pub tty: bool,
    /// Its rows and columns.
    pub size: Option<(u16, u16)>,
    /// stdin, stdout, stderr.
    pub fds: Vec<OwnedFd>,
    /// When to kill it: CLOCK_BOOTTIME milliseconds, 0 for never.
    pub deadline_ms: u64,
    /// With a deadline: what it has started and left running is killed at its end.
    pub whole: bool,
}

/// The container that is meant, as its position.
///
/// # Errors
/// There is none of that name, or it does not run.
pub fn target(record: &PodRecord, status: &Status, name: Option<&str>) -> Result<usize, String> {
    let index = position(record, name)?;
    match status.containers[index].state {
        State::Running { .. } => Ok(index),
        State::Waiting { ref reason, .. } => {
            Err(format!("container {} is not running: it waits ({reason})", record.containers[index].name))
        }
        State::Terminated(ref exit) => Err(format!(
            "container {} is not running: it ended with exit code {}",
            record.containers[index].name, exit.exit_code
        )),
    }
}

/// The container of this name or id, or the first app container, as its position.
///
/// # Errors
/// There is none.
pub fn position(record: &PodRecord, name: Option<&str>) -> Result<usize, String> {
    let is_id = |c: &ContainerRecord, id: &str| c.client.as_ref().is_some_and(|client| client.id == id);
    let position = match name {
        Some(name) => record.containers.iter().position(|c| is_id(c, name) || c.name == name),
        None => record.containers.iter().position(|c| c.kind == ContainerKind::App),
    };
    let names = || record.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    position.ok_or_else(|| format!("pod has no container {:?}; it has {}", name.unwrap_or(""), names()))
}

/// Makes the process with the container's identity, environment and limits; it waits for a byte from `start`.
///
/// # Errors
/// The request is wrong, or the container is going away.
pub(super) fn create(
    container: &ContainerRecord,
    pidfd: BorrowedFd<'_>,
    placement: &Placement,
    start: BorrowedFd<'_>,
    wanted: &Wanted,
) -> Result<spawn::Starting, Error> {
    let host = |e: &dyn std::fmt::Display| Error::Container { container: container.name.clone(), what: e.to_string() };
    if wanted.argv.is_empty() {
        return Err(host(&"exec: no command was given"));
    }
    let process = spec::process(container, wanted.argv.clone(), wanted.tty)?;
    if container.user.uid != 0 {
        // As for the container's own pipes: whoever opens /dev/stdout anew must be allowed to.
        for fd in &wanted.fds {
            let is_pipe = path::fstat(fd.as_fd()).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFIFO);
            if is_pipe {
                path::fchown(fd.as_fd(), container.user.uid, u32::MAX).map_err(|e| host(&husk_oci::errno::Sys(e)))?;
            }
        }
    }
    let (rows, cols) = wanted.size.unwrap_or((24, 80));
    let stdio = match (wanted.tty, wanted.fds.as_slice()) {
        (true, []) => spawn::Stdio::Terminal { rows, cols },
        (false, [input, output, errors]) => spawn::Stdio::Fds([input.as_fd(), output.as_fd(), errors.as_fd()]),
        (_, other) => return Err(host(&format!("exec: {} fds came with the request", other.len()))),
    };
    exec::exec(&exec::Exec {
        process: &process,
        container: spawn::Join { pidfd, user: false },
        cgroup: spawn::Placement {
            into_cgroup: placement.into_cgroup.as_ref().map(AsFd::as_fd),
            tasks: &placement.tasks,
        },
        stdio,
        start: Some(start),
        sibling: true,
        die_with_parent: false,
        seccomp: None,
    })
    .map_err(|e| host(&e))
}

/// The cgroup of an exec that has a deadline, inside the container's.
fn group(deadline_ms: u64) -> String {
    format!("exec-{deadline_ms}")
}

/// What `husk exec` exits with when the process could not be executed: 127 not found, 126 not executable, 125 ours.
pub fn exit_code(e: &husk_oci::error::Error) -> i32 {
    match e.kind() {
        husk_oci::error::Kind::NotFound => 127,
        husk_oci::error::Kind::NotExecutable => 126,
        _ => 125,
    }
}

impl Pod {
    /// Runs one more process in a container, and answers its client: now when that fails, else at its end.
    pub(super) async fn exec(&mut self, mut wanted: Wanted, timeout: Option<Duration>, client: Client) {
        if let Some(timeout) = timeout {
            wanted.deadline_ms =
                now().boot_ns / 1_000_000 + u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        }
        if let Err((exit_code, message)) = self.try_exec(&mut wanted, &client).await {
            // Who asked may have gone.
            let answer = Response::Error { exit_code, message, why: Refusal::Unknown };
            let _ = client.reply.send((answer, None));
        }
    }

    async fn try_exec(&mut self, wanted: &mut Wanted, client: &Client) -> Result<(), (i32, String)> {
        let ours = |message: String| (OURS, message);
        let index = target(&self.record, &self.status, wanted.container.as_deref()).map_err(ours)?;
        let container = container::addressed(&self.record.containers[index], self.network()).into_owned();
        let name = &container.name;
        let gone = || ours(format!("container {name} is not running"));
        let live = self.live[index].as_ref().ok_or_else(gone)?;
        let State::Running { id, .. } = &self.status.containers[index].state else { return Err(gone()) };
        let cgroup = container::cgroup(&self.record, id);
        let placement = self.place(&cgroup, wanted).map_err(|e| ours(format!("container {name}: {e}")))?;
        let (start_read, start) = fd::pipe(false).map_err(|e| ours(format!("make a pipe: {}", Sys(e))))?;
        let created = create(&container, live.pidfd.as_fd(), &placement, start_read.as_fd(), wanted);
        drop(start_read);
        let mut process = created.map_err(|e| ours(e.to_string()))?;
        let slot = ExecSlot { pid: process.pid, deadline_ms: wanted.deadline_ms };
        let done = self.release(&mut process, slot, start, client).await;
        let pidfd = match done {
            Ok(pidfd) => pidfd,
            Err(e) => {
                self.forget_exec(slot);
                return Err((e.0, format!("container {name}: {}", e.1)));
            }
        };
        let connection = client.connection.try_clone().map_err(|e| ours(husk_oci::errno::io_text(&e)))?;
        let cgroup = (wanted.deadline_ms > 0).then(|| format!("{cgroup}/{}", group(wanted.deadline_ms)));
        self.execs.insert(
            slot.pid,
            Exec {
                reply: client.reply.clone(),
                connection,
                pidfd,
                slot,
                cgroup,
                timed_out: false,
                whole: wanted.whole,
            },
        );
        Ok(())
    }

    /// Where the process goes: into the container's cgroup, or with a deadline into one of its own inside.
    fn place(&self, cgroup: &str, wanted: &mut Wanted) -> Result<Placement, crate::cgroup::Error> {
        if wanted.deadline_ms == 0 {
            return self.driver.placement(cgroup);
        }
        loop {
            match self.driver.create_group(cgroup, &group(wanted.deadline_ms)) {
                // Two that end in the same millisecond.
                Err(e) if e.errno() == Some(nix::errno::Errno::EEXIST) => wanted.deadline_ms += 1,
                other => return other,
            }
        }
    }

    /// From the clone to the `execve`: keeper holds the start pipe and the client's connection before the process is released, so that a
    /// successor can release it again and answer. The connection is the last thing that keeper gets: without it the client is not answered
    /// and asks the successor again, which is right as long as nothing was released.
    async fn release(
        &mut self,
        process: &mut spawn::Starting,
        slot: ExecSlot,
        start: OwnedFd,
        client: &Client,
    ) -> Result<OwnedFd, (i32, String)> {
        let ours = |message: String| (OURS, message);
        let of_keeper = |e: super::keeper::Error| ours(format!("keeper: {e}"));
        let mut terminal = None;
        loop {
            match event(process).await.map_err(|e| ours(e.to_string()))? {
                Event::Warning(text) => say("warn", text),
                Event::Terminal(master) => terminal = Some(master),
                Event::Created => break,
                Event::Executed => return Err(ours("its process died while it was created".into())),
                Event::Failed(e) => return Err((exit_code(&e), e.to_string())),
            }
        }
        let mut kept = vec![(slot.of(ExecPart::Start), start.as_fd())];
        kept.extend(terminal.as_ref().map(|master| (slot.of(ExecPart::Terminal), master.as_fd())));
        kept.push((slot.of(ExecPart::Connection), client.connection.as_fd()));
        match self.keeper.put_many(&kept) {
            // KERNEL(limits): so many at a time that keeper cannot hold them all; this one's client would learn of a supervisor's death.
            Err(super::keeper::Error::Refused { errno: nix::errno::Errno::ENOSPC, .. }) => {
                say("warn", "keeper is full; an exec would be lost to its client with this supervisor, continuing");
                // One without the others would tell a successor something that is not so.
                self.forget_exec(slot);
            }
            other => other.map_err(of_keeper)?,
        }
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|e| ours(husk_oci::errno::io_text(&e)))?;
        fd::write(start.as_fd(), b"1").map_err(|e| match e {
            nix::errno::Errno::EPIPE => ours("its process was killed before it was released".into()),
            e => ours(format!("release the process: {}", Sys(e))),
        })?;
        loop {
            match event(process).await.map_err(|e| ours(e.to_string()))? {
                Event::Executed => break,
                Event::Failed(e) => return Err((exit_code(&e), e.to_string())),
                Event::Warning(text) => say("warn", text),
                Event::Terminal(_) | Event::Created => {}
            }
        }
        self.started(slot, client.connection.as_fd(), &client.reply, terminal).map_err(of_keeper)?;
        Ok(pidfd)
    }

    /// Tells the client that its process runs; only then keeper forgets what it would take to tell it again.
    fn started(
        &mut self,
        slot: ExecSlot,
        connection: BorrowedFd<'_>,
        reply: &Reply,
        terminal: Option<OwnedFd>,
    ) -> Result<(), super::keeper::Error> {
        match send_now(connection, &Response::Started, terminal.as_ref()) {
            Ok(true) => {}
            // A client that does not read, or has gone: the task of its connection tries on.
            Ok(false) | Err(_) => drop(reply.send((Response::Started, terminal))),
        }
        self.keeper.drop_slot(slot.of(ExecPart::Terminal))?;
        self.keeper.drop_slot(slot.of(ExecPart::Start))
    }

    /// An exec has ended: its client is told before keeper forgets it.
    pub(super) fn exec_exited(&mut self, exec: Exec, exit_code: i32, signal: Option<i32>) {
        let answer = Response::Exited { exit_code, signal, timed_out: exec.timed_out };
        if !send_now(exec.connection.as_fd(), &answer, None).unwrap_or(true) {
            let _ = exec.reply.send((answer, None));
        }
        self.forget_exec(exec.slot);
        if exec.whole
            && let Some(cgroup) = &exec.cgroup
            && let Err(e) = self.driver.kill(cgroup)
        {
            say("warn", format_args!("kill what is left in {cgroup}: {e}, continuing; it goes with the container"));
        }
        if let Some(cgroup) = exec.cgroup
            && let Err(e) = self.driver.try_remove(&cgroup)
        {
            say("warn", format_args!("remove cgroup {cgroup}: {e}, continuing; it goes with the container"));
        }
    }

    fn forget_exec(&mut self, slot: ExecSlot) {
        for part in [ExecPart::Terminal, ExecPart::Start, ExecPart::Connection] {
            if let Err(e) = self.keeper.drop_slot(slot.of(part)) {
                say("error", format_args!("drop an fd of keeper: {e}"));
            }
        }
    }

    /// When the next exec is to be killed: CLOCK_BOOTTIME nanoseconds.
    pub(super) fn next_exec_deadline(&self) -> Option<u64> {
        let pending = self.execs.values().filter(|e| e.slot.deadline_ms > 0 && !e.timed_out);
        pending.map(|e| e.slot.deadline_ms * 1_000_000).min()
    }

    /// Kills the execs whose time is over, with all that they have started.
    pub(super) fn kill_late_execs(&mut self) {
        let now_ns = now().boot_ns;
        for exec in self.execs.values_mut() {
            if exec.slot.deadline_ms == 0 || exec.timed_out || exec.slot.deadline_ms * 1_000_000 > now_ns {
                continue;
            }
            exec.timed_out = true;
            kill_whole(&*self.driver, exec);
        }
    }

    /// The execs of a supervisor that died: keeper has their clients' connections.
    pub(super) fn recover_execs(&mut self, slots: &[u64]) -> Result<(), Error> {
        let found: std::collections::HashSet<ExecSlot> =
            slots.iter().filter_map(|slot| ExecSlot::read(*slot)).map(|(exec, _)| exec).collect();
        for slot in found {
            if self.is_hook(slot) {
                continue;
            }
            let connection = self.keeper_get(slot.of(ExecPart::Connection))?;
            let pidfd = process::pidfd_open(slot.pid);
            // Reaped, and only the slot not yet dropped; or without a client there is nobody to be told.
            let (Some(connection), Ok(pidfd)) = (connection, pidfd) else {
                self.forget_exec(slot);
                continue;
            };
            let terminal = self.keeper_get(slot.of(ExecPart::Terminal))?;
            let start = self.keeper_get(slot.of(ExecPart::Start))?;
            let io = |e: std::io::Error| Error::io("watch the client of an exec", &e);
            let reply = resume(connection.try_clone().map_err(io)?).map_err(io)?;
            if let Some(start) = start {
                // As for a container: what was released twice was released once.
                let _ = fd::write(start.as_fd(), b"1");
                self.started(slot, connection.as_fd(), &reply, terminal).map_err(keeper_error)?;
            }
            let cgroup = self.find_group(slot);
            // A probe's command, whose asker died with the last supervisor, or one of a client that has gone: its time is over.
            let abandoned = cgroup.is_some() && has_gone(connection.as_fd());
            let exec = Exec { reply, connection, pidfd, slot, cgroup, timed_out: abandoned, whole: abandoned };
            if abandoned {
                kill_whole(&*self.driver, &exec);
            }
            self.execs.insert(slot.pid, exec);
        }
        Ok(())
    }

    fn find_group(&self, slot: ExecSlot) -> Option<String> {
        if slot.deadline_ms == 0 {
            return None;
        }
        let running = self.status.containers.iter().filter_map(|c| match &c.state {
            State::Running { id, .. } => Some(id),
            _ => None,
        });
        let mut groups =
            running.map(|id| format!("{}/{}", container::cgroup(&self.record, id), group(slot.deadline_ms)));
        groups.find(|path| self.driver.processes(path).is_ok_and(|pids| pids.contains(&slot.pid)))
    }
}

/// Kills an exec and all that it has started.
fn kill_whole(driver: &dyn CgroupDriver, exec: &Exec) {
    if let Some(cgroup) = &exec.cgroup
        && let Err(e) = driver.kill(cgroup)
    {
        say("error", format_args!("kill exec in {cgroup}: {e}"));
    }
    // ESRCH: it has ended meanwhile.
    let _ = process::pidfd_send_signal(exec.pidfd.as_fd(), libc::SIGKILL);
}

/// Whether the other end of a connection was closed.
fn has_gone(connection: BorrowedFd<'_>) -> bool {
    let mut ends = [fd::PollFd::new(connection, fd::PollFlags::empty())];
    fd::poll(&mut ends, Some(Duration::ZERO)) == Ok(1)
}
