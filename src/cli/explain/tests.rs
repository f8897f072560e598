//! From facts to sentences.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::gather::{Facts, Ports, Process};
use super::{Answer, Detail, LogTail, Stage, reason};
use crate::pod::{Liveness, Now};
use crate::state::events::{self, Event, EventType};
use crate::state::record::{ContainerKind, ContainerRecord, PodRecord, SandboxRecord, Status, VERSION};
use crate::state::{Error, Unreadable};

/// The moment: seconds of CLOCK_BOOTTIME.
const NOW: i64 = 1000;

/// So many seconds before the moment, on the wall clock.
fn ago(seconds: i64) -> Timestamp {
    let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
    now - SignedDuration::from_secs(seconds)
}

/// The same on CLOCK_BOOTTIME; less than nothing is in the future.
fn boot(seconds_ago: i64) -> u64 {
    u64::try_from((NOW - seconds_ago) * 1_000_000_000).expect("not before the boot")
}

/// How an instance ended, so many seconds ago, after it had run for two.
fn exit(attempt: u32, exit_code: i32, seconds_ago: i64) -> Value {
    json!({
        "id": "c", "attempt": attempt, "exitCode": exit_code, "signal": null, "reason": if exit_code == 0 { "Completed" } else { "Error" },
        "message": "", "startedAt": ago(seconds_ago + 2), "finishedAt": ago(seconds_ago), "finishedBootNs": boot(seconds_ago),
    })
}

fn terminated(attempt: u32, exit_code: i32, seconds_ago: i64) -> Value {
    with(exit(attempt, exit_code, seconds_ago), json!({"state": "terminated"}))
}

fn running(seconds_ago: i64) -> Value {
    json!({"state": "running", "id": "c", "pid": 42, "start_ticks": 1, "started_at": ago(seconds_ago), "stopping": false})
}

fn waiting(reason: &str) -> Value {
    json!({"state": "waiting", "reason": reason, "message": ""})
}

fn with(mut it: Value, more: Value) -> Value {
    let more = more.as_object().expect("an object").clone();
    it.as_object_mut().expect("an object").extend(more);
    it
}

/// One container: what it is made of beside its name, and what has become of it.
struct One {
    name: &'static str,
    kind: ContainerKind,
    spec: Value,
    made_of: Value,
    status: Value,
}

fn app(name: &'static str, state: Value) -> One {
    One { name, kind: ContainerKind::App, spec: json!({}), made_of: json!({}), status: json!({"state": state}) }
}

fn init(name: &'static str, state: Value) -> One {
    One { kind: ContainerKind::Init, ..app(name, state) }
}

impl One {
    fn status(self, more: Value) -> One {
        One { status: with(self.status, more), ..self }
    }

    fn made_of(self, more: Value) -> One {
        One { made_of: with(self.made_of, more), ..self }
    }

    fn spec(self, more: Value) -> One {
        One { spec: with(self.spec, more), ..self }
    }
}

/// A pod called web whose sandbox runs.
fn facts(policy: &str, all: Vec<One>) -> Facts {
    let (mut inits, mut apps, mut made_of, mut statuses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (slot, one) in all.into_iter().enumerate() {
        let spec = with(json!({"name": one.name, "image": "i:1"}), one.spec);
        if one.kind == ContainerKind::Init {
            inits.push(spec)
        } else {
            apps.push(spec)
        }
        let own =
            ContainerRecord { name: one.name.into(), kind: one.kind, stop_signal: 15, ..ContainerRecord::default() };
        made_of.push(with(serde_json::to_value(own).expect("JSON"), one.made_of));
        let base =
            json!({"name": one.name, "kind": one.kind, "attempt": 0, "last": null, "backoff": null, "slot": slot});
        statuses.push(with(base, one.status));
    }
    let record: PodRecord = serde_json::from_value(json!({
        "version": VERSION, "owner": "cli", "id": "u", "attempt": 0, "created_at": ago(60), "cgroup": "none", "log_dir": "/nowhere",
        "pod": {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"restartPolicy": policy, "initContainers": inits, "containers": apps},
        },
        "sandbox": SandboxRecord::default(), "containers": made_of,
    }))
    .expect("a record");
    let status: Status = serde_json::from_value(json!({
        "version": VERSION, "boot_id": "b", "start_time": ago(60),
        "sandbox": {"pid": 1, "start_ticks": 1, "ready_at": ago(60), "ended": false},
        "initialized_at": ago(50), "containers": statuses, "deletion": null, "finished_at": null, "failure": null,
    }))
    .expect("a status");
    Facts {
        record,
        status,
        live: Liveness::Alive,
        now: Now { boot_ns: boot(0), wall: ago(0) },
        events: Vec::new(),
        missing: Vec::new(),
        processes: BTreeMap::new(),
        ports: None,
        log: None,
        trouble: None,
    }
}

