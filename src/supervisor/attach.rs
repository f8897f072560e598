//! Clients that attach to a container.
//!
//! What a container prints they read in its log. What they type does not come this way either: a client is given the write end of the container's
//! stdin, or the terminal's master, and is from then on nobody's business here. So a client that does not read, or that dies, or that outlives this
//! process, harms nobody, and a stdin that is for one client ends when the kernel closes that client's fd.
//!
//! Such a stdin is handed over in three steps, each of which a successor can take again:
//!
//! | # | step                                           | found by a successor        | what it does                            |
//! |---|------------------------------------------------|-----------------------------|-----------------------------------------|
//! | 1 | keeper gets the client's connection            | connection and stdin        | 2 and 3                                 |
//! | 2 | the client gets the fd                         | connection and stdin        | 2 again: the client drops it, or is dead and the kernel does |
//! | 3 | keeper drops stdin, then the connection        | connection alone            | drops it                                |

use std::os::fd::{AsFd, OwnedFd};

use super::exec;
use super::keeper::Error as KeeperError;
use super::pod::{Client, Pod, say};
use super::server::send_now;
use super::slots::{self, Part};
use crate::control::{Refusal, Response};
use crate::state::record::{Container, Exit, State, Status};

/// What `husk attach` exits with when husk itself failed.
const OURS: i32 = 125;

/// What a client asks for.
#[derive(Debug)]
pub struct Wanted {
    /// Container id or name; `None` = the first app container.
    pub container: Option<String>,
    /// Only to wait for this instance's end.
    pub instance: Option<String>,
    /// Its standard input.
    pub stdin: bool,
    /// Also when it has ended.
    pub ended: bool,
}

/// What has become of an instance.
enum Instance<'a> {
    Runs,
    Ended(&'a Exit),
    /// It is longer ago than the records tell, or never was.
    Unknown,
}

/// Looks for an instance among the present ones and the last ones.
fn find<'a>(status: &'a Status, id: &str) -> Instance<'a> {
    let exits = |c: &'a Container| match &c.state {
        State::Terminated(exit) => [Some(exit), c.last.as_ref()],
        _ => [None, c.last.as_ref()],
    };
    let runs = |c: &Container| matches!(&c.state, State::Running { id: it, .. } if it == id);
    match status.containers.iter().flat_map(exits).flatten().find(|exit| exit.id == id) {
        Some(exit) => Instance::Ended(exit),
        None if status.containers.iter().any(runs) => Instance::Runs,
        None => Instance::Unknown,
    }
}

fn end(status: &Status, id: &str) -> Option<Response> {
    match find(status, id) {
        Instance::Runs => None,
        Instance::Ended(exit) => {
            Some(Response::Exited { exit_code: exit.exit_code, signal: exit.signal, timed_out: false })
        }
        Instance::Unknown => Some(refused("how the container ended is not on record any more".into())),
    }
}

fn refused(message: String) -> Response {
    Response::Error { exit_code: OURS, message, why: Refusal::Unknown }
}

impl Pod {
    /// Gives a client what it needs to attach, and tells it of the container's end.
    pub(super) fn attach(&mut self, wanted: &Wanted, client: Client) {
        // Those that have gone since the last one came.
        self.attached.retain(|(_, reply)| !reply.is_closed());
        let id = match &wanted.instance {
            Some(id) => Ok(id.clone()),
            None => self.try_attach(wanted, &client),
        };
        let answer = match id {
            Ok(id) => match end(&self.status, &id) {
                None => return self.attached.push((id, client.reply)),
                Some(answer) => answer,
            },
            Err(message) => refused(message),
        };
        // Who asked may have gone.
        let _ = client.reply.send((answer, None));
    }

