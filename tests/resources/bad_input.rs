//! What cannot be enforced is refused by its field, and leaves nothing behind.

use serde_json::{Value, json};

use crate::common::{Host, manifest};
use crate::{annotated, container, v1};

fn refused(host: &Host, manifest: &str) -> String {
    let output = host.try_run(manifest);
    assert_eq!(output.code, Some(1), "{manifest}: {output}");
    host.assert_untouched();
    output.err()
}

#[test]
fn amounts_that_make_no_sense_are_refused_by_their_field() {
    let host = Host::new();
    for (resources, field) in [
        (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}), "requests.cpu"),
        (json!({"limits": {"memory": "-1Gi"}}), "limits.memory"),
        (json!({"limits": {"cpu": "1Pi"}}), "limits.cpu"),
        (json!({"limits": {"memory": "1e400"}}), "limits.memory"),
        (json!({"limits": {"memory": "1m"}}), "limits.memory"),
        (json!({"limits": {"gpu": "1"}}), "limits.gpu"),
        (json!({"limits": {"ephemeral-storage": "1Gi"}}), "limits.ephemeral-storage"),
        (json!({"limits": {"cpu": "1", "hugepages-2Mi": "1Mi"}}), "limits.hugepages-2Mi"),
    ] {
        let said = refused(&host, &manifest("bad", json!({"containers": [container("main", "true", resources)]})));
        assert!(said.contains(&format!("pod bad: spec.containers[0].resources.{field}: ")), "{said}");
    }
}

#[test]
fn what_this_host_lacks_is_refused_by_its_field() {
    let host = Host::new();
    let pages = container("main", "true", json!({"limits": {"cpu": "1", "hugepages-12Mi": "12Mi"}}));
    let said = refused(&host, &manifest("bad", json!({"containers": [pages]})));
    assert!(said.contains("pod bad: spec.containers[0].resources.limits.hugepages-12Mi: this host has no "), "{said}");
    let run = |annotations: Value| {
        let spec = json!({"containers": [container("main", "true", json!({}))]});
        refused(&host, &annotated("bad", annotations, spec))
    };
    for (key, list) in
        [("husk.dev/cpuset-cpus", "4000"), ("husk.dev/cpuset-mems.main", "900"), ("husk.dev/cpuset-cpus.main", "")]
    {
        let said = run(json!({ key: list }));
        assert!(said.contains(&format!("pod bad: metadata.annotations[{key:?}]: ")), "{said}");
    }
    if v1("memory") {
        for key in ["husk.dev/memory-high", "husk.dev/memory-min.main"] {
            let said = run(json!({ key: "16Mi" }));
            assert!(said.contains(&format!("pod bad: metadata.annotations[{key:?}]: memory.")), "{said}");
            assert!(said.contains("cgroup v2"), "{said}");
        }
        let said = run(json!({"husk.dev/swap": "16Mi"}));
        assert!(said.contains("metadata.annotations[\"husk.dev/swap\"]: ") && said.contains("memory limit"), "{said}");
    }
}
