//! Broken lines for `husk cri`, the same ones in every run: each is answered or starts something, none ends the dialogue, and whatever is
//! read as a message is written and read again as itself. For `HUSK_FUZZ_SECONDS`, three if it is not set. (`fuzz/` has the same for libFuzzer.)

use std::io::Cursor;
use std::time::{Duration, Instant};

use husk::cri::messages::*;
use husk::cri::rpc::{self, Limits};
use husk::cri::service::{Events, ImageService, RuntimeService};
use husk::cri::{Status, json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

const SEEDS: &[&str] = &[
    r#"{"jsonrpc":"2.0","id":1,"method":"Version","params":{"version":"v1"}}"#,
    r#"{"jsonrpc":"2.0","id":"a\u0041\"\\","method":"RunPodSandbox","params":{"config":{"metadata":{"name":"a","uid":"5a0c1e52","namespace":"n","attempt":3},"hostname":"h","log_directory":"/l","dnsConfig":{"servers":["1.1.1.1"],"searches":[],"options":["ndots:5"]},"portMappings":[{"protocol":"UDP","containerPort":53,"hostPort":"53","hostIp":"::1"}],"labels":{"a":"b","c":""},"annotations":null,"linux":{"cgroupParent":"/kubepods","securityContext":{"namespaceOptions":{"network":"POD","pid":1,"ipc":"NODE","targetId":"","usernsOptions":{"mode":"NODE","uids":[{"hostId":1,"containerId":0,"length":65536}]}},"runAsUser":{"value":"1000"},"supplementalGroups":[1,"2"],"seccomp":{"profileType":"Localhost","localhostRef":"x"}},"sysctls":{"net.ipv4.ip_forward":"1"},"resources":{"cpuShares":"2","memoryLimitInBytes":9007199254740993}}},"runtimeHandler":""}}"#,
    r#"{"jsonrpc":"2.0","id":-1.5e3,"method":"CreateContainer","params":{"podSandboxId":"p","config":{"metadata":{"name":"c"},"image":{"image":"i","annotations":{"x":"y"}},"command":["sh","-c"],"args":["é\ud83d\ude00"],"workingDir":"/","envs":[{"key":"A","value":"Yg=="}],"mounts":[{"containerPath":"/a","hostPath":"/b","readonly":true,"propagation":"PROPAGATION_BIDIRECTIONAL"}],"devices":[{"containerPath":"/dev/x","hostPath":"/dev/x","permissions":"rwm"}],"CDIDevices":[{"name":"v/c=d"}],"logPath":"c.log","stdin":false,"tty":true,"linux":{"resources":{"hugepageLimits":[{"pageSize":"2MB","limit":"18446744073709551615"}],"unified":{"memory.high":"1"}},"securityContext":{"capabilities":{"addCapabilities":["NET_ADMIN"]},"maskedPaths":["/proc/kcore"]}},"stopSignal":"SIGNAL_SIGRTMINPLUS3"},"sandboxConfig":{}}}"#,
    r#"{"jsonrpc":"2.0","id":null,"method":"ListContainers","params":{"filter":{"id":"x","state":{"state":"CONTAINER_UNKNOWN"},"labelSelector":{"a":"b"}}}}"#,
    r#"{"jsonrpc":"2.0","method":"StopContainer","params":{"container_id":"c","timeout":"30"}}"#,
    r#"{"jsonrpc":"2.0","id":2,"method":"UpdateContainerResources","params":{"containerId":"c","linux":{"cpuQuota":-1,"cpusetCpus":"0-3"}}}"#,
    r#"{"jsonrpc":"2.0","id":3,"method":"GetContainerEvents"}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"PullImage","params":{"image":{"image":"i"},"auth":{"username":"u","password":"p"}}}"#,
    r#"{"jsonrpc":"2.0","id":5,"method":"RestorePod","params":{"checkpointPath":"/c","containerConfigs":[{},{}],"options":{}}}"#,
];

/// Words that break things elsewhere.
const WORDS: &[&str] = &[
    "null",
    "true",
    "-0",
    "1e309",
    "1E-400",
    "0.5",
    "5.0",
    "-9223372036854775809",
    "18446744073709551616",
    "01",
    "+1",
    ".5",
    "NaN",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    "\"id\":1,",
    "\"jsonrpc\":\"2.0\",",
    "\"params\":{},",
    "\"config\":{},",
    "\"x\":1,",
    "\\u0000",
    "\\ud800",
    "\\uD83D\\uDE00",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "\u{2028}",
    "é",
    "\\",
    "\"",
    "'",
    ",",
    ":",
    "}",
    "]",
    "/*",
    "\r",
    "\t",
    "\n",
    "\n\n",
    "\"=\"",
    "\"____\"",
    "POD",
    "SIGNAL_",
    "StreamImages",
    "pod_sandbox_id",
    "uidMappings",
];

/// Values that may be one field's or another's.
const VALUES: &[&str] = &[
    "null",
    "0",
    "1",
    "-1",
    "3",
    "1e3",
    "\"1\"",
    "\"\"",
    "\"x\"",
    "\"é\\n\"",
    "true",
    "false",
    "{}",
    "[]",
    "\"YQ\"",
    "\"POD\"",
    "\"Version\"",
    "99",
    "\"18446744073709551615\"",
    "{\"value\":\"7\"}",
    "{\"a\":\"b\"}",
    "[\"a\"]",
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n.max(1)
    }
}

