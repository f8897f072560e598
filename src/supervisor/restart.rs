//! A user wants containers of a pod that lives to be started again.

use super::driven::Answer;
use super::pod::{Pod, now};
use super::server::Reply;
use crate::control::{Refusal, Response};
use crate::pod;
use crate::state::record::{Container, ContainerKind, State, StopWhy};

impl Pod {
    /// Asks one container, or all, to stop and start again; answered when the wish is on disk.
    pub(super) fn restart(&mut self, container: Option<&str>, reply: &Reply) {
        let response = match self.try_restart(container) {
            Ok(()) => Response::Ok,
            Err((why, message)) => Response::refused(why, message),
        };
        // A client that has gone does not want to know.
        let _ = reply.send((response, None));
    }

    fn try_restart(&mut self, container: Option<&str>) -> Answer {
        let refused = |message: String| Err((Refusal::FailedPrecondition, message));
        if self.record.driven() {
            return refused("its containers belong to a CRI client, which alone starts and stops them".into());
        }
        if let Some(why) = pod::refusal(&self.status, "nothing is started any more") {
            return refused(why);
        }
        let over = |index: usize, c: &Container| pod::is_over(&self.record, index, c);
        let chosen: Vec<usize> = match container {
            Some(name) => {
                let Some(index) = self.status.containers.iter().position(|c| c.name == name) else {
                    return Err((Refusal::NotFound, format!("container {name} is not in this pod")));
                };
                let c = &self.status.containers[index];
                if c.kind == ContainerKind::Ephemeral {
                    return refused(format!("container {name} is ephemeral; such containers are started once"));
                }
                if over(index, c) {
                    return refused(format!("container {name} has ended for good"));
                }
                if !(is_running(c) || has_run(c)) {
                    return refused(format!("container {name} was not started yet"));
                }
                vec![index]
            }
            None => {
                let all = self.status.containers.iter().enumerate();
                let meant = all.filter(|(index, c)| {
                    c.kind != ContainerKind::Ephemeral && (is_running(c) || (has_run(c) && !over(*index, c)))
                });
                meant.map(|(index, _)| index).collect()
            }
        };
        if chosen.is_empty() {
            return refused("none of its containers runs or waits for its next start".into());
        }
        let grace_seconds = pod::grace_seconds(&self.record);
        self.change(|pod| {
            for index in chosen {
                if is_running(&pod.status.containers[index]) {
                    pod::request_stop(&mut pod.status, index, StopWhy::Restart, grace_seconds, now());
                } else {
                    // It waits in its back-off: not any longer.
                    pod.status.containers[index].backoff = None;
                }
            }
        })
    }
}

fn is_running(c: &Container) -> bool {
    matches!(c.state, State::Running { .. })
}

fn has_run(c: &Container) -> bool {
    c.last.is_some() || matches!(c.state, State::Terminated(_))
}
