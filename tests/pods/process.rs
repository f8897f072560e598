//! The process of a container as the kernel sees it: identity, capabilities, descriptors, mounts, limits.

use serde_json::{Value, json};

use crate::common::image::Image;
use crate::common::outside::status_field;
use crate::common::{Host, Pod, container, manifest, merge, sleeper};

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE.
const DEFAULT_CAPS: u64 = 0x5fb;

fn caps(pid: i32, set: &str) -> u64 {
    u64::from_str_radix(&status_field(pid, set), 16).expect("capabilities are hexadecimal")
}

fn one<'h>(host: &'h Host, name: &str, more: Value) -> Pod<'h> {
    let mut main = sleeper("main");
    merge(&mut main, more);
    host.run(name, &manifest(name, json!({"containers": [main]})))
}

/// Runs `script` to its end in a pod of its own, and returns what it printed.
fn printed(host: &Host, name: &str, script: &str, more: Value) -> String {
    let pod = host.run(name, &manifest(name, json!({"containers": [container("main", script, more)]})));
    pod.terminated("main");
    pod.logs("main", &[])
}

#[test]
fn a_container_has_descriptors_0_to_2_and_no_other() {
    let host = Host::new();
    let pod = one(&host, "fds", json!({}));
    let mut fds: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", pod.pid("main")))
        .expect("root reads fds")
        .flatten()
        .map(|fd| fd.file_name().to_string_lossy().into_owned())
        .collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
    let inside = pod.sh("main", "for f in /proc/self/fd/*; do echo ${f##*/}; done");
    let open: Vec<&str> = inside.lines().filter(|fd| fd.parse::<u32>().is_ok_and(|fd| fd > 3)).collect();
    assert!(open.is_empty(), "exec has extra descriptors: {inside}");
    assert_eq!(printed(&host, "stdin", "read x; echo $?", json!({})), "1\n", "stdin is empty unless asked for");
}

#[test]
fn working_directories_that_lead_out_through_a_descriptor_are_refused() {
    let host = Host::new();
    for fd in [3, 5, 7, 8, 9, 12] {
        let name = format!("escape-{fd}");
        let spec = json!({"containers": [container("main", "pwd -P; ls ..", json!({"workingDir": format!("/proc/self/fd/{fd}")}))]});
        let output = host.try_run(&manifest(&name, spec));
        if output.code == Some(0) {
            let pod = host.pod(&name);
            assert_ne!(pod.terminated("main")["exitCode"], 0, "started in {}", pod.logs("main", &[]));
        }
    }
}

#[test]
fn capabilities_are_the_default_nine_and_never_inheritable_or_ambient() {
    let host = Host::new();
    let pod = one(&host, "caps", json!({}));
    let pid = pod.pid("main");
    for (set, expected) in
        [("CapInh", 0), ("CapPrm", DEFAULT_CAPS), ("CapEff", DEFAULT_CAPS), ("CapBnd", DEFAULT_CAPS), ("CapAmb", 0)]
    {
        assert_eq!(caps(pid, set), expected, "{set}");
    }
    let exec = pod.sh("main", "grep Cap /proc/self/status | awk '{print $2}' | tr '\\n' ' '");
    assert_eq!(
        exec.trim(),
        format!("{0:016x} {1:016x} {1:016x} {1:016x} {0:016x}", 0, DEFAULT_CAPS),
        "exec has the same five sets"
    );
}

#[test]
fn capabilities_are_dropped_first_and_then_added() {
    let host = Host::new();
    let pod = one(&host, "caps", json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}}));
    assert_eq!(caps(pod.pid("main"), "CapEff"), 1 << 12);
    assert_eq!(caps(pod.pid("main"), "CapBnd"), 1 << 12);
    let other = one(&host, "chown", json!({"securityContext": {"capabilities": {"drop": ["CHOWN"]}}}));
    assert_eq!(caps(other.pid("main"), "CapEff"), DEFAULT_CAPS & !1);
}

#[test]
fn another_user_has_no_effective_capability() {
    let host = Host::new();
    let pod = one(&host, "user", json!({"securityContext": {"runAsUser": 1000}}));
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(caps(pod.pid("main"), set), 0, "{set}");
    }
}

