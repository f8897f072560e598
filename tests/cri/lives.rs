//! Sandboxes and containers as a client drives them: repeated calls, wrong states, deaths of our own processes, events.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::outside::{alive, children, cmdline};
use crate::common::{BUSYBOX, Host, scaled, wait_for};
use crate::talk::Talk;

/// A client with one sandbox.
struct Client<'h> {
    host: &'h Host,
    sandbox: String,
}

fn config(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "clients", "uid": format!("uid-{name}"), "attempt": 0}, "hostname": name})
}

impl<'h> Client<'h> {
    fn new(host: &'h Host, name: &str) -> Client<'h> {
        let answer = call(host, "RunPodSandbox", &json!({"config": config(name)}));
        Client { host, sandbox: answer["podSandboxId"].as_str().expect("an id").to_owned() }
    }

    fn create(&self, name: &str, script: &str) -> String {
        let config = json!({"metadata": {"name": name}, "image": {"image": BUSYBOX}, "command": ["sh", "-c", script]});
        let answer = self.call("CreateContainer", json!({"podSandboxId": self.sandbox, "config": config}));
        answer["containerId"].as_str().expect("an id").to_owned()
    }

    fn run(&self, name: &str, script: &str) -> String {
        let id = self.create(name, script);
        self.call("StartContainer", json!({"containerId": id}));
        id
    }

    fn call(&self, method: &str, request: Value) -> Value {
        call(self.host, method, &request)
    }

    fn status(&self, id: &str) -> Value {
        self.call("ContainerStatus", json!({"containerId": id}))["status"].clone()
    }

    fn wait_exit(&self, id: &str) -> Value {
        wait_for("the container's end", || Some(self.status(id)).filter(|status| status["state"] == "CONTAINER_EXITED"))
    }

    fn keeper(&self) -> i32 {
        let listed = self.call("PodSandboxStatus", json!({"podSandboxId": self.sandbox, "verbose": true}));
        let info: Value = serde_json::from_str(listed["info"]["info"].as_str().expect("info")).expect("JSON");
        let pause = info["pid"].as_i64().expect("a pid");
        let stat = std::fs::read_to_string(format!("/proc/{pause}/stat")).expect("pause lives");
        stat.rsplit_once(')').expect("a name").1.split_ascii_whitespace().nth(1).expect("ppid").parse().expect("a pid")
    }

    fn supervisor(&self) -> i32 {
        let keeper = self.keeper();
        wait_for("a supervisor", || {
            let is = |pid: &i32| cmdline(*pid).iter().any(|arg| arg == "supervisor") && alive(*pid);
            children(keeper).into_iter().find(is)
        })
    }

    fn log(&self, name: &str) -> String {
        let dir = self.host.root.join("logs");
        let path = format!("clients_{}_{}/{name}/0.log", self.name(), self.sandbox);
        std::fs::read_to_string(dir.join(path)).expect("the log is there")
    }

    fn name(&self) -> String {
        let listed = self.call("PodSandboxStatus", json!({"podSandboxId": self.sandbox}));
        listed["status"]["metadata"]["name"].as_str().expect("a name").to_owned()
    }

    fn remove(&self) {
        self.call("RemovePodSandbox", json!({"podSandboxId": self.sandbox}));
    }
}

fn call(host: &Host, method: &str, request: &Value) -> Value {
    let output = host.job(&["cri", method]).stdin(request.to_string()).finish();
    assert_eq!(output.code, Some(0), "{method} {request}: {output}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

#[track_caller]
fn refused(host: &Host, method: &str, request: &Value, code: &str, sentence: &str) {
    let output = host.job(&["cri", method]).stdin(request.to_string()).finish();
    assert_eq!((output.code, output.out().as_str()), (Some(1), ""), "{output}");
    assert!(output.err().starts_with(&format!("husk: {code}: ")) && output.err().contains(sentence), "{output}");
}

#[test]
fn what_is_asked_twice_is_answered_the_same() {
    let host = Host::new();
    let client = Client::new(&host, "twice");
    let again = call(&host, "RunPodSandbox", &json!({"config": config("twice")}));
    assert_eq!(again["podSandboxId"], client.sandbox.as_str());
    let script = "trap 'exit 4' TERM; touch /tmp/up; while :; do sleep 0.05; done";
    let id = client.create("c", script);
    assert_eq!(client.create("c", script), id);
    client.call("StartContainer", json!({"containerId": id}));
    wait_for("its trap", || {
        let looked = client.call("ExecSync", json!({"containerId": id, "cmd": ["test", "-e", "/tmp/up"]}));
        (looked["exitCode"].as_i64().unwrap_or(0) == 0).then_some(())
    });
    for _ in 0..2 {
        client.call("StopContainer", json!({"containerId": id, "timeout": 10}));
        assert_eq!(client.status(&id)["exitCode"], 4);
    }
    for _ in 0..2 {
        client.call("RemoveContainer", json!({"containerId": id}));
    }
    refused(&host, "ContainerStatus", &json!({"containerId": id}), "NOT_FOUND", "does not exist");
    client.call("StopContainer", json!({"containerId": id}));
    for _ in 0..2 {
        client.call("StopPodSandbox", json!({"podSandboxId": client.sandbox}));
    }
    let status = client.call("PodSandboxStatus", json!({"podSandboxId": client.sandbox}));
    assert_eq!(status["status"]["state"], "SANDBOX_NOTREADY");
    for _ in 0..2 {
        client.remove();
    }
    refused(&host, "PodSandboxStatus", &json!({"podSandboxId": client.sandbox}), "NOT_FOUND", "does not exist");
}

#[test]
fn what_the_state_does_not_allow_is_refused() {
    let host = Host::new();
    let client = Client::new(&host, "states");
    let id = client.run("c", "exit 3");
    let ended = client.wait_exit(&id);
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(3), &json!("Error")));
    let request = json!({"containerId": id});
    refused(&host, "StartContainer", &request, "FAILED_PRECONDITION", "it has ended");
    refused(&host, "ExecSync", &json!({"containerId": id, "cmd": ["true"]}), "FAILED_PRECONDITION", "is not running");
    let bad = json!({"podSandboxId": client.sandbox, "config": {"metadata": {"name": "x"}, "image": {"image": BUSYBOX}, "command": ["nosuch"]}});
    refused(&host, "CreateContainer", &bad, "INVALID_ARGUMENT", "nosuch");
    let bad =
        json!({"podSandboxId": client.sandbox, "config": {"metadata": {"name": "x"}, "image": {"image": "no/such:1"}}});
    refused(&host, "CreateContainer", &bad, "NOT_FOUND", "no/such:1");
    // What is found out at the start alone is the container's end, too.
    let late = client.create("late", "true");
    let upper = host.root.join("images/layers");
    let away = host.root.join("images/away");
    std::fs::rename(&upper, &away).expect("hide the layers");
    refused(&host, "StartContainer", &json!({"containerId": late}), "UNKNOWN", "container late");
    std::fs::rename(&away, &upper).expect("bring the layers back");
    let failed = client.status(&late);
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("CONTAINER_EXITED"), &json!("StartError")));
    assert_eq!(failed["exitCode"], 128);

    client.call("StopPodSandbox", json!({"podSandboxId": client.sandbox}));
    let good =
        json!({"podSandboxId": client.sandbox, "config": {"metadata": {"name": "y"}, "image": {"image": BUSYBOX}}});
    refused(&host, "CreateContainer", &good, "FAILED_PRECONDITION", "is not ready");
    refused(&host, "RunPodSandbox", &json!({"config": config("states")}), "ALREADY_EXISTS", "is not ready");
    // The records answer, and can be taken apart, although nothing runs any more.
    assert_eq!(client.status(&id)["exitCode"], 3);
    client.call("RemoveContainer", json!({"containerId": id}));
    refused(&host, "ContainerStatus", &json!({"containerId": id}), "NOT_FOUND", "does not exist");
    client.remove();
}

