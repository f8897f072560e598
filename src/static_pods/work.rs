//! One step about one pod, done in a thread of its own. A pod is made by a process of its own, since what has threads must not clone.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use husk_oci::errno::io_text;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::plan::{Step, Todo};
use super::source::Wanted;
use crate::cgroup::DriverKind;
use crate::config::Config;
use crate::network;
use crate::runtime::{self, DeleteOptions, RunOutcome, Settings};
use crate::state::record::Source;
use crate::state::{Listed, PodEntry, Roots};

/// What `main` knows the helper by; not for users.
pub const HELPER: &str = "static-pod";

/// How many pods are made side by side.
const MAKERS: usize = 4;

/// What a helper is asked to make.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    root: PathBuf,
    state: PathBuf,
    cgroup_driver: String,
    config: Option<PathBuf>,
    network: String,
    pod: Pod,
    source: Source,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Made { created: bool, warnings: Vec<String> },
    Failed { message: String },
}

/// What is the same for all new pods.
#[derive(Clone, Debug, Default)]
pub struct MadeWith {
    /// Who makes their cgroups.
    pub cgroup_driver: DriverKind,
    /// `--config`; read for each pod, so that a change of it needs no restart.
    pub config: Option<PathBuf>,
    /// Where their network comes from.
    pub network: network::Mode,
}

/// Does steps.
#[derive(Debug)]
pub struct Worker {
    /// The instance.
    pub roots: Roots,
    made_with: MadeWith,
    /// Helpers that run.
    making: Mutex<usize>,
    ended: Condvar,
}

/// What there is to tell of a step that was done, a line each.
#[derive(Debug, Default)]
pub struct Done {
    /// What has happened.
    pub lines: Vec<String>,
    /// What was tolerated.
    pub warnings: Vec<String>,
}

impl Worker {
    /// Nothing is under way.
    pub fn new(roots: Roots, made_with: MadeWith) -> Worker {
        Worker { roots, made_with, making: Mutex::new(0), ended: Condvar::new() }
    }

    /// Does a step; blocks for as long as that takes. `stopping`: no pod is made any more.
    ///
    /// # Errors
    /// A sentence: it could not be done, or not to its end.
    pub fn work(&self, todo: &Todo, stopping: impl Fn() -> bool) -> Result<Done, String> {
        let name = format!("pod/{}", todo.key.1);
        let mut done = Done::default();
        match (&todo.step, &todo.wanted, &todo.there) {
            (Step::Run, Some(wanted), _) => self.make(&name, wanted, &mut done, stopping)?,
            (Step::Change(change), Some(wanted), Some(entry)) => {
                let source = Some(wanted.source.clone());
                runtime::update::change(&self.roots, entry, &wanted.pod, source, change)
                    .map_err(|e| format!("{}: {e}", path(wanted)))?;
                done.lines.push(format!("{name} configured"));
            }
            (Step::Replace(reasons), Some(wanted), Some(entry)) => {
                done.warnings.extend(reasons.iter().map(|why| format!("{}: {name} is replaced: {why}", path(wanted))));
                self.end(entry)?;
                done.lines.push(format!("{name} deleted"));
                self.make(&name, wanted, &mut done, stopping)?;
            }
            (Step::Delete, _, Some(entry)) => {
                self.end(entry)?;
                done.lines.push(format!("{name} deleted"));
            }
            _ => return Err(format!("{name}: a step without what it is about; this is a defect of husk")),
        }
        Ok(done)
    }

    fn end(&self, entry: &PodEntry) -> Result<(), String> {
        let options = DeleteOptions { grace_seconds: None, force: false, wait: true };
        runtime::delete(&self.roots, &Listed::Pod(Box::new(entry.clone())), options).map_err(|e| e.to_string())
    }

