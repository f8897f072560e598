//! How a container starts.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use husk_oci::spawn::{Event, Starting};
use husk_oci::sys::fd;

use super::end::drain;
use super::log::{ContainerLog, Stream};
use super::pod::{Live, Pod, keeper_error, now, say};
use super::slots::{self, Part};
use super::streams::{Pump, pump};
use super::timeline::clock_ns;
use super::watch::watch;
use crate::cgroup::CgroupDriver;
use crate::network::Status;
use crate::pod;
use crate::runtime::{Error, container};
use crate::state::events::EventType;
use crate::state::record::Exit;
use crate::state::start_ticks;
use crate::state::timeline::Kind;

/// How long the set-up of one container may take before it is given up.
const CREATE_PATIENCE: Duration = Duration::from_secs(120);

impl Pod {
    /// Starts the log pumps of one instance.
    pub(super) fn pumps(
        &self,
        index: usize,
        attempt: u32,
        pipes: Vec<(Stream, OwnedFd)>,
        left_over: bool,
    ) -> Result<Vec<Pump>, Error> {
        let container = &self.record.containers[index];
        let log = match container.client.as_ref().map(|client| Path::new(&client.log_path)) {
            Some(path) if path.is_absolute() => {
                ContainerLog::of_client(path).map_err(|e| Error::io(format_args!("open log {}", path.display()), &e))?
            }
            _ => {
                let dir = Path::new(&self.record.log_dir).join(&container.name);
                ContainerLog::open(&dir, attempt)
                    .map_err(|e| Error::io(format_args!("open log in {}", dir.display()), &e))?
            }
        };
        let log = Rc::new(RefCell::new(log));
        let start = |(stream, pipe): (Stream, OwnedFd)| {
            fd::set_nonblocking(pipe.as_fd(), true).map_err(|e| Error::sys("set up a log pipe", e))?;
            pump(self.staging.clone(), log.clone(), stream, pipe, left_over)
                .map_err(|e| Error::io("watch a log pipe", &e))
        };
        pipes.into_iter().map(start).collect()
    }

    pub(super) fn start_failed(&mut self, index: usize, attempt: u32, e: &Error) {
        say("error", e);
        self.container_event(EventType::Warning, "Failed", index, &format!("Error: {e}"));
        let time = now();
        let exit = Exit {
            id: container::instance_id(&self.record, &self.record.containers[index], attempt),
            attempt,
            exit_code: 128,
            signal: None,
            reason: "StartError".into(),
            message: e.to_string(),
            started_at: None,
            finished_at: time.wall,
            finished_boot_ns: time.boot_ns,
            oom_kills: 0,
        };
        self.unsaved |= pod::apply_exit(&self.record, &mut self.status, index, exit);
        self.back_off_event(index);
    }

    /// What containers are made with.
    pub(super) fn context<'a>(&'a self, pause: BorrowedFd<'a>) -> container::Context<'a> {
        container::Context {
            roots: &self.roots,
            driver: &*self.driver,
            record: &self.record,
            sandbox: pause,
            network: self.network(),
        }
    }

    /// What the pod has of a network.
    pub(super) fn network(&self) -> Option<&Status> {
        self.status.sandbox.as_ref().and_then(|sandbox| sandbox.network.as_deref())
    }

    /// Creates and starts one instance: process made, fds with keeper, record on disk, then released.
    pub(super) async fn start(&mut self, index: usize, attempt: u32) -> Result<(), Error> {
        self.take_next(index)?;
        let name = self.record.containers[index].name.clone();
        let in_container = |what: String| Error::Container { container: name.clone(), what };
        let mut prepared_ns = None;
        let ahead = self.prepared.take_if(|(of, _)| *of == index && attempt == 0);
        let pause = self.pause.as_ref().ok_or_else(|| in_container("the sandbox is gone".into()))?;
        // Looked for before anything is made.
        self.pid_target(index)?;
        let context = self.context(pause.as_fd());
        let prepared = match ahead {
            Some((_, prepared)) => prepared,
            None => {
                let from = clock_ns();
                let placed = attempt == 0 && self.placed.contains(&index);
                let prepared = container::prepare(&context, index, attempt, placed)?;
                prepared_ns = Some((from, clock_ns()));
                prepared
            }
        };
        let instance = self.instance(index, attempt, &prepared.id, false);
        let cgroup = instance.cgroup.clone();
        let from = clock_ns();
        let target = self.pid_target(index)?;
        let launched = self.message_file(index, attempt).and_then(|()| prepared.launch(&context, index, target));
        if let Some((from, to)) = prepared_ns {
            self.past_step(Kind::Prepare, index, attempt, from, to);
        }
        self.container_step(Kind::Create, index, attempt, from);
        let image = format!("Container image {:?} already present on machine", self.record.containers[index].image_ref);
        self.container_event(EventType::Normal, "Pulled", index, &image);
        let done = match launched {
            Ok(created) => {
                self.container_event(EventType::Normal, "Created", index, "Container created");
                self.start_created(index, attempt, created).await
            }
            Err(e) => Err(e),
        };
        if done.is_err() {
            if let Err(e) = self.driver.kill(&cgroup) {
                say("error", format_args!("kill what is left in {cgroup}: {e}"));
            }
            if let Some(live) = self.live[index].take() {
                drop(drain(live.pumps).await);
            }
            self.free_instance(instance);
        }
        done.map_err(|e| match e {
            Error::Container { .. } => e,
            other => in_container(other.to_string()),
        })
    }

