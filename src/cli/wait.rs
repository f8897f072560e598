//! `husk wait`: sleeps until pods are as asked, woken by the kernel.

use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::get::Select;
use super::out::{self, Out};
use super::watch::{Watch, Woken};
use super::{Context, Error, names, span};
use crate::state::{Listed, PodEntry};

/// Wait until pods are as asked.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk wait demo --for=condition=Ready --timeout=10s\n  \
    husk wait pod/demo --for=delete\n  husk wait demo --for=jsonpath='{.status.phase}'=Succeeded")]
pub struct Wait {
    /// Names, with or without pod in front
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
    // Not a doc comment: rustdoc would look for links in it.
    #[arg(
        long = "for",
        value_name = "WHAT",
        help = "delete, condition=NAME[=VALUE], phase=PHASE or jsonpath='{.a.b[0]}'=VALUE"
    )]
    goal: Goal,
    /// Give up after this long; 0 looks once
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span::parse)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Goal {
    Delete,
    Condition { name: String, value: String },
    Phase { phase: String },
    Path { steps: Vec<Step>, value: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        const PHASES: [&str; 4] = ["Pending", "Running", "Succeeded", "Failed"];
        let (what, rest) = text.split_once('=').unwrap_or((text, ""));
        match (what, rest) {
            ("delete", "") if what == text => Ok(Goal::Delete),
            ("condition", rest) if !rest.is_empty() => {
                let (name, value) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Goal::Condition { name: name.into(), value: value.into() })
            }
            ("phase", rest) => match PHASES.iter().find(|phase| phase.eq_ignore_ascii_case(rest)) {
                Some(phase) => Ok(Goal::Phase { phase: (*phase).into() }),
                None => Err(format!("phase {rest:?} is none of {}", PHASES.join(", "))),
            },
            ("jsonpath", rest) => json_path(rest),
            _ => Err("expected delete, condition=NAME[=VALUE], phase=PHASE or jsonpath='{.a.b[0]}'=VALUE".into()),
        }
    }
}

/// `{.status.containerStatuses[0].ready}=true`: names and indices, which is what a single value can be reached by.
fn json_path(text: &str) -> Result<Goal, String> {
    let wrong = |why: &str| format!("jsonpath {text:?}: {why}; expected '{{.a.b[0]}}' or '{{.a.b[0]}}'=VALUE");
    let (path, rest) =
        text.strip_prefix('{').and_then(|rest| rest.split_once('}')).ok_or_else(|| wrong("has no { }"))?;
    let value = match rest.strip_prefix('=') {
        Some(value) => Some(value.to_string()),
        None if rest.is_empty() => None,
        None => return Err(wrong("something follows }")),
    };
    let mut steps = Vec::new();
    for part in path.strip_prefix('.').ok_or_else(|| wrong("does not begin with ."))?.split('.') {
        let (key, indices) = part.split_once('[').map_or((part, None), |(key, rest)| (key, Some(rest)));
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Err(wrong("a name is empty or not plain"));
        }
        steps.push(Step::Key(key.into()));
        for index in indices.into_iter().flat_map(|indices| indices.split('[')) {
            let number = index.strip_suffix(']').and_then(|number| number.parse().ok());
            steps.push(Step::Index(number.ok_or_else(|| wrong("an index is not a number in [ ]"))?));
        }
    }
    Ok(Goal::Path { steps, value })
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Met,
    NotYet,
    /// It will not happen any more.
    Never(String),
}

impl Goal {
    fn progress(&self, pod: &Pod) -> Progress {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
        let ended = matches!(phase, "Succeeded" | "Failed");
        let met = match self {
            Goal::Delete => false,
            Goal::Condition { name, value } => {
                let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
                conditions.unwrap_or_default().iter().any(|condition| {
                    condition.type_.eq_ignore_ascii_case(name) && condition.status.eq_ignore_ascii_case(value)
                })
            }
            Goal::Phase { phase: wanted } => wanted == phase,
            Goal::Path { steps, value } => match lookup(pod, steps) {
                None | Some(Value::Null) => false,
                Some(found) => value.as_ref().is_none_or(|value| *value == plain(&found)),
            },
        };
        match self {
            _ if met => Progress::Met,
            Goal::Condition { .. } | Goal::Phase { .. } if ended => {
                Progress::Never(format!("the pod has ended with phase {phase}"))
            }
            _ => Progress::NotYet,
        }
    }
}

fn lookup(pod: &Pod, steps: &[Step]) -> Option<Value> {
    let mut value = serde_json::to_value(pod).ok()?;
    for step in steps {
        value = match step {
            Step::Key(key) => value.get_mut(key)?.take(),
            Step::Index(index) => value.get_mut(*index)?.take(),
        };
    }
    Some(value)
}

