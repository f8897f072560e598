//! `husk delete`: asks for the end of pods, all at once, and waits until nothing of them is left.

use clap::Args;

use super::get::Select;
use super::out::{self, Out};
use super::{Context, Error, names, run, timeline};
use crate::runtime::{self, DeleteOptions};
use crate::state::{self, Listed};

/// End pods and remove what they used.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk delete demo\n  husk delete pods --all --grace-period=5")]
pub struct Delete {
    /// Names, with or without pod in front
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// All pods of the namespace
    #[arg(long)]
    all: bool,
    /// The pods of these manifests; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,
    /// Seconds between the stop signal and SIGKILL; without it, what the pod says
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    grace_period: Option<u32>,
    /// Kill at once
    #[arg(long)]
    force: bool,
    /// The same as --grace-period=1
    #[arg(long, conflicts_with_all = ["grace_period", "force"])]
    now: bool,
    /// Come back when the pods are gone; --wait=false when their end has begun
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    wait: bool,
    /// Print how long each step of the end took
    #[arg(long)]
    timeline: bool,
    /// A pod that is not there counts as deleted
    #[arg(long)]
    ignore_not_found: bool,
}

impl Delete {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let options = self.options()?;
        let (entries, mut complaints) = self.targets(context)?;
        let mut out = Out::new();
        let chosen_by_name = self.select.selector.is_none() && !self.all;
        if entries.is_empty() && complaints.is_empty() && !chosen_by_name {
            out::say("no pods found");
        }
        // Side by side: each may take its whole grace period. This thread takes one itself, most often the only one.
        let delete = |entry| match self.timeline {
            true => runtime::delete_and_tell(&context.roots, entry, options),
            false => runtime::delete(&context.roots, entry, options).map(|()| Vec::new()),
        };
        let results = std::thread::scope(|scope| {
            let (last, others) = entries.split_last()?;
            let running: Vec<_> = others.iter().map(|entry| scope.spawn(move || delete(entry))).collect();
            let last = delete(last);
            let others = running.into_iter().map(|thread| thread.join());
            Some(others.chain([Ok(last)]).collect::<Vec<_>>())
        });
        let results = results.unwrap_or_default();
        for (entry, result) in entries.iter().zip(results) {
            let name = super::short_name(entry);
            match result {
                Ok(Ok(steps)) => {
                    out.line(match (options.force, options.wait) {
                        (true, _) => format!("pod/{name} force deleted"),
                        (false, true) => format!("pod/{name} deleted"),
                        (false, false) => format!("pod/{name} is being deleted"),
                    })?;
                    timeline::print_stop(&mut out, name, steps)?;
                }
                Ok(Err(error)) => complaints.push(super::error::sentence(&error)),
                Err(_) => complaints.push(format!("pod {name}: the thread that deleted it panicked")),
            }
        }
        out.flush()?;
        if complaints.is_empty() { Ok(()) } else { Err(Error::Invalid { messages: complaints }) }
    }

    fn options(&self) -> Result<DeleteOptions, Error> {
        if self.grace_period == Some(0) && !self.force {
            return Err(Error::usage(
                "--grace-period=0 kills without asking: add --force if that is meant, or use --now for one second",
            ));
        }
        if self.timeline && !self.wait {
            return Err(Error::usage("--timeline tells of the end when it is over: leave out --wait=false"));
        }
        if self.force && self.grace_period.is_some_and(|seconds| seconds > 0) {
            return Err(Error::usage("--force kills at once: leave out --grace-period"));
        }
        let grace_seconds = if self.now { Some(1) } else { self.grace_period.map(u64::from) };
        Ok(DeleteOptions { grace_seconds, force: self.force, wait: self.wait })
    }

    /// The pods that are meant, each once, and a sentence for each that is not there.
    fn targets(&self, context: &Context) -> Result<(Vec<Listed>, Vec<String>), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        let chosen = self.all || self.select.selector.is_some();
        let mut wanted: Vec<(String, String)> =
            names.names.into_iter().map(|name| (context.namespace.clone(), name)).collect();
        if chosen {
            if !wanted.is_empty() || !self.files.is_empty() {
                return Err(Error::usage("names and -f cannot be combined with -l or --all"));
            }
            let (entries, unreadable) = self.select.listed(context)?;
            // What labels they have cannot be known.
            if self.select.selector.is_some() {
                let complaints = unreadable.iter().map(super::get::complaint).collect();
                return Ok((entries.into_iter().map(|entry| Listed::Pod(Box::new(entry))).collect(), complaints));
            }
            // Nor is it known that one without a name belongs to this namespace.
            let all = self.select.all_namespaces;
            let (meant, other): (Vec<_>, Vec<_>) = unreadable.into_iter().partition(|it| all || it.name.is_some());
            let entries = entries.into_iter().map(|entry| Listed::Pod(Box::new(entry)));
            let meant = meant.into_iter().map(|it| Listed::Unreadable(Box::new(it)));
            return Ok((entries.chain(meant).collect(), other.iter().map(super::get::complaint).collect()));
        }
        if self.select.all_namespaces {
            return Err(Error::usage("-A needs -l or --all"));
        }
        for pod in run::read_all(&self.files, context, false)? {
            let metadata = pod.metadata;
            wanted.push((
                metadata.namespace.unwrap_or_else(|| context.namespace.clone()),
                metadata.name.unwrap_or_default(),
            ));
        }
        if wanted.is_empty() {
            return Err(Error::usage("which pods? name them, or use -f, -l or --all"));
        }
        let mut entries: Vec<Listed> = Vec::new();
        let mut complaints = Vec::new();
        for (namespace, name) in wanted {
            match context.roots.find_any(&namespace, &name) {
                Ok(entry) if entries.iter().any(|other| other.id() == entry.id()) => {}
                Ok(entry) => entries.push(entry),
                Err(state::Error::NotFound { .. }) if self.ignore_not_found => {}
                Err(error) => complaints.push(super::error::sentence(&error)),
            }
        }
        Ok((entries, complaints))
    }
}
