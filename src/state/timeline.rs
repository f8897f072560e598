//! `timeline.jsonl` in a pod's directory: when each step of a start or a stop began and ended. Times are CLOCK_BOOTTIME nanoseconds, so that those of `husk run`, of the
//! supervisor and of its successors can be compared.

use serde::{Deserialize, Serialize};

use super::{Error, Roots, journal, read};

/// Version of a line. Lines of another version are left out.
const VERSION: u32 = 1;
/// The file's name.
pub const FILE: &str = "timeline.jsonl";

/// A step. Its order here is the order in which steps are listed that began at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// `husk run` reads, parses, defaults and validates manifests.
    Parse,
    /// `husk run` looks up images, users, paths and limits.
    Resolve,
    /// `husk run` reserves the name and the directory.
    Reserve,
    /// `husk run` writes the records and clones pause and keeper.
    Launch,
    /// `husk run` makes cgroups and directories while the supervisor begins.
    Help,
    /// From keeper's start to the first line of the supervisor.
    Supervisor,
    /// The supervisor opens the records, its socket and its log writer.
    Adopt,
    /// What `husk run` could not do: cgroups and directories.
    Places,
    /// The pod is linked to its network; with plugins: they attach it.
    Network,
    /// A container is prepared: cgroup, root, mounts, pipes.
    Prepare,
    /// pause makes its namespaces and sets itself up.
    Sandbox,
    /// A container's process is cloned.
    Create,
    /// Its fds go to keeper and its start to `status.json`.
    Record,
    /// It was released, sets itself up and executes its program.
    Execute,
    /// Its postStart hook.
    PostStart,
    /// `husk run` was answered.
    Answer,
    /// Its startup probe has succeeded for the first time.
    Started,
    /// Its readiness probe has succeeded for the first time.
    Ready,
    /// The end of the pod, or of a container, was asked for.
    Asked,
    /// Its preStop hook.
    PreStop,
    /// From its stop signal to its end.
    Stop,
    /// It was killed.
    Kill,
    /// A container has ended by itself.
    Exit,
    /// pause is killed and has ended.
    EndSandbox,
    /// What the pod had is removed.
    Remove,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Version of the line.
    pub version: u32,
    /// Which.
    pub kind: Kind,
    /// The container, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Which instance.
    #[serde(default, skip_serializing_if = "is_first")]
    pub attempt: u32,
    /// How many sandboxes the pod had before.
    #[serde(default, skip_serializing_if = "is_first")]
    pub sandbox: u32,
    /// It belongs to the end of the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop: bool,
    /// When it began.
    pub from_ns: u64,
    /// When it ended; the same for a moment.
    pub to_ns: u64,
}

fn is_first(attempt: &u32) -> bool {
    *attempt == 0
}

impl Step {
    /// A step of the pod.
    pub fn new(kind: Kind, from_ns: u64, to_ns: u64) -> Step {
        Step {
            version: VERSION,
            kind,
            container: None,
            attempt: 0,
            sandbox: 0,
            stop: false,
            from_ns,
            to_ns: to_ns.max(from_ns),
        }
    }

    /// The same of a container.
    pub fn of(self, container: &str, attempt: u32) -> Step {
        Step { container: Some(container.to_owned()), attempt, ..self }
    }
}

/// What `husk run` was at, and when: sent to the first supervisor with the byte that says that it has helped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// It began; 0: unknown.
    pub begun: u64,
    /// The manifest was read.
    pub parsed: u64,
    /// Everything was resolved.
    pub resolved: u64,
    /// The name was reserved.
    pub reserved: u64,
    /// keeper was cloned.
    pub launched: u64,
    /// It had helped.
    pub helped: u64,
}

impl RunTimes {
    /// Length of [`RunTimes::to_bytes`].
    pub const BYTES: usize = 48;

    fn fields(self) -> [u64; 6] {
        [self.begun, self.parsed, self.resolved, self.reserved, self.launched, self.helped]
    }

    /// As it is sent; both ends are of one build.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (place, field) in bytes.chunks_exact_mut(8).zip(self.fields()) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// What [`RunTimes::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> RunTimes {
        let mut fields = bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
        let mut next = || fields.next().unwrap_or_default();
        RunTimes { begun: next(), parsed: next(), resolved: next(), reserved: next(), launched: next(), helped: next() }
    }

    /// The steps that `husk run` took.
    pub fn steps(self) -> Vec<Step> {
        let ends = [
            (Kind::Parse, self.begun, self.parsed),
            (Kind::Resolve, self.parsed, self.resolved),
            (Kind::Reserve, self.resolved, self.reserved),
            (Kind::Launch, self.reserved, self.launched),
            (Kind::Help, self.launched, self.helped),
        ];
        // A client's sandbox has no manifest and is resolved by its client.
        ends.into_iter().filter(|(_, from, _)| *from > 0).map(|(kind, from, to)| Step::new(kind, from, to)).collect()
    }
}

