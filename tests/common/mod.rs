//! What every privileged test needs: a private pair of roots, the built binary, images made on the spot, and a look from outside at what is left.
//!
//! A test starts with [`Host::new`] and ends with the drop of that value: every pod is deleted, `husk gc` runs, and whatever
//! is then left on the machine (processes, cgroups, mounts, files, locks, interfaces) fails the test and is cleaned away.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

pub mod image;
pub mod inject;
pub mod netns;
pub mod outside;
pub mod run;
pub mod skip;
pub mod talk;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use husk::state::record::{PodRecord, Status};
use serde_json::{Value, json};

use outside::Snapshot;
use run::{Job, Output};

/// The image that most tests run: Debian's static busybox with links for what tests call.
pub const BUSYBOX: &str = "husk.test/busybox:1";

/// How long anything may take that has no deadline of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Tests that measure time hold the write half, all others the read half.
static QUIET: RwLock<()> = RwLock::new(());

/// Keeps the machine shared, or to ourselves.
enum Turn {
    Borrowed,
    Shared(#[allow(dead_code, reason = "held, never read")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "held, never read")] RwLockWriteGuard<'static, ()>),
}

/// One private husk installation on this machine.
pub struct Host {
    /// Everything of this test is below this directory.
    pub dir: PathBuf,
    /// `--root`.
    pub root: PathBuf,
    /// `--state`.
    pub state: PathBuf,
    /// `--cgroup-driver`, unless it is the default.
    pub cgroup_driver: Option<&'static str>,
    /// Lines of what is left that are not husk's affair.
    pub stays: &'static [&'static str],
    before: Snapshot,
    /// Where this thread was before; `None`: it was in a namespace of the test's own already.
    _netns: Option<netns::Own>,
    _turn: Turn,
}

/// Multiplies `duration` by `HUSK_TEST_SCALE` (default 1), for slow or emulated machines.
pub fn scaled(duration: Duration) -> Duration {
    let scale = std::env::var("HUSK_TEST_SCALE").ok().and_then(|text| text.parse::<f64>().ok());
    duration.mul_f64(scale.unwrap_or(1.0).max(1.0))
}

/// How many of `all` like cases are gone through: where everything takes much longer, a quarter.
pub fn sample(all: u64) -> u64 {
    if scaled(PATIENCE) > PATIENCE { all.div_ceil(4) } else { all }
}

/// Calls `probe` until it answers, at most [`PATIENCE`] long; panics with `what` after that.
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_for_within(PATIENCE, what, probe)
}

/// [`wait_for`] with a deadline of its own.
pub fn wait_for_within<T>(patience: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + scaled(patience);
    loop {
        let asked = Instant::now();
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for: {what}");
        // Who asks for long, as by starting a husk, leaves the machine to what it waits for.
        std::thread::sleep((asked.elapsed() * 2).clamp(Duration::from_millis(5), Duration::from_secs(1)));
    }
}

impl Host {
    /// A fresh pair of roots with [`BUSYBOX`] loaded; other tests may run meanwhile.
    pub fn new() -> Host {
        let host = Host::empty();
        host.load(&image::busybox());
        host
    }

    /// Like [`Host::new`], for tests that measure time: while no other test of this process runs, unless deadlines are so
    /// much longer here that the others do not matter.
    pub fn punctual() -> Host {
        if scaled(PATIENCE) > PATIENCE { Host::new() } else { Host::alone() }
    }

    /// Like [`Host::new`], while no other test of this process runs: for tests that measure what they get of the machine.
    pub fn alone() -> Host {
        let turn = Turn::Alone(QUIET.write().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let host = Host::with(turn);
        host.load(&image::busybox());
        host
    }

    /// One more installation in a test that has one already, and with it its turn.
    pub fn beside(_first: &Host) -> Host {
        let host = Host::with(Turn::Borrowed);
        host.load(&image::busybox());
        host
    }

    /// A fresh pair of roots without an image.
    pub fn empty() -> Host {
        Host::with(Turn::Shared(QUIET.read().unwrap_or_else(|poisoned| poisoned.into_inner())))
    }

    fn with(turn: Turn) -> Host {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("husk-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).expect("make the test's own directory");
        let (root, state) = (dir.join("root"), dir.join("state"));
        // A bridge, a table and ports of the host are this test's alone, and go with it.
        let netns = (!matches!(turn, Turn::Borrowed)).then(netns::Own::enter);
        let before = Snapshot::before(&dir);
        Host { dir, root, state, cgroup_driver: None, stays: &[], before, _netns: netns, _turn: turn }
    }

    /// Runs `husk` on this host's roots until it ends.
    pub fn husk(&self, args: &[&str]) -> Output {
        self.job(args).finish()
    }

    /// [`Host::husk`] that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Output {
        let output = self.husk(args);
        assert_eq!(output.code, Some(0), "husk {args:?} failed: {output}");
        output
    }

    /// [`Host::husk`] that must be refused: exit code 1, a single sentence on stderr, which is returned.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.husk(args);
        assert_eq!(output.code, Some(1), "husk {args:?} was expected to fail with 1: {output}");
        let said = output.err();
        assert!(!said.contains("panicked"), "husk {args:?} panicked: {said}");
        assert!(said.trim().len() > 10, "husk {args:?} failed without a sentence: {output}");
        said
    }

