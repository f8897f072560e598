//! `husk attach`: a container's output from now on, its standard input, its exit code.
//!
//! Output comes from the container's log, which is written whether somebody looks or not: a client that is slow, stopped or dead holds nobody up. Input goes
//! into the container's stdin or terminal itself, whose fd the supervisor hands out. So neither ends with a supervisor; only who tells of the
//! container's end does, and its successor is asked again.

use std::fs::File;
use std::io::{IsTerminal, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use clap::Args;
use husk_oci::errno::{Sys, io_text};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::keys::{self, Keys, Watcher};
use super::log_reader::{Entry, LogReader};
use super::relay;
use super::terminal::{self, RawMode};
use super::watch::Watch;
use super::{Context, Error};
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::state::record::{ContainerKind, ContainerRecord, State};
use crate::state::{Listed, PodEntry};

/// See what a container prints from now on, and type into it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk attach -it demo -c shell\n\n\
    Ends with the container, or with ctrl-p ctrl-q on a terminal, and then the container goes on.\n\
    Exit code: the container's, 128 + the signal that ended it; 0 when detached; 125 when husk failed")]
pub struct Attach {
    /// The pod, as NAME or pod/NAME
    pod: String,
    /// The container; without it, the first one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on; the container must have stdin
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The container must have a terminal (it is used in any case)
    #[arg(short, long)]
    tty: bool,
    /// Keys that detach: characters or ctrl-x, with commas between; none when empty [default: ctrl-p,ctrl-q, on a terminal only]
    #[arg(long, value_name = "KEYS", value_parser = Keys::parse)]
    detach_keys: Option<Keys>,
}

/// What a failure of our own ends with.
const OURS: u8 = 125;

impl Attach {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let attached = context.find(&self.pod).and_then(|entry| {
            let session = Session {
                container: self.container,
                stdin: self.stdin,
                tty: self.tty,
                keys: self.detach_keys,
                from: From::Now,
            };
            session.run(context, &entry)
        });
        finish(attached)
    }
}

/// Turns how a session ended into an exit code, as `husk attach` has it.
///
/// # Errors
/// Unless that is 0.
pub fn finish(ended: Result<Ended, Error>) -> Result<(), Error> {
    let code = match ended {
        Ok(Ended::Detached) => 0,
        Ok(Ended::Exited(code)) => u8::try_from(code).unwrap_or(OURS),
        Ok(Ended::Signal(number)) => 128u8.saturating_add(u8::try_from(number).unwrap_or(127)),
        Err(error @ (Error::Usage { .. } | Error::ClosedOutput)) => return Err(error),
        Err(error) => {
            error.messages().iter().for_each(super::out::say);
            OURS
        }
    };
    if code == 0 { Ok(()) } else { Err(Error::Exit { code }) }
}

/// Where the output begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// What is written from now on. The container runs.
    Now,
    /// All that the instance has written; one that has ended already will do.
    Start,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The container has ended with this exit code (128 + signal included).
    Exited(i32),
    /// By the keys.
    Detached,
    /// By a signal that asked us to end.
    Signal(i32),
}

/// One attachment to a container.
#[derive(Debug)]
pub struct Session {
    /// Its name; `None` = the first app container.
    pub container: Option<String>,
    /// Pass standard input on.
    pub stdin: bool,
    /// Refuse a container without a terminal.
    pub tty: bool,
    /// `None`: the usual ones, if standard input is a terminal.
    pub keys: Option<Keys>,
    /// Where output begins.
    pub from: From,
}

