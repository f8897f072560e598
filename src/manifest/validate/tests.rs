use super::super::{default, parse};
use super::*;

fn check(pod: &str) -> Vec<String> {
    let mut pods = parse(pod.as_bytes(), "x").unwrap_or_else(|e| panic!("{pod}: {e}"));
    default(&mut pods[0]);
    match validate(&pods[0]) {
        Ok(()) => Vec::new(),
        Err(e) => e.errors.iter().map(ToString::to_string).collect(),
    }
}

fn meta(fields: &str) -> Vec<String> {
    check(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{{fields}}}, spec: {{containers: [{{name: c, image: x}}]}}}}"
    ))
}

fn spec(fields: &str) -> Vec<String> {
    check(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: demo}}, spec: {{containers: [{{name: c, image: x}}], {fields}}}}}"
    ))
}

/// A container in a pod with the volumes `v` (emptyDir) and `w` (hostPath).
fn container_in(fields: &str, pod: &str) -> Vec<String> {
    check(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: demo, uid: u}}, spec: {{volumes: [{{name: v}}, {{name: w, hostPath: {{path: /srv}}}}], {pod} \
         containers: [{{name: c, image: x, {fields}}}]}}}}"
    ))
}

fn container(fields: &str) -> Vec<String> {
    container_in(fields, "")
}

/// Each case is refused once, at the path.
fn refused(run: impl Fn(&str) -> Vec<String>, cases: &[(&str, &str)]) {
    for (fields, path) in cases {
        let errors = run(fields);
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")),
            "{fields}\n wanted {path}\n got {errors:#?}"
        );
    }
}

fn accepted(run: impl Fn(&str) -> Vec<String>, cases: &[&str]) {
    for fields in cases {
        assert_eq!(run(fields), Vec::<String>::new(), "{fields}");
    }
}

#[test]
fn every_error_is_told_at_once() {
    let errors = check(
        "{apiVersion: v1, kind: Pod, metadata: {name: Demo}, spec: {restartPolicy: Sometimes, terminationGracePeriodSeconds: -1, \
         containers: [{name: c}, {name: c, image: x, livenessProbe: {}}]}}",
    );
    assert_eq!(
        errors,
        [
            "metadata.name: \"Demo\" must consist of lower-case letters, digits, '-' and '.', and begin and end with a letter or digit",
            "spec.restartPolicy: \"Sometimes\" is none of Always, OnFailure, Never",
            "spec.terminationGracePeriodSeconds: -1 must not be negative",
            "spec.containers[0].image: required",
            "spec.containers[1].name: duplicate: another container is already called \"c\"",
            "spec.containers[1].livenessProbe: required: a handler, one of exec, httpGet, tcpSocket and grpc",
        ]
    );
}

#[test]
fn errors_are_shown_one_a_line_with_the_pod() {
    let pod = parse(b"{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}", "x").expect("parses");
    let e = validate(&pod[0]).expect_err("no containers");
    assert_eq!(e.to_string(), "pod a: spec.containers: required: a pod has at least one container");
    let bare = parse(b"{apiVersion: v1, kind: Pod}", "x").expect("parses");
    let e = validate(&bare[0]).expect_err("nothing in it");
    assert_eq!(e.to_string(), "pod : metadata.name: required\npod : spec: required");
}

#[test]
fn metadata_is_checked() {
    refused(
        meta,
        &[
            ("", "metadata.name"),
            ("name: ''", "metadata.name"),
            ("name: a_b", "metadata.name"),
            ("name: \"a\\nb\"", "metadata.name"),
            ("name: ../etc", "metadata.name"),
            ("generateName: a-", "metadata.generateName"),
            ("name: a, namespace: a.b", "metadata.namespace"),
            ("name: a, uid: ../x", "metadata.uid"),
            ("name: a, finalizers: [x/y]", "metadata.finalizers"),
            ("name: a, labels: {'-x': a}", "metadata.labels"),
            ("name: a, labels: {x: 'a b'}", "metadata.labels[\"x\"]"),
            ("name: a, annotations: {'a b': x}", "metadata.annotations"),
            (
                "name: a, annotations: {container.apparmor.security.beta.kubernetes.io/c: runtime/default}",
                "metadata.annotations[\"container.apparmor.security.beta.kubernetes.io/c\"]",
            ),
        ],
    );
    accepted(
        meta,
        &[
            "name: a.b-c, generateName: a-, uid: 0b0e7e1c-0d3a-4a34-9fa5-0c1d8e7f6a55, namespace: kube-system",
            "name: a, labels: {app.kubernetes.io/name: web, tier: ''}, annotations: {Example.com/x: \"any\\n text\"}",
            "name: a, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u}], finalizers: []",
        ],
    );
    let large = meta(&format!("name: a, annotations: {{a: {}}}", "x".repeat(300_000)));
    assert!(large.len() == 1 && large[0].starts_with("metadata.annotations: "), "{large:?}");
}

