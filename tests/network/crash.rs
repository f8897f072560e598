//! Whoever is killed leaves nothing that gc does not take.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::common::netns::sh;
use super::common::outside::alive;
use super::common::wait_for;
use super::world::{HOST, addresses, ask, ask_from, greeter, try_ask, world};

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill it");
    wait_for("its end", || (!alive(pid)).then_some(()));
}

#[test]
fn a_sandbox_that_is_made_anew_has_the_addresses_ports_and_names_of_the_lost_one() {
    let (host, outside) = world();
    let mut one: serde_json::Value =
        serde_json::from_str(&greeter("one", json!({"hostPort": 8080}))).expect("a manifest");
    one["spec"]["restartPolicy"] = json!("Always");
    let one = host.run("one", &one.to_string());
    let two = host.run("two", &greeter("two", json!({})));
    ask(&format!("{HOST}:8080"));
    let before = addresses(&one);
    for attempt in 1..=2 {
        kill(Pid::from_raw(one.pause()), Signal::SIGKILL).expect("kill pause");
        wait_for("another sandbox", || one.status().sandbox.filter(|s| s.attempt == attempt && !s.ended));
        // The second time the container waits for its back-off.
        if attempt == 1 {
            one.wait_container("c", "runs again", |c| c["restartCount"] == 1 && c["state"]["running"].is_object());
            for address in [format!("{HOST}:8080"), "127.0.0.1:8080".into(), before[0].clone(), before[1].clone()] {
                assert!(ask(&address).starts_with("hello one"), "from the host to {address}");
            }
            assert!(outside.within(|| ask(&format!("{HOST}:8080"))).starts_with("hello one"));
            assert!(ask_from(&two, "one").starts_with("hello one"), "others find it by its name");
            assert!(ask_from(&two, &before[0]).starts_with("hello one"));
            let said = ask_from(&one, "two");
            assert!(said.starts_with("hello two") && said.contains(&before[0]), "it finds others: {said}");
        }
        assert_eq!(addresses(&one), before);
    }
    assert_eq!(leases(&host.root), 2);
    let check = host.husk(&["network", "check"]);
    assert_eq!(check.code, Some(0), "{check}");
    one.delete(&["--force"]);
    assert_eq!(leases(&host.root), 1);
    assert_eq!([try_ask("127.0.0.1:8080"), try_ask(&format!("{HOST}:8080"))], [None, None]);
}

fn leases(root: &std::path::Path) -> usize {
    std::fs::read_dir(root.join("network/leases")).map_or(0, Iterator::count)
}

#[test]
fn a_killed_keeper_leaves_what_gc_takes() {
    let (host, _outside) = world();
    host.run("one", &greeter("one", json!({"hostPort": 8080})));
    ask(&format!("{HOST}:8080"));
    end(host.pod("one").keeper());
    assert_eq!(leases(&host.root), 1);
    host.ok(&["gc"]);
    assert_eq!(leases(&host.root), 0);
    assert_eq!(sh("nft list ruleset"), "");
    assert_eq!(sh("ls /proc/sys/net/ipv4/conf | grep -c 'hv\\|husk' || true").trim(), "0");
    assert_eq!(host.left_behind(), ["interface up0"], "only the test's own");
}

#[test]
fn a_port_of_a_dead_pod_is_the_next_ones() {
    let (host, _outside) = world();
    host.run("one", &greeter("one", json!({"hostPort": 8080})));
    end(host.pod("one").keeper());
    host.run("two", &greeter("two", json!({"hostPort": 8080})));
    assert!(ask(&format!("{HOST}:8080")).starts_with("hello two"));
    host.ok(&["gc"]);
    assert!(ask(&format!("{HOST}:8080")).starts_with("hello two"), "gc takes what is the dead one's alone");
    host.ok(&["network", "check"]);
}

#[test]
fn a_pod_that_never_restarts_gives_all_back_when_its_pause_is_killed() {
    let (host, _outside) = world();
    let mut text: serde_json::Value = serde_json::from_str(&greeter("one", json!({"hostPort": 8080}))).expect("JSON");
    text["spec"]["restartPolicy"] = json!("Never");
    let pod = host.run("one", &text.to_string());
    ask(&format!("{HOST}:8080"));
    end(pod.pause());
    pod.wait_phase("Failed");
    wait_for("its lease to be gone", || (leases(&host.root) == 0).then_some(()));
    assert_eq!(try_ask(&format!("{HOST}:8080")), None);
    // The pod is still listed, and its port is another's.
    host.run("two", &greeter("two", json!({"hostPort": 8080})));
    assert!(ask(&format!("{HOST}:8080")).starts_with("hello two"));
    host.ok(&["network", "check"]);
    // The kernel takes a dead namespace apart in its own time.
    wait_for("one link, that of the pod that runs", || {
        (sh("ls /proc/sys/net/ipv4/conf | grep -c ^hv").trim() == "1").then_some(())
    });
}

#[test]
fn whoever_is_killed_during_a_start_leaves_nothing() {
    let (host, _outside) = world();
    for round in 0..12_u64 {
        let job = host.job(&["run", "-"]).stdin(greeter("one", json!({"hostPort": 8080}))).start();
        let pid = job.pid;
        // Somewhere in the start; each round at another place.
        std::thread::sleep(std::time::Duration::from_micros(1500 + 2500 * round));
        if alive(pid) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill it");
        }
        drop(job.finish());
        let output = host.husk(&["delete", "pod", "one", "--force", "--ignore-not-found"]);
        assert_eq!(output.code, Some(0), "{output}");
        host.ok(&["gc"]);
        assert_eq!(leases(&host.root), 0, "round {round}");
        assert_eq!(sh("nft list ruleset"), "", "round {round}");
        assert_eq!(try_ask(&format!("{HOST}:8080")), None);
    }
    assert_eq!(host.left_behind(), ["interface up0"], "only the test's own");
}