    /// Prepares a call of `husk` on this host's roots.
    pub fn job(&self, args: &[&str]) -> Job {
        Job::new(env!("CARGO_BIN_EXE_husk"), args)
            .env("HUSK_ROOT", self.root.as_os_str())
            .env("HUSK_STATE", self.state.as_os_str())
            .env("HUSK_CGROUP_DRIVER", self.cgroup_driver.unwrap_or("cgroupfs"))
    }

    /// Loads an image archive.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        self.ok(&["image", "load", archive.to_str().expect("temp paths are UTF-8")]);
    }

    /// Writes `text` to a file of this test and returns its path.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("write a test file");
        path.to_str().expect("temp paths are UTF-8").to_owned()
    }

    /// `husk run -` with `manifest` on stdin.
    pub fn try_run(&self, manifest: &str) -> Output {
        self.job(&["run", "-"]).stdin(manifest).finish()
    }

    /// Runs one pod that must start; `name` is its `metadata.name`.
    #[track_caller]
    pub fn run(&self, name: &str, manifest: &str) -> Pod<'_> {
        let output = self.try_run(manifest);
        assert_eq!(output.code, Some(0), "run of {name} failed: {output}\n{manifest}");
        self.pod(name)
    }

    /// A pod that is there already.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod<'_> {
        let dir = self
            .pod_dirs()
            .into_iter()
            .find(|dir| record_of(dir).is_some_and(|r| r.pod.metadata.name.as_deref() == Some(name)));
        Pod {
            host: self,
            name: name.to_owned(),
            dir: dir.unwrap_or_else(|| panic!("no pod {name} below {}", self.state.display())),
        }
    }

    /// The directories of all pods of this host.
    pub fn pod_dirs(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.state.join("pods")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// Deletes all pods, collects, and returns what is left of this host on the machine: nothing, if all is well.
    pub fn left_over(&self) -> Vec<String> {
        for dir in self.pod_dirs() {
            if let Some(record) = record_of(&dir) {
                let name = record.pod.metadata.name.unwrap_or_default();
                let namespace = record.pod.metadata.namespace.unwrap_or_default();
                let output = self.husk(&["delete", "pod", &name, "-n", &namespace, "--force"]);
                if output.code != Some(0) {
                    eprintln!("delete of {name} at the end of the test: {output}");
                }
            }
        }
        let output = self.husk(&["gc"]);
        if output.code != Some(0) {
            eprintln!("gc at the end of the test: {output}");
        }
        self.left_behind()
    }

    /// What is on the machine of this host now, besides the images it holds.
    pub fn left_now(&self) -> Vec<String> {
        let mut left = self.before.compare(&Snapshot::take(&self.dir, &self.state));
        left.retain(|line| !self.stays.contains(&line.as_str()));
        left
    }

    /// As [`Host::left_now`]; waits a moment for processes that are on their way out.
    pub fn left_behind(&self) -> Vec<String> {
        self.left_behind_beside(|_| false)
    }

    /// As [`Host::left_behind`], beside lines that the test knows of.
    pub fn left_behind_beside(&self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + scaled(Duration::from_secs(3));
        loop {
            let asked = Instant::now();
            let mut left = self.left_now();
            left.retain(|line| !known(line));
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep((asked.elapsed() * 2).max(Duration::from_millis(20)));
        }
    }

    /// Fails unless nothing is left of pods that are gone, beside what all pods share and gc removes.
    #[track_caller]
    pub fn assert_empty(&self) {
        // The cgroup of keepers, too: the last of them may have been in it when its pod was removed.
        let shared = |line: &str| match line.split_once(' ') {
            Some(("interface", name)) => name.starts_with("husk-"),
            Some(("nftables", name)) => name.starts_with("table husk-"),
            Some(("cgroup", path)) => {
                path.ends_with("/runtime") || path.rsplit('/').next().is_some_and(|name| name.starts_with("husk-"))
            }
            _ => false,
        };
        let left = self.left_behind_beside(shared);
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
        self.ok(&["gc"]);
        self.assert_untouched();
    }

    /// Fails unless nothing is left, without deleting anything first: for calls that must not have changed the host.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let left = self.left_behind();
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.before.describe(&self.dir, &self.state);
        }
        // A second panic would end the whole program before anything is cleaned away.
        let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.left_over()));
        let left = left.unwrap_or_else(|_| vec!["the final deletion did not end".to_owned()]);
        outside::sweep(&self.dir, &self.state);
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("remove {}: {error}", self.dir.display());
        }
        if !left.is_empty() {
            let list = left.join("\n  ");
            if std::thread::panicking() {
                eprintln!("left behind by the failed test:\n  {list}");
            } else {
                panic!("left behind by the test:\n  {list}");
            }
        }
    }
}

