//! `husk run` that stays: until its pods have ended (`--wait`), with a container's output (`--attach`), and without leaving them (`--rm`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;

use husk_oci::errno::Sys;
use nix::sys::signal::{SigSet, Signal};

use super::attach::{From, Session};
use super::watch::Watch;
use super::{Context, Error, attach, out};
use crate::runtime::{self, DeleteOptions};
use crate::state::record::{ContainerKind, State};
use crate::state::{Listed, PodEntry, Roots};

/// A failure that no container has an exit code for.
const OURS: u8 = 125;

/// Signals that end a `--rm`, kept from ending this process.
#[derive(Debug)]
pub struct Held(SigSet);

impl Held {
    /// Call before a pod is made: a Ctrl-C in the middle of that waits until it can be deleted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Held, Error> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        set.thread_block().map_err(|e| Error::failed(format!("block signals: {}", Sys(e))))?;
        Ok(Held(set))
    }
}

/// What to do with pods that were just made.
#[derive(Debug)]
pub struct Stay {
    /// See what the first app container prints, from its start.
    pub attach: bool,
    /// Pass standard input on to it.
    pub stdin: bool,
    /// Signals that delete the pods; without them the pods stay.
    pub remove: Option<Held>,
}

impl Stay {
    /// Waits for the end of all pods, deletes them if that was asked for. The exit code is the first failed pod's: that of its first failed
    /// container; 128 + the signal after one; 125 when no container has one.
    ///
    /// # Errors
    /// Unless all succeeded.
    pub fn run(self, context: &Context, ids: &[String]) -> Result<(), Error> {
        let signal = Arc::new(AtomicI32::new(0));
        let removing = self.remove.is_some();
        if let Some(Held(set)) = self.remove {
            let (roots, ids, signal) = (context.roots.clone(), ids.to_vec(), signal.clone());
            // Ends with this process. It may have threads now: nothing is cloned any more.
            std::thread::spawn(move || {
                while let Ok(number) = set.wait() {
                    let force = signal.swap(number as i32, Ordering::Relaxed) != 0;
                    let (roots, ids) = (roots.clone(), ids.clone());
                    std::thread::spawn(move || complain(remove(&roots, &ids, force)));
                }
            });
        }
        let ended = if self.attach { attached(context, &ids[0], self.stdin) } else { Ok(attach::Ended::Exited(0)) };
        if ended == Ok(attach::Ended::Detached) && !removing {
            return Ok(());
        }
        let codes = ended.and_then(|_| ids.iter().map(|id| wait(context, id)).collect::<Result<Vec<u8>, Error>>());
        let removed = if removing { remove(&context.roots, ids, false) } else { Vec::new() };
        let failed = !removed.is_empty();
        complain(removed);
        let code = match (codes?.into_iter().find(|code| *code != 0), signal.load(Ordering::Relaxed)) {
            (_, number @ 1..) => 128u8.saturating_add(u8::try_from(number).unwrap_or(127)),
            (Some(code), _) => code,
            (None, _) if failed => 1,
            (None, _) => return Ok(()),
        };
        Err(Error::Exit { code })
    }
}

fn complain(sentences: Vec<String>) {
    sentences.iter().for_each(out::say);
}

/// Relays the first app container, from its first byte. What the session ends with is the pod's affair.
fn attached(context: &Context, id: &str, stdin: bool) -> Result<attach::Ended, Error> {
    let Some(Listed::Pod(entry)) = context.roots.look(id)? else { return Ok(attach::Ended::Exited(0)) };
    let session = Session { container: None, stdin, tty: false, keys: None, from: From::Start };
    match session.run(context, &entry)? {
        // Its pod ends in its own time, and its exit code is in the record.
        ended @ (attach::Ended::Exited(_) | attach::Ended::Detached) => Ok(ended),
        attach::Ended::Signal(number) => {
            Err(Error::Exit { code: 128u8.saturating_add(u8::try_from(number).unwrap_or(127)) })
        }
    }
}

/// Waits for the end of one pod: its exit code.
fn wait(context: &Context, id: &str) -> Result<u8, Error> {
    let mut watch = Watch::new()?;
    let directory = context.roots.pod_dir(id);
    let live = context.roots.is_live(id);
    watch.pod(&directory, live)?;
    loop {
        match context.roots.look(id)? {
            Some(Listed::Pod(entry)) if entry.status.finished_at.is_some() => return Ok(code(&entry)),
            Some(Listed::Pod(entry)) if !entry.live => {
                out::say(format!("pod {}: it was killed together with its keeper", entry.record.name()));
                return Ok(OURS);
            }
            Some(Listed::Unreadable(it)) => return Err(it.error.into()),
            // Deleted; by us, when it was a signal.
            None | Some(Listed::Unfinished { .. }) => return Ok(OURS),
            Some(Listed::Pod(_)) => {}
        }
        watch.wait(None::<Instant>)?;
    }
}

/// What a pod that has ended is worth, as an exit code.
fn code(entry: &PodEntry) -> u8 {
    let status = super::v1(entry).status.unwrap_or_default();
    if status.phase.as_deref() == Some("Succeeded") {
        return 0;
    }
    // Sidecars are killed at the end, which is no failure of the pod's.
    let failed = |app: bool| {
        let mine = entry.status.containers.iter().filter(move |c| (c.kind == ContainerKind::App) == app);
        mine.filter_map(|c| match &c.state {
            State::Terminated(exit) if exit.exit_code != 0 => Some(exit.exit_code),
            _ => None,
        })
        .next()
    };
    failed(true).or_else(|| failed(false)).and_then(|code| u8::try_from(code).ok()).unwrap_or(OURS)
}

/// Deletes pods; a sentence for each that could not be.
fn remove(roots: &Roots, ids: &[String], force: bool) -> Vec<String> {
    let options = DeleteOptions { grace_seconds: None, force, wait: true };
    let one = |id: &String| match roots.look(id) {
        Ok(Some(listed)) => runtime::delete(roots, &listed, options).err().map(|e| e.to_string()),
        Ok(None) => None,
        Err(e) => Some(e.to_string()),
    };
    ids.iter().filter_map(one).collect()
}