#[test]
fn a_stop_gives_its_time_and_no_more() {
    let host = Host::new();
    let client = Client::new(&host, "stops");
    let deaf = client.run("deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    wait_for("it is deaf", || client.log("deaf").contains("ready").then_some(()));
    let asked = Instant::now();
    client.call("StopContainer", json!({"containerId": deaf, "timeout": "1"}));
    assert!(asked.elapsed() >= Duration::from_secs(1), "killed after {:?}", asked.elapsed());
    let status = client.status(&deaf);
    assert_eq!(status["exitCode"], 137);
    let next = client.run("next", "trap '' TERM; while :; do sleep 0.05; done");
    let asked = Instant::now();
    client.call("StopContainer", json!({"containerId": next, "timeout": 0}));
    assert!(asked.elapsed() < scaled(Duration::from_secs(1)), "0 is at once, not after {:?}", asked.elapsed());
    client.remove();
}

#[test]
fn a_stop_goes_on_without_its_client_and_its_supervisor() {
    let host = Host::new();
    let client = Client::new(&host, "going");
    let id = client.run("deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    wait_for("it is deaf", || client.log("deaf").contains("ready").then_some(()));
    let asked = Instant::now();
    let stop = host.job(&["cri", "StopContainer"]).stdin(json!({"containerId": id, "timeout": 2}).to_string()).start();
    let status = host.pod_dirs()[0].join("status.json");
    wait_for("the stop is recorded", || {
        let status: Value = serde_json::from_slice(&std::fs::read(&status).ok()?).ok()?;
        (status["containers"][0]["state"]["stopping"] == true).then_some(())
    });
    stop.kill(Signal::SIGKILL);
    stop.finish();
    kill(Pid::from_raw(client.supervisor()), Signal::SIGKILL).expect("kill the supervisor");
    let status = client.wait_exit(&id);
    assert_eq!(status["exitCode"], 137);
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(2) && took < scaled(Duration::from_millis(3500)), "killed after {took:?}");
    client.remove();
}

#[test]
fn nothing_is_lost_when_a_supervisor_dies_after_a_container_was_removed() {
    let host = Host::new();
    let client = Client::new(&host, "moves");
    let first = client.run("first", "exit 0");
    client.wait_exit(&first);
    let script =
        "trap 'echo pipe' PIPE; i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; usleep 5000; done; exit 6";
    let second = client.run("second", script);
    client.call("RemoveContainer", json!({"containerId": first}));
    // The removed one's place is free, and used by the next.
    let third = client.run("third", "sleep 1000");
    for _ in 0..2 {
        let supervisor = client.supervisor();
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill the supervisor");
        wait_for("it is gone", || (!alive(supervisor)).then_some(()));
    }
    assert_eq!(client.wait_exit(&second)["exitCode"], 6);
    let expected: Vec<String> = (1..=400).map(|i| format!("line {i}")).collect();
    let log = client.log("second");
    let lines: Vec<&str> = log.lines().map(|line| line.splitn(4, ' ').nth(3).expect("four fields")).collect();
    assert_eq!(lines, expected, "every line is there, once and in order");
    assert_eq!(client.status(&third)["state"], "CONTAINER_RUNNING");
    client.remove();
}

#[test]
fn a_killed_sandbox_is_told_and_not_forgotten() {
    let host = Host::new();
    let client = Client::new(&host, "killed");
    let id = client.run("c", "sleep 1000");
    let keeper = client.keeper();
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill keeper");
    wait_for("it is gone", || (!alive(keeper)).then_some(()));
    for settled in [false, true] {
        let status = client.call("PodSandboxStatus", json!({"podSandboxId": client.sandbox}));
        assert_eq!(status["status"]["state"], "SANDBOX_NOTREADY");
        let status = client.status(&id);
        assert_eq!((&status["state"], &status["exitCode"]), (&json!("CONTAINER_EXITED"), &json!(255)));
        if !settled {
            // A collection frees what it had, and leaves the word about it to its client.
            host.ok(&["gc"]);
        }
    }
    client.call("StopPodSandbox", json!({"podSandboxId": client.sandbox}));
    client.remove();
}

#[test]
fn an_exec_that_is_late_is_killed_with_all_its_children() {
    let host = Host::new();
    let client = Client::new(&host, "late");
    let id = client.run("c", "sleep 1000");
    let cmd = json!(["sh", "-c", "setsid sleep 4321 & sleep 4322"]);
    refused(&host, "ExecSync", &json!({"containerId": id, "cmd": cmd, "timeout": 1}), "DEADLINE_EXCEEDED", "1 s");
    let left = client.call("ExecSync", json!({"containerId": id, "cmd": ["ps"]}));
    let text = String::from_utf8(base64(left["stdout"].as_str().expect("bytes"))).expect("text");
    assert!(text.contains("sleep 1000") && !text.contains("432"), "{text}");
    // The supervisor may die meanwhile: the time is kept, and the client is answered.
    let asked = Instant::now();
    let request = json!({"containerId": id, "cmd": cmd, "timeout": 2}).to_string();
    let exec = host.job(&["cri", "ExecSync"]).stdin(request).start();
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(client.supervisor()), Signal::SIGKILL).expect("kill the supervisor");
    let ended = exec.finish();
    assert!(ended.err().contains("DEADLINE_EXCEEDED"), "{ended}");
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(2) && took < scaled(Duration::from_millis(3500)), "after {took:?}");
    client.remove();
}

