//! The power goes while twenty pods run and others come and go: what was acknowledged is there after the next boot, nothing is taken for alive, and all of
//! it can be collected. `scripts/vm power` runs this and takes the power away; nobody else can.
//!
//! `HUSK_TEST_POWER` is a directory that survives. In it are the roots of two instances: `disk` keeps its records there, `run` on a tmpfs as usual.
//! What was acknowledged is written to a synced ledger first thing after the acknowledgement; what may be undone, right before.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::run::{Job, Output};
use common::skip::skip;
use common::{container, image, manifest, outside, wait_for};
use serde_json::{Value, json};

/// Pods that run when the power goes.
const PODS: usize = 20;
/// How often the power goes.
const CUTS: u32 = 3;

/// One pair of roots.
struct Instance {
    name: &'static str,
    root: PathBuf,
    state: PathBuf,
}

impl Instance {
    fn job(&self, args: &[&str]) -> Job {
        Job::new(env!("CARGO_BIN_EXE_husk"), args)
            .env("HUSK_ROOT", self.root.as_os_str())
            .env("HUSK_STATE", self.state.as_os_str())
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Output {
        let output = self.job(args).finish();
        assert_eq!(output.code, Some(0), "{}: husk {args:?}: {output}", self.name);
        output
    }

    fn run(&self, text: &str) -> Output {
        self.job(&["run", "-"]).stdin(text).finish()
    }

    /// All pods as JSON by their names. Fails when one is unreadable.
    fn pods(&self) -> BTreeMap<String, Value> {
        let list: Value = serde_json::from_slice(&self.ok(&["get", "pods", "-o", "json"]).stdout).expect("JSON");
        let items = list["items"].as_array().expect("a list").iter();
        items.map(|pod| (pod["metadata"]["name"].as_str().expect("a name").to_owned(), pod.clone())).collect()
    }

    fn images(&self) -> BTreeSet<String> {
        let list = self.ok(&["image", "ls", "-o", "name"]).out();
        list.lines().map(str::to_owned).collect()
    }

    /// Files and directories below `part` of the root.
    fn names(&self, part: &str) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.root.join(part)) else { return Vec::new() };
        entries.map(|entry| entry.expect("list a directory").path()).collect()
    }
}

fn instances(dir: &Path) -> [Instance; 2] {
    let state =
        |name: &str| if name == "disk" { dir.join("disk-state") } else { PathBuf::from("/run/husk-test-power") };
    ["disk", "run"].map(|name| Instance { name, root: dir.join(format!("{name}-root")), state: state(name) })
}

/// What was acknowledged, a line each: `INSTANCE VERB NAME`.
struct Ledger(Mutex<File>);

impl Ledger {
    fn open(dir: &Path) -> Ledger {
        let file = OpenOptions::new().create(true).append(true).open(dir.join("ledger")).expect("open the ledger");
        Ledger(Mutex::new(file))
    }

    fn note(&self, instance: &Instance, verb: &str, name: &str) {
        let mut file = self.0.lock().expect("no thread panics with the lock");
        file.write_all(format!("{} {verb} {name}\n", instance.name).as_bytes()).expect("write the ledger");
        file.sync_data().expect("sync the ledger");
    }

    /// The last verb about each name of an instance.
    fn read(dir: &Path, instance: &Instance) -> BTreeMap<String, String> {
        let text = fs::read_to_string(dir.join("ledger")).unwrap_or_default();
        let words = text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?, words.next()?))
        });
        words.filter(|w| w.0 == instance.name).map(|(_, verb, name)| (name.to_owned(), verb.to_owned())).collect()
    }
}

fn spec(name: &str, script: &str) -> String {
    let mounts = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let spec = json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [container("main", script, mounts)]});
    manifest(name, spec)
}

/// A pod that writes to its log, its root and its volume all the time.
fn busy(name: &str) -> String {
    spec(name, "while :; do echo out; echo x >> /v/file; echo y >> /file; sleep 0.1; done")
}

fn directory() -> Option<PathBuf> {
    std::env::var_os("HUSK_TEST_POWER").map(PathBuf::from)
}

#[test]
fn what_was_acknowledged_before_the_power_went_is_there_and_all_can_be_collected() {
    let Some(dir) = directory() else {
        skip!("only a virtual machine's power can be taken away; scripts/vm power does it")
    };
    let round: u32 = std::env::var("HUSK_TEST_POWER_ROUND").expect("a round").parse().expect("a number");
    look_back(&dir, round);
    // The last time the power stays.
    if round <= CUTS {
        live_until_the_power_goes(&dir);
    }
}

fn look_back(dir: &Path, round: u32) {
    for instance in &instances(dir) {
        let known = Ledger::read(dir, instance);
        let lived = known.keys().filter(|name| name.starts_with("pod-")).count();
        let wanted =
            if round == 1 { 0 } else { (0..PODS).filter(|n| instances(dir)[of(*n)].name == instance.name).count() };
        assert_eq!(lived, wanted, "{}: pods that ran before the cut, in the ledger: {known:?}", instance.name);
        let verb =
            |verb: &str| known.iter().filter(|(_, v)| *v == verb).map(|(name, _)| name.clone()).collect::<Vec<_>>();
        println!(
            "{}: {} up, {} ended, {} images",
            instance.name,
            verb("up").len(),
            verb("ended").len(),
            verb("image").len()
        );
        nothing_is_alive(instance);
        records_are_true(instance, &verb("up"), &verb("ended"));
        let images = instance.images();
        for image in verb("image") {
            assert!(images.contains(&image), "{}: image {image} was acknowledged; there are {images:?}", instance.name);
        }
        if known.values().any(|v| v == "up") {
            runs_again(instance);
        }
        all_can_be_collected(instance);
    }
    match fs::remove_file(dir.join("ledger")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("begin a new ledger: {e}"),
        _ => {}
    }
}

