//! `command`, `args` and `env` of a container against its image's ENTRYPOINT, CMD and ENV.

use super::{FieldError, Resources, quantity, resources};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// What a process gets as `PATH` when neither image nor manifest has one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a `resourceFieldRef` reads when the container has no limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// CPUs of the host, in thousandths.
    pub cpu_millis: u64,
    /// Memory of the host.
    pub memory_bytes: u64,
}

/// The fields that a pod has only once it has a network. What refers to one holds the field's path between two NUL bytes, which no other value can hold, until
/// [`settle`] puts the value there.
const LATE: [&str; 4] = ["status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"];

/// Does the text wait for a field that the pod has only once it has a network?
pub fn is_late(text: &str) -> bool {
    text.contains('\0')
}

/// The text with what `value` gives for the fields that it waits for.
pub fn settle(text: &str, value: &dyn Fn(&str) -> String) -> String {
    let parts = text.split('\0').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { value(part) } else { part.to_owned() }).collect()
}

/// The environment that the manifest declares, in its order, a later entry of the same name replacing the earlier in place. The error's path is relative
/// to the container.
///
/// Literals with `$(VAR)` of earlier entries, `fieldRef`, `resourceFieldRef`. `pod.metadata.uid` must be set. `node` is called when a
/// reference reads the host. What is known only later is for [`settle`].
///
/// # Errors
/// A reference that can't be resolved here, e.g. to a ConfigMap.
pub fn env(c: &Container, pod: &Pod, node: &dyn Fn() -> Node) -> Result<Vec<(String, String)>, FieldError> {
    let mut declared: Vec<(String, String)> = Vec::new();
    for (i, var) in c.env.iter().flatten().enumerate() {
        let value = match &var.value_from {
            Some(from) => referenced(from, c, pod, node)
                .map_err(|e| FieldError { path: format!("env[{i}].valueFrom{}", e.path), ..e })?,
            None => expand(var.value.as_deref().unwrap_or_default(), &declared),
        };
        set(&mut declared, &var.name, value);
    }
    Ok(declared)
}

/// The whole environment as `NAME=value`: `HOSTNAME` (and `TERM` with a terminal), then the image's, then the declared one, later names replacing
/// earlier ones in place; a `PATH` when nobody gave one.
pub fn environment(image_env: &[String], declared: &[(String, String)], hostname: &str, tty: bool) -> Vec<String> {
    let mut all = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())];
    if tty {
        set(&mut all, "TERM", "xterm".to_owned());
    }
    for var in image_env {
        let (name, value) = var.split_once('=').unwrap_or((var, ""));
        set(&mut all, name, value.to_owned());
    }
    for (name, value) in declared {
        set(&mut all, name, value.clone());
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn set(vars: &mut Vec<(String, String)>, name: &str, value: String) {
    match vars.iter_mut().find(|(n, _)| n == name) {
        Some(var) => var.1 = value,
        None => vars.push((name.to_owned(), value)),
    }
}

/// The process's arguments. `command` replaces ENTRYPOINT and drops CMD, `args` replaces CMD; `$(VAR)` is looked up in `declared`
/// (what [`env()`] gave; the image's variables don't count, as in Kubernetes), `$$` is `$`, an unknown name stays as written.
///
/// # Errors
/// When nothing is left to execute.
pub fn argv(
    c: &Container,
    entrypoint: &[String],
    cmd: &[String],
    declared: &[(String, String)],
) -> Result<Vec<String>, FieldError> {
    let ours =
        |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|s| expand(s, declared)).collect() };
    let (command, args) = (ours(&c.command), ours(&c.args));
    let argv = match (command.is_empty(), args.is_empty()) {
        (false, _) => [command, args].concat(),
        (true, false) => [entrypoint.to_vec(), args].concat(),
        (true, true) => [entrypoint, cmd].concat(),
    };
    match argv.first() {
        None => Err(FieldError {
            path: "command".to_owned(),
            message: "nothing to run: the image has neither ENTRYPOINT nor CMD; say what to run in command".to_owned(),
        }),
        Some(first) if first.is_empty() => Err(FieldError {
            path: "command[0]".to_owned(),
            message: "nothing to run: the name of the program is empty".to_owned(),
        }),
        Some(_) => Ok(argv),
    }
}

