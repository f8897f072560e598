//! What happens to a pod while it has no supervisor: the old one is killed, and its successor is held before its first call until the test has seen enough.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::play::{Play, entry, first};
use super::scenarios::{Scenario, await_file, tell};
use super::tracer::Actor;
use crate::common::outside::alive;

/// Played once each; nobody is killed but the supervisor, and that by the test itself.
pub const UNWATCHED: &[Scenario] = &[
    Scenario { name: "unwatched-end", pairs: Vec::new, cost: 1.0, play: a_container_ends },
    Scenario { name: "unwatched-output", pairs: Vec::new, cost: 1.0, play: a_pipe_is_filled },
    Scenario { name: "unwatched-terminal", pairs: Vec::new, cost: 1.0, play: a_terminal_is_used },
    Scenario { name: "unwatched-stdin", pairs: Vec::new, cost: 1.0, play: stdin_of_an_exec_is_used },
    Scenario { name: "unwatched-init", pairs: Vec::new, cost: 1.0, play: the_next_init_container_is_due },
    Scenario { name: "unwatched-delete", pairs: Vec::new, cost: 1.0, play: the_pod_is_deleted },
];

/// Long enough for something that must not happen.
const NOTHING_HAPPENS: Duration = Duration::from_millis(300);

/// From here on the pod has no supervisor.
fn leave_alone(play: &Play<'_>) {
    play.tracer(|tracer| tracer.hold(Actor::Supervisor));
    for pid in play.supervisors() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the supervisor");
    }
    let held = play.tracer(|tracer| tracer.held_within(Duration::from_secs(5)));
    assert!(held, "keeper starts a successor");
}

fn come_back(play: &Play<'_>) {
    play.tracer(|tracer| tracer.release());
}

fn ended(play: &Play<'_>) -> bool {
    play.status().is_some_and(|status| status.finished_at.is_some())
}

fn a_container_ends(play: &Play<'_>) {
    let script = format!("{} echo last words; echo and errors >&2; exit 43", await_file("go"));
    let killed = format!("{} echo no more; note written; sleep 1000", await_file("go"));
    play.set_up(&play.manifest(json!({
        "restartPolicy": "Never",
        "containers": [play.container("a", &script), play.container("b", &killed)],
    })));
    let (a, b) = (play.pid("a").expect("it runs"), play.pid("b").expect("it runs"));
    leave_alone(play);
    tell(play, "go");
    play.within(Duration::from_secs(5), "the container has ended", || !alive(a));
    play.within(Duration::from_secs(5), "the other one has written", || play.count("written b") == 1);
    std::thread::sleep(NOTHING_HAPPENS);
    play.check(play.pid("a") == Some(a), || "its end is on record, and nobody was there to write it".to_owned());
    kill(Pid::from_raw(b), Signal::SIGKILL).expect("kill a container of ours");
    play.within(Duration::from_secs(5), "the other one is dead", || !alive(b));
    come_back(play);
    play.within(Duration::from_secs(5), "the pod has ended", || ended(play));
    let pod = play.json();
    let (a, b) = (&entry(&pod, "a")["state"]["terminated"], &entry(&pod, "b")["state"]["terminated"]);
    play.check_eq("exit code", &a["exitCode"], &json!(43));
    play.check_eq("exit code of the killed one", &b["exitCode"], &json!(137));
    play.logged("a", &[], "hello from a\nlast words\nand errors\n");
    play.logged("b", &[], "hello from b\nno more\n");
    play.undisturbed();
}

fn a_pipe_is_filled(play: &Play<'_>) {
    const LINES: u32 = 30_000;
    let script = format!("{} seq 1 {LINES} || note EPIPE; note written; exit 0", await_file("go"));
    play.set_up(&play.manifest(json!({"containers": [play.container("a", &script)]})));
    leave_alone(play);
    tell(play, "go");
    std::thread::sleep(NOTHING_HAPPENS);
    // 160 KB do not fit into a pipe of 64 KiB: the container has to wait.
    play.check_eq("ends of the writer", play.count("written a"), 0);
    come_back(play);
    play.within(Duration::from_secs(10), "the pod has ended", || ended(play));
    let lines: String = (1..=LINES).map(|i| format!("{i}\n")).collect();
    play.logged("a", &[], &format!("hello from a\n{lines}"));
    play.undisturbed();
}

