use super::*;
use crate::state::events::EventType;
use serde_json::json;

fn rich() -> Pod {
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:04Z"}});
    let failed = json!({"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled", "message": "no memory\nat all\n",
        "startedAt": "2026-01-01T00:00:02Z", "finishedAt": "2026-01-01T00:00:03Z"}});
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1111", "labels": {"app": "web", "tier": "front"},
            "annotations": {"note": "one", "script": "a\nb\n", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {
            "priority": 7, "priorityClassName": "high", "serviceAccountName": "robot", "restartPolicy": "Always",
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "b", "operator": "Equal", "value": "c"},
            ],
            "readinessGates": [{"conditionType": "example.com/in"}],
            "volumes": [
                {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                {"name": "host", "hostPath": {"path": "/srv", "type": "Directory"}},
                {"name": "settings", "configMap": {"name": "cm"}},
            ],
            "initContainers": [{"name": "setup", "image": "i:1", "args": ["one\ntwo"]}],
            "containers": [{
                "name": "main", "image": "i:2", "command": ["sh", "-c"], "args": ["echo\nsleep 1"],
                "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP", "name": "http"}, {"containerPort": 53, "protocol": "UDP"}],
                "env": [
                    {"name": "PLAIN", "value": "a\nb"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                ],
                "envFrom": [{"configMapRef": {"name": "cm"}, "prefix": "P_"}],
                "resources": {"limits": {"cpu": "500m", "memory": "32Mi"}, "requests": {"memory": "16Mi"}},
                "livenessProbe": {"httpGet": {"port": "http", "path": "/up"}, "periodSeconds": 5},
                "volumeMounts": [
                    {"name": "host", "mountPath": "/srv", "subPath": "x"}, {"name": "data", "mountPath": "/data", "readOnly": true},
                ],
            }],
            "ephemeralContainers": [{"name": "debugger", "image": "i:3"}],
        },
        "status": {
            "phase": "Running", "hostIP": "192.0.2.1", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}],
            "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "False", "reason": "ReadinessGatesNotReady"},
            ],
            "initContainerStatuses": [{
                "name": "setup", "image": "i:1", "imageID": "sha256:1", "containerID": "husk://aa", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "reason": "Completed",
                    "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z"}},
            }],
            "containerStatuses": [{
                "name": "main", "image": "i:2", "imageID": "sha256:2", "containerID": "husk://bb", "ready": true, "restartCount": 1,
                "state": running, "lastState": failed,
            }],
            "ephemeralContainerStatuses": [{
                "name": "debugger", "image": "i:3", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ContainerCreating", "message": "soon"}},
            }],
        },
    }))
    .expect("a pod")
}

fn facts(pod: &Pod) -> Facts<'_> {
    let at = |second: i64| Timestamp::from_second(1_767_225_600 + second).expect("a time");
    let main = More { oom_kills: Some(1), env: vec!["PLAIN=a".into(), "POD=web".into(), "CPU=1".into()] };
    let field = Some("spec.containers{main}".to_owned());
    let mut again = Event::new(EventType::Warning, "BackOff", field.clone(), "Back-off", at(90));
    (again.count, again.first) = (3, Some(at(30)));
    let events = vec![Event::new(EventType::Normal, "Started", field, "Container started\n", at(4)), again];
    let more = BTreeMap::from([("main".to_owned(), main)]);
    Facts { pod, more, host: "node1".into(), events: Some(events), now: at(100) }
}