/// Expands `$(VAR)` and `$$` as Kubernetes does: an unknown `$(VAR)` and any other `$` stay as written.
pub fn expand(s: &str, declared: &[(String, String)]) -> String {
    let mut out = String::with_capacity(s.len());
    let mut rest = s;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match declared.iter().find(|(n, _)| n == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn referenced(from: &EnvVarSource, c: &Container, pod: &Pod, node: &dyn Fn() -> Node) -> Result<String, FieldError> {
    match from {
        EnvVarSource { field_ref: Some(field), .. } => {
            field_value(field, pod).map_err(|message| FieldError { path: ".fieldRef.fieldPath".to_owned(), message })
        }
        EnvVarSource { resource_field_ref: Some(resource), .. } => resource_value(resource, c, pod, node)
            .map_err(|message| FieldError { path: ".resourceFieldRef".to_owned(), message }),
        _ => Err(FieldError {
            path: String::new(),
            message: "only fieldRef and resourceFieldRef are supported so far".to_owned(),
        }),
    }
}

/// The fields of a pod that an environment variable may hold.
pub(super) fn field_value(field: &ObjectFieldSelector, pod: &Pod) -> Result<String, String> {
    let meta = &pod.metadata;
    let keyed = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default()
    };
    let path = field.field_path.as_str();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(keyed(&meta.labels, key));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(keyed(&meta.annotations, key));
    }
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()).ok_or_else(|| {
            "spec.nodeName is not set in this pod; nothing schedules it, so give it in the manifest".to_owned()
        }),
        "spec.serviceAccountName" => {
            let name = spec.and_then(|s| s.service_account_name.clone()).filter(|n| !n.is_empty());
            Ok(name.unwrap_or_else(|| "default".to_owned()))
        }
        _ if LATE.contains(&path) => Ok(format!("\0{path}\0")),
        _ => Err(format!(
            "{path:?} is not a field that a variable can hold; use metadata.name, metadata.namespace, metadata.uid, \
             metadata.labels['KEY'], metadata.annotations['KEY'], spec.nodeName, spec.serviceAccountName, status.podIP, status.podIPs, \
             status.hostIP or status.hostIPs"
        )),
    }
}

fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']").filter(|k| !k.is_empty())
}

fn resource_value(
    selector: &ResourceFieldSelector,
    own: &Container,
    pod: &Pod,
    node: &dyn Fn() -> Node,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = if name.is_empty() {
        own
    } else {
        let spec = pod.spec.as_ref().ok_or("the pod has no containers")?;
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        all.find(|c| c.name == name).ok_or_else(|| format!("containerName {name:?} is no container of this pod"))?
    };
    let Resources { cpu_request_millis, cpu_limit_millis, memory_request_bytes, memory_limit_bytes, .. } =
        resources(container).map_err(|e| e.to_string())?;
    // The node's own amount where there is no limit, and zero where there is no request: the kubelet's choice.
    let (amount, is_cpu) = match selector.resource.as_str() {
        "limits.cpu" => (cpu_limit_millis.unwrap_or_else(|| node().cpu_millis), true),
        "limits.memory" => (memory_limit_bytes.unwrap_or_else(|| node().memory_bytes), false),
        "requests.cpu" => (cpu_request_millis.unwrap_or(0), true),
        "requests.memory" => (memory_request_bytes.unwrap_or(0), false),
        other => return Err(resource_name_error(other)),
    };
    let divisor = divisor_of(selector, is_cpu)?;
    Ok(amount.div_ceil(divisor).to_string())
}

fn resource_name_error(name: &str) -> String {
    format!("resource {name:?} is not supported; use limits.cpu, limits.memory, requests.cpu or requests.memory")
}

