//! Termination messages: what containers leave behind, and what they must not be able to do with it.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{BUSYBOX, Host, container, manifest, outside, sleeper, wait_for};

/// The `message` of an end.
fn message(end: &Value) -> &str {
    end["message"].as_str().unwrap_or_default()
}

/// The message of a container that runs `script` to its end.
fn said(host: &Host, name: &str, script: &str, more: Value) -> String {
    let pod = host.run(name, &manifest(name, json!({"containers": [container("c", script, more)]})));
    let end = pod.terminated("c");
    host.ok(&["delete", name]);
    message(&end).to_owned()
}

const OR_LOG: &str = "FallbackToLogsOnError";

#[test]
fn last_words_are_in_the_status_and_each_instance_has_its_own() {
    let host = Host::new();
    // It finds an empty file of its own each time, and what it has written shows with its end.
    let script = "[ -s /dev/termination-log ] && exit 9; until [ -e /tmp/go ]; do sleep 0.05; done; echo \"no $0\" > /dev/termination-log; exit 3";
    let spec =
        json!({"restartPolicy": "Always", "containers": [container("main", script, json!({})), sleeper("other")]});
    let pod = host.run("words", &manifest("words", spec));
    for restarts in 1..=2 {
        pod.sh("main", "touch /tmp/go");
        let c = pod.wait_container("main", "has ended once more", |c| {
            c["restartCount"] == restarts && c["state"]["running"].is_object()
                || c["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        });
        let last = &c["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], message(last)), (&json!(3), "no /bin/sh\n"), "{c}");
    }
    assert!(host.ok(&["describe", "words"]).out().contains("      Message:      no /bin/sh\n"));
    assert!(host.ok(&["explain", "words"]).out().contains("container main: no /bin/sh\n"));
}

#[test]
fn the_log_stands_in_for_a_message_of_who_fails_alone() {
    let host = Host::new();
    let or_log = || json!({"terminationMessagePolicy": OR_LOG});
    assert_eq!(said(&host, "fails", "echo one; echo two >&2; exit 1", or_log()), "one\ntwo\n");
    assert_eq!(said(&host, "succeeds", "echo one", or_log()), "");
    assert_eq!(said(&host, "speaks", "echo log; echo word > /dev/termination-log; exit 1", or_log()), "word\n");
    assert_eq!(said(&host, "silent", "echo log; exit 1", json!({})), "");
    assert_eq!(said(&host, "unfinished", "printf 'no end'; exit 1", or_log()), "no end");
    let lines = said(&host, "lines", "seq 1 100; exit 1", or_log());
    assert!(lines.starts_with("21\n") && lines.ends_with("100\n"), "{lines}");
    let bytes = said(&host, "bytes", "head -c 5000 /dev/zero | tr '\\0' x; echo end; exit 1", or_log());
    assert!(bytes.len() == 2048 && bytes.ends_with("xend\n"), "{} bytes", bytes.len());
    // That a process was killed for want of memory is told before it.
    let hog = json!({"terminationMessagePolicy": OR_LOG, "resources": {"limits": {"memory": "24Mi"}}});
    let script = "tail -c 300000000 /dev/zero; echo over; exit 1";
    let spec = json!({"containers": [container("c", script, hog)]});
    let pod = host.run("hungry", &super::oom::single("hungry", spec));
    let end = pod.terminated("c");
    let told = message(&end);
    assert!(
        told.starts_with("1 process of the container was killed for want of memory: ") && told.contains("over\n"),
        "{told}"
    );
}

#[test]
fn anybody_in_a_read_only_root_may_leave_one_anywhere() {
    let host = Host::new();
    for (number, path) in ["/dev/termination-log", "/var/lib/deep/last words", "tmp/relative"].into_iter().enumerate() {
        let more = json!({
            "securityContext": {"readOnlyRootFilesystem": true, "runAsUser": 1234, "runAsGroup": 1234},
            "terminationMessagePath": path,
        });
        let script = format!("cd /; touch /x && exit 9; stat -c %a '{path}' > '{path}'; id -u >> '{path}'");
        assert_eq!(said(&host, &format!("p{number}"), &script, more), "666\n1234\n", "{path}");
    }
}

#[test]
fn messages_are_cut_to_their_end_and_share_what_a_pod_has() {
    let host = Host::new();
    let script = "head -c 20000 /dev/zero | tr '\\0' x > /dev/termination-log; echo end >> /dev/termination-log";
    assert_eq!(said(&host, "long", script, json!({})).len(), 4096);
    assert!(said(&host, "tail", script, json!({})).ends_with("xend\n"));
    let four = ["a", "b", "c", "d"].map(|name| container(name, script, json!({})));
    let pod = host.run("four", &manifest("four", json!({"containers": four})));
    pod.wait_phase("Succeeded");
    for name in ["a", "b", "c", "d"] {
        assert_eq!(message(&pod.terminated(name)).len(), 12 * 1024 / 4, "{name}");
    }
    // What is no text is not lost.
    assert_eq!(said(&host, "binary", "printf 'a\\377b' > /dev/termination-log", json!({})), "a\u{fffd}b");
}

#[test]
fn init_and_ephemeral_containers_leave_messages_too() {
    let host = Host::new();
    let script = |code| format!("echo from $HOSTNAME > /dev/termination-log; exit {code}");
    let spec = json!({"initContainers": [container("setup", &script(0), json!({}))], "containers": [sleeper("main")]});
    let pod = host.run("kinds", &manifest("kinds", spec));
    assert_eq!(message(&pod.terminated("setup")), "from kinds\n");
    host.ok(&["debug", "kinds", "--image", BUSYBOX, "--name", "look", "--", "/bin/sh", "-c", &script(4)]);
    let end = wait_for("the end of the debugger", || {
        let pod = pod.json();
        Some(pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].clone()).filter(Value::is_object)
    });
    assert_eq!((&end["exitCode"], message(&end)), (&json!(4), "from kinds\n"));
    // Another of its name begins with an empty one.
    host.ok(&["debug", "kinds", "--remove", "look"]);
    host.ok(&[
        "debug",
        "kinds",
        "--image",
        BUSYBOX,
        "--name",
        "look",
        "--",
        "/bin/sh",
        "-c",
        "wc -c < /dev/termination-log; sleep 1000",
    ]);
    pod.wait_log("look", "0");
}

#[test]
fn a_hostile_container_gets_nothing_but_its_own_file() {
    let host = Host::new();
    let secret = host.file("secret", "secret");
    let disk = || nix::sys::statvfs::statvfs(&host.dir).expect("look at the disk").blocks_available();
    let before = disk();
    let caps = |names: Value| json!({"securityContext": {"capabilities": {"add": names}}});
    let table = [
        (
            "removes",
            "rm -f /dev/termination-log; mv /dev/termination-log /tmp/x; echo kept > /dev/termination-log",
            json!({}),
            "kept\n",
        ),
        (
            "links",
            "ln -sf /etc/passwd /dev/termination-log; ln -f /etc/passwd /dev/termination-log; echo kept > /dev/termination-log",
            json!({}),
            "kept\n",
        ),
        // It has the right to take its file away from before its own eyes, and puts others there.
        (
            "unmounts-link",
            "umount /dev/termination-log && rm /dev/termination-log && ln -s /proc/1/environ /dev/termination-log && touch /tmp/done; [ -e /tmp/done ] || exit 9",
            json!({"securityContext": {"privileged": true}}),
            "",
        ),
        (
            "unmounts-fifo",
            "umount /dev/termination-log && rm /dev/termination-log && mkfifo /dev/termination-log && touch /tmp/done; [ -e /tmp/done ] || exit 9",
            json!({"securityContext": {"privileged": true}}),
            "",
        ),
        (
            "holes",
            "dd if=/dev/zero of=/dev/termination-log bs=1 count=1 seek=1073741824; printf end >> /dev/termination-log",
            json!({}),
            "end",
        ),
        (
            "closes",
            "chmod 0 /dev/termination-log; chown 5:5 /dev/termination-log; echo kept > /dev/termination-log",
            caps(json!(["DAC_OVERRIDE"])),
            "kept\n",
        ),
    ];
    for (name, script, more, expected) in table {
        let pod = host.run(name, &manifest(name, json!({"containers": [container("c", script, more)]})));
        let end = pod.terminated("c");
        assert_eq!(end["exitCode"], 0, "{name}: {end}");
        assert!(
            message(&end).ends_with(expected) && (!expected.is_empty() || message(&end).is_empty()),
            "{name}: {end}"
        );
        host.ok(&["delete", name]);
    }

    // A gigabyte: the small place is full soon, and neither the disk nor the others' start suffers.
    let greedy = container(
        "greedy",
        "dd if=/dev/zero of=/dev/termination-log bs=1M count=1024; echo code $?; echo; sleep 1000",
        json!({}),
    );
    let until = container("other", "until [ -e /tmp/go ]; do sleep 0.05; done; exit 1", json!({}));
    let pod =
        host.run("greedy", &manifest("greedy", json!({"restartPolicy": "Always", "containers": [greedy, until]})));
    assert!(pod.wait_log("greedy", "code").contains("code 1"));
    pod.sh("other", "touch /tmp/go");
    pod.wait_container("other", "was started again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    let used = before.saturating_sub(disk()) * nix::sys::statvfs::statvfs(&host.dir).expect("look").fragment_size();
    assert!(used < 200 << 20, "{used} bytes of the disk are gone");
    assert_eq!(fs::read_to_string(secret).expect("it is there"), "secret");
}

/// Whether a process is a zombie.
fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_message_survives_the_supervisor_that_did_not_read_it() {
    let host = Host::new();
    let share = host.dir.join("share");
    fs::create_dir(&share).expect("make a directory");
    let mount = json!({"volumeMounts": [{"name": "share", "mountPath": "/share"}], "terminationMessagePolicy": OR_LOG});
    let until = |go: &str, then: &str| format!("until [ -e /share/{go} ]; do sleep 0.05; done; {then}");
    let spec = json!({
        "volumes": [{"name": "share", "hostPath": {"path": share}}],
        "containers": [
            container("main", &until("go", "echo why > /dev/termination-log; exit 3"), mount.clone()),
            container("log", &until("go", "echo in the log; exit 3"), mount.clone()),
            container("later", &until("late", "echo later > /dev/termination-log; exit 4"), mount),
        ],
    });
    let pod = host.run("heir", &manifest("heir", spec));
    let (main, log, supervisor) = (pod.pid("main"), pod.pid("log"), pod.supervisor());
    kill(Pid::from_raw(supervisor), Signal::SIGSTOP).expect("stop it");
    fs::write(share.join("go"), "").expect("let them go on");
    wait_for("their ends", || (is_dead(main) && is_dead(log)).then_some(()));
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill it");
    assert_eq!(message(&pod.terminated("main")), "why\n");
    assert_eq!(message(&pod.terminated("log")), "in the log\n");
    assert_ne!(pod.supervisor(), supervisor);
    fs::write(share.join("late"), "").expect("let it go on");
    assert_eq!(message(&pod.terminated("later")), "later\n");
}

#[test]
fn a_message_survives_the_sandbox() {
    let host = Host::new();
    let script = "echo here > /dev/termination-log; echo written; sleep 100000";
    let spec = json!({"restartPolicy": "Always", "containers": [container("main", script, json!({}))]});
    let pod = host.run("lost", &manifest("lost", spec));
    pod.wait_log("main", "written");
    let pause = pod.pause();
    kill(Pid::from_raw(pause), Signal::SIGKILL).expect("kill pause");
    let c = pod.wait_container("main", "runs in another sandbox", |c| {
        c["restartCount"] == 1 && c["state"]["running"].is_object()
    });
    assert_eq!(message(&c["lastState"]["terminated"]), "here\n", "{c}");
    // And there is a place for the next.
    pod.wait_log("main", "written");
    kill(Pid::from_raw(pod.pid("main")), Signal::SIGKILL).expect("kill the container");
    let c = pod.wait_container("main", "has ended again", |c| {
        c["lastState"]["terminated"]["exitCode"] == 137 && c["restartCount"] == 2 || c["state"]["waiting"].is_object()
    });
    assert_eq!(message(&c["lastState"]["terminated"]), "here\n", "{c}");
    assert!(outside::alive(pod.keeper()));
    pod.delete(&[]);
}

#[test]
fn a_successor_of_another_version_finds_the_place() {
    let host = Host::new();
    let until = "until [ -e /tmp/go ]; do sleep 0.05; done; echo after > /dev/termination-log; exit 1";
    let spec = json!({"restartPolicy": "OnFailure", "containers": [container("main", until, json!({}))]});
    let pod = host.run("new", &manifest("new", spec));
    host.ok(&["upgrade", "new"]);
    pod.sh("main", "touch /tmp/go");
    let c = pod
        .wait_container("main", "was started again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(message(&c["lastState"]["terminated"]), "after\n", "{c}");
    assert!(Path::new(&pod.dir).is_dir());
}
