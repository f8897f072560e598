//! A dialogue with clients that write too much, write rubbish, or go away.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::Host;
use crate::talk::Talk;

fn version(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "Version"})
}

#[test]
fn rubbish_is_answered_and_the_dialogue_goes_on() {
    let host = Host::empty();
    let mut talk = Talk::start(&host);
    for rubbish in ["{", "\u{0}", "[]", "nonsense", "{\"jsonrpc\":\"2.0\"}"] {
        talk.say(rubbish);
        let answer = talk.hear(rubbish, |message| message["id"].is_null());
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    assert_eq!(talk.ask(&version(1))["result"]["runtimeName"], "husk");
    assert_eq!(talk.finish(), (Vec::new(), Some(0)));
    host.assert_untouched();
}

#[test]
fn a_line_of_seventeen_mebibytes_is_skipped_without_being_kept() {
    let host = Host::empty();
    let mut talk = Talk::start(&host);
    talk.say(&format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"Version\",\"params\":{{\"version\":\"{}\"}}}}",
        "x".repeat(17 << 20)
    ));
    let answer = talk.hear("the refusal", |message| message["id"].is_null());
    assert_eq!(answer["error"]["data"]["code"], "RESOURCE_EXHAUSTED");
    // One that fits, as long as it may be.
    talk.say(&format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"Version\",\"params\":{{\"version\":\"{}\"}}}}",
        "x".repeat(15 << 20)
    ));
    assert_eq!(talk.hear("the answer", |message| message["id"] == 2)["result"]["version"], "0.1.0");
    assert_eq!(talk.finish(), (Vec::new(), Some(0)));
}

#[test]
fn a_thousand_requests_in_one_go_are_all_answered() {
    let host = Host::empty();
    let input: String = (0..1000).map(|id| format!("{}\n", version(id))).collect();
    let output = host.job(&["cri"]).stdin(input).finish();
    assert_eq!(output.code, Some(0), "{output}");
    let mut ids: Vec<u64> = output
        .out()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].as_u64().expect("an id"))
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..1000).collect::<Vec<u64>>());
}

#[test]
fn whoever_stops_reading_ends_the_dialogue() {
    let host = Host::empty();
    let mut child = Command::new(env!("CARGO_BIN_EXE_husk"))
        .arg("cri")
        .env("HUSK_ROOT", &host.root)
        .env("HUSK_STATE", &host.state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start husk cri");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(format!("{}\n", version(1)).as_bytes()).expect("write");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut first = [0; 1];
    stdout.read_exact(&mut first).expect("an answer");
    drop(stdout);
    // The input stays open: the closed output alone is the end.
    let status = child.wait().expect("wait");
    drop(stdin);
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("read");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("the dialogue ended early: broken pipe (EPIPE)"), "{said}");
}
