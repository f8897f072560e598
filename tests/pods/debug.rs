//! Ephemeral containers and copies of pods: `husk debug`.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::talk::Talk;
use crate::common::{BUSYBOX, Host, Pod, container, manifest, merge, sample, sleeper, wait_for};

fn pod<'h>(host: &'h Host, name: &str, more: Value) -> Pod<'h> {
    let mut main = sleeper("main");
    merge(&mut main, more);
    let volumes = json!([{"name": "disk", "emptyDir": {}}]);
    let spec = json!({"restartPolicy": "Always", "containers": [main, sleeper("other")], "volumes": volumes});
    host.run(name, &manifest(name, spec))
}

/// The status of an ephemeral container, if it is there.
fn status(pod: &Pod<'_>, name: &str) -> Option<Value> {
    let all = pod.json()["status"]["ephemeralContainerStatuses"].clone();
    all.as_array().into_iter().flatten().find(|c| c["name"] == name).cloned()
}

fn ended(pod: &Pod<'_>, name: &str) -> Value {
    wait_for(&format!("the end of {name}"), || {
        let status = status(pod, name).expect("it is there");
        status["state"]["terminated"].is_object().then(|| status["state"]["terminated"].clone())
    })
}

#[test]
fn an_ephemeral_container_sees_its_target_and_nothing_of_the_pod_notices() {
    let host = Host::new();
    let pod = pod(&host, "seen", json!({"volumeMounts": [{"name": "disk", "mountPath": "/data"}]}));
    pod.sh("main", "echo of the target > /tmp/file; echo shared > /data/file");
    let before = (pod.pid("main"), pod.pid("other"), pod.supervisor());
    let args = [
        "debug",
        "seen",
        "--image",
        BUSYBOX,
        "--target",
        "main",
        "--name",
        "look",
        "--volume",
        "disk:/vol:ro",
        "--env",
        "A=b c",
        "--",
        "/bin/sleep",
        "100000",
    ];
    host.ok(&args);
    // PID 1 is the target's, and so is what it sees.
    assert_eq!(
        pod.sh("look", "cat /proc/1/root/tmp/file; cat /vol/file; echo $A; tr '\\0' ' ' < /proc/1/cmdline"),
        "of the target\nshared\nb c\n/bin/sleep 100000 "
    );
    assert_ne!(pod.try_sh("look", "echo > /vol/no").code, Some(0));
    let namespace = |pid: i32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it lives");
    let look = pod.pid("look");
    for kind in ["pid", "net", "ipc", "uts"] {
        assert_eq!(namespace(look, kind), namespace(before.0, kind), "{kind}");
    }
    for kind in ["mnt", "cgroup"] {
        assert_ne!(namespace(look, kind), namespace(before.0, kind), "{kind}");
    }
    // A cgroup of its own in the pod's.
    let cgroup = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .expect("it lives")
            .lines()
            .find(|l| l.contains("husk"))
            .map(ToOwned::to_owned)
            .expect("it is in one of ours")
    };
    let parent = |line: &str| line.rsplit_once('/').expect("a path").0.to_owned();
    assert_ne!(cgroup(look), cgroup(before.0));
    assert_eq!(parent(&cgroup(look)), parent(&cgroup(before.0)));
    // It is shown, counts for nothing, and a new supervisor knows it.
    let shown = pod.json();
    assert_eq!(shown["spec"]["ephemeralContainers"][0]["targetContainerName"], "main");
    assert_eq!(shown["status"]["containerStatuses"].as_array().expect("a list").len(), 2);
    assert!(status(&pod, "look").expect("it is there")["state"]["running"].is_object());
    assert!(host.ok(&["get", "pods"]).out().contains("2/2"));
    kill(Pid::from_raw(before.2), Signal::SIGKILL).expect("it is there");
    wait_for("the next supervisor", || (pod.supervisor() != before.2).then_some(()));
    assert_eq!(pod.sh("look", "echo still"), "still\n");
    // Away with it: nothing of it is left, and another may have its name.
    for _ in 0..2 {
        host.ok(&["debug", "seen", "--remove", "look"]);
        assert!(status(&pod, "look").is_none() && !crate::common::outside::alive(look));
        assert_eq!(pod.json()["spec"]["ephemeralContainers"], Value::Null);
        let logs = std::path::PathBuf::from(pod.record().log_dir).join("look");
        assert!(!logs.exists());
        host.ok(&args);
    }
    assert!(host.refused(&["debug", "seen", "--remove", "main"]).contains("no ephemeral one"));
    assert!(host.refused(&["debug", "seen", "--remove", "none"]).contains("there is no container"));
    assert_eq!((pod.pid("main"), pod.pid("other")), (before.0, before.1));
}