impl Session {
    /// Relays until the container ends, the user detaches, or a signal comes. The user's terminal is as before afterwards.
    ///
    /// # Errors
    /// There is no such container, it does not run, or has no stdin or terminal; or our own standard streams broke.
    pub fn run(self, context: &Context, entry: &PodEntry) -> Result<Ended, Error> {
        let pod = entry.record.name();
        let failed = |what: String| Error::failed(format!("pod {pod}: attach: {what}"));
        let index = position(entry, self.container.as_deref()).map_err(failed)?;
        let record = &entry.record.containers[index];
        if self.tty && !record.tty {
            return Err(failed(format!("container {} has no terminal: tty is not set in its spec", record.name)));
        }
        if !entry.live && self.from == From::Now {
            return Err(failed("it does not run any more".into()));
        }
        // Watched before it is read, and read to its end before the supervisor is asked, so that nothing falls in between.
        let watch = Watch::new()?;
        let mut reader = None;
        if let (State::Running { id, .. }, From::Now) = (&entry.status.containers[index].state, self.from) {
            let mut log = LogReader::of_file(log_file(entry, record, entry.status.containers[index].attempt))?;
            log.skip_to_tail(0, |_| true)?;
            reader = Some((id.clone(), log));
        }
        let user = self.stdin && std::io::stdin().is_terminal();
        // From here on signals are read, not delivered: before raw mode, so that none falls in between.
        let signals = if record.tty { Some(relay::signals()?) } else { None };
        let request = Request::Attach {
            container: Some(record.client.as_ref().map_or_else(|| record.name.clone(), |client| client.id.clone())),
            instance: None,
            stdin: self.stdin,
            ended: self.from == From::Start,
        };
        let dir = context.roots.pod_dir(&entry.id);
        let lives = || context.roots.is_live(&entry.id);
        let (client, response, fds) = match Client::ask(&dir, &request, &[], lives) {
            Ok(asked) => asked,
            // Its supervisor has gone with it.
            Err(_) if self.from == From::Start && !lives() => return past(context, &entry.id, record),
            Err(_) if !lives() => return Err(failed("it does not run any more".into())),
            Err(e) => return Err(failed(format!("speak with its supervisor: {}", io_text(&e)))),
        };
        let (id, attempt, once) = match response {
            Response::Attached { id, attempt, once, .. } => (id, attempt, once),
            Response::Error { message, .. } => return Err(failed(message)),
            other => return Err(failed(format!("its supervisor answered {other:?}, which does not belong here"))),
        };
        let path = log_file(entry, record, attempt);
        if let Some(directory) = path.parent() {
            watch.directory(directory)?;
        }
        let log = match reader.filter(|(of, _)| *of == id) {
            Some((_, log)) => log,
            // Another instance than a moment ago: all of its output is new.
            None => LogReader::of_file(path)?,
        };
        let fd = fds.into_iter().next();
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| failed(format!("copy an fd: {}", io_text(&e))));
        let terminal = if record.tty { fd.as_ref().map(copy).transpose()? } else { None };
        let raw = if user && terminal.is_some() { Some(RawMode::enter()?) } else { None };
        let typed = match fd {
            Some(to) if self.stdin => {
                let keys = match self.keys {
                    None if user => Keys::parse(keys::DEFAULT).map_err(failed)?,
                    other => other.unwrap_or(Keys::parse("").map_err(failed)?),
                };
                // A terminal cannot be closed for one of its users: ^D is what end of file on a pipe is.
                let last = (record.tty && once).then_some(0x04);
                Some(pass_input(File::from(to), Watcher::new(keys), last).map_err(|e| failed(io_text(&e)))?)
            }
            _ => None,
        };
        let mut relay = Relay { context, entry, record, id, client, watch, log, signals, typed, terminal, raw };
        relay.redraw()?;
        let ended = relay.run();
        drop(relay.raw.take());
        if ended == Ok(Ended::Detached) {
            let closed = if once { ", with its standard input closed" } else { "" };
            super::out::say(format_args!("detached; container {} of pod {pod} goes on{closed}", record.name));
        }
        ended.map_err(|error| match error {
            Error::Failed { message } => failed(message),
            other => other,
        })
    }
}

/// The named container, or the first app container.
fn position(entry: &PodEntry, name: Option<&str>) -> Result<usize, String> {
    let containers = &entry.record.containers;
    let found = match name {
        Some(name) => containers.iter().position(|c| c.name == name),
        None => containers.iter().position(|c| c.kind == ContainerKind::App),
    };
    let names = || containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("there is no container {:?}; it has {}", name.unwrap_or(""), names()))
}