#[test]
fn a_page_reads_as_kubectls() {
    let pod = rich();
    let expected = "\
Name:                 web
Namespace:            shop
Priority:             7
Priority Class Name:  high
Service Account:      robot
Node:                 node1/192.0.2.1
Start Time:           Thu, 01 Jan 2026 00:00:00 +0000
Labels:               app=web
                      tier=front
Annotations:          note: one
                      script:
                        a
                        b
Status:               Running
IP:                   10.0.0.2
IPs:
  IP:  10.0.0.2
  IP:  fd00::2
Init Containers:
  setup:
    Container ID:  husk://aa
    Image:         i:1
    Image ID:      sha256:1
    Port:          <none>
    Host Port:     <none>
    Args:
      one
      two
    State:          Terminated
      Reason:       Completed
      Exit Code:    0
      Started:      Thu, 01 Jan 2026 00:00:01 +0000
      Finished:     Thu, 01 Jan 2026 00:00:02 +0000
    Ready:          True
    Restart Count:  0
    Environment:    <none>
    Mounts:         <none>
Containers:
  main:
    Container ID:  husk://bb
    Image:         i:2
    Image ID:      sha256:2
    Ports:         80/TCP (http), 53/UDP
    Host Ports:    8080/TCP (http), 0/UDP
    Command:
      sh
      -c
    Args:
      echo
      sleep 1
    State:          Running
      Started:      Thu, 01 Jan 2026 00:00:04 +0000
    Last State:     Terminated
      Reason:       OOMKilled
      Message:      no memory
                    at all
      Exit Code:    137
      Signal:       9
      Started:      Thu, 01 Jan 2026 00:00:02 +0000
      Finished:     Thu, 01 Jan 2026 00:00:03 +0000
    Ready:          True
    Restart Count:  1
    OOM Kills:      1
    Limits:
      cpu:     500m
      memory:  32Mi
    Requests:
      memory:  16Mi
    Liveness:  http-get http://:http/up delay=0s timeout=1s period=5s #success=1 #failure=3
    Environment Variables from:
      cm  ConfigMap with prefix 'P_'  Optional: false
    Environment:
      PLAIN:     a
                 b
      POD:       web (v1:metadata.name)
      CPU:       1 (limits.cpu)
      PASSWORD:  <set to the key 'k' in secret 's'>  Optional: false
    Mounts:
      /data from data (ro)
      /srv from host (rw,path=\"x\")
Ephemeral Containers:
  debugger:
    Container ID:
    Image:          i:3
    Image ID:
    Port:           <none>
    Host Port:      <none>
    State:          Waiting
      Reason:       ContainerCreating
      Message:      soon
    Ready:          False
    Restart Count:  0
    Environment:    <none>
    Mounts:         <none>
Readiness Gates:
  Type            Status
  example.com/in  <none>
Conditions:
  Type         Status  Reason
  Initialized  True
  Ready        False   ReadinessGatesNotReady
Volumes:
  data:
    Type:       EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:     Memory
    SizeLimit:  16Mi
  host:
    Type:          HostPath (bare host directory volume)
    Path:          /srv
    HostPathType:  Directory
  settings:
    Type:          ConfigMap (a volume populated by a ConfigMap)
    Name:          cm
    Optional:      false
QoS Class:         Burstable
Node-Selectors:    disk=ssd
Tolerations:       a:NoExecute op=Exists for 300s
                   b=c
Restart Policy:    Always
Ready Containers:  1/1
UID:               1111
Events:
  Type     Reason   Age                From  Message
  ----     ------   ---                ----  -------
  Normal   Started  96s                husk  Container started
  Warning  BackOff  10s (x3 over 70s)  husk  Back-off
";
    let page = facts(&pod).page();
    for (line, (got, wanted)) in page.lines().zip(expected.lines()).enumerate() {
        assert_eq!(got, wanted, "line {line} of\n{page}");
    }
    assert_eq!(page.lines().count(), expected.lines().count(), "{page}");
}

#[test]
fn a_deletion_tells_how_long_it_lasts_and_how_long_it_may() {
    let mut pod = rich();
    // Asked for at 0:01:30, with 30 s.
    pod.metadata.deletion_timestamp = Some(Time("2026-01-01T00:02:00Z".parse().expect("a time")));
    pod.metadata.deletion_grace_period_seconds = Some(30);
    let page = facts(&pod).page();
    for line in ["Status:                    Terminating (lasts 10s)", "Termination Grace Period:  30s"] {
        assert!(page.lines().any(|found| found == line), "{line:?} is not in\n{page}");
    }
}

#[test]
fn a_pod_of_which_nothing_is_known_has_a_page() {
    let pod = Pod::default();
    let facts = Facts { events: Some(Vec::new()), more: BTreeMap::new(), ..facts(&pod) };
    let page = facts.page();
    for name in ["Labels:", "IPs:", "Volumes:", "Events:"] {
        let none = |line: &str| line.starts_with(name) && line.ends_with(" <none>");
        assert!(page.lines().any(none), "{name} is not in\n{page}");
    }
    assert!(page.contains("Containers: <none>\n"), "{page}");
}

#[test]
fn long_annotations_stand_below_their_keys_and_are_cut() {
    let long = "x".repeat(200);
    let map = BTreeMap::from([("key".to_owned(), long)]);
    assert_eq!(annotations(&Some(map)), ["key:".to_owned(), format!("  {}...", "x".repeat(138))]);
}
