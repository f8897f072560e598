//! Probes of a pod that runs: one worker for each ([`crate::probe::Worker`] decides when), one task for each that is being made, and none while all wait.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use husk_oci::sys::fd;
use husk_oci::sys::netns::OwnNetns;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::exec::Wanted;
use super::pod::{Client, Pod, now, say};
use super::tidy;
use super::watch::watch;
use crate::control::Response;
use crate::control::client::PACKET_LIMIT;
use crate::pod;
use crate::probe::{self, Handler, Kind, OUTPUT_LIMIT, Outcome, Place, Probe, Seen, Worker};
use crate::runtime::Error;
use crate::state::events::EventType;
use crate::state::record::{PodRecord, State, StopWhy};

/// How long a sleep must be for memory that probes have used to be given back before it: the next ones take it again, page by page.
const TRIM_NS: u64 = 200_000_000;

/// How many probes are begun before the loop looks at what has happened, a millisecond later at most: those of many containers are due at the same moment, and the
/// memory of the first is there again for the last.
const BATCH: usize = 8;

/// What a probe has come to.
struct Probed {
    worker: usize,
    attempt: u32,
    outcome: Outcome,
}

/// One worker and what it has in hand.
struct Post {
    index: usize,
    worker: Worker,
    task: Option<JoinHandle<()>>,
    /// How often a command could not be run in a row.
    tries: u32,
}

/// All probes of a pod.
pub(super) struct Probing {
    posts: Vec<Post>,
    results: mpsc::UnboundedReceiver<Probed>,
    sender: mpsc::UnboundedSender<Probed>,
    /// Memory was used since it was last given back.
    untidy: bool,
}

impl Probing {
    pub(super) fn new(record: &PodRecord) -> Probing {
        let (sender, results) = mpsc::unbounded_channel();
        let mut posts = Vec::new();
        for (index, c) in record.containers.iter().enumerate() {
            for kind in Kind::ALL {
                if let Some(probe) = c.probes.get(kind) {
                    posts.push(Post { index, worker: Worker::new(kind, probe), task: None, tries: 0 });
                }
            }
        }
        Probing { posts, results, sender, untidy: false }
    }

    /// When the next probe is to be made: CLOCK_BOOTTIME nanoseconds.
    pub(super) fn next(&self) -> Option<u64> {
        self.posts.iter().filter_map(|post| post.worker.due()).min()
    }

    /// Gives back what probes have used, before a sleep until `due_boot_ns` (`None`: no end of it is known).
    pub(super) fn trim(&mut self, due_boot_ns: Option<u64>) {
        if !self.untidy || self.posts.iter().any(|post| post.task.is_some()) {
            return;
        }
        if due_boot_ns.is_none_or(|due| due.saturating_sub(now().boot_ns) >= TRIM_NS) {
            self.untidy = false;
            tidy::before_sleep();
        }
    }

    /// Waits for a probe to end.
    pub(super) async fn ended(&mut self) -> Ended {
        match self.results.recv().await {
            Some(probed) => Ended(probed),
            // We hold a sender.
            None => std::future::pending().await,
        }
    }

    /// Another that has ended already.
    pub(super) fn also_ended(&mut self) -> Option<Ended> {
        self.results.try_recv().ok().map(Ended)
    }
}

/// A probe that has ended, for [`Pod::probed`].
pub(super) struct Ended(Probed);

