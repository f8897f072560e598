//! What plugins are called with, and when.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::{manifest, scaled, sleeper, wait_for};
use crate::{Network, ips};

/// Answers ADD with an address, and passes everything else.
const GOOD: &str = r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.9.0.7/24","interface":0}],"x":1}'"#;

fn pod(name: &str) -> String {
    manifest(name, json!({"containers": [sleeper("c")]}))
}

#[test]
fn a_chain_hands_results_on_and_is_taken_back_in_reverse() {
    let net = Network::new(60);
    net.script("first", &format!("echo $CNI_COMMAND first >>{}/order\n{GOOD}", net.host.dir.display()));
    net.script("second", &format!(
        "echo $CNI_COMMAND second >>{}/order\n[ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.9.0.8/24\"}}]}}'",
        net.host.dir.display()
    ));
    net.conflist("1.0.0", json!([{"type": "first", "mtu": 1400}, {"type": "second"}]));
    let pod = net.run("chained", &pod("chained"));
    assert_eq!(ips(&pod), ["10.9.0.8"], "the last plugin's word counts");
    let pause = pod.pause();
    let called = net.call("first", 0);
    let (id, netns) = (pod.record().id, format!("/proc/{pause}/ns/net"));
    assert_eq!(called[..4], ["ADD".to_owned(), id.clone(), netns.clone(), "eth0".to_owned()]);
    let uid = pod.record().pod.metadata.uid.expect("a uid");
    assert_eq!(
        called[4],
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=chained;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
        )
    );
    assert_eq!(net.input("first", 0), json!({"cniVersion": "1.0.0", "name": "pods", "type": "first", "mtu": 1400}));
    let previous = &net.input("second", 0)["prevResult"];
    assert_eq!((&previous["ips"][0]["address"], &previous["x"]), (&json!("10.9.0.7/24"), &json!(1)));
    pod.delete(&[]);
    // With the namespace, as it is asked before pause goes, and with what the last plugin has answered.
    assert_eq!(net.call("first", 1)[..3], ["DEL".to_owned(), id, netns]);
    assert_eq!(net.input("first", 1)["prevResult"]["ips"][0]["address"], "10.9.0.8/24");
    let order = fs::read_to_string(net.host.dir.join("order")).expect("they were called");
    assert_eq!(order, "ADD first\nADD second\nDEL second\nDEL first\n");
    assert!(net.forgotten());
}

#[test]
fn del_is_called_without_a_namespace_when_the_pod_was_killed() {
    let net = Network::new(60);
    net.script("only", GOOD);
    net.conflist("1.0.0", json!([{"type": "only"}]));
    let pod = net.run("killed", &pod("killed"));
    let (keeper, pause) = (pod.keeper(), pod.pause());
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill keeper");
    wait_for("the end of pause", || (!Path::new(&format!("/proc/{pause}")).exists()).then_some(()));
    net.host.ok(&["gc"]);
    assert_eq!(net.calls("only"), ["ADD", "DEL"]);
    assert_eq!(net.call("only", 1)[2], "", "a namespace was named that is gone");
    assert_eq!(net.input("only", 1)["prevResult"]["ips"][0]["address"], "10.9.0.7/24");
    assert!(net.forgotten());
}

#[test]
fn del_is_tried_again_until_it_succeeds_also_after_a_reboot() {
    let net = Network::new(60);
    let broken = net.host.dir.join("broken");
    fs::write(&broken, "").expect("write a file");
    let refuse = format!(
        "if [ $CNI_COMMAND = DEL ] && [ -e {} ]; then echo '{{\"code\":101,\"msg\":\"the database is away\"}}'; exit 1; fi\n{GOOD}",
        broken.display()
    );
    net.script("only", &refuse);
    net.conflist("1.0.0", json!([{"type": "only"}]));
    let pod = net.run("stubborn", &pod("stubborn"));
    let id = pod.record().id;
    pod.delete(&[]);
    assert!(net.host.pod_dirs().is_empty(), "the pod's end hangs on a plugin");
    assert!(net.host.root.join("cni").join(&id).exists(), "what is to be taken back was forgotten");
    let before = net.calls("only").len();
    let said = net.host.refused(&["gc"]);
    assert!(said.contains("the database is away") && said.contains("code 101"), "{said}");
    assert!(net.calls("only").len() > before);
    fs::remove_file(&broken).expect("repair the plugin");
    // The configuration may have gone meanwhile, and the records did, as after a reboot.
    fs::remove_file(net.conf_dir.join("10-pods.conflist")).expect("remove the network");
    net.host.ok(&["gc"]);
    assert!(net.forgotten());
    assert_eq!(net.call("only", net.calls("only").len() - 1)[0], "DEL");
}

