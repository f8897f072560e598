//! What is known of a pod, and what follows from it.

use husk_oci::file;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Answer, LogTail};
use crate::cli::log_reader::LogReader;
use crate::cli::{Context, Error, span, status, v1};
use crate::image::Store;
use crate::state::events::EventType;
use crate::state::record::{Container, ContainerKind, MountSource, State};
use crate::state::{PodEntry, Unreadable};

/// So many lines of a log, and so many warnings, are shown.
const LINES: usize = 10;
const WARNINGS: usize = 5;
/// So much of a process's stack in the kernel is shown.
const FRAMES: usize = 6;

/// A pod whose records cannot be read.
pub(super) fn unreadable(it: &Unreadable) -> Answer {
    let force = if it.live || it.is_garbage() { "" } else { " --force" };
    Answer {
        pod: it.full_name(),
        status: "Unknown".into(),
        why: format!("its records cannot be read: {}", it.error),
        next: vec![match it.live {
            true => {
                "its containers run on; its supervisor looks every two seconds whether the records can be read".into()
            }
            false => "nothing: nobody looks after it".into(),
        }],
        commands: vec![format!("husk delete{force} {}", it.id)],
        ..Answer::default()
    }
}

/// A pod.
pub(super) fn pod(context: &Context, entry: PodEntry) -> Result<Answer, Error> {
    let now = husk_oci::sys::clock::boottime().as_nanos() as u64;
    let object = v1(&entry);
    let name = entry.record.name().to_owned();
    let mut answer = Answer {
        pod: name.clone(),
        status: status::row(&object, Timestamp::now()).status,
        ready: condition(&object, "Ready").is_some_and(|(status, _)| status == "True"),
        ..Answer::default()
    };
    let phase = object.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    if !entry.live && entry.status.finished_at.is_none() {
        answer.why =
            object.status.as_ref().and_then(|s| s.message.clone()).unwrap_or_else(|| "nobody watches it".into());
        answer
            .details
            .push("keeper, which held the pod, is gone; with it the kernel has killed all that ran in the pod".into());
        answer.next.push("nothing; husk gc, or the next husk run of that name, removes what is left".into());
        answer.commands.push("husk gc".into());
    } else if entry.status.finished_at.is_some() {
        answer.why = match &entry.status.failure {
            Some(failure) => format!("{}: {}", failure.reason, failure.message),
            None => format!("it has ended with phase {phase}, and nothing is to be started again"),
        };
        answer.next.push("nothing; records and logs stay until it is deleted".into());
        answer.commands.push(format!("husk delete {name}"));
    } else if let Some(deletion) = &entry.status.deletion {
        answer.why = "it is being deleted".into();
        answer.details.extend(entry.status.containers.iter().filter_map(waited_for));
        answer.next.push(match deletion.deadline_boot_ns.checked_sub(now) {
            Some(left) => format!("what still runs in {} is killed", seconds(left)),
            None => "what still runs is killed, again every second".into(),
        });
        answer.commands.push(format!("husk delete {name} --force"));
    } else {
        blocked(&mut answer, &object, &entry, now);
    }
    missing(context, &entry, &mut answer);
    log(&mut answer, &entry);
    let events = context.roots.events(&entry.id)?;
    let warnings = events.iter().rev().filter(|e| e.typ == EventType::Warning).take(WARNINGS);
    answer.warnings = warnings
        .map(|e| format!("{}  {}  {}", crate::cli::events::age(e, Timestamp::now()), e.reason, e.message))
        .collect();
    answer.commands.insert(0, format!("husk describe pod {name}"));
    Ok(answer)
}

fn condition(pod: &Pod, kind: &str) -> Option<(String, String)> {
    let found = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)?;
    let why = found.message.clone().or_else(|| found.reason.clone()).unwrap_or_default();
    Some((found.status.clone(), why))
}