#[test]
fn pod_fields_that_are_not_supported_are_refused_by_path() {
    refused(
        spec,
        &[
            ("activeDeadlineSeconds: 0", "spec.activeDeadlineSeconds"),
            ("automountServiceAccountToken: true", "spec.automountServiceAccountToken"),
            ("dnsPolicy: None", "spec.dnsConfig"),
            ("dnsPolicy: None, dnsConfig: {searches: [a]}", "spec.dnsConfig.nameservers"),
            ("dnsConfig: {nameservers: [a]}", "spec.dnsConfig.nameservers[0]"),
            ("dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}", "spec.dnsConfig.nameservers"),
            ("dnsConfig: {searches: [a.b., 'A b']}", "spec.dnsConfig.searches[1]"),
            ("dnsConfig: {options: [{value: a}]}", "spec.dnsConfig.options[0].name"),
            ("dnsConfig: {options: [{name: 'a b'}]}", "spec.dnsConfig.options[0]"),
            ("dnsPolicy: Custom", "spec.dnsPolicy"),
            ("ephemeralContainers: [{name: e, image: x}]", "spec.ephemeralContainers"),
            ("hostAliases: [{ip: a}]", "spec.hostAliases[0].ip"),
            ("hostAliases: [{ip: 1.2.3.4, hostnames: [a_b]}]", "spec.hostAliases[0].hostnames[0]"),
            ("hostUsers: false", "spec.hostUsers"),
            ("hostnameOverride: A", "spec.hostnameOverride"),
            ("hostnameOverride: ''", "spec.hostnameOverride"),
            ("hostnameOverride: a, hostNetwork: true", "spec.hostnameOverride"),
            ("hostnameOverride: a, setHostnameAsFQDN: true", "spec.setHostnameAsFQDN"),
            ("os: {name: windows}", "spec.os.name"),
            ("overhead: {cpu: 1m}", "spec.overhead"),
            ("priority: 2000000000", "spec.priority"),
            ("priorityClassName: system-other", "spec.priorityClassName"),
            ("priorityClassName: system-node-critical, priority: 2000000000", "spec.priority"),
            ("readinessGates: [{conditionType: x}, {conditionType: a b}]", "spec.readinessGates[1].conditionType"),
            ("resourceClaims: [{name: x}]", "spec.resourceClaims"),
            ("runtimeClassName: kata", "spec.runtimeClassName"),
            ("schedulingGates: [{name: x}]", "spec.schedulingGates"),
            (
                "setHostnameAsFQDN: true, subdomain: a-name-that-is-rather-long-and-so-is-the-whole-of-it",
                "spec.setHostnameAsFQDN",
            ),
            ("subdomain: a.b", "spec.subdomain"),
            ("workloadRef: {name: a, podGroup: b}", "spec.workloadRef"),
            ("hostPID: true, shareProcessNamespace: true", "spec.shareProcessNamespace"),
            ("hostname: a.b", "spec.hostname"),
            ("nodeName: A", "spec.nodeName"),
            ("serviceAccountName: A", "spec.serviceAccountName"),
            ("imagePullSecrets: [{name: A}]", "spec.imagePullSecrets[0].name"),
        ],
    );
}

