//! What a container does at its start and its end: hooks, stop signal, restarts.

use super::{Report, any, probe};
use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes, Lifecycle, LifecycleHandler, PodSpec, SleepAction,
};

/// So many rules, and exit codes in one, are taken.
const MAX_RULES: usize = 20;
const MAX_CODES: usize = 255;

/// Signals without `SIG` that Kubernetes knows on Linux; real-time ones are counted from either end.
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// An init container at this path whose end the others wait for: not one that shall run as long as the pod does.
pub(super) fn is_plain_init(c: &Container, path: &str) -> bool {
    path.starts_with("spec.initContainers") && c.restart_policy.as_deref() != Some("Always")
}

pub(super) fn check(c: &Container, path: &str, spec: &PodSpec, r: &mut Report) {
    let at = |field: &str| format!("{path}.{field}");
    check_restart(c, path, r);
    let Some(lifecycle) = &c.lifecycle else { return };
    if is_plain_init(c, path) {
        return r.add(at("lifecycle"), "must not be set for an init container without restartPolicy Always");
    }
    let Lifecycle { post_start, pre_stop, stop_signal } = lifecycle;
    for (field, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
        if let Some(handler) = handler {
            check_handler(handler, &at(&format!("lifecycle.{field}")), c, spec, r);
        }
    }
    if let Some(signal) = stop_signal {
        let path = at("lifecycle.stopSignal");
        if spec.os.as_ref().is_none_or(|os| os.name.is_empty()) {
            r.add(path.clone(), "must not be set without spec.os.name");
        }
        if !is_signal(signal) {
            r.add(path, format!("{signal:?} is no signal of linux, such as SIGTERM, SIGUSR1 or SIGRTMIN+3"));
        }
    }
}

fn is_signal(text: &str) -> bool {
    let Some(name) = text.strip_prefix("SIG") else { return false };
    let within = |number: &str, most: u32| {
        !number.starts_with('0') && number.parse::<u32>().is_ok_and(|n| (1..=most).contains(&n))
    };
    SIGNALS.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(|n| within(n, 15))
        || name.strip_prefix("RTMAX-").is_some_and(|n| within(n, 14))
}

fn check_handler(handler: &LifecycleHandler, path: &str, c: &Container, spec: &PodSpec, r: &mut Report) {
    let LifecycleHandler { exec, http_get, sleep, tcp_socket } = handler;
    let given = [exec.is_some(), http_get.is_some(), sleep.is_some(), tcp_socket.is_some()];
    match given.into_iter().filter(|given| *given).count() {
        0 => r.add(path, "must say what to do: exec, httpGet or sleep"),
        1 => {}
        _ => r.add(path, "must not say more than one thing to do"),
    }
    if let Some(exec) = exec {
        probe::check_exec(exec, &format!("{path}.exec"), r);
    }
    if let Some(http_get) = http_get {
        probe::check_http_get(http_get, &format!("{path}.httpGet"), c, r);
    }
    if let Some(SleepAction { seconds }) = sleep {
        let grace = spec.termination_grace_period_seconds.unwrap_or(30);
        if !(0..=grace).contains(seconds) {
            let message = format!("{seconds} must be between 0 and terminationGracePeriodSeconds, {grace}");
            r.add(format!("{path}.sleep.seconds"), message);
        }
    }
    if tcp_socket.is_some() {
        // The kubelet takes it, and fails each time it should run it.
        r.add(format!("{path}.tcpSocket"), "no kubelet runs such a hook; use exec or httpGet");
    }
}

fn check_restart(c: &Container, path: &str, r: &mut Report) {
    r.word(format!("{path}.restartPolicy"), &c.restart_policy, &["Always", "OnFailure", "Never"]);
    if !any(&c.restart_policy_rules) {
        return;
    }
    let rules = c.restart_policy_rules.as_deref().unwrap_or_default();
    let path_of_rules = format!("{path}.restartPolicyRules");
    if c.restart_policy.is_none() {
        r.add(format!("{path}.restartPolicy"), "required beside restartPolicyRules");
    }
    if rules.len() > MAX_RULES {
        r.add(path_of_rules.clone(), format!("{} are too many, at most {MAX_RULES} are allowed", rules.len()));
    }
    for (i, ContainerRestartRule { action, exit_codes }) in rules.iter().enumerate() {
        let path = format!("{path_of_rules}[{i}]");
        r.word(format!("{path}.action"), &Some(action.clone()), &["Restart", "RestartAllContainers"]);
        let Some(ContainerRestartRuleOnExitCodes { operator, values }) = exit_codes else {
            r.add(format!("{path}.exitCodes"), "required");
            continue;
        };
        r.word(format!("{path}.exitCodes.operator"), &Some(operator.clone()), &["In", "NotIn"]);
        let count = values.as_ref().map_or(0, Vec::len);
        if count > MAX_CODES {
            let message = format!("{count} are too many, at most {MAX_CODES} are allowed");
            r.add(format!("{path}.exitCodes.values"), message);
        }
    }
}