/// Where an instance's output goes.
fn log_file(entry: &PodEntry, container: &ContainerRecord, attempt: u32) -> PathBuf {
    match container.client.as_ref().map(|client| PathBuf::from(&client.log_path)) {
        Some(path) if path.is_absolute() => path,
        _ => PathBuf::from(&entry.record.log_dir).join(&container.name).join(format!("{attempt}.log")),
    }
}

/// A container whose pod is over: what it has printed, and how it ended.
fn past(context: &Context, pod_id: &str, record: &ContainerRecord) -> Result<Ended, Error> {
    let gone = || Error::failed(format!("container {} has not run, or is gone", record.name));
    let Some(Listed::Pod(entry)) = context.roots.look(pod_id)? else { return Err(gone()) };
    let c = entry.status.containers.iter().find(|c| c.name == record.name).ok_or_else(gone)?;
    let exit = match &c.state {
        State::Terminated(exit) => exit,
        _ => c.last.as_ref().ok_or_else(gone)?,
    };
    let mut log = LogReader::of_file(log_file(&entry, record, exit.attempt))?;
    pass_on(&mut log, true)?;
    Ok(Ended::Exited(exit.exit_code))
}

/// Passes on what is there in the log; with `last` also what is left of an entry whose writer was killed in the middle of it.
fn pass_on(log: &mut LogReader, last: bool) -> Result<(), Error> {
    let mut output = Output::default();
    let mut read = log.read(|entry| output.take(&entry));
    if last && read.is_ok() {
        read = log.finish(|entry| output.take(&entry));
    }
    // What came before it failed, too.
    output.write().and(read)
}

/// As much of a container's output as is collected before it is written where the container wrote it.
const PIECE: usize = 64 * 1024;

/// Output of one of a container's streams.
#[derive(Default)]
struct Output {
    stderr: bool,
    collected: Vec<u8>,
}

impl Output {
    fn take(&mut self, entry: &Entry<'_>) -> Result<(), Error> {
        // The order of the two is kept.
        if entry.stderr != self.stderr || self.collected.len() >= PIECE {
            self.write()?;
            self.stderr = entry.stderr;
        }
        self.collected.extend_from_slice(entry.text);
        if entry.full {
            self.collected.push(b'\n');
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        let collected = std::mem::take(&mut self.collected);
        let written = match self.stderr {
            true => std::io::stderr().lock().write_all(&collected),
            false => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&collected).and_then(|()| stdout.flush())
            }
        };
        written.map_err(|e| match e.kind() {
            std::io::ErrorKind::BrokenPipe => Error::ClosedOutput,
            _ => Error::failed(format!("write the container's output: {}", io_text(&e))),
        })
    }
}

/// Copies standard input until its end or until the keys come, then writes `last` and closes. What is returned becomes readable when the keys have come.
/// Reading standard input may last for ever, and so may writing to a container that does not read: a thread does both, and ends with the process.
fn pass_input(mut to: File, mut watcher: Watcher, last: Option<u8>) -> std::io::Result<PipeReader> {
    let (reader, mut writer) = std::io::pipe()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        let mut stdin = std::io::stdin().lock();
        loop {
            let length = match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    super::out::say(format!("read standard input: {}; the container gets no more of it", io_text(&e)));
                    break;
                }
            };
            let (pass, detached) = watcher.pass(&buffer[..length]);
            // A container that closed its input, or has ended, wants no more: not our user's failure.
            let wanted = write_all(&mut to, &pass).is_ok();
            if detached {
                // The other end is read until this process ends.
                let _ = writer.write_all(b"d");
            }
            if detached || !wanted {
                // Whoever listens for the keys must not take this for them.
                std::mem::forget(writer);
                return;
            }
        }
        let rest: Vec<u8> = watcher.rest().into_iter().chain(last).collect();
        // As above.
        let _ = write_all(&mut to, &rest);
        std::mem::forget(writer);
    });
    Ok(reader)
}

/// The terminal's master does not block, as the supervisor reads from it.
fn write_all(to: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut ready, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A session that is under way.
struct Relay<'a> {
    context: &'a Context,
    entry: &'a PodEntry,
    record: &'a ContainerRecord,
    /// The instance.
    id: String,
    client: Client,
    watch: Watch,
    log: LogReader,
    signals: Option<SignalFd>,
    /// Tells of the keys.
    typed: Option<PipeReader>,
    terminal: Option<OwnedFd>,
    raw: Option<RawMode>,
}

