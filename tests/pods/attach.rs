//! `husk attach`: output from now on, for as many as want it, whatever becomes of them and of the supervisor.

use std::fs;

use husk::control::client::Client;
use husk::control::{Request, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::outside::status_field;
use crate::common::talk::Talk;
use crate::common::{Host, Pod, container, manifest, wait_for};

fn pod<'h>(host: &'h Host, name: &str, script: &str, more: Value) -> Pod<'h> {
    let spec = json!({"restartPolicy": "Never", "containers": [container("main", script, more)]});
    host.run(name, &manifest(name, spec))
}

/// Waits until the container that prints a line for each it reads has answered `client`, and so the client is attached.
fn ping(client: &mut Talk) {
    client.say("ping\n");
    client.hears("ping\n");
}

#[test]
fn output_comes_from_now_on_in_its_own_streams_with_the_exit_code() {
    let host = Host::new();
    let script = "echo before; read x; echo out; echo err >&2; printf unfinished; exit 3";
    let pod = pod(&host, "now", script, json!({"stdin": true}));
    pod.wait_log("main", "before");
    let mut client = Talk::new(&host, &["attach", "-i", "now"]);
    client.say("go\n");
    assert_eq!(client.code(), Some(3));
    assert_eq!((client.out().as_str(), client.err().as_str()), ("out\nunfinished", "err\n"));
    let late = host.husk(&["attach", "now"]);
    assert_eq!(late.code, Some(125), "{late}");
}

#[test]
fn several_clients_get_all_of_it_and_one_that_does_not_read_holds_nobody_up() {
    let host = Host::new();
    let script = "read x; i=0; while [ $i -lt 40000 ]; do echo line $i of what is printed; i=$((i+1)); done; exit 4";
    let pod = pod(&host, "many", script, json!({"stdin": true}));
    let supervisor = pod.supervisor();
    let connections = || {
        let fds = fs::read_dir(format!("/proc/{supervisor}/fd")).expect("it lives");
        let ends = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        ends.filter(|end| end.to_string_lossy().starts_with("socket:")).count()
    };
    let before = connections();
    let mut readers = [Talk::new(&host, &["attach", "many"]), Talk::new(&host, &["attach", "many"])];
    // Its output is a pipe that nobody reads.
    let (unread, stalled) = std::io::pipe().expect("a pipe");
    let mut job = host.job(&["attach", "many"]);
    let mut slow = job.command().stdout(stalled).spawn().expect("start husk");
    // A client has looked where the log ends before it connects, and each connection is an fd of the supervisor's.
    wait_for("three clients", || (connections() >= before + 3).then_some(()));
    let mut go = Talk::new(&host, &["attach", "-i", "many"]);
    go.say("go\n");
    assert_eq!(go.code(), Some(4), "{}", go.err());
    for reader in &mut readers {
        assert_eq!(reader.code(), Some(4), "{}", reader.err());
        assert!(reader.out().ends_with("line 39999 of what is printed\n"));
    }
    assert_eq!(pod.terminated("main")["exitCode"], 4);
    assert_eq!(pod.logs("main", &[]).lines().count(), 40000);
    slow.kill().expect("it still writes");
    slow.wait().expect("wait");
    drop(unread);
}

#[test]
fn a_supervisor_that_dies_is_not_noticed() {
    let host = Host::new();
    let pod = pod(&host, "lives", "while read line; do echo $line; done", json!({"stdin": true}));
    let mut client = Talk::new(&host, &["attach", "-i", "lives"]);
    ping(&mut client);
    for round in 0..3 {
        let old = pod.supervisor();
        kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is there");
        client.say(&format!("round {round}\n"));
        client.hears(&format!("round {round}\n"));
        wait_for("the next supervisor", || (pod.supervisor() != old).then_some(()));
    }
    kill(Pid::from_raw(pod.pid("main")), Signal::SIGKILL).expect("it is there");
    assert_eq!(client.code(), Some(137), "{}", client.err());
    assert_eq!(client.err(), "");
}

#[test]
fn the_end_of_the_pod_ends_its_clients() {
    let host = Host::new();
    let script = "trap 'echo bye; exit 5' TERM; echo up; while :; do read -t 1 x && echo $x; done";
    pod(&host, "deleted", script, json!({"stdin": true}));
    let mut client = Talk::new(&host, &["attach", "-i", "deleted"]);
    ping(&mut client);
    host.ok(&["delete", "pod", "deleted"]);
    assert_eq!(client.code(), Some(5), "{}", client.err());
    assert!(client.out().ends_with("bye\n"), "{}", client.out());

    let dead = pod(&host, "dead", "while read line; do echo $line; done", json!({"stdin": true}));
    let mut client = Talk::new(&host, &["attach", "-i", "dead"]);
    ping(&mut client);
    kill(Pid::from_raw(dead.keeper()), Signal::SIGKILL).expect("it is there");
    assert_eq!(client.code(), Some(125));
    assert!(client.err().contains("how the container ended is not known"), "{}", client.err());
}

/// CVE-2022-23471, CVE-2025-64329: what clients leave behind.
#[test]
fn a_thousand_clients_that_vanish_leave_nothing() {
    let host = Host::new();
    let pod = pod(&host, "flat", "while read line; do echo $line; done", json!({"stdin": true, "tty": true}));
    let supervisor = pod.supervisor();
    let fds = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").count();
    let request = Request::Attach { container: None, instance: None, stdin: true, ended: false };
    let visit = |answered: bool| {
        let mut client = Client::connect(&pod.dir).expect("connect");
        client.send(&request, &[]).expect("ask");
        if answered {
            let (response, fds) = client.receive().expect("an answer");
            assert!(matches!(response, Response::Attached { .. }) && fds.len() == 1, "{response:?}");
        }
    };
    visit(true);
    let settled = |count: usize| {
        wait_for("the fds of supervisor and keeper as before", || (fds(supervisor) <= count).then_some(()));
    };
    let idle = wait_for("an idle supervisor", || {
        // The first client's connection may be open for a moment yet.
        let counts = [(); 5].map(|()| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            fds(supervisor)
        });
        counts.iter().all(|count| *count == counts[0]).then_some(counts[0])
    });
    let keeper = fds(pod.keeper());
    for number in 0..1000 {
        visit(number % 2 == 0);
    }
    settled(idle);
    assert_eq!(fds(pod.keeper()), keeper);
    assert_eq!(status_field(supervisor, "Threads"), "1");
    assert_eq!(pod.supervisor(), supervisor, "it has lived through it");
    assert!(
        !pod.dir.join("supervisor.log").exists()
            || fs::read(pod.dir.join("supervisor.log")).expect("read").len() < 20_000
    );
    // And whoever comes now is served.
    let mut client = Talk::new(&host, &["attach", "-i", "flat"]);
    client.say("still\n");
    client.hears("still");
}
