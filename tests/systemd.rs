//! The systemd cgroup driver: on a host whose init is systemd, with its whole cgroup tree in sight; and elsewhere what is said about it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use husk::cgroup::limits::weight_from_shares;
use husk::cgroup::systemd::{is_init, parent_slice};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use common::outside::{alive, cgroup_of, cgroup_parent, cgroups, hierarchy};
use common::run::{Job, Output};
use common::skip::skip;
use common::{Host, Pod, container, manifest, merge, sleeper, wait_for};

/// Who executes systemd anew is alone meanwhile: it is away from the bus for a moment, and what others ask for then ends in an error.
static SYSTEMD: RwLock<()> = RwLock::new(());

macro_rules! needs_systemd {
    () => {
        needs_systemd!(read);
    };
    ($turn:ident) => {
        if !is_init() {
            skip!("systemd is not this host's init");
        }
        let _turn = SYSTEMD.$turn().unwrap_or_else(PoisonError::into_inner);
    };
}

/// A host whose pods are scopes.
fn host() -> Host {
    let mut host = Host::new();
    host.cgroup_driver = Some("systemd");
    host
}

fn systemctl(args: &[&str]) -> Output {
    Job::new("systemctl", args).finish()
}

/// What systemctl tells. When it is reloaded, systemd is away from the bus for a moment.
fn asked(args: &[&str]) -> String {
    wait_for(&format!("systemctl {args:?}"), || {
        let output = systemctl(args);
        (output.code == Some(0)).then(|| output.out())
    })
}

/// A property of a unit, as systemd writes it.
fn property(unit: &str, name: &str) -> String {
    asked(&["show", "--value", "-p", name, "--", unit]).trim().to_owned()
}

/// The units of an instance that systemd has in memory.
fn units(host: &Host) -> Vec<String> {
    let prefix = parent_slice(&cgroup_parent(&host.state)).replace(".slice", "");
    let (top, below) = (format!("{prefix}.slice"), format!("{prefix}-*"));
    let told = asked(&["list-units", "--all", "--plain", "--no-legend", &top, &below]);
    told.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The last pod is gone: neither systemd nor the kernel has anything of this host's.
#[track_caller]
fn assert_nothing(host: &Host) {
    wait_for(&format!("no unit: {:?}", units(host)), || units(host).is_empty().then_some(()));
    let left = cgroups(&cgroup_parent(&host.state));
    assert!(left.is_empty(), "{left:?}");
    // What was set of a unit is in files of systemd's, which are to go with it.
    let prefix = parent_slice(&cgroup_parent(&host.state)).replace(".slice", "");
    for dir in ["/run/systemd/transient", "/run/systemd/system.control"] {
        wait_for(&format!("no file of {prefix} in {dir}"), || {
            let files = fs::read_dir(dir).into_iter().flatten().flatten();
            let ours = files.filter(|file| file.file_name().to_string_lossy().starts_with(&prefix));
            (ours.count() == 0).then_some(())
        });
    }
}

/// Name of a pod's scope.
fn scope(pod: &Pod) -> String {
    let record = pod.record();
    let scope = record.scope().expect("a pod of the systemd driver");
    scope.rsplit('/').next().expect("a last component").to_owned()
}

/// Where a pod's scope is in the hierarchy of `controller`, or of the v2 tree.
fn scope_dir(pod: &Pod, controller: &str) -> PathBuf {
    let top = hierarchy(controller).unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
    top.join(pod.record().scope().expect("a pod of the systemd driver"))
}

fn value(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn with_resources(mut container: Value, resources: Value) -> Value {
    merge(&mut container, json!({"resources": resources}));
    container
}

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|errno| panic!("kill {pid}: {errno}"));
}

/// Runs `name` with the given uid.
fn with_uid(name: &str, uid: &str, spec: Value) -> String {
    let mut all: Value = serde_json::from_str(&manifest(name, spec)).expect("JSON");
    all["metadata"]["uid"] = json!(uid);
    all.to_string()
}