impl Relay<'_> {
    fn run(&mut self) -> Result<Ended, Error> {
        let mut exited = None;
        loop {
            pass_on(&mut self.log, exited.is_some())?;
            if self.log.fell_behind() {
                super::out::say("output came faster than it was read here; some of it may be missing");
            }
            if let Some(code) = exited {
                return Ok(Ended::Exited(code));
            }
            let stdout = std::io::stdout();
            let mut fds = vec![
                PollFd::new(self.client.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.watch.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            let typed = self.typed.as_ref().map(|typed| {
                fds.push(PollFd::new(typed.as_fd(), PollFlags::POLLIN));
                fds.len() - 1
            });
            if let Some(signals) = &self.signals {
                fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::failed(format!("wait for the container: {}", Sys(e)))),
            }
            let fired: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|flags| !flags.is_empty())).collect();
            drop(fds);
            if fired[2] {
                return Err(Error::ClosedOutput);
            }
            if fired[1] {
                self.watch.clear();
            }
            if typed.is_some_and(|at| fired[at]) {
                return Ok(Ended::Detached);
            }
            if let Some(signals) = &self.signals
                && let Some(number) = relay::handle_signals(signals, self.terminal.as_ref(), self.raw.as_ref())?
            {
                return Ok(Ended::Signal(number));
            }
            if fired[0] {
                exited = self.listen()?;
            }
        }
    }

    /// What the supervisor has to say: the exit code, once there is one.
    fn listen(&mut self) -> Result<Option<i32>, Error> {
        match self.client.receive() {
            Ok((Response::Exited { exit_code, .. }, _)) => Ok(Some(exit_code)),
            // Said again by the successor of a supervisor that died; an fd that came with it closes here.
            Ok((Response::Attached { .. }, _)) => Ok(None),
            Ok((Response::Error { message, .. }, _)) => Err(Error::failed(message)),
            Ok((other, _)) => {
                Err(Error::failed(format!("its supervisor answered {other:?}, which does not belong here")))
            }
            Err(_) => self.ask_again(),
        }
    }

    /// The supervisor died: its successor is asked for the end. When none comes the records tell.
    fn ask_again(&mut self) -> Result<Option<i32>, Error> {
        let roots = &self.context.roots;
        let request = Request::Attach {
            container: Some(self.record.name.clone()),
            instance: Some(self.id.clone()),
            stdin: false,
            ended: true,
        };
        match Client::reach(&roots.pod_dir(&self.entry.id), &request, || roots.is_live(&self.entry.id)) {
            Ok(client) => {
                self.client = client;
                return Ok(None);
            }
            Err(e) if roots.is_live(&self.entry.id) => {
                return Err(Error::failed(format!("lost the pod's supervisor: {}", io_text(&e))));
            }
            Err(_) => {}
        }
        let listed = roots.look(&self.entry.id)?;
        let containers = match &listed {
            Some(Listed::Pod(entry)) => entry.status.containers.as_slice(),
            _ => &[],
        };
        let exits = containers.iter().flat_map(|c| match &c.state {
            State::Terminated(exit) => [Some(exit), c.last.as_ref()],
            _ => [c.last.as_ref(), None],
        });
        match exits.flatten().find(|exit| exit.id == self.id) {
            Some(exit) => Ok(Some(exit.exit_code)),
            None => {
                // What it has printed is all that is left.
                pass_on(&mut self.log, true)?;
                Err(Error::failed("it has come to its end; how the container ended is not known"))
            }
        }
    }

    /// Gives the container's terminal the size of ours, by way of another one: a program that has drawn its screen before we came draws it again.
    fn redraw(&self) -> Result<(), Error> {
        let (Some(terminal), Some((rows, columns))) = (&self.terminal, terminal::size()) else { return Ok(()) };
        for rows in [rows.saturating_add(1), rows] {
            husk_oci::sys::term::set_size(terminal.as_fd(), rows, columns)
                .map_err(|e| Error::failed(format!("set the size of the container's terminal: {}", Sys(e))))?;
        }
        Ok(())
    }
}