    /// The id of the instance that the client is attached to now.
    fn try_attach(&mut self, wanted: &Wanted, client: &Client) -> Result<String, String> {
        let index = match exec::target(&self.record, &self.status, wanted.container.as_deref()) {
            Err(_) if wanted.ended => exec::position(&self.record, wanted.container.as_deref())?,
            other => other?,
        };
        let (container, c) = (&self.record.containers[index], &self.status.containers[index]);
        let name = container.name.clone();
        let (id, attempt) = match (&c.state, &c.last) {
            (State::Running { id, .. }, _) => (id.clone(), c.attempt),
            (State::Terminated(exit), _) | (State::Waiting { .. }, Some(exit)) => (exit.id.clone(), exit.attempt),
            (State::Waiting { reason, .. }, None) => {
                return Err(format!("container {name} is not running: it waits ({reason})"));
            }
        };
        let runs = matches!(c.state, State::Running { .. });
        let (number, tty, once) = (c.slot, container.tty, container.stdin_once);
        if wanted.stdin && !container.stdin {
            return Err(format!("container {name} has no standard input: stdin is not set in its spec"));
        }
        let of_keeper = |e: KeeperError| format!("container {name}: keeper: {e}");
        let slot = |part| slots::of(number, attempt, part);
        let part = match (tty, wanted.stdin) {
            _ if !runs => None,
            (_, true) => Some(Part::Stdin),
            (true, false) => Some(Part::Terminal),
            (false, false) => None,
        };
        let fd = match part {
            Some(part) => self.keeper.get(slot(part)).map_err(of_keeper)?,
            None => None,
        };
        if fd.is_none() && part == Some(Part::Stdin) {
            return Err(format!(
                "the standard input of container {name} is closed: it was for one client (stdinOnce), which has come already"
            ));
        }
        let answer = Response::Attached { container: name.clone(), id: id.clone(), attempt, tty, once };
        if part == Some(Part::Stdin) && once {
            self.keeper.put_many(&[(slot(Part::Attaching), client.connection.as_fd())]).map_err(of_keeper)?;
            give(client.connection.as_fd(), &answer, fd.as_ref());
            self.handed_stdin(number, attempt);
        } else {
            give(client.connection.as_fd(), &answer, fd.as_ref());
        }
        Ok(id)
    }

    /// The third step of the table above.
    fn handed_stdin(&mut self, number: u32, attempt: u32) {
        for part in [Part::Stdin, Part::Attaching] {
            if let Err(e) = self.keeper.drop_slot(slots::of(number, attempt, part)) {
                say("error", format_args!("drop an fd of keeper: {e}"));
            }
        }
    }

    /// Ends what a predecessor has begun: a client that is being given the stdin of a container that runs.
    pub(super) fn recover_attaching(
        &mut self,
        index: usize,
        id: &str,
        attempt: u32,
    ) -> Result<(), crate::runtime::Error> {
        let number = self.status.containers[index].slot;
        let Some(connection) = self.keeper_get(slots::of(number, attempt, Part::Attaching))? else { return Ok(()) };
        if let Some(stdin) = self.keeper_get(slots::of(number, attempt, Part::Stdin))? {
            let container = &self.record.containers[index];
            let answer = Response::Attached {
                container: container.name.clone(),
                id: id.to_owned(),
                attempt,
                tty: container.tty,
                once: container.stdin_once,
            };
            give(connection.as_fd(), &answer, Some(&stdin));
        }
        // The connection ends here; its client makes another one to wait for the end.
        self.handed_stdin(number, attempt);
        Ok(())
    }

    /// Tells those who are attached to a container that has ended.
    pub(super) fn answer_attached(&mut self) {
        let status = &self.status;
        self.attached.retain(|(id, reply)| match end(status, id) {
            None => true,
            Some(answer) => {
                let _ = reply.send((answer, None));
                false
            }
        });
    }
}

/// The first packet of a connection always finds room in its socket. A client that has gone is nobody's loss, and an fd on its way to it is closed.
fn give(connection: std::os::fd::BorrowedFd<'_>, answer: &Response, fd: Option<&OwnedFd>) {
    let _ = send_now(connection, answer, fd);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(state: serde_json::Value, last: serde_json::Value) -> Status {
        let container =
            json!({"name": "c", "kind": "app", "attempt": 2, "state": state, "last": last, "backoff": null, "slot": 0});
        serde_json::from_value(json!({
            "version": 1, "boot_id": "", "start_time": "2026-01-01T00:00:00Z", "sandbox": null, "initialized_at": null,
            "containers": [container], "deletion": null, "finished_at": null, "failure": null,
        }))
        .unwrap()
    }

    fn exit(id: &str, code: i32) -> serde_json::Value {
        json!({"state": "terminated", "id": id, "attempt": 1, "exitCode": code, "signal": null, "reason": "", "message": "",
            "startedAt": null, "finishedAt": "2026-01-01T00:00:00Z", "finishedBootNs": 0})
    }

    #[test]
    fn an_instance_is_found_while_it_runs_and_after_its_end_also_when_another_runs() {
        let running = json!({"state": "running", "id": "now", "pid": 1, "start_ticks": 1, "started_at": "2026-01-01T00:00:00Z", "stopping": false});
        let status = status(running, exit("before", 7));
        assert_eq!(end(&status, "now"), None);
        assert!(matches!(end(&status, "before"), Some(Response::Exited { exit_code: 7, .. })));
        assert!(matches!(end(&status, "long ago"), Some(Response::Error { exit_code: OURS, .. })));
    }

    #[test]
    fn the_last_end_is_found_when_nothing_runs() {
        let status = status(exit("last", 3), serde_json::Value::Null);
        assert!(matches!(end(&status, "last"), Some(Response::Exited { exit_code: 3, .. })));
    }
}