fn record_of(dir: &Path) -> Option<PodRecord> {
    serde_json::from_slice(&fs::read(dir.join("pod.json")).ok()?).ok()
}

/// One running (or ended) pod of a [`Host`].
pub struct Pod<'h> {
    host: &'h Host,
    /// `metadata.name`.
    pub name: String,
    /// Its state directory.
    pub dir: PathBuf,
}

impl Pod<'_> {
    /// `pod.json`.
    #[track_caller]
    pub fn record(&self) -> PodRecord {
        record_of(&self.dir).expect("pod.json can be read")
    }

    /// `status.json`.
    #[track_caller]
    pub fn status(&self) -> Status {
        let bytes = fs::read(self.dir.join("status.json")).expect("read status.json");
        serde_json::from_slice(&bytes).expect("status.json is a status")
    }

    /// The pod as `husk get pod NAME -o json` prints it.
    #[track_caller]
    pub fn json(&self) -> Value {
        let output = self.host.ok(&["get", "pod", &self.name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).expect("get -o json prints JSON")
    }

    /// `status.phase`.
    #[track_caller]
    pub fn phase(&self) -> String {
        self.json()["status"]["phase"].as_str().expect("a pod has a phase").to_owned()
    }

    /// Asks `probe` until it answers, at most [`PATIENCE`] long; panics with `what` after that. What asks husk is asked again when the pod's record has
    /// changed, and from time to time: each time is a program started.
    #[track_caller]
    fn watch<T>(&self, what: impl Fn() -> String, mut probe: impl FnMut() -> Option<T>) -> T {
        let record = || fs::metadata(self.dir.join("status.json")).map(|meta| (meta.ino(), meta.mtime_nsec())).ok();
        let deadline = Instant::now() + scaled(PATIENCE);
        loop {
            let (seen, asked) = (record(), Instant::now());
            if let Some(value) = probe() {
                return value;
            }
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {}", what());
            let again =
                Instant::now() + (asked.elapsed() * 10).clamp(Duration::from_millis(100), Duration::from_secs(2));
            while Instant::now() < again && record() == seen {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Waits until the pod is in `phase`.
    #[track_caller]
    pub fn wait_phase(&self, phase: &str) -> Value {
        self.watch(
            || format!("pod {} {phase}, now {}", self.name, self.json()["status"]),
            || Some(self.json()).filter(|pod| pod["status"]["phase"] == phase),
        )
    }

    /// The entry of `container` in `status.containerStatuses` or `status.initContainerStatuses`.
    #[track_caller]
    pub fn container(&self, container: &str) -> Value {
        let pod = self.json();
        ["initContainerStatuses", "containerStatuses"]
            .iter()
            .filter_map(|list| pod["status"][list].as_array())
            .flatten()
            .find(|status| status["name"] == container)
            .cloned()
            .unwrap_or_else(|| panic!("no status of container {container} in {}", pod["status"]))
    }

    /// Waits until `container`'s status satisfies `test`.
    #[track_caller]
    pub fn wait_container(&self, container: &str, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        self.watch(
            || format!("container {container} {what}, now {}", self.container(container)),
            || Some(self.container(container)).filter(|status| test(status)),
        )
    }

    /// Waits until `container` has terminated for good and returns `state.terminated`.
    #[track_caller]
    pub fn terminated(&self, container: &str) -> Value {
        self.wait_container(container, "terminated", |status| status["state"]["terminated"].is_object())["state"]["terminated"].clone()
    }

    /// Host pid of the running instance of `container`.
    #[track_caller]
    pub fn pid(&self, container: &str) -> i32 {
        wait_for(&format!("container {container} running"), || {
            self.status().containers.iter().find(|c| c.name == container).and_then(|c| match &c.state {
                husk::state::record::State::Running { pid, .. } => Some(*pid),
                _ => None,
            })
        })
    }

    /// Directory of the cgroup of `container` in the hierarchy of `controller`, as the kernel names it.
    #[track_caller]
    pub fn cgroup(&self, container: &str, controller: &str) -> PathBuf {
        let pid = self.pid(container);
        // With v1 its own first steps lead it there, from the cgroup of whoever made it.
        wait_for(&format!("container {container} in its cgroup"), || {
            Some(outside::cgroup_of(pid, controller)).filter(|dir| !dir.ends_with("runtime"))
        })
    }

    /// Host pid of pause.
    #[track_caller]
    pub fn pause(&self) -> i32 {
        self.status().sandbox.expect("the pod has a sandbox").pid
    }

    /// Host pid of keeper.
    #[track_caller]
    pub fn keeper(&self) -> i32 {
        outside::parent(self.pause()).expect("pause has a parent")
    }

    /// Host pid of the supervisor that lives now.
    #[track_caller]
    pub fn supervisor(&self) -> i32 {
        let keeper = self.keeper();
        wait_for("a supervisor below keeper", || {
            outside::children(keeper)
                .into_iter()
                .find(|pid| outside::cmdline(*pid).iter().any(|arg| arg == "supervisor"))
        })
    }

    /// What `container` has printed so far: `husk logs NAME -c CONTAINER` with `flags`.
    #[track_caller]
    pub fn logs(&self, container: &str, flags: &[&str]) -> String {
        let mut args = vec!["logs", &self.name, "-c", container];
        args.extend(flags);
        self.host.ok(&args).out()
    }

    /// Waits until `container` has printed `text`, and returns all it has printed.
    #[track_caller]
    pub fn wait_log(&self, container: &str, text: &str) -> String {
        wait_for(&format!("{text:?} in the log of {container}"), || {
            let logs = self.host.husk(&["logs", &self.name, "-c", container]).out();
            logs.contains(text).then_some(logs)
        })
    }

    /// Runs `script` with `sh -c` in `container`, which must exit 0, and returns what it printed.
    #[track_caller]
    pub fn sh(&self, container: &str, script: &str) -> String {
        let output = self.try_sh(container, script);
        assert_eq!(output.code, Some(0), "{script:?} in {container}: {output}");
        output.out()
    }

    /// Runs `script` with `sh -c` in `container`.
    pub fn try_sh(&self, container: &str, script: &str) -> Output {
        self.host.husk(&["exec", &self.name, "-c", container, "--", "/bin/sh", "-c", script])
    }

    /// `husk delete` with `flags`, which must succeed.
    #[track_caller]
    pub fn delete(&self, flags: &[&str]) -> Output {
        let mut args = vec!["delete", "pod", &self.name];
        args.extend(flags);
        self.host.ok(&args)
    }
}

/// A v1.Pod as JSON: restart policy Never and a grace of one second unless `spec` says otherwise.
pub fn manifest(name: &str, spec: Value) -> String {
    let mut all = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1});
    merge(&mut all, spec);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": all}).to_string()
}

/// A container of [`BUSYBOX`] that runs `script` with `sh -c`; `more` is laid over it.
pub fn container(name: &str, script: &str, more: Value) -> Value {
    let mut all = json!({"name": name, "image": BUSYBOX, "command": ["/bin/sh", "-c", script]});
    merge(&mut all, more);
    all
}

/// A container that sleeps until it is killed.
pub fn sleeper(name: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["/bin/sleep", "100000"]})
}

/// Lays the fields of `over` on top of `base`.
pub fn merge(base: &mut Value, over: Value) {
    if let (Some(base), Value::Object(over)) = (base.as_object_mut(), over) {
        base.extend(over);
    }
}
