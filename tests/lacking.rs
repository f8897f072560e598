//! Kernels that lack something husk needs: a clear error, and nothing left behind. `scripts/vm lacking` boots one; a host has it all.

mod common;

use common::skip::skip;
use common::{Host, container, manifest, sleeper};
use nix::sys::utsname::uname;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

/// The file of a kernel module, when this kernel has it as one that is not loaded, and we may hide it.
fn module(name: &str) -> Option<PathBuf> {
    std::env::var_os("HUSK_TEST_VM")?;
    let release = uname().ok()?.release().to_string_lossy().into_owned();
    let output = Command::new("modinfo").args(["-n", "-k", &release, name]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let loaded = std::fs::read_to_string("/proc/modules").ok()?.lines().any(|l| l.starts_with(&format!("{name} ")));
    (path.is_absolute() && !loaded).then_some(path)
}

#[test]
fn a_kernel_without_overlayfs_is_told_from_a_broken_image() {
    let Some(file) = module("overlay") else { skip!("this kernel has overlayfs, and it cannot be taken away") };
    let hidden = file.with_extension("hidden");
    let host = Host::new();
    std::fs::rename(&file, &hidden).expect("hide the module");
    let output = host.try_run(&manifest("lacking", json!({"containers": [sleeper("main")]})));
    std::fs::rename(&hidden, &file).expect("bring the module back");
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("modprobe overlay") && output.err().lines().count() == 1, "{output}");
    host.assert_empty();
    // With the module the same host runs the same pod.
    host.run("lacking", &manifest("lacking", json!({"containers": [sleeper("main")]}))).delete(&["--force"]);
}

#[test]
fn a_kernel_without_veth_is_told_to_whoever_runs_a_pod_and_to_a_client() {
    if std::env::var_os("HUSK_TEST_VM").is_some() {
        // Loaded by a test before this one, and nobody's any more.
        let _ = Command::new("modprobe").args(["-r", "veth"]).status();
    }
    let Some(file) = module("veth") else { skip!("this kernel has veth, and it cannot be taken away") };
    let hidden = file.with_extension("hidden");
    let host = Host::new();
    std::fs::rename(&file, &hidden).expect("hide the module");
    let output = host.try_run(&manifest("lacking", json!({"containers": [sleeper("main")]})));
    let status = host.job(&["cri", "Status"]).stdin("{}").finish();
    std::fs::rename(&hidden, &file).expect("bring the module back");
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("load the module veth") && output.err().lines().count() == 1, "{output}");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_else(|e| panic!("{e}: {status}"));
    let conditions = status["status"]["conditions"].as_array().expect("conditions");
    let network = conditions.iter().find(|c| c["type"] == "NetworkReady").expect("NetworkReady");
    assert_eq!((&network["status"], &network["reason"]), (&json!(false), &json!("BridgeNotReady")), "{network}");
    assert!(network["message"].to_string().contains("load the module veth"), "{network}");
    // The bridge was made before the link could not be.
    host.ok(&["gc"]);
    host.assert_untouched();
    host.run("lacking", &manifest("lacking", json!({"containers": [sleeper("main")]}))).delete(&["--force"]);
}

#[test]
fn a_limit_without_its_controller_is_refused_and_a_pod_without_limits_runs() {
    let controllers = husk::cgroup::Hierarchies::detect().expect("cgroups");
    if controllers.offers("memory") {
        skip!("this kernel has a memory controller");
    }
    let host = Host::new();
    let limited = container("main", "sleep 1000", json!({"resources": {"limits": {"memory": "64Mi"}}}));
    let output = host.try_run(&manifest("lacking", json!({"containers": [limited]})));
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("no memory controller") && output.err().lines().count() == 1, "{output}");
    assert!(output.err().contains("spec.containers[0].resources.limits.memory: "), "{output}");
    host.assert_untouched();
    if !controllers.offers("pids") {
        // The number that every pod has is ours, and nobody is refused for it; one that was asked for is another thing.
        let mut counted: serde_json::Value =
            serde_json::from_str(&manifest("lacking", json!({"containers": [sleeper("main")]}))).expect("JSON");
        counted["metadata"]["annotations"] = json!({"husk.dev/pids-max": "100"});
        let output = host.try_run(&counted.to_string());
        assert!(output.err().contains("metadata.annotations[\"husk.dev/pids-max\"]: "), "{output}");
        host.assert_untouched();
    }
    host.run("lacking", &manifest("lacking", json!({"containers": [sleeper("main")]}))).delete(&["--force"]);
}

#[test]
fn without_any_cgroup_the_way_to_one_is_shown() {
    if std::env::var_os("HUSK_TEST_VM").is_none() {
        skip!("the host's cgroups are not ours to unmount");
    }
    let host = Host::new();
    let spec = host.file("pod.json", manifest("lacking", json!({"containers": [sleeper("main")]})));
    let husk = env!("CARGO_BIN_EXE_husk");
    let script = format!(
        "umount -l /sys/fs/cgroup && exec {husk} --root {} --state {} run {spec}",
        host.root.display(),
        host.state.display()
    );
    let output = common::run::Job::new("unshare", &["--mount", "sh", "-c", &script]).finish();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.err().contains("mount -t cgroup2"), "{output}");
    host.assert_untouched();
}
