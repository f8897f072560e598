//! `exec` against a supervisor that the test plays.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};

use husk::control::{Refusal, Request, Response};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::Husk;
use crate::fake::{Conversation, FakePod};

/// The command's stdin, stdout and stderr.
fn streams(conversation: &mut Conversation) -> [File; 3] {
    let fds: Vec<File> = conversation.fds.drain(..).map(File::from).collect();
    fds.try_into().expect("three fds")
}

#[test]
fn streams_are_relayed_and_kept_apart_and_the_exit_code_is_the_commands() {
    let husk = Husk::new("exec");
    let pod = FakePod::new(&husk, "web");
    let server = pod.serve(|mut conversation| {
        let expected = Request::Exec {
            container: Some("main".into()),
            argv: vec!["cat".into(), "-n".into()],
            tty: false,
            size: None,
            timeout_ms: None,
        };
        assert_eq!(conversation.request, expected);
        let [mut stdin, mut stdout, mut stderr] = streams(&mut conversation);
        conversation.answer(&Response::Started, None);
        let mut input = Vec::new();
        stdin.read_to_end(&mut input).expect("read");
        stdout.write_all(&input).expect("write");
        stderr.write_all(b"to stderr").expect("write");
        conversation.exited(42);
    });
    let input: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut child = husk
        .command()
        .args(["exec", "-i", "web", "-c", "main", "--", "cat", "-n"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start husk");
    let mut stdin = child.stdin.take().expect("a pipe");
    let feed = input.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&feed).expect("write"));
    let output = child.wait_with_output().expect("wait");
    feeder.join().expect("the feeder");
    server.join().expect("the server");
    assert_eq!(output.status.code(), Some(42));
    assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
    assert_eq!(output.stderr, b"to stderr");
}

#[test]
fn without_i_the_command_reads_end_of_file() {
    let husk = Husk::new("exec-no-stdin");
    let pod = FakePod::new(&husk, "web");
    let server = pod.serve(|mut conversation| {
        let [mut stdin, _stdout, _stderr] = streams(&mut conversation);
        conversation.answer(&Response::Started, None);
        assert_eq!(stdin.read(&mut [0; 8]).expect("read"), 0);
        conversation.exited(0);
    });
    husk.feed(&["exec", "web", "--", "true"], b"not for you").is(0);
    server.join().expect("the server");
}

#[test]
fn what_the_command_leaves_in_the_background_is_not_waited_for() {
    let husk = Husk::new("exec-background");
    let pod = FakePod::new(&husk, "web");
    let (release, released) = std::sync::mpsc::channel::<()>();
    let server = pod.serve(move |mut conversation| {
        let [_stdin, mut stdout, stderr] = streams(&mut conversation);
        conversation.answer(&Response::Started, None);
        stdout.write_all(b"done").expect("write");
        conversation.exited(0);
        // Somebody still holds the pipes.
        let _ = released.recv();
        drop((stdout, stderr));
    });
    assert_eq!(husk.call(&["exec", "web", "--", "daemon"]).is(0).stdout, "done");
    drop(release);
    server.join().expect("the server");
}

#[test]
fn failures_have_the_codes_of_a_shell() {
    let husk = Husk::new("exec-codes");
    let mut pod = FakePod::new(&husk, "web");
    for code in [125, 126, 127] {
        let server = pod.serve(move |conversation| {
            let message = format!("exec: {code}: no such thing");
            conversation.answer(&Response::Error { exit_code: code, message, why: Refusal::Unknown }, None);
        });
        husk.call(&["exec", "web", "--", "x"]).refused(code, &["no such thing"]);
        server.join().expect("the server");
    }
    let server = pod.serve(|conversation| conversation.answer(&Response::Started, None));
    husk.call(&["exec", "web", "--", "x"]).refused(125, &["web", "supervisor"]);
    server.join().expect("the server");
    // Nobody listens.
    std::fs::remove_file(pod.roots.pod_dir(&pod.uid).join("control.sock")).expect("remove");
    husk.call(&["exec", "web", "--", "x"]).refused(125, &["web", "ENOENT"]);
    pod.lock = None;
    husk.call(&["exec", "web", "--", "x"]).refused(125, &["web", "does not run"]);
}