#[test]
fn a_lost_sandbox_that_cannot_be_made_anew_is_told_and_tried_again() {
    let net = Network::new(60);
    let broken = net.host.dir.join("broken");
    net.script("only", &format!(
        "if [ $CNI_COMMAND = ADD ] && [ -e {} ]; then echo '{{\"code\":102,\"msg\":\"no more addresses\"}}'; exit 1; fi\n{GOOD}",
        broken.display()
    ));
    net.conflist("1.0.0", json!([{"type": "only"}]));
    let spec = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [sleeper("c")]});
    let pod = net.run("again", &manifest("again", spec));
    let (first, keeper, supervisor) = (pod.pid("c"), pod.keeper(), pod.supervisor());
    fs::write(&broken, "").expect("write a file");
    kill(Pid::from_raw(pod.pause()), Signal::SIGKILL).expect("kill pause");
    wait_for("what went wrong", || {
        let events = net.host.ok(&["events", "again"]).out();
        (events.contains("FailedCreatePodSandBox") && events.contains("no more addresses")).then_some(())
    });
    assert!(net.host.ok(&["events", "again"]).out().contains("SandboxChanged"));
    let tries = |verb: &str| net.calls("only").iter().filter(|call| *call == verb).count();
    assert!(
        tries("DEL") >= 2,
        "neither the lost attachment nor the failed one was taken back: {:?}",
        net.calls("only")
    );
    fs::remove_file(&broken).expect("repair the plugin");
    let due = || pod.status().sandbox.and_then(|lost| lost.retry_boot_ns);
    let retry_boot_ns = wait_for("the time of the next try", due);
    // A successor keeps it.
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill the supervisor");
    let said = net.host.ok(&["explain", "again"]).out();
    assert!(said.contains("no sandbox could be made") && said.contains("another sandbox is made"), "{said}");
    let tried = tries("ADD");
    let began_ns = wait_for("the next try", || {
        let now = husk_oci::sys::clock::boottime().as_nanos();
        (tries("ADD") > tried).then_some(now)
    });
    let late_ns = u64::try_from(began_ns).expect("a time").checked_sub(retry_boot_ns);
    let late = Duration::from_nanos(late_ns.expect("not before its time"));
    assert!(late < scaled(Duration::from_millis(200)), "the next try began {late:?} after its time");
    wait_for("another sandbox", || pod.status().sandbox.is_some_and(|s| s.attempt == 1 && !s.ended).then_some(()));
    assert_ne!(pod.pid("c"), first);
    assert_eq!(pod.keeper(), keeper);
    pod.delete(&[]);
    assert!(net.forgotten());
}

#[test]
fn an_add_that_nobody_waits_for_any_more_is_taken_back() {
    let net = Network::new(60);
    let go = net.host.dir.join("go");
    net.script(
        "only",
        &format!("[ $CNI_COMMAND != ADD ] || while [ ! -e {} ]; do sleep 0.05; done\n{GOOD}", go.display()),
    );
    net.conflist("1.0.0", json!([{"type": "only"}]));
    let running = net.job(&["run", "-"]).stdin(pod("orphan")).start();
    wait_for("the plugin at work", || (net.calls("only") == ["ADD"]).then_some(()));
    let pod = net.host.pod("orphan");
    let keeper = wait_for("a keeper", || {
        crate::common::outside::pids().into_iter().find(|pid| {
            crate::common::outside::cmdline(*pid).iter().any(|word| *word == pod.record().id)
                && crate::common::outside::cmdline(*pid).first().is_some_and(|word| word == "keeper")
        })
    });
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill keeper");
    fs::write(&go, "").expect("let the plugin go on");
    assert_eq!(running.finish().code, Some(1));
    net.host.ok(&["gc"]);
    let calls = net.calls("only");
    assert_eq!(calls.first().map(String::as_str), Some("ADD"));
    assert_eq!(calls.last().map(String::as_str), Some("DEL"), "{calls:?}");
    assert!(net.forgotten());
}

#[test]
fn a_plugin_that_asks_for_another_try_gets_one_after_a_del() {
    let net = Network::new(60);
    let first = net.host.dir.join("first");
    net.script("only", &format!(
        "if [ $CNI_COMMAND = ADD ] && [ ! -e {0} ]; then touch {0}; echo '{{\"code\":11,\"msg\":\"busy\"}}'; exit 1; fi\n{GOOD}",
        first.display()
    ));
    net.conflist("1.0.0", json!([{"type": "only"}]));
    net.run("patient", &pod("patient"));
    assert_eq!(net.calls("only"), ["ADD", "DEL", "ADD"]);
}

#[test]
fn the_first_network_by_name_counts_and_a_broken_one_is_no_reason_to_take_the_next() {
    let net = Network::new(60);
    assert!(net.refused(&pod("none")).contains("no CNI network"));
    net.script("only", GOOD);
    net.conflist("1.0.0", json!([{"type": "only"}]));
    fs::write(net.conf_dir.join("05-broken.conflist"), "{\"name\":").expect("write a network");
    let said = net.refused(&pod("broken"));
    assert!(said.contains("05-broken.conflist"), "{said}");
    fs::write(
        net.conf_dir.join("05-broken.conflist"),
        r#"{"name":"x","cniVersion":"9.0.0","plugins":[{"type":"only"}]}"#,
    )
    .expect("write");
    let said = net.refused(&pod("broken"));
    assert!(said.contains("9.0.0") && said.contains("1.1.0 are"), "{said}");
    fs::write(
        net.conf_dir.join("05-broken.conflist"),
        r#"{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"absent"}]}"#,
    )
    .expect("write");
    let said = net.refused(&pod("broken"));
    assert!(said.contains("CNI plugin absent of network x: find it: there is no such plugin in"), "{said}");
    assert!(net.calls("only").is_empty() && net.forgotten());
}

