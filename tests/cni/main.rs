//! Pods in networks of others: with the real plugins of Debian's `containernetworking-plugins`, and with plugins that no one would want.
//!
//! Each test is in a network namespace of its own, which plays the host: nothing here touches the machine's own network.

#[path = "../common/mod.rs"]
mod common;

mod hostile;
mod names;
mod plugins;
mod verbs;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use common::run::{Job, Output};
use common::{Host, Pod, scaled};

/// Where Debian puts the plugins.
const REAL: &str = "/usr/lib/cni";

/// A husk whose pods are attached by plugins.
struct Network {
    host: Host,
    conf_dir: PathBuf,
    plugin_dir: PathBuf,
    config: String,
}

impl Network {
    /// A fresh host in a fresh network namespace, without a network yet. `timeout_seconds` is what plugins get.
    fn new(timeout_seconds: u64) -> Network {
        // Of this thread alone, and of what it starts.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
        tool("ip", &["link", "set", "lo", "up"]);
        let mut host = Host::new();
        // The bridge plugin leaves its bridge to the next pod, and portmap the tables of iptables.
        host.stays = &["interface br0", "nftables table filter", "nftables table nat"];
        let (conf_dir, plugin_dir) = (host.dir.join("net.d"), host.dir.join("plugins"));
        for dir in [&conf_dir, &plugin_dir] {
            fs::create_dir(dir).expect("make a directory of the test");
        }
        // Where everything takes longer, plugins do, too; but some tests wait for the end of it.
        let timeout_seconds = scaled(Duration::from_secs(timeout_seconds)).as_secs().min(timeout_seconds * 4);
        let config = json!({"network": {"mode": "cni", "cni": {
            "confDir": conf_dir, "binDirs": [plugin_dir, REAL], "timeoutSeconds": timeout_seconds,
        }}});
        let config = host.file("config.yaml", config.to_string());
        Network { host, conf_dir, plugin_dir, config }
    }

    /// Configures a network named `pods` in file `10-pods.conflist`.
    fn conflist(&self, version: &str, plugins: Value) {
        let list = json!({"cniVersion": version, "name": "pods", "plugins": plugins});
        fs::write(self.conf_dir.join("10-pods.conflist"), list.to_string()).expect("write a network");
    }

    /// The `bridge` plugin with addresses of 10.88.0.0/24 and fd88::/64, whose leases are kept with the test.
    fn bridge(&self, more: Value) -> Value {
        let mut all = json!({
            "type": "bridge", "bridge": "br0", "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": self.host.dir.join("leases"),
                "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        });
        common::merge(&mut all, more);
        all
    }

    /// Addresses that are taken.
    fn leases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.dir.join("leases/pods")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.retain(|name| name.starts_with(|c: char| c.is_ascii_hexdigit()) && name.contains(['.', ':']));
        names.sort();
        names
    }

    /// A plugin that is a shell script. What it was called with stands in `$log`, one line a call; what it has read, in `$input`.
    fn script(&self, name: &str, body: &str) {
        let (log, path) = (self.log(name), self.plugin_dir.join(name));
        let text = format!(
            "#!/bin/sh\nlog={0}\nnumber=$(cat $log 2>/dev/null | wc -l)\ninput={0}.$number\ncat >$input\n\
             echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" >>$log\n{body}\n",
            log.display()
        );
        // Written elsewhere: a program that somebody has open for writing cannot be executed.
        let new = self.plugin_dir.join(".new");
        fs::write(&new, text).expect("write a plugin");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("make it a program");
        fs::rename(&new, path).expect("put it in place");
    }

    fn log(&self, plugin: &str) -> PathBuf {
        self.host.dir.join(format!("{plugin}.log"))
    }

    /// How a scripted plugin was called so far: the verbs.
    fn calls(&self, plugin: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log(plugin)).unwrap_or_default();
        text.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    /// The words of a call.
    fn call(&self, plugin: &str, number: usize) -> Vec<String> {
        let text = fs::read_to_string(self.log(plugin)).expect("the plugin was called");
        let line = text.lines().nth(number).unwrap_or_else(|| panic!("no call {number} in {text}"));
        line.split(' ').map(str::to_owned).collect()
    }

    /// What a scripted plugin has read in a call.
    fn input(&self, plugin: &str, number: usize) -> Value {
        let path = format!("{}.{number}", self.log(plugin).display());
        serde_json::from_slice(&fs::read(path).expect("the plugin was called")).expect("the configuration is JSON")
    }

    fn job(&self, args: &[&str]) -> Job {
        self.host.job(args).env("HUSK_CONFIG", &self.config)
    }

    fn try_run(&self, manifest: &str) -> Output {
        self.job(&["run", "-"]).stdin(manifest).finish()
    }

    #[track_caller]
    fn run(&self, name: &str, manifest: &str) -> Pod<'_> {
        let output = self.try_run(manifest);
        assert_eq!(output.code, Some(0), "run of {name} failed: {output}\n{manifest}");
        self.host.pod(name)
    }

    /// A run that must fail, and leave nothing; what was said.
    #[track_caller]
    fn refused(&self, manifest: &str) -> String {
        let output = self.try_run(manifest);
        assert_eq!(output.code, Some(1), "the run was expected to fail with 1: {output}");
        assert!(self.host.pod_dirs().is_empty(), "a pod is left");
        output.err()
    }

    /// Nothing is kept about any pod any more.
    fn forgotten(&self) -> bool {
        fs::read_dir(self.host.root.join("cni")).into_iter().flatten().count() == 0
    }
}

/// The addresses of a pod as its status has them.
fn ips(pod: &Pod<'_>) -> Vec<String> {
    let json = pod.json();
    let list = json["status"]["podIPs"].as_array().cloned().unwrap_or_default();
    list.iter().map(|entry| entry["ip"].as_str().expect("an address").to_owned()).collect()
}

/// Runs a tool of the host that must succeed, in this thread's network namespace; what it printed.
#[track_caller]
fn tool(name: &str, args: &[&str]) -> String {
    let output = Job::new(name, args).finish();
    assert_eq!(output.code, Some(0), "{name} {args:?}: {output}");
    output.out()
}

/// True where a file is a program.
fn is_there(path: &str) -> bool {
    Path::new(path).is_file()
}
