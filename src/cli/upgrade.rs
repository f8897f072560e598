//! `husk upgrade`: supervisors of this very program for pods that run.

use clap::Args;

use super::get::Select;
use super::out::{self, Out};
use super::{Context, Error, names};
use crate::runtime::upgrade::Successor;
use crate::state::{self, PodEntry};
use crate::supervisor::upgrade::formats;

/// Have pods that run looked after by this version of husk.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk upgrade demo\n  husk upgrade --all -A")]
pub struct Upgrade {
    /// Names, with or without pod in front
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// All pods of the namespace that run
    #[arg(long)]
    all: bool,
}

impl Upgrade {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let (entries, mut complaints) = self.targets(context)?;
        if entries.is_empty() && complaints.is_empty() {
            out::say("no pods that run");
            return Ok(());
        }
        let mut out = Out::new();
        if !entries.is_empty() {
            let successor = Successor::new(&context.roots, formats())?;
            for entry in &entries {
                match successor.take_over(&context.roots, entry) {
                    Ok(()) => out.line(format!("pod/{} upgraded", entry.record.name()))?,
                    Err(error) => complaints.push(super::error::sentence(&error)),
                }
            }
        }
        out.flush()?;
        if complaints.is_empty() { Ok(()) } else { Err(Error::Invalid { messages: complaints }) }
    }

    /// The pods that are meant, and a sentence for each that is left out. Of a pod whose records are another husk's we can take over nothing, and
    /// probably nothing of the others either: then none is touched.
    fn targets(&self, context: &Context) -> Result<(Vec<PodEntry>, Vec<String>), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        if self.all || self.select.selector.is_some() {
            if !names.names.is_empty() {
                return Err(Error::usage("names cannot be combined with -l or --all"));
            }
            let (entries, unreadable) = self.select.listed(context)?;
            let complaints: Vec<String> = unreadable.iter().map(super::get::complaint).collect();
            if unreadable.iter().any(|it| matches!(it.error, state::Error::Version { .. })) {
                return Err(Error::Invalid { messages: complaints });
            }
            return Ok((entries.into_iter().filter(|entry| entry.live).collect(), complaints));
        }
        if self.select.all_namespaces {
            return Err(Error::usage("-A needs -l or --all"));
        }
        if names.names.is_empty() {
            return Err(Error::usage("which pods? name them, or use -l or --all"));
        }
        let mut entries: Vec<PodEntry> = Vec::new();
        let mut complaints = Vec::new();
        for name in &names.names {
            match context.roots.find(&context.namespace, name) {
                Ok(entry) if entries.iter().any(|other| other.id == entry.id) => {}
                Ok(entry) if entry.live => entries.push(entry),
                Ok(_) => complaints.push(format!("pod {name} does not run any more: nobody looks after it")),
                Err(error) => complaints.push(super::error::sentence(&error)),
            }
        }
        if complaints.is_empty() { Ok((entries, complaints)) } else { Err(Error::Invalid { messages: complaints }) }
    }
}
