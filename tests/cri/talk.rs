//! A dialogue with `husk cri`, line by line, with a deadline for every answer.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use serde_json::Value;

use crate::common::{Host, PATIENCE, scaled};

/// A running `husk cri`.
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Read, and not yet asked for.
    waiting: Vec<Value>,
}

impl Talk {
    /// Starts it on this host's roots.
    pub fn start(host: &Host) -> Talk {
        let mut child = Command::new(env!("CARGO_BIN_EXE_husk"))
            .arg("cri")
            .env("HUSK_ROOT", &host.root)
            .env("HUSK_STATE", &host.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start husk cri");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if tell.send(line.expect("lines are UTF-8")).is_err() {
                    return;
                }
            }
        });
        Talk { child, stdin, lines, waiting: Vec::new() }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is positive")
    }

    /// Writes one line.
    pub fn say(&mut self, line: &str) {
        let mut stdin = self.stdin.as_ref().expect("the input is open");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("husk cri reads");
    }

    /// The first message, whether read before or yet to come, that `accept` takes.
    #[track_caller]
    pub fn hear(&mut self, what: &str, mut accept: impl FnMut(&Value) -> bool) -> Value {
        if let Some(at) = self.waiting.iter().position(&mut accept) {
            return self.waiting.remove(at);
        }
        let deadline = Instant::now() + scaled(PATIENCE);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
                    assert_eq!(value["jsonrpc"], "2.0", "{line}");
                    if accept(&value) {
                        return value;
                    }
                    self.waiting.push(value);
                }
                Err(e) => {
                    let why = if e == RecvTimeoutError::Timeout { "in time" } else { "before the end" };
                    let others: Vec<String> = self.waiting.iter().map(Value::to_string).collect();
                    panic!("did not come {why}: {what}\ncame instead:\n{}", others.join("\n"));
                }
            }
        }
    }

    /// A whole request, and its answer.
    #[track_caller]
    pub fn ask(&mut self, request: &Value) -> Value {
        self.say(&request.to_string());
        self.hear(&format!("an answer to {request}"), |message| message["id"] == request["id"])
    }

    /// Closes the input and waits for the end: what came and was not asked for, and the exit code.
    pub fn finish(mut self) -> (Vec<Value>, Option<i32>) {
        self.stdin = None;
        let mut rest = std::mem::take(&mut self.waiting);
        loop {
            match self.lines.recv_timeout(scaled(PATIENCE)) {
                Ok(line) => rest.push(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("husk cri does not end at the end of its input"),
            }
        }
        let code = self.child.wait().expect("wait for husk cri").code();
        (rest, code)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // Ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
