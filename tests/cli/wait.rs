//! `wait`, while the test changes the records.

use std::process::{Child, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::fake::{FakePod, running, terminated};
use crate::{Husk, Said};

fn start(husk: &Husk, args: &[&str]) -> Child {
    let mut command = husk.command();
    command.arg("wait").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start husk")
}

/// Until the child sleeps in poll(2): then whatever happens next is what wakes it.
fn until_it_sleeps(child: &Child) {
    let begun = Instant::now();
    loop {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap_or_default();
        // poll or ppoll, on x86-64 and aarch64.
        if ["7 ", "271 ", "73 "].iter().any(|number| call.starts_with(number)) {
            return;
        }
        assert!(begun.elapsed().as_secs() < 20, "husk wait does not sleep: {call}");
        std::thread::yield_now();
    }
}

#[test]
fn a_condition_that_holds_is_met_at_once() {
    let husk = Husk::new("wait-now");
    let _pod = FakePod::new(&husk, "web");
    for goal in ["condition=Ready", "phase=Running", "jsonpath={.status.phase}=Running"] {
        let said = husk.call(&["wait", "pod/web", "--for", goal, "--timeout=0"]);
        assert_eq!(said.is(0).stdout, "pod/web condition met\n", "{goal}");
    }
    husk.call(&["wait", "web", "--for=phase=Failed", "--timeout=0"]).refused(1, &["web", "timed out"]);
}

#[test]
fn a_change_of_the_status_wakes() {
    let husk = Husk::new("wait-change");
    let pod = FakePod::new(&husk, "web");
    pod.status(json!({"state": "waiting", "reason": "ContainerCreating", "message": ""}), |_| ());
    let child = start(&husk, &["web", "--for=condition=Ready", "--timeout=60s"]);
    until_it_sleeps(&child);
    pod.status(running(), |_| ());
    let said: Said = child.wait_with_output().expect("wait").into();
    assert_eq!(said.is(0).stdout, "pod/web condition met\n");
}

#[test]
fn the_end_of_the_pod_wakes() {
    let husk = Husk::new("wait-end");
    let pod = FakePod::new(&husk, "web");
    let deleted = start(&husk, &["web", "--for=delete", "--timeout=60s"]);
    let ready = start(&husk, &["web", "--for=phase=Failed", "--timeout=60s"]);
    until_it_sleeps(&deleted);
    until_it_sleeps(&ready);
    pod.roots.forget(&pod.uid, Some(("default", "web"))).expect("forget");
    let said: Said = deleted.wait_with_output().expect("wait").into();
    assert_eq!(said.is(0).stdout, "pod/web condition met\n");
    let said: Said = ready.wait_with_output().expect("wait").into();
    said.refused(1, &["web", "deleted"]);
}

#[test]
fn a_pod_whose_keeper_dies_is_noticed_though_nobody_writes() {
    let husk = Husk::new("wait-keeper");
    let mut pod = FakePod::new(&husk, "web");
    let child = start(&husk, &["web", "--for=condition=Ready=false", "--timeout=60s"]);
    until_it_sleeps(&child);
    pod.lock = None;
    let said: Said = child.wait_with_output().expect("wait").into();
    assert_eq!(said.is(0).stdout, "pod/web condition met\n");
}

#[test]
fn the_timeout_is_kept() {
    let husk = Husk::new("wait-timeout");
    let _pod = FakePod::new(&husk, "web");
    let begun = Instant::now();
    husk.call(&["wait", "web", "--for=delete", "--timeout=300ms"]).refused(1, &["web", "timed out"]);
    assert!(begun.elapsed().as_millis() >= 300);
}

#[test]
fn waiting_for_what_cannot_happen_any_more_ends() {
    let husk = Husk::new("wait-vain");
    let pod = FakePod::new(&husk, "web");
    pod.status(terminated(0, 1), |status| {
        status["containers"][2]["state"] = terminated(0, 1);
        status["finished_at"] = json!("2026-01-01T00:00:09Z");
        status["failure"] = json!({"reason": "Evicted", "message": "no more room"});
    });
    husk.call(&["wait", "web", "--for=condition=Ready", "--timeout=60s"]).refused(1, &["web", "Failed"]);
}