#[test]
fn a_pod_is_a_scope_in_the_slice_of_its_class() {
    needs_systemd!();
    let host = host();
    let parent = cgroup_parent(&host.state).replace('-', "_");
    let cases = [
        ("best", json!({}), "-besteffort"),
        ("burst", json!({"requests": {"cpu": "500m"}}), "-burstable"),
        ("guaranteed", json!({"limits": {"cpu": "100m", "memory": "64Mi"}}), ""),
    ];
    for (name, resources, class) in cases {
        let pod = host.run(name, &manifest(name, json!({"containers": [with_resources(sleeper("main"), resources)]})));
        let uid = pod.json()["metadata"]["uid"].as_str().expect("a uid").replace('-', "_");
        let unit = format!("{parent}-pods{class}-pod{uid}.scope");
        assert_eq!(scope(&pod), unit);
        let slice = format!("{parent}-pods{class}.slice");
        let above = if class.is_empty() { String::new() } else { format!("{slice}/") };
        let path = format!("{parent}.slice/{parent}-pods.slice/{above}{unit}");
        assert_eq!(pod.record().cgroup, format!("{path}/pod"));
        for (name, wanted) in [
            ("ControlGroup", format!("/{path}").as_str()),
            ("Slice", &slice),
            ("ActiveState", "active"),
            ("Delegate", "yes"),
            ("CollectMode", "inactive-or-failed"),
            ("TasksMax", "infinity"),
            ("DefaultDependencies", "no"),
        ] {
            assert_eq!(property(&unit, name), wanted, "{unit} {name}");
        }
        for (who, pid) in [("keeper", pod.keeper()), ("supervisor", pod.supervisor()), ("pause", pod.pause())] {
            for controller in ["memory", "pids"] {
                assert_eq!(cgroup_of(pid, controller), scope_dir(&pod, controller).join("runtime"), "{who}");
            }
        }
        let main = pod.cgroup("main", "pids");
        assert_eq!(main.parent(), Some(scope_dir(&pod, "pids").join("pod").as_path()), "{}", main.display());
        pod.sh("main", "test $(nproc) -gt 0");
    }
    for (name, ..) in [("best",), ("burst",), ("guaranteed",)] {
        host.pod(name).delete(&[]);
    }
    assert_nothing(&host);
}

#[test]
fn limits_are_the_kernels_and_the_weight_is_the_scopes() {
    needs_systemd!();
    let host = host();
    let resources = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "600m", "memory": "64Mi"}});
    let hungry = container("main", "sleep 1; exec tail /dev/zero", json!({}));
    let spec = json!({"containers": [with_resources(hungry, resources), sleeper("other")]});
    let pod = host.run("limits", &manifest("limits", spec));
    let weight = weight_from_shares(512);
    assert_eq!(property(&scope(&pod), "CPUWeight"), weight.to_string());
    let inner = scope_dir(&pod, "cpu").join("pod");
    let main = pod.cgroup("main", "cpu");
    if hierarchy("cpu").is_none() {
        assert_eq!(value(&scope_dir(&pod, "cpu"), "cpu.weight"), weight.to_string());
        assert_eq!(value(&main, "cpu.max"), "60000 100000");
        assert_eq!(value(&inner, "cpu.weight"), weight.to_string());
    } else {
        assert_eq!(value(&main, "cpu.cfs_quota_us"), "60000");
        assert_eq!(value(&inner, "cpu.shares"), "512");
    }
    let end = pod.terminated("main");
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("OOMKilled")), "{end}");
    assert!(alive(pod.pid("other")) && alive(pod.pause()) && alive(pod.supervisor()));
    pod.delete(&["--force"]);
    assert_nothing(&host);
}