/// Another value for one of the fields: what comes out is JSON still, if it was before.
fn value(random: &mut Random, bytes: &mut Vec<u8>) {
    let colons: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b':').collect();
    let Some(colon) = colons.get(random.below(colons.len())) else { return };
    let rest = &bytes[colon + 1..];
    let length = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len());
    let value = VALUES[random.below(VALUES.len())].as_bytes();
    bytes.splice(colon + 1..colon + 1 + length, value.iter().copied());
}

fn mutate(random: &mut Random, seed: &str) -> Vec<u8> {
    let mut bytes = seed.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(20)).min(bytes.len());
        let word = WORDS[random.below(WORDS.len())].as_bytes();
        match random.below(16) {
            8.. => value(random, &mut bytes),
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 => {
                // A piece of another line.
                let other = SEEDS[random.below(SEEDS.len())].as_bytes();
                let from = random.below(other.len());
                bytes.splice(at..to, other[from..(from + 40).min(other.len())].iter().copied());
            }
            5 | 6 => drop(bytes.splice(at..to, word.iter().copied())),
            _ => drop(bytes.splice(at..at, word.iter().copied())),
        }
    }
    bytes
}

/// Answers some requests with what stood in them, so that answers are as odd as requests.
struct Echo;

/// What was read is written, and read as the same.
fn same<T: Serialize + DeserializeOwned + Default + PartialEq + std::fmt::Debug>(message: &T) {
    let text = json::encode(message).expect("what was read can be written");
    assert_eq!(*message, json::decode::<T>("again", &text).expect("what was written can be read"));
}

impl RuntimeService for Echo {
    fn version(&self, request: VersionRequest) -> Result<VersionResponse, Status> {
        same(&request);
        Ok(VersionResponse { version: request.version, ..VersionResponse::default() })
    }

    fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status> {
        same(&request);
        Ok(RunPodSandboxResponse { pod_sandbox_id: format!("{:?}", request.config) })
    }

    fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        same(&request);
        Err(Status::internal(format!("{request:?}")))
    }

    fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Status> {
        same(&request);
        let filter = request.filter.unwrap_or_default();
        let state = filter.state.unwrap_or_default().state;
        let container = Container { id: filter.id, state, labels: filter.label_selector, ..Container::default() };
        Ok(ListContainersResponse { containers: vec![container] })
    }

    fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Status> {
        same(&request);
        Ok(UpdateContainerResourcesResponse {})
    }

    fn container_events(&self, _request: GetEventsRequest, events: &mut dyn Events) -> Result<(), Status> {
        let _ = events.send(ContainerEventResponse::default());
        Ok(())
    }
}