#[test]
fn it_ends_with_its_command_or_its_target_and_is_not_started_again() {
    let host = Host::new();
    let pod = pod(&host, "ends", json!({}));
    host.ok(&["debug", "ends", "--image", BUSYBOX, "--name", "short", "--", "/bin/sh", "-c", "echo said; exit 3"]);
    assert_eq!(ended(&pod, "short")["exitCode"], 3);
    assert_eq!(pod.logs("short", &[]), "said\n");
    host.ok(&["debug", "ends", "--image", BUSYBOX, "--name", "tied", "--target", "main", "--", "/bin/sleep", "100000"]);
    kill(Pid::from_raw(pod.pid("main")), Signal::SIGKILL).expect("it is there");
    assert_eq!(
        ended(&pod, "tied")["exitCode"],
        137,
        "the kernel kills what is in a PID namespace that has lost its init"
    );
    pod.wait_container("main", "is restarted", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
    assert_eq!(status(&pod, "short").expect("it is there")["restartCount"], 0);
    assert_eq!(pod.phase(), "Running");
}

#[test]
fn a_pod_that_ends_takes_it_along() {
    let host = Host::new();
    let spec =
        json!({"restartPolicy": "Never", "containers": [container("main", "read x; exit 0", json!({"stdin": true}))]});
    let pod = host.run("along", &manifest("along", spec));
    host.ok(&["debug", "along", "--image", BUSYBOX, "--name", "d", "--", "/bin/sleep", "100000"]);
    let d = pod.pid("d");
    assert_eq!(host.job(&["attach", "-i", "along"]).stdin("go\n").finish().code, Some(0));
    pod.wait_phase("Succeeded");
    wait_for("the end of the debugger", || (!crate::common::outside::alive(d)).then_some(()));
    let said = host.refused(&["debug", "along", "--image", BUSYBOX]);
    assert!(said.contains("it has come to its end") || said.contains("does not run any more"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let pod = pod(&host, "wrong", json!({}));
    let path = "spec.ephemeralContainers[0]";
    for (args, word) in [
        (
            vec!["--image", BUSYBOX, "--target", "none"],
            format!("{path}.targetContainerName: there is no container \"none\"; the pod has main, other"),
        ),
        (vec!["--image", BUSYBOX, "--name", "main"], format!("{path}.name: duplicate")),
        (vec!["--image", BUSYBOX, "--volume", "none:/x"], format!("{path}.volumeMounts[0].name")),
        (vec!["--image", "husk.test/none:1"], "image".to_owned()),
        (vec!["--image", BUSYBOX, "--", "/no/such/command"], "/no/such/command".to_owned()),
        (vec!["--image", BUSYBOX, "--profile", "restricted"], "runAsNonRoot".to_owned()),
    ] {
        let mut all = vec!["debug", "wrong"];
        all.extend(args);
        let said = host.refused(&all);
        assert!(said.contains(&word), "{all:?}: {said}");
    }
    assert_eq!(host.husk(&["debug", "wrong"]).code, Some(2));
    assert_eq!(host.husk(&["debug", "wrong", "--image", BUSYBOX, "--volume", "x"]).code, Some(2));
    // A file that is no program: only the start finds out.
    let said = host.refused(&[
        "debug",
        "wrong",
        "--image",
        BUSYBOX,
        "--name",
        "d",
        "--volume",
        "disk:/vol",
        "--",
        "/vol/none",
    ]);
    assert!(said.contains("ENOENT"), "{said}");
    assert_eq!(pod.json()["spec"]["ephemeralContainers"], Value::Null);
    assert_eq!(pod.status().containers.len(), 2);
}

#[test]
fn profiles_give_and_take() {
    let host = Host::new();
    let pod = pod(&host, "profiles", json!({}));
    for (profile, expected) in
        [("general", 0x5fb | 1 << 19), ("baseline", 0x5fb), ("netadmin", 0x5fb | 1 << 12 | 1 << 13)]
    {
        host.ok(&[
            "debug",
            "profiles",
            "--image",
            BUSYBOX,
            "--name",
            profile,
            "--profile",
            profile,
            "--",
            "/bin/sleep",
            "1000",
        ]);
        let caps = crate::common::outside::status_field(pod.pid(profile), "CapEff");
        assert_eq!(u64::from_str_radix(&caps, 16).expect("hexadecimal"), expected, "{profile}");
    }
}

#[test]
fn a_session_in_it_is_typed_into_and_its_exit_code_is_husks() {
    let host = Host::new();
    pod(&host, "session", json!({}));
    let output = host
        .job(&["debug", "-i", "session", "--image", BUSYBOX, "--target", "main", "--", "/bin/sh"])
        .stdin("tr '\\0' ' ' < /proc/1/cmdline; exit 7\n")
        .finish();
    assert_eq!((output.code, output.out().as_str()), (Some(7), "/bin/sleep 100000 "), "{output}");
    let mut client =
        Talk::on_terminal(&host, &["debug", "-it", "session", "--image", BUSYBOX, "--name", "shell", "--", "/bin/sh"]);
    client.hears("/ # ");
    client.say("echo $((40 + 2))\r");
    client.hears("42");
    client.say("\x10\x11");
    assert_eq!(client.code(), Some(0), "{}", client.out());
    // It goes on, and somebody else goes on with it.
    let mut client = Talk::on_terminal(&host, &["attach", "-it", "session", "-c", "shell"]);
    client.say("exit 9\r");
    assert_eq!(client.code(), Some(9), "{}", client.out());
}

#[test]
fn a_supervisor_that_dies_leaves_either_it_or_nothing() {
    let host = Host::new();
    let pod = pod(&host, "dies", json!({}));
    for round in 0..sample(12) {
        let name = format!("d{round}");
        let old = pod.supervisor();
        let args = ["debug", "dies", "--image", BUSYBOX, "--name", &name, "--", "/bin/sleep", "100000"];
        let client = host.job(&args).start();
        // Some rounds without a client, too, so that nobody asks again.
        std::thread::sleep(Duration::from_millis(round * 3));
        let without = round % 3 == 2;
        if without {
            client.kill(Signal::SIGKILL);
        }
        kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is there");
        let output = client.finish();
        wait_for("the next supervisor", || (pod.supervisor() != old).then_some(()));
        if !without {
            assert_eq!(output.code, Some(0), "round {round}: {output}");
        }
        // Whatever there is of it by now runs, once.
        host.ok(&["exec", "dies", "-c", "main", "--", "true"]);
        if let Some(found) = status(&pod, &name) {
            wait_for(&format!("{name} runs: {found}"), || {
                status(&pod, &name)?["state"]["running"].is_object().then_some(())
            });
            assert_eq!(status(&pod, &name).expect("it is there")["restartCount"], 0);
            host.ok(&["debug", "dies", "--remove", &name]);
        }
        let keeper = pod.keeper();
        let running = crate::common::outside::children(keeper)
            .into_iter()
            .filter(|pid| crate::common::outside::cmdline(*pid).first().is_some_and(|arg| arg == "/bin/sleep"))
            .count();
        assert_eq!(running, 2, "round {round}: processes that nobody knows");
    }
}

#[test]
fn a_copy_has_what_was_asked_for_and_none_of_the_probes() {
    let host = Host::new();
    let spec = json!({"containers": [container("main", "exit 1", json!({})), sleeper("other")]});
    let mut original: Value = serde_json::from_str(&manifest("crash", spec)).expect("JSON");
    original["metadata"]["labels"] = json!({"app": "x"});
    host.run("crash", &original.to_string());
    host.ok(&["debug", "crash", "--copy-to", "copy", "--container", "main", "--", "/bin/sleep", "100000"]);
    let copy = host.pod("copy");
    let shown = copy.json();
    assert_eq!((&shown["metadata"]["labels"], &shown["spec"]["shareProcessNamespace"]), (&Value::Null, &json!(true)));
    assert_ne!(shown["metadata"]["uid"], host.pod("crash").json()["metadata"]["uid"]);
    // The containers of the copy see each other.
    assert_eq!(copy.sh("main", "grep -l sleep /proc/[0-9]*/comm | wc -l"), "2\n");
    assert_eq!(copy.container("main")["restartCount"], 0);
    // With one container more, and other images.
    let mut client = Talk::new(
        &host,
        &[
            "debug",
            "-i",
            "crash",
            "--copy-to",
            "more",
            "--image",
            BUSYBOX,
            "--keep-labels",
            "--share-processes=false",
            "--set-image",
            "other=husk.test/busybox:1",
            "-c",
            "shell",
            "--",
            "/bin/sh",
        ],
    );
    client.say("echo $((1 + 1)); exit 4\n");
    assert_eq!(client.code(), Some(4), "{}", client.err());
    assert!(client.out().starts_with("2\n"), "{}", client.out());
    let more = host.pod("more").json();
    assert_eq!(more["metadata"]["labels"]["app"], "x");
    assert_eq!(more["spec"]["containers"].as_array().expect("a list").len(), 3);
    assert!(host.refused(&["debug", "crash", "--copy-to", "copy", "--image", BUSYBOX]).contains("copy"));
    assert!(
        host.refused(&["debug", "crash", "--copy-to", "c3", "--set-image", "none=x"])
            .contains("there is no container \"none\"")
    );
    assert_eq!(host.husk(&["debug", "crash", "--copy-to", "crash", "--image", BUSYBOX]).code, Some(2));
}
