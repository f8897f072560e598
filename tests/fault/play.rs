//! One run of a scenario with at most one kill in it, and the looks from outside that every scenario needs.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use husk::state::record::{State, Status};
use serde_json::{Value, json};

use super::tracer::{Actor, Killed, Tracer, Trigger};
use crate::common::outside::{self, alive};
use crate::common::run::{Job, Output};
use crate::common::{BUSYBOX, Host, merge, scaled};

/// How long anything may take that has no deadline of its own.
const PATIENCE: Duration = Duration::from_secs(20);
/// No call of an actor for so long: it has come to rest.
const REST: Duration = Duration::from_millis(30);
/// keeper starts a supervisor again within that time.
const SUCCESSION: Duration = Duration::from_secs(2);

/// One run of a scenario.
pub struct Play<'h> {
    /// Where it plays.
    pub host: &'h Host,
    /// `metadata.name` of its pod.
    pub name: String,
    /// `metadata.uid` of its pod.
    pub uid: String,
    /// A directory that the containers see as `/w`.
    pub witness: PathBuf,
    tracer: RefCell<Option<Tracer>>,
    violations: RefCell<Vec<String>>,
    armed: Cell<bool>,
}

/// What a container is expected to be when a pod has come to rest.
#[derive(Clone, Copy)]
pub struct Running {
    /// Its name.
    pub container: &'static str,
    /// Number of its instance.
    pub attempt: u32,
}

/// The first instance of a container.
pub const fn first(container: &'static str) -> Running {
    Running { container, attempt: 0 }
}