    fn make(&self, name: &str, wanted: &Wanted, done: &mut Done, stopping: impl Fn() -> bool) -> Result<(), String> {
        let _turn = self.turn();
        if stopping() {
            return Ok(());
        }
        let mut pod = wanted.pod.clone();
        pod.metadata.uid = Some(wanted.uid.clone());
        let task = Task {
            root: self.roots.root.clone(),
            state: self.roots.state.clone(),
            cgroup_driver: self.made_with.cgroup_driver.name().to_owned(),
            config: self.made_with.config.clone(),
            network: self.made_with.network.name().to_owned(),
            pod,
            source: wanted.source.clone(),
        };
        match ask(&task).map_err(|what| format!("{}: start a helper: {what}", path(wanted)))? {
            Answer::Made { created, warnings } => {
                done.warnings.extend(warnings.iter().map(|w| format!("{}: {name}: warning: {w}", path(wanted))));
                if created {
                    done.lines.push(format!("{name} created"));
                }
                Ok(())
            }
            Answer::Failed { message } => Err(format!("{}: {message}", path(wanted))),
        }
    }

    /// Waits for one of the places of those who make pods.
    fn turn(&self) -> Turn<'_> {
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let mut making =
            self.ended.wait_while(making, |making| *making >= MAKERS).unwrap_or_else(PoisonError::into_inner);
        *making += 1;
        Turn(self)
    }

    /// Waits until no pod is being made, and not longer than `patience`.
    pub fn wait_for_makers(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        while *making > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (making, _) = self.ended.wait_timeout(making, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Turn<'a>(&'a Worker);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.making.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}

fn path(wanted: &Wanted) -> String {
    let source = &wanted.source;
    source.file.as_ref().map_or_else(|| source.place.clone(), |file| format!("{}/{file}", source.place))
}

/// Starts this very program as a helper, and waits for its end.
fn ask(task: &Task) -> Result<Answer, String> {
    let text = |e: std::io::Error| io_text(&e);
    let mut child = Command::new("/proc/self/exe")
        .arg(HELPER)
        // A Ctrl-C at the terminal is for us, and a start is not to be cut in two.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let written = match child.stdin.take() {
        Some(mut stdin) => {
            serde_json::to_vec(task).map_err(|e| e.to_string()).and_then(|task| stdin.write_all(&task).map_err(text))
        }
        None => Err("it has no standard input".into()),
    };
    let output = child.wait_with_output().map_err(text)?;
    written?;
    serde_json::from_slice(&output.stdout).map_err(|_| format!("it ended with {} and said nothing", output.status))
}

/// `husk static-pod`: makes the one pod that standard input tells of; started by `husk watch`.
pub fn main() -> ExitCode {
    let mut text = Vec::new();
    let task = std::io::stdin().read_to_end(&mut text).ok().and_then(|_| serde_json::from_slice::<Task>(&text).ok());
    let Some(task) = task else {
        eprintln!("husk {HELPER} is started by husk watch, not by hand");
        return ExitCode::from(2);
    };
    drop(text);
    let answer = match make(task) {
        Ok(outcome) => Answer::Made { created: outcome.created, warnings: outcome.warnings },
        Err(message) => Answer::Failed { message },
    };
    // Nobody listens when `husk watch` was killed meanwhile; the pod is there all the same.
    let _ = serde_json::to_string(&answer).map(|line| writeln!(std::io::stdout(), "{line}"));
    ExitCode::SUCCESS
}

fn make(task: Task) -> Result<RunOutcome, String> {
    let mut network = Config::load(task.config.as_deref())?.network;
    network.mode = network::Mode::of_name(&task.network).unwrap_or(network.mode);
    let cgroup_driver = DriverKind::of_name(&task.cgroup_driver).unwrap_or_default();
    let settings = Settings { cgroup_driver, network };
    let roots = Roots::new(&task.root, &task.state).map_err(|e| e.to_string())?;
    runtime::run_static(&roots, &settings, task.pod, task.source).map_err(|e| e.to_string())
}
