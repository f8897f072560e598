//! The standard input of containers, and their terminals.

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::talk::Talk;
use crate::common::{Host, Pod, container, manifest, wait_for};

/// A pod with one container of this script.
fn pod<'h>(host: &'h Host, name: &str, script: &str, more: Value) -> Pod<'h> {
    let spec = json!({"restartPolicy": "Never", "containers": [container("main", script, more)]});
    host.run(name, &manifest(name, spec))
}

fn kill_supervisor(pod: &Pod<'_>) {
    let old = pod.supervisor();
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is there");
    wait_for("the next supervisor", || (pod.supervisor() != old).then_some(()));
}

#[test]
fn stdin_is_open_and_silent_until_somebody_attaches_and_after_that_too() {
    let host = Host::new();
    let pod = pod(&host, "open", "while read line; do echo got $line; done; echo ended", json!({"stdin": true}));
    for word in ["one", "two"] {
        let mut client = Talk::new(&host, &["attach", "-i", "open"]);
        client.say(&format!("{word}\n"));
        client.hears(&format!("got {word}\n"));
        client.end();
        client.kill(Signal::SIGKILL);
    }
    assert_eq!(pod.phase(), "Running");
    assert_eq!(pod.logs("main", &[]), "got one\ngot two\n");
}

#[test]
fn stdin_that_is_for_one_client_ends_with_that_client() {
    let host = Host::new();
    let once = json!({"stdin": true, "stdinOnce": true});
    pod(&host, "once", "cat; echo over; exit 7", once.clone());
    let mut client = Talk::new(&host, &["attach", "-i", "once"]);
    client.say("typed\n");
    client.hears("typed\n");
    client.end();
    assert_eq!(client.code(), Some(7), "{}", client.err());
    assert_eq!(client.out(), "typed\nover\n");

    // Also when the client is killed; and nobody comes after it.
    let killed = pod(&host, "killed", "cat; echo over; sleep 100000", once);
    let mut client = Talk::new(&host, &["attach", "-i", "killed"]);
    client.say("x\n");
    client.hears("x\n");
    client.kill(Signal::SIGKILL);
    killed.wait_log("main", "over");
    let refused = host.husk(&["attach", "-i", "killed"]);
    assert_eq!(refused.code, Some(125), "{refused}");
    assert!(refused.err().contains("stdinOnce"), "{refused}");
}

#[test]
fn the_next_instance_has_a_stdin_of_its_own() {
    let host = Host::new();
    let main = container("main", "read word; echo got $word; exit 1", json!({"stdin": true, "stdinOnce": true}));
    let pod = host.run("again", &manifest("again", json!({"restartPolicy": "Always", "containers": [main]})));
    for count in 0..2 {
        pod.wait_container("main", "runs", |c| c["restartCount"] == count && c["state"]["running"].is_object());
        let output = host.job(&["attach", "-i", "again"]).stdin("word\n").finish();
        assert_eq!((output.code, output.out().as_str()), (Some(1), "got word\n"), "{output}");
    }
}

#[test]
fn what_a_container_has_not_cannot_be_attached_to() {
    let host = Host::new();
    pod(&host, "none", "sleep 100000", json!({}));
    for (flag, field) in [("-i", "stdin"), ("-t", "tty")] {
        let output = host.husk(&["attach", flag, "none"]);
        assert_eq!(output.code, Some(125), "{output}");
        assert!(output.err().contains(&format!("{field} is not set in its spec")), "{output}");
    }
    let output = host.husk(&["attach", "none", "-c", "other"]);
    assert!(output.code == Some(125) && output.err().contains("no container \"other\"; it has main"), "{output}");
}

#[test]
fn a_user_that_is_not_root_opens_its_stdin_anew() {
    let host = Host::new();
    let user = json!({"stdin": true, "stdinOnce": true, "securityContext": {"runAsUser": 1000}});
    pod(&host, "user", "cat /dev/stdin", user);
    let output = host.job(&["attach", "-i", "user"]).stdin("mine\n").finish();
    assert_eq!((output.code, output.out().as_str()), (Some(0), "mine\n"), "{output}");
}

#[test]
fn stdin_outlives_the_supervisor_whether_somebody_is_attached_or_not() {
    let host = Host::new();
    let script = "while read line; do echo got $line; done; exit 9";
    let pod = pod(&host, "outlive", script, json!({"stdin": true, "stdinOnce": true}));
    kill_supervisor(&pod);
    let mut client = Talk::new(&host, &["attach", "-i", "outlive"]);
    client.say("before\n");
    client.hears("got before\n");
    kill_supervisor(&pod);
    client.say("after\n");
    client.hears("got after\n");
    // It was for one client, whoever remembers it.
    let second = host.husk(&["attach", "-i", "outlive"]);
    assert!(second.code == Some(125) && second.err().contains("stdinOnce"), "{second}");
    client.end();
    assert_eq!(client.code(), Some(9), "{}", client.err());
    assert_eq!(pod.terminated("main")["exitCode"], 9);
}

#[test]
fn a_terminal_is_typed_into_resized_and_left_with_keys() {
    let host = Host::new();
    let script = "trap 'stty size' WINCH; stty size; while :; do read word && echo got $word; done";
    pod(&host, "tty", script, json!({"stdin": true, "tty": true}));
    let mut client = Talk::on_terminal(&host, &["attach", "-it", "tty"]);
    // From our size it follows that we are attached, and raw.
    client.hears("33 111");
    let raw = |client: &Talk| {
        let terminal = client.terminal.as_ref().expect("it has one");
        !tcgetattr(terminal).expect("ask the terminal").local_flags.contains(LocalFlags::ICANON)
    };
    assert!(raw(&client));
    client.say("hello\r");
    client.hears("got hello");
    let size = client.terminal.as_ref().expect("it has one");
    husk_oci::sys::term::set_size(std::os::fd::AsFd::as_fd(size), 44, 99).expect("resize");
    client.kill(Signal::SIGWINCH);
    client.hears("44 99");
    client.say("\x10\x11");
    assert_eq!(client.code(), Some(0), "{}", client.out());
    assert!(client.out().contains("detached; container main of pod tty goes on"), "{}", client.out());
    assert!(!raw(&client), "the terminal was left raw");

    // Other keys, by somebody who comes later; a signal puts the terminal back too.
    let mut client = Talk::on_terminal(&host, &["attach", "-it", "tty", "--detach-keys", "ctrl-],x"]);
    client.hears("33 111");
    client.say("\x1dy\x1dx");
    assert_eq!(client.code(), Some(0), "{}", client.out());
    let mut client = Talk::on_terminal(&host, &["attach", "-it", "tty"]);
    client.hears("33 111");
    client.kill(Signal::SIGTERM);
    assert_eq!(client.code(), Some(128 + 15));
    assert!(!raw(&client), "the terminal was left raw");
}