fn unhealthy(container: &str, message: &str, seconds_ago: i64) -> Event {
    let field = events::field_path(ContainerKind::App, container);
    Event::new(EventType::Warning, "Unhealthy", Some(field), message, ago(seconds_ago))
}

const PROBE: fn() -> Value = || json!({"handler": {"exec": {"command": ["true"]}}, "initialDelaySeconds": 0, "timeoutSeconds": 1, "periodSeconds": 5, "successThreshold": 1, "failureThreshold": 3});

/// Its text, without the commands.
fn told(facts: &Facts) -> (Stage, String) {
    let answer = reason::explain(facts);
    let lines = answer.lines(ago(0));
    let end = lines.iter().position(|line| line == "More:").unwrap_or(lines.len());
    (answer.stage, lines[1..end].join("\n"))
}

fn backoff(delay_ms: u64) -> Value {
    json!({"backoff": {"delay_ms": delay_ms, "updated_boot_ns": 0}})
}

/// A pod, and what is said of it from the second line on.
fn table() -> Vec<(&'static str, Facts, Stage, &'static str)> {
    let crashed = |delay_ms: u64| {
        app("main", waiting("CrashLoopBackOff"))
            .status(json!({"attempt": 2, "last": exit(2, 3, 4)}))
            .status(backoff(delay_ms))
    };
    let ok = || app("main", running(9));
    let deleting = |facts: Facts, left: i64| {
        let mut facts = facts;
        facts.status.deletion = serde_json::from_value(
            json!({"requested_at": ago(5), "grace_seconds": 30, "deadline_boot_ns": boot(-left)}),
        )
        .expect("a deletion");
        facts
    };
    let change = |mut facts: Facts, change: &dyn Fn(&mut Facts)| {
        change(&mut facts);
        facts
    };
    vec![
        ("all is well", facts("Always", vec![ok()]), Stage::None, "Why: all is as it should be: it runs, and it is ready\nNext:\n  nothing"),
        (
            "crash loop",
            facts("Always", vec![crashed(20_000)]),
            Stage::Restart,
            "Why: container main ended with exit code 3, 4s ago, after it had run for 2s\nNext:\n  \
             in 16s (00:10:16Z): container main is started for the 4th time\n  \
             if container main fails again, the next start is 40s after that",
        ),
        (
            "the longest back-off",
            facts("Always", vec![crashed(300_000)]),
            Stage::Restart,
            "Why: container main ended with exit code 3, 4s ago, after it had run for 2s\nNext:\n  \
             in 4m56s (00:14:56Z): container main is started for the 4th time\n  \
             if container main fails again, the next start is 5m after that",
        ),
        (
            "a message of its own, and two that fail",
            facts("Always", vec![
                app("a", waiting("CrashLoopBackOff")).status(json!({"last": with(exit(0, 1, 1), json!({"message": "read\nno config\n"}))})).status(backoff(10_000)),
                app("b", terminated(0, 1, 0)),
            ]),
            Stage::Restart,
            "Why: container a ended with exit code 1, 1s ago, after it had run for 2s (1 more below)\nKnown:\n  container a: read\n  container a: no config\nNext:\n  \
             in 0s (00:10:00Z): container b is started for the 2nd time\n  \
             in 9s (00:10:09Z): container a is started for the 2nd time\n  \
             if container a fails again, the next start is 20s after that",
        ),
        (
            "out of memory",
            facts("Always", vec![
                app("main", waiting("CrashLoopBackOff"))
                    .spec(json!({"resources": {"limits": {"memory": "32Mi"}}}))
                    .status(json!({"last": with(exit(0, 137, 4), json!({"reason": "OOMKilled", "signal": 9}))})).status(backoff(10_000)),
            ]),
            Stage::Restart,
            "Why: container main was killed for want of memory (its limit is 32Mi), 4s ago, after it had run for 2s\nNext:\n  \
             in 6s (00:10:06Z): container main is started for the 2nd time\n  \
             if container main fails again, the next start is 20s after that",
        ),
        (
            "ended by a signal",
            facts("OnFailure", vec![app("main", waiting("CrashLoopBackOff")).status(json!({"last": with(exit(0, 139, 10), json!({"signal": 11}))})).status(backoff(10_000))]),
            Stage::Restart,
            "Why: container main was ended by SIGSEGV, exit code 139, 10s ago, after it had run for 2s\nNext:\n  \
             in 0s (00:10:00Z): container main is started for the 2nd time\n  \
             if container main fails again, the next start is 20s after that",
        ),
        (
            "a start that failed for want of an image",
            change(
                facts("Always", vec![app("main", waiting("CrashLoopBackOff")).status(json!({
                    "last": with(exit(0, 128, 4), json!({"reason": "StartError", "startedAt": null, "message": "mount the root: no such file (ENOENT)"})),
                })).status(backoff(10_000))]),
                &|facts| facts.missing = vec![Detail { container: Some("main".into()), text: "main: image i:1 is not there any more".into() }],
            ),
            Stage::Start,
            "Why: container main cannot be started: image i:1 is not there any more\nMissing:\n  main: image i:1 is not there any more\nKnown:\n  \
             container main could not be started, 4s ago: mount the root: no such file (ENOENT)\nNext:\n  \
             in 6s (00:10:06Z): container main is started for the 2nd time\n  \
             if container main fails again, the next start is 20s after that",
        ),
        (
            "stopped by its liveness probe",
            change(
                facts("Always", vec![app("main", waiting("CrashLoopBackOff")).status(json!({"last": with(exit(0, 137, 4), json!({"signal": 9}))})).status(backoff(10_000))]),
                &|facts| {
                    let field = events::field_path(ContainerKind::App, "main");
                    let text = "Container main failed liveness probe, will be restarted";
                    facts.events = vec![
                        unhealthy("main", "Liveness probe failed: refused", 6),
                        Event::new(EventType::Normal, "Killing", Some(field), text, ago(6)),
                    ];
                },
            ),
            Stage::Restart,
            "Why: container main was ended by SIGKILL, exit code 137, 4s ago, after it had run for 2s\nKnown:\n  \
             container main: was stopped because its liveness probe failed\nLast failure of a probe:\n  \
             liveness of container main, 6s ago: refused\nNext:\n  \
             in 6s (00:10:06Z): container main is started for the 2nd time\n  \
             if container main fails again, the next start is 20s after that",
        ),
        (
            "an init container that fails",
            change(
                facts("Always", vec![
                    init("one", terminated(0, 0, 20)),
                    init("two", waiting("CrashLoopBackOff")).status(json!({"last": exit(0, 2, 1)})).status(backoff(10_000)),
                    init("three", waiting("PodInitializing")),
                    app("main", waiting("PodInitializing")),
                ]),
                &|facts| facts.status.initialized_at = None,
            ),
            Stage::Init,
            "Why: init container two ended with exit code 2, 1s ago, after it had run for 2s\nKnown:\n  1 of 3 init containers are done\nNext:\n  \
             in 9s (00:10:09Z): init container two is started for the 2nd time\n  \
             if init container two fails again, the next start is 20s after that\n  \
             when init container two has succeeded, init container three is started, and the containers after all init containers",
        ),
        (
            "an init container that has to run once more, in another sandbox",
            change(
                facts(
                    "Always",
                    vec![init("one", terminated(0, 0, 20)).status(json!({"anew": true})), app("main", terminated(0, 137, 5)).status(json!({"anew": true}))],
                ),
                &|facts| facts.status.initialized_at = None,
            ),
            Stage::Init,
            "Why: init container one ended with exit code 0, 20s ago, after it had run for 2s, and has to run once more\nKnown:\n  \
             0 of 1 init containers are done\nNext:\n  \
             in 0s (00:10:00Z): init container one is started for the 2nd time\n  \
             when init container one has succeeded, the containers are started",
        ),
        (
            "a sandbox that was lost",
            change(facts("Always", vec![app("main", terminated(0, 137, 1))]), &|facts| {
                facts.status.sandbox.as_mut().expect("a sandbox").ended = true;
            }),
            Stage::Sandbox,
            "Why: the process that held its namespaces has died, and every container with it\nNext:\n  \
             another sandbox is made, and its containers are started in it, init containers first",
        ),
        (
            "no sandbox in place of one that was lost",
            change(facts("Always", vec![app("main", terminated(0, 137, 1))]), &|facts| {
                let retry_boot_ns = Some(facts.now.boot_ns + 7_000_000_000);
                let lost = facts.status.sandbox.as_mut().expect("a sandbox");
                (lost.ended, lost.retry_boot_ns) = (true, retry_boot_ns);
            }),
            Stage::Sandbox,
            "Why: no sandbox could be made in place of the one that was lost\nNext:\n  \
             in 7s (00:10:07Z): another sandbox is made, and its containers are started in it, init containers first",
        ),
        (
            "an init container that runs",
            change(
                facts("Always", vec![init("one", running(7)), app("main", waiting("PodInitializing"))]),
                &|facts| facts.status.initialized_at = None,
            ),
            Stage::Init,
            "Why: init container one runs, since 7s, and what follows waits for its end\nKnown:\n  0 of 1 init containers are done\nNext:\n  \
             when init container one has succeeded, the containers are started",
        ),
        (
            "a sidecar whose startup probe fails",
            change(
                facts("Always", vec![
                    init("proxy", running(7)).status(json!({"started": false})).made_of(json!({"restart": {"policy": "always"}, "probes": {"startup": PROBE()}})),
                    app("main", waiting("PodInitializing")),
                ]),
                &|facts| {
                    facts.status.initialized_at = None;
                    let field = events::field_path(ContainerKind::Init, "proxy");
                    facts.events = vec![Event::new(EventType::Warning, "Unhealthy", Some(field), "Startup probe failed: no", ago(2))];
                },
            ),
            Stage::Init,
            "Why: sidecar proxy runs, and its startup probe fails: no\nKnown:\n  0 of 1 init containers are done\nLast failure of a probe:\n  \
             startup of container proxy, 2s ago: no\nNext:\n  \
             in 8s (00:10:08Z): about then the startup probe has failed 3 times in a row, and sidecar proxy is stopped\n  \
             when the startup probe has succeeded, the other probes begin\n  \
             when sidecar proxy has started, the containers are started",
        ),
        (
            "readiness fails, with the last of several outputs of this instance",
            change(
                facts("Always", vec![ok().status(json!({"ready": false})).made_of(json!({"probes": {"readiness": PROBE()}}))]),
                &|facts| {
                    let mut often = unhealthy("main", "Readiness probe failed: HTTP probe failed with statuscode: 503", 3);
                    often.count = 7;
                    facts.events = vec![
                        unhealthy("main", "Readiness probe failed: of before", 20),
                        unhealthy("main", "Readiness probe failed: first", 8),
                        unhealthy("other", "Readiness probe failed: of another", 1),
                        unhealthy("main", "Liveness probe failed: of another kind", 1),
                        often,
                    ];
                },
            ),
            Stage::Readiness,
            "Why: container main runs, and its readiness probe fails: HTTP probe failed with statuscode: 503\nLast failure of a probe:\n  \
             readiness of container main, 3s ago, 7 times so far: HTTP probe failed with statuscode: 503\nNext:\n  \
             container main is probed every 5s; one success makes it ready, and it is not restarted for this\nWarnings:\n  \
             1s ago: Unhealthy: Liveness probe failed: of another kind\n  \
             1s ago: Unhealthy: Readiness probe failed: of another\n  \
             8s ago: Unhealthy: Readiness probe failed: first",
        ),
        (
            "readiness is not asked for yet",
            facts("Always", vec![ok().status(json!({"ready": false})).made_of(json!({"probes": {"readiness": with(PROBE(), json!({"initialDelaySeconds": 30, "successThreshold": 2}))}}))]),
            Stage::Readiness,
            "Why: container main runs, and its readiness probe has not succeeded yet\nNext:\n  \
             in 21s (00:10:21Z): the readiness probe of container main is made for the first time\n  \
             container main is probed every 5s; 2 successes in a row make it ready, and it is not restarted for this",
        ),
        (
            "a liveness probe that begins to fail",
            change(
                facts("Always", vec![ok().made_of(json!({"probes": {"liveness": PROBE()}}))]),
                &|facts| facts.events = vec![unhealthy("main", "(combined from similar events): Liveness probe failed: slow", 2)],
            ),
            Stage::None,
            "Why: all is as it should be: it runs, and it is ready\nLast failure of a probe:\n  liveness of container main, 2s ago: slow\nNext:\n  \
             if the liveness probe of container main fails 3 times in a row, container main is stopped\n  nothing",
        ),
        (
            "a postStart hook holds up the next container",
            facts("Always", vec![
                ok().made_of(json!({"hooks": {"post_start": {"sleep": {"seconds": 60}}}})).status(json!({"hook": {"hook": "postStart", "begun_boot_ns": boot(8)}})),
                app("second", waiting("ContainerCreating")),
            ]),
            Stage::Start,
            "Why: container second waits for the postStart hook of container main (1 more below)\nNext:\n  \
             when the hook is over, container main counts as started; if it fails, container main is stopped\n  container second is started",
        ),
        (
            "one has done its work, the other runs",
            facts("OnFailure", vec![ok(), app("job", terminated(0, 0, 4))]),
            Stage::Done,
            "Why: container job ended with exit code 0, 4s ago, after it had run for 2s; it has done its work, and is not started again, while others run",
        ),
        (
            "one has failed for good, the other runs",
            facts("Never", vec![ok(), app("job", terminated(0, 5, 4))]),
            Stage::Done,
            "Why: container job ended with exit code 5, 4s ago, after it had run for 2s; by its restart policy it is not started again, while others run",
        ),
        (
            "a readiness gate",
            change(facts("Always", vec![ok()]), &|facts| {
                let spec = facts.record.pod.spec.as_mut().expect("a spec");
                spec.readiness_gates = serde_json::from_value(json!([{"conditionType": "example.com/in"}])).expect("gates");
            }),
            Stage::Gates,
            "Why: its containers are ready, and a readiness gate is closed: corresponding condition of pod readiness gate \"example.com/in\" does not exist.\nNext:\n  \
             nothing, until somebody sets the condition",
        ),
        (
            "ports that nobody listens on",
            change(
                facts("Always", vec![ok().spec(json!({"ports": [{"containerPort": 80}, {"containerPort": 81}, {"containerPort": 82}, {"containerPort": 53, "protocol": "UDP"}]}))]),
                &|facts| facts.ports = Some(Ports { tcp: BTreeMap::from([(80, true), (81, false)]), udp: BTreeMap::new() }),
            ),
            Stage::None,
            "Why: all is as it should be: it runs, and it is ready\nKnown:\n  \
             container main: port 81/TCP is open to the pod itself alone: it is bound to the loopback address\n  \
             container main: port 82/TCP is not open: nothing listens there\n  \
             container main: port 53/UDP is not open: nothing listens there\nNext:\n  nothing",
        ),
        (
            "a deletion within its grace",
            deleting(facts("Always", vec![ok().status(json!({"stopping_since_boot_ns": boot(5)}))]), 25),
            Stage::Deleting,
            "Why: it is being deleted, since 5s\nKnown:\n  container main: was sent SIGTERM 5s ago, and has not ended\nNext:\n  \
             in 25s (00:10:25Z): container main is killed, if it has not ended\n  \
             when nothing runs any more, its network, volumes, records and logs are removed",
        ),
        (
            "a deletion with a preStop hook and a sidecar that waits",
            deleting(
                facts("Always", vec![
                    init("proxy", running(9)).made_of(json!({"restart": {"policy": "always"}})),
                    ok().status(json!({"hook": {"hook": "preStop", "begun_boot_ns": boot(3)}})),
                ]),
                10,
            ),
            Stage::Deleting,
            "Why: it is being deleted, since 5s\nKnown:\n  sidecar proxy: runs until the containers have ended\n  container main: its preStop hook runs, since 3s\nNext:\n  \
             in 10s (00:10:10Z): sidecar proxy is killed, if it has not ended\n  \
             in 10s (00:10:10Z): container main is killed, if it has not ended\n  \
             when nothing runs any more, its network, volumes, records and logs are removed",
        ),
        (
            "a deletion past its grace gives two seconds after the signal",
            deleting(facts("Always", vec![ok().status(json!({"stopping_since_boot_ns": boot(1)}))]), -1),
            Stage::Deleting,
            "Why: it is being deleted, since 5s\nKnown:\n  container main: was sent SIGTERM 1s ago, and has not ended\nNext:\n  \
             in 1s (00:10:01Z): container main is killed, if it has not ended\n  \
             when nothing runs any more, its network, volumes, records and logs are removed",
        ),
        (
            "a process that cannot be killed",
            change(deleting(facts("Always", vec![ok().status(json!({"stopping_since_boot_ns": boot(40)}))]), -10), &|facts| {
                let stack = vec!["rpc_wait+0x1".into(), "nfs_read+0x2".into()];
                facts.processes = BTreeMap::from([("main".into(), Process { pid: 42, state: Some('D'), wchan: "rpc_wait".into(), stack })]);
            }),
            Stage::Deleting,
            "Why: it is being deleted, since 5s\nKnown:\n  container main: was sent SIGTERM 40s ago, and has not ended\n  \
             container main: process 42 sleeps in the kernel (state D) in rpc_wait, and cannot be killed before that is over; rpc_wait+0x1 < nfs_read+0x2\nNext:\n  \
             container main is being killed, again every second until it has ended\n  \
             when nothing runs any more, its network, volumes, records and logs are removed",
        ),
        (
            "a container that is stopped for its liveness probe",
            change(
                facts("Always", vec![ok().status(json!({"stop": {"why": "liveness", "grace_seconds": 30, "deadline_boot_ns": boot(-12)}, "stopping_since_boot_ns": boot(2)}))]),
                &|facts| facts.events = vec![unhealthy("main", "Liveness probe failed: no answer", 2)],
            ),
            Stage::Stopping,
            "Why: container main stops, because its liveness probe has failed\nKnown:\n  container main: was sent SIGTERM 2s ago, and has not ended\nLast failure of a probe:\n  \
             liveness of container main, 2s ago: no answer\nNext:\n  \
             in 12s (00:10:12Z): container main is killed, if it has not ended\n  \
             when container main has ended, it is started again, by its restart policy",
        ),
        (
            "the end of a pod whose time is over",
            change(facts("Always", vec![ok().status(json!({"stopping_since_boot_ns": boot(1)}))]), &|facts| {
                facts.status.failure = serde_json::from_value(json!({"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"})).expect("a failure");
                facts.status.ending = serde_json::from_value(json!({"grace_seconds": 30, "deadline_boot_ns": boot(-29)})).expect("an ending");
            }),
            Stage::Ending,
            "Why: it comes to its end: DeadlineExceeded: Pod was active on the node longer than the specified deadline\nKnown:\n  \
             container main: was sent SIGTERM 1s ago, and has not ended\nNext:\n  \
             in 29s (00:10:29Z): container main is killed, if it has not ended\n  \
             when nothing runs any more, it has ended; records and logs stay until it is deleted",
        ),
        (
            "a deadline that is near",
            change(facts("Always", vec![ok()]), &|facts| {
                facts.record.pod.spec.as_mut().expect("a spec").active_deadline_seconds = Some(150);
            }),
            Stage::None,
            "Why: all is as it should be: it runs, and it is ready\nNext:\n  \
             in 90s (00:11:30Z): the pod is ended with reason DeadlineExceeded (activeDeadlineSeconds)\n  nothing",
        ),
        (
            "a restart of all",
            change(facts("Always", vec![ok(), app("job", terminated(0, 42, 1))]), &|facts| {
                facts.status.restarting_all = serde_json::from_value(json!({"container": "job", "exit_code": 42, "since": ago(1), "deadline_boot_ns": boot(-1)})).expect("a restart");
            }),
            Stage::RestartingAll,
            "Why: container job ended with exit code 42, 1s ago, and its rules have all containers begin anew\nKnown:\n  \
             container main: is about to be asked to stop\nNext:\n  \
             in 1s (00:10:01Z): container main is killed, if it has not ended\n  \
             when nothing runs any more, all containers are started again, init containers first",
        ),
        (
            "no sandbox yet",
            change(facts("Always", vec![app("main", waiting("ContainerCreating"))]), &|facts| facts.status.sandbox = None),
            Stage::Sandbox,
            "Why: its namespaces and its network are being made\nNext:\n  then its first containers are started",
        ),
        (
            "a failed pod",
            change(facts("Never", vec![app("main", terminated(0, 3, 4))]), &|facts| facts.status.finished_at = Some(ago(4))),
            Stage::Ended,
            "Why: it has ended with phase Failed: container main ended with exit code 3, 4s ago, after it had run for 2s\nNext:\n  \
             nothing; records and logs stay until it is deleted",
        ),
        (
            "a pod that succeeded",
            change(facts("Never", vec![app("main", terminated(0, 0, 4))]), &|facts| facts.status.finished_at = Some(ago(4))),
            Stage::Ended,
            "Why: it has ended with phase Succeeded: all containers have succeeded\nNext:\n  nothing; records and logs stay until it is deleted",
        ),
        (
            "a pod without a keeper",
            change(facts("Always", vec![ok()]), &|facts| facts.live = Liveness::Dead),
            Stage::Lost,
            "Why: the pod's processes are gone: they were killed, and nobody has seen how they ended\nKnown:\n  \
             its keeper was killed, and with it the kernel has ended all that ran in the pod\nNext:\n  \
             nothing by itself; the next husk run of its manifest starts it anew",
        ),
        (
            "a static pod of before the last boot",
            change(facts("Always", vec![ok()]), &|facts| {
                facts.live = Liveness::OtherBoot;
                facts.record.owner = crate::state::record::Owner::Watch;
            }),
            Stage::Lost,
            "Why: the host was started anew, and how the pod had ended before nobody has seen\nNext:\n  \
             husk watch, while it runs, removes what is left and starts the pod anew",
        ),
        (
            "a client's sandbox",
            change(facts("Always", vec![ok(), app("made", waiting("ContainerCreating"))]), &|facts| facts.record.owner = crate::state::record::Owner::Cri),
            Stage::Client,
            "Why: it is the sandbox of a CRI client, which decides what runs in it\nKnown:\n  container main: runs, since 9s\n  \
             container made: was created, and was not started yet\nNext:\n  what its client asks for",
        ),
        (
            "a log, and a supervisor in trouble",
            change(facts("Always", vec![crashed(20_000)]), &|facts| {
                facts.log = Some(LogTail { container: "main".into(), attempt: 2, lines: vec!["one".into(), "two".into()] });
                facts.trouble = Some((ago(3), "write status.json: no space left (ENOSPC), trying again".into()));
            }),
            Stage::Restart,
            "Why: container main ended with exit code 3, 4s ago, after it had run for 2s\nKnown:\n  \
             its supervisor has said, 3s ago: write status.json: no space left (ENOSPC), trying again\nNext:\n  \
             in 16s (00:10:16Z): container main is started for the 4th time\n  \
             if container main fails again, the next start is 40s after that\nLast output of container main:\n  | one\n  | two",
        ),
    ]
}

