//! The number of tasks.

use serde_json::json;

use crate::common::Host;
use crate::{annotated, container, dirs, value};

#[test]
fn forks_beyond_the_limit_fail_and_the_sibling_forks_on() {
    let host = Host::new();
    let bomb = "i=0; while [ $i -lt 60 ]; do sleep 100000 & i=$((i+1)); done; echo all; wait";
    let containers = json!([container("bomb", bomb, json!({})), container("calm", "sleep 100000", json!({}))]);
    let annotations = json!({"husk.dev/pids-max.bomb": "20", "husk.dev/pids-max": "300"});
    let pod = host.run("pids", &annotated("pids", annotations, json!({ "containers": containers })));
    let (own, above) = dirs(&pod, "calm", "pids");
    assert_eq!((value(&own, "pids.max"), value(&above, "pids.max")), ("max".to_owned(), "300".to_owned()));
    // A shell that cannot fork says so and ends.
    assert_ne!(pod.terminated("bomb")["exitCode"], 0);
    let said = pod.logs("bomb", &[]);
    assert!(said.contains("fork") && !said.contains("all"), "{said}");
    assert_eq!(pod.sh("calm", "i=0; while [ $i -lt 40 ]; do sleep 1 & i=$((i+1)); done; echo all").trim(), "all");
}