impl ImageService for Echo {}

/// A line that came back. The id is text, since it is the client's: there may be no number for it.
#[derive(Deserialize)]
struct Message<'l> {
    jsonrpc: &'l str,
    #[serde(borrow)]
    id: Option<&'l RawValue>,
    method: Option<&'l str>,
    result: Option<Value>,
    error: Option<Value>,
}

/// Holds a dialogue; answers how many requests were fulfilled.
fn drive(input: &[u8]) -> usize {
    let mut output = Vec::new();
    rpc::serve(&Echo, Cursor::new(input), &mut output, &Limits { line: 64 << 10, ..Limits::DEFAULT })
        .expect("neither end fails");
    let lines = input.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)).count();
    let (mut answers, mut fulfilled) = (0, 0);
    for line in String::from_utf8(output).expect("UTF-8").lines() {
        let message: Message<'_> = serde_json::from_str(line).expect("JSON");
        assert_eq!(message.jsonrpc, "2.0");
        if message.method.is_some() {
            continue;
        }
        answers += 1;
        // serde takes an id of null for none.
        assert!(message.id.is_some() || line.contains("\"id\":null"), "{line}");
        let Some(error) = message.error else {
            assert!(message.result.is_some_and(|result| result.is_object()), "{line}");
            fulfilled += 1;
            continue;
        };
        assert!(error["code"].as_i64().is_some_and(|code| (-32700..=-32000).contains(&code)), "{line}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 5 && !text.contains("untagged")), "{line}");
        assert!(error["data"]["code"].is_string(), "{line}");
    }
    assert!(answers <= lines, "{answers} answers to {lines} lines");
    fulfilled
}

#[test]
fn mutated_lines_are_answered_and_never_break_the_dialogue() {
    assert_eq!(drive(SEEDS.join("\n").as_bytes()), 5, "the seeds are whole");
    let seconds = std::env::var("HUSK_FUZZ_SECONDS").ok().map_or(3, |text| text.parse().expect("a number of seconds"));
    let mut random = Random(0x6875_736b);
    let start = Instant::now();
    let (mut fulfilled, mut lines, mut slowest) = (0, 0, Duration::ZERO);
    while start.elapsed() < Duration::from_secs(seconds) {
        let mut input = Vec::new();
        for i in 0..20 {
            input.extend(mutate(&mut random, SEEDS[(lines + i) % SEEDS.len()]));
            input.push(b'\n');
        }
        lines += 20;
        let one = Instant::now();
        fulfilled += drive(&input);
        slowest = slowest.max(one.elapsed());
    }
    println!("{fulfilled} of {lines} lines fulfilled, slowest twenty {slowest:?}, all {:?}", start.elapsed());
    assert!(fulfilled > lines / 100, "most mutations break everything: {fulfilled} of {lines}");
    assert!(slowest < Duration::from_secs(5), "twenty lines took {slowest:?}");
}

#[test]
fn texts_that_are_no_json_at_all_are_refused_as_messages() {
    // Values that are JSON but no message, for every kind of field there is.
    for value in ["0", "\"\"", "true", "[]", "[{}]", "{\"\":{}}", "[[]]", "{\"value\":[]}", "1e400", "\"\\ud800\""] {
        let Ok(raw) = RawValue::from_string(value.to_owned()) else { continue };
        for field in ["config", "mounts", "labels", "envs", "tty", "logPath", "stopSignal", "image", "command", "linux"]
        {
            let text = RawValue::from_string(format!("{{\"{field}\":{}}}", raw.get())).expect("JSON");
            if let Ok(config) = json::decode::<ContainerConfig>("params", &text) {
                same(&config);
            }
        }
        if let Ok(message) =
            json::decode::<PsiData>("params", &RawValue::from_string(format!("{{\"Avg10\":{value}}}")).expect("JSON"))
        {
            assert!(message.avg10.is_finite());
        }
    }
}
