//! `husk update`: what the kernel enforces afterwards, what is refused, and what a supervisor's death in the middle leaves.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::cgroups::{dirs, memory_limit, quota};
use crate::common::outside::alive;
use crate::common::{Host, Pod, container, manifest, merge, scaled, sleeper, wait_for};

const MIB: u64 = 1 << 20;

fn resources(requests: Value, limits: Value) -> Value {
    json!({"resources": {"requests": requests, "limits": limits}})
}

/// Container `name` with requests of 50m and 8Mi, limits of 200m and 32Mi.
fn burstable(name: &str, script: &str, more: Value) -> Value {
    let amounts = resources(json!({"cpu": "50m", "memory": "8Mi"}), json!({"cpu": "200m", "memory": "32Mi"}));
    let mut all = container(name, script, amounts);
    merge(&mut all, more);
    all
}

const SLEEP: &str = "exec sleep 100000";

fn memory_of(pod: &Pod<'_>, container: &str) -> (u64, u64) {
    let (own, above) = dirs(pod, container, "memory");
    let number = |dir| match memory_limit(dir).as_str() {
        "max" => u64::MAX,
        limit => limit.parse().expect("a limit"),
    };
    (number(&own), number(&above))
}

fn quota_of(pod: &Pod<'_>, container: &str) -> (String, String) {
    let (own, above) = dirs(pod, container, "cpu");
    (quota(&own).0, quota(&above).0)
}

/// `resources` of a container in the spec, and in its status.
fn shown(pod: &Pod<'_>, container: &str) -> (Value, Value) {
    let json = pod.json();
    let spec = json["spec"]["containers"].as_array().expect("containers");
    let spec = spec.iter().find(|c| c["name"] == container).expect("the container").clone();
    (spec["resources"].clone(), pod.container(container)["resources"].clone())
}

fn condition(pod: &Pod<'_>, kind: &str) -> Option<String> {
    let json = pod.json();
    let all = json["status"]["conditions"].as_array().expect("conditions").clone();
    all.iter().find(|c| c["type"] == kind).map(|c| c["status"].as_str().expect("a status").to_owned())
}

#[test]
fn limits_change_while_the_container_runs_and_stay_over_a_restart() {
    let host = Host::new();
    let spec = json!({"restartPolicy": "Always", "containers": [burstable("a", SLEEP, json!({})), burstable("b", SLEEP, json!({}))]});
    let pod = host.run("live", &manifest("live", spec));
    let pid = pod.pid("a");
    assert_eq!((memory_of(&pod, "a"), quota_of(&pod, "a").0.as_str()), ((32 * MIB, 64 * MIB), "20000"));

    let said = host.ok(&["update", "live", "-c", "a", "--cpu", "500m", "--memory", "48Mi"]).out();
    assert_eq!(said, "pod/live updated\n");
    assert_eq!(memory_of(&pod, "a"), (48 * MIB, 80 * MIB));
    assert_eq!(quota_of(&pod, "a"), ("50000".into(), "70000".into()));
    assert_eq!(memory_of(&pod, "b").0, 32 * MIB, "nobody else is touched");
    let want = json!({"requests": {"cpu": "50m", "memory": "8Mi"}, "limits": {"cpu": "500m", "memory": "48Mi"}});
    assert_eq!(shown(&pod, "a"), (want.clone(), want));
    assert_eq!(pod.container("a")["allocatedResources"], json!({"cpu": "50m", "memory": "8Mi"}));
    assert_eq!((pod.pid("a"), &pod.container("a")["restartCount"]), (pid, &json!(0)));
    assert_eq!((condition(&pod, "PodResizeInProgress"), condition(&pod, "PodResizePending")), (None, None));

    host.ok(&["update", "pod", "live", "-c", "a", "--cpu-request", "100m", "--cpu", "100m", "--memory", "16Mi"]);
    assert_eq!(memory_of(&pod, "a"), (16 * MIB, 48 * MIB));
    assert_eq!(quota_of(&pod, "a"), ("10000".into(), "30000".into()));

    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill it");
    wait_for("another instance", || (pod.pid("a") != pid).then_some(()));
    assert_eq!((memory_of(&pod, "a"), quota_of(&pod, "a").0.as_str()), ((16 * MIB, 48 * MIB), "10000"));
}