/// In thousandths of a CPU, or bytes.
fn divisor_of(selector: &ResourceFieldSelector, is_cpu: bool) -> Result<u64, String> {
    let text = selector.divisor.as_ref().map_or("", |d| d.0.as_str());
    let (allowed, unset): (&[&str], u64) = if is_cpu {
        (&["1m", "1"], 1000)
    } else {
        (&["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"], 1)
    };
    if matches!(text, "" | "0") {
        return Ok(unset);
    }
    if !allowed.contains(&text) {
        return Err(format!("divisor {text:?} is none of {}", allowed.join(", ")));
    }
    let q = quantity(text).map_err(|e| format!("divisor {text:?} is {e}"))?;
    let n = if is_cpu { q.millis() } else { q.value() };
    n.filter(|n| *n > 0).ok_or_else(|| format!("divisor {text:?} is too large"))
}

/// Checks a `valueFrom` without resolving what only a running pod has.
pub(super) fn check_source(from: &EnvVarSource, c: &Container, pod: &Pod) -> Result<(), FieldError> {
    let node = || Node { cpu_millis: 1000, memory_bytes: 1 << 30 };
    referenced(from, c, pod, &node).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{default, parse};

    const NODE: Node = Node { cpu_millis: 8000, memory_bytes: 16 << 30 };

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn vars(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn pod(container: &str) -> Pod {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: demo, uid: u-1, labels: {{app: web}}, annotations: {{'example.com/a': note}}}}, \
             spec: {{nodeName: here, containers: [{{name: c, image: x, {container}}}, {{name: other, image: x, resources: {{limits: {{memory: 1Gi, cpu: 1500m}}}}}}]}}}}"
        );
        let mut pod = parse(text.as_bytes(), "x").unwrap_or_else(|e| panic!("{e}")).remove(0);
        default(&mut pod);
        pod
    }

    fn env_of(container: &str) -> Result<Vec<(String, String)>, FieldError> {
        let pod = pod(container);
        env(&pod.spec.as_ref().expect("spec").containers[0], &pod, &|| NODE)
    }

    #[test]
    fn references_expand_as_in_kubernetes() {
        let known = vars(&[("A", "1"), ("B", "$(A)"), ("", "empty")]);
        for (text, want) in [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$(NONE)", "$(NONE)"),
            ("$(A", "$(A"),
            ("$A $ $", "$A $ $"),
            ("$", "$"),
            ("$()", "empty"),
            ("$(A)$(NONE)$$", "1$(NONE)$"),
            ("$(A $(A)", "$(A $(A)"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(text, &known), want, "{text}");
        }
    }

    #[test]
    fn command_and_args_override_the_image() {
        let entrypoint = strings(&["/entry"]);
        let cmd = strings(&["cmd"]);
        let known = vars(&[("A", "1")]);
        for (command, args, want) in [
            (None, None, strings(&["/entry", "cmd"])),
            (Some(strings(&["run"])), None, strings(&["run"])),
            (None, Some(strings(&["$(A)"])), strings(&["/entry", "1"])),
            (Some(strings(&["run"])), Some(strings(&["$$(A)"])), strings(&["run", "$(A)"])),
            (Some(vec![]), Some(vec![]), strings(&["/entry", "cmd"])),
        ] {
            let c = Container { command, args, ..Default::default() };
            assert_eq!(argv(&c, &entrypoint, &cmd, &known).expect("argv"), want);
        }
        let none = Container::default();
        assert_eq!(argv(&none, &[], &[], &[]).expect_err("nothing").path, "command");
        assert_eq!(argv(&none, &strings(&[""]), &[], &[]).expect_err("empty").path, "command[0]");
        assert_eq!(argv(&none, &strings(&["$(A)"]), &[], &known).expect("image is literal"), strings(&["$(A)"]));
    }

    #[test]
    fn declared_variables_see_the_earlier_ones() {
        let got = env_of(
            "env: [{name: A, value: a}, {name: B, value: $(A)b}, {name: C, value: $(D)}, {name: D}, {name: A, value: $(B)2}]",
        );
        assert_eq!(got.expect("env"), vars(&[("A", "ab2"), ("B", "ab"), ("C", "$(D)"), ("D", "")]));
    }

    #[test]
    fn addresses_are_filled_in_when_they_are_known() {
        let declared = env_of(
            "env: [{name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}, {name: URL, value: 'http://$(IPS):80/$(HOST)'}, \
             {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}, {name: BOTH, value: $(HOST)-$(IPS)}]",
        );
        let value = |path: &str| format!("<{path}>");
        let settled: Vec<String> = declared.expect("env").iter().map(|(_, text)| settle(text, &value)).collect();
        assert_eq!(
            settled,
            [
                "<status.podIPs>",
                "http://<status.podIPs>:80/$(HOST)",
                "<status.hostIP>",
                "<status.hostIP>-<status.podIPs>"
            ]
        );
        assert!(!is_late("10.0.0.1"));
        assert_eq!(settle("plain", &value), "plain");
    }

    #[test]
    fn fields_of_the_pod_are_read() {
        for (path, want) in [
            ("metadata.name", "demo"),
            ("metadata.namespace", "default"),
            ("metadata.uid", "u-1"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['example.com/a']", "note"),
            ("spec.nodeName", "here"),
            ("spec.serviceAccountName", "default"),
        ] {
            let got = env_of(&format!("env: [{{name: A, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]"));
            assert_eq!(got.expect("env"), vars(&[("A", want)]), "{path}");
        }
        for path in ["status.phase", "metadata.labels", "spec.containers", ""] {
            let got = env_of(&format!("env: [{{name: A, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]"));
            assert_eq!(got.expect_err("refused").path, "env[0].valueFrom.fieldRef.fieldPath", "{path}");
        }
        let other = env_of("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]").expect_err("refused");
        assert_eq!(other.path, "env[0].valueFrom");
    }

    #[test]
    fn resources_are_read_with_a_divisor() {
        for (reference, want) in [
            ("resource: limits.cpu", "8"),
            ("resource: limits.memory", "17179869184"),
            ("resource: requests.cpu", "0"),
            ("containerName: other, resource: limits.cpu", "2"),
            ("containerName: other, resource: limits.cpu, divisor: 1m", "1500"),
            ("containerName: other, resource: requests.memory, divisor: 1Mi", "1024"),
            ("containerName: other, resource: requests.memory, divisor: 1M", "1074"),
        ] {
            let got = env_of(&format!("env: [{{name: A, valueFrom: {{resourceFieldRef: {{{reference}}}}}}}]"));
            assert_eq!(got.expect("env"), vars(&[("A", want)]), "{reference}");
        }
        for reference in [
            "resource: limits.gpu",
            "containerName: nobody, resource: limits.cpu",
            "resource: limits.cpu, divisor: 1k",
            "resource: limits.memory, divisor: 1m",
        ] {
            let got = env_of(&format!("env: [{{name: A, valueFrom: {{resourceFieldRef: {{{reference}}}}}}}]"));
            assert_eq!(got.expect_err("refused").path, "env[0].valueFrom.resourceFieldRef", "{reference}");
        }
    }

    #[test]
    fn the_manifest_overrides_the_image_in_place() {
        let image = strings(&["PATH=/bin", "LANG=C", "EMPTY", "A==x"]);
        let all = environment(&image, &vars(&[("LANG", "de"), ("NEW", "1")]), "demo", false);
        assert_eq!(all, strings(&["PATH=/bin", "HOSTNAME=demo", "LANG=de", "EMPTY=", "A==x", "NEW=1"]));
        let bare = environment(&[], &[], "demo", true);
        assert_eq!(bare, [format!("PATH={DEFAULT_PATH}"), "HOSTNAME=demo".to_owned(), "TERM=xterm".to_owned()]);
    }
}