/// Asks the helper that calls plugins, as husk does.
fn ask(net: &Network, task: &serde_json::Value) -> serde_json::Value {
    let output = net.job(&["cni", &task.to_string()]).finish();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

#[test]
fn check_asks_every_plugin_with_the_result_and_tells_what_one_misses() {
    let net = Network::new(60);
    let broken = net.host.dir.join("broken");
    net.script("first", GOOD);
    net.script("second", &format!(
        "if [ $CNI_COMMAND = CHECK ] && [ -e {} ]; then echo '{{\"code\":100,\"msg\":\"a rule is missing\"}}'; exit 1; fi\n{GOOD}",
        broken.display()
    ));
    net.conflist("1.0.0", json!([{"type": "first"}, {"type": "second"}]));
    let pod = net.run("checked", &pod("checked"));
    let task = json!({"check": {"root": net.host.root, "id": pod.record().id}});
    assert_eq!(ask(&net, &task), json!("done"));
    assert_eq!(net.calls("first"), ["ADD", "CHECK"]);
    assert_eq!(net.call("first", 1)[2], format!("/proc/{}/ns/net", pod.pause()));
    assert_eq!(net.input("first", 1)["prevResult"], net.input("second", 1)["prevResult"]);
    fs::write(&broken, "").expect("break something");
    let said = ask(&net, &task).to_string();
    assert!(said.contains("CNI plugin second of network pods: CHECK: a rule is missing (code 100)"), "{said}");
    assert_eq!(ask(&net, &json!({"check": {"root": net.host.root, "id": "nobody"}})), json!("unasked"));
}

#[test]
fn check_is_not_called_where_the_network_forbids_it() {
    let net = Network::new(60);
    net.script("only", GOOD);
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "disableCheck": true, "plugins": [{"type": "only"}]});
    fs::write(net.conf_dir.join("10-pods.conflist"), list.to_string()).expect("write a network");
    let pod = net.run("unchecked", &pod("unchecked"));
    assert_eq!(ask(&net, &json!({"check": {"root": net.host.root, "id": pod.record().id}})), json!("unasked"));
    assert_eq!(net.calls("only"), ["ADD"]);
}

/// The condition `NetworkReady` of CRI's `Status`.
fn ready(net: &Network) -> serde_json::Value {
    let output = net.job(&["cri", "Status"]).stdin("{}").finish();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    let conditions = answer["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|c| c["type"] == "NetworkReady").expect("a condition")
}

#[test]
fn a_network_that_cannot_be_asked_is_ready_when_its_plugins_know_its_version() {
    let net = Network::new(60);
    let known = net.host.dir.join("known");
    net.script("only", &format!("[ $CNI_COMMAND != VERSION ] || cat {}", known.display()));
    net.conflist("1.0.0", json!([{"type": "only"}]));
    fs::write(&known, r#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#).expect("write a file");
    assert_eq!(ready(&net)["status"], true);
    fs::write(&known, r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}"#).expect("write a file");
    let condition = ready(&net);
    assert_eq!(condition["status"], false);
    assert!(
        condition["message"].to_string().contains("VERSION: it does not know CNI 1.0.0, but 0.3.1, 0.4.0"),
        "{condition}"
    );
    assert_eq!(net.calls("only"), ["VERSION", "VERSION"]);
}

#[test]
fn gc_names_the_pods_that_are_there_and_status_makes_the_network_ready() {
    let net = Network::new(60);
    let down = net.host.dir.join("down");
    let answer = GOOD.replace("1.0.0", "1.1.0");
    net.script("only", &format!(
        "if [ $CNI_COMMAND = STATUS ] && [ -e {} ]; then echo '{{\"code\":50,\"msg\":\"the daemon is down\"}}'; exit 1; fi\n{answer}",
        down.display()
    ));
    net.conflist("1.1.0", json!([{"type": "only"}]));
    let pod = net.run("kept", &pod("kept"));
    let output = net.job(&["gc", "--cni"]).finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(net.calls("only"), ["ADD", "GC"]);
    let valid = json!([{"containerID": pod.record().id, "ifname": "eth0"}]);
    assert_eq!(net.input("only", 1)["cni.dev/valid-attachments"], valid);
    assert_eq!(ready(&net)["status"], true);
    fs::write(&down, "").expect("stop the daemon");
    let condition = ready(&net);
    assert_eq!((&condition["status"], &condition["reason"]), (&json!(false), &json!("NetworkPluginNotReady")));
    assert!(
        condition["message"].to_string().contains("the daemon is down (code 50: plugin not available)"),
        "{condition}"
    );
}
