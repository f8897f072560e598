//! `husk logs`: what a container wrote, with or without what it is going to write.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::log_reader::{Entry, LogReader};
use super::out::Out;
use super::watch::Watch;
use super::{Context, Error, span};
use crate::state::record::{Container, ContainerKind, State};
use crate::state::{Listed, PodEntry};

/// Print what a container wrote.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk logs demo -c server --tail=20 -f")]
pub struct Logs {
    /// The pod, as NAME or pod/NAME
    pod: String,
    /// The container; without it, the first one
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    container_word: Option<String>,
    /// The container
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// The instance before the present one
    #[arg(short, long)]
    previous: bool,
    /// Only the last N lines; -1 is all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    tail: i64,
    /// Only what is younger: 30s, 5m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = span::parse, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Only what was written since this moment: 2026-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT")]
    since_time: Option<Timestamp>,
    /// Put the time in front of each line
    #[arg(long)]
    timestamps: bool,
    /// All containers, one after another
    #[arg(long, conflicts_with_all = ["container", "container_word", "follow"])]
    all_containers: bool,
    /// What the container's postStart and preStop hooks wrote, not the container
    #[arg(long, conflicts_with = "follow")]
    hook: bool,
    /// Put pod and container in front of each line
    #[arg(long)]
    prefix: bool,
}

impl Logs {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let entry = context.find(&self.pod)?;
        let containers: Vec<&Container> = if self.all_containers {
            entry.status.containers.iter().collect()
        } else {
            vec![choose(&entry, self.container.as_deref().or(self.container_word.as_deref()))?]
        };
        let since = match self.since {
            None => self.since_time,
            // A span longer than there was time means everything.
            Some(span) => Timestamp::now().checked_sub(span).ok(),
        };
        let mut out = Out::new();
        for container in containers {
            match self.attempt(&entry, container) {
                Ok(attempt) => self.print(context, &entry, container, attempt, since, &mut out)?,
                // With all containers, one that never ran has simply written nothing.
                Err(_) if self.all_containers => {}
                Err(error) => return Err(error),
            }
        }
        out.flush()
    }

    /// Which instance is meant.
    fn attempt(&self, entry: &PodEntry, container: &Container) -> Result<u32, Error> {
        let (pod, name) = (entry.record.name(), &container.name);
        let shown = match &container.state {
            State::Running { .. } => Some(container.attempt),
            State::Terminated(exit) => Some(exit.attempt),
            // It will be started again: the last one that ran.
            State::Waiting { .. } => container.last.as_ref().map(|exit| exit.attempt),
        };
        if !self.previous {
            return shown.ok_or_else(|| {
                let reason = match &container.state {
                    State::Waiting { reason, .. } => reason.as_str(),
                    _ => "",
                };
                Error::failed(format!("pod {pod}: container {name}: has not run yet: {reason}"))
            });
        }
        let directory = directory(entry, container);
        let directory = if self.hook { directory.join("hooks") } else { directory };
        let before =
            shown.and_then(|shown| shown.checked_sub(1)).filter(|before| LogReader::exists(&directory, *before));
        // In a crash loop the one before may be gone, or never have been; the last crash is what is looked for then, as with kubectl.
        let last = container.last.as_ref().map(|exit| exit.attempt);
        before.or(last).ok_or_else(|| Error::failed(format!("pod {pod}: container {name}: has no previous instance")))
    }

    fn print(
        &self,
        context: &Context,
        entry: &PodEntry,
        container: &Container,
        attempt: u32,
        since: Option<Timestamp>,
        out: &mut Out,
    ) -> Result<(), Error> {
        let directory = if self.hook { directory(entry, container).join("hooks") } else { directory(entry, container) };
        if self.hook && !LogReader::exists(&directory, attempt) {
            return Ok(());
        }
        // Watched before the first read, so that nothing falls in between.
        let mut watch = None;
        if self.follow {
            let mut new = Watch::new()?;
            new.pod(&context.roots.pod_dir(&entry.id), entry.live)?;
            new.directory(&directory)?;
            watch = Some(new);
        }
        let wanted = |entry: &Entry<'_>| match (since, entry.timestamp()) {
            (Some(since), Some(time)) => time >= since,
            _ => true,
        };
        let prefix =
            if self.prefix { format!("[pod/{}/{}] ", entry.record.name(), container.name) } else { String::new() };
        let mut writer = Writer { timestamps: self.timestamps, prefix, in_line: [false; 2] };
        let mut reader = LogReader::open(&directory, attempt)?;
        if let Ok(lines) = usize::try_from(self.tail) {
            reader.skip_to_tail(lines, wanted)?;
        }
        loop {
            // Asked before reading: what was written before the end is then read below.
            let ended = watch.is_none() || !runs(context, &entry.id, &container.name, attempt)?;
            reader.read(|entry| if wanted(&entry) { writer.write(&entry, out) } else { Ok(()) })?;
            match &mut watch {
                Some(watch) if !ended => {
                    out.flush()?;
                    watch.wait(None)?;
                }
                _ => break,
            }
        }
        reader.finish(|entry| if wanted(&entry) { writer.write(&entry, out) } else { Ok(()) })
    }
}

/// Writes entries as the container wrote them.
struct Writer {
    timestamps: bool,
    prefix: String,
    /// A line of standard output, of standard error, was begun and not ended.
    in_line: [bool; 2],
}

impl Writer {
    fn write(&mut self, entry: &Entry<'_>, out: &mut Out) -> Result<(), Error> {
        let in_line = std::mem::replace(&mut self.in_line[usize::from(entry.stderr)], !entry.full);
        if !in_line {
            out.raw(self.prefix.as_bytes())?;
            if self.timestamps && !entry.time.is_empty() {
                out.raw(entry.time)?;
                out.raw(b" ")?;
            }
        }
        out.raw(entry.text)?;
        if entry.full { out.raw(b"\n") } else { Ok(()) }
    }
}

/// The named container, or the first app container, and then it is said which.
fn choose<'a>(entry: &'a PodEntry, name: Option<&str>) -> Result<&'a Container, Error> {
    let containers = &entry.status.containers;
    let all = || containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        return containers.iter().find(|container| container.name == name).ok_or_else(|| {
            Error::failed(format!("pod {}: container {name:?} not found; it has {}", entry.record.name(), all()))
        });
    }
    let mut apps = containers.iter().filter(|container| container.kind == ContainerKind::App);
    let first = apps.next().ok_or_else(|| Error::failed(format!("pod {}: has no containers", entry.record.name())))?;
    if apps.next().is_some() {
        super::out::say(format!("showing container {} of {}; choose with -c", first.name, all()));
    }
    Ok(first)
}

fn directory(entry: &PodEntry, container: &Container) -> PathBuf {
    PathBuf::from(&entry.record.log_dir).join(&container.name)
}

/// Whether that instance may still write.
fn runs(context: &Context, uid: &str, name: &str, attempt: u32) -> Result<bool, Error> {
    Ok(match context.roots.look(uid)? {
        Some(Listed::Pod(entry)) => {
            entry.live
                && entry.status.containers.iter().any(|container| {
                    container.name == name
                        && container.attempt == attempt
                        && matches!(container.state, State::Running { .. })
                })
        }
        _ => false,
    })
}
