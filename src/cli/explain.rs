//! `husk explain`: why a pod is as it is, what happens next, and what to do about it.
//!
//! * `gather.rs`: what the records, the events, the logs and the host say
//! * `reason.rs`, `container.rs`: from that to sentences, without looking anywhere
//! * here: the command, the answer, and how it is printed

mod container;
mod gather;
mod reason;
#[cfg(test)]
mod tests;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::get::Format;
use super::out::Out;
use super::{Context, Error, names, span};
use crate::state::{self, Listed};

/// Tell why a pod is as it is, and what happens next.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk explain demo\n  husk explain demo -o json")]
pub struct Explain {
    /// The pod's name, with or without pod in front
    #[arg(required = true, value_name = "[KIND] NAME")]
    what: Vec<String>,
    /// json or yaml instead of text
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

/// What keeps a pod from running and being ready, or that it comes to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Stage {
    /// The records cannot be read.
    Unreadable,
    /// Nobody watches it: its processes are gone.
    Lost,
    /// It has come to its end.
    Ended,
    /// It is being deleted.
    Deleting,
    /// It comes to its end by itself.
    Ending,
    /// All its containers are to begin anew.
    RestartingAll,
    /// There is no sandbox yet, or no more.
    Sandbox,
    /// Init containers are not done.
    Init,
    /// A container could not be started, or was not yet.
    Start,
    /// A container has ended, and waits to be started again.
    Restart,
    /// A container was asked to stop.
    Stopping,
    /// A postStart hook is not over.
    PostStart,
    /// A startup probe has not succeeded.
    Startup,
    /// A readiness probe has not succeeded, or fails.
    Readiness,
    /// A container has ended for good, and others run.
    Done,
    /// A readiness gate is closed.
    Gates,
    /// A CRI client decides.
    Client,
    /// Nothing: it runs and is ready.
    #[default]
    None,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    pod: String,
    uid: String,
    /// As `husk get` prints it.
    status: String,
    /// `1/2`
    ready_containers: String,
    ready: bool,
    stage: Stage,
    /// One sentence: what blocks it, or that nothing does.
    why: String,
    /// What else is known, the most important first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
    /// What the pod needs and the host has not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<Detail>,
    /// What the probes that fail have said last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<LastProbe>,
    /// What happens without anybody's help, the first first.
    next: Vec<Next>,
    /// The end of what a failed container has printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogTail>,
    /// The newest warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    /// Commands that tell more, or change it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
}

/// A sentence, and which container it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    text: String,
}

/// The newest failure of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LastProbe {
    container: String,
    /// `startup`, `liveness`, `readiness`
    probe: String,
    output: String,
    at: Timestamp,
    /// How often it has said this.
    count: u64,
}

/// Something that will happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Next {
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    text: String,
    /// When; absent: when what is before it has happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_seconds: Option<u64>,
}

/// The last lines of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogTail {
    container: String,
    /// The instance, counted from 0.
    attempt: u32,
    lines: Vec<String>,
}

/// A warning that was told as an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning {
    reason: String,
    message: String,
    count: u64,
    last: Timestamp,
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        let [name] = names.names.as_slice() else { return Err(Error::usage("one pod at a time: name it")) };
        let answer = match context.roots.find_any(&context.namespace, name) {
            Ok(Listed::Pod(entry)) => reason::explain(&gather::facts(context, *entry)?),
            Ok(Listed::Unreadable(it)) => reason::unreadable(&it),
            Ok(Listed::Unfinished { .. }) => return Err(Error::failed(format!("pod {name}: is being made"))),
            Err(state::Error::NotFound { namespace, .. }) => {
                return Err(Error::failed(format!(
                    "pod {name}: not found in namespace {namespace}: it was deleted, with all that was known of it, or never \
                     started; why a pod could not be started is said where that was tried"
                )));
            }
            Err(e) => return Err(e.into()),
        };
        let mut out = Out::new();
        match self.output {
            Some(format) => out.raw(format.render(&answer)?.as_bytes())?,
            None => answer.lines(Timestamp::now()).iter().try_for_each(|line| out.line(line))?,
        }
        out.flush()
    }
}

/// No line of the text is longer: it is for one screen.
const LINE_CHARS: usize = 240;

impl Answer {
    /// The answer as people read it.
    fn lines(&self, now: Timestamp) -> Vec<String> {
        let full =
            if self.namespace.is_empty() { self.pod.clone() } else { format!("{}/{}", self.namespace, self.pod) };
        let ready = if self.ready_containers.is_empty() { "" } else { &format!(", {} ready", self.ready_containers) };
        let mut lines = vec![format!("Pod {full}: {}{ready}", self.status), format!("Why: {}", self.why)];
        let mut section = |title: &str, content: Vec<String>| {
            if !content.is_empty() {
                lines.push(format!("{title}:"));
                lines.extend(content.into_iter().map(|line| format!("  {line}")));
            }
        };
        let texts = |details: &[Detail]| details.iter().map(|detail| detail.text.clone()).collect::<Vec<_>>();
        let ago = |then: Timestamp| span::age(now.as_second() - then.as_second());
        section("Missing", texts(&self.missing));
        section("Known", texts(&self.details));
        let probes = self.probes.iter().map(|it| {
            let times = if it.count > 1 { format!(", {} times so far", it.count) } else { String::new() };
            format!("{} of container {}, {} ago{times}: {}", it.probe, it.container, ago(it.at), it.output)
        });
        section("Last failure of a probe", probes.collect());
        let next = self.next.iter().map(|it| match (it.in_seconds, it.at) {
            (Some(seconds), Some(at)) => {
                let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
                format!("in {} ({}): {}", span::age(seconds), at.strftime("%H:%M:%SZ"), it.text)
            }
            _ => it.text.clone(),
        });
        section("Next", next.collect());
        if let Some(log) = &self.log {
            let content = log.lines.iter().map(|line| format!("| {line}"));
            section(&format!("Last output of container {}", log.container), content.collect());
        }
        let warnings = self.warnings.iter().map(|it| {
            let times = if it.count > 1 { format!(", {} times", it.count) } else { String::new() };
            format!("{} ago{times}: {}: {}", ago(it.last), it.reason, it.message)
        });
        section("Warnings", warnings.collect());
        section("More", self.commands.clone());
        lines.into_iter().map(clip).collect()
    }
}

/// Cuts a line that is too long.
fn clip(line: String) -> String {
    match line.char_indices().nth(LINE_CHARS) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}
