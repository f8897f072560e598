//! Every resource field of a pod, enforced: a program in a container asks for more than it may, and the kernel says no. What is measured is counted by
//! the kernel in CPU time, pages and tasks, never in seconds of a clock, so that slow and busy machines give the same answer.

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod classes;
mod client;
mod cpu;
mod cpuset;
mod hugepages;
mod memory;
mod pids;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use common::outside::hierarchy;

/// True where `controller` has a v1 hierarchy of its own.
fn v1(controller: &str) -> bool {
    hierarchy(controller).is_some()
}

/// Content of a cgroup file without the white space around it.
fn value(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// A number in a file of `name value` lines.
fn counter(dir: &Path, file: &str, name: &str) -> u64 {
    let text = value(dir, file);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
}

/// A container's cgroup, and its pod's.
fn dirs(pod: &common::Pod<'_>, container: &str, controller: &str) -> (PathBuf, PathBuf) {
    let own = pod.cgroup(container, controller);
    let above = own.parent().expect("a container has a pod above it").to_owned();
    (own, above)
}

/// A manifest with annotations.
fn annotated(name: &str, annotations: Value, spec: Value) -> String {
    let mut pod: Value = serde_json::from_str(&common::manifest(name, spec)).expect("JSON");
    pod["metadata"]["annotations"] = annotations;
    pod.to_string()
}

/// A container of the test image that runs `script` with these `resources`.
fn container(name: &str, script: &str, resources: Value) -> Value {
    common::container(name, script, json!({ "resources": resources }))
}
