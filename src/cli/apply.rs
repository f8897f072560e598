//! `husk apply` and `husk diff`: pods that run, and what their manifests say now.

use clap::Args;
use similar::TextDiff;

use super::get::Format;
use super::out::{self, Out};
use super::{Context, Error, NetworkOption, run};
use crate::manifest::{Difference, InPlace, comparable, difference};
use crate::network::Mode;
use crate::runtime::{self, DeleteOptions, Settings};
use crate::state::record::Owner;
use crate::state::{self, Listed, PodEntry};
use k8s_openapi::api::core::v1::Pod;

/// Make pods what their manifests say: create, change in place, or replace.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk apply -f pod.yaml\n  husk apply -f pod.yaml --replace")]
pub struct Apply {
    /// Manifests, YAML or JSON, one or more documents each; - is standard input
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<String>,
    /// A pod that cannot be changed as asked is ended with its grace period and made anew
    #[arg(long)]
    replace: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    network: NetworkOption,
}

/// Show how pods that run differ from their manifests.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk diff -f pod.yaml\n\nExit code: 0 no difference, 1 some, 2 husk failed")]
pub struct Diff {
    /// Manifests, YAML or JSON, one or more documents each; - is standard input
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    network: NetworkOption,
}

/// What is to be done about one pod.
enum Step {
    Create,
    Nothing,
    Change(Box<PodEntry>, InPlace),
    Replace(Box<PodEntry>),
}

impl Apply {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let settings = context.settings(&self.network)?;
        let pods = run::read_all(&self.files, context, settings.network.mode == Mode::Host)?;
        let mut out = Out::new();
        let mut steps = Vec::new();
        let mut refusals = Vec::new();
        for pod in &pods {
            steps.push(self.step(context, &settings, pod, &mut out, &mut refusals)?);
        }
        out.flush()?;
        if !refusals.is_empty() {
            return Err(Error::Invalid { messages: refusals });
        }
        let mut complaints = Vec::new();
        for (pod, step) in pods.into_iter().zip(steps) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let done = match &step {
                Step::Create => "created",
                Step::Nothing => "unchanged",
                Step::Change(..) => "configured",
                Step::Replace(_) => "replaced",
            };
            let worked = if self.dry_run { Ok(Vec::new()) } else { work(context, &settings, pod, step) };
            match worked {
                Ok(warnings) => {
                    warnings.iter().for_each(|w| out::say(format!("pod {name}: warning: {w}")));
                    out.line(format!("pod/{name} {done}{}", if self.dry_run { " (dry run)" } else { "" }))?;
                    out.flush()?;
                }
                Err(error) => complaints.push(super::error::sentence(&error)),
            }
        }
        if complaints.is_empty() { Ok(()) } else { Err(Error::Invalid { messages: complaints }) }
    }

    /// Decides, and checks what can be checked before anything is touched. What needs another pod is shown, and refused unless that was asked for.
    fn step(
        &self,
        context: &Context,
        settings: &Settings,
        pod: &Pod,
        out: &mut Out,
        refusals: &mut Vec<String>,
    ) -> Result<Step, Error> {
        let (entry, difference) = match compared(context, pod)? {
            None => {
                run::resolve(context, settings, std::slice::from_ref(pod))?;
                return Ok(Step::Create);
            }
            Some(both) => both,
        };
        let ended = entry.status.finished_at.is_some();
        let name = entry.full_name();
        if let (Some(source), false) = (&entry.record.source, difference == Difference::None) {
            refusals.push(format!("pod {name}: husk watch has made it from {}; change it there", source.place));
            return Ok(Step::Nothing);
        }
        let reasons = match difference {
            Difference::None => return Ok(Step::Nothing),
            Difference::InPlace(change) if !ended => {
                if !change.images.is_empty() {
                    run::resolve(context, settings, std::slice::from_ref(pod))?;
                }
                return Ok(Step::Change(Box::new(entry), change));
            }
            Difference::InPlace(_) => vec!["it has ended, and what has ended cannot be changed".to_owned()],
            Difference::Replace(reasons) => reasons,
        };
        out.raw(diff_text(Some(&entry.record.pod), pod)?.as_bytes())?;
        if !self.replace && !self.dry_run {
            refusals.extend(reasons.iter().map(|why| format!("pod {name}: {why}")));
            refusals.push(format!("pod {name}: with --replace it is ended with its grace period and made anew"));
        }
        run::resolve(context, settings, std::slice::from_ref(pod))?;
        Ok(Step::Replace(Box::new(entry)))
    }
}

