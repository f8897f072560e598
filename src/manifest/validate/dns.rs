//! Names and name servers: `hostname` and its kin, `hostAliases`, `dnsPolicy` and `dnsConfig`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};

use super::{Report, names};
use crate::manifest::dns::{HOSTNAME_LIMIT, NAMESERVERS, SEARCH_CHARACTERS, SEARCHES, host_and_domain};

pub(super) fn check(pod: &Pod, spec: &PodSpec, r: &mut Report) {
    let at = |field: &str| format!("spec.{field}");
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    for (field, text) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(text) = given(text) {
            r.name(at(field), &text, names::dns_label);
        }
    }
    let as_fqdn = spec.set_hostname_as_fqdn == Some(true);
    if let Some(name) = &spec.hostname_override {
        r.name(at("hostnameOverride"), name, names::dns_subdomain);
        if name.len() > HOSTNAME_LIMIT {
            r.add(at("hostnameOverride"), format!("must be no more than {HOSTNAME_LIMIT} characters"));
        }
        if spec.host_network == Some(true) {
            r.add(at("hostnameOverride"), "must not be set together with hostNetwork: the host's name stays");
        }
        if as_fqdn {
            r.add(at("setHostnameAsFQDN"), "must not be true together with hostnameOverride");
        }
    }
    let (host, domain) = host_and_domain(pod);
    let fqdn = format!("{host}.{domain}");
    if as_fqdn && !domain.is_empty() && fqdn.len() > HOSTNAME_LIMIT {
        let what = format!("the name {fqdn} has {} characters, {HOSTNAME_LIMIT} is the kernel's limit", fqdn.len());
        r.add(at("setHostnameAsFQDN"), what);
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = |field: &str| format!("spec.hostAliases[{i}].{field}");
        ip(r, at("ip"), &alias.ip);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            r.name(format!("{}[{j}]", at("hostnames")), name, names::dns_subdomain);
        }
    }
    // Without a cluster's DNS the first three mean the host's resolv.conf, as for the kubelet.
    r.word(at("dnsPolicy"), &spec.dns_policy, &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]);
    let none = spec.dns_policy.as_deref() == Some("None");
    match &spec.dns_config {
        None if none => r.add(at("dnsConfig"), "required with dnsPolicy None"),
        None => {}
        Some(config) => {
            if none && config.nameservers.iter().flatten().next().is_none() {
                r.add(at("dnsConfig.nameservers"), "required with dnsPolicy None");
            }
            dns_config(r, config);
        }
    }
}

fn dns_config(r: &mut Report, config: &PodDNSConfig) {
    let at = |field: &str| format!("spec.dnsConfig.{field}");
    let PodDNSConfig { nameservers, options, searches } = config;
    let (nameservers, searches) = (nameservers.as_deref().unwrap_or_default(), searches.as_deref().unwrap_or_default());
    if nameservers.len() > NAMESERVERS {
        r.add(at("nameservers"), format!("must not have more than {NAMESERVERS} nameservers"));
    }
    for (i, server) in nameservers.iter().enumerate() {
        ip(r, format!("{}[{i}]", at("nameservers")), server);
    }
    if searches.len() > SEARCHES {
        r.add(at("searches"), format!("must not have more than {SEARCHES} search paths"));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS {
        r.add(
            at("searches"),
            format!("must not have more than {SEARCH_CHARACTERS} characters, with the blanks between"),
        );
    }
    for (i, search) in searches.iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        // Names of services may begin with an underscore, and a single dot is the root.
        let plain = name.replace('_', "a");
        if search != "."
            && let Err(e) = names::dns_subdomain(&plain)
        {
            r.add(format!("{}[{i}]", at("searches")), format!("{search:?} {e}"));
        }
    }
    for (i, option) in options.iter().flatten().enumerate() {
        let words = [option.name.as_deref(), option.value.as_deref()];
        let strange = |word: &str| word.chars().any(|c| c.is_whitespace() || c.is_control());
        if option.name.as_deref().is_none_or(str::is_empty) {
            r.add(format!("{}[{i}].name", at("options")), "required");
        } else if words.into_iter().flatten().any(strange) {
            r.add(format!("{}[{i}]", at("options")), "must not hold blanks or control characters");
        }
    }
}

fn ip(r: &mut Report, path: String, text: &str) {
    if text.parse::<IpAddr>().is_err() {
        r.add(path, format!("{text:?} is no IP address"));
    }
}
