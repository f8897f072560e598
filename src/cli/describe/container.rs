//! The containers of a pod, as `kubectl describe` tells of them.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateTerminated, ContainerStatus, EnvVar, EphemeralContainer,
    Probe, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sheet::Sheet;
use super::time;

/// What `v1.Pod` does not tell of a container.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// How many of its processes were killed for want of memory; `None`: none.
    pub oom_kills: Option<u64>,
    /// `NAME=value`, with every reference looked up.
    pub env: Vec<String>,
}

/// One container, its name on the first line.
pub fn describe(sheet: &mut Sheet, c: &Container, status: Option<&ContainerStatus>, more: &More) {
    sheet.line(1, format!("{}:", c.name));
    if let Some(status) = status {
        sheet.field(2, "Container ID", status.container_id.as_deref().unwrap_or_default());
    }
    sheet.field(2, "Image", c.image.as_deref().unwrap_or_default());
    if let Some(status) = status {
        sheet.field(2, "Image ID", &status.image_id);
    }
    let given = c.ports.as_deref().unwrap_or_default();
    ports(sheet, "Port", given, |port| port.container_port);
    ports(sheet, "Host Port", given, |port| port.host_port.unwrap_or(0));
    let seccomp = c.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    sheet.optional(2, "SeccompProfile", seccomp.map(|profile| &profile.type_));
    sheet.optional(3, "LocalhostProfile", seccomp.and_then(|profile| profile.localhost_profile.as_ref()));
    for (name, words) in [("Command", &c.command), ("Args", &c.args)] {
        if let Some(words) = words.as_ref().filter(|words| !words.is_empty()) {
            sheet.line(2, format!("{name}:"));
            // A script in an argument is shown as the lines it has.
            words.iter().flat_map(|word| word.split('\n')).for_each(|line| sheet.line(3, line));
        }
    }
    if let Some(status) = status {
        state(sheet, "State", status.state.as_ref());
        if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            state(sheet, "Last State", status.last_state.as_ref());
        }
        sheet.field(2, "Ready", if status.ready { "True" } else { "False" });
        sheet.field(2, "Restart Count", status.restart_count);
        sheet.optional(2, "OOM Kills", more.oom_kills);
    }
    resources(sheet, 2, c.resources.as_ref());
    let probes = [("Liveness", &c.liveness_probe), ("Readiness", &c.readiness_probe), ("Startup", &c.startup_probe)];
    for (name, it) in probes {
        sheet.optional(2, name, it.as_ref().map(probe));
    }
    env_from(sheet, c);
    env(sheet, c, more);
    mounts(sheet, c);
}

/// An ephemeral container as far as it is described like any other.
pub fn of_ephemeral(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        ports: c.ports.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        resources: c.resources.clone(),
        security_context: c.security_context.clone(),
        env_from: c.env_from.clone(),
        env: c.env.clone(),
        volume_mounts: c.volume_mounts.clone(),
        ..Container::default()
    }
}

fn ports(sheet: &mut Sheet, name: &str, ports: &[ContainerPort], number: impl Fn(&ContainerPort) -> i32) {
    let text = |port: &ContainerPort| {
        let given = port.name.as_deref().filter(|name| !name.is_empty());
        let given = given.map(|name| format!(" ({name})")).unwrap_or_default();
        format!("{}/{}{given}", number(port), port.protocol.as_deref().unwrap_or("TCP"))
    };
    let all: Vec<String> = ports.iter().map(text).collect();
    match all.len() {
        0 => sheet.field(2, name, "<none>"),
        1 => sheet.field(2, name, &all[0]),
        _ => sheet.field(2, &format!("{name}s"), all.join(", ")),
    }
}

/// `Limits` and `Requests`, where there are any.
pub fn resources(sheet: &mut Sheet, level: usize, resources: Option<&ResourceRequirements>) {
    let Some(resources) = resources else { return };
    for (name, quantities) in [("Limits", &resources.limits), ("Requests", &resources.requests)] {
        if let Some(quantities) = quantities.as_ref().filter(|quantities| !quantities.is_empty()) {
            sheet.line(level, format!("{name}:"));
            quantities.iter().for_each(|(what, quantity)| sheet.field(level + 1, what, &quantity.0));
        }
    }
}

fn state(sheet: &mut Sheet, name: &str, state: Option<&ContainerState>) {
    let state = state.cloned().unwrap_or_default();
    if let Some(running) = &state.running {
        sheet.field(2, name, "Running");
        sheet.optional(3, "Started", running.started_at.as_ref().map(time));
    } else if let Some(end) = &state.terminated {
        sheet.field(2, name, "Terminated");
        ended(sheet, end);
    } else {
        sheet.field(2, name, "Waiting");
        let waiting = state.waiting.unwrap_or_default();
        sheet.optional(3, "Reason", waiting.reason.filter(|reason| !reason.is_empty()));
        sheet.optional(3, "Message", waiting.message.filter(|message| !message.is_empty()));
    }
}

fn ended(sheet: &mut Sheet, end: &ContainerStateTerminated) {
    sheet.optional(3, "Reason", end.reason.as_deref().filter(|reason| !reason.is_empty()));
    // A container's last words may be several lines.
    let message = end.message.as_deref().map(str::trim_end).filter(|message| !message.is_empty());
    if let Some(message) = message {
        sheet.list(3, "Message", message.split('\n').map(str::to_owned));
    }
    sheet.field(3, "Exit Code", end.exit_code);
    sheet.optional(3, "Signal", end.signal.filter(|signal| *signal > 0));
    sheet.optional(3, "Started", end.started_at.as_ref().map(time));
    sheet.optional(3, "Finished", end.finished_at.as_ref().map(time));
}