#[test]
fn user_group_and_supplementary_groups_are_as_asked() {
    let host = Host::new();
    let spec = json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000, 5000]},
        "containers": [sleeper("a"), container("b", "sleep 10000", json!({"securityContext": {"runAsUser": 7}}))],
    });
    let pod = host.run("ids", &manifest("ids", spec));
    let mut groups: Vec<u32> =
        status_field(pod.pid("a"), "Groups").split_whitespace().map(|g| g.parse().expect("a gid")).collect();
    groups.sort_unstable();
    assert_eq!(status_field(pod.pid("a"), "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(status_field(pod.pid("a"), "Gid"), "3000\t3000\t3000\t3000");
    // 2002 comes from the image's own /etc/group, which the Merge policy adds.
    assert!(
        groups.starts_with(&[]) && groups.contains(&4000) && groups.contains(&5000) && groups.contains(&2002),
        "{groups:?}"
    );
    assert_eq!(pod.sh("b", "id -u; id -g"), "7\n3000\n");
    let user = json!({"securityContext": {"runAsUser": 1000}});
    let text = printed(&host, "stdout", "echo to stdout > /dev/stdout; echo to stderr > /dev/stderr", user);
    assert!(text.contains("to stdout"), "a user that is not root opens /dev/stdout: {text}");
}

#[test]
fn the_user_of_the_image_is_looked_up_in_the_image() {
    let host = Host::new();
    host.load(
        &Image::on_busybox("husk.test/named:1")
            .set("User", json!("user"))
            .set("WorkingDir", json!("/home/user"))
            .write(&host.dir.join("i.tar")),
    );
    let pod = one(&host, "named", json!({"image": "husk.test/named:1"}));
    assert_eq!(pod.sh("main", "id -u; id -g; pwd"), "1000\n1001\n/home/user\n");
}

#[test]
fn run_as_non_root_refuses_root() {
    let host = Host::new();
    let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [sleeper("main")]});
    let output = host.try_run(&manifest("root", spec));
    assert!(output.code == Some(1) && output.err().contains("runAsNonRoot"), "{output}");
    host.assert_untouched();
}

#[test]
fn environment_directory_and_umask_are_as_asked() {
    let host = Host::new();
    let text = printed(
        &host,
        "env",
        "echo $A; echo $B; echo $C; pwd; umask; echo $(id -u)",
        json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}, {"name": "C", "value": "$$(A) $(NOPE)"}], "workingDir": "/made/on/demand"}),
    );
    assert_eq!(text, "1\n12\n$(A) $(NOPE)\n/made/on/demand\n0022\n0\n");
}

#[test]
fn command_and_args_override_entrypoint_and_cmd_apart() {
    let host = Host::new();
    host.load(
        &Image::on_busybox("husk.test/echo:1")
            .set("Entrypoint", json!(["/bin/echo", "entry"]))
            .set("Cmd", json!(["cmd"]))
            .write(&host.dir.join("i.tar")),
    );
    let main = |more: Value| {
        let mut main = json!({"name": "main", "image": "husk.test/echo:1"});
        merge(&mut main, more);
        main
    };
    for (name, more, expected) in [
        ("none", json!({}), "entry cmd\n"),
        ("args", json!({"args": ["x", "$(HOSTISH)"], "env": [{"name": "HOSTISH", "value": "y"}]}), "entry x y\n"),
        ("command", json!({"command": ["/bin/echo", "only"]}), "only\n"),
        ("both", json!({"command": ["/bin/echo", "both"], "args": ["a"]}), "both a\n"),
    ] {
        let pod = host.run(name, &manifest(name, json!({"containers": [main(more)]})));
        assert_eq!(pod.terminated("main")["exitCode"], 0);
        assert_eq!(pod.logs("main", &[]), expected, "{name}");
    }
}

#[test]
fn proc_and_sys_are_masked_and_read_only_where_they_must_be() {
    let host = Host::new();
    let pod = one(&host, "masked", json!({}));
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/latency_stats",
        "/proc/interrupts",
    ] {
        let text = pod.sh("main", &format!("[ ! -e {path} ] || head -c 100 {path} | wc -c"));
        assert!(text.trim().is_empty() || text.trim() == "0", "{path} gives {text}");
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"] {
        assert_eq!(pod.sh("main", &format!("ls {path} 2>/dev/null | wc -l")).trim(), "0", "{path}");
    }
    for path in
        ["/proc/sys/kernel/domainname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"]
    {
        let tried = pod.try_sh("main", &format!("[ ! -e {path} ] && exit 9; echo h > {path}"));
        assert_ne!(tried.code, Some(0), "{path} can be written");
    }
    assert_ne!(pod.try_sh("main", "mount -o remount,rw /sys").code, Some(0));
    assert_ne!(pod.try_sh("main", "umount /proc/sys").code, Some(0));
}

#[test]
fn dev_has_the_usual_nodes_and_no_disk() {
    let host = Host::new();
    let pod = one(&host, "dev", json!({}));
    let list = pod.sh("main", "ls /dev");
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout",
        "stderr",
    ] {
        assert!(list.lines().any(|line| line == name), "/dev/{name} is missing: {list}");
    }
    assert!(
        !list.lines().any(|line| line.starts_with("vd") || line.starts_with("sd") || line == "mem" || line == "kmsg"),
        "{list}"
    );
    assert_eq!(
        pod.sh("main", "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c"),
        "3\n5\n"
    );
    assert_ne!(pod.try_sh("main", "mknod /tmp/disk b 254 0").code, Some(0), "MKNOD is not among the defaults");
}

