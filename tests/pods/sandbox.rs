//! What the containers of a pod share, and what they don't.

use serde_json::json;

use crate::common::outside::{alive, namespace};
use crate::common::{Host, container, manifest, sleeper, wait_for};

fn own() -> i32 {
    i32::try_from(std::process::id()).expect("a pid is positive")
}

#[test]
fn the_host_name_is_the_pods_name() {
    let host = Host::new();
    let pod = host.run("my-pod-1", &manifest("my-pod-1", json!({"containers": [sleeper("a")]})));
    assert_eq!(pod.sh("a", "hostname; cat /proc/sys/kernel/hostname"), "my-pod-1\nmy-pod-1\n");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/hostname").expect("read the host's name").trim(), "my-pod-1");
}

#[test]
fn loopback_is_up_and_shared_by_the_pod_alone() {
    let host = Host::new();
    let spec = json!({"containers": [container("server", "while :; do echo served | nc -l -p 7777; done", json!({})), sleeper("client")]});
    let (one, two) = (
        host.run("one", &manifest("one", spec)),
        host.run("two", &manifest("two", json!({"containers": [sleeper("client")]}))),
    );
    wait_for("an answer from the neighbour", || {
        one.try_sh("client", "nc 127.0.0.1 7777 < /dev/null").out().contains("served").then_some(())
    });
    assert_ne!(
        two.try_sh("client", "nc 127.0.0.1 7777 < /dev/null").code,
        Some(0),
        "another pod's loopback is another one"
    );
    assert!(std::net::TcpStream::connect("127.0.0.1:7777").is_err(), "the host's loopback is another one");
    let shown = one.sh("client", "ip addr show lo");
    assert!(shown.contains("127.0.0.1/8") && shown.contains(",UP"), "{shown}");
    assert_eq!(
        one.sh("client", "ls /sys/class/net | tr '\n' ' '").trim(),
        "eth0 lo",
        "sysfs shows the pod's interfaces, not the host's"
    );
}

#[test]
fn dev_shm_is_64_mib_and_shared_by_the_pod() {
    let host = Host::new();
    let pod = host.run("shm", &manifest("shm", json!({"containers": [sleeper("a"), sleeper("b")]})));
    pod.sh("a", "echo shared > /dev/shm/x");
    assert_eq!(pod.sh("b", "cat /dev/shm/x"), "shared\n");
    assert_eq!(pod.sh("b", "df -k /dev/shm | tail -1 | awk '{print $2}'"), "65536\n");
    assert_eq!(pod.sh("b", "stat -c %a /dev/shm"), "1777\n");
    let line = pod.sh("b", "grep ' /dev/shm ' /proc/self/mounts");
    for option in ["tmpfs", "nosuid", "nodev", "noexec"] {
        assert!(line.contains(option), "/dev/shm is {option}: {line}");
    }
    assert_ne!(
        pod.try_sh("a", "dd if=/dev/zero of=/dev/shm/big bs=1M count=65 2>&1").code,
        Some(0),
        "the size is a limit"
    );
}

#[test]
fn containers_share_net_ipc_and_uts_with_pause_and_nothing_else() {
    let host = Host::new();
    let pod = host.run("ns", &manifest("ns", json!({"containers": [sleeper("a"), sleeper("b")]})));
    let (a, b, pause) = (pod.pid("a"), pod.pid("b"), pod.pause());
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(a, kind), namespace(b, kind), "{kind} is shared");
        assert_eq!(namespace(a, kind), namespace(pause, kind), "{kind} is pause's");
        assert_ne!(namespace(a, kind), namespace(nix::unistd::gettid().as_raw(), kind), "{kind} is not the host's");
    }
    for kind in ["mnt", "pid"] {
        let all = [
            namespace(a, kind),
            namespace(b, kind),
            namespace(pause, kind),
            namespace(nix::unistd::gettid().as_raw(), kind),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "{kind} is each one's own: {all:?}");
        }
    }

    assert_eq!(
        pod.sh("a", "cat /proc/1/cmdline | tr '\\0' ' '"),
        "/bin/sleep 100000 ",
        "the container is PID 1 of its own"
    );
}

