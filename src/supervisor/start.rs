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
use super::watch::watch;
use crate::cgroup::CgroupDriver;
use crate::pod;
use crate::runtime::{Error, container};
use crate::state::record::Exit;
use crate::state::start_ticks;

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
        };
        self.unsaved |= pod::apply_exit(&self.record, &mut self.status, index, exit);
    }

    /// Creates and starts one instance: process made, fds with keeper, record on disk, then released.
    pub(super) async fn start(&mut self, index: usize, attempt: u32) -> Result<(), Error> {
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
        let instance = self.instance(index, attempt, &created.id, false);
        let cgroup = instance.cgroup.clone();
        let done = self.start_created(index, attempt, created).await;
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
        let container::Created { id, mut process, output, start } = created;
        let number = self.status.containers[index].slot;
        let slot = |part| slots::of(number, attempt, part);
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
        let ticks = start_ticks(pid)?.ok_or_else(|| Error::Host { what: "its process vanished".into() })?;
        let pidfd = process.pidfd().try_clone_to_owned().map_err(|e| Error::io("duplicate a pidfd", &e))?;
        let pumps = self.pumps(index, attempt, pipes, false)?;
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