#[test]
fn oom_score_follows_the_quality_of_service_as_far_as_the_host_allows() {
    let host = Host::new();
    let score = |pod: &Pod| -> i32 {
        std::fs::read_to_string(format!("/proc/{}/oom_score_adj", pod.pid("main")))
            .expect("read oom_score_adj")
            .trim()
            .parse()
            .expect("a number")
    };
    assert_eq!(score(&one(&host, "besteffort", json!({}))), 1000);
    let burstable = score(&one(&host, "burstable", json!({"resources": {"requests": {"memory": "64Mi"}}})));
    assert!((3..=999).contains(&burstable), "{burstable}");
    let guaranteed =
        score(&one(&host, "guaranteed", json!({"resources": {"limits": {"memory": "64Mi", "cpu": "100m"}}})));
    assert!(
        guaranteed == -997 || guaranteed == 0,
        "-997, or what a host without CAP_SYS_RESOURCE allows: {guaranteed}"
    );
}

#[test]
fn a_read_only_root_can_be_read_and_volumes_written() {
    let host = Host::new();
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "main", "image": crate::common::BUSYBOX, "command": ["/bin/sleep", "10000"],
            "securityContext": {"readOnlyRootFilesystem": true}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
    });
    let pod = host.run("ro", &manifest("ro", spec));
    assert_ne!(pod.try_sh("main", "touch /x").code, Some(0));
    assert_ne!(pod.try_sh("main", "touch /bin/x").code, Some(0));
    pod.sh("main", "touch /v/x && touch /dev/shm/x");
}

#[test]
fn a_privileged_container_has_everything_the_host_gives() {
    let host = Host::new();
    let pod = one(&host, "priv", json!({"securityContext": {"privileged": true}}));
    assert_eq!(
        caps(pod.pid("main"), "CapEff"),
        caps(i32::try_from(std::process::id()).expect("a pid is positive"), "CapBnd")
    );
    assert_eq!(caps(pod.pid("main"), "CapInh"), 0);
    assert_eq!(caps(pod.pid("main"), "CapAmb"), 0);
    pod.sh("main", "mkdir -p /tmp/m && mount -t tmpfs t /tmp/m && umount /tmp/m");
    pod.sh("main", "hostname other && hostname priv");
}

#[test]
fn privilege_escalation_is_off_when_asked() {
    let host = Host::new();
    let pod = one(&host, "nnp", json!({"securityContext": {"allowPrivilegeEscalation": false}}));
    assert_eq!(status_field(pod.pid("main"), "NoNewPrivs"), "1");
    assert_eq!(pod.sh("main", "grep NoNewPrivs /proc/self/status | tr -d '\\t'"), "NoNewPrivs:1\n");
}

#[test]
fn a_terminal_is_a_terminal() {
    let host = Host::new();
    let text = printed(
        &host,
        "tty",
        "tty; test -t 0 && test -t 1 && test -t 2 && echo all three; stty -a | head -1",
        json!({"tty": true}),
    );
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    assert!(text.contains("all three"), "{text}");
    let pod = one(&host, "exec-tty", json!({}));
    let output = host.husk(&["exec", "-t", "exec-tty", "--", "/bin/sh", "-c", "test -t 1 && echo yes"]);
    assert!(output.out().contains("yes") || output.err().contains("terminal"), "{output}");
    drop(pod);
}

#[test]
fn safe_sysctls_are_set_in_the_pod_and_unsafe_ones_refused() {
    let host = Host::new();
    let spec = |name: &str, value: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": value}]}, "containers": [sleeper("main")]});
    let pod = host.run("sysctl", &manifest("sysctl", spec("net.ipv4.ip_unprivileged_port_start", "99")));
    assert_eq!(pod.sh("main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "99\n");
    for (name, value) in [
        ("kernel.core_pattern", "x"),
        ("net.ipv4.ip_local_port_range", "1+kernel.core_pattern=x"),
        ("net.ipv4.../../kernel/core_pattern", "x"),
    ] {
        let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read core_pattern");
        let output = host.try_run(&manifest("bad", spec(name, value)));
        assert_eq!(output.code, Some(1), "{name}={value}: {output}");
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read core_pattern"), before);
    }
}

#[test]
fn exec_exits_with_the_codes_of_its_command() {
    let host = Host::new();
    let pod = one(&host, "exec", json!({}));
    for code in [0, 1, 42, 126, 127, 255] {
        assert_eq!(pod.try_sh("main", &format!("exit {code}")).code, Some(code));
    }
    assert_eq!(pod.try_sh("main", "kill -9 $$").code, Some(137));
    let exec = |argv: &[&str]| {
        let mut args = vec!["exec", "exec", "-c", "main", "--"];
        args.extend(argv);
        host.husk(&args)
    };
    assert_eq!(exec(&["/no/such/program"]).code, Some(127));
    assert_eq!(exec(&["/etc/data"]).code, Some(126));
    let output = host.husk(&["exec", "exec", "-c", "nobody", "--", "true"]);
    assert!(output.code == Some(1) || output.code == Some(125), "{output}");
    let cat = host.job(&["exec", "-i", "exec", "--", "/bin/cat"]).stdin("through stdin").finish();
    assert_eq!(cat.out(), "through stdin");
    assert_eq!(pod.try_sh("main", "echo out; echo err >&2").err(), "err\n");
}
