//! A second of broken networks and answers of plugins, the same ones in every run: nothing a stranger writes may panic, hang, or be half accepted.

use std::time::{Duration, Instant};

use husk::network::cni::result::{self, Answer};
use husk::network::cni::{Attachment, INTERFACE, Version, config};

const SEEDS: &[&str] = &[
    r#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.0.0"],"name":"pods","disableCheck":"true","disableGC":false,"plugins":[
{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/16"}]],"dataDir":"/x"},"mtu":1500},
{"type":"portmap","capabilities":{"portMappings":true,"bandwidth":false},"snat":true},
{"type":"tuning","sysctl":{"net.core.somaxconn":"500"},"args":{"cni":{}}}]}"#,
    r#"{"cniVersion":"1.1.0","name":"one","type":"ptp","ipam":{"type":"static","addresses":[{"address":"10.0.0.1/24"}]},"capabilities":{"ips":true}}"#,
    r#"{"cniVersion":"1.0.0","interfaces":[{"name":"cni0","mac":"00:11:22:33:44:55"},{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1400,"sandbox":"/proc/7/ns/net"}],
"ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","interface":1},{"address":"fd00::5/64","interface":1}],
"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"},{"dst":"::/0","mtu":1400,"table":7}],"dns":{"nameservers":["10.1.0.1"],"search":["a"]}}"#,
    r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.5/16"}],"interfaces":null,"routes":null}"#,
    r#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"a \u00e9 \n b"}"#,
    r#"{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}"#,
];

/// Words that break things elsewhere.
const WORDS: &[&str] = &[
    "null",
    "true",
    "-1",
    "0",
    "1e309",
    "-9223372036854775809",
    "18446744073709551616",
    "\"\"",
    "[]",
    "{}",
    "[[[[",
    "{\"a\":",
    "\u{0}",
    "\u{7f}",
    "\r",
    "\u{2028}",
    "é",
    "..",
    "../..",
    "/",
    "\\u0000",
    "\\ud800",
    "\"10.0.0.1/33\"",
    "\"::1/128\"",
    "\"0.0.0.0/0\"",
    "\"255.255.255.255/32\"",
    "\"10.0.0.1/+8\"",
    "\"name\":",
    "\"type\":",
    "\"plugins\":",
    "\"ips\":",
    "\"interface\":",
    "\"cniVersion\":\"1.1.0\",",
    ",",
    "\"",
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    /// A seed with a few things cut out, put in, or copied from one place to another.
    fn broken(&mut self, seed: &str) -> Vec<u8> {
        let mut bytes = seed.as_bytes().to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let to = (at + self.below(24)).min(bytes.len());
            let word = WORDS[self.below(WORDS.len())].bytes();
            match self.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.drain(at..to)),
                3 => bytes.extend_from_within(at..to),
                4 => drop(bytes.splice(at..to, word)),
                _ => drop(bytes.splice(at..at, word)),
            }
        }
        bytes
    }
}

/// Everything that reads what a stranger wrote; how many took it.
fn drive(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    for network in [config::list(bytes, "fuzz"), config::parse_single(bytes, "fuzz")] {
        match network {
            Ok(network) => {
                accepted += 1;
                assert!(!network.plugins.is_empty() && network.plugins.iter().all(|p| !p.program.contains('/')));
                let kept = network.to_json();
                assert_eq!(config::list(kept.as_bytes(), "again").expect("it is accepted again").to_json(), kept);
            }
            Err(e) => told(&e.to_string()),
        }
    }
    let at = Attachment { interface: INTERFACE.into(), ..Attachment::default() };
    for version in Version::ALL {
        match Answer::parse(bytes, version) {
            Ok(answer) => {
                accepted += 1;
                let again = Answer::parse(answer.raw.get().as_bytes(), version).expect("it is accepted again");
                match answer.addresses(&at) {
                    Ok(found) => {
                        assert_eq!(again.addresses(&at).as_ref(), Ok(&found));
                        assert!(found.len() <= 2);
                        assert!(found.iter().all(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()));
                    }
                    Err(failure) => told(&failure.to_string()),
                }
            }
            Err(failure) => told(&failure.to_string()),
        }
    }
    if let Some(failure) = result::parse_error(bytes) {
        accepted += 1;
        told(&failure.to_string());
    }
    match result::parse_versions(bytes) {
        Ok(_) => accepted += 1,
        Err(failure) => told(&failure.to_string()),
    }
    accepted
}

/// Fit for a terminal, and for one screen of it.
fn told(text: &str) {
    assert!(text.len() > 5 && text.len() < 3000 && !text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn broken_networks_and_answers_are_refused_or_read_but_never_break() {
    for seed in SEEDS {
        assert!(drive(seed.as_bytes()) > 0, "a seed is whole: {seed}");
    }
    let mut random = Random(0x6875_736b);
    let (mut accepted, mut slowest) = (0, Duration::ZERO);
    let rounds = 20_000;
    for i in 0..rounds {
        let bytes = random.broken(SEEDS[i % SEEDS.len()]);
        let one = Instant::now();
        accepted += usize::from(drive(&bytes) > 0);
        slowest = slowest.max(one.elapsed());
    }
    println!("{accepted} of {rounds} accepted, slowest {slowest:?}");
    assert!(accepted > rounds / 50, "most mutations break everything: {accepted}");
    assert!(slowest < Duration::from_secs(2), "one took {slowest:?}");
}

#[test]
fn a_megabyte_of_anything_is_read_quickly() {
    const LIMIT: usize = 1 << 20;
    let fill = |unit: &str| unit.repeat(LIMIT / unit.len());
    for text in [
        fill("["),
        fill("{\"a\":"),
        fill("\n"),
        fill("1"),
        fill("\\"),
        format!("{{\"ips\":[{}{{}}]}}", "{\"address\":\"10.0.0.1/8\"},".repeat(LIMIT / 30)),
        format!(
            "{{\"name\":\"a\",\"cniVersion\":\"1.0.0\",\"plugins\":[{}{{}}]}}",
            "{\"type\":\"x\"},".repeat(LIMIT / 16)
        ),
        format!("{{\"code\":1,\"msg\":\"{}\"}}", "x".repeat(LIMIT - 100)),
        format!("{{\"x\":{}{}}}", "[".repeat(LIMIT / 2), "]".repeat(LIMIT / 2)),
    ] {
        let start = Instant::now();
        drive(text.as_bytes());
        assert!(start.elapsed() < Duration::from_secs(20), "{:?} for {:?}…", start.elapsed(), &text[..20]);
    }
}
