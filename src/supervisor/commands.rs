//! Requests of clients, each passed on to the file that answers it; conditions and deletions are answered here.

use std::time::Duration;

use super::pod::{Client, Pod, now, stops};
use super::server::{Command, Reply};
use super::upgrade::version;
use super::{attach, exec};
use crate::control::{Refusal, Request, Response};
use crate::pod;
use crate::runtime::say::say;
use crate::state::record::{ConditionRecord, Deletion};
use crate::state::timeline::Kind;

impl Pod {
    pub(super) async fn command(&mut self, command: Command) {
        let Command { request, fds, reply, connection } = command;
        match request {
            Request::Delete { grace_seconds, force, nowait, timeline } => {
                if timeline && !nowait {
                    self.waiting_for_steps.push(reply.clone());
                }
                self.delete(grace_seconds, force, nowait, reply);
            }
            Request::Exec { container, argv, tty, size, timeout_ms } => {
                let wanted = exec::Wanted { container, argv, tty, size, fds, deadline_ms: 0, whole: false };
                self.exec(wanted, timeout_ms.map(Duration::from_millis), Client { reply, connection }).await;
            }
            Request::Attach { container, instance, stdin, ended } => {
                let wanted = attach::Wanted { container, instance, stdin, ended };
                self.attach(&wanted, Client { reply, connection });
            }
            Request::Condition { kind, status, reason, message } => {
                let _ = reply.send((self.condition(&kind, status, reason, message), None));
            }
            Request::AddEphemeral => self.add_ephemeral(fds, reply).await,
            Request::RemoveEphemeral { name } => self.remove_ephemeral(name, reply),
            Request::Version => drop(reply.send((version(), None))),
            Request::Upgrade { knows } => drop(reply.send((self.hand_over(&knows, &fds), None))),
            Request::Resize { container, amounts } => self.resize(container, &amounts, reply),
            Request::Restart { container } => self.restart(container.as_deref(), &reply),
            Request::Amend => self.amend(fds, &reply),
            other => self.drive(other, fds, reply).await,
        }
    }

    /// A user sets or removes one of the pod's conditions. On disk when it is answered.
    fn condition(&mut self, kind: &str, status: Option<String>, reason: String, message: String) -> Response {
        let new =
            status.map(|status| ConditionRecord { kind: kind.to_owned(), status, since: now().wall, reason, message });
        let before = self.status.conditions.clone();
        match pod::set_condition(&mut self.status, kind, new) {
            Err(why) => Response::refused(Refusal::InvalidArgument, why),
            Ok(false) => Response::Ok,
            Ok(true) => match self.write_status() {
                Ok(()) => {
                    (self.unsaved, self.complained) = (false, false);
                    Response::Ok
                }
                Err(e) => {
                    self.status.conditions = before;
                    Response::refused(Refusal::Unknown, e.to_string())
                }
            },
        }
    }

    fn delete(&mut self, grace_seconds: Option<u64>, force: bool, nowait: bool, reply: Reply) {
        self.moment(Kind::Asked);
        let own = pod::grace_seconds(&self.record);
        let before: Option<Deletion> = self.status.deletion.clone();
        let asked = pod::request_delete(&mut self.status, own, grace_seconds, force, now());
        let next = pod::decide(&self.record, &self.status, now()).actions;
        let at_once = stops(&next);
        if asked && !at_once.is_empty() && at_once.len() == next.len() && !nowait {
            // Recorded together with the first thing that follows from it.
            self.stop(at_once);
        } else if asked || self.unsaved {
            self.unsaved = true;
            match self.write_status() {
                Ok(()) => (self.unsaved, self.complained) = (false, false),
                // Nobody would know of it any more if we died now.
                Err(e) if nowait => {
                    self.status.deletion = before;
                    let message =
                        format!("the deletion cannot be recorded: {e}; without --wait=false it goes on all the same");
                    let _ = reply.send((Response::refused(Refusal::Unknown, message), None));
                    return;
                }
                // Whoever waits for the end asks our successor again.
                Err(e) => say("warn", format_args!("{e}, deleting without a record of it")),
            }
        }
        if nowait {
            let _ = reply.send((Response::Ok, None));
        } else {
            self.waiting_for_end.push(reply);
        }
    }
}