#[test]
fn pod_fields_of_a_scheduler_are_accepted() {
    accepted(
        spec,
        &[
            "",
            "hostNetwork: true, hostPID: true, hostIPC: true",
            "shareProcessNamespace: true, hostname: web, hostUsers: true, os: {name: linux}",
            "affinity: {nodeAffinity: {}}, nodeSelector: {a: b}, tolerations: [{operator: Exists}], schedulerName: x, nodeName: here, priority: 5, preemptionPolicy: Never",
            "automountServiceAccountToken: false, serviceAccountName: a, enableServiceLinks: false, imagePullSecrets: [{name: s}], topologySpreadConstraints: []",
            "priorityClassName: system-node-critical, priority: 2000001000",
            "priorityClassName: system-cluster-critical",
            "terminationGracePeriodSeconds: 0, restartPolicy: OnFailure, dnsPolicy: Default, initContainers: [], ephemeralContainers: []",
        ],
    );
}

#[test]
fn volumes_are_checked() {
    refused(
        |v| spec(&format!("volumes: [{v}]")),
        &[
            ("{name: A}", "spec.volumes[0].name"),
            ("{name: a}, {name: a}", "spec.volumes[1].name"),
            ("{name: a, configMap: {name: x}}", "spec.volumes[0].configMap"),
            ("{name: a, persistentVolumeClaim: {claimName: x}}", "spec.volumes[0].persistentVolumeClaim"),
            ("{name: a, emptyDir: {}, hostPath: {path: /x}}", "spec.volumes[0]"),
            ("{name: a, emptyDir: {medium: HugePages}}", "spec.volumes[0].emptyDir.medium"),
            ("{name: a, emptyDir: {sizeLimit: 1Gi}}", "spec.volumes[0].emptyDir.sizeLimit"),
            ("{name: a, emptyDir: {medium: Memory, sizeLimit: -1}}", "spec.volumes[0].emptyDir.sizeLimit"),
            ("{name: a, emptyDir: {medium: Memory, sizeLimit: lots}}", "spec.volumes[0].emptyDir.sizeLimit"),
            ("{name: a, hostPath: {path: ''}}", "spec.volumes[0].hostPath.path"),
            ("{name: a, hostPath: {path: x}}", "spec.volumes[0].hostPath.path"),
            ("{name: a, hostPath: {path: /a/../b}}", "spec.volumes[0].hostPath.path"),
            ("{name: a, hostPath: {path: \"/a\\nb\"}}", "spec.volumes[0].hostPath.path"),
            ("{name: a, hostPath: {path: /a, type: Dir}}", "spec.volumes[0].hostPath.type"),
        ],
    );
    accepted(
        |v| spec(&format!("volumes: [{v}]")),
        &[
            "{name: a}, {name: b, emptyDir: {}}, {name: c, emptyDir: {medium: Memory, sizeLimit: 1Mi}}",
            "{name: a, hostPath: {path: /a..b}}, {name: b, hostPath: {path: /, type: Directory}}",
        ],
    );
}

#[test]
fn mounts_are_checked() {
    let mounts = |m: &str| container(&format!("volumeMounts: [{m}]"));
    refused(
        mounts,
        &[
            ("{name: v, mountPath: ''}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: data}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: /a/..}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: '/a:b'}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: \"/a\\tb\"}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: /./}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: //proc/sys}", "spec.containers[0].volumeMounts[0].mountPath"),
            ("{name: v, mountPath: /a}, {name: w, mountPath: /a/}", "spec.containers[0].volumeMounts[1].mountPath"),
            ("{name: none, mountPath: /a}", "spec.containers[0].volumeMounts[0].name"),
            ("{mountPath: /a}", "spec.containers[0].volumeMounts[0].name"),
            ("{name: v, mountPath: /a, subPath: /x}", "spec.containers[0].volumeMounts[0].subPath"),
            ("{name: v, mountPath: /a, subPath: x/../..}", "spec.containers[0].volumeMounts[0].subPath"),
            ("{name: v, mountPath: /a, subPath: \"a\\nb\"}", "spec.containers[0].volumeMounts[0].subPath"),
            ("{name: v, mountPath: /a, subPathExpr: $(A)}", "spec.containers[0].volumeMounts[0].subPathExpr"),
            (
                "{name: v, mountPath: /a, mountPropagation: Shared}",
                "spec.containers[0].volumeMounts[0].mountPropagation",
            ),
            (
                "{name: v, mountPath: /a, mountPropagation: Bidirectional}",
                "spec.containers[0].volumeMounts[0].mountPropagation",
            ),
            (
                "{name: v, mountPath: /a, recursiveReadOnly: Enabled}",
                "spec.containers[0].volumeMounts[0].recursiveReadOnly",
            ),
            (
                "{name: v, mountPath: /a, readOnly: true, recursiveReadOnly: Enabled, mountPropagation: HostToContainer}",
                "spec.containers[0].volumeMounts[0].recursiveReadOnly",
            ),
        ],
    );
    accepted(
        mounts,
        &[
            "{name: v, mountPath: /a, subPath: x/y, readOnly: true, recursiveReadOnly: IfPossible}, {name: v, mountPath: /process}",
            "{name: w, mountPath: /a, mountPropagation: HostToContainer}, {name: w, mountPath: /a/b}",
        ],
    );
    accepted(
        container,
        &[
            "securityContext: {privileged: true}, volumeMounts: [{name: w, mountPath: /a, mountPropagation: Bidirectional}]",
        ],
    );
}

