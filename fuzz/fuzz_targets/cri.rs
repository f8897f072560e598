//! Any bytes as the input of `husk cri`: every line is answered or is none, and what is read as a message reads back as itself.
#![no_main]

use husk::cri::json;
use husk::cri::messages::{CreateContainerRequest, RunPodSandboxRequest};
use husk::cri::rpc::{self, Limits};
use husk::cri::service::{ImageService, RuntimeService};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

/// Understands everything and does nothing.
struct Nothing;
impl RuntimeService for Nothing {}
impl ImageService for Nothing {}

/// Without the id, which is the client's: there may be no number for it.
#[derive(serde::Deserialize)]
struct Answer {
    error: Value,
}

fuzz_target!(|bytes: &[u8]| {
    let mut output = Vec::new();
    rpc::serve(&Nothing, bytes, &mut output, &Limits { line: 4096, ..Limits::DEFAULT }).expect("neither end fails");
    for line in output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let answer: Answer = serde_json::from_slice(line).expect("an answer is JSON");
        assert!(answer.error["data"]["code"].is_string());
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim_ascii();
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return };
    if let Ok(message) = json::decode::<RunPodSandboxRequest>("", raw) {
        let text = json::encode(&message).expect("what was read can be written");
        assert_eq!(message, json::decode("", &text).expect("what was written can be read"));
    }
    if let Ok(message) = json::decode::<CreateContainerRequest>("", raw) {
        let text = json::encode(&message).expect("what was read can be written");
        assert_eq!(message, json::decode("", &text).expect("what was written can be read"));
    }
});