impl<'h> Play<'h> {
    /// A new stage on `host`, with names that no other run has.
    pub fn new(host: &'h Host, number: u64, trigger: Option<Trigger>) -> Play<'h> {
        let witness = host.dir.join(format!("witness-{number}"));
        fs::create_dir(&witness).expect("make a directory");
        Play {
            host,
            name: format!("fault-{number}"),
            // Not to be found again by a run that comes after one that was killed itself.
            uid: format!("0fa17000-{:08x}-4000-{number:08}", std::process::id()),
            witness,
            tracer: RefCell::new(Some(Tracer::new(trigger))),
            violations: RefCell::default(),
            armed: Cell::new(false),
        }
    }

    /// Calls `act` with the tracer.
    pub fn tracer<T>(&self, act: impl FnOnce(&mut Tracer) -> T) -> T {
        act(self.tracer.borrow_mut().as_mut().expect("it is there until the end"))
    }

    /// Something is not as it must be.
    pub fn violation(&self, text: impl Display) {
        self.violations.borrow_mut().push(text.to_string());
    }

    /// [`Play::violation`] unless `good`.
    pub fn check(&self, good: bool, text: impl FnOnce() -> String) {
        if !good {
            self.violation(text());
        }
    }

    /// [`Play::violation`] unless both are equal.
    pub fn check_eq<T: PartialEq + std::fmt::Debug>(&self, what: &str, is: T, expected: T) {
        self.check(is == expected, || format!("{what} is {is:?}, expected {expected:?}"));
    }

    /// Waits until `probe` says yes; a violation when it does not in time.
    pub fn within(&self, patience: Duration, what: &str, mut probe: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + scaled(patience);
        loop {
            if probe() {
                return true;
            }
            if Instant::now() > deadline {
                self.violation(format!("in vain for {patience:?}: {what}"));
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A call of `husk` that nobody watches.
    pub fn husk(&self, args: &[&str]) -> Output {
        self.host.husk(args)
    }

    /// A call of `husk` that must succeed.
    pub fn must(&self, args: &[&str]) -> Output {
        let output = self.husk(args);
        self.check(output.code == Some(0), || format!("husk {args:?}: {output}"));
        output
    }

    /// A call of `husk` that is watched, it and all that comes of it.
    pub fn watched(&self, args: &[&str]) -> Job {
        let mut job = self.host.job(args);
        self.tracer(|tracer| tracer.watch(job.command()));
        job
    }

    /// Watched calls, one after the other, while the moments count and until everybody rests.
    pub fn calls<const N: usize>(&self, all: [&[&str]; N]) -> [Output; N] {
        self.arm();
        let said = all.map(|args| self.watched(args).finish());
        self.rest();
        self.tracer(|tracer| tracer.disarm());
        said
    }

    /// Runs a pod before the play begins, and waits until its supervisor has come to rest.
    pub fn set_up(&self, manifest: &str) {
        let output = self.watched(&["run", "-"]).stdin(manifest).finish();
        assert_eq!(output.code, Some(0), "the pod of the scenario: {output}");
        self.rest();
    }

    /// From here on the moments count.
    pub fn arm(&self) {
        self.armed.set(true);
        self.tracer(|tracer| tracer.arm());
    }

    /// Waits until somebody was killed or `done` says that the play is over, then until everybody rests.
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        self.within(PATIENCE, what, || self.killed().is_some() || done());
        self.rest();
        self.tracer(|tracer| tracer.disarm());
    }

    /// Waits until no actor makes calls any more.
    pub fn rest(&self) {
        self.tracer(|tracer| tracer.quiet(REST));
    }

    /// Who was killed, when, where.
    pub fn killed(&self) -> Option<Killed> {
        self.tracer(|tracer| tracer.killed())
    }

    /// Who was killed.
    pub fn victim(&self) -> Option<Actor> {
        self.killed().map(|killed| killed.victim)
    }

    /// keeper was killed: the pod must end.
    pub fn doomed(&self) -> bool {
        self.victim() == Some(Actor::Keeper)
    }

    /// pause was killed: a pod that restarts anything must come back in another sandbox, see [`Play::revives`].
    pub fn bereft(&self) -> bool {
        self.victim() == Some(Actor::Pause)
    }

    /// The pod's directory.
    pub fn pod_dir(&self) -> PathBuf {
        self.host.state.join("pods").join(&self.uid)
    }

    /// `status.json`, if there is one.
    pub fn status(&self) -> Option<Status> {
        serde_json::from_slice(&fs::read(self.pod_dir().join("status.json")).ok()?).ok()
    }

    /// The pid of a running container by the records.
    pub fn pid(&self, container: &str) -> Option<i32> {
        self.status()?.containers.iter().find(|c| c.name == container).and_then(|c| match c.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        })
    }

    /// What the containers have written down.
    pub fn events(&self) -> Vec<String> {
        fs::read_to_string(self.witness.join("events")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// How often an event was written down.
    pub fn count(&self, event: &str) -> usize {
        self.events().iter().filter(|line| *line == event).count()
    }

    /// Removes what the containers have written down.
    pub fn forget(&self) {
        for entry in fs::read_dir(&self.witness).expect("read a directory of ours").flatten() {
            fs::remove_file(entry.path()).expect("remove a file of ours");
        }
    }

    /// The word in a container's arguments that no other process has.
    pub fn marker(&self, container: &str) -> String {
        format!("{}-{container}", self.uid)
    }

    /// A v1.Pod of this play, which sees [`Play::witness`] as `/w`.
    pub fn manifest(&self, spec: Value) -> String {
        let mut all = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "volumes": [{"name": "w", "hostPath": {"path": self.witness}}],
        });
        merge(&mut all, spec);
        let metadata = json!({"name": self.name, "uid": self.uid});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": all}).to_string()
    }

    /// A container that runs `script` with what every script here begins with: an event for its start, and one for each signal that it must not see.
    pub fn container(&self, name: &str, script: &str) -> Value {
        let begin = format!(
            "note() {{ echo \"$* {name}\" >>/w/events; }}; trap 'note HUP' HUP; trap 'note PIPE' PIPE; note start; echo hello from {name}; "
        );
        json!({
            "name": name, "image": BUSYBOX,
            "command": ["/bin/sh", "-c", format!("{begin}{script}"), self.marker(name)],
            "volumeMounts": [{"name": "w", "mountPath": "/w"}],
        })
    }

    /// A container that runs until it is told to stop.
    pub fn server(&self, name: &str) -> Value {
        self.container(name, "trap 'note TERM; exit 0' TERM; while :; do sleep 1000 & wait $!; done")
    }

    /// keeper of the pod: whoever has our uid in its arguments and is called so.
    pub fn keepers(&self) -> Vec<i32> {
        self.processes(|words| words.first().is_some_and(|word| word == "keeper"))
    }

    /// Supervisors of the pod.
    pub fn supervisors(&self) -> Vec<i32> {
        self.processes(|words| words.get(1).is_some_and(|word| word == "supervisor"))
    }

    fn processes(&self, is: impl Fn(&[String]) -> bool) -> Vec<i32> {
        let ours = |pid: &i32| {
            let words = outside::cmdline(*pid);
            words.contains(&self.uid) && is(&words)
        };
        outside::pids().into_iter().filter(ours).filter(|pid| alive(*pid)).collect()
    }

    /// Everything of the pod: keeper, the supervisor, containers and what they started.
    pub fn anybody(&self) -> Vec<i32> {
        let ours = |pid: &i32| outside::cmdline(*pid).iter().any(|word| word.contains(&self.uid));
        outside::pids().into_iter().filter(ours).filter(|pid| alive(*pid)).collect()
    }

    /// Main processes of a container: those with its marker that are keeper's children. (Others with it are subshells.)
    fn copies(&self, container: &str, keeper: i32) -> Vec<i32> {
        let marker = self.marker(container);
        let is = |pid: &i32| outside::cmdline(*pid).contains(&marker) && outside::parent(*pid) == Some(keeper);
        outside::pids().into_iter().filter(is).filter(|pid| alive(*pid)).collect()
    }

    /// Whether the records say that all of these run.
    pub fn all_run(&self, expected: &[Running]) -> bool {
        self.status().is_some_and(|status| {
            expected.iter().all(|e| {
                status.containers.iter().any(|c| {
                    c.name == e.container && c.attempt == e.attempt && matches!(c.state, State::Running { .. })
                })
            })
        })
    }

    /// The pod lives: each of `expected` runs in one copy, watched by one supervisor that answers.
    pub fn lives(&self, expected: &[Running]) {
        if !self.within(PATIENCE, "all containers run", || self.all_run(expected)) {
            return self.violation(format!("instead: {:?}", self.status()));
        }
        self.within(SUCCESSION, "one keeper and one supervisor", || {
            self.keepers().len() == 1 && self.supervisors().len() == 1
        });
        let [keeper] = self.keepers()[..] else {
            return self.violation(format!("keepers of a living pod: {:?}", self.keepers()));
        };
        for e in expected {
            // The record comes before the execve, and the marker with it.
            self.within(SUCCESSION, &format!("container {} has executed its program", e.container), || {
                !self.copies(e.container, keeper).is_empty()
            });
            let (copies, recorded) = (self.copies(e.container, keeper), self.pid(e.container));
            self.check(copies.len() == 1 && copies.first().copied() == recorded, || {
                format!("container {} runs as {copies:?}, the record says {recorded:?}", e.container)
            });
        }
        let pod = self.json();
        self.check_eq("status.phase", &pod["status"]["phase"], &json!("Running"));
        for e in expected {
            let status = entry(&pod, e.container);
            self.check_eq("restartCount", &status["restartCount"], &json!(e.attempt));
            self.check(status["state"]["running"].is_object(), || {
                format!("state of {}: {}", e.container, status["state"])
            });
        }
        let name = expected.first().map_or("", |e| e.container);
        let said = self.husk(&["exec", &self.name, "-c", name, "--", "echo", "answer"]);
        self.check(said.code == Some(0) && said.out() == "answer\n", || format!("exec in {name}: {said}"));
        self.undisturbed();
    }

    /// After pause was killed: another sandbox is there, and each of these containers runs in it, in whichever instance.
    pub fn revives(&self, containers: &[&'static str]) {
        let running = || -> Option<Vec<Running>> {
            let status = self.status()?;
            status.sandbox.as_ref().filter(|s| !s.ended && s.attempt == 1)?;
            let one = |name: &&'static str| {
                let c = status.containers.iter().find(|c| c.name == **name)?;
                matches!(c.state, State::Running { .. }).then_some(Running { container: name, attempt: c.attempt })
            };
            containers.iter().map(one).collect()
        };
        if self.within(PATIENCE, "another sandbox, and what shall run in it", || running().is_some()) {
            self.lives(&running().unwrap_or_default());
        } else {
            self.violation(format!("instead: {:?}", self.status()));
        }
    }

    /// No container has seen a signal or an error that says that its output is gone.
    pub fn undisturbed(&self) {
        let bad: Vec<String> = self
            .events()
            .into_iter()
            .filter(|e| ["HUP ", "PIPE ", "EPIPE "].iter().any(|word| e.starts_with(word)))
            .collect();
        self.check(bad.is_empty(), || format!("containers were disturbed: {bad:?}"));
    }

    /// `husk get pod -o json`.
    pub fn json(&self) -> Value {
        let output = self.must(&["get", "pod", &self.name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The log of a container is this.
    pub fn logged(&self, container: &str, flags: &[&str], expected: &str) {
        let mut args = vec!["logs", &self.name, "-c", container];
        args.extend(flags);
        let log = self.must(&args).out();
        if log != expected {
            let place = log.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
            let around = |text: &str| {
                text.get(place.saturating_sub(40)..).unwrap_or_default().chars().take(80).collect::<String>()
            };
            self.violation(format!(
                "log of {container} {flags:?}: {} bytes, expected {}; from byte {place} on {:?}, expected {:?}",
                log.len(),
                expected.len(),
                around(&log),
                around(expected)
            ));
        }
    }

    /// Nobody of the pod is left alive.
    pub fn ends(&self) {
        let left = || self.anybody();
        if !self.within(Duration::from_secs(3), "every process of the pod is dead", || left().is_empty()) {
            self.violation(format!("still there: {}", self.describe(&left())));
        }
    }

    fn describe(&self, pids: &[i32]) -> String {
        pids.iter().map(|pid| format!("{pid} {}", outside::cmdline(*pid).join(" "))).collect::<Vec<_>>().join("; ")
    }

    /// What `husk delete` promised with its 0: nothing of the pod is left.
    pub fn is_gone(&self) {
        self.check(!self.pod_dir().exists(), || "the pod's directory is still there".to_owned());
        self.check(self.anybody().is_empty(), || format!("still there: {}", self.describe(&self.anybody())));
        let cgroups = outside::cgroups(&outside::cgroup_parent(&self.host.state));
        let ours: Vec<&PathBuf> = cgroups.iter().filter(|path| path.to_string_lossy().contains(&self.uid)).collect();
        self.check(ours.is_empty(), || format!("cgroups are left: {ours:?}"));
    }

    /// Runs the manifest again with the same uid; it must succeed and the pod live.
    pub fn again(&self, manifest: &str, expected: &[Running]) {
        let output = self.host.try_run(manifest);
        self.check(output.code == Some(0), || format!("run again: {output}"));
        if output.code == Some(0) {
            self.lives(expected);
        }
    }

    /// The end of every play: the pod is deleted, what is left is collected, and then nothing may be there. All violations.
    pub fn finish(self) -> (Vec<String>, Tracer) {
        self.tracer(|tracer| tracer.disarm());
        let log = fs::read_to_string(self.pod_dir().join("supervisor.log")).unwrap_or_default();
        self.check(!log.contains("panicked"), || "a supervisor panicked".to_owned());
        if !self.violations.borrow().is_empty() && !log.is_empty() {
            self.violation(format!("supervisor.log: {}", log.trim()));
            self.violation(format!("events: {:?}", self.events()));
        }
        if self.pod_dir().exists() {
            let output = self.husk(&["delete", &self.name, "--force", "--ignore-not-found"]);
            self.check(output.code == Some(0), || format!("delete at the end: {output}"));
        }
        let output = self.husk(&["gc"]);
        self.check(output.code == Some(0), || format!("gc at the end: {output}"));
        let mut left = self.host.left_behind();
        left.extend(temporary(&self.host.root.join("images")).iter().map(|path| format!("file {}", path.display())));
        self.check(left.is_empty(), || format!("left behind: {left:#?}"));
        if !left.is_empty() {
            // Nobody may live on without the tracer.
            outside::sweep(&self.host.dir, &self.host.state);
        }
        fs::remove_dir_all(&self.witness).expect("remove a directory of ours");
        let tracer = self.tracer.take().expect("it is there until the end");
        (self.violations.take(), tracer)
    }
}

/// Entry of a container in `status` of a pod.
pub fn entry(pod: &Value, container: &str) -> Value {
    ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .cloned()
        .unwrap_or_default()
}

/// What the image store had not finished.
fn temporary(images: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let inner = entries(images).filter(|path| path.is_dir()).flat_map(|dir| entries(&dir).collect::<Vec<_>>());
    let draft = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    entries(images).chain(inner).filter(draft).collect()
}
