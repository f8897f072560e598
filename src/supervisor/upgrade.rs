//! How one supervisor makes room for another, and what one does that cannot read the records.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::sync::mpsc;

use super::keeper::{Error as KeeperError, Keeper};
use super::pod::{Pod, keeper_error, say};
use super::server::{Command, serve};
use super::{journal, slots};
use crate::control::{Formats, Refusal, Request, Response};
use crate::runtime::Error;
use crate::state::pods::PodDir;
use crate::state::{self, record};

/// How often a caretaker looks whether the records can be read by now.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How many turns of the scheduler an answer gets to be sent.
const LAST_TURNS: u32 = 16;

/// What this husk leaves to its successor, and can go on from.
pub fn formats() -> Formats {
    Formats {
        records: vec![record::VERSION],
        keeper: vec![husk_pause::proto::VERSION],
        slots: vec![slots::VERSION],
        journal: vec![journal::VERSION],
    }
}

/// What of ours a successor does not understand, as a sentence.
fn unknown_to(knows: &Formats) -> Option<String> {
    fn missing<T: PartialEq + Copy + std::fmt::Display>(what: &str, ours: &[T], theirs: &[T]) -> Option<String> {
        let version = ours.iter().find(|version| !theirs.contains(version))?;
        Some(format!("the new husk does not know version {version} of {what}; use one that does"))
    }
    let ours = formats();
    missing("the records", &ours.records, &knows.records)
        .or_else(|| missing("keeper's protocol", &ours.keeper, &knows.keeper))
        .or_else(|| missing("keeper's slots", &ours.slots, &knows.slots))
        .or_else(|| missing("the log journal", &ours.journal, &knows.journal))
}

pub(super) fn version() -> Response {
    Response::Version { version: env!("CARGO_PKG_VERSION").into(), pid: husk_oci::sys::process::getpid() }
}

/// Has keeper start the next supervisor from another executable.
fn install(keeper: &mut Keeper, fds: &[OwnedFd]) -> Result<(), String> {
    let [exe] = fds else { return Err(format!("{} fds came with the request, must be one", fds.len())) };
    keeper.put_many(&[(husk_pause::proto::SLOT_EXE, exe.as_fd())]).map_err(|e| e.to_string())
}

impl Pod {
    /// Leaves the pod to a successor, if that knows what it will find. Everything is on disk or with keeper already, as for a death at any
    /// other time.
    pub(super) fn hand_over(&mut self, knows: &Formats, fds: &[OwnedFd]) -> Response {
        let done = match unknown_to(knows) {
            Some(why) => Err(why),
            None if self.status.resize.is_some() => {
                Err("a container of it is just getting other resources; try again".into())
            }
            None if !self.save() => Err("its status cannot be written now; see supervisor.log".into()),
            None => install(&mut self.keeper, fds),
        };
        match done {
            Ok(()) => {
                say("info", "making room for another supervisor");
                // Who asks from here on waits in the socket's queue for it.
                self.stop_listening();
                self.handed_over = true;
                Response::Ok
            }
            Err(why) => Response::refused(Refusal::FailedPrecondition, why),
        }
    }
}

/// Stands in for a supervisor that cannot read its records: touches nothing, so that nothing of the pod is lost, answers who asks, and leaves when the
/// records can be read, or to a husk that can. Containers run on; what they print waits in their pipes.
///
/// # Errors
/// keeper is gone.
pub async fn caretaker(dir: &PodDir, mut keeper: Keeper, why: state::Error) -> Result<(), Error> {
    say("error", format_args!("{why}; nobody looks after the pod until it can be read"));
    let (sender, mut commands) = mpsc::unbounded_channel();
    let listener = keeper.get(slots::CONTROL).map_err(keeper_error)?;
    let serving = listener.map(|listener| {
        let sender = sender.clone();
        tokio::task::spawn_local(async move {
            if let Err(e) = serve(listener, sender).await {
                say("error", format_args!("control socket: {e}"));
            }
        })
    });
    loop {
        tokio::select! {
            Some(command) = commands.recv() => {
                let Command { request, fds, reply, .. } = command;
                let refused = |advice: &str| Response::refused(Refusal::Unknown, format!("{why}{advice}"));
                let mut over = false;
                let answer = match request {
                    Request::Version => version(),
                    Request::Upgrade { .. } => match install(&mut keeper, &fds) {
                        Ok(()) => {
                            over = true;
                            Response::Ok
                        }
                        Err(why) => Response::refused(Refusal::Unknown, why),
                    },
                    Request::Delete { force: true, .. } => {
                        // keeper's death is the pod's; whoever asked collects what is left.
                        for _ in 0..LAST_TURNS {
                            tokio::task::yield_now().await;
                        }
                        return keeper.quit().map_err(keeper_error);
                    }
                    Request::Delete { .. } => refused("; its containers cannot be asked to stop, --force kills them"),
                    Request::Exec { .. } | Request::Attach { .. } => {
                        Response::Error { exit_code: 125, message: why.to_string(), why: Refusal::Unknown }
                    }
                    _ => refused(""),
                };
                if over && let Some(serving) = &serving {
                    serving.abort();
                }
                // Who asked may have gone.
                let _ = reply.send((answer, None));
                drop(reply);
                if over {
                    for _ in 0..LAST_TURNS {
                        tokio::task::yield_now().await;
                    }
                    return Ok(());
                }
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {
                if matches!(dir.read(), Ok(Some(_))) {
                    say("info", "the records can be read again");
                    return Ok(());
                }
                // It has nothing else to say that cannot wait; but its end is ours.
                keeper.next_exited().map_err(keeper_error).map(drop)?;
            }
        }
    }
}

/// keeper is of another husk: nothing can be done for the pod, and trying again and again would only fill the log.
pub fn strange_keeper(e: &KeeperError) -> Error {
    const PAUSE: Duration = Duration::from_secs(60);
    say("error", format_args!("{e}; nobody looks after the pod"));
    std::thread::sleep(PAUSE);
    Error::Host { what: e.to_string() }
}
