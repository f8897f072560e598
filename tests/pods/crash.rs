//! SIGKILL to each of our own processes, and what the pod makes of it.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::outside::{alive, children};
use crate::common::{Host, Pod, container, manifest, scaled, sleeper, wait_for, wait_for_within};

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|errno| panic!("kill {pid}: {errno}"));
}

/// A pod with a private PID namespace a container, and processes of their own in each.
fn family<'h>(host: &'h Host, name: &str, shared: bool) -> (Pod<'h>, Vec<i32>) {
    let script = "sleep 100001 & setsid sleep 100002 & wait";
    let spec = json!({"shareProcessNamespace": shared, "restartPolicy": "Never", "containers": [container("a", script, json!({})), container("b", script, json!({}))]});
    let pod = host.run(name, &manifest(name, spec));
    let mut all = Vec::new();
    for main in [pod.pid("a"), pod.pid("b")] {
        all.push(main);
        all.extend(wait_for("two children of a container", || Some(children(main)).filter(|list| list.len() == 2)));
    }
    (pod, all)
}

fn all_dead_within(patience: Duration, pids: &[i32], what: &str) {
    wait_for_within(patience, what, || pids.iter().all(|pid| !alive(*pid)).then_some(()));
}

#[test]
fn killing_pause_ends_every_process_of_the_pod_nested_namespaces_included() {
    let host = Host::new();
    for shared in [false, true] {
        let name = if shared { "shared" } else { "nested" };
        let (pod, pids) = family(&host, name, shared);
        let keeper = pod.keeper();
        sigkill(pod.pause());
        all_dead_within(Duration::from_secs(1), &pids, "the kernel kills the pod");
        wait_for("keeper is done too", || (!alive(keeper)).then_some(()));
        host.ok(&["gc"]);
    }
}

#[test]
fn killing_keeper_ends_every_process_of_the_pod() {
    let host = Host::new();
    for shared in [false, true] {
        let name = if shared { "shared" } else { "nested" };
        let (pod, mut pids) = family(&host, name, shared);
        let pause = pod.pause();
        pids.push(pod.supervisor());
        sigkill(pod.keeper());
        all_dead_within(
            Duration::from_secs(1),
            &pids,
            "pause and the supervisor die with keeper, and the pod with pause",
        );
        // pause itself is gone when the host's init has reaped the members of its namespace, however long that takes.
        wait_for("pause is gone", || (!alive(pause)).then_some(()));
    }
    host.ok(&["gc"]);
}

#[test]
fn a_pod_outlives_its_supervisor_and_is_watched_again_within_a_second() {
    let host = Host::new();
    let script =
        "i=0; while [ ! -e /sync/stop ]; do i=$((i+1)); echo line $i; usleep 2000; done; echo last $i; exit 43";
    let sync = host.dir.join("sync");
    std::fs::create_dir(&sync).expect("make a directory");
    let spec = json!({
        "volumes": [{"name": "sync", "hostPath": {"path": sync}}],
        "containers": [container("main", script, json!({"volumeMounts": [{"name": "sync", "mountPath": "/sync"}]})), sleeper("other")],
    });
    let pod = host.run("watched", &manifest("watched", spec));
    let (main, pause, keeper) = (pod.pid("main"), pod.pause(), pod.keeper());
    let first = pod.supervisor();
    sigkill(first);
    let killed = Instant::now();
    let second = wait_for_within(Duration::from_secs(1), "a new supervisor", || {
        children(keeper)
            .into_iter()
            .find(|pid| *pid != first && crate::common::outside::cmdline(*pid).iter().any(|arg| arg == "supervisor"))
    });
    assert!(alive(main) && alive(pause) && alive(keeper), "nobody else died");
    assert_eq!(pod.pid("main"), main);
    assert_eq!(pod.sh("other", "echo exec works"), "exec works\n");
    assert!(killed.elapsed() < scaled(Duration::from_secs(2)), "exec after {:?}", killed.elapsed());

    // Now a container ends while nobody watches: SIGSTOP keeps the successor from acting, SIGKILL then makes another one.
    kill(Pid::from_raw(second), Signal::SIGSTOP).expect("stop the supervisor");
    std::fs::write(sync.join("stop"), b"").expect("tell the container to stop");
    wait_for("the container is dead", || (!alive(main)).then_some(()));
    sigkill(second);
    assert_eq!(pod.terminated("main")["exitCode"], 43);
    let logs = pod.logs("main", &[]);
    let last: usize = logs
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("last "))
        .expect("the last line is there")
        .parse()
        .expect("a number");
    let expected: Vec<String> = (1..=last).map(|i| format!("line {i}")).chain([format!("last {last}")]).collect();
    assert_eq!(logs.lines().collect::<Vec<_>>(), expected, "every line is there, once and in order");
    pod.delete(&["--force"]);
}

