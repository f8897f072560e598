//! `husk timeline`: how long each step of a start or a stop took.

mod draw;

use clap::Args;
use serde::Serialize;

use super::get::Format;
use super::out::Out;
use super::{Context, Error, names};
use crate::state::PodEntry;
use crate::state::timeline::{Kind, Play, Step, What};

/// Show how long each step of a start or a stop took.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  husk timeline demo\n  husk timeline demo:web@0 --compare demo:web@3\n  husk timeline a --compare b -o json"
)]
pub struct Timeline {
    /// The pod; POD:CONTAINER for all starts of a container, POD:CONTAINER@N for one of them, counted from 0
    #[arg(value_name = "POD[:CONTAINER[@N]]")]
    of: String,
    /// Put another start beside it: of another pod, or another instance of a container
    #[arg(long, value_name = "POD[:CONTAINER[@N]]")]
    compare: Option<String>,
    /// json or yaml instead of the drawing
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

/// What a command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    pod: String,
    container: Option<String>,
    attempt: Option<u32>,
}

impl Wanted {
    fn read(text: &str) -> Result<Wanted, String> {
        let wrong = || format!("{text:?} is not POD, POD:CONTAINER or POD:CONTAINER@N");
        let (pod, rest) = text.split_once(':').map_or((text, None), |(pod, rest)| (pod, Some(rest)));
        let (container, attempt) =
            match rest.map(|rest| rest.split_once('@').map_or((rest, None), |(c, n)| (c, Some(n)))) {
                None => (None, None),
                Some(("", _)) => return Err(wrong()),
                Some((container, None)) => (Some(container.to_owned()), None),
                Some((container, Some(n))) => (Some(container.to_owned()), Some(n.parse().map_err(|_| wrong())?)),
            };
        Ok(Wanted { pod: names::name(pod)?, container, attempt })
    }

    /// What is meant of a play.
    fn of(&self, mut play: Play) -> Option<Play> {
        let Some(container) = &self.container else {
            // Other instances of a container are asked for by its name.
            return matches!(play.what, What::Start { .. } | What::Stop).then_some(play);
        };
        play.steps.retain(|step| {
            step.container.as_ref() == Some(container) && self.attempt.is_none_or(|attempt| attempt == step.attempt)
        });
        let attempt = play.steps.first()?.attempt;
        if let What::Start { .. } = play.what {
            play.what = What::Instance { container: container.clone(), attempt };
        }
        Some(play)
    }
}

/// A play as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    pod: String,
    #[serde(flatten)]
    what: Words,
    /// By the wall clock; absent when the host was started anew since.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun_at: Option<jiff::Timestamp>,
    took_us: f64,
    steps: Vec<ShownStep>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Words {
    /// `start`, `instance`, `instanceEnd` or `stop`.
    of: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
}

/// A step as it is shown; microseconds since the play began.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownStep {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "is_first")]
    attempt: u32,
    step: String,
    from_us: f64,
    took_us: f64,
}

fn is_first(attempt: &u32) -> bool {
    *attempt == 0
}

