//! Other labels, annotations and the like for a pod that lives.

use std::os::fd::OwnedFd;

use super::driven::{Answer, from_memory};
use super::pod::Pod;
use super::server::Reply;
use crate::control::{Refusal, Response};
use crate::pod;
use crate::state::record::{Amendment, PodRecord};

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
        let amendment =
            from_memory(fds).map_err(|what| (Refusal::InvalidArgument, format!("the amendment: {what}")))?;
        if self.record.driven() {
            return Err(refused("it belongs to a CRI client, which alone changes it"));
        }
        if let Some(why) = pod::refusal(&self.status, "nothing can be changed any more") {
            return Err(refused(&why));
        }
        let mut new = amended(&self.record, amendment);
        new.next_generation();
        self.dir.write_record(&new).map_err(|e| (Refusal::Unknown, e.to_string()))?;
        self.record = new;
        Ok(())
    }
}

fn amended(record: &PodRecord, amendment: Amendment) -> PodRecord {
    let mut new = record.clone();
    new.pod.metadata.labels = amendment.labels;
    new.pod.metadata.annotations = amendment.annotations;
    new.pod.spec.get_or_insert_default().active_deadline_seconds = amendment.active_deadline_seconds;
    new.source = amendment.source;
    new
}