fn nothing_is_alive(instance: &Instance) {
    for (name, pod) in instance.pods() {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        // How one that ran has ended nobody can know, and that is the only reason not to know.
        let known = phase != "Unknown" || pod["status"]["message"].as_str().is_some_and(|m| m.contains("started anew"));
        assert!(phase != "Running" && known, "{}: pod {name} of another boot is {phase}: {pod}", instance.name);
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        assert!(statuses.iter().all(|c| c["state"]["running"].is_null() && c["ready"] != true), "{name}: {pod}");
        let exec = instance.job(&["exec", &name, "--", "true"]).finish();
        assert!(exec.code.is_some_and(|code| code != 0) && exec.err().starts_with("husk: "), "{name}: {exec}");
    }
}

fn records_are_true(instance: &Instance, up: &[String], ended: &[String]) {
    // Where records are on a tmpfs they are gone, and so is what they told of.
    if instance.name == "run" {
        return assert!(instance.pods().is_empty());
    }
    let pods = instance.pods();
    for name in up {
        assert!(pods.contains_key(name), "pod {name} was acknowledged; there are {:?}", pods.keys());
    }
    for name in ended {
        let code = &pods[name]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
        assert_eq!(code, 7, "exit code of {name}: {}", pods[name]);
    }
}

/// A pod of the last boot can be started under its name as if it had never been.
fn runs_again(instance: &Instance) {
    let output = instance.run(&busy("pod-0"));
    assert_eq!(output.code, Some(0), "{}: {output}", instance.name);
    assert_eq!(instance.ok(&["exec", "pod-0", "--", "echo", "here"]).out(), "here\n");
}

fn all_can_be_collected(instance: &Instance) {
    for name in instance.pods().keys() {
        instance.ok(&["delete", "pod", name, "--force"]);
    }
    instance.ok(&["gc"]);
    assert!(instance.pods().is_empty());
    assert_eq!(instance.names("pods"), Vec::<PathBuf>::new());
    wait_for("no process of the pods is left", || {
        outside::pids()
            .into_iter()
            .all(|pid| !outside::alive(pid) || outside::cmdline(pid).is_empty() || !is_ours(pid))
            .then_some(())
    });
    let unfinished: Vec<_> =
        instance.names("images").into_iter().filter(|path| path.to_string_lossy().contains(".tmp")).collect();
    assert_eq!(unfinished, Vec::<PathBuf>::new());
}

fn is_ours(pid: i32) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(comm.trim(), "keeper" | "pause") || outside::cmdline(pid).iter().any(|arg| arg == "supervisor")
}

/// To which of the two a pod belongs.
fn of(n: usize) -> usize {
    usize::from(n % 4 == 3)
}

/// Twenty pods run, others come and go.
fn live_until_the_power_goes(dir: &Path) {
    let ledger = Ledger::open(dir);
    let busybox = image::busybox();
    let both = instances(dir);
    for instance in &both {
        instance.ok(&["image", "load", busybox.to_str().expect("UTF-8")]);
        ledger.note(instance, "image", common::BUSYBOX);
    }
    for n in 0..PODS {
        let (instance, name) = (&both[of(n)], format!("pod-{n}"));
        let output = instance.run(&busy(&name));
        assert_eq!(output.code, Some(0), "{output}");
        ledger.note(instance, "up", &name);
    }
    // The one who takes the power away waits for this line, past the capture of the test harness, and then some time of his own.
    std::io::stdout().write_all(b"\nhusk-vm: cut\n").expect("say so");
    std::thread::scope(|scope| {
        for instance in &both {
            scope.spawn(|| or_end(|| come_and_go(instance, &ledger)));
            scope.spawn(|| or_end(|| load_and_remove(instance, &ledger)));
        }
    });
}

/// Ends the whole program when `work` fails: the other threads go on for ever, and would be waited for.
fn or_end(work: impl FnOnce()) {
    let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) else { return };
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    // Past the capture of the test harness.
    let _ = writeln!(std::io::stdout(), "power: before the power went: {}", text.unwrap_or("a thread has failed"));
    std::process::abort();
}

fn come_and_go(instance: &Instance, ledger: &Ledger) {
    for n in 0.. {
        let name = format!("short-{n}");
        assert_eq!(instance.run(&spec(&name, "echo out; exit 7")).code, Some(0), "{name}");
        ledger.note(instance, "up", &name);
        wait_for("the end of a short pod", || {
            let pod = instance.job(&["get", "pod", &name, "-o", "json"]).finish();
            let pod: Value = serde_json::from_slice(&pod.stdout).ok()?;
            (pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7).then_some(())
        });
        ledger.note(instance, "ended", &name);
        if n % 3 == 2 {
            ledger.note(instance, "deleting", &name);
            instance.ok(&["delete", "pod", &name]);
        }
    }
}

fn load_and_remove(instance: &Instance, ledger: &Ledger) {
    for n in 0.. {
        let name = format!("husk.test/power:{n}");
        let archive = image::Image::on_busybox(&name).set("Env", json!([format!("N={n}")]));
        let path = archive.write(&instance.root.join("..").join(format!("{}-image", instance.name)));
        instance.ok(&["image", "load", path.to_str().expect("UTF-8")]);
        ledger.note(instance, "image", &name);
        if n % 2 == 1 {
            ledger.note(instance, "removing", &name);
            instance.ok(&["image", "rm", &name]);
        }
    }
}