#[test]
fn a_guaranteed_pod_stays_one() {
    let host = Host::new();
    let c = container("c", SLEEP, json!({"resources": {"limits": {"cpu": "200m", "memory": "32Mi"}}}));
    let pod = host.run("guaranteed", &manifest("guaranteed", json!({"containers": [c]})));
    host.ok(&["update", "guaranteed", "--memory", "64Mi"]);
    assert_eq!(pod.json()["status"]["qosClass"], "Guaranteed");
    assert_eq!(shown(&pod, "c").0["requests"], json!({"cpu": "200m", "memory": "64Mi"}));
    assert_eq!(memory_of(&pod, "c"), (64 * MIB, 64 * MIB));
    let said = host.refused(&["update", "guaranteed", "--memory-request", "32Mi"]);
    assert!(said.contains("would make the pod Burstable of Guaranteed"), "{said}");
}

#[test]
fn a_raised_limit_lets_it_allocate_what_was_fatal_before() {
    let host = Host::new();
    // No limit of its CPU: it has much to copy.
    let amounts = resources(json!({"memory": "8Mi"}), json!({"memory": "32Mi"}));
    let spec = json!({"containers": [container("c", SLEEP, amounts)]});
    let mut text: Value = serde_json::from_str(&manifest("grow", spec)).expect("JSON");
    text["metadata"]["annotations"] = json!({"husk.dev/oom-single-process": "c"});
    let pod = host.run("grow", &text.to_string());
    let hungry = "head -c 50000000 /dev/zero | tail -c 60000000 | wc -c";
    // Of those who share the limit the kernel takes whom it likes: the one who holds it all, or its reader, too.
    let fails = |why: &str| {
        let output = pod.try_sh("c", hungry);
        assert!(matches!((output.out().trim(), output.code), ("0", Some(0)) | ("", Some(1..))), "{why}: {output}");
    };
    fails("50 MB fit into 32 MiB");
    host.ok(&["update", "grow", "--memory", "96Mi"]);
    assert_eq!(pod.sh("c", hungry).trim(), "50000000");
    host.ok(&["update", "grow", "--memory", "32Mi"]);
    fails("the lower limit is not enforced");
}