#[test]
fn container_fields_are_checked() {
    let long = format!("env: [{{name: A, value: \"{}\\0\"}}]", "x".repeat(10));
    refused(
        container,
        &[
            ("envFrom: [{prefix: x}]", "spec.containers[0].envFrom"),
            ("lifecycle: {postStart: {}}", "spec.containers[0].lifecycle.postStart"),
            ("lifecycle: {preStop: {exec: {}}}", "spec.containers[0].lifecycle.preStop.exec.command"),
            (
                "lifecycle: {preStop: {exec: {command: [a]}, sleep: {seconds: 1}}}",
                "spec.containers[0].lifecycle.preStop",
            ),
            ("lifecycle: {preStop: {sleep: {seconds: 31}}}", "spec.containers[0].lifecycle.preStop.sleep.seconds"),
            ("lifecycle: {preStop: {sleep: {seconds: -1}}}", "spec.containers[0].lifecycle.preStop.sleep.seconds"),
            ("lifecycle: {postStart: {tcpSocket: {port: 1}}}", "spec.containers[0].lifecycle.postStart.tcpSocket"),
            ("lifecycle: {postStart: {httpGet: {port: 0}}}", "spec.containers[0].lifecycle.postStart.httpGet.port"),
            ("lifecycle: {preStop: {httpGet: {port: web}}}", "spec.containers[0].lifecycle.preStop.httpGet.port"),
            (
                "lifecycle: {preStop: {httpGet: {port: 1, host: a.b}}}",
                "spec.containers[0].lifecycle.preStop.httpGet.host",
            ),
            ("lifecycle: {stopSignal: SIGTERM}", "spec.containers[0].lifecycle.stopSignal"),
            (
                "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]",
                "spec.containers[0].restartPolicy",
            ),
            (
                "restartPolicy: Never, restartPolicyRules: [{action: Stop, exitCodes: {operator: In}}]",
                "spec.containers[0].restartPolicyRules[0].action",
            ),
            (
                "restartPolicy: Never, restartPolicyRules: [{action: Restart}]",
                "spec.containers[0].restartPolicyRules[0].exitCodes",
            ),
            (
                "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: Not}}]",
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator",
            ),
            ("livenessProbe: {}", "spec.containers[0].livenessProbe"),
            ("readinessProbe: {}", "spec.containers[0].readinessProbe"),
            ("startupProbe: {}", "spec.containers[0].startupProbe"),
            ("resizePolicy: [{resourceName: cpu}]", "spec.containers[0].resizePolicy[0].restartPolicy"),
            (
                "resizePolicy: [{resourceName: pids, restartPolicy: NotRequired}]",
                "spec.containers[0].resizePolicy[0].resourceName",
            ),
            ("restartPolicy: Sometimes", "spec.containers[0].restartPolicy"),
            ("volumeDevices: [{name: v, devicePath: /x}]", "spec.containers[0].volumeDevices"),
            ("imagePullPolicy: Always", "spec.containers[0].imagePullPolicy"),
            ("imagePullPolicy: Sometimes", "spec.containers[0].imagePullPolicy"),
            ("terminationMessagePath: /", "spec.containers[0].terminationMessagePath"),
            ("terminationMessagePath: ./", "spec.containers[0].terminationMessagePath"),
            ("terminationMessagePath: /a/../b", "spec.containers[0].terminationMessagePath"),
            ("terminationMessagePath: \"a\\n\"", "spec.containers[0].terminationMessagePath"),
            ("terminationMessagePath: proc/self/x", "spec.containers[0].terminationMessagePath"),
            ("terminationMessagePolicy: Always", "spec.containers[0].terminationMessagePolicy"),
            ("command: ['']", "spec.containers[0].command[0]"),
            ("args: [\"a\\0\"]", "spec.containers[0].args[0]"),
            ("workingDir: a", "spec.containers[0].workingDir"),
            (&long, "spec.containers[0].env[0].value"),
            ("env: [{name: A=B}]", "spec.containers[0].env[0].name"),
            ("env: [{name: A, valueFrom: {}}]", "spec.containers[0].env[0].valueFrom"),
            (
                "env: [{name: A, valueFrom: {secretKeyRef: {key: a}}}]",
                "spec.containers[0].env[0].valueFrom.secretKeyRef",
            ),
            (
                "env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
                "spec.containers[0].env[0].valueFrom",
            ),
            (
                "env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.phase}}}]",
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
            ),
            (
                "env: [{name: A, valueFrom: {fieldRef: {apiVersion: v2, fieldPath: metadata.name}}}]",
                "spec.containers[0].env[0].valueFrom.fieldRef.apiVersion",
            ),
            (
                "env: [{name: A, valueFrom: {resourceFieldRef: {resource: x}}}]",
                "spec.containers[0].env[0].valueFrom.resourceFieldRef",
            ),
            ("ports: [{containerPort: 0}]", "spec.containers[0].ports[0].containerPort"),
            ("ports: [{containerPort: 65536}]", "spec.containers[0].ports[0].containerPort"),
            ("ports: [{containerPort: 1, hostPort: 65536}]", "spec.containers[0].ports[0].hostPort"),
            ("ports: [{containerPort: 1, hostPort: -1}]", "spec.containers[0].ports[0].hostPort"),
            ("ports: [{containerPort: 1, hostPort: 1, hostIP: 1.2.3}]", "spec.containers[0].ports[0].hostIP"),
            (
                "ports: [{containerPort: 1, hostPort: 8}, {containerPort: 2, hostPort: 8, hostIP: 0.0.0.0}]",
                "spec.containers[0].ports[1].hostPort",
            ),
            ("ports: [{containerPort: 1, protocol: tcp}]", "spec.containers[0].ports[0].protocol"),
            ("ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}]", "spec.containers[0].ports[1].name"),
        ],
    );
    accepted(
        container,
        &[
            "tty: true, workingDir: /a/../b, command: [sh, ''], args: [\"a\\n\"], stdin: true, stdinOnce: true",
            "ports: [{containerPort: 80, name: http}, {containerPort: 80, protocol: UDP}]",
            "ports: [{containerPort: 80, hostPort: 8080, hostIP: '::1'}, {containerPort: 80, hostPort: 8080, protocol: SCTP}]",
            "env: [{name: A, value: \"\\n\"}, {name: a.b, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]",
            "imagePullPolicy: Never, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File, envFrom: []",
            "terminationMessagePath: tmp/last-words, terminationMessagePolicy: FallbackToLogsOnError",
        ],
    );
    for image in ["''", "' x'", "'x '", "\"x\\ty\"", "\"x\\0\""] {
        let errors = check(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}"
        ));
        assert!(errors.len() == 1 && errors[0].starts_with("spec.containers[0].image: "), "{image}: {errors:?}");
    }
}