/// `husk exec -it` on a terminal of ours, and the other end of that terminal.
fn on_a_terminal(husk: &Husk) -> (Child, OpenptyResult) {
    let user = openpty(None, None).expect("a terminal");
    husk_oci::sys::term::set_size(user.master.as_fd(), 33, 111).expect("set the size");
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("copy"));
    let child = husk
        .command()
        .args(["exec", "-it", "web", "--", "sh"])
        .stdin(end(&user.slave))
        .stdout(end(&user.slave))
        .stderr(end(&user.slave))
        .spawn()
        .expect("start husk");
    (child, user)
}

fn is_raw(user: &OpenptyResult) -> bool {
    !tcgetattr(&user.slave).expect("ask").local_flags.contains(LocalFlags::ICANON)
}

fn read_until(from: &OwnedFd, wanted: &str) {
    let mut file = File::from(from.try_clone().expect("copy"));
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.contains(wanted) {
        let length = file.read(&mut buffer).expect("read");
        assert!(length > 0, "the end came after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

#[test]
fn a_terminal_is_raw_for_the_command_and_as_before_afterwards() {
    let husk = Husk::new("exec-tty");
    let pod = FakePod::new(&husk, "web");
    let server = pod.serve(|conversation| {
        let Request::Exec { tty: true, size: Some((33, 111)), .. } = conversation.request else {
            panic!("{:?}", conversation.request)
        };
        assert!(conversation.fds.is_empty());
        let theirs = openpty(None, None).expect("a terminal");
        conversation.answer(&Response::Started, Some(&theirs.master));
        drop(theirs.master);
        let mut slave = File::from(theirs.slave);
        slave.write_all(b"ready> ").expect("write");
        let mut line = [0; 6];
        slave.read_exact(&mut line).expect("read");
        assert_eq!(&line, b"hello\n");
        // The new size has come by the time the next line has.
        slave.read_exact(&mut line).expect("read");
        assert_eq!(husk_oci::sys::term::size(slave.as_fd()), Ok((44, 99)));
        slave.write_all(b"bye").expect("write");
        conversation.exited(7);
    });
    let (mut child, user) = on_a_terminal(&husk);
    read_until(&user.master, "ready> ");
    assert!(is_raw(&user));
    let mut typed = File::from(user.master.try_clone().expect("copy"));
    // A raw terminal passes the key on; the command's own makes a new line of it.
    typed.write_all(b"hello\r").expect("type");
    read_until(&user.master, "hello");
    husk_oci::sys::term::set_size(user.master.as_fd(), 44, 99).expect("resize");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGWINCH).expect("signal");
    wait_for_size(&child);
    typed.write_all(b"again\r").expect("type");
    read_until(&user.master, "bye");
    assert_eq!(child.wait().expect("wait").code(), Some(7));
    assert!(!is_raw(&user), "the terminal was left raw");
    server.join().expect("the server");
}

/// Until the signal is no longer pending, and the child sleeps again.
fn wait_for_size(child: &Child) {
    let begun = std::time::Instant::now();
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("read");
        let pending = status.lines().any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"));
        if !pending && status.contains("State:\tS") {
            return;
        }
        assert!(begun.elapsed().as_secs() < 20, "{status}");
        std::thread::yield_now();
    }
}

#[test]
fn a_signal_ends_us_with_the_terminal_put_back() {
    let husk = Husk::new("exec-signal");
    let pod = FakePod::new(&husk, "web");
    let server = pod.serve(|conversation| {
        let theirs = openpty(None, None).expect("a terminal");
        conversation.answer(&Response::Started, Some(&theirs.master));
        let mut slave = File::from(theirs.slave);
        slave.write_all(b"ready> ").expect("write");
        conversation.await_end();
    });
    let (mut child, user) = on_a_terminal(&husk);
    read_until(&user.master, "ready> ");
    assert!(is_raw(&user));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("signal");
    assert_eq!(child.wait().expect("wait").code(), Some(128 + 15));
    assert!(!is_raw(&user), "the terminal was left raw");
    server.join().expect("the server");
}
