//! A few seconds of broken manifests, the same ones in every run: nothing a stranger writes may panic, hang, or be half accepted.

use husk::manifest::{self, command};
use std::time::{Duration, Instant};

const SEEDS: &[&str] = &[
    r#"apiVersion: v1
kind: Pod
metadata:
  name: demo
  uid: 0b0e7e1c-0d3a-4a34-9fa5-0c1d8e7f6a55
  labels: {app: web, example.com/tier: ""}
  annotations:
    note: "text\n"
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 5
  securityContext: {runAsUser: 1000, supplementalGroups: [1, 2], sysctls: [{name: net.ipv4.tcp_syncookies, value: "1"}]}
  volumes:
  - name: data
  - {name: tmp, emptyDir: {medium: Memory, sizeLimit: 1.5Mi}}
  - {name: host, hostPath: {path: /srv, type: DirectoryOrCreate}}
  initContainers:
  - name: init
    image: busybox:1.36
    command: [cp, $(SRC), /data]
    env: [{name: SRC, value: /etc/passwd}]
    volumeMounts: [{name: data, mountPath: /data, subPath: a/b}]
  containers:
  - name: web
    image: busybox:1.36
    args: ["-c", "$$(X) $(POD)"]
    tty: true
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    ports: [{containerPort: 80, name: http}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 1e-1}}
    volumeMounts: [{name: tmp, mountPath: /tmp, readOnly: true, recursiveReadOnly: IfPossible}]
    securityContext: {capabilities: {add: [NET_ADMIN], drop: [ALL]}, readOnlyRootFilesystem: true}
"#,
    r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null},
 "spec": {"containers": [{"name": "c", "image": "x", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "env": [{"name": "A", "value": "\ud83d\ude00"}]}]},
 "status": {}}]}"#,
    r#"# two
---
apiVersion: v1
kind: Pod
metadata: &m {name: b}
spec:
  containers:
  - &c {name: c, image: !!str 1}
  - {<<: *c, name: d}
---
kind: Pod
apiVersion: v1
metadata:
  name: e
  annotations:
    folded: >-
      one
      two
    literal: |+
      x
spec: {containers: [{name: c, image: x, command: ["\x41", 'it''s']}]}
"#,
];

/// Words that break things elsewhere.
const WORDS: &[&str] = &[
    "null",
    "~",
    "true",
    "-1",
    "0",
    "1e309",
    "-9223372036854775809",
    "18446744073709551616",
    "0x7fffffff",
    "0o17",
    ".nan",
    "\"\"",
    "[]",
    "{}",
    "[[[[",
    "{a: ",
    "\u{0}",
    "\u{7f}",
    "\r",
    "\t",
    "\u{2028}",
    "\u{feff}",
    "é",
    "..",
    "../..",
    "/",
    ":",
    "*a",
    "&a ",
    "!!binary ",
    "!x ",
    "<<: ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 9\n",
    "|+9\n",
    ">-\n",
    "$(",
    "$$",
    "$(A)",
    "9Ei",
    "1n",
    "- ",
    "# ",
    "'",
    "\"",
    "\\u0000",
    "\\ud800",
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

fn mutate(random: &mut Random, seed: &str) -> Vec<u8> {
    let mut bytes = seed.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(20)).min(bytes.len());
        let word = WORDS[random.below(WORDS.len())].as_bytes();
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 => {
                // A whole line somewhere else.
                let lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
                let line = [lines[random.below(lines.len())], b"\n"].concat();
                bytes.splice(at..at, line);
            }
            5 | 6 => drop(bytes.splice(at..to, word.iter().copied())),
            _ => drop(bytes.splice(at..at, word.iter().copied())),
        }
    }
    bytes
}