#[test]
fn a_memory_limit_below_present_use_is_refused_and_nobody_dies() {
    let host = Host::new();
    let more = json!({"volumeMounts": [{"name": "m", "mountPath": "/m"}]});
    let spec = json!({"volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}], "containers": [burstable("c", SLEEP, more)]});
    let pod = host.run("below", &manifest("below", spec));
    pod.sh("c", "dd if=/dev/zero of=/m/f bs=1048576 count=24 2>/dev/null");
    let (pid, before) = (pod.pid("c"), shown(&pod, "c"));
    let said = host.refused(&["update", "below", "--memory", "16Mi"]);
    assert!(said.contains("container c: a memory limit of 16777216 bytes is below the 2"), "{said}");
    let used = said.split("below the ").nth(1).and_then(|s| s.split(' ').next()).and_then(|s| s.parse::<u64>().ok());
    assert!(used.is_some_and(|used| (24 * MIB..32 * MIB).contains(&used)), "{said}");
    assert_eq!(memory_of(&pod, "c"), (32 * MIB, 32 * MIB));
    assert_eq!((shown(&pod, "c"), condition(&pod, "PodResizeInProgress")), (before, None));
    assert!(alive(pid) && pod.pid("c") == pid);
    assert_eq!(pod.sh("c", "wc -c < /m/f").trim(), (24 * MIB).to_string());

    pod.sh("c", "rm /m/f");
    host.ok(&["update", "below", "--memory", "16Mi"]);
    assert_eq!(memory_of(&pod, "c"), (16 * MIB, 16 * MIB));
    assert_eq!(pod.pid("c"), pid);
}

#[test]
fn the_cpu_quota_changes_what_it_gets() {
    let host = Host::alone();
    let pod =
        host.run("burn", &manifest("burn", json!({"containers": [burstable("c", "while :; do :; done", json!({}))]})));
    let pid = pod.pid("c");
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .into_iter()
            .flat_map(str::split_whitespace)
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        fields[11] + fields[12]
    };
    // Hundredths of a CPU, over a span that the test's own slowness makes longer, never shorter.
    let rate = || {
        let (from, begun) = (ticks(), Instant::now());
        std::thread::sleep(Duration::from_millis(2500));
        (ticks() - from) as f64 / begun.elapsed().as_secs_f64()
    };
    host.ok(&["update", "burn", "--cpu", "100m"]);
    let little = rate();
    host.ok(&["update", "burn", "--cpu", "600m"]);
    let much = rate();
    assert!(little <= 15.0, "{little} hundredths of a CPU with a limit of 10");
    assert!(
        much > little * 1.8 && much <= 75.0,
        "{much} hundredths of a CPU with a limit of 60, {little} with one of 10"
    );
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let host = Host::new();
    let spec = json!({
        "initContainers": [container("i", "exit 0", json!({}))],
        "containers": [burstable("a", SLEEP, json!({})), burstable("over", "exit 0", json!({}))],
    });
    let pod = host.run("refusals", &manifest("refusals", spec));
    pod.terminated("over");
    let record = std::fs::read(pod.dir.join("pod.json")).expect("read pod.json");
    for (args, says) in [
        (&["--cpu", "1"][..], "which container? it has i, a, over"),
        (&["-c", "b", "--cpu", "1"], "container b is not in this pod; it has i, a, over"),
        (&["-c", "i", "--cpu", "1"], "container i has ended for good"),
        (&["-c", "over", "--cpu", "1"], "container over has ended for good"),
        (&["-c", "a", "--cpu", "10m"], "spec.containers[0].resources.requests.cpu: must not be more than the limit"),
        (&["-c", "a", "--cpu", "lots"], "\"lots\" is"),
        (&["-c", "a", "--memory", "1Ki", "--memory-request", "1Ki"], "must be at least 512Ki"),
        (&["-c", "a", "--memory", "0"], "a memory limit of 0 would take it away"),
    ] {
        let said = host.refused(&[&["update", "refusals"], args].concat());
        assert!(said.contains(says), "{args:?}: {said}");
    }
    for args in [&["update", "refusals"][..], &["update", "a", "b", "--cpu", "1"], &["update", "--cpu", "1"]] {
        assert_eq!(host.husk(args).code, Some(2), "{args:?}");
    }
    assert!(host.refused(&["update", "nobody", "--cpu", "1"]).contains("nobody"));
    assert_eq!(std::fs::read(pod.dir.join("pod.json")).expect("read pod.json"), record);
    assert_eq!(memory_of(&pod, "a").0, 32 * MIB);
    // What is so already is no change.
    host.ok(&["update", "refusals", "-c", "a", "--cpu", "0.2"]);
    assert_eq!(std::fs::read(pod.dir.join("pod.json")).expect("read pod.json"), record);
}

#[test]
fn a_resize_policy_that_cannot_be_kept_is_refused() {
    let host = Host::new();
    let policy =
        |resource: &str, policy: &str| json!({"resizePolicy": [{"resourceName": resource, "restartPolicy": policy}]});
    for (restart, c, says) in [
        ("Never", policy("cpu", "RestartContainer"), "resizePolicy[0].restartPolicy: must be NotRequired"),
        ("Always", policy("disk", "NotRequired"), "resizePolicy[0].resourceName: \"disk\" is none of cpu, memory"),
        ("Always", policy("cpu", "Sometimes"), "resizePolicy[0].restartPolicy: \"Sometimes\" is none of"),
    ] {
        let spec = json!({"restartPolicy": restart, "containers": [container("c", SLEEP, c)]});
        let output = host.try_run(&manifest("policy", spec));
        assert_eq!(output.code, Some(1), "{output}");
        assert!(output.err().contains(says), "{output}");
    }
    let spec = json!({"restartPolicy": "Always", "initContainers": [container("i", "true", policy("cpu", "NotRequired"))], "containers": [sleeper("c")]});
    assert!(host.try_run(&manifest("policy", spec)).err().contains("must not be set for an init container"));
    host.assert_untouched();
}

/// A container that is started again when its memory changes, and needs `grace` seconds to be stopped.
fn restarting(grace: u32) -> String {
    let policy = json!({"resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}, {"resourceName": "cpu", "restartPolicy": "NotRequired"}]});
    let stubborn = "trap '' TERM; while :; do sleep 1; done";
    let spec = json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": grace, "containers": [burstable("c", stubborn, policy), burstable("d", SLEEP, json!({}))]});
    manifest("again", spec)
}

#[test]
fn a_container_that_wants_it_is_started_again_with_its_new_memory() {
    let host = Host::new();
    let pod = host.run("again", &restarting(3));
    let (first, other) = (pod.pid("c"), pod.pid("d"));
    host.ok(&["update", "again", "-c", "c", "--cpu", "300m"]);
    assert_eq!(pod.pid("c"), first);

    let job = host.job(&["update", "again", "-c", "c", "--memory", "64Mi"]).start();
    wait_for("the resize is under way", || {
        (condition(&pod, "PodResizeInProgress").as_deref() == Some("True")).then_some(())
    });
    let (spec, status) = shown(&pod, "c");
    assert_eq!((&spec["limits"]["memory"], &status["limits"]["memory"]), (&json!("64Mi"), &json!("32Mi")));
    let said = host.refused(&["update", "again", "-c", "d", "--memory", "64Mi"]);
    assert!(said.contains("container c is just getting other resources"), "{said}");
    let output = job.finish();
    assert_eq!(output.code, Some(0), "{output}");
    wait_for("the next instance", || (pod.pid("c") != first).then_some(()));
    assert_eq!(memory_of(&pod, "c"), (64 * MIB, 96 * MIB));
    let c = pod.container("c");
    assert_eq!((&c["restartCount"], &c["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(137)), "{c}");
    assert_eq!((condition(&pod, "PodResizeInProgress"), pod.pid("d")), (None, other));
}

#[test]
fn a_supervisor_that_dies_in_the_middle_is_not_missed() {
    let host = Host::new();
    let pod = host.run("again", &restarting(3));
    let first = pod.pid("c");
    let job = host.job(&["update", "again", "-c", "c", "--memory", "64Mi"]).start();
    wait_for("the wish is recorded", || pod.status().resize.map(drop));
    kill(Pid::from_raw(pod.supervisor()), Signal::SIGKILL).expect("kill the supervisor");
    let output = job.finish();
    assert_eq!(output.code, Some(0), "{output}");
    wait_for("the next instance", || (pod.pid("c") != first).then_some(()));
    assert_eq!((memory_of(&pod, "c"), &pod.container("c")["restartCount"]), ((64 * MIB, 96 * MIB), &json!(1)));
    assert_eq!(shown(&pod, "c").0["limits"]["memory"], "64Mi");

    // At whatever moment: old or new, in the kernel, in the record and in what is shown.
    let mut sizes = [40, 48, 56, 44].into_iter().cycle();
    for delay_us in [0, 300, 600, 1000, 1500, 2500, 4000, 8000] {
        let size = sizes.next().expect("it goes round");
        let job = host.job(&["update", "again", "-c", "d", "--memory", &format!("{size}Mi")]).start();
        std::thread::sleep(scaled(Duration::from_micros(delay_us)));
        kill(Pid::from_raw(pod.supervisor()), Signal::SIGKILL).expect("kill the supervisor");
        let output = job.finish();
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(memory_of(&pod, "d"), (size * MIB, (size + 64) * MIB), "after {delay_us} us");
        let want = json!(format!("{size}Mi"));
        let (spec, status) = shown(&pod, "d");
        assert_eq!((&spec["limits"]["memory"], &status["limits"]["memory"]), (&want, &want));
        assert_eq!(pod.record().containers[1].limits.memory_limit_bytes, Some(size * MIB));
    }
}

#[test]
fn a_pod_that_is_deleted_meanwhile_just_ends() {
    let host = Host::new();
    let pod = host.run("again", &restarting(30));
    let job = host.job(&["update", "again", "-c", "c", "--memory", "64Mi"]).start();
    wait_for("the wish is recorded", || pod.status().resize.map(drop));
    pod.delete(&["--force"]);
    let output = job.finish();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(host.refused(&["update", "again", "-c", "c", "--memory", "64Mi"]).contains("again"));
}
