//! `events.jsonl` in a pod's directory: what Kubernetes would tell as events. One line is one occurrence, or several that were put together.
//!
//! Readers put equal events together; the writer does so when the file has grown. Events explain, no decision is taken by them.

use std::os::fd::BorrowedFd;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::ContainerKind;
use super::{Error, Roots, journal, read};

/// Version of a line. Lines of another version are left out.
const VERSION: u32 = 1;
/// The file's name.
pub const FILE: &str = "events.jsonl";
/// How many different events of a pod are kept; the ones that were last seen longest ago go first.
pub const KEPT: usize = 100;
/// From this many events on that differ in their message alone, within [`SIMILAR_SECONDS`], they are one; as client-go's aggregator has it.
const SIMILAR: usize = 10;
const SIMILAR_SECONDS: i64 = 600;
/// What such an event begins with, as in client-go.
const COMBINED: &str = "(combined from similar events): ";
/// No message is longer (bytes); the API server's own limit.
const MESSAGE_BYTES: usize = 1024;

/// `Event.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Something is wrong, or may be.
    Warning,
}

impl EventType {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// What has happened to a pod or a container, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Version of the line.
    pub version: u32,
    /// `type`.
    #[serde(rename = "type")]
    pub typ: EventType,
    /// CamelCase word.
    pub reason: String,
    /// `involvedObject.fieldPath`: `spec.containers{name}`; `None`: the pod itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_path: Option<String>,
    /// Sentence.
    pub message: String,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u64,
    /// `firstTimestamp`; left out in a line that tells of one occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// `lastTimestamp`.
    pub last: Timestamp,
}

fn once() -> u64 {
    1
}

fn is_once(count: &u64) -> bool {
    *count == 1
}