impl Diff {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        match self.differs(context) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::Exit { code: 1 }),
            Err(error @ (Error::Usage { .. } | Error::ClosedOutput)) => Err(error),
            Err(error) => {
                error.messages().iter().for_each(out::say);
                Err(Error::Exit { code: 2 })
            }
        }
    }

    fn differs(&self, context: &Context) -> Result<bool, Error> {
        let settings = context.settings(&self.network)?;
        let mut out = Out::new();
        let mut any = false;
        for pod in run::read_all(&self.files, context, settings.network.mode == Mode::Host)? {
            let there = compared(context, &pod)?;
            if matches!(&there, Some((_, Difference::None))) {
                continue;
            }
            any = true;
            out.raw(diff_text(there.as_ref().map(|(entry, _)| &entry.record.pod), &pod)?.as_bytes())?;
        }
        out.flush()?;
        Ok(any)
    }
}

/// The pod of this name and how it differs; `None` when there is none, or one that died without an end, which the next start collects.
fn compared(context: &Context, pod: &Pod) -> Result<Option<(PodEntry, Difference)>, Error> {
    let meta = &pod.metadata;
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let entry = match context.roots.find_any(namespace, name) {
        Ok(Listed::Pod(entry)) => *entry,
        Ok(Listed::Unfinished { .. }) | Err(state::Error::NotFound { .. }) => return Ok(None),
        Ok(Listed::Unreadable(it)) => return Err(it.error.into()),
        Err(error) => return Err(error.into()),
    };
    if entry.record.driven() || (!entry.live && entry.status.finished_at.is_none()) {
        return Ok(None);
    }
    if entry.status.deletion.is_some() {
        return Err(Error::failed(format!(
            "pod {}: it is being deleted; try again when it is gone",
            entry.full_name()
        )));
    }
    let difference = difference(&entry.record.pod, pod);
    Ok(Some((entry, difference)))
}

/// Does a step: what there is to warn of.
fn work(context: &Context, settings: &Settings, pod: Pod, step: Step) -> Result<Vec<String>, runtime::Error> {
    let roots = &context.roots;
    match step {
        Step::Nothing => Ok(Vec::new()),
        Step::Create => runtime::run(roots, settings, pod, Owner::Cli).map(|made| made.warnings),
        Step::Change(entry, change) => {
            runtime::update::change(roots, &entry, &pod, None, &change)?;
            Ok(Vec::new())
        }
        Step::Replace(entry) => {
            let options = DeleteOptions { grace_seconds: None, force: false, wait: true };
            runtime::delete(roots, &Listed::Pod(entry), options)?;
            runtime::run(roots, settings, pod, Owner::Cli).map(|made| made.warnings)
        }
    }
}

/// The difference of two pods as patches have it, in YAML.
fn diff_text(there: Option<&Pod>, wanted: &Pod) -> Result<String, Error> {
    let wanted = comparable(wanted);
    let old = there.map(|pod| {
        let mut pod = comparable(pod);
        if wanted.metadata.uid.is_none() {
            pod.metadata.uid = None;
        }
        pod
    });
    let old = old.map(|pod| Format::Yaml.render(&pod)).transpose()?.unwrap_or_default();
    let new = Format::Yaml.render(&wanted)?;
    let meta = &wanted.metadata;
    let name =
        format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let diff = TextDiff::from_lines(&old, &new);
    Ok(diff.unified_diff().context_radius(3).header(&format!("LIVE/{name}"), &format!("MANIFEST/{name}")).to_string())
}