#[test]
fn slices_weigh_and_protect_what_is_in_them() {
    needs_systemd!();
    if hierarchy("cpu").is_some() {
        skip!("on cgroup v1 slices are left as systemd has them");
    }
    let host = host();
    let run = |name: &'static str, resources: Value, annotations: Value| {
        let spec = json!({"containers": [with_resources(sleeper("main"), resources)]});
        let mut pod: Value = serde_json::from_str(&manifest(name, spec)).expect("JSON");
        pod["metadata"]["annotations"] = annotations;
        host.run(name, &pod.to_string())
    };
    let first = run("first", json!({"requests": {"cpu": "500m"}}), json!({"husk.dev/memory-min": "4Mi"}));
    let second = run("second", json!({"requests": {"cpu": "1"}}), json!({}));
    let best = run("best", json!({}), json!({}));
    let slice = |pod: &Pod| scope_dir(pod, "cpu").parent().expect("a slice").to_owned();
    let name = |dir: &Path| dir.file_name().expect("a unit").to_string_lossy().into_owned();
    let weighs = |dir: &Path, shares: u64| {
        let now = property(&name(dir), "CPUWeight").parse::<u64>().expect("a weight");
        assert_eq!(value(dir, "cpu.weight"), now.to_string(), "{}", dir.display());
        let wanted = weight_from_shares(shares)..=weight_from_shares(shares * 21 / 20);
        assert!(wanted.contains(&now), "{}: {now}, not {wanted:?}", dir.display());
    };
    let burstable = slice(&first);
    weighs(&burstable, 1536);
    weighs(&slice(&best), 2);
    let min = (4u64 << 20).to_string();
    for dir in scope_dir(&first, "memory").ancestors().take(4) {
        assert_eq!((value(dir, "memory.min"), property(&name(dir), "MemoryMin")), (min.clone(), min.clone()));
    }
    host.ok(&["update", "second", "--cpu-request", "250m"]);
    weighs(&scope_dir(&second, "cpu"), 256);
    weighs(&burstable, 768);
    second.delete(&["--force"]);
    weighs(&burstable, 512);
    first.delete(&["--force"]);
    best.delete(&["--force"]);
    assert_nothing(&host);
}

/// All that husk has written about a pod's limits, and what is enabled for it.
fn settings(pod: &Pod) -> Vec<(PathBuf, String)> {
    let files = [
        "memory.max",
        "cpu.max",
        "cpu.weight",
        "pids.max",
        "memory.oom.group",
        "cgroup.subtree_control",
        "cgroup.controllers",
    ];
    let v1 = ["memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.shares", "pids.max"];
    let mut found = Vec::new();
    for controller in ["memory", "cpu", "pids"] {
        let container = pod.cgroup("main", controller);
        let inner = scope_dir(pod, controller);
        for dir in [inner.clone(), inner.join("runtime"), inner.join("pod"), container] {
            let paths = files.iter().chain(&v1).map(|file| dir.join(file));
            found.extend(paths.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?))));
        }
    }
    found
}

#[test]
fn reloading_and_executing_systemd_anew_changes_nothing() {
    needs_systemd!(write);
    let host = host();
    let resources = json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}});
    let pod =
        host.run("reload", &manifest("reload", json!({"containers": [with_resources(sleeper("main"), resources)]})));
    let before = settings(&pod);
    assert!(before.len() > 8, "{before:?}");
    for call in ["daemon-reload", "daemon-reexec"] {
        let output = systemctl(&[call]);
        assert_eq!(output.code, Some(0), "{call}: {output}");
        // Another unit that comes and goes makes systemd look at what it has enabled.
        let other = host.run("other", &manifest("other", json!({"containers": [sleeper("main")]})));
        other.delete(&["--force"]);
        assert_eq!(settings(&pod), before, "after {call}");
        assert_eq!(property(&scope(&pod), "ActiveState"), "active", "after {call}");
        pod.sh("main", "true");
    }
    pod.delete(&["--force"]);
    assert_nothing(&host);
}