/// `http-get http://:8080/healthz delay=0s timeout=1s period=10s #success=1 #failure=3`
fn probe(probe: &Probe) -> String {
    let number = |n: Option<i32>, default| n.unwrap_or(default);
    let numbers = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number(probe.initial_delay_seconds, 0),
        number(probe.timeout_seconds, 1),
        number(probe.period_seconds, 10),
        number(probe.success_threshold, 1),
        number(probe.failure_threshold, 3),
    );
    let handler = if let Some(exec) = &probe.exec {
        format!("exec [{}]", exec.command.as_deref().unwrap_or_default().join(" "))
    } else if let Some(get) = &probe.http_get {
        let host = match get.host.as_deref().unwrap_or_default() {
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let path = get.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("http-get {scheme}://{host}:{}{slash}{path}", port(&get.port))
    } else if let Some(socket) = &probe.tcp_socket {
        format!("tcp-socket {}:{}", socket.host.as_deref().unwrap_or_default(), port(&socket.port))
    } else if let Some(grpc) = &probe.grpc {
        format!("grpc <pod>:{} {}", grpc.port, grpc.service.as_deref().unwrap_or_default())
    } else {
        "unknown".into()
    };
    format!("{handler} {numbers}")
}

fn port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn env_from(sheet: &mut Sheet, c: &Container) {
    let Some(sources) = c.env_from.as_ref().filter(|sources| !sources.is_empty()) else { return };
    sheet.line(2, "Environment Variables from:");
    for source in sources {
        let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(it), _) => ("ConfigMap", &it.name, it.optional),
            (None, Some(it)) => ("Secret", &it.name, it.optional),
            (None, None) => continue,
        };
        let prefix = source.prefix.as_deref().filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| format!(" with prefix '{prefix}'")).unwrap_or_default();
        let optional = format!("Optional: {}", optional.unwrap_or(false));
        sheet.cells(3, [name.clone(), format!("{kind}{prefix}"), optional]);
    }
}

fn env(sheet: &mut Sheet, c: &Container, more: &More) {
    let all = c.env.as_deref().unwrap_or_default();
    if all.is_empty() {
        return sheet.field(2, "Environment", "<none>");
    }
    sheet.line(2, "Environment:");
    for variable in all {
        let name = format!("{}:", variable.name);
        match reference(variable, more) {
            Some(rest) => sheet.cells(3, [name].into_iter().chain(rest)),
            None => {
                let mut lines = variable.value.as_deref().unwrap_or_default().split('\n');
                sheet.cells(3, [&name, lines.next().unwrap_or_default()]);
                lines.for_each(|line| sheet.cells(3, ["", line]));
            }
        }
    }
}

/// What is told of a variable whose value stands elsewhere; in cells.
fn reference(variable: &EnvVar, more: &More) -> Option<Vec<String>> {
    let from = variable.value_from.as_ref()?;
    let known = more.env.iter().filter_map(|known| known.split_once('='));
    let value =
        known.filter(|(name, _)| *name == variable.name).map(|(_, value)| value).next_back().unwrap_or_default();
    if let Some(field) = &from.field_ref {
        let version = field.api_version.as_deref().unwrap_or("v1");
        return Some(vec![format!("{value} ({version}:{})", field.field_path)]);
    }
    if let Some(resource) = &from.resource_field_ref {
        return Some(vec![format!("{value} ({})", resource.resource)]);
    }
    let (place, key, optional) = match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(it), _) => (format!("in secret '{}'", it.name), &it.key, it.optional),
        (None, Some(it)) => (format!("of config map '{}'", it.name), &it.key, it.optional),
        (None, None) => return Some(vec![value.to_owned()]),
    };
    Some(vec![format!("<set to the key '{key}' {place}>"), format!("Optional: {}", optional.unwrap_or(false))])
}

fn mounts(sheet: &mut Sheet, c: &Container) {
    let mut mounts: Vec<_> = c.volume_mounts.iter().flatten().collect();
    if mounts.is_empty() {
        return sheet.field(2, "Mounts", "<none>");
    }
    sheet.line(2, "Mounts:");
    mounts.sort_by_key(|mount| &mount.mount_path);
    for mount in mounts {
        let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
        let sub_path = mount.sub_path.as_ref().filter(|path| !path.is_empty());
        let sub_path = sub_path.map(|path| format!(",path={path:?}")).unwrap_or_default();
        sheet.line(3, format!("{} from {} ({mode}{sub_path})", mount.mount_path, mount.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(it: Value) -> String {
        probe(&serde_json::from_value(it).expect("a probe"))
    }

    #[test]
    fn probes_read_as_kubectl_prints_them() {
        let rest = "delay=0s timeout=1s period=10s #success=1 #failure=3";
        let table = [
            (json!({"exec": {"command": ["cat", "/tmp/up"]}}), "exec [cat /tmp/up]"),
            (json!({"httpGet": {"port": 8080, "path": "/up"}}), "http-get http://:8080/up"),
            (json!({"httpGet": {"port": "web", "scheme": "HTTPS", "host": "::1"}}), "http-get https://[::1]:web/"),
            (json!({"tcpSocket": {"port": 5432}}), "tcp-socket :5432"),
            (json!({"grpc": {"port": 9, "service": "db"}}), "grpc <pod>:9 db"),
        ];
        for (it, begins) in table {
            assert_eq!(told(it), format!("{begins} {rest}"));
        }
        let slow = json!({"tcpSocket": {"port": 1}, "initialDelaySeconds": 5, "timeoutSeconds": 2, "periodSeconds": 3,
            "successThreshold": 4, "failureThreshold": 6});
        assert_eq!(told(slow), "tcp-socket :1 delay=5s timeout=2s period=3s #success=4 #failure=6");
    }
}