impl Event {
    /// One occurrence.
    pub fn new(typ: EventType, reason: &str, field_path: Option<String>, message: &str, at: Timestamp) -> Event {
        let mut end = message.len().min(MESSAGE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = message[..end].to_owned();
        Event { version: VERSION, typ, reason: reason.to_owned(), field_path, message, count: 1, first: None, last: at }
    }

    /// `firstTimestamp`.
    pub fn first(&self) -> Timestamp {
        self.first.unwrap_or(self.last)
    }

    fn same_but_for_message(&self, other: &Event) -> bool {
        self.typ == other.typ && self.reason == other.reason && self.field_path == other.field_path
    }

    fn is_combined(&self) -> bool {
        self.message.starts_with(COMBINED)
    }

    /// Takes in a later occurrence.
    fn absorb(&mut self, later: Event) {
        self.first = Some(self.first().min(later.first()));
        self.last = self.last.max(later.last);
        self.count = self.count.saturating_add(later.count);
        self.message = later.message;
    }
}

/// `involvedObject.fieldPath` of a container.
pub fn field_path(kind: ContainerKind, name: &str) -> String {
    match kind {
        ContainerKind::Init => format!("spec.initContainers{{{name}}}"),
        ContainerKind::App => format!("spec.containers{{{name}}}"),
        ContainerKind::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// Adds an event to those that are there: equal ones are counted, too many similar ones become one, the oldest of too many go.
pub fn add(events: &mut Vec<Event>, mut event: Event) {
    if let Some(known) = events.iter_mut().find(|e| e.same_but_for_message(&event) && e.message == event.message) {
        return known.absorb(event);
    }
    let recent =
        |e: &&Event| e.same_but_for_message(&event) && event.last.as_second() - e.last.as_second() <= SIMILAR_SECONDS;
    let similar = events.iter().filter(recent).count();
    if similar >= SIMILAR && !event.is_combined() {
        event.message.insert_str(0, COMBINED);
        if let Some(combined) = events.iter_mut().find(|e| e.is_combined() && e.same_but_for_message(&event)) {
            return combined.absorb(event);
        }
    }
    events.push(event);
    if events.len() > KEPT
        && let Some((oldest, _)) = events.iter().enumerate().min_by_key(|(_, e)| e.last)
    {
        events.remove(oldest);
    }
}

/// The events of a file, put together, in the order in which they were last seen.
fn parse(content: &[u8]) -> Vec<Event> {
    put_together(journal::entries(content).collect())
}

fn put_together(entries: Vec<Event>) -> Vec<Event> {
    let mut events = Vec::new();
    // Those of another version are another husk's.
    entries.into_iter().filter(|e| e.version == VERSION).for_each(|e| add(&mut events, e));
    events.sort_by_key(|e| e.last);
    events
}

/// Adds events to the file of a pod, see [`journal::append`].
pub(super) fn append(dir: &Path, fd: BorrowedFd<'_>, events: &[Event]) -> Result<bool, Error> {
    journal::append(dir, fd, FILE, events, put_together)
}

impl Roots {
    /// The events of a pod, in the order in which they were last seen; none is no error.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn events(&self, id: &str) -> Result<Vec<Event>, Error> {
        Ok(parse(&read(&self.pod_dir(id).join(FILE))?.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::journal::{COMPACT_BYTES, lines};
    use std::os::fd::AsFd;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    fn event(reason: &str, container: &str, message: &str, second: i64) -> Event {
        let field = Some(field_path(ContainerKind::App, container)).filter(|_| !container.is_empty());
        Event::new(EventType::Normal, reason, field, message, at(second))
    }

    #[test]
    fn equal_events_are_counted_with_first_and_last_time() {
        let mut events = Vec::new();
        for second in [0, 5, 9] {
            add(&mut events, event("BackOff", "a", "again", second));
        }
        add(&mut events, event("BackOff", "b", "again", 10));
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].count, events[0].first(), events[0].last), (3, at(0), at(9)));
        assert_eq!(events[1].count, 1);
    }

    #[test]
    fn too_many_similar_events_become_one() {
        let mut events = Vec::new();
        for n in 0..30 {
            add(&mut events, event("Unhealthy", "a", &format!("attempt {n}"), n));
        }
        assert_eq!(events.len(), SIMILAR + 1);
        let combined = events.last().expect("one");
        assert_eq!((combined.message.as_str(), combined.count), ("(combined from similar events): attempt 29", 20));
        // Long after, it is news again.
        add(&mut events, event("Unhealthy", "a", "attempt 99", 30 + SIMILAR_SECONDS + 1));
        assert_eq!(events.last().map(|e| e.message.as_str()), Some("attempt 99"));
    }

    #[test]
    fn the_oldest_of_too_many_go() {
        let mut events = Vec::new();
        for n in 0..(KEPT as i64 + 20) {
            add(&mut events, event(&format!("Reason{n}"), "", "m", n));
        }
        assert_eq!(events.len(), KEPT);
        assert_eq!(events[0].reason, "Reason20");
    }

    #[test]
    fn a_line_that_was_cut_short_costs_itself_alone() {
        let (a, b) = (event("Created", "a", "one", 1), event("Started", "a", "two", 2));
        let mut content = lines(std::slice::from_ref(&a));
        content.truncate(content.len() - 7);
        content.extend(lines(std::slice::from_ref(&b)));
        assert_eq!(parse(&content), std::slice::from_ref(&b));
        let mut foreign = lines(&[Event { version: 9, ..a }]);
        foreign.extend(lines(std::slice::from_ref(&b)));
        assert_eq!(parse(&foreign), [b]);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let event = event("Failed", "a", &"ä".repeat(MESSAGE_BYTES), 0);
        assert_eq!(event.message.len(), MESSAGE_BYTES);
        let odd = Event::new(EventType::Warning, "Failed", None, &format!("a{}", "ä".repeat(MESSAGE_BYTES)), at(0));
        assert_eq!(odd.message.len(), MESSAGE_BYTES - 1);
    }

    #[test]
    fn the_file_stays_small_and_keeps_what_came_last() {
        let dir = std::env::temp_dir().join(format!("husk-events-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("make a directory");
        let fd = super::super::open_dir(&dir).expect("open it");
        for n in 0..2000 {
            append(&dir, fd.as_fd(), &[event(&format!("R{n}"), "a", &"x".repeat(900), n)]).expect("append");
        }
        let content = std::fs::read(dir.join(FILE)).expect("read");
        assert!(content.len() as u64 <= COMPACT_BYTES + 2048, "{}", content.len());
        let events = parse(&content);
        assert!(events.len() > 10);
        assert_eq!(events.last().map(|e| e.reason.as_str()), Some("R1999"));
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