    pub(super) async fn start_created(
        &mut self,
        index: usize,
        attempt: u32,
        created: container::Created,
    ) -> Result<(), Error> {
        let from = clock_ns();
        let container::Created { id, mut process, output, stdin, start } = created;
        let number = self.status.containers[index].slot;
        let slot = |part| slots::of(number, attempt, part);
        self.keeper.put(slot(Part::Start), start.as_fd()).map_err(keeper_error)?;
        if let Some([out, err]) = &output {
            self.keeper.put(slot(Part::Stdout), out.as_fd()).map_err(keeper_error)?;
            self.keeper.put(slot(Part::Stderr), err.as_fd()).map_err(keeper_error)?;
        }
        if let Some(stdin) = stdin {
            self.keeper.put(slot(Part::Stdin), stdin.as_fd()).map_err(keeper_error)?;
        }
        let mut pipes = Vec::new();
        match output {
            Some([out, err]) => pipes.extend([(Stream::Stdout, out), (Stream::Stderr, err)]),
            // The terminal is made by the process itself.
            None => {
                let master = self.terminal(index, &mut process).await?;
                self.keeper.put(slot(Part::Terminal), master.as_fd()).map_err(keeper_error)?;
                if self.record.containers[index].stdin {
                    self.keeper.put(slot(Part::Stdin), master.as_fd()).map_err(keeper_error)?;
                }
                pipes.push((Stream::Stdout, master));
            }
        }
        // All that follows is done while the process still sets itself up: it finds the byte that releases it when it gets there. The order
        // holds all the same: fds with keeper, record on disk, release.
        let pid = process.pid;
        let ticks = start_ticks(pid)?.ok_or_else(|| Error::Host { what: "its process vanished".into() })?;
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|e| Error::io("duplicate a pidfd", &e))?;
        let pumps = self.pumps(index, attempt, pipes, false)?;
        self.live[index] = Some(Live { pidfd, pumps, memory: None });
        self.keeper.confirm().map_err(keeper_error)?;
        let before = self.status.clone();
        let process_of = pod::Process { id, pid, start_ticks: ticks };
        pod::apply_start(&self.record, &mut self.status, index, attempt, process_of, now());
        if let Err(e) = self.write_status() {
            self.status = before;
            return Err(e.into());
        }
        self.unsaved = false;
        let from = self.container_step(Kind::Record, index, attempt, from);
        let released = fd::write(start.as_fd(), b"1");
        let executed = self.executed(index, &mut process).await;
        if let Err(e) = executed.and(released.map(drop).map_err(|e| Error::sys("release the process", e))) {
            self.status = before;
            self.unsaved = true;
            return Err(e);
        }
        self.container_step(Kind::Execute, index, attempt, from);
        self.container_event(EventType::Normal, "Started", index, "Container started");
        // Released and executed: the start pipe has no reader any more.
        self.keeper.drop_slot(slot(Part::Start)).map_err(keeper_error)
    }

    /// Waits for the terminal of a process that sets itself up.
    async fn terminal(&mut self, index: usize, process: &mut Starting) -> Result<OwnedFd, Error> {
        loop {
            match event(process).await? {
                Event::Terminal(master) => return Ok(master),
                Event::Warning(text) => self.warn_of(index, text),
                Event::Failed(e) => return Err(Error::Host { what: e.to_string() }),
                Event::Created | Event::Executed => return Err(Error::Host { what: "it made no terminal".into() }),
            }
        }
    }

    /// Waits until a process that was released runs its program.
    async fn executed(&mut self, index: usize, process: &mut Starting) -> Result<(), Error> {
        let mut created = false;
        loop {
            match event(process).await {
                Ok(Event::Warning(text)) => self.warn_of(index, text),
                Ok(Event::Created) => created = true,
                Ok(Event::Executed) => return Ok(()),
                Ok(Event::Failed(e)) => return Err(Error::Host { what: e.to_string() }),
                Ok(Event::Terminal(_)) => {}
                // Dropped, it is killed, and its end is then the container's.
                Err(e) if created => {
                    say("error", e);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn warn_of(&mut self, index: usize, text: String) {
        self.warn(format!("container {}: {text}", self.record.containers[index].name));
    }
}

/// The next report of a process that is being made.
pub(super) async fn event(process: &mut Starting) -> Result<Event, Error> {
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
