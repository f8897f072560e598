//! AppArmor profiles of containers, as the kernel enforces them. Where there is no AppArmor: that this is said.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::skip::skip;
use common::{Host, container, manifest, merge, sleeper};
use serde_json::{Value, json};

const SLEEP: &str = "exec sleep 100000";

fn enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn profile(of: Value) -> Value {
    json!({"securityContext": {"appArmorProfile": of}})
}

/// A profile of the test's own, as long as the value lives.
struct Loaded(String);

impl Loaded {
    fn new(name: &str, rules: &str) -> Loaded {
        let text = format!("profile {name} flags=(attach_disconnected) {{\n{rules}\n}}\n");
        Loaded::parser("--add", &text);
        Loaded(text)
    }

    fn parser(action: &str, text: &str) {
        let mut child = Command::new("/sbin/apparmor_parser")
            .args([action, "--skip-cache"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("start apparmor_parser");
        child.stdin.take().expect("its stdin").write_all(text.as_bytes()).expect("write the profile");
        assert!(child.wait().expect("wait for it").success(), "apparmor_parser {action} {text}");
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        Loaded::parser("--remove", &self.0);
    }
}

/// What a process of the container is confined by.
fn current(pod: &common::Pod<'_>, container: &str) -> String {
    pod.sh(container, "cat /proc/1/attr/current; cat /proc/self/attr/current").replace('\n', " ").trim_end().to_owned()
}

#[test]
fn a_container_that_says_nothing_is_confined_by_the_default_and_may_still_be_stopped() {
    if !enabled() {
        skip!("this kernel has no AppArmor");
    }
    let host = Host::new();
    let mut free = sleeper("free");
    merge(&mut free, profile(json!({"type": "Unconfined"})));
    let trap = "trap 'exit 7' TERM; while :; do sleep 0.1; done";
    let spec = json!({"restartPolicy": "Always", "containers": [container("plain", trap, json!({})), free,
        container("all", SLEEP, json!({"securityContext": {"privileged": true}}))]});
    let pod = host.run("default", &manifest("default", spec));
    assert_eq!(current(&pod, "plain"), "husk-default (enforce) husk-default (enforce)");
    assert_eq!(current(&pod, "free"), "unconfined unconfined");
    assert_eq!(current(&pod, "all"), "unconfined unconfined", "privileged: nothing but what was asked for");

    // Who asks may be killed with the container before it can say that it was allowed to.
    let asked = pod.try_sh("plain", "kill 1");
    assert!(matches!(asked.code, Some(0 | 137)), "{asked}");
    let again =
        pod.wait_container("plain", "started again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(again["lastState"]["terminated"]["exitCode"], 7, "signals of its own kind reach it");
    assert_eq!(current(&pod, "plain"), "husk-default (enforce) husk-default (enforce)");
    host.ok(&["delete", "default"]);
}

#[test]
fn the_default_profile_keeps_the_hosts_switches_from_a_powerful_container() {
    if !enabled() {
        skip!("this kernel has no AppArmor");
    }
    let host = Host::new();
    let powerful = |name, more| {
        let mut c = container(name, SLEEP, json!({}));
        merge(&mut c, json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}, "procMount": "Unmasked"}}));
        merge(&mut c["securityContext"], more);
        c
    };
    let free = powerful("free", json!({"appArmorProfile": {"type": "Unconfined"}}));
    let spec = json!({"containers": [powerful("held", json!({})), free]});
    let pod = host.run("powerful", &manifest("powerful", spec));
    let mount = "mkdir -p /m && mount -t tmpfs x /m && umount /m";
    assert_eq!(pod.try_sh("free", mount).code, Some(0), "SYS_ADMIN alone can mount");
    let refused = pod.try_sh("held", mount);
    assert!(refused.code != Some(0) && refused.err().contains("ermission denied"), "{refused}");
    // Opened, not written: the value is the host's.
    let open = ": >> /proc/sys/kernel/core_pattern";
    assert_eq!(pod.try_sh("free", open).code, Some(0));
    let refused = pod.try_sh("held", open);
    assert!(refused.code != Some(0) && refused.err().contains("ermission denied"), "{refused}");
    pod.sh("held", "echo ok > /tmp.file && cat /proc/self/status /proc/meminfo > /dev/null && ls / > /dev/null");
}

#[test]
fn a_profile_of_the_host_is_enforced_by_its_name() {
    if !enabled() {
        skip!("this kernel has no AppArmor");
    }
    let _loaded = Loaded::new("husk-test-readonly", "  file,\n  capability,\n  signal,\n  deny /** w,");
    let host = Host::new();
    let named = profile(json!({"type": "Localhost", "localhostProfile": "husk-test-readonly"}));
    let spec = json!({"securityContext": named["securityContext"], "containers": [container("a", SLEEP, json!({})),
        container("b", SLEEP, profile(json!({"type": "RuntimeDefault"})))]});
    let pod = host.run("named", &manifest("named", spec));
    let refused = pod.try_sh("a", "echo x > /file");
    assert!(refused.code != Some(0) && refused.err().contains("ermission denied"), "{refused}");
    pod.sh("b", "echo x > /file");
    assert_eq!(pod.sh("b", "cat /proc/1/attr/current"), "husk-default (enforce)\n", "a container's word counts more");
}

#[test]
fn a_profile_that_is_not_there_is_refused_by_its_field() {
    if !enabled() {
        skip!("this kernel has no AppArmor");
    }
    let host = Host::new();
    let named = profile(json!({"type": "Localhost", "localhostProfile": "husk-test-nowhere"}));
    let output = host.try_run(&manifest("nowhere", json!({"containers": [container("a", SLEEP, named)]})));
    assert_eq!(output.code, Some(1), "{output}");
    let said = output.err();
    assert!(
        said.contains(
            "spec.containers[0].securityContext.appArmorProfile: profile \"husk-test-nowhere\" is not loaded"
        ),
        "{said}"
    );
    host.assert_untouched();
}

#[test]
fn a_host_without_apparmor_refuses_profiles_and_runs_what_asks_for_none() {
    if enabled() {
        skip!("this kernel has AppArmor");
    }
    let host = Host::new();
    for of in [json!({"type": "RuntimeDefault"}), json!({"type": "Localhost", "localhostProfile": "x"})] {
        let output = host.try_run(&manifest("asks", json!({"containers": [container("a", SLEEP, profile(of))]})));
        assert_eq!(output.code, Some(1), "{output}");
        let said = output.err();
        assert!(said.contains("spec.containers[0].securityContext.appArmorProfile: AppArmor is not enabled"), "{said}");
    }
    let unconfined = container("b", SLEEP, profile(json!({"type": "Unconfined"})));
    let pod = host.run("plain", &manifest("plain", json!({"containers": [sleeper("a"), unconfined]})));
    assert_eq!(pod.phase(), "Running");
    assert!(!Path::new("/sys/kernel/security/apparmor/profiles").exists());
}