fn a_terminal_is_used(play: &Play<'_>) {
    let script = format!("{} for i in 1 2 3; do echo line $i; done; tty; note written; exit 3", await_file("go"));
    let mut container = play.container("a", &script);
    container["tty"] = json!(true);
    play.set_up(&play.manifest(json!({"containers": [container]})));
    leave_alone(play);
    tell(play, "go");
    play.within(Duration::from_secs(5), "the container has written", || play.count("written a") == 1);
    come_back(play);
    play.within(Duration::from_secs(5), "the pod has ended", || ended(play));
    play.check_eq("exit code", &entry(&play.json(), "a")["state"]["terminated"]["exitCode"], &json!(3));
    play.logged("a", &[], "hello from a\r\nline 1\r\nline 2\r\nline 3\r\n/dev/pts/0\r\n");
    play.undisturbed();
}

fn stdin_of_an_exec_is_used(play: &Play<'_>) {
    play.set_up(&play.manifest(json!({"restartPolicy": "Always", "containers": [play.server("a")]})));
    let mut job = play.host.job(&["exec", "-i", &play.name, "-c", "a", "--", "sh", "-c", "cat; exit 17"]);
    let command = job.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut exec = command.spawn().expect("start husk exec");
    let (mut stdin, mut stdout) = (exec.stdin.take().expect("a pipe"), exec.stdout.take().expect("a pipe"));
    let mut echo = |line: &str| {
        stdin.write_all(line.as_bytes()).expect("write to the exec");
        let mut back = vec![0; line.len()];
        stdout.read_exact(&mut back).expect("read from the exec");
        play.check_eq("what comes back", String::from_utf8_lossy(&back).as_ref(), line);
    };
    echo("with a supervisor\n");
    leave_alone(play);
    echo("without one\n");
    drop(stdin);
    std::thread::sleep(NOTHING_HAPPENS);
    let early = exec.try_wait().expect("look at a child of ours");
    play.check(early.is_none(), || format!("husk exec has ended, and nobody could tell it of the end: {early:?}"));
    come_back(play);
    let code = exec.wait().expect("wait for a child of ours").code();
    play.check_eq("exit code", code, Some(17));
    play.lives(&[first("a")]);
}

fn the_next_init_container_is_due(play: &Play<'_>) {
    let init = format!("{} note end", await_file("go"));
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [play.container("i1", &init), play.container("i2", "note end")],
        "containers": [play.server("a")],
    });
    play.set_up(&play.manifest(spec));
    leave_alone(play);
    tell(play, "go");
    play.within(Duration::from_secs(5), "the first one has ended", || play.count("end i1") == 1);
    std::thread::sleep(NOTHING_HAPPENS);
    play.check_eq("events", play.events(), ["start i1", "end i1"].map(str::to_owned).to_vec());
    come_back(play);
    play.lives(&[first("a")]);
    let expected = ["start i1", "end i1", "start i2", "end i2", "start a"].map(str::to_owned);
    play.check_eq("events", play.events(), expected.to_vec());
}

fn the_pod_is_deleted(play: &Play<'_>) {
    play.set_up(&play.manifest(json!({"restartPolicy": "Always", "containers": [play.server("a")]})));
    leave_alone(play);
    let deletion = play.host.job(&["delete", &play.name]).start();
    std::thread::sleep(NOTHING_HAPPENS);
    play.check(deletion.is_running(), || "husk delete has ended, and nobody could do it".to_owned());
    play.check_eq("requests to stop", play.count("TERM a"), 0);
    let back = Instant::now();
    come_back(play);
    let said = deletion.finish();
    play.check(said.code == Some(0), || format!("husk delete: {said}"));
    play.check(back.elapsed() < Duration::from_secs(2), || format!("deleted {:?} after the return", back.elapsed()));
    play.is_gone();
    play.check_eq("requests to stop", play.count("TERM a"), 1);
}