#[test]
fn a_pod_outlives_its_supervisor_and_restarts_its_containers_in_its_scope() {
    needs_systemd!();
    let host = host();
    let spec =
        json!({"restartPolicy": "Always", "containers": [container("main", "sleep 1000009; exit 3", json!({}))]});
    let pod = host.run("watched", &manifest("watched", spec));
    let first = pod.supervisor();
    let before = pod.cgroup("main", "pids");
    sigkill(first);
    let second = wait_for("another supervisor", || Some(pod.supervisor()).filter(|pid| *pid != first));
    assert_eq!(cgroup_of(second, "pids"), scope_dir(&pod, "pids").join("runtime"));
    // The end of the container is that of the exec, too.
    pod.try_sh("main", "kill $(pidof sleep)");
    pod.wait_container("main", "started again", |status| {
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    let after = pod.cgroup("main", "pids");
    assert_ne!(before, after);
    assert_eq!(after.parent(), before.parent());
    pod.delete(&[]);
    assert_nothing(&host);
}

#[test]
fn with_keeper_the_scope_goes_and_gc_finds_nothing_else() {
    needs_systemd!();
    let host = host();
    let pod = host.run("killed", &manifest("killed", json!({"containers": [sleeper("main")]})));
    let other = host.run("other", &manifest("other", json!({"containers": [sleeper("main")]})));
    let (unit, main) = (scope(&pod), pod.pid("main"));
    sigkill(pod.keeper());
    wait_for("the pod is dead", || (!alive(main)).then_some(()));
    wait_for("systemd has forgotten the scope", || (!units(&host).contains(&unit)).then_some(()));
    assert_eq!(host.ok(&["gc"]).out(), "default/killed removed\n");
    assert!(alive(other.pid("main")), "gc takes the dead one alone");
    other.delete(&["--force"]);
    assert_nothing(&host);
}

#[test]
fn ten_pods_start_at_once() {
    needs_systemd!();
    let host = host();
    let all: Vec<_> = (0..10)
        .map(|n| {
            let name = format!("pod-{n}");
            let job = host.job(&["run", "-"]).stdin(manifest(&name, json!({"containers": [sleeper("main")]})));
            (name, job.patience(Duration::from_secs(120)).start())
        })
        .collect();
    for (name, running) in all {
        let output = running.finish();
        assert_eq!(output.code, Some(0), "{name}: {output}");
        assert_eq!(property(&scope(&host.pod(&name)), "ActiveState"), "active");
    }
    host.ok(&["delete", "pods", "--all", "--force"]);
    assert_nothing(&host);
}

#[test]
fn stopping_the_slice_ends_its_pods_and_husk_tells() {
    needs_systemd!();
    let host = host();
    let pod = host.run("stopped", &manifest("stopped", json!({"containers": [sleeper("main")]})));
    let (main, keeper) = (pod.pid("main"), pod.keeper());
    let output = systemctl(&["stop", &parent_slice(&cgroup_parent(&host.state))]);
    assert_eq!(output.code, Some(0), "{output}");
    wait_for("the pod is dead", || (!alive(main) && !alive(keeper)).then_some(()));
    assert_eq!(pod.phase(), "Failed");
    pod.delete(&[]);
    assert_nothing(&host);
    // The slices are made again for the next one.
    let again = host.run("again", &manifest("again", json!({"containers": [sleeper("main")]})));
    again.delete(&["--force"]);
    assert_nothing(&host);
}

/// Somebody's scope in the place of a pod's.
fn squat(host: &Host, uid: &str, description: &str) -> (String, common::run::Running) {
    let parent = cgroup_parent(&host.state).replace('-', "_");
    let slice = format!("{parent}-pods-besteffort.slice");
    let unit = format!("{parent}-pods-besteffort-pod{}.scope", uid.replace('-', "_"));
    let args = [
        "--scope",
        "--collect",
        "--unit",
        &unit,
        "--slice",
        &slice,
        "--description",
        description,
        "--",
        "/bin/sleep",
        "1000008",
    ];
    let running = Job::new("systemd-run", &args).start();
    wait_for("the other's scope", || (property(&unit, "ActiveState") == "active").then_some(()));
    (unit, running)
}

#[test]
fn what_a_dead_pod_has_left_in_the_way_is_stopped_and_what_is_anothers_is_not() {
    needs_systemd!();
    let host = host();
    let spec = json!({"containers": [sleeper("main")]});
    let (unit, dead) = squat(&host, "dead-1", &format!("husk pod dead-1 of {}", host.state.display()));
    let pod = host.run("taken", &with_uid("taken", "dead-1", spec.clone()));
    assert_eq!(scope(&pod), unit);
    assert_eq!(dead.finish().signal, Some(libc::SIGKILL));
    pod.delete(&["--force"]);

    let (unit, foreign) = squat(&host, "dead-2", "somebody else's work");
    let output = host.try_run(&with_uid("refused", "dead-2", spec));
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("not ours (\"somebody else's work\")"), "{output}");
    assert!(foreign.is_running());
    assert!(host.pod_dirs().is_empty());
    assert_eq!(systemctl(&["stop", &unit]).code, Some(0));
    foreign.finish();
    host.ok(&["gc"]);
    assert_nothing(&host);
}

#[test]
fn gc_ends_a_scope_whose_pod_nobody_knows() {
    needs_systemd!();
    let host = host();
    let pod = host.run("known", &manifest("known", json!({"containers": [sleeper("main")]})));
    let lost = host.run("lost", &manifest("lost", json!({"containers": [sleeper("main")]})));
    let (unit, pids) = (scope(&lost), [lost.keeper(), lost.pause(), lost.pid("main")]);
    let id = lost.record().id.replace('-', "_");
    let (other, foreign) = squat(&host, "lost-1", "whatever");
    fs::remove_dir_all(&lost.dir).expect("remove its records");
    let told = host.ok(&["gc"]).out();
    assert!(told.contains(&format!("{id} removed\n")) && !told.contains("lost_1"), "{told}");
    wait_for("the lost pod is dead", || pids.iter().all(|pid| !alive(*pid)).then_some(()));
    wait_for("systemd has forgotten it", || (!units(&host).contains(&unit)).then_some(()));
    assert!(alive(pod.pid("main")) && foreign.is_running());
    assert_eq!(systemctl(&["stop", &other]).code, Some(0));
    foreign.finish();
    pod.delete(&["--force"]);
    assert_nothing(&host);
}

#[test]
fn without_a_bus_nothing_is_made() {
    needs_systemd!();
    let host = host();
    let job = host.job(&["run", "-"]).stdin(manifest("mute", json!({"containers": [sleeper("main")]})));
    let output = job.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/socket").finish();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("/nowhere/socket") && output.err().contains("cgroupfs driver does not"), "{output}");
    assert_nothing(&host);
    host.assert_untouched();
}

#[test]
fn a_client_may_name_a_slice_and_a_pod_of_the_other_driver_goes_beside_it() {
    needs_systemd!();
    // The instance's own driver does not matter.
    let host = Host::new();
    let call = |method: &str, request: Value| -> Value {
        let output = host.job(&["cri", method]).stdin(request.to_string()).finish();
        assert_eq!(output.code, Some(0), "{method} {request}: {output}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let slice = format!("husktest{}-burstable-podu_1.slice", std::process::id());
    let metadata = json!({"name": "client", "namespace": "n", "uid": "u-1", "attempt": 0});
    let made = call("RunPodSandbox", json!({"config": {"metadata": metadata, "linux": {"cgroupParent": slice}}}));
    let id = made["podSandboxId"].as_str().expect("an id");
    let pod = host.pod("client");
    let unit = scope(&pod);
    assert_eq!(property(&unit, "Slice"), slice);
    assert_eq!(property(&unit, "ControlGroup"), format!("/{}", pod.record().scope().expect("a scope")));
    assert_eq!(cgroup_of(pod.pause(), "pids"), scope_dir(&pod, "pids").join("runtime"));
    let beside = host.run("beside", &manifest("beside", json!({"containers": [sleeper("main")]})));
    assert_eq!(beside.record().scope(), None);
    call("StopPodSandbox", json!({"podSandboxId": id}));
    call("RemovePodSandbox", json!({"podSandboxId": id}));
    wait_for("the scope is gone", || (property(&unit, "LoadState") == "not-found").then_some(()));
    beside.delete(&["--force"]);
    let top = slice.split('-').next().expect("a first part");
    assert_eq!(systemctl(&["stop", &format!("{top}.slice")]).code, Some(0));
    assert_nothing(&host);
}

#[test]
fn a_host_without_systemd_is_told_so() {
    if is_init() {
        skip!("systemd is this host's init");
    }
    let host = host();
    let output = host.try_run(&manifest("none", json!({"containers": [sleeper("main")]})));
    assert_eq!(output.code, Some(1), "{output}");
    assert!(
        output.err().contains("needs systemd as the host's init") && output.err().contains("--cgroup-driver cgroupfs"),
        "{output}"
    );
    let request = json!({"config": {"metadata": {"name": "c", "namespace": "n", "uid": "u", "attempt": 0}, "linux": {"cgroupParent": "kubepods.slice"}}});
    let output = Host::job(&host, &["cri", "RunPodSandbox"])
        .env("HUSK_CGROUP_DRIVER", "cgroupfs")
        .stdin(request.to_string())
        .finish();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("config.linux.cgroupParent: \"kubepods.slice\" is systemd's"), "{output}");
    assert!(host.pod_dirs().is_empty());
    host.assert_untouched();
}

#[test]
fn an_unknown_driver_and_an_id_that_is_no_unit_are_refused() {
    let host = host();
    let output = host.job(&["run", "-"]).env("HUSK_CGROUP_DRIVER", "systemc").finish();
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.err().contains("[possible values: cgroupfs, systemd]"), "{output}");
    let output = host.try_run(&with_uid("odd", "a b", json!({"containers": [sleeper("main")]})));
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("metadata.uid"), "{output}");
    host.assert_untouched();
}

