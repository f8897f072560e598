//! `husk port-forward`: from a port of this host into a pod, whatever address its server listens on.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::{Host, container, manifest, scaled};

/// A forward that runs, and what it has printed.
struct Forward {
    child: Child,
    lines: Receiver<String>,
}

impl Forward {
    fn start(host: &Host, args: &[&str]) -> Forward {
        let mut job = host.job(&[&["port-forward"], args].concat());
        let command = job.command();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start husk");
        let (tell, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("a pipe")), Box::new(child.stderr.take().expect("a pipe"))];
        for output in outputs {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let lines = std::io::BufRead::lines(std::io::BufReader::new(output));
                lines.map_while(Result::ok).for_each(|line| drop(tell.send(line)));
            });
        }
        Forward { child, lines }
    }

    /// Waits for a line that contains `text`, past others.
    #[track_caller]
    fn line(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(scaled(Duration::from_secs(30)));
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The local port that it has chosen.
    fn port(&self) -> u16 {
        let line = self.line("Forwarding from 127.0.0.1:");
        let port = line.split([':', ' ']).nth(3).expect("a port");
        port.parse().unwrap_or_else(|_| panic!("no port in {line}"))
    }

    fn end(mut self) -> i32 {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), Signal::SIGINT).expect("interrupt it");
        self.child.wait().expect("wait for it").code().expect("a code")
    }
}

/// The whole of what a server says.
fn fetch(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read to the end");
    text
}

fn serving(host: &Host, name: &str, script: &str) {
    let ports = json!({"ports": [{"name": "web", "containerPort": 80}]});
    host.run(name, &manifest(name, json!({"containers": [container("c", script, ports)]})));
}

/// A server in the network namespace of a pod, with room for many connections at once, which busybox's has not: `answer` speaks with each of them.
fn server(host: &Host, name: &str, ip: IpAddr, answer: fn(TcpStream)) {
    serving(host, name, "exec sleep 100000");
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", host.pod(name).pause())).expect("open the namespace");
    let (tell, listening) = channel();
    // Ends with the test's process: the namespace is gone when the pod is, whoever still has a socket in it.
    std::thread::spawn(move || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("join the namespace");
        let listener = TcpListener::bind((ip, 80)).expect("listen");
        tell.send(()).expect("somebody waits");
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.expect("a connection")));
        }
    });
    listening.recv_timeout(scaled(Duration::from_secs(30))).expect("a server");
}

#[test]
fn servers_on_either_loopback_are_reached_and_ctrl_c_ends_it() {
    let host = Host::new();
    server(&host, "four", Ipv4Addr::LOCALHOST.into(), |mut stream| stream.write_all(b"four\n").expect("write"));
    server(&host, "six", Ipv6Addr::LOCALHOST.into(), |mut stream| stream.write_all(b"six\n").expect("write"));
    for name in ["four", "six"] {
        let forward = Forward::start(&host, &[name, ":web"]);
        let port = forward.port();
        assert_eq!(fetch(port), format!("{name}\n"));
        assert_eq!(forward.line("Handling"), format!("Handling connection for {port}"));
        assert_eq!(forward.end(), 0);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "somebody listens on");
    }
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let host = Host::new();
    // Answers when the question is over, and not before.
    server(&host, "counts", Ipv4Addr::LOCALHOST.into(), |mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).expect("read the question");
        write!(stream, "{}", question.len()).expect("answer");
    });
    let forward = Forward::start(&host, &["counts", "0:80"]);
    let port = forward.port();
    let askers: Vec<_> = (1..=20usize)
        .map(|n| {
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
                stream.write_all(&vec![b'x'; n * 100_003]).expect("ask");
                stream.shutdown(Shutdown::Write).expect("end the question");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("read the answer");
                assert_eq!(answer.trim(), (n * 100_003).to_string());
            })
        })
        .collect();
    for asker in askers {
        asker.join().expect("every question is answered");
    }
    assert_eq!(forward.end(), 0);
}

#[test]
fn much_data_comes_back_as_it_was_sent_though_nobody_reads_for_a_while() {
    let host = Host::new();
    server(&host, "echo", Ipv4Addr::LOCALHOST.into(), |stream| {
        let (mut from, mut to) = (stream.try_clone().expect("duplicate a socket"), stream);
        std::io::copy(&mut from, &mut to).expect("copy");
    });
    let forward = Forward::start(&host, &["echo", ":80"]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, forward.port())).expect("connect");
    let data: Vec<u8> = (0..16u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut writer = stream.try_clone().expect("duplicate a socket");
    let sent = data.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).expect("send");
        writer.shutdown(Shutdown::Write).expect("end");
    });
    // All that lies between is full by then: 16 MiB do not fit.
    while !sender.is_finished() && stream.peek(&mut [0]).is_ok_and(|n| n == 0) {}
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("read");
    sender.join().expect("all was sent");
    assert!(back == data, "{} bytes came back, of {}", back.len(), data.len());
    assert_eq!(forward.end(), 0);
}

#[test]
fn what_goes_wrong_is_told_and_the_pods_end_ends_it() {
    let host = Host::new();
    serving(&host, "idle", "exec sleep 100000");
    let said = host.refused(&["port-forward", "nobody", "80"]);
    assert!(said.contains("not found"), "{said}");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let port = taken.local_addr().expect("an address").port();
    let said = host.refused(&["port-forward", "idle", &format!("{port}:80"), "--address", "127.0.0.1"]);
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("EADDRINUSE"), "{said}");
    let mut forward = Forward::start(&host, &["idle", ":81"]);
    let port = forward.port();
    assert_eq!(fetch(port), "");
    let said = forward.line("an error occurred");
    assert!(said.contains(&format!("forwarding {port} -> 81")) && said.contains("ECONNREFUSED"), "{said}");
    host.pod("idle").delete(&["--force"]);
    forward.line("it has ended");
    assert_eq!(forward.child.wait().expect("wait for it").code(), Some(1));
}