#[test]
fn host_ports_follow_host_network() {
    let run = |fields: &str| {
        container_in(fields, "hostNetwork: true, initContainers: [{name: i, image: x, ports: [{containerPort: 80}]}],")
    };
    accepted(
        run,
        &[
            "ports: [{containerPort: 80}]",
            "ports: [{containerPort: 80, hostPort: 80}, {containerPort: 80, protocol: UDP}]",
        ],
    );
    refused(
        run,
        &[
            ("ports: [{containerPort: 80, hostPort: 81}]", "spec.containers[0].ports[0].hostPort"),
            ("ports: [{containerPort: 80}, {containerPort: 80}]", "spec.containers[0].ports[1].hostPort"),
        ],
    );
}

#[test]
fn resources_are_checked() {
    refused(
        |x| container(&format!("resources: {{{x}}}")),
        &[
            ("limits: {memory: 256Ki}", "spec.containers[0].resources.limits.memory"),
            ("limits: {memory: 64}", "spec.containers[0].resources.limits.memory"),
            ("limits: {cpu: 1m}", "spec.containers[0].resources.limits.cpu"),
            ("limits: {cpu: 1}, requests: {cpu: 2}", "spec.containers[0].resources.requests.cpu"),
            ("requests: {memory: 100m}", "spec.containers[0].resources.requests.memory"),
            ("requests: {cpu: -1}", "spec.containers[0].resources.requests.cpu"),
            ("requests: {cpu: 1x}", "spec.containers[0].resources.requests.cpu"),
            ("requests: {cpu: 8000000000G}", "spec.containers[0].resources.requests.cpu"),
            ("requests: {ephemeral-storage: 1}", "spec.containers[0].resources.requests.ephemeral-storage"),
            ("limits: {nvidia.com/gpu: 1, cpu: 1}", "spec.containers[0].resources.limits.nvidia.com/gpu"),
            ("limits: {gpu: 1}", "spec.containers[0].resources.limits.gpu"),
            ("limits: {hugepages-: 1, cpu: 1}", "spec.containers[0].resources.limits.hugepages-"),
            ("limits: {hugepages-2Mi: 3Mi, cpu: 1}", "spec.containers[0].resources.limits.hugepages-2Mi"),
            ("limits: {hugepages-2Mi: -2Mi, cpu: 1}", "spec.containers[0].resources.limits.hugepages-2Mi"),
            ("limits: {hugepages-2Mi: 2Mi}", "spec.containers[0].resources"),
            ("requests: {hugepages-2Mi: 2Mi, cpu: 1}", "spec.containers[0].resources.requests.hugepages-2Mi"),
            (
                "requests: {hugepages-2Mi: 2Mi, cpu: 1}, limits: {hugepages-2Mi: 4Mi}",
                "spec.containers[0].resources.requests.hugepages-2Mi",
            ),
            (
                "limits: {hugepages-2Mi: 2Mi, hugepages-2048Ki: 2Mi, cpu: 1}",
                "spec.containers[0].resources.limits.hugepages-2Mi",
            ),
            ("limits: {cpu: 1Pi}", "spec.containers[0].resources.limits.cpu"),
            ("limits: {memory: '1e400'}", "spec.containers[0].resources.limits.memory"),
            ("limits: {memory: 1m}", "spec.containers[0].resources.limits.memory"),
            ("limits: {memory: -1Gi}", "spec.containers[0].resources.limits.memory"),
            ("limits: {memory: 1Mi}, requests: {memory: 2Mi}", "spec.containers[0].resources.requests.memory"),
            ("claims: [{name: x}]", "spec.containers[0].resources.claims"),
        ],
    );
    accepted(
        |x| container(&format!("resources: {{{x}}}")),
        &[
            "",
            "limits: {cpu: 0.5, memory: 64Mi}, requests: {cpu: 1m}",
            "limits: {cpu: 10m, memory: 512Ki}",
            "requests: {memory: 1}",
            "limits: {hugepages-2Mi: 4Mi, hugepages-1Gi: 1Gi, memory: 64Mi}",
        ],
    );
}

