//! Calls of a program with a deadline: whoever still holds its output after its end is found out too.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program about to be called.
pub struct Job {
    command: Command,
    stdin: Vec<u8>,
    patience: Duration,
    words: String,
}

/// A program that runs.
pub struct Running {
    /// Its pid.
    pub pid: i32,
    since: Instant,
    patience: Duration,
    words: String,
    exit: Receiver<ExitStatus>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

/// How a call ended.
pub struct Output {
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Everything it printed.
    pub stdout: Vec<u8>,
    /// Everything it printed to stderr.
    pub stderr: Vec<u8>,
    /// From before the start to after the end.
    pub elapsed: Duration,
}

impl Job {
    /// `program` with `args`, an empty stdin and a patience of a minute.
    pub fn new(program: &str, args: &[&str]) -> Job {
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        Job {
            command,
            stdin: Vec::new(),
            patience: Duration::from_secs(60),
            words: format!("{program} {}", args.join(" ")),
        }
    }

    /// What it reads on stdin.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Job {
        self.stdin = bytes.into();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Job {
        self.command.env(name, value);
        self
    }

    /// Takes a variable away.
    pub fn env_remove(mut self, name: &str) -> Job {
        self.command.env_remove(name);
        self
    }

    /// How long it may run; it is killed and the test fails after that.
    pub fn patience(mut self, patience: Duration) -> Job {
        self.patience = patience;
        self
    }

    /// Adds arguments.
    pub fn args<I: Into<OsString>>(mut self, args: impl IntoIterator<Item = I>) -> Job {
        self.command.args(args.into_iter().map(Into::into));
        self
    }

    /// The program itself, for what there is no method for.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        self.command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        let since = Instant::now();
        let mut child: Child = loop {
            match self.command.spawn() {
                // A program that was just written: a child of another test, between its fork and its exec, still has it open.
                Err(error)
                    if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                        && since.elapsed() < Duration::from_secs(5) =>
                {
                    thread::sleep(Duration::from_millis(5));
                }
                other => break other.unwrap_or_else(|error| panic!("start {}: {error}", self.words)),
            }
        };
        let pid = i32::try_from(child.id()).expect("a pid is positive");
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = std::mem::take(&mut self.stdin);
            // The program may end without reading it all: that is its right.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = drain(child.stdout.take().expect("stdout is a pipe"));
        let stderr = drain(child.stderr.take().expect("stderr is a pipe"));
        let (tell, exit) = channel();
        // Nobody listens any more once a test has failed.
        thread::spawn(move || tell.send(child.wait().expect("wait for a child")).is_ok());
        Running { pid, since, patience: super::scaled(self.patience), words: self.words, exit, stdout, stderr }
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn finish(self) -> Output {
        self.start().finish()
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read a pipe");
        tell.send(bytes).is_ok()
    });
    told
}

impl Running {
    /// Sends a signal.
    pub fn kill(&self, signal: Signal) {
        // It may be over already.
        if let Err(errno) = kill(Pid::from_raw(self.pid), signal) {
            assert_eq!(errno, nix::errno::Errno::ESRCH, "signal a child of ours");
        }
    }

    /// Is it still running?
    pub fn is_running(&self) -> bool {
        super::outside::alive(self.pid)
    }

    /// Waits for its end and for the end of its output.
    #[track_caller]
    pub fn finish(self) -> Output {
        let Ok(status) = self.exit.recv_timeout(self.patience) else {
            self.kill(Signal::SIGKILL);
            let said = self.stderr.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
            panic!("{} did not end within {:?}; stderr: {}", self.words, self.patience, String::from_utf8_lossy(&said));
        };
        let elapsed = self.since.elapsed();
        let rest = Duration::from_secs(5);
        let stdout = self
            .stdout
            .recv_timeout(rest)
            .unwrap_or_else(|_| panic!("{}: its stdout is still held open by somebody", self.words));
        let stderr = self
            .stderr
            .recv_timeout(rest)
            .unwrap_or_else(|_| panic!("{}: its stderr is still held open by somebody", self.words));
        Output { code: status.code(), signal: status.signal(), stdout, stderr, elapsed }
    }
}

impl Output {
    /// stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: String| {
            if text.len() > 2000 { format!("{}…", text.chars().take(2000).collect::<String>()) } else { text }
        };
        write!(
            f,
            "exit code {:?}, signal {:?}, after {:?}\nstdout: {}\nstderr: {}",
            self.code,
            self.signal,
            self.elapsed,
            cut(self.out()),
            cut(self.err())
        )
    }
}
