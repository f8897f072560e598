//! Other labels, annotations and the like for a pod that lives.

use std::os::fd::OwnedFd;

use super::driven::{Answer, from_memory};
use super::pod::{Pod, now};
use super::server::Reply;
use crate::control::{Refusal, Response};
use crate::runtime::Error;
use crate::state::record::{Amendment, ContainerKind, ContainerRecord, Exchange, PodRecord, State, StopWhy};
use crate::{manifest, pod};

impl Pod {
    /// Puts an [`Amendment`] into `pod.json`; answered when it is there, or when it is known that nothing has changed.
    pub(super) fn amend(&mut self, fds: Vec<OwnedFd>, reply: &Reply) {
        let response = match self.try_amend(fds) {
            Ok(()) => Response::Ok,
            Err((why, message)) => Response::refused(why, message),
        };
        // A client that has gone does not want to know.
        let _ = reply.send((response, None));
    }

    fn try_amend(&mut self, fds: Vec<OwnedFd>) -> Answer {
        let refused = |message: &str| (Refusal::FailedPrecondition, message.to_owned());
        let amendment: Amendment =
            from_memory(fds).map_err(|what| (Refusal::InvalidArgument, format!("the amendment: {what}")))?;
        if self.record.driven() {
            return Err(refused("it belongs to a CRI client, which alone changes it"));
        }
        if let Some(why) = pod::refusal(&self.status, "nothing can be changed any more") {
            return Err(refused(&why));
        }
        let images = amendment.images.clone();
        let mut new = amended(&self.record, amendment);
        new.next_generation();
        let before = (!images.is_empty()).then(|| self.status.clone());
        if before.is_some() {
            // First: what was not asked for to the end starts a container once too often, and never leaves one as it was under a new manifest.
            self.change(|pod| images.into_iter().for_each(|exchange| pod.exchange(exchange)))?;
        }
        if let Err(e) = self.dir.write_record(&new) {
            if let Some(before) = before {
                self.status = before;
                self.unsaved = true;
            }
            return Err((Refusal::Unknown, e.to_string()));
        }
        self.record = new;
        Ok(())
    }

    /// Gives a container another image with its next instance, which comes at once where one runs or waits for its time.
    fn exchange(&mut self, exchange: Exchange) {
        let record = exchange.record;
        let Some(index) = self.record.containers.iter().position(|c| c.name == record.name) else { return };
        let c = &self.status.containers[index];
        let had = &self.record.containers[index];
        if with_resources_of(had, c.next.as_deref().unwrap_or(had)) == with_resources_of(had, &record) {
            // Asked before by somebody who died without an answer, or whose supervisor did.
            return;
        }
        let grace_seconds = pod::grace_seconds(&self.record);
        self.status.containers[index].next = Some(Box::new(record));
        if matches!(self.status.containers[index].state, State::Running { .. }) {
            // An init container that is on its way is left to come to its end, as by the kubelet.
            if had.kind == ContainerKind::App || had.is_sidecar() {
                pod::request_stop(&mut self.status, index, StopWhy::Image, grace_seconds, now());
            }
        } else {
            self.status.containers[index].backoff = None;
        }
    }

    /// Makes what the next instance of a container is made of, if it is something else, what the container is made of. Its resources are those of now.
    ///
    /// # Errors
    /// The record cannot be written; all is as before then.
    pub(super) fn take_next(&mut self, index: usize) -> Result<(), Error> {
        let Some(next) = self.status.containers[index].next.as_deref() else { return Ok(()) };
        let mut new = self.record.clone();
        new.containers[index] = with_resources_of(&self.record.containers[index], next);
        self.dir.write_record(&new)?;
        self.record = new;
        self.status.containers[index].next = None;
        self.unsaved = true;
        Ok(())
    }
}

/// An image changes nothing about resources, which have their own way.
fn with_resources_of(had: &ContainerRecord, next: &ContainerRecord) -> ContainerRecord {
    ContainerRecord { limits: had.limits.clone(), oom_score_adj: had.oom_score_adj, ..next.clone() }
}

fn amended(record: &PodRecord, amendment: Amendment) -> PodRecord {
    let mut new = record.clone();
    new.pod.metadata.labels = amendment.labels;
    new.pod.metadata.annotations = amendment.annotations;
    new.pod.spec.get_or_insert_default().active_deadline_seconds = amendment.active_deadline_seconds;
    new.source = amendment.source;
    for exchange in &amendment.images {
        manifest::set_image(&mut new.pod, &exchange.record.name, &exchange.image);
    }
    new
}