/// Everything that reads a manifest; answers whether it was accepted.
fn drive(bytes: &[u8]) -> bool {
    let pods = match manifest::parse(bytes, "fuzz.yaml") {
        Ok(pods) => pods,
        Err(e) => {
            let text = e.to_string();
            assert!(text.starts_with("fuzz.yaml: ") && text.len() > 11, "{text:?}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            return false;
        }
    };
    let mut accepted = true;
    for mut pod in pods {
        manifest::default(&mut pod);
        let spec = pod.spec.clone().unwrap_or_default();
        let class = manifest::qos_class(&spec);
        let sums = manifest::pod_resources(&spec);
        for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            assert!((-997..=1000).contains(&manifest::oom_score_adj(&spec, c, 1 << 34)), "{class}");
        }
        let Err(e) = manifest::validate(&pod) else {
            sums.expect("amounts of a valid pod can be read");
            let node = command::Node { cpu_millis: 4000, memory_bytes: 1 << 34 };
            for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                let declared = command::env(c, &pod, &|| node).expect("environment of a valid pod can be resolved");
                let all = command::environment(&["PATH=/bin".to_owned()], &declared, "host", false);
                assert!(all.iter().all(|v| !v.contains('\0') && v.contains('=')));
                if let Ok(argv) = command::argv(c, &["/entry".to_owned()], &[], &declared) {
                    assert!(!argv.is_empty());
                }
            }
            // What was accepted reads back as itself.
            let json = serde_json::to_vec(&pod).expect("json");
            assert_eq!(manifest::parse(&json, "again").expect("reads back"), [pod]);
            continue;
        };
        accepted = false;
        assert!(e.errors.iter().all(|e| !e.path.is_empty() && !e.message.is_empty()));
        let text = e.to_string();
        assert!(!text.chars().any(|c| c != '\n' && c.is_control()), "{text:?}");
    }
    accepted
}

#[test]
fn mutated_manifests_are_refused_or_read_but_never_break() {
    for seed in SEEDS {
        assert!(
            drive(seed.as_bytes()),
            "a seed is whole: {:?}",
            manifest::parse(seed.as_bytes(), "seed").map(|p| p.iter().map(manifest::validate).collect::<Vec<_>>())
        );
    }
    let mut random = Random(0x6875_736b);
    let start = Instant::now();
    let (mut accepted, mut slowest) = (0, Duration::ZERO);
    let rounds = 6000;
    for i in 0..rounds {
        let bytes = mutate(&mut random, SEEDS[i % SEEDS.len()]);
        let one = Instant::now();
        accepted += usize::from(drive(&bytes));
        slowest = slowest.max(one.elapsed());
    }
    println!("{accepted} of {rounds} accepted, slowest {slowest:?}, all {:?}", start.elapsed());
    assert!(accepted > rounds / 100, "most mutations break everything: {accepted}");
    assert!(slowest < Duration::from_secs(2), "one took {slowest:?}");
}

#[test]
fn large_and_deep_manifests_are_refused_quickly() {
    let limit = manifest::MAX_BYTES;
    let fill = |unit: &str| unit.repeat(limit / unit.len());
    let list = |item: &str| format!("a: [{}]", item.repeat(limit / item.len() - 4));
    for text in [
        fill("["),
        fill("]"),
        fill("{\"a\":"),
        fill("- "),
        fill("? "),
        fill("a:\n "),
        fill("---\n"),
        fill("&a "),
        fill("# "),
        fill("\n"),
        fill("a"),
        fill("'"),
        fill("\"a\" "),
        fill("!a "),
        list("[],"),
        list("1,"),
        format!("a: &a [1]\nb: [{}]", "*a,".repeat(limit / 4)),
        format!("{{\"a\": \"{}\"}}", "x".repeat(limit - 100)),
        (0..limit / 20).map(|i| format!("key{i}: 1\n")).collect(),
        "x".repeat(limit + 1),
    ] {
        let start = Instant::now();
        assert!(!drive(text.as_bytes()));
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?} for {:?}…", &text[..20]);
        if took > Duration::from_millis(500) {
            println!("{took:?} for {:?}…", &text[..20]);
        }
    }
}