/// What a step is called.
fn words(step: &Step) -> String {
    let c = step.container.as_deref().unwrap_or("");
    match step.kind {
        Kind::Parse => "run: read the manifest".into(),
        Kind::Resolve => "run: resolve images and paths".into(),
        Kind::Reserve => "run: reserve the name".into(),
        Kind::Launch => "run: clone pause and keeper".into(),
        Kind::Help => "run: make cgroups and places".into(),
        Kind::Supervisor => "keeper executes the supervisor".into(),
        Kind::Adopt => "adopt pause, listen".into(),
        Kind::Places => "make cgroups and places".into(),
        Kind::Network => "link the pod to its network".into(),
        Kind::Prepare => format!("{c}: prepare"),
        Kind::Sandbox => "pause makes its namespaces".into(),
        Kind::Create => format!("{c}: clone the process"),
        Kind::Record => format!("{c}: write it down"),
        Kind::Execute => format!("{c}: set up and execute"),
        Kind::PostStart => format!("{c}: postStart"),
        Kind::Answer => "husk run is answered".into(),
        Kind::Started => format!("{c}: started"),
        Kind::Ready => format!("{c}: ready"),
        Kind::Asked => "asked to end".into(),
        Kind::PreStop => format!("{c}: preStop"),
        Kind::Stop => format!("{c}: stop signal to end"),
        Kind::Kill => format!("{c}: SIGKILL").trim_start_matches(": ").to_owned(),
        Kind::Exit => format!("{c}: ends"),
        Kind::EndSandbox => "pause ends".into(),
        Kind::Remove => "remove what is left".into(),
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

impl Shown {
    fn new(pod: &str, play: &Play, same_boot: bool) -> Shown {
        let begun = play.steps.iter().map(|s| s.from_ns).min().unwrap_or(0);
        let end = play.steps.iter().map(|s| s.to_ns).max().unwrap_or(begun);
        let (of, container, attempt) = match &play.what {
            What::Start { .. } => ("start", None, None),
            What::Instance { container, attempt } => ("instance", Some(container.clone()), Some(*attempt)),
            What::InstanceEnd { container, attempt } => ("instanceEnd", Some(container.clone()), Some(*attempt)),
            What::Stop => ("stop", None, None),
        };
        let steps = play.steps.iter().map(|step| ShownStep {
            kind: step.kind,
            container: step.container.clone(),
            attempt: step.attempt,
            step: words(step),
            from_us: us(step.from_ns - begun),
            took_us: us(step.to_ns - step.from_ns),
        });
        let ago = |ns: u64| i64::try_from(now_ns().saturating_sub(ns)).ok().map(jiff::SignedDuration::from_nanos);
        let begun_at =
            same_boot.then(|| ago(begun)).flatten().and_then(|ago| jiff::Timestamp::now().checked_sub(ago).ok());
        Shown {
            pod: pod.to_owned(),
            what: Words { of, container, attempt },
            begun_at,
            took_us: us(end - begun),
            steps: steps.collect(),
        }
    }

    fn title(&self) -> String {
        let of = match (&self.what.container, self.what.attempt) {
            (Some(container), Some(attempt)) => {
                let end = if self.what.of == "instanceEnd" { "end of " } else { "" };
                format!("{end}instance {attempt} of container {container} in pod {}", self.pod)
            }
            _ => format!("{} of pod {}", self.what.of, self.pod),
        };
        let at = self.begun_at.map(|at| format!(", {at:.6}")).unwrap_or_default();
        format!("{of}{at}, {} ms", draw::ms(self.took_us))
    }
}

fn now_ns() -> u64 {
    husk_oci::sys::clock::boottime().as_nanos() as u64
}

/// The plays that are meant, as they are shown.
fn find(context: &Context, wanted: &Wanted) -> Result<(PodEntry, Vec<Shown>), Error> {
    let entry = context.roots.find(&context.namespace, &wanted.pod)?;
    let same_boot = crate::state::boot_id().is_ok_and(|id| id == entry.status.boot_id);
    let plays = context.roots.timeline(&entry.id)?;
    if let Some(container) = &wanted.container
        && !entry.record.containers.iter().any(|c| c.name == *container)
    {
        let names: Vec<&str> = entry.record.containers.iter().map(|c| c.name.as_str()).collect();
        return Err(Error::failed(format!(
            "pod {}: has no container {container:?}; it has {}",
            wanted.pod,
            names.join(", ")
        )));
    }
    let shown: Vec<Shown> = plays
        .into_iter()
        .filter_map(|play| wanted.of(play))
        .map(|play| Shown::new(&wanted.pod, &play, same_boot))
        .collect();
    if shown.is_empty() {
        return Err(Error::failed(format!(
            "pod {}: nothing is known of such a start; it may have been lost with its supervisor",
            wanted.pod
        )));
    }
    Ok((entry, shown))
}

impl Timeline {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let wanted = Wanted::read(&self.of).map_err(Error::usage)?;
        let mut out = Out::new();
        match &self.compare {
            None => {
                let (_, shown) = find(context, &wanted)?;
                match self.output {
                    Some(format) => out.raw(format.render(&shown)?.as_bytes())?,
                    None => print(&mut out, &shown)?,
                }
            }
            Some(other) => {
                let other = Wanted::read(other).map_err(Error::usage)?;
                let first = |wanted: &Wanted| -> Result<Shown, Error> {
                    let (_, mut shown) = find(context, wanted)?;
                    Ok(shown.swap_remove(0))
                };
                let (a, b) = (first(&wanted)?, first(&other)?);
                match self.output {
                    Some(format) => out.raw(format.render(&draw::Comparison::new(&a, &b))?.as_bytes())?,
                    None => draw::comparison(&mut out, &a, &b, (&self.of, self.compare.as_deref().unwrap_or("")))?,
                }
            }
        }
        out.flush()
    }
}

/// Plays one below the other.
fn print(out: &mut Out, plays: &[Shown]) -> Result<(), Error> {
    for (index, play) in plays.iter().enumerate() {
        if index > 0 {
            out.raw(b"\n")?;
        }
        draw::waterfall(out, play)?;
    }
    Ok(())
}

/// What `husk delete --timeline` prints of the end of a pod.
pub(super) fn print_stop(out: &mut Out, pod: &str, steps: Vec<Step>) -> Result<(), Error> {
    let shown: Vec<Shown> =
        crate::state::timeline::plays(steps).iter().map(|play| Shown::new(pod, play, true)).collect();
    print(out, &shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_a_container_and_an_instance_can_be_named() {
        let wanted = |pod: &str, container: Option<&str>, attempt| Wanted {
            pod: pod.into(),
            container: container.map(str::to_owned),
            attempt,
        };
        assert_eq!(Wanted::read("demo"), Ok(wanted("demo", None, None)));
        assert_eq!(Wanted::read("pod/demo:web"), Ok(wanted("demo", Some("web"), None)));
        assert_eq!(Wanted::read("demo:web@3"), Ok(wanted("demo", Some("web"), Some(3))));
        for bad in ["", "demo:", "demo:@1", "demo:web@", "demo:web@x", "service/x"] {
            assert!(Wanted::read(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