/// A pod that lives and shall.
fn blocked(answer: &mut Answer, object: &Pod, entry: &PodEntry, now: u64) {
    let initializing = entry.status.initialized_at.is_none();
    answer.why = if answer.ready {
        "everything is as it should be".into()
    } else {
        let kind = if initializing { "Initialized" } else { "Ready" };
        condition(object, kind)
            .map(|(_, why)| why)
            .filter(|why| !why.is_empty())
            .unwrap_or_else(|| "it is starting".into())
    };
    for (c, made_of) in entry.status.containers.iter().zip(&entry.record.containers) {
        let who = match c.kind {
            ContainerKind::Init => "init container",
            ContainerKind::App => "container",
            ContainerKind::Ephemeral => "ephemeral container",
        };
        match &c.state {
            State::Waiting { reason, message } => {
                let said = if message.is_empty() { String::new() } else { format!(": {message}") };
                answer.details.push(format!("{who} {}: waits, {reason}{said}", c.name));
                if let Some(exit) = &c.last {
                    answer.details.push(format!(
                        "{who} {}: last ended with exit code {}, {}{}",
                        c.name,
                        exit.exit_code,
                        exit.reason,
                        if exit.message.is_empty() { String::new() } else { format!(": {}", exit.message) }
                    ));
                    let delay = c.backoff.as_ref().map_or(0, |b| b.delay_ms.saturating_mul(1_000_000));
                    let due = exit.finished_boot_ns.saturating_add(delay);
                    let when =
                        due.checked_sub(now).map_or_else(|| "now".to_owned(), |left| format!("in {}", seconds(left)));
                    answer.next.push(format!("{who} {} is started again {when}", c.name));
                } else if initializing && c.kind == ContainerKind::App {
                    answer.next.push(format!("{who} {} is started when the init containers are done", c.name));
                }
            }
            State::Terminated(exit) if exit.exit_code != 0 => {
                let said = if exit.message.is_empty() { String::new() } else { format!(": {}", exit.message) };
                answer
                    .details
                    .push(format!("{who} {}: ended with exit code {}, {}{said}", c.name, exit.exit_code, exit.reason));
            }
            State::Terminated(_) => {}
            State::Running { .. } => {
                let _ = made_of;
                if c.started == Some(false) {
                    answer.details.push(format!("{who} {}: runs, and its startup probe has not succeeded yet", c.name));
                } else if c.ready == Some(false) {
                    answer.details.push(format!("{who} {}: runs, and its readiness probe fails", c.name));
                }
                if let Some(stop) = &c.stop {
                    answer.details.extend(waited_for(c));
                    let left = stop.deadline_boot_ns.saturating_sub(now);
                    answer.next.push(format!("{who} {} is killed in {} if it has not ended", c.name, seconds(left)));
                }
            }
        }
    }
}

/// What a container does that was asked to stop: a process in the kernel's hands cannot be killed.
fn waited_for(c: &Container) -> Option<String> {
    let State::Running { pid, .. } = &c.state else { return None };
    let read =
        |what: &str| file::read_text(std::path::Path::new(&format!("/proc/{pid}/{what}")), 4096).unwrap_or_default();
    let stat = read("stat");
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    if state != Some('D') {
        return Some(format!("container {}: process {pid} has not ended", c.name));
    }
    let (wchan, stack) = (read("wchan"), read("stack"));
    let frames: Vec<&str> = stack.lines().take(FRAMES).filter_map(|l| l.split_once("] ").map(|(_, f)| f)).collect();
    Some(format!(
        "container {}: process {pid} sleeps in the kernel (D) in {wchan}, and can't be killed before that is over; {}",
        c.name,
        frames.join(" < ")
    ))
}

/// What the pod needs and the host has not (any more): of what is not running.
fn missing(context: &Context, entry: &PodEntry, answer: &mut Answer) {
    let store = Store::open(&context.roots.root);
    for (c, made_of) in entry.status.containers.iter().zip(&entry.record.containers) {
        if matches!(c.state, State::Running { .. }) || entry.status.finished_at.is_some() {
            continue;
        }
        if let Ok(store) = &store
            && let Err(e) = store.resolve(&made_of.image_id)
        {
            answer.details.push(format!("container {}: image {}: {e}", c.name, made_of.image_ref));
        }
        for mount in &made_of.mounts {
            if let MountSource::Host { path, typ } = &mount.source
                && !typ.ends_with("OrCreate")
                && std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
            {
                answer
                    .details
                    .push(format!("container {}: volume {}: {path} of the host is not there", c.name, mount.volume));
            }
        }
    }
}

/// The end of the log of the container that failed last.
fn log(answer: &mut Answer, entry: &PodEntry) {
    let failed = |c: &&Container| c.last.iter().chain(ended(c)).any(|exit| exit.exit_code != 0);
    let Some(c) = entry
        .status
        .containers
        .iter()
        .filter(failed)
        .max_by_key(|c| c.last.iter().chain(ended(c)).map(|exit| exit.finished_boot_ns).max())
    else {
        return;
    };
    let Some(attempt) = c.last.iter().chain(ended(c)).map(|exit| exit.attempt).max() else { return };
    answer.commands.push(format!("husk logs {} -c {}", entry.record.name(), c.name));
    let directory = std::path::Path::new(&entry.record.log_dir).join(&c.name);
    let Ok(mut reader) = LogReader::open(&directory, attempt) else { return };
    let mut lines = std::collections::VecDeque::new();
    let read = reader.skip_to_tail(LINES, |_| true).and_then(|()| {
        reader.read(|line| {
            lines.push_back(String::from_utf8_lossy(line.text).into_owned());
            if lines.len() > LINES {
                lines.pop_front();
            }
            Ok(())
        })
    });
    match read {
        Ok(()) if lines.is_empty() => {}
        Ok(()) => answer.log = Some(LogTail { container: c.name.clone(), lines: lines.into() }),
        Err(e) => answer.details.extend(e.messages().iter().map(|m| format!("container {}: its log: {m}", c.name))),
    }
}

fn ended(c: &Container) -> Option<&crate::state::record::Exit> {
    if let State::Terminated(exit) = &c.state { Some(exit) } else { None }
}

/// Nanoseconds as `9s`, rounded up: what is a moment away is not `0s`.
fn seconds(ns: u64) -> String {
    span::age(i64::try_from(ns.div_ceil(1_000_000_000)).unwrap_or(i64::MAX))
}