#[test]
fn resources_of_the_whole_pod_are_checked() {
    let with = |pod: &str| {
        check(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: demo}}, spec: {{resources: {{{pod}}}, containers: [\
             {{name: a, image: x, resources: {{requests: {{cpu: 1, memory: 64Mi}}, limits: {{cpu: 2, memory: 128Mi, hugepages-2Mi: 2Mi}}}}}}, \
             {{name: b, image: x, resources: {{requests: {{cpu: 1}}}}}}]}}}}"
        ))
    };
    refused(
        with,
        &[
            ("requests: {cpu: 1500m}", "spec.resources.requests.cpu"),
            ("requests: {memory: 1Mi}", "spec.resources.requests.memory"),
            ("limits: {cpu: 1500m}, requests: {cpu: 1500m}, claims: [{name: x}]", "spec.resources.claims"),
            ("limits: {memory: 100Mi}", "spec.containers[0].resources.limits.memory"),
            ("limits: {memory: 200Mi}, requests: {memory: 300Mi}", "spec.resources.requests.memory"),
            ("limits: {ephemeral-storage: 1Gi}", "spec.resources.limits.ephemeral-storage"),
            ("limits: {hugepages-2Mi: 2Mi}", "spec.resources"),
            (
                "limits: {hugepages-2Mi: 0, cpu: 4}, requests: {hugepages-2Mi: 2Mi}",
                "spec.resources.requests.hugepages-2Mi",
            ),
            ("limits: {cpu: -1}", "spec.resources.limits.cpu"),
        ],
    );
    accepted(
        with,
        &[
            "",
            "limits: {cpu: 2, memory: 128Mi}",
            "requests: {cpu: 2, memory: 64Mi}",
            "limits: {memory: 1Gi, hugepages-2Mi: 4Mi}",
        ],
    );
}

