//! Whole dialogues with a service that does what a test tells it.

use super::*;
use crate::cri::messages::*;
use crate::cri::service::{ImageService, RuntimeService};
use serde_json::{Value, json};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const LATE: Duration = Duration::from_secs(10);

/// A service whose slow RPCs meet the test in the middle.
#[derive(Default)]
struct Fake {
    running: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
    /// `ExecSync` waits here with the test, if there is one.
    meeting: Option<Barrier>,
    order: Mutex<Vec<String>>,
}

impl Fake {
    fn log(&self, what: &str) {
        lock(&self.order).push(what.to_owned());
    }
}

impl RuntimeService for Fake {
    fn version(&self, request: VersionRequest) -> Result<VersionResponse, Status> {
        Ok(VersionResponse { version: request.version, ..VersionResponse::default() })
    }

    fn exec_sync(&self, _request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        if let Some(meeting) = &self.meeting {
            meeting.wait();
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(ExecSyncResponse { stdout: b"hi\n".to_vec(), ..ExecSyncResponse::default() })
    }

    fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        std::thread::sleep(Duration::from_millis(20));
        self.log("create");
        Err(Status::not_found(format!("pod sandbox {}", request.pod_sandbox_id)))
    }

    fn pod_sandbox_status(&self, _request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status> {
        self.log("status");
        Ok(PodSandboxStatusResponse::default())
    }

    fn container_events(&self, _request: GetEventsRequest, events: &mut dyn Events) -> Result<(), Status> {
        let event =
            |id: &str| ContainerEventResponse { container_id: id.to_owned(), ..ContainerEventResponse::default() };
        let _ = events.begin();
        let _ = events.send(event("first"));
        let mut fds = [nix::poll::PollFd::new(events.over(), nix::poll::PollFlags::empty())];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).expect("poll");
        let _ = events.send(event("last"));
        Ok(())
    }
}

impl ImageService for Fake {}

/// What came out, a value a line.
fn talk_within(fake: &Fake, input: &[u8], limits: &Limits) -> Vec<Value> {
    let mut output = Vec::new();
    serve(fake, input, &mut output, limits).unwrap();
    let text = String::from_utf8(output).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn talk(input: &str) -> Vec<Value> {
    talk_within(&Fake::default(), input.as_bytes(), &Limits::DEFAULT)
}

fn request(id: &str, method: &str, params: &Value) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n")
}

/// The one answer to a line, which fails: its id, number, code and sentence.
#[track_caller]
fn failure(line: &str) -> (Value, i64, String, String) {
    let answers = talk(line);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["jsonrpc"], "2.0");
    let error = &answers[0]["error"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (answers[0]["id"].clone(), error["code"].as_i64().unwrap(), text(&error["data"]["code"]), text(&error["message"]))
}

#[test]
fn an_id_comes_back_as_it_was_written() {
    for id in ["1", "-7", "1.50", "1e2", "\"a\\u0062\"", "\"\"", "null", "123456789012345678901234567890"] {
        let mut output = Vec::new();
        let line = request(id, "Version", &json!({"version": "x"}));
        serve(&Fake::default(), line.as_bytes(), &mut output, &Limits::DEFAULT).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert!(
            text.starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"version\":\"x\"")),
            "{text}"
        );
    }
}