impl Pod {
    /// Lets the workers see how their containers are, and makes the probes that are due.
    pub(super) async fn probe(&mut self) {
        if self.probing.posts.is_empty() {
            return;
        }
        let time = now();
        for post in &mut self.probing.posts {
            let c = &self.status.containers[post.index];
            let running = match &c.state {
                State::Running { started_at, .. } if self.live[post.index].is_some() => {
                    let since = time.wall.duration_since(*started_at).as_nanos().max(0);
                    Some((c.attempt, time.boot_ns.saturating_sub(u64::try_from(since).unwrap_or(u64::MAX))))
                }
                _ => None,
            };
            let stopping = pod::is_ending(&self.status)
                || self.status.restarting_all.is_some()
                || c.stop.is_some()
                || matches!(c.state, State::Running { stopping: true, .. });
            let started = match post.worker.kind() {
                // Not before its postStart hook is over.
                Kind::Startup => c.started != Some(false) || !pod::hooked(&self.record, post.index, c),
                _ => pod::started(&self.record, post.index, c),
            };
            let seen = Seen { running, started, ready: c.ready == Some(true), stopping };
            if post.worker.look(seen, time.boot_ns)
                && let Some(task) = post.task.take()
            {
                task.abort();
            }
        }
        let mut begun = 0;
        for number in 0..self.probing.posts.len() {
            let post = &mut self.probing.posts[number];
            if begun < BATCH
                && post.worker.due().is_some_and(|due| due <= time.boot_ns)
                && let Some(attempt) = post.worker.begin()
            {
                post.tries = 1;
                begun += 1;
                self.begin_probe(number, attempt).await;
            }
        }
    }

    async fn begin_probe(&mut self, number: usize, attempt: u32) {
        let post = &self.probing.posts[number];
        let (index, kind) = (post.index, post.worker.kind());
        let Some(probe) = self.record.containers[index].probes.get(kind).cloned() else { return };
        let sender = self.probing.sender.clone();
        let task = match &probe.handler {
            Handler::Exec { command } => {
                let command = command.clone();
                let told = match self.begin_command(index, command, &probe).await {
                    Ok(told) => told,
                    Err(why) => {
                        let _ = sender.send(Probed { worker: number, attempt, outcome: Outcome::Error(why) });
                        return;
                    }
                };
                tokio::task::spawn_local(async move {
                    let outcome = told.outcome(&probe).await;
                    let _ = sender.send(Probed { worker: number, attempt, outcome });
                })
            }
            _ => {
                let from = match self.probed_from() {
                    Ok(from) => from,
                    Err(e) => {
                        let _ = sender.send(Probed { worker: number, attempt, outcome: Outcome::Error(e.to_string()) });
                        return;
                    }
                };
                // What is made for a probe goes with it.
                tokio::task::spawn_local(Box::pin(async move {
                    let outcome = probe::ask(&from.place(), &probe).await;
                    let _ = sender.send(Probed { worker: number, attempt, outcome });
                }))
            }
        };
        self.probing.posts[number].task = Some(task);
    }

    /// From where probes and hooks ask.
    ///
    /// # Errors
    /// There is no sandbox, or no fd.
    pub(super) fn probed_from(&mut self) -> Result<Origin, Error> {
        if self.record.sandbox.host_network {
            return Ok(Origin { netns: None, address: self.address() });
        }
        let pause = self.pause.clone().ok_or_else(|| Error::Host { what: "the sandbox is gone".into() })?;
        let own = match &self.own_netns {
            Some(own) => own.clone(),
            None => {
                let own = OwnNetns::open().map_err(|e| Error::sys("open our own network namespace", e))?;
                self.own_netns.insert(Rc::new(own)).clone()
            }
        };
        Ok(Origin { netns: Some((pause, own)), address: self.address() })
    }

    /// The address that a probe without a host means: the pod's first; on the host's network, and without a network, the loopback's.
    fn address(&self) -> Option<IpAddr> {
        let network = self.status.sandbox.as_ref().and_then(|s| s.network.as_ref());
        network.and_then(|n| n.ips.first().copied()).filter(|_| !self.record.sandbox.host_network)
    }