#[test]
fn security_contexts_are_checked() {
    let at_pod = |x: &str| spec(&format!("securityContext: {{{x}}}"));
    refused(
        at_pod,
        &[
            ("fsGroup: 1", "spec.securityContext.fsGroup"),
            ("seccompProfile: {type: RuntimeDefault}", "spec.securityContext.seccompProfile.type"),
            ("runAsUser: -1", "spec.securityContext.runAsUser"),
            ("runAsUser: 2147483648", "spec.securityContext.runAsUser"),
            ("runAsUser: 4294967296", "spec.securityContext.runAsUser"),
            ("runAsGroup: -1", "spec.securityContext.runAsGroup"),
            ("supplementalGroups: [1, -1]", "spec.securityContext.supplementalGroups[1]"),
            ("supplementalGroupsPolicy: Strict", "spec.securityContext.supplementalGroupsPolicy"),
            ("runAsNonRoot: true, runAsUser: 0", "spec.securityContext.runAsNonRoot"),
            ("sysctls: [{name: kernel.core_pattern, value: '1'}]", "spec.securityContext.sysctls[0].name"),
            ("sysctls: [{name: net.ipv4.tcp_syncookies, value: ''}]", "spec.securityContext.sysctls[0].value"),
            (
                "sysctls: [{name: net.ipv4.tcp_syncookies, value: '1+kernel.core_pattern=x'}]",
                "spec.securityContext.sysctls[0].value",
            ),
            ("sysctls: [{name: net.ipv4.tcp_syncookies, value: \"1\\n2\"}]", "spec.securityContext.sysctls[0].value"),
            (
                "sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}, {name: net.ipv4.tcp_syncookies, value: '0'}]",
                "spec.securityContext.sysctls[1].name",
            ),
        ],
    );
    accepted(
        at_pod,
        &[
            "runAsUser: 2147483647, runAsGroup: 0, runAsNonRoot: true, supplementalGroups: [5], supplementalGroupsPolicy: Merge",
            "seccompProfile: {type: Unconfined}, sysctls: [{name: net.ipv4.ip_local_port_range, value: '1024 65535'}, {name: kernel.shm_rmid_forced, value: '1'}]",
        ],
    );
    refused(
        |x| {
            spec(&format!(
                "hostNetwork: true, hostIPC: true, securityContext: {{sysctls: [{{name: {x}, value: '1'}}]}}"
            ))
        },
        &[
            ("net.ipv4.tcp_syncookies", "spec.securityContext.sysctls[0].name"),
            ("kernel.shm_rmid_forced", "spec.securityContext.sysctls[0].name"),
        ],
    );
    let at_container = |x: &str| container(&format!("securityContext: {{{x}}}"));
    refused(
        at_container,
        &[
            ("runAsUser: -1", "spec.containers[0].securityContext.runAsUser"),
            ("runAsNonRoot: true, runAsUser: 0", "spec.containers[0].securityContext.runAsNonRoot"),
            ("capabilities: {add: [CAP_NET_ADMIN]}", "spec.containers[0].securityContext.capabilities.add[0]"),
            ("capabilities: {add: [net_admin]}", "spec.containers[0].securityContext.capabilities.add[0]"),
            ("capabilities: {drop: [NONE]}", "spec.containers[0].securityContext.capabilities.drop[0]"),
            (
                "privileged: true, allowPrivilegeEscalation: false",
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
            ),
            (
                "capabilities: {add: [SYS_ADMIN]}, allowPrivilegeEscalation: false",
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
            ),
            ("procMount: Open", "spec.containers[0].securityContext.procMount"),
            ("seccompProfile: {type: Localhost}", "spec.containers[0].securityContext.seccompProfile.type"),
            ("appArmorProfile: {type: Open}", "spec.containers[0].securityContext.appArmorProfile.type"),
            ("appArmorProfile: {type: ''}", "spec.containers[0].securityContext.appArmorProfile.type"),
            (
                "appArmorProfile: {type: Localhost}",
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile",
            ),
            (
                "appArmorProfile: {type: Localhost, localhostProfile: ' a'}",
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile",
            ),
            (
                "appArmorProfile: {type: Unconfined, localhostProfile: a}",
                "spec.containers[0].securityContext.appArmorProfile.localhostProfile",
            ),
            ("seLinuxOptions: {}", "spec.containers[0].securityContext.seLinuxOptions"),
            ("windowsOptions: {}", "spec.containers[0].securityContext.windowsOptions"),
        ],
    );
    accepted(
        at_container,
        &[
            "privileged: true, runAsUser: 0, readOnlyRootFilesystem: true, procMount: Unmasked",
            "capabilities: {add: [NET_ADMIN], drop: [ALL]}, allowPrivilegeEscalation: false",
            "capabilities: {add: [MKNOD]}",
            "capabilities: {add: [ALL]}",
            "appArmorProfile: {type: Unconfined}",
            "appArmorProfile: {type: Localhost, localhostProfile: a}",
        ],
    );
    let inherited = container_in("securityContext: {runAsUser: 0}", "securityContext: {runAsNonRoot: true},");
    assert!(
        inherited.len() == 1 && inherited[0].starts_with("spec.containers[0].securityContext.runAsNonRoot"),
        "{inherited:?}"
    );
    accepted(
        |x| container_in(x, "securityContext: {runAsNonRoot: true, runAsUser: 0},"),
        &["securityContext: {runAsUser: 5}"],
    );
}