#[test]
fn what_is_known_becomes_sentences() {
    for (name, facts, stage, text) in table() {
        let (found, said) = told(&facts);
        assert_eq!(said, text, "{name}:\n{said}");
        assert_eq!(found, stage, "{name}");
    }
}

#[test]
fn every_answer_has_a_reason_a_next_step_and_commands() {
    for (name, facts, stage, _) in table() {
        let answer = reason::explain(&facts);
        assert!(!answer.why.is_empty() && !answer.commands.is_empty(), "{name}");
        assert!(!answer.next.is_empty() || stage == Stage::Done, "{name}");
        assert!(answer.lines(ago(0)).len() <= 24, "{name}: more than a screen");
        // A pod on its way out may still be ready.
        assert!(answer.ready || stage != Stage::None, "{name}");
    }
}

#[test]
fn commands_fit_the_case_and_the_namespace() {
    let (_, mut facts, ..) = table().swap_remove(1);
    facts.log = Some(LogTail { container: "main".into(), attempt: 2, lines: vec!["x".into()] });
    assert_eq!(reason::explain(&facts).commands, ["husk logs web -c main", "husk describe pod web"]);
    facts.record.pod.metadata.namespace = Some("shop".into());
    let answer = reason::explain(&facts);
    assert_eq!(answer.commands, ["husk logs web -c main -n shop", "husk describe pod web -n shop"]);
    assert_eq!(answer.lines(ago(0))[0], "Pod shop/web: CrashLoopBackOff, 0/1 ready");
}