/// What one start or stop was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// What it is.
    pub what: What,
    /// By their beginning.
    pub steps: Vec<Step>,
}

/// Which start or stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// Of the pod, with the first instances of its containers.
    Start {
        /// How many sandboxes the pod had before.
        sandbox: u32,
    },
    /// Of one later instance of a container.
    Instance {
        /// Its name.
        container: String,
        /// Which.
        attempt: u32,
    },
    /// The end of one instance while the pod lives on.
    InstanceEnd {
        /// The container's name.
        container: String,
        /// Which.
        attempt: u32,
    },
    /// The end of the pod.
    Stop,
}

impl What {
    fn of(step: &Step) -> What {
        match &step.container {
            _ if step.stop => What::Stop,
            Some(container) if step.kind >= Kind::Asked => {
                What::InstanceEnd { container: container.clone(), attempt: step.attempt }
            }
            Some(container) if step.attempt > 0 => {
                What::Instance { container: container.clone(), attempt: step.attempt }
            }
            _ => What::Start { sandbox: step.sandbox },
        }
    }
}

/// Sorts steps into starts and stops, in the order in which they began.
pub fn plays(mut steps: Vec<Step>) -> Vec<Play> {
    steps.sort_by_key(|s| (s.from_ns, s.to_ns, s.kind));
    let mut plays: Vec<Play> = Vec::new();
    for step in steps {
        let what = What::of(&step);
        match plays.iter_mut().find(|p| p.what == what) {
            Some(play) => play.steps.push(step),
            None => plays.push(Play { what, steps: vec![step] }),
        }
    }
    plays
}

/// The newest half when there are too many, and what the pod's own start was made of.
fn compact(steps: Vec<Step>) -> Vec<Step> {
    let half = steps.len() / 2;
    let own = |step: &Step| step.attempt == 0;
    steps.into_iter().enumerate().filter(|(at, step)| *at >= half || own(step)).map(|(_, step)| step).collect()
}

/// Adds steps to the file of a pod.
pub(super) fn append(dir: &std::path::Path, fd: std::os::fd::BorrowedFd<'_>, steps: &[Step]) -> Result<bool, Error> {
    journal::append(dir, fd, FILE, steps, compact)
}

impl Roots {
    /// What is known of a pod's starts and its stop; nothing is no error.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn timeline(&self, id: &str) -> Result<Vec<Play>, Error> {
        let content = read(&self.pod_dir(id).join(FILE))?.unwrap_or_default();
        Ok(plays(journal::entries(&content).filter(|step: &Step| step.version == VERSION).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_husk_run_tells_comes_back_and_a_client_has_no_manifest() {
        let times = RunTimes { begun: 1, parsed: 2, resolved: 3, reserved: 4, launched: 5, helped: u64::MAX };
        assert_eq!(RunTimes::from_bytes(&times.to_bytes()), times);
        let kinds = |times: RunTimes| times.steps().iter().map(|s| s.kind).collect::<Vec<_>>();
        assert_eq!(kinds(times), [Kind::Parse, Kind::Resolve, Kind::Reserve, Kind::Launch, Kind::Help]);
        let client = RunTimes { begun: 0, parsed: 0, ..times };
        assert_eq!(kinds(client), [Kind::Reserve, Kind::Launch, Kind::Help]);
    }

    #[test]
    fn steps_are_sorted_into_starts_instances_and_the_stop() {
        let stop = |step: Step| Step { stop: true, ..step };
        let steps = vec![
            stop(Step::new(Kind::Stop, 900, 950).of("a", 1)),
            Step::new(Kind::Create, 20, 30).of("a", 0),
            Step::new(Kind::Sandbox, 10, 20),
            Step::new(Kind::Stop, 40, 45).of("a", 0),
            Step::new(Kind::Create, 50, 60).of("a", 1),
            stop(Step::new(Kind::Asked, 890, 890)),
            Step { sandbox: 1, ..Step::new(Kind::Sandbox, 100, 110) },
        ];
        let plays = plays(steps);
        let told: Vec<_> = plays.iter().map(|p| (p.what.clone(), p.steps.len())).collect();
        let a = || "a".to_owned();
        assert_eq!(
            told,
            [
                (What::Start { sandbox: 0 }, 2),
                (What::InstanceEnd { container: a(), attempt: 0 }, 1),
                (What::Instance { container: a(), attempt: 1 }, 1),
                (What::Start { sandbox: 1 }, 1),
                (What::Stop, 2),
            ]
        );
    }
}
