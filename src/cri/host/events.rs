//! Container events: what changes in the records, as CRI tells it. Nobody has to keep a queue: an event is the difference of two looks.

use std::collections::BTreeMap;

use husk_oci::errno::Sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::os::fd::AsFd;

use super::{containers, pods};
use crate::cri::messages::*;
use crate::cri::service::Events;
use crate::cri::status::Status;
use crate::runtime::driven;
use crate::state::{PodEntry, Roots};

/// Without a change, how often to look whether somebody's keeper was killed, which no file tells of: milliseconds.
const LOOK_AGAIN_MS: u16 = 1000;

/// A container, or with its own id a sandbox, as it was at the last look.
#[derive(Clone, PartialEq)]
struct Seen {
    sandbox: String,
    state: i32,
}

type Look = BTreeMap<String, Seen>;

pub(super) fn watch(roots: &Roots, events: &mut dyn Events) -> Result<(), Status> {
    let failed = |e: Errno| Status::internal(format!("watch for events: {}", Sys(e)));
    roots.prepare().map_err(|e| Status::internal(e.to_string()))?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    inotify.add_watch(&roots.state.join("pods"), made | AddWatchFlags::IN_ONLYDIR).map_err(failed)?;
    let mut watched = BTreeMap::new();
    let (mut entries, mut before) = look(roots, &inotify, &mut watched)?;
    if events.begin().is_break() {
        return Ok(());
    }
    loop {
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(events.over(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(failed(e)),
        }
        if fds[1].any().unwrap_or(true) {
            return Ok(());
        }
        // What changed does not matter: everything is looked at.
        while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        let (now_entries, now) = look(roots, &inotify, &mut watched)?;
        let known = |id: &str| now_entries.get(id).or_else(|| entries.get(id));
        for (id, sandbox, kind) in changes(&before, &now) {
            if events.send(message(id, kind, known(&sandbox))).is_break() {
                return Ok(());
            }
        }
        (entries, before) = (now_entries, now);
    }
}

/// All sandboxes and containers, after their directories were put under watch: what changes during the look is seen by the next.
fn look(
    roots: &Roots,
    inotify: &Inotify,
    watched: &mut BTreeMap<String, WatchDescriptor>,
) -> Result<(BTreeMap<String, PodEntry>, Look), Status> {
    let ids = roots.ids().map_err(|e| Status::internal(e.to_string()))?;
    // The kernel drops the watch of a directory that is gone.
    watched.retain(|id, _| ids.contains(id));
    for id in ids {
        if !watched.contains_key(&id)
            && let Ok(descriptor) =
                inotify.add_watch(&roots.pod_dir(&id), AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR)
        {
            watched.insert(id, descriptor);
        }
    }
    let mut look = Look::new();
    let mut entries = BTreeMap::new();
    for entry in driven::sandboxes(roots)? {
        let sandbox = entry.id.clone();
        // The events of CRI are of the containers and of the sandbox itself, under its id.
        let state =
            if pods::ready(&entry) { ContainerState::ContainerRunning } else { ContainerState::ContainerExited };
        look.insert(sandbox.clone(), Seen { sandbox: sandbox.clone(), state: state.into() });
        for index in 0..entry.record.containers.len() {
            let status = containers::status(&entry, index);
            look.insert(status.id, Seen { sandbox: sandbox.clone(), state: status.state });
        }
        entries.insert(sandbox, entry);
    }
    Ok((entries, look))
}

/// Id, sandbox and event, in the order in which they must have happened.
fn changes(before: &Look, now: &Look) -> Vec<(String, String, ContainerEventType)> {
    use ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let [created, running, exited]: [i32; 3] = [
        ContainerState::ContainerCreated.into(),
        ContainerState::ContainerRunning.into(),
        ContainerState::ContainerExited.into(),
    ];
    // Where it stands in a life: what lies between two looks has happened too.
    let stage = |seen: Option<&Seen>| match seen.map(|s| s.state) {
        None => 0,
        Some(state) if state == created => 1,
        Some(state) if state == running => 2,
        Some(state) if state == exited => 3,
        Some(_) => 3,
    };
    let steps = [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent];
    let mut changes = Vec::new();
    for (id, seen) in now {
        let (from, to) = (stage(before.get(id)), stage(Some(seen)));
        changes.extend(steps.iter().take(to).skip(from).map(|kind| (id.clone(), seen.sandbox.clone(), *kind)));
    }
    for (id, seen) in before.iter().filter(|(id, _)| !now.contains_key(*id)) {
        if stage(Some(seen)) == 2 {
            changes.push((id.clone(), seen.sandbox.clone(), ContainerStoppedEvent));
        }
        changes.push((id.clone(), seen.sandbox.clone(), ContainerDeletedEvent));
    }
    changes
}

fn message(id: String, kind: ContainerEventType, entry: Option<&PodEntry>) -> ContainerEventResponse {
    ContainerEventResponse {
        container_id: id,
        container_event_type: kind.into(),
        created_at: pods::nanos(jiff::Timestamp::now()),
        pod_sandbox_status: entry.map(pods::message),
        containers_statuses: entry.map_or_else(Vec::new, |entry| {
            (0..entry.record.containers.len()).map(|index| containers::status(entry, index)).collect()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };

    fn look(of: &[(&str, ContainerState)]) -> Look {
        let seen = |state: &ContainerState| Seen { sandbox: "s".into(), state: (*state).into() };
        of.iter().map(|(id, state)| ((*id).to_owned(), seen(state))).collect()
    }

    fn kinds(before: &Look, now: &Look) -> Vec<ContainerEventType> {
        changes(before, now).into_iter().map(|(_, _, kind)| kind).collect()
    }

    #[test]
    fn what_lies_between_two_looks_is_told_in_order() {
        let none = look(&[]);
        let exited = look(&[("a", ContainerState::ContainerExited)]);
        let running = look(&[("a", ContainerState::ContainerRunning)]);
        assert_eq!(kinds(&none, &exited), [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent]);
        assert_eq!(kinds(&running, &exited), [ContainerStoppedEvent]);
        assert_eq!(kinds(&running, &none), [ContainerStoppedEvent, ContainerDeletedEvent]);
        assert_eq!(kinds(&exited, &none), [ContainerDeletedEvent]);
        assert_eq!(kinds(&exited, &exited), []);
    }
}