#[test]
fn failures_carry_a_number_a_name_and_a_sentence() {
    let said = |id: Value, number: i64, code: &str, message: &str| (id, number, code.to_owned(), message.to_owned());
    let invalid = |line: &str, id: Value, number: i64, message: &str| {
        assert_eq!(failure(line), said(id, number, "INVALID_ARGUMENT", message), "{line}");
    };
    let null = || Value::Null;
    invalid("{\"id\": 1", null(), -32700, "not JSON: EOF while parsing an object (column 8)");
    invalid("\u{1}", null(), -32700, "not JSON: expected value (column 1)");
    invalid("{} {}", null(), -32700, "not JSON: trailing characters (column 4)");
    invalid(&"[".repeat(65), null(), -32700, "more than 64 lists and objects in one another");
    invalid("[]", null(), -32600, "a batch; write one request a line instead");
    invalid("5", null(), -32600, "not a request: a line is a JSON object");
    invalid("{}", null(), -32600, "jsonrpc: must be \"2.0\"");
    invalid(r#"{"id": 5, "method": "Version"}"#, json!(5), -32600, "jsonrpc: must be \"2.0\"");
    invalid(
        r#"{"jsonrpc": "2.0", "id": {}, "method": "Version"}"#,
        null(),
        -32600,
        "id: must be a string, a number or null",
    );
    invalid(r#"{"jsonrpc": "2.0", "id": 5}"#, json!(5), -32600, "method: must be there, and a string");
    invalid(r#"{"jsonrpc": "2.0", "id": 5, "method": 7}"#, json!(5), -32600, "method: must be there, and a string");
    invalid(
        r#"{"jsonrpc": "2.0", "id": 5, "method": "Version", "parms": {}}"#,
        json!(5),
        -32600,
        "unknown member \"parms\"; a request has jsonrpc, id, method and params",
    );
    invalid(
        r#"{"jsonrpc": "2.0", "id": 5, "id": 6, "method": "Version"}"#,
        json!(5),
        -32600,
        "member \"id\" comes twice",
    );
    invalid(
        r#"{"jsonrpc": "2.0", "id": 5, "method": "Version", "params": []}"#,
        json!(5),
        -32602,
        "params: must be an object, the request's message",
    );
    invalid(
        r#"{"jsonrpc": "2.0", "id": 5, "method": "Version", "params": {"versoin": ""}}"#,
        json!(5),
        -32602,
        "params: unknown field \"versoin\"; there are version",
    );
    assert_eq!(
        failure(r#"{"jsonrpc": "2.0", "id": 5, "method": "RunPod"}"#),
        said(json!(5), -32601, "UNIMPLEMENTED", "unknown method \"RunPod\"; `husk cri --list` prints those there are")
    );
    assert_eq!(failure(r#"{"jsonrpc": "2.0", "id": 5, "method": "StreamImages"}"#).1, -32601);
    assert_eq!(failure(r#"{"jsonrpc": "2.0", "id": 5, "method": "ListImages"}"#).1, -32012);
    assert_eq!(
        failure(&request("5", "CreateContainer", &json!({"podSandboxId": "x"}))),
        said(json!(5), -32005, "NOT_FOUND", "pod sandbox x")
    );
    let long_id = format!("{{\"jsonrpc\": \"2.0\", \"id\": \"{}\", \"method\": \"Version\"}}", "x".repeat(2000));
    assert_eq!(failure(&long_id).3, "id: more than 1024 bytes");
}

#[test]
fn a_bad_line_is_not_the_end() {
    let input = b"\xff\xfe\n{\n\n  \r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Version\"}\r\n[1]\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"Version\"}";
    let answers = talk_within(&Fake::default(), input, &Limits::DEFAULT);
    let failed = answers.iter().filter(|answer| answer["id"].is_null() && answer["error"].is_object()).count();
    assert_eq!((answers.len(), failed), (5, 3), "{answers:?}");
    for id in [1, 2] {
        assert!(answers.iter().any(|answer| answer["id"] == id && answer["result"].is_object()), "{answers:?}");
    }
}

#[test]
fn notifications_are_done_and_never_answered() {
    let fake = Fake::default();
    let input = "{\"jsonrpc\":\"2.0\",\"method\":\"ExecSync\"}\n{\"jsonrpc\":\"2.0\",\"method\":\"Nothing\"}\n\
                 {\"jsonrpc\":\"2.0\",\"method\":\"Version\",\"params\":{\"x\":1}}\n";
    assert_eq!(talk_within(&fake, input.as_bytes(), &Limits::DEFAULT), Vec::<Value>::new());
    assert_eq!(fake.done.load(Ordering::SeqCst), 1);
}

#[test]
fn a_long_line_is_skipped_and_answered() {
    let limits = Limits { line: 100, ..Limits::DEFAULT };
    let fits = request("1", "Version", &json!({"version": "x".repeat(100 - 67)}));
    assert_eq!(fits.len(), 102 - 1, "the longest line, and its end");
    let input = format!("{}\n{fits}{}", "x".repeat(1_000_000), "y".repeat(200));
    let answers = talk_within(&Fake::default(), input.as_bytes(), &limits);
    assert_eq!(answers.len(), 3, "{answers:?}");
    let long: Vec<&Value> = answers.iter().filter(|answer| answer["id"].is_null()).collect();
    assert_eq!(long.len(), 2);
    assert_eq!(long[0]["error"]["code"], -32600);
    assert_eq!(long[0]["error"]["data"]["code"], "RESOURCE_EXHAUSTED");
    assert_eq!(long[0]["error"]["message"], "a line has more than 100 bytes; it was skipped");
}

#[test]
fn requests_run_at_once_and_no_more_than_the_limit() {
    // Four meet in the service, or the test never ends.
    let fake = Fake { meeting: Some(Barrier::new(4)), ..Fake::default() };
    let input: String =
        (0..40).map(|i| request(&i.to_string(), "ExecSync", &json!({"containerId": i.to_string()}))).collect();
    let answers = talk_within(&fake, input.as_bytes(), &Limits { requests: 4, ..Limits::DEFAULT });
    assert_eq!(answers.len(), 40);
    assert_eq!(fake.most.load(Ordering::SeqCst), 4);
    assert!(answers.iter().all(|answer| answer["result"]["stdout"] == "aGkK"), "{answers:?}");
}

#[test]
fn large_requests_are_not_outstanding_together() {
    let fake = Fake::default();
    let input: String =
        (0..8).map(|i| request(&i.to_string(), "ExecSync", &json!({"cmd": ["x".repeat(1000)]}))).collect();
    let answers = talk_within(&fake, input.as_bytes(), &Limits { bytes: 1500, ..Limits::DEFAULT });
    assert_eq!((answers.len(), fake.most.load(Ordering::SeqCst)), (8, 1));
}

#[test]
fn requests_on_one_pod_keep_their_order() {
    for _ in 0..5 {
        let fake = Fake::default();
        let pod = json!({"podSandboxId": "p"});
        let input = request("1", "CreateContainer", &pod)
            + &request("2", "PodSandboxStatus", &pod)
            + &request("3", "CreateContainer", &pod);
        assert_eq!(talk_within(&fake, input.as_bytes(), &Limits::DEFAULT).len(), 3);
        assert_eq!(*lock(&fake.order), ["create", "status", "create"]);
    }
}

#[test]
fn events_are_notifications_until_the_end() {
    let events = request("1", "GetContainerEvents", &json!({}));
    let answers = talk(&format!("{events}{}", request("2", "GetContainerEvents", &json!({}))));
    assert_eq!(answers.len(), 4, "{answers:?}");
    let at = |id: u32| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(at(1)["result"], json!({}));
    assert_eq!(at(2)["error"]["data"]["code"], "ALREADY_EXISTS");
    let events: Vec<&Value> = answers.iter().filter(|answer| answer["method"] == "ContainerEvent").collect();
    assert!(events.iter().all(|event| event.get("id").is_none()));
    assert_eq!(events[0]["params"]["containerId"], "first");
    assert_eq!(events[0]["params"]["containerEventType"], "CONTAINER_CREATED_EVENT");
    assert_eq!(answers[3]["params"]["containerId"], "last");
}

/// Fails at its `left`-th write, and tells the test of every one.
struct Failing {
    left: usize,
    tell: Sender<()>,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.tell.send(());
        if self.left == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.left -= 1;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines that a test hands over one by one.
struct Lines(Receiver<Vec<u8>>);

impl io::Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.recv() {
            Ok(line) => {
                buffer[..line.len()].copy_from_slice(&line);
                Ok(line.len())
            }
            Err(_) => Ok(0),
        }
    }
}

#[test]
fn a_closed_output_ends_the_reading_and_not_the_requests() {
    let fake = Fake { meeting: Some(Barrier::new(2)), ..Fake::default() };
    let (tell, told) = channel();
    let (write, lines) = channel();
    std::thread::scope(|scope| {
        let dialogue = scope.spawn(|| {
            let output = Failing { left: 1, tell };
            serve(&fake, io::BufReader::new(Lines(lines)), output, &Limits::DEFAULT)
        });
        write.send(request("1", "ExecSync", &json!({})).into_bytes()).unwrap();
        for id in ["2", "3"] {
            write.send(request(id, "Version", &json!({})).into_bytes()).unwrap();
            told.recv_timeout(LATE).unwrap();
        }
        // The output is gone. This line may be read and is not done, or the next is not read.
        let _ = write.send(request("4", "Nothing", &json!({})).into_bytes());
        std::thread::sleep(Duration::from_millis(20));
        let _ = write.send(request("5", "ExecSync", &json!({})).into_bytes());
        assert!(!dialogue.is_finished(), "a request runs still");
        fake.meeting.as_ref().unwrap().wait();
        let ended = dialogue.join().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
    assert_eq!(fake.done.load(Ordering::SeqCst), 1);
    assert!(told.try_recv().is_err(), "something was written after the failure");
}

#[test]
fn an_input_that_fails_is_told_after_everything_was_answered() {
    struct Broken(bool);
    impl io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("unplugged"));
            }
            let line = request("1", "Version", &json!({}));
            buffer[..line.len()].copy_from_slice(line.as_bytes());
            Ok(line.len())
        }
    }
    let mut output = Vec::new();
    let ended = serve(&Fake::default(), io::BufReader::new(Broken(false)), &mut output, &Limits::DEFAULT);
    assert_eq!(ended.unwrap_err().to_string(), "unplugged");
    assert!(String::from_utf8(output).unwrap().contains("\"id\":1,\"result\""));
}