    /// Runs a probe's command as a client's exec is run, with ourselves as the client.
    async fn begin_command(&mut self, index: usize, argv: Vec<String>, probe: &Probe) -> Result<Command, String> {
        let text = |doing: &str, e: nix::errno::Errno| format!("{doing}: {}", husk_oci::errno::Sys(e));
        let (read, write) = fd::pipe(false).map_err(|e| text("make a pipe", e))?;
        fd::set_nonblocking(read.as_fd(), true).map_err(|e| text("set up a pipe", e))?;
        let (ours, theirs) = fd::seqpacket_pair().map_err(|e| text("make a socket pair", e))?;
        for end in [&ours, &theirs] {
            fd::set_nonblocking(end.as_fd(), true).map_err(|e| text("set up a socket pair", e))?;
        }
        let io = |e: std::io::Error| husk_oci::errno::io_text(&e);
        let null = std::fs::File::open("/dev/null").map_err(|e| format!("open /dev/null: {}", io(e)))?;
        let both = write.try_clone().map_err(io)?;
        let (reply, answers) = mpsc::unbounded_channel();
        let wanted = Wanted {
            container: Some(self.record.containers[index].name.clone()),
            argv,
            tty: false,
            size: None,
            fds: vec![null.into(), write, both],
            deadline_ms: 0,
            whole: true,
        };
        let limit = Duration::from_secs(probe.timeout_seconds.into());
        self.exec(wanted, Some(limit), Client { reply, connection: theirs }).await;
        Ok(Command { ours, read, answers })
    }

    /// A probe has ended. True when something follows from it.
    pub(super) async fn probed(&mut self, ended: Ended) -> bool {
        let Ended(Probed { worker: number, attempt, outcome }) = ended;
        self.probing.untidy = true;
        let post = &mut self.probing.posts[number];
        post.task = None;
        let (index, kind) = (post.index, post.worker.kind());
        if matches!(outcome, Outcome::Error(_)) && post.tries < probe::TRIES {
            let current = &self.status.containers[index];
            if current.attempt == attempt && matches!(current.state, State::Running { .. }) {
                post.tries += 1;
                self.begin_probe(number, attempt).await;
                return false;
            }
        }
        let time = now();
        let result = post.worker.end(attempt, outcome.passed(), time.boot_ns);
        let current = &self.status.containers[index];
        if current.attempt != attempt || !matches!(current.state, State::Running { .. }) {
            return false;
        }
        match &outcome {
            Outcome::Success => {}
            Outcome::Warning(what) => {
                self.container_event(
                    EventType::Warning,
                    "ProbeWarning",
                    index,
                    &format!("{kind} probe warning: {what}"),
                );
            }
            Outcome::Failure(what) => {
                self.container_event(EventType::Warning, "Unhealthy", index, &format!("{kind} probe failed: {what}"));
            }
            Outcome::Error(what) => {
                let text = format!("{kind} probe errored and resulted in unknown state: {what}");
                self.container_event(EventType::Warning, "Unhealthy", index, &text);
            }
        }
        let told = !matches!(outcome, Outcome::Success);
        match result {
            Some(result) => self.take_in(index, kind, result) || told,
            None => told,
        }
    }

    /// A result has reached its threshold.
    fn take_in(&mut self, index: usize, kind: Kind, result: bool) -> bool {
        let why = match (kind, result) {
            (Kind::Readiness, _) => {
                let news = self.status.containers[index].ready != Some(result);
                self.status.containers[index].ready = Some(result);
                self.unsaved |= news;
                return news;
            }
            (Kind::Startup, true) => {
                self.status.containers[index].started = Some(true);
                self.unsaved = true;
                return true;
            }
            (Kind::Liveness, true) => return false,
            (Kind::Startup, false) => StopWhy::Startup,
            (Kind::Liveness, false) => StopWhy::Liveness,
        };
        let own = self.record.containers[index].probes.get(kind).and_then(|p| p.grace_seconds);
        let grace_seconds = own.unwrap_or_else(|| pod::grace_seconds(&self.record));
        if pod::request_stop(&mut self.status, index, why, grace_seconds, now()) {
            let name = &self.record.containers[index].name;
            let again = pod::restarts_on_failure(&self.record, index);
            let what = kind.to_string().to_lowercase();
            let end = if again { ", will be restarted" } else { "" };
            let text = format!("Container {name} failed {what} probe{end}");
            self.container_event(EventType::Normal, "Killing", index, &text);
            self.unsaved = true;
        }
        true
    }
}