#[test]
fn the_helper_says_what_is_wrong_and_ends() {
    let host = host();
    let task = json!({"hold": {"scope": {"unit": "a.scope", "slice": "a.slice", "slices": [], "description": "x", "cpu_weight": null}, "runtime": "a.slice/a.scope/runtime"}});
    let call = |task: &str, bus: &str| host.job(&["systemd", task]).env("DBUS_SYSTEM_BUS_ADDRESS", bus).finish();
    let output = call(&task.to_string(), "unix:path=/nowhere/socket");
    assert!(output.out().contains("/nowhere/socket") && output.out().starts_with("{\"failed\":"), "{output}");
    // A bus that takes the connection and says nothing.
    let path = host.dir.join("mute");
    let _mute = std::os::unix::net::UnixListener::bind(&path).expect("make a socket");
    let output = call(&task.to_string(), &format!("unix:path={}", path.display()));
    assert!(output.out().contains("systemd has not done it within 10 s"), "{output}");
    assert!(output.elapsed < Duration::from_secs(40), "{output}");
    for bad in ["", "{}", "[1]"] {
        assert_eq!(call(bad, "").code, Some(2), "{bad}");
    }
}

/// A unit that is there until this is dropped.
struct Unit(&'static str);

impl Unit {
    fn path(&self) -> PathBuf {
        Path::new("/run/systemd/system").join(self.0)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        systemctl(&["stop", self.0]);
        fs::remove_file(self.path()).expect("remove the unit");
        systemctl(&["daemon-reload"]);
    }
}

#[test]
fn the_unit_for_watch_is_up_with_its_pods_and_leaves_them_alone_when_it_goes() {
    needs_systemd!();
    let host = host();
    let dir = host.dir.join("pods");
    fs::create_dir(&dir).expect("make a directory");
    let put = |name: &str| {
        let text = manifest(name, json!({"terminationGracePeriodSeconds": 1, "containers": [sleeper("main")]}));
        fs::write(dir.join(format!("{name}.json")), text).expect("write a manifest");
    };
    put("first");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/husk-watch.service");
    let text = fs::read_to_string(path).expect("read the unit");
    let here = format!(
        "ExecStart={} --root {} --state {} --cgroup-driver systemd watch --network none {}",
        env!("CARGO_BIN_EXE_husk"),
        host.root.display(),
        host.state.display(),
        dir.display()
    );
    let of_the_unit = "ExecStart=/usr/local/bin/husk watch /etc/husk/pods";
    assert!(text.contains(of_the_unit));
    let unit = Unit("husk-watch-test.service");
    fs::write(unit.path(), text.replace(of_the_unit, &here)).expect("write a unit");
    let must = |args: &[&str]| {
        let output = systemctl(args);
        assert_eq!(output.code, Some(0), "{args:?}: {output}\n{}", systemctl(&["status", unit.0]).out());
    };
    must(&["daemon-reload"]);
    // It is up when its pods were made.
    must(&["start", unit.0]);
    let first = host.pod("first").pid("main");
    put("second");
    wait_for("the second pod", || (host.husk(&["get", "pod", "second"]).code == Some(0)).then_some(()));
    let second = host.pod("second").pid("main");
    must(&["reload", unit.0]);

    // Restarted, killed or stopped, it leaves its pods alone, and knows them again.
    must(&["restart", unit.0]);
    let main_pid = || property(unit.0, "MainPID").parse::<i32>().expect("a pid");
    let killed = main_pid();
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("kill husk watch");
    wait_for("the next one", || {
        (![0, killed].contains(&main_pid()) && property(unit.0, "ActiveState") == "active").then_some(())
    });
    must(&["stop", unit.0]);
    assert!(alive(first) && alive(second));
    assert_eq!((host.pod("first").pid("main"), host.pod("second").pid("main")), (first, second));
    fs::remove_file(dir.join("first.json")).expect("remove a manifest");
    must(&["start", unit.0]);
    wait_for("the first one to go", || (!alive(first)).then_some(()));
    assert!(alive(second));
    must(&["stop", unit.0]);
    host.ok(&["delete", "pods", "--all"]);
    assert_nothing(&host);
}