#[test]
fn every_example_of_the_project_is_valid() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let files = std::fs::read_dir(dir).expect("examples").map(|f| f.expect("entry").path());
    let yaml: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "yaml")).collect();
    assert!(!yaml.is_empty());
    for file in yaml {
        let bytes = std::fs::read(&file).expect("readable");
        for mut pod in parse(&bytes, &file.to_string_lossy()).unwrap_or_else(|e| panic!("{e}")) {
            default(&mut pod);
            validate(&pod).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
    }
}

#[test]
fn hooks_restart_rules_and_stop_signals_are_taken() {
    let spec = "os: {name: linux}, activeDeadlineSeconds: 5, terminationGracePeriodSeconds: 3, \
        initContainers: [{name: i, image: x, restartPolicy: Always, lifecycle: {preStop: {sleep: {seconds: 0}}}}], \
        containers: [{name: c, image: x, restartPolicy: OnFailure, \
        restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: NotIn, values: [1, 2]}}], \
        lifecycle: {stopSignal: SIGRTMIN+3, postStart: {exec: {command: [a]}}, preStop: {sleep: {seconds: 3}}}}]";
    let text = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let check = |text: &str| {
        let mut pod = crate::manifest::parse(text.as_bytes(), "x").expect("parses").remove(0);
        crate::manifest::default(&mut pod);
        validate(&pod).map_err(|e| e.to_string())
    };
    assert_eq!(check(&text), Ok(()));
    let without = text.replace("restartPolicy: Always, ", "");
    assert!(check(&without).expect_err("no sidecar").contains("spec.initContainers[0].lifecycle: must not be set"));
    for signal in ["TERM", "SIGFOO", "SIGRTMIN+16", "SIGRTMAX-15", "SIGRTMIN+03"] {
        let wrong = text.replace("SIGRTMIN+3", signal);
        assert!(check(&wrong).expect_err(signal).contains("spec.containers[0].lifecycle.stopSignal"));
    }
}
