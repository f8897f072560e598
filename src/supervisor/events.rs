//! What is told as Kubernetes events. Collected in memory, written when the loop has nothing else to do; what cannot be written is lost.

use super::pod::{Pod, say};
use super::tidy;
use crate::pod;
use crate::state::events::{self, Event, EventType};
use crate::state::record::State;

/// So many events may wait to be written; more in one turn of the loop are put together.
const WAITING: usize = 32;

impl Pod {
    /// Tells of something as the kubelet does: `reason` is one of its words, `container` names one of the pod's, `None` is the pod itself. A client
    /// that drives its pod has events of its own.
    pub(super) fn event(&mut self, typ: EventType, reason: &str, container: Option<&str>, message: &str) {
        if self.record.driven() {
            return;
        }
        let path = container.and_then(|name| {
            let c = self.status.containers.iter().find(|c| c.name == name)?;
            Some(events::field_path(c.kind, name))
        });
        let event = Event::new(typ, reason, path, message, jiff::Timestamp::now());
        if self.events.len() < WAITING { self.events.push(event) } else { events::add(&mut self.events, event) }
    }

    /// [`Pod::event`] about a container by its position.
    pub(super) fn container_event(&mut self, typ: EventType, reason: &str, index: usize, message: &str) {
        let name = self.status.containers[index].name.clone();
        self.event(typ, reason, Some(&name), message);
    }

    /// A container's end was followed by a back-off, or not.
    pub(super) fn back_off_event(&mut self, index: usize) {
        let c = &self.status.containers[index];
        if matches!(&c.state, State::Waiting { reason, .. } if reason == "CrashLoopBackOff") {
            let pod = pod::pod_text(&self.record);
            let text = format!("Back-off restarting failed container {} in pod {pod}", c.name);
            self.container_event(EventType::Warning, "BackOff", index, &text);
        }
    }

    /// Somebody who was asked to stop has not, and is killed.
    pub(super) fn grace_exceeded_event(&mut self) {
        let text = "Container runtime did not kill the pod within specified grace period.";
        self.event(EventType::Warning, "ExceededGracePeriod", None, text);
    }

    /// Writes what there is to tell. The pod's directory may be gone by now, and the events with it.
    pub(super) fn write_events(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.events);
        match self.dir.add_events(&events) {
            Ok(false) => {}
            Ok(true) => {
                drop(events);
                tidy::before_sleep();
            }
            // Removed with the pod.
            Err(_) if !self.dir.path.exists() => {}
            Err(e) => say("warn", format_args!("{e}, continuing without {} events", events.len())),
        }
    }
}