#[test]
fn json_has_moments_and_numbers() {
    let (_, facts, ..) = table().swap_remove(1);
    let json = serde_json::to_value(reason::explain(&facts)).expect("JSON");
    let expected = json!({
        "namespace": "default", "pod": "web", "uid": "u", "status": "CrashLoopBackOff", "readyContainers": "0/1", "ready": false, "stage": "restart",
        "why": "container main ended with exit code 3, 4s ago, after it had run for 2s",
        "next": [
            {"container": "main", "text": "container main is started for the 4th time", "at": "2026-01-01T00:10:16Z", "inSeconds": 16},
            {"container": "main", "text": "if container main fails again, the next start is 40s after that"},
        ],
        "commands": ["husk describe pod web"],
    });
    assert_eq!(json, expected);
}

#[test]
fn records_that_cannot_be_read_are_the_reason() {
    let error = Error::Unreadable { path: "/run/husk/pods/u/status.json".into(), why: "torn".into() };
    let mut it = Unreadable { id: "u".into(), name: Some(("default".into(), "web".into())), live: true, error };
    let answer = reason::unreadable(&it);
    assert_eq!(
        (answer.stage, answer.pod.as_str(), answer.commands.as_slice()),
        (Stage::Unreadable, "web", ["husk delete u".to_owned()].as_slice())
    );
    assert!(answer.why.contains("status.json") && answer.next[0].text.contains("run on"), "{answer:?}");
    it.live = false;
    assert!(reason::unreadable(&it).next[0].text.starts_with("nothing"));
}

#[test]
fn a_long_line_is_cut_in_the_text_alone() {
    let answer = Answer { why: "ä".repeat(1000), ..Answer::default() };
    assert_eq!(answer.lines(ago(0))[1].chars().count(), super::LINE_CHARS + 1);
}