/// A string without its quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), Into::into)
}

impl Wait {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let deadline = Instant::now().checked_add(self.timeout);
        let names = names::names(&self.what).map_err(Error::usage)?;
        let mut pods = Vec::new();
        let mut failed = false;
        for name in &names.names {
            match context.roots.find(&context.namespace, name) {
                Ok(entry) => pods.push(entry),
                // What is not there is as deleted as can be.
                Err(crate::state::Error::NotFound { .. }) if self.goal == Goal::Delete => {}
                Err(error) => {
                    failed = true;
                    out::say(super::error::sentence(&error));
                }
            }
        }
        if names.names.is_empty() {
            if self.select.selector.is_none() && !self.select.all_namespaces && !names.kind {
                return Err(Error::usage("which pods? name them, or say pods, -l or -A"));
            }
            let (entries, complaints) = self.select.entries(context)?;
            failed |= !complaints.is_empty();
            complaints.iter().for_each(out::say);
            pods = entries;
            if pods.is_empty() && self.goal != Goal::Delete {
                return Err(Error::failed("no pods found"));
            }
        }
        for entry in pods {
            failed |= !wait_for(context, entry, &self.goal, deadline)?;
        }
        if failed { Err(Error::Exit { code: 1 }) } else { Ok(()) }
    }
}

/// Waits for one pod; says how it went; `false` when it went wrong.
fn wait_for(context: &Context, entry: PodEntry, goal: &Goal, deadline: Option<Instant>) -> Result<bool, Error> {
    let name = entry.record.pod.metadata.name.clone().unwrap_or_default();
    let mut watch = Watch::new()?;
    watch.pod(&context.roots.pod_dir(&entry.id), entry.live)?;
    let mut out = Out::new();
    loop {
        // Looked at after the watch was set, so that nothing falls in between.
        let progress = match context.roots.look(&entry.id)? {
            Some(Listed::Pod(entry)) => goal.progress(&super::v1(&entry)),
            Some(Listed::Unreadable(it)) => return Err(it.error.into()),
            Some(Listed::Unfinished { .. }) => Progress::NotYet,
            None if *goal == Goal::Delete => Progress::Met,
            None => Progress::Never("the pod was deleted".into()),
        };
        match progress {
            Progress::Met => {
                out.line(format!("pod/{name} condition met"))?;
                out.flush()?;
                return Ok(true);
            }
            Progress::Never(why) => {
                out::say(format!("pod {name}: waited in vain: {why}"));
                return Ok(false);
            }
            Progress::NotYet => {}
        }
        if watch.wait(deadline)? == Woken::Timeout {
            out::say(format!("pod {name}: timed out waiting for the condition"));
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "demo"},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 3}]}
        }))
        .expect("a pod")
    }

    fn goal(text: &str) -> Goal {
        text.parse().expect(text)
    }

    #[test]
    fn goals_are_met_by_what_the_status_says() {
        let running = pod("Running", "True");
        let met = [
            "condition=Ready",
            "condition=ready=true",
            "phase=Running",
            "phase=running",
            "jsonpath={.status.phase}=Running",
            "jsonpath={.status.containerStatuses[0].restartCount}=3",
            "jsonpath={.status.containerStatuses[0].ready}=true",
            "jsonpath={.status.phase}",
        ];
        for text in met {
            assert_eq!(goal(text).progress(&running), Progress::Met, "{text}");
        }
        let not_yet =
            ["condition=Ready=False", "phase=Failed", "delete", "jsonpath={.status.containerStatuses[1].ready}"];
        for text in not_yet {
            assert_eq!(goal(text).progress(&running), Progress::NotYet, "{text}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_is_not_waited_for() {
        let failed = pod("Failed", "False");
        assert!(matches!(goal("condition=Ready").progress(&failed), Progress::Never(_)));
        assert!(matches!(goal("phase=Running").progress(&failed), Progress::Never(_)));
        assert_eq!(goal("phase=Failed").progress(&failed), Progress::Met);
        assert_eq!(goal("delete").progress(&failed), Progress::NotYet);
    }

    #[test]
    fn nonsense_goals_are_refused() {
        for bad in [
            "",
            "ready",
            "condition=",
            "delete=x",
            "delete=",
            "phase=",
            "phase=Happy",
            "jsonpath=",
            "jsonpath={}",
            "jsonpath={.a}x",
            "jsonpath={.a[x]}",
            "jsonpath={.a..b}",
            "jsonpath={a}",
        ] {
            assert!(bad.parse::<Goal>().is_err(), "{bad:?} was accepted");
        }
    }
}
