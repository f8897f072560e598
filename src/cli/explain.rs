//! `husk explain`: why a pod is as it is, what happens next, and what to do about it.

mod gather;

use clap::Args;
use serde::Serialize;

use super::get::Format;
use super::out::Out;
use super::{Context, Error, names};
use crate::state::Listed;

/// Tell why a pod is as it is, and what happens next.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk explain demo")]
pub struct Explain {
    /// The pod's name, with or without pod in front
    #[arg(required = true, value_name = "[KIND] NAME")]
    what: Vec<String>,
    /// json or yaml instead of text
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    /// As `husk get` prints it.
    status: String,
    ready: bool,
    /// One sentence: what blocks it, or that nothing does.
    why: String,
    /// What is known about that, the most important first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
    /// What happens without anybody's help.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<String>,
    /// The end of what a failed container has printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogTail>,
    /// The newest warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// Commands that tell more, or change it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
}

/// The last lines of a log.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogTail {
    container: String,
    lines: Vec<String>,
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        let [name] = names.names.as_slice() else { return Err(Error::usage("one pod at a time: name it")) };
        let answer = match context.roots.find_any(&context.namespace, name) {
            Ok(Listed::Pod(entry)) => gather::pod(context, *entry)?,
            Ok(Listed::Unreadable(it)) => gather::unreadable(&it),
            Ok(Listed::Unfinished { .. }) => return Err(Error::failed(format!("pod {name}: is being made"))),
            Err(crate::state::Error::NotFound { namespace, .. }) => {
                return Err(Error::failed(format!(
                    "pod {name}: not found in namespace {namespace}: it was deleted, with all that was known of it, or never started; \
                     what failed to start says so where husk run was called"
                )));
            }
            Err(e) => return Err(e.into()),
        };
        let mut out = Out::new();
        match self.output {
            Some(format) => out.raw(format.render(&answer)?.as_bytes())?,
            None => answer.print(&mut out)?,
        }
        out.flush()
    }
}

impl Answer {
    fn print(&self, out: &mut Out) -> Result<(), Error> {
        let ready = if self.ready { "ready" } else { "not ready" };
        out.line(format!("pod {} is {}, {ready}: {}", self.pod, self.status, self.why))?;
        self.details.iter().try_for_each(|line| out.line(format!("  {line}")))?;
        if !self.next.is_empty() {
            out.line("What happens next:")?;
            self.next.iter().try_for_each(|line| out.line(format!("  {line}")))?;
        }
        if let Some(log) = &self.log {
            out.line(format!("The last lines of container {}:", log.container))?;
            log.lines.iter().try_for_each(|line| out.line(format!("  | {line}")))?;
        }
        if !self.warnings.is_empty() {
            out.line("Warnings:")?;
            self.warnings.iter().try_for_each(|line| out.line(format!("  {line}")))?;
        }
        if !self.commands.is_empty() {
            out.line("To go on:")?;
            self.commands.iter().try_for_each(|line| out.line(format!("  {line}")))?;
        }
        Ok(())
    }
}