/// RFC 4648, for what is expected to be right.
fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u32> = text.bytes().filter(|c| *c != b'=').map(|c| value(c).into()).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = four.iter().fold(0, |all, d| all << 6 | d) << (6 * (4 - four.len()));
        bytes.extend(bits.to_be_bytes()[1..].iter().take(four.len() * 6 / 8));
    }
    bytes
}

#[test]
fn events_tell_a_life_in_order() {
    let host = Host::new();
    let mut talk = Talk::start(&host);
    let begun = talk.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "GetContainerEvents", "params": {}}));
    assert_eq!(begun["result"], json!({}));
    let client = Client::new(&host, "told");
    let id = client.run("c", "exit 0");
    client.wait_exit(&id);
    client.call("RemoveContainer", json!({"containerId": id}));
    client.remove();
    for (of, kinds) in [(&id, 4), (&client.sandbox, 3)] {
        let expected = [
            "CONTAINER_CREATED_EVENT",
            "CONTAINER_STARTED_EVENT",
            "CONTAINER_STOPPED_EVENT",
            "CONTAINER_DELETED_EVENT",
        ];
        for kind in expected.iter().take(kinds) {
            let event = talk.hear("an event", |m| m["params"]["containerId"] == of.as_str());
            assert_eq!(event["params"]["containerEventType"], *kind, "{event}");
        }
    }
    assert_eq!(talk.finish().1, Some(0));
}

