//! `husk top`: numbers that can be checked against what the containers do.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::outside::hierarchy;
use crate::common::{Host, container, manifest, sleeper, wait_for};

const MIB: u64 = 1 << 20;

fn items(host: &Host, args: &[&str]) -> Vec<Value> {
    let output = host.ok(&[&["top", "-o", "json"], args].concat());
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(list["kind"], "PodMetricsList");
    list["items"].as_array().expect("items").clone()
}

/// `12345n` in thousandths of a CPU.
fn millis(usage: &Value) -> u64 {
    let text = usage["cpu"].as_str().expect("cpu");
    text.strip_suffix('n').expect("billionths").parse::<u64>().expect("a number") / 1_000_000
}

/// The rows of a table, split at blanks.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn what_burns_and_what_holds_memory_is_seen() {
    let host = Host::alone();
    let volume = json!({"volumeMounts": [{"name": "m", "mountPath": "/m"}]});
    let burner = container("burner", "while :; do :; done", json!({"resources": {"limits": {"cpu": "500m"}}}));
    let keeper = container(
        "holder",
        "dd if=/dev/zero of=/m/f bs=1048576 count=20 2>/dev/null; echo full; exec sleep 100000",
        volume,
    );
    let spec = json!({"volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}], "containers": [burner, keeper]});
    let busy = host.run("busy", &manifest("busy", spec));
    host.run("idle", &manifest("idle", json!({"containers": [sleeper("main")]})));
    busy.wait_log("holder", "full");

    let pods = items(&host, &["--window", "1s"]);
    assert_eq!(
        pods.iter().map(|p| p["metadata"]["name"].as_str().expect("a name")).collect::<Vec<_>>(),
        ["busy", "idle"]
    );
    let containers = pods[0]["containers"].as_array().expect("containers");
    let [burner, holder] = containers.as_slice() else { panic!("{containers:?}") };
    let burnt = millis(&burner["usage"]);
    // Half a CPU at most, and on a busy machine less.
    assert!((50..=650).contains(&burnt), "{burnt} thousandths");
    assert!(millis(&holder["usage"]) <= 20 && millis(&pods[1]["husk"]["usage"]) <= 20, "{pods:?}");
    let set = holder["husk"]["workingSetBytes"].as_u64().expect("a working set");
    assert!((20 * MIB..40 * MIB).contains(&set), "{set}");
    let of_pod = &pods[0]["husk"];
    assert!(of_pod["workingSetBytes"].as_u64().expect("a working set") >= set);
    assert_eq!(pods[1]["husk"]["pids"], 1);
    assert_eq!(of_pod["pids"], 2);
    assert!(of_pod["network"]["rxBytes"].is_u64() && of_pod["network"]["txBytes"].is_u64(), "{of_pod}");
    let overhead = of_pod["overhead"]["anonBytes"].as_u64().expect("a number");
    assert!((20 << 10..4 * MIB).contains(&overhead), "{overhead}");
    assert!(of_pod["overhead"]["cpuNs"].as_u64().expect("a number") > 0);
    let everything_is_v2 = hierarchy("memory").is_none() && hierarchy("cpu").is_none();
    assert_eq!(of_pod["cpuPressurePercent"].is_number(), everything_is_v2, "{of_pod}");
    if everything_is_v2 {
        assert!(of_pod["readBytes"].is_number(), "{of_pod}");
    }

    let since_the_start = items(&host, &["--window", "0", "busy"]);
    assert!(since_the_start[0]["window"].is_null() && millis(&since_the_start[0]["containers"][0]["usage"]) >= 20);
}

#[test]
fn tables_are_sorted_and_read_like_kubectls() {
    let host = Host::new();
    let held = |mib: u32| {
        let volume = json!({"volumeMounts": [{"name": "m", "mountPath": "/m"}]});
        json!({
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}],
            "containers": [container("holder", &format!("dd if=/dev/zero of=/m/f bs=1048576 count={mib} 2>/dev/null; echo full; exec sleep 100000"), volume), sleeper("other")],
        })
    };
    for (name, mib) in [("a", 4), ("b", 24), ("c", 12)] {
        host.run(name, &manifest(name, held(mib))).wait_log("holder", "full");
    }
    let by_name = host.ok(&["top", "pods"]).out();
    assert_eq!(rows(&by_name)[0], ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    let names = |text: &str| rows(text).into_iter().map(|row| row[0].to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&by_name)[1..], ["a", "b", "c"]);
    assert_eq!(names(&host.ok(&["top", "--sort", "memory", "--no-headers"]).out()), ["b", "c", "a"]);
    let b = rows(&by_name)[2][2].strip_suffix("Mi").and_then(|n| n.parse::<u32>().ok());
    assert!(b.is_some_and(|mib| (24..40).contains(&mib)), "{by_name}");

    let each = host.ok(&["top", "pod", "b", "--containers", "--sort", "memory"]).out();
    assert_eq!(rows(&each)[0], ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]);
    assert_eq!(rows(&each)[1..].iter().map(|row| &row[..2]).collect::<Vec<_>>(), [["b", "holder"], ["b", "other"]]);
    let wide = host.ok(&["top", "-A", "-o", "wide"]).out();
    let wide = rows(&wide);
    assert_eq!(wide[0].len(), 15, "{wide:?}");
    assert!(wide.iter().all(|row| row.len() == 15), "{wide:?}");
    assert_eq!(wide[1][..2], ["default", "a"]);
    if hierarchy("memory").is_some() {
        assert_eq!(wide[1][8..11], ["-", "-", "-"], "there is no pressure on v1");
    }
}

#[test]
fn pods_that_do_not_run_are_named_or_left_out() {
    let host = Host::new();
    let done = host.run("done", &manifest("done", json!({"containers": [container("c", "exit 0", json!({}))]})));
    done.wait_phase("Succeeded");
    wait_for("its keeper is gone", || {
        host.husk(&["top", "done"]).err().contains("pod done does not run").then_some(())
    });
    let output = host.husk(&["top", "done", "nobody"]);
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("nobody"), "{output}");
    let output = host.ok(&["top"]);
    assert!(output.out().is_empty() && output.err().contains("no pods that run in namespace default"), "{output}");
    for args in [&["top", "--sort", "age"][..], &["top", "-w", "--interval", "1ms"], &["top", "done", "-A"]] {
        assert_eq!(host.husk(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn a_pod_that_ends_while_it_is_watched_is_no_error() {
    let host = Host::new();
    host.run("stays", &manifest("stays", json!({"containers": [sleeper("c")]})));
    let goes = host.run("goes", &manifest("goes", json!({"containers": [sleeper("c")]})));
    let mut watcher = Command::new(env!("CARGO_BIN_EXE_husk"))
        .args(["top", "--watch", "--interval", "100ms", "--no-headers"])
        .env("HUSK_ROOT", &host.root)
        .env("HUSK_STATE", &host.state)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start husk top");
    let mut lines = BufReader::new(watcher.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("goes ")), "it is shown");
    goes.delete(&["--force"]);
    let mut last = Vec::new();
    // Two rounds without it: it is gone, and the watching goes on.
    let gone = lines.any(|line| {
        last.push(line.starts_with("stays "));
        last.ends_with(&[true, true])
    });
    assert!(gone, "the watching ended");
    watcher.kill().expect("end it");
    let output = watcher.wait_with_output().expect("wait for it");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
