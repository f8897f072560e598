//! Which devices a container may open: the kernel is asked, on v1 and on v2.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use husk::cgroup::devices::PROGRAM_NAME;
use husk::cgroup::{CgroupDriver, Cgroupfs, DeviceRule, DeviceRules, Error, Hierarchies, Limits};
use husk_oci::sys::bpf::{self, Insn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use common::outside::{alive, cgroup_of};
use common::run::Job;
use common::skip::skip;
use common::{Host, container, manifest, merge, sleeper, wait_for};

/// What every container may do, and `more`.
fn rules(more: &[&str]) -> DeviceRules {
    let mut rules = DeviceRules::container();
    more.iter().for_each(|line| rules.allow(line.parse::<DeviceRule>().expect("a rule")));
    rules
}

/// A cgroup of one test below a driver.
struct Scratch {
    driver: Cgroupfs,
    path: String,
}

impl Scratch {
    fn new(driver: Cgroupfs, name: &str) -> Scratch {
        Scratch { driver, path: format!("husk-test-{}-{name}", std::process::id()) }
    }

    fn set(&self, rules: DeviceRules) {
        self.driver.create(&self.path, &Limits { devices: Some(rules), ..Limits::default() }).expect("set the rules");
    }

    fn v2(&self) -> PathBuf {
        self.driver.hierarchies().v2.as_ref().expect("a v2 tree").mount.join(&self.path)
    }

    /// What the shell in the cgroup says about opening `/dev/kmsg` for reading and writing, and `/dev/null` for both at once.
    fn tried(&self) -> [bool; 3] {
        let all = self.driver.hierarchies();
        let v1 = all.v1.iter().map(|h| h.mount.join(&self.path).join("tasks"));
        let v2 = all.v2.iter().map(|h| h.mount.join(&self.path).join("cgroup.procs"));
        let enter: String =
            v1.chain(v2).filter(|f| f.exists()).map(|f| format!("echo 0 > {} || exit 9; ", f.display())).collect();
        let script =
            "(exec 3</dev/kmsg) && echo read; (exec 3>/dev/kmsg) && echo write; (exec 3<>/dev/null) && echo null; true";
        let output = Job::new("sh", &["-c", &format!("{enter} {script}")]).finish();
        assert_eq!(output.code, Some(0), "{output}");
        let said = output.out();
        let could = ["read", "write", "null"].map(|word| said.lines().any(|line| line == word));
        let refusals = output.err().matches("not permitted").count();
        assert_eq!(refusals, could.iter().filter(|could| !**could).count(), "each refusal is EPERM: {output}");
        could
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.driver.kill(&self.path).expect("kill");
        wait_for("the cgroup is empty", || self.driver.try_remove(&self.path).expect("remove").then_some(()));
    }
}

/// The host as it is, and its v2 tree alone as if nothing else were there.
fn drivers() -> Vec<(&'static str, Cgroupfs)> {
    let all = Hierarchies::detect().expect("cgroups");
    let mut drivers = vec![("host", Cgroupfs::new(all.clone()))];
    match all.v2 {
        Some(v2) if !all.v1.is_empty() => {
            drivers.push(("v2", Cgroupfs::new(Hierarchies { v1: Vec::new(), v2: Some(v2) })));
        }
        // One or the other alone: the host is all there is.
        Some(_) | None => {}
    }
    drivers
}

/// Device programs of a cgroup of the v2 tree itself, by name.
fn programs(dir: &Path) -> Vec<bpf::Name> {
    let dir = fs::File::open(dir).expect("open the cgroup");
    let mut ids = [0; 64];
    let ids = bpf::device_programs(dir.as_fd(), &mut ids).expect("list its programs");
    ids.iter().map(|id| bpf::name(bpf::program_by_id(*id).expect("open it").as_fd()).expect("its name")).collect()
}

/// The lines of a v1 list, sorted.
fn list(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("devices.list")).expect("read devices.list");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Fails unless exactly `rules` are in force in the cgroup of a process, once.
#[track_caller]
fn assert_limited(pid: i32, rules: &DeviceRules) {
    let dir = cgroup_of(pid, "devices");
    if dir.join("devices.list").exists() {
        let mut wanted: Vec<String> = rules.iter().map(ToString::to_string).collect();
        wanted.sort();
        assert_eq!(list(&dir), wanted);
    } else {
        assert_eq!(programs(&dir), [PROGRAM_NAME], "{}", dir.display());
    }
}

#[test]
fn rules_are_enforced_and_can_be_changed() {
    for (name, driver) in drivers() {
        let s = Scratch::new(driver, name);
        s.driver.create(&s.path, &Limits::default()).expect("create");
        assert_eq!(s.tried(), [true, true, true], "{name}: no rules, no limit");
        s.set(rules(&[]));
        assert_eq!(s.tried(), [false, false, true], "{name}");
        s.set(rules(&["c 1:11 r"]));
        assert_eq!(s.tried(), [true, false, true], "{name}");
        s.set(rules(&["c 1:11 w"]));
        assert_eq!(s.tried(), [false, true, true], "{name}");
        s.set(DeviceRules::default());
        assert_eq!(s.tried(), [false, false, false], "{name}");
        s.set(rules(&["c 1:* rwm"]));
        assert_eq!(s.tried(), [true, true, true], "{name}");
        // Programs that the kernel might find too strange, or too long.
        s.set(
            ["c *:* rwm", "c 1:11 r", "b *:* rwm"].iter().map(|r| r.parse::<DeviceRule>().expect("a rule")).collect(),
        );
        assert_eq!(s.tried(), [true, true, true], "{name}");
        let many: Vec<String> = (1000..1256).map(|n| format!("b {n}:{n} {}", ["r", "w", "rwm"][n % 3])).collect();
        s.set(rules(&many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(s.tried(), [false, false, true], "{name}");
    }
}

#[test]
fn a_new_cgroup_has_its_rules_from_the_start() {
    for (name, driver) in drivers() {
        let s = Scratch::new(driver, &format!("{name}-start"));
        s.set(rules(&[]));
        assert_eq!(s.tried(), [false, false, true], "{name}");
        if let Some(h) = s.driver.hierarchies().v1_with("devices") {
            assert_eq!(list(&h.mount.join(&s.path)).len(), rules(&[]).iter().count());
        }
    }
}

#[test]
fn programs_do_not_pile_up_and_those_of_others_stay() {
    let Some((_, driver)) = drivers().into_iter().find(|(_, d)| d.hierarchies().v1_with("devices").is_none()) else {
        skip!("this host has no v2 tree");
    };
    let s = Scratch::new(driver, "pile");
    s.driver.create(&s.path, &Limits::default()).expect("create");
    let dir = fs::File::open(s.v2()).expect("open the cgroup");
    // Answers 1: everything is allowed.
    let yes = [Insn::new(0xb4, 0, 0, 0, 1), Insn::new(0x95, 0, 0, 0, 0)];
    let other = bpf::named(c"somebody");
    for name in [other, PROGRAM_NAME, PROGRAM_NAME] {
        let program = bpf::load_device_program(&yes, &name).expect("load");
        bpf::attach_device_program(dir.as_fd(), program.as_fd(), None).expect("attach");
    }
    for _ in 0..3 {
        s.set(rules(&[]));
        let mut found = programs(&s.v2());
        found.sort();
        assert_eq!(found, [PROGRAM_NAME, other]);
        assert_eq!(s.tried(), [false, false, true]);
    }
    // CAP_NET_ADMIN is enough to take a program off, but only one that can be named; to open one takes CAP_SYS_ADMIN.
    let stranger = bpf::load_device_program(&yes, &other).expect("load");
    assert_eq!(bpf::detach_device_program(dir.as_fd(), stranger.as_fd()), Err(nix::errno::Errno::ENOENT));
}

#[test]
fn where_devices_cannot_be_limited_a_limit_is_refused() {
    let driver = Cgroupfs::new(Hierarchies { v1: Vec::new(), v2: None });
    let limits = Limits { devices: Some(rules(&[])), ..Limits::default() };
    let error = driver.create("nowhere", &limits).expect_err("refused");
    assert_eq!(error, Error::NoDeviceControl { path: "nowhere".into() });
    assert!(error.to_string().contains("privileged: true"), "{error}");
}

/// Tries to open `path` for `how` (`<`, `>` or `<>`) and says what the kernel said.
fn open(how: &str, path: &str) -> String {
    format!("(exec 3{how}{path}) 2>&1 && echo opened {path};")
}

fn with(name: &str, script: &str, security: Value) -> Value {
    container(name, script, json!({"securityContext": security}))
}

#[test]
fn a_node_that_was_made_is_not_a_device_that_may_be_opened() {
    let host = Host::new();
    let make = "mknod /tmp/log c 1 11 && mknod /tmp/disk b 7 0 && mknod /tmp/tun c 10 200 && echo made;";
    let script = format!("{make} {} {} {}", open(">", "/tmp/log"), open("<", "/tmp/disk"), open("<>", "/tmp/tun"));
    let all = |name: &str, security| with(name, &format!("{script} exec sleep 100000"), security);
    let spec = json!({"containers": [
        all("mknod", json!({"capabilities": {"add": ["MKNOD"]}})),
        all("all", json!({"capabilities": {"add": ["ALL"]}})),
        all("privileged", json!({"privileged": true})),
    ]});
    let pod = host.run("nodes", &manifest("nodes", spec));
    for name in ["mknod", "all"] {
        let said = wait_for("three refusals", || {
            Some(pod.logs(name, &[])).filter(|said| said.matches("Operation not permitted").count() == 3)
        });
        assert!(said.contains("made") && !said.contains("opened"), "{said}");
        assert_limited(pod.pid(name), &rules(&[]));
        // An exec is in the same cgroup.
        let said = pod.try_sh(name, &script.replace("/tmp/", "/tmp/exec-")).out();
        assert!(said.contains("made") && !said.contains("opened"), "{said}");
        assert_eq!(said.matches("Operation not permitted").count(), 3, "{said}");
    }
    // The control: the same calls, in the same pod, where everything is allowed.
    let said = pod.wait_log("privileged", "opened /tmp/log");
    assert!(!said.contains("Operation not permitted"), "{said}");
}

#[test]
fn the_devices_of_every_container_open() {
    let host = Host::new();
    let pod = host.run("usual", &manifest("usual", json!({"containers": [sleeper("main")]})));
    let script: String =
        ["null", "zero", "full", "random", "urandom", "ptmx"].map(|name| open("<>", &format!("/dev/{name}"))).concat();
    let said = pod.sh("main", &script);
    assert_eq!(said.matches("opened /dev/").count(), 6, "{said}");
    // No controlling terminal: another answer than that of a filter.
    let said = pod.try_sh("main", &open("<", "/dev/tty"));
    assert!(said.out().contains("No such device or address"), "{said}");
    let tty = container("main", "echo via terminal > /dev/tty; exec sleep 100000", json!({"tty": true}));
    let pod = host.run("tty", &manifest("tty", json!({"containers": [tty]})));
    pod.wait_log("main", "via terminal");
}

#[test]
fn a_device_that_is_mounted_needs_a_privileged_container_to_be_opened() {
    let host = Host::new();
    let mut both = [sleeper("plain"), sleeper("privileged")];
    for c in &mut both {
        merge(c, json!({"volumeMounts": [{"name": "log", "mountPath": "/log"}]}));
    }
    merge(&mut both[1], json!({"securityContext": {"privileged": true}}));
    let volume = json!({"name": "log", "hostPath": {"path": "/dev/kmsg", "type": "CharDevice"}});
    let pod = host.run("mounted", &manifest("mounted", json!({"containers": both, "volumes": [volume]})));
    let said = pod.try_sh("plain", &format!("test -c /log && echo there; {}", open(">", "/log")));
    assert!(said.out().contains("there") && said.out().contains("Operation not permitted"), "{said}");
    assert!(pod.sh("privileged", &open(">", "/log")).contains("opened /log"));
}

#[test]
fn a_restarted_container_is_limited_again() {
    let host = Host::new();
    let wait = "[ -e /v/go ] && exec sleep 100000; until [ -e /v/go ]; do sleep 0.05; done; exit 1";
    let script = format!("mknod /tmp/log c 1 11; {} {wait}", open(">", "/tmp/log"));
    let mut main = with("main", &script, json!({"capabilities": {"add": ["MKNOD"]}}));
    merge(&mut main, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let spec = json!({"restartPolicy": "Always", "containers": [main], "volumes": [{"name": "v", "emptyDir": {}}]});
    let pod = host.run("again", &manifest("again", spec));
    let (first, supervisor) = (pod.pid("main"), pod.supervisor());
    assert_limited(first, &rules(&[]));
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill the supervisor");
    wait_for("its end", || (!alive(supervisor)).then_some(()));
    pod.sh("main", "touch /v/go");
    pod.wait_container("main", "restarted by the next supervisor", |status| {
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    let second = pod.pid("main");
    assert_ne!(first, second);
    assert_limited(second, &rules(&[]));
    assert!(!pod.wait_log("main", "Operation not permitted").contains("opened"));
}