#[test]
fn a_shared_process_namespace_has_pause_as_pid_1_and_shows_the_neighbours() {
    let host = Host::new();
    let spec =
        json!({"shareProcessNamespace": true, "containers": [sleeper("a"), container("b", "sleep 4321", json!({}))]});
    let pod = host.run("shared", &manifest("shared", spec));
    let (a, b, pause) = (pod.pid("a"), pod.pid("b"), pod.pause());
    assert_eq!(namespace(a, "pid"), namespace(pause, "pid"));
    assert_eq!(namespace(b, "pid"), namespace(pause, "pid"));
    let list = pod.sh("a", "ps -o pid,args");
    assert!(list.contains("sleep 4321"), "{list}");
    assert!(pod.sh("a", "cat /proc/1/comm").contains("pause"));
    // pause defends itself: it cannot be killed or looked into by a neighbour, root or not.
    let tried = pod.try_sh("a", "kill -9 1; kill -HUP 1; cat /proc/1/mem > /dev/null 2>&1 && echo read; true");
    assert!(!tried.out().contains("read"), "{tried}");
    pod.sh("a", "usleep 100000; true");
}

#[test]
fn orphans_in_a_shared_process_namespace_are_reaped_by_pause() {
    let host = Host::new();
    let pod =
        host.run("orphans", &manifest("orphans", json!({"shareProcessNamespace": true, "containers": [sleeper("a")]})));
    pod.sh("a", "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 &) ; done");
    wait_for("no zombie and no orphan", || {
        let list = pod.sh("a", "ps -o stat,args");
        (!list.contains("sleep 0.05") && !list.lines().any(|line| line.trim_start().starts_with('Z'))).then_some(())
    });
}

#[test]
fn host_namespaces_are_the_hosts_when_asked_for() {
    let host = Host::new();
    let spec = json!({"hostNetwork": true, "hostPID": true, "hostIPC": true, "containers": [sleeper("a")]});
    let pod = host.run("node", &manifest("node", spec));
    let pid = pod.pid("a");
    for kind in ["net", "pid", "ipc"] {
        assert_eq!(namespace(pid, kind), namespace(nix::unistd::gettid().as_raw(), kind), "{kind} is the host's");
    }
    assert_ne!(namespace(pid, "mnt"), namespace(own(), "mnt"));
    assert!(pod.sh("a", "ps -o args").contains("/bin/sleep 100000"));
    pod.delete(&["--force"]);
    assert!(!alive(pid), "with the host's PID namespace the cgroup kills");
}

#[test]
fn pause_holds_little_and_can_do_nothing() {
    let host = Host::new();
    let pod = host.run("idle", &manifest("idle", json!({"containers": [sleeper("a")]})));
    let pause = pod.pause();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = crate::common::outside::status_field(pause, set);
        assert_eq!(u64::from_str_radix(&value, 16), Ok(0), "{set} of pause");
    }
    assert_eq!(crate::common::outside::status_field(pause, "NoNewPrivs"), "1");
    assert_eq!(crate::common::outside::status_field(pause, "Seccomp"), "2");
    let uids = crate::common::outside::status_field(pause, "Uid");
    assert!(uids.split_whitespace().all(|uid| uid != "0"), "pause runs as nobody of importance: {uids}");
    let resident: u64 =
        crate::common::outside::status_field(pause, "VmRSS").trim_end_matches(" kB").trim().parse().expect("a number");
    assert!(resident <= 8, "{resident} KiB resident");
    let fds = std::fs::read_dir(format!("/proc/{pause}/fd")).expect("root reads fds").count();
    assert!(fds <= 3, "pause holds {fds} descriptors");
}
