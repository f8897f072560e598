//! Probes of a manifest as the record has them: defaults filled in, ports looked up.

use k8s_openapi::api::core::v1::{self, Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::manifest::command;
use crate::probe::{Handler, HttpGet, Probe, Probes};

/// Those of a container that was validated.
///
/// # Errors
/// The field below the container, and what is wrong with it.
pub fn of(c: &Container) -> Result<Probes, (String, String)> {
    let one = |field: &str, probe: &Option<v1::Probe>| match probe {
        None => Ok(None),
        Some(probe) => {
            self::probe(c, probe).map(|p| Some(Box::new(p))).map_err(|(at, what)| (format!("{field}.{at}"), what))
        }
    };
    Ok(Probes {
        startup: one("startupProbe", &c.startup_probe)?,
        liveness: one("livenessProbe", &c.liveness_probe)?,
        readiness: one("readinessProbe", &c.readiness_probe)?,
    })
}

fn probe(c: &Container, p: &v1::Probe) -> Result<Probe, (String, String)> {
    let handler = if let Some(exec) = &p.exec {
        // As the kubelet: only what needs no look at pod or node.
        let mut known: Vec<(String, String)> = Vec::new();
        for var in c.env.iter().flatten().filter(|var| var.value_from.is_none()) {
            let value = command::expand(var.value.as_deref().unwrap_or_default(), &known);
            known.retain(|(name, _)| *name != var.name);
            known.push((var.name.clone(), value));
        }
        Handler::Exec { command: exec.command.iter().flatten().map(|word| command::expand(word, &known)).collect() }
    } else if let Some(action) = &p.http_get {
        Handler::HttpGet(http_get(c, action).map_err(|what| ("httpGet.port".to_owned(), what))?)
    } else if let Some(action) = &p.tcp_socket {
        let port = port(c, &action.port).map_err(|what| ("tcpSocket.port".to_owned(), what))?;
        Handler::TcpSocket { host: action.host.clone().filter(|host| !host.is_empty()), port }
    } else if let Some(action) = &p.grpc {
        let port = number(action.port).map_err(|what| ("grpc.port".to_owned(), what))?;
        Handler::Grpc { port, service: action.service.clone().unwrap_or_default() }
    } else {
        return Err(("exec".into(), "a probe needs a handler".into()));
    };
    let positive = |value: Option<i32>, default: u32| {
        value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
    };
    Ok(Probe {
        handler,
        initial_delay_seconds: positive(p.initial_delay_seconds, 0),
        timeout_seconds: positive(p.timeout_seconds, 1),
        period_seconds: positive(p.period_seconds, 10),
        success_threshold: positive(p.success_threshold, 1),
        failure_threshold: positive(p.failure_threshold, 3),
        grace_seconds: p.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok()),
    })
}

/// `httpGet` of a probe or a hook.
///
/// # Errors
/// Its port is none.
pub fn http_get(c: &Container, action: &HTTPGetAction) -> Result<HttpGet, String> {
    Ok(HttpGet {
        host: action.host.clone().filter(|host| !host.is_empty()),
        port: port(c, &action.port)?,
        tls: action.scheme.as_deref() == Some("HTTPS"),
        path: action.path.clone().unwrap_or_else(|| "/".to_owned()),
        headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

fn port(c: &Container, port: &IntOrString) -> Result<u16, String> {
    match port {
        IntOrString::Int(n) => number(*n),
        IntOrString::String(name) => {
            let named = c.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            named.map_or_else(|| Err(format!("no port is called {name:?}")), |p| number(p.container_port))
        }
    }
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("{port} is no port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(text: &str) -> Container {
        serde_json::from_str(text).expect("a container")
    }

    #[test]
    fn a_port_is_that_of_the_containers_own_name_and_numbers_have_their_defaults() {
        for port in [80, 81] {
            let made = of(&container(&format!(
                r#"{{"name": "c", "ports": [{{"name": "web", "containerPort": {port}}}], "livenessProbe": {{"tcpSocket": {{"port": "web"}}}}}}"#
            )))
            .expect("a probe");
            let want = Probe {
                handler: Handler::TcpSocket { host: None, port },
                initial_delay_seconds: 0,
                timeout_seconds: 1,
                period_seconds: 10,
                success_threshold: 1,
                failure_threshold: 3,
                grace_seconds: None,
            };
            assert_eq!(made.liveness.as_deref(), Some(&want));
        }
        let nowhere = container(r#"{"name": "c", "livenessProbe": {"tcpSocket": {"port": "web"}}}"#);
        let (field, what) = of(&nowhere).expect_err("no such port");
        assert!(field.ends_with("tcpSocket.port") && what.contains("web"), "{field}: {what}");
    }
}
