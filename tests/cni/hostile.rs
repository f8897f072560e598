//! Plugins that hang, crash, lie and shout: a clear error in time, and everything undone.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::Network;
use crate::common::{manifest, outside, scaled, sleeper};

fn pod() -> String {
    manifest("victim", json!({"containers": [sleeper("c")]}))
}

/// A chain of the real bridge plugin and a hostile one behind it; ADD of it fails, and what the first has done is undone.
#[track_caller]
fn fails(body: &str, wanted: &[&str]) -> Network {
    let net = Network::new(5);
    net.script("hostile", &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{body}"));
    net.conflist("1.0.0", json!([net.bridge(json!({})), {"type": "hostile"}]));
    let since = Instant::now();
    let said = net.refused(&pod());
    assert!(since.elapsed() < scaled(Duration::from_secs(30)), "it took {:?}", since.elapsed());
    assert!(said.contains("CNI plugin hostile of network pods: ADD"), "{said}");
    for word in wanted {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(said.len() < 2000, "{} bytes were said", said.len());
    assert_eq!(net.calls("hostile").first().map(String::as_str), Some("ADD"));
    assert_eq!(net.calls("hostile").last().map(String::as_str), Some("DEL"));
    assert!(net.leases().is_empty(), "an address is lost: {:?}", net.leases());
    assert!(net.forgotten());
    net
}

#[test]
fn one_that_hangs_is_killed_with_all_that_it_has_started() {
    let net = fails(
        "sleep 98761 &\nsetsid sleep 98762 >/dev/null 2>&1 </dev/null &\nsleep 98763",
        &["it had not ended after", "and was killed"],
    );
    let left: Vec<i32> = outside::pids()
        .into_iter()
        .filter(|pid| {
            let words = outside::cmdline(*pid);
            words.iter().any(|word| ["98761", "98762", "98763"].contains(&word.as_str()))
        })
        .collect();
    assert!(left.is_empty(), "{left:?} live on");
    net.host.assert_untouched();
}

#[test]
fn one_that_crashes_is_told_by_its_signal() {
    fails("echo 'bad pointer' >&2; kill -SEGV $$", &["was killed by SIGSEGV", "bad pointer"]);
}

#[test]
fn one_that_fails_without_an_error_is_told_by_its_words() {
    fails("echo 'panic: no route'; exit 2", &["exited with 2", "panic: no route"]);
}

#[test]
fn one_that_reports_an_error_is_quoted() {
    fails(
        r#"echo '{"cniVersion":"1.0.0","code":7,"msg":"bad thing","details":"of that kind"}'; exit 1"#,
        &["bad thing: of that kind", "code 7: invalid network configuration"],
    );
}

#[test]
fn one_that_prints_garbage_or_nothing_has_not_succeeded() {
    fails("head -c 5000 /dev/urandom", &["its answer makes no sense"]);
    fails("exit 0", &["it printed nothing"]);
}

#[test]
fn one_that_prints_a_gigabyte_is_stopped_early() {
    fails("head -c 1000000000 /dev/zero", &["it printed more than 1024 KiB and was killed"]);
}

#[test]
fn answers_that_cannot_be_true_are_refused() {
    let answer = |text: &str| format!("echo '{text}'");
    fails(&answer(r#"{"cniVersion":"0.4.0","ips":[]}"#), &["cniVersion", "0.4.0", "1.0.0"]);
    fails(&answer(r#"{"ips":[{"address":"127.0.0.1/8"}]}"#), &["ips[0].address", "loopback"]);
    fails(&answer(r#"{"ips":[{"address":"10.0.0.1/8","interface":184467440737095516150}]}"#), &["ips[0].interface"]);
    fails(&answer(r#"{"ips":[{"address":"224.0.0.1/8"}]}"#), &["multicast"]);
}

#[test]
fn nobody_gave_an_address() {
    let net = Network::new(5);
    net.script("mute", "[ $CNI_COMMAND != ADD ] || echo '{\"cniVersion\":\"1.0.0\"}'");
    net.conflist("1.0.0", json!([{"type": "mute"}]));
    assert!(net.refused(&pod()).contains("CNI network pods has given the pod's eth0 no address"));
    assert_eq!(net.calls("mute"), ["ADD", "DEL"]);
}

#[test]
fn a_hanging_del_delays_a_forced_deletion_by_seconds_and_gc_tries_again() {
    let net = Network::new(5);
    let hang = net.host.dir.join("hang");
    std::fs::write(&hang, "").expect("write a file");
    net.script("sticky", &format!(
        "case $CNI_COMMAND in ADD) echo '{{\"ips\":[{{\"address\":\"10.9.0.7/24\"}}]}}' ;; DEL) while [ -e {} ]; do sleep 1; done ;; esac",
        hang.display()
    ));
    net.conflist("1.0.0", json!([{"type": "sticky"}]));
    let pod = net.run("victim", &pod());
    let since = Instant::now();
    pod.delete(&["--force"]);
    assert!(since.elapsed() < scaled(Duration::from_secs(60)), "it took {:?}", since.elapsed());
    assert!(!net.forgotten());
    std::fs::remove_file(&hang).expect("let it go");
    net.host.ok(&["gc"]);
    assert!(net.forgotten());
}