#[test]
fn a_supervisor_that_dies_again_and_again_loses_no_restart_and_no_exit_code() {
    let host = Host::new();
    let spec =
        json!({"restartPolicy": "OnFailure", "containers": [container("flaky", "sleep 0.3; exit 9", json!({}))]});
    let pod = host.run("again", &manifest("again", spec));
    let keeper = pod.keeper();
    for _ in 0..3 {
        let supervisor = wait_for("a supervisor", || {
            children(keeper)
                .into_iter()
                .find(|pid| crate::common::outside::cmdline(*pid).iter().any(|arg| arg == "supervisor") && alive(*pid))
        });
        sigkill(supervisor);
        wait_for("it is gone", || (!alive(supervisor)).then_some(()));
    }
    let status = pod.wait_container("flaky", "waits in its back-off", |status| {
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 9);
    assert_eq!(status["restartCount"], 1);
}

#[test]
fn killing_the_command_line_leaves_a_pod_or_nothing() {
    let host = Host::new();
    for micros in [500, 2_000, 5_000, 10_000, 20_000, 40_000, 80_000] {
        let run = host.job(&["run", "-"]).stdin(manifest("half", json!({"containers": [sleeper("a")]}))).start();
        std::thread::sleep(Duration::from_micros(micros));
        run.kill(Signal::SIGKILL);
        run.finish();
        // Whatever it was, running it again gives one good pod of that name.
        let list = host.ok(&["get", "pods", "-o", "name"]).out();
        if list.trim().is_empty() {
            host.ok(&["gc"]);
            host.assert_untouched();
        } else {
            host.pod("half").wait_phase("Running");
            host.ok(&["delete", "pod", "half", "--force"]);
        }
    }
}

#[test]
fn a_deletion_goes_on_without_the_command_line_and_without_the_supervisor() {
    let host = Host::new();
    let spec = json!({"terminationGracePeriodSeconds": 3, "containers": [sleeper("deaf")]});
    let pod = host.run("going", &manifest("going", spec));
    let pid = pod.pid("deaf");
    let asked = Instant::now();
    let deletion = host.job(&["delete", "pod", "going"]).start();
    wait_for("the deletion is recorded", || pod.status().deletion);
    let seen = Instant::now();
    deletion.kill(Signal::SIGKILL);
    deletion.finish();
    sigkill(pod.supervisor());
    wait_for("SIGKILL to the container", || (!alive(pid)).then_some(()));
    assert!(asked.elapsed() >= Duration::from_secs(3), "killed before the deadline, after {:?}", asked.elapsed());
    assert!(
        seen.elapsed() < Duration::from_secs(3) + scaled(Duration::from_millis(500)),
        "the deadline was doubled or forgotten: {:?}",
        seen.elapsed()
    );
    wait_for("the pod is gone", || (!pod.dir.exists()).then_some(()));
}

#[test]
fn an_exec_is_answered_although_its_supervisor_died_meanwhile() {
    let host = Host::new();
    let pod = host.run("relayed", &manifest("relayed", json!({"containers": [sleeper("a")]})));
    for (ends, code) in [("exit 7", 7), ("kill -9 $$", 137)] {
        let wait = "rm -f /dev/shm/go; touch /dev/shm/begun; while [ ! -e /dev/shm/go ]; do usleep 5000; done";
        let script = format!("{wait}; rm /dev/shm/begun; echo done; {ends}");
        let exec = host.job(&["exec", "relayed", "--", "sh", "-c", &script]).start();
        wait_for("the command runs", || (pod.sh("a", "ls /dev/shm").contains("begun")).then_some(()));
        let supervisor = pod.supervisor();
        sigkill(supervisor);
        wait_for("it is gone", || (!alive(supervisor)).then_some(()));
        // Asked while there is none, and answered by the next.
        assert_eq!(pod.sh("a", "touch /dev/shm/go; echo asked"), "asked\n");
        let ended = exec.finish();
        assert_eq!(ended.out(), "done\n", "{ended}");
        assert_eq!(ended.code, Some(code), "{ended}");
    }
}
