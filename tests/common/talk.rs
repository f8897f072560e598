//! A `husk` that is typed into and listened to while it runs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, wait_for};

/// A call that runs.
pub struct Talk {
    child: Child,
    /// Its standard input, or the user's end of its terminal.
    to: Option<File>,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
    /// Who collects from its pipes; a terminal is open for as long as the test is.
    collectors: Vec<JoinHandle<()>>,
    /// The program's end of the terminal, kept so that its settings can be asked for.
    pub terminal: Option<OwnedFd>,
}

fn collect(mut from: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let kept = all.clone();
    let collector = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        // A terminal ends with EIO.
        while let Ok(length @ 1..) = from.read(&mut piece) {
            kept.lock().expect("no reader panics").extend_from_slice(&piece[..length]);
        }
    });
    (all, collector)
}

impl Talk {
    /// `husk ARGS` with pipes.
    pub fn new(host: &Host, args: &[&str]) -> Talk {
        let mut job = host.job(args);
        let command = job.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start husk");
        let to = OwnedFd::from(child.stdin.take().expect("a pipe"));
        let (out, of_out) = collect(child.stdout.take().expect("a pipe"));
        let (err, of_err) = collect(child.stderr.take().expect("a pipe"));
        Talk { child, to: Some(to.into()), out, err, collectors: vec![of_out, of_err], terminal: None }
    }

    /// `husk ARGS` on a terminal of 33 rows and 111 columns.
    pub fn on_terminal(host: &Host, args: &[&str]) -> Talk {
        let user = openpty(None, None).expect("a terminal");
        husk_oci::sys::term::set_size(user.master.as_fd(), 33, 111).expect("set the size");
        let end = || Stdio::from(user.slave.try_clone().expect("copy"));
        let mut job = host.job(args);
        let child = job.command().stdin(end()).stdout(end()).stderr(end()).spawn().expect("start husk");
        let (out, _) = collect(File::from(user.master.try_clone().expect("copy")));
        let collectors = Vec::new();
        Talk { child, to: Some(user.master.into()), err: out.clone(), out, collectors, terminal: Some(user.slave) }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Types.
    pub fn say(&mut self, text: &str) {
        self.to.as_mut().expect("stdin is open").write_all(text.as_bytes()).expect("it reads its stdin");
    }

    /// Closes its standard input.
    pub fn end(&mut self) {
        self.to = None;
    }

    /// What it has printed so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.lock().expect("no reader panics")).into_owned()
    }

    /// What it has printed to standard error so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.lock().expect("no reader panics")).into_owned()
    }

    /// Waits until it has printed `text`.
    #[track_caller]
    pub fn hears(&self, text: &str) {
        wait_for(&format!("{text:?} in {:?}, stderr {:?}", self.out(), self.err()), || {
            self.out().contains(text).then_some(())
        });
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it is a child of ours");
    }

    /// Waits for its end and for all that it has written to its pipes: its exit code.
    #[track_caller]
    pub fn code(&mut self) -> Option<i32> {
        let what = format!("the end of a husk that says {:?}, {:?}", self.out(), self.err());
        let status = wait_for(&what, || self.child.try_wait().expect("wait for a child"));
        wait_for("the end of its output", || self.collectors.iter().all(JoinHandle::is_finished).then_some(()));
        status.code()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // Of a test that failed; one that is over already is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