#[test]
fn a_dialogue_that_makes_many_pods_keeps_no_zombie() {
    let host = Host::new();
    let mut talk = Talk::start(&host);
    let mut number = 0;
    let mut ask = |method: &str, params: Value| {
        number += 1;
        talk.ask(&json!({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
    };
    for name in ["a", "b", "c"] {
        let made = ask("RunPodSandbox", json!({"config": config(name)}));
        let id = made["result"]["podSandboxId"].clone();
        assert!(id.is_string(), "{made}");
        assert_eq!(ask("RemovePodSandbox", json!({"podSandboxId": id}))["result"], json!({}));
    }
    // What cannot be made is told as well as without a dialogue.
    let mut bad = config("bad");
    bad["linux"] = json!({"sysctls": {"net.no.such": "1"}});
    let failed = ask("RunPodSandbox", json!({"config": bad}));
    assert!(failed["error"]["message"].as_str().is_some_and(|m| m.contains("net.no.such")), "{failed}");
    wait_for("no child is left", || children(talk.pid()).is_empty().then_some(()));
    assert_eq!(talk.finish().1, Some(0));
}

#[test]
fn a_client_that_dies_leaves_nothing_half_made() {
    let host = Host::new();
    for round in 0..6 {
        let mut config = config("halfway");
        config["metadata"]["attempt"] = json!(round);
        let run = host.job(&["cri", "RunPodSandbox"]).stdin(json!({"config": config}).to_string()).start();
        std::thread::sleep(Duration::from_micros(1500 << round));
        run.kill(Signal::SIGKILL);
        run.finish();
        // Asked again it is one good sandbox.
        let id = call(&host, "RunPodSandbox", &json!({"config": config}))["podSandboxId"].clone();
        let status = call(&host, "PodSandboxStatus", &json!({"podSandboxId": id}));
        assert_eq!(status["status"]["state"], "SANDBOX_READY");
        call(&host, "RemovePodSandbox", &json!({"podSandboxId": id}));
        host.ok(&["gc"]);
    }
    host.assert_untouched();
}

#[test]
fn pods_of_manifests_are_not_the_clients() {
    let host = Host::new();
    let pod = host.run(
        "own",
        &crate::common::manifest(
            "own",
            json!({"containers": [crate::common::container("a", "sleep 1000", json!({}))]}),
        ),
    );
    let client = Client::new(&host, "theirs");
    let listed = client.call("ListPodSandbox", json!({}));
    assert_eq!(listed["items"].as_array().expect("a list").len(), 1);
    let uid = host.ok(&["get", "pod", "own", "-o", "json"]);
    let uid: Value = serde_json::from_slice(&uid.stdout).expect("JSON");
    client.call("RemovePodSandbox", json!({"podSandboxId": uid["metadata"]["uid"]}));
    pod.wait_phase("Running");
    // And people see both.
    let seen = host.ok(&["get", "pods", "-A"]).out();
    assert!(seen.contains("own") && seen.contains("theirs"), "{seen}");
    client.remove();
    pod.delete(&["--force"]);
}

#[test]
fn a_device_that_a_client_gives_can_be_used_as_it_says() {
    let host = Host::new();
    let client = Client::new(&host, "device");
    let config = json!({
        "metadata": {"name": "c"}, "image": {"image": BUSYBOX}, "command": ["sleep", "100000"],
        "devices": [
            {"containerPath": "/dev/host/log", "hostPath": "/dev/kmsg", "permissions": "r"},
            {"containerPath": "/zero", "hostPath": "/dev/zero", "permissions": "rw"},
        ],
        // Who may read the kernel's log is a matter of the host, too.
        "linux": {"securityContext": {"capabilities": {"addCapabilities": ["SYSLOG"]}}},
    });
    let answer = client.call("CreateContainer", json!({"podSandboxId": client.sandbox, "config": config}));
    let id = answer["containerId"].as_str().expect("an id").to_owned();
    client.call("StartContainer", json!({"containerId": id}));
    let exec = |script: &str| {
        let answer = client.call("ExecSync", json!({"containerId": id, "cmd": ["sh", "-c", script]}));
        assert_eq!(answer["exitCode"].as_i64().unwrap_or_default(), 0, "{script}: {answer}");
    };
    exec("exec 3</dev/host/log; exec 4</zero; exec 5>/zero");
    let refused_for = |how: &str| exec(&format!("(exec 3{how}/dev/host/log) 2>&1 | grep 'Operation not permitted'"));
    refused_for(">");
    refused_for("<>");
    // As on the host, under the names that were asked for and no other.
    exec("test $(stat -c %t:%T:%a:%u /zero) = 1:5:666:0 && test -c /dev/host/log && test ! -e /dev/kmsg");

    // New limits leave it as it is.
    client.call("UpdateContainerResources", json!({"containerId": id, "linux": {"cpuShares": 512}}));
    exec("exec 3</dev/host/log");
    refused_for(">");

    for (device, sentence) in [
        (json!({"containerPath": "/dev/x", "hostPath": "/dev/kmsg"}), "config.devices[0].permissions: is empty"),
        (json!({"containerPath": "/dev/x", "hostPath": "/etc", "permissions": "r"}), "no device in this directory"),
        (json!({"containerPath": "/dev/ptmx", "hostPath": "/dev/kmsg", "permissions": "r"}), "the container's own"),
    ] {
        let bad =
            json!({"metadata": {"name": "bad"}, "image": {"image": BUSYBOX}, "command": ["true"], "devices": [device]});
        let request = json!({"podSandboxId": client.sandbox, "config": bad});
        refused(&host, "CreateContainer", &request, "INVALID_ARGUMENT", sentence);
    }
    client.remove();
}

#[test]
fn a_memory_limit_below_present_use_is_refused() {
    let host = Host::new();
    let client = Client::new(&host, "below");
    // Without swap, to which the kernel could bring what is used.
    let script = "dd if=/dev/zero of=/dev/shm/f bs=1048576 count=24 2>/dev/null; : >/dev/shm/full; exec sleep 1000";
    let amounts = json!({"memoryLimitInBytes": "67108864", "memorySwapLimitInBytes": "67108864"});
    let config = json!({"metadata": {"name": "c"}, "image": {"image": BUSYBOX}, "command": ["sh", "-c", script],
        "linux": {"resources": amounts}});
    let made = client.call("CreateContainer", json!({"podSandboxId": client.sandbox, "config": config}));
    let id = made["containerId"].as_str().expect("an id").to_owned();
    client.call("StartContainer", json!({"containerId": id}));
    let used = || {
        client.call("ContainerStats", json!({"containerId": id}))["stats"]["memory"]["workingSetBytes"]["value"].clone()
    };
    wait_for("the memory is used", || used().as_str().and_then(|n| n.parse::<u64>().ok()).filter(|n| *n >= 24 << 20));
    let update = |bytes: u64| {
        let request = json!({"containerId": id, "linux": {"memoryLimitInBytes": bytes.to_string()}});
        host.job(&["cri", "UpdateContainerResources"]).stdin(request.to_string()).finish()
    };
    let refused = update(16 << 20);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.err().contains("a memory limit of 16777216 bytes is below the"), "{refused}");
    assert_eq!(client.status(&id)["state"], "CONTAINER_RUNNING");
    let taken = update(64 << 20);
    assert_eq!(taken.code, Some(0), "{taken}");
}

#[test]
fn a_container_joins_the_pid_namespace_of_another_one_and_has_a_stdin() {
    let host = Host::new();
    let client = Client::new(&host, "target");
    let own = json!({"metadata": {"name": "main"}, "image": {"image": BUSYBOX}, "command": ["sleep", "100000"],
        "linux": {"securityContext": {"namespaceOptions": {"pid": "CONTAINER"}}}});
    let target = client.call("CreateContainer", json!({"podSandboxId": client.sandbox, "config": own}));
    let target = target["containerId"].as_str().expect("an id").to_owned();
    client.call("StartContainer", json!({"containerId": target}));
    let options = |id: &str| {
        json!({"metadata": {"name": "look"}, "image": {"image": BUSYBOX}, "stdin": true, "stdinOnce": true,
            "command": ["sh", "-c", "read x; echo $x; tr '\\0' ' ' < /proc/1/cmdline; exec sleep 100000"],
            "linux": {"securityContext": {"namespaceOptions": {"pid": "TARGET", "targetId": id}}}})
    };
    let create = |id: &str| json!({"podSandboxId": client.sandbox, "config": options(id)});
    refused(&host, "CreateContainer", &create("none"), "INVALID_ARGUMENT", "there is no container \"none\"");
    let look = client.call("CreateContainer", create(&target))["containerId"].as_str().expect("an id").to_owned();
    client.call("StartContainer", json!({"containerId": look}));
    let mut attached = host.job(&["attach", "-i", "target", "-n", "clients", "-c", "look"]);
    attached = attached.stdin("typed\n");
    let attached = attached.start();
    wait_for("what it sees", || client.log("look").contains("sleep 100000").then_some(()));
    assert!(client.log("look").contains("typed"));
    // The end of the target is its own.
    client.call("StopContainer", json!({"containerId": target, "timeout": 0}));
    assert_eq!(client.wait_exit(&look)["exitCode"], 137);
    assert_eq!(attached.finish().code, Some(137));
    let late = client.call(
        "CreateContainer",
        json!({"podSandboxId": client.sandbox, "config": {
        "metadata": {"name": "late"}, "image": {"image": BUSYBOX}, "command": ["sleep", "1"],
        "linux": {"securityContext": {"namespaceOptions": {"pid": "TARGET", "targetId": target}}}}}),
    );
    refused(&host, "StartContainer", &json!({"containerId": late["containerId"]}), "UNKNOWN", "does not run");
    // What it has left can be read, and nothing be written.
    let to = host.dir.join("passwd");
    let to = to.to_str().expect("temp paths are UTF-8");
    host.ok(&["cp", "target:/etc/passwd", to, "-n", "clients", "-c", "main"]);
    assert!(std::fs::read_to_string(to).expect("read").contains("root"));
    assert!(host.refused(&["cp", to, "target:/x", "-n", "clients", "-c", "main"]).contains("can only be read"));
    client.remove();
}

#[test]
fn a_client_reads_last_words_from_a_file_that_it_has_mounted() {
    let host = Host::new();
    let client = Client::new(&host, "words");
    // As the kubelet does it: the file, and annotations that are its own notes.
    let file = host.dir.join("termination-log");
    std::fs::write(&file, "").expect("make a file");
    let config = json!({
        "metadata": {"name": "c"}, "image": {"image": BUSYBOX},
        "command": ["sh", "-c", "echo why > /dev/termination-log; exit 3"],
        "mounts": [{"containerPath": "/dev/termination-log", "hostPath": file}],
        "annotations": {
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "FallbackToLogsOnError",
        },
    });
    let answer = client.call("CreateContainer", json!({"podSandboxId": client.sandbox, "config": config}));
    let id = answer["containerId"].as_str().expect("an id").to_owned();
    client.call("StartContainer", json!({"containerId": id}));
    let end = client.wait_exit(&id);
    assert_eq!((&end["exitCode"], end["message"].as_str().unwrap_or_default()), (&json!(3), ""), "{end}");
    assert_eq!(end["mounts"][0]["containerPath"], "/dev/termination-log", "{end}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "why\n");
    // Without one there is none: it is the client's affair.
    let id = client.run("bare", "test ! -e /dev/termination-log");
    assert_eq!(client.wait_exit(&id)["exitCode"].as_i64().unwrap_or_default(), 0);
    client.remove();
}