/// From where a probe or a hook asks, held while it does.
pub(super) struct Origin {
    /// Of pause, and ours; `None`: ours is the pod's.
    netns: Option<(Rc<OwnedFd>, Rc<OwnNetns>)>,
    address: Option<IpAddr>,
}

impl Origin {
    pub(super) fn place(&self) -> Place<'_> {
        Place::new(self.netns.as_ref().map(|(pause, own)| (pause.as_fd(), &**own)), self.address)
    }
}

/// A command that was begun, seen from its client.
struct Command {
    ours: OwnedFd,
    read: OwnedFd,
    answers: mpsc::UnboundedReceiver<(Response, Option<OwnedFd>)>,
}

impl Command {
    /// Its outcome; its end is certain, since it is killed when its time is over.
    async fn outcome(mut self, probe: &Probe) -> Outcome {
        match self.run(probe).await {
            Ok(outcome) => outcome,
            Err(e) => Outcome::Error(husk_oci::errno::io_text(&e)),
        }
    }

    async fn run(&mut self, probe: &Probe) -> std::io::Result<Outcome> {
        // Refused before anything ran: said here; what ran is told over the connection.
        if let Ok((Response::Error { message, .. }, _)) = self.answers.try_recv() {
            return Ok(Outcome::Error(message));
        }
        let output = watch(self.read.try_clone()?)?;
        let told = watch(self.ours.try_clone()?)?;
        let mut kept = VecDeque::new();
        let mut open = true;
        let end = loop {
            tokio::select! {
                ready = output.readable(), if open => {
                    let mut ready = ready?;
                    match take(&output, &mut kept) {
                        Some(more) => open = more,
                        None => ready.clear_ready(),
                    }
                }
                ready = told.readable() => {
                    let mut ready = ready?;
                    let mut packet = [0; 1024];
                    match fd::recv(told.get_ref().as_fd(), &mut packet, true) {
                        Ok(got) => {
                            debug_assert!(got.len <= PACKET_LIMIT);
                            match serde_json::from_slice(&packet[..got.len]) {
                                Ok(Response::Exited { exit_code, timed_out, .. }) => break (exit_code, timed_out),
                                Ok(Response::Error { message, .. }) => return Ok(Outcome::Error(message)),
                                Ok(_) => {}
                                Err(e) => return Ok(Outcome::Error(format!("the end of its command: {e}"))),
                            }
                        }
                        Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                        Err(e) => return Err(e.into()),
                    }
                }
            }
        };
        // What it has printed last; others may hold the pipe open.
        while open && let Some(more) = take(&output, &mut kept) {
            open = more;
        }
        let text = probe::text(kept.into());
        Ok(match end {
            (_, true) => {
                let about = if text.is_empty() { String::new() } else { format!(": {text}") };
                Outcome::Failure(format!("command timed out after {} s{about}", probe.timeout_seconds))
            }
            (0, false) => Outcome::Success,
            (code, false) if text.is_empty() => Outcome::Failure(format!("command exited with code {code}")),
            (_, false) => Outcome::Failure(text),
        })
    }
}

/// Takes some of a command's output, of which the first part is kept. `None`: nothing is there now; false: nothing will come.
fn take(output: &tokio::io::unix::AsyncFd<OwnedFd>, kept: &mut VecDeque<u8>) -> Option<bool> {
    let mut piece = [0; 4096];
    match fd::read(output.get_ref().as_fd(), &mut piece) {
        Ok(0) => Some(false),
        Ok(n) => {
            kept.extend(piece[..n].iter().take(OUTPUT_LIMIT.saturating_sub(kept.len())));
            Some(true)
        }
        Err(nix::errno::Errno::EAGAIN) => None,
        Err(e) => {
            say("warn", format_args!("read the output of a probe: {}, continuing without", husk_oci::errno::Sys(e)));
            Some(false)
        }
    }
}
