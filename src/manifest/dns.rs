//! What a pod is called, by itself and by others: host names, `hosts` files and `resolv.conf`, as the kubelet and a cluster's DNS would have them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodSpec};
use serde::{Deserialize, Serialize};

/// The domain of a cluster that nobody has given another one.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// `HOST_NAME_MAX`, see gethostname(2).
pub const HOSTNAME_LIMIT: usize = 64;
/// Most resolvers take as many name servers.
pub const NAMESERVERS: usize = 3;
/// The kubelet's limits on search paths.
pub const SEARCHES: usize = 32;
/// All of them, with a blank between.
pub const SEARCH_CHARACTERS: usize = 2048;

/// Between a pod's own part of its hosts file and the names of others.
const PEERS: &str = "# Pods of this host.\n";
/// musl reads lines of 511 bytes.
const LINE_LIMIT: usize = 480;

/// The name that the pod's UTS namespace gets: `spec.hostnameOverride`; else `spec.hostname` or the pod's name, at most 63 bytes without a `-` or `.` at the
/// end, and with `spec.setHostnameAsFQDN` its domain behind it.
pub fn hostname(pod: &Pod) -> String {
    let (host, domain) = host_and_domain(pod);
    let as_fqdn = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    if as_fqdn && !domain.is_empty() { format!("{host}.{domain}") } else { host }
}

/// Host name and domain, the second empty without a `spec.subdomain`.
pub fn host_and_domain(pod: &Pod) -> (String, String) {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.as_deref()).filter(|h| !h.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let domain = domain.map(|sub| format!("{sub}.{namespace}.svc.{CLUSTER_DOMAIN}")).unwrap_or_default();
    (first_label(pod), domain)
}

/// `spec.hostname` or the pod's name, cut.
fn first_label(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|s| s.hostname.as_deref()).filter(|h| !h.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    // Validated names are ASCII, so every index is a boundary.
    let short = name.get(..63).unwrap_or(name);
    short.trim_end_matches(['-', '.']).to_owned()
}

/// A pod that others can find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.hostname`, or the name, cut.
    pub hostname: String,
    /// `spec.hostnameOverride`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// `spec.subdomain`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subdomain: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Known {
    /// What others know of a pod with these addresses.
    pub fn new(pod: &Pod, ips: &[IpAddr]) -> Known {
        let spec = pod.spec.as_ref();
        let of = |text: Option<&String>| text.cloned().unwrap_or_default();
        Known {
            namespace: pod.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
            name: of(pod.metadata.name.as_ref()),
            hostname: first_label(pod),
            alias: of(spec.and_then(|s| s.hostname_override.as_ref())),
            subdomain: of(spec.and_then(|s| s.subdomain.as_ref())),
            ips: ips.to_vec(),
        }
    }
}

/// The part of a managed hosts file that is about the pod itself. `host`: the host's own file, for a pod in its network.
pub fn hosts(pod: &Pod, ips: &[IpAddr], host: Option<&str>) -> String {
    let mut text = match host {
        Some(host) => {
            let end = if host.is_empty() || host.ends_with('\n') { "" } else { "\n" };
            format!("# Managed by husk, from the host's file.\n{host}{end}")
        }
        None => {
            let mut text = String::from(
                "# Managed by husk.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                 fe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            let (host, domain) = host_and_domain(pod);
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            // Without an address a pod still finds itself.
            let ips = if ips.is_empty() { vec!["127.0.0.1".to_owned()] } else { ips };
            for ip in ips {
                let fqdn = if domain.is_empty() { String::new() } else { format!("\t{host}.{domain}") };
                let _ = writeln!(text, "{ip}{fqdn}\t{host}");
            }
            text
        }
    };
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by hostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

/// A hosts file of a pod that finds others: its own part, and theirs.
pub fn with_peers(own: &str, peers: &str) -> String {
    format!("{own}\n{PEERS}{peers}")
}

/// A pod's own part of such a file; `None`: the file has no other part.
pub fn own_part(file: &str) -> Option<&str> {
    let at = file.find(PEERS)?;
    file[..at].strip_suffix('\n')
}

/// What pods of a namespace find of all pods. A name and a host name are known in the pod's own namespace; `HOST.SUBDOMAIN.NAMESPACE` and the longer forms
/// everywhere. No host name hides a pod of that name.
pub fn peers(namespace: &str, all: &[&Known]) -> String {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let here = || all.iter().enumerate().filter(|(_, k)| k.namespace == namespace);
    for (index, known) in here() {
        taken.entry(&known.name).or_insert(index);
    }
    for (index, known) in here() {
        for name in [&known.hostname, &known.alias].into_iter().filter(|n| !n.is_empty()) {
            taken.entry(name).or_insert(index);
        }
    }
    let mut text = String::new();
    for (index, known) in all.iter().enumerate() {
        let mut names = Vec::new();
        let same = known.namespace == namespace;
        if !known.subdomain.is_empty() {
            let long = format!("{}.{}.{}", known.hostname, known.subdomain, known.namespace);
            names.push(format!("{long}.svc.{CLUSTER_DOMAIN}"));
            names.push(format!("{long}.svc"));
            names.push(long);
            if same {
                names.push(format!("{}.{}", known.hostname, known.subdomain));
            }
        }
        if same {
            for name in [&known.name, &known.hostname, &known.alias] {
                if taken.get(name.as_str()) == Some(&index) && !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        known.ips.iter().for_each(|ip| lines(&mut text, *ip, &names));
    }
    text
}

fn lines(text: &mut String, ip: IpAddr, names: &[String]) {
    let mut length = 0;
    for name in names {
        if length == 0 || length + 1 + name.len() > LINE_LIMIT {
            let end = if length == 0 { "" } else { "\n" };
            let begin = format!("{ip}");
            length = begin.len();
            let _ = write!(text, "{end}{begin}");
        }
        let _ = write!(text, "\t{name}");
        length += 1 + name.len();
    }
    if length > 0 {
        text.push('\n');
    }
}

/// A pod's `resolv.conf`, if it is not simply the host's, and what had to be left out of it. `host`: the host's file.
pub fn resolv_conf(spec: &PodSpec, host: &str) -> (Option<String>, Vec<String>) {
    let none = spec.dns_policy.as_deref() == Some("None");
    let config = spec.dns_config.as_ref();
    if !none && config.is_none() {
        return (None, Vec::new());
    }
    let mut lists = if none { Lists::default() } else { Lists::read(host) };
    lists.add(config.unwrap_or(&PodDNSConfig::default()));
    let warnings = lists.fit();
    (Some(lists.text()), warnings)
}

#[derive(Default)]
struct Lists {
    nameservers: Vec<String>,
    searches: Vec<String>,
    /// In order; of one name the last one counts.
    options: Vec<(String, Option<String>)>,
}

impl Lists {
    /// resolv.conf(5)
    fn read(text: &str) -> Lists {
        let mut lists = Lists::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => lists.nameservers.extend(words.next().map(str::to_owned)),
                // The last one counts, and `domain` is a search list of one.
                Some("search" | "domain") => {
                    lists.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect()
                }
                Some("options") => words.for_each(|word| {
                    let (name, value) = word.split_once(':').map_or((word, None), |(n, v)| (n, Some(v.to_owned())));
                    lists.option(name, value);
                }),
                _ => {}
            }
        }
        lists.searches.retain(|s| !s.is_empty());
        lists
    }

    fn option(&mut self, name: &str, value: Option<String>) {
        match self.options.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => self.options.push((name.to_owned(), value)),
        }
    }

    fn add(&mut self, config: &PodDNSConfig) {
        for (list, more) in [(&mut self.nameservers, &config.nameservers), (&mut self.searches, &config.searches)] {
            for entry in more.iter().flatten() {
                if !list.contains(entry) {
                    list.push(entry.clone());
                }
            }
        }
        for option in config.options.iter().flatten() {
            if let Some(name) = &option.name {
                self.option(name, option.value.clone().filter(|v| !v.is_empty()));
            }
        }
    }

    /// Cuts what resolvers do not take, and says so.
    fn fit(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.nameservers.len() > NAMESERVERS {
            self.nameservers.truncate(NAMESERVERS);
            warnings.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.nameservers.join(" ")
            ));
        }
        let before = self.searches.len();
        self.searches.truncate(SEARCHES);
        let mut length = 0;
        let fits = self.searches.iter().take_while(|search| {
            length += search.len() + usize::from(length > 0);
            length <= SEARCH_CHARACTERS
        });
        let fits = fits.count();
        self.searches.truncate(fits);
        if self.searches.len() < before {
            warnings.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            ));
        }
        warnings
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
            let _ = writeln!(text, "options {}", options.collect::<Vec<_>>().join(" "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, namespace: &str, spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})).unwrap()
    }

    fn known(name: &str, namespace: &str, spec: serde_json::Value, ip: &str) -> Known {
        Known::new(&pod(name, namespace, spec), &[ip.parse().unwrap()])
    }

    #[test]
    fn a_pod_is_called_as_the_kubelet_calls_it() {
        let both = json!({"hostname": "web", "subdomain": "sub"});
        assert_eq!(hostname(&pod("p", "n", both.clone())), "web");
        assert_eq!(host_and_domain(&pod("p", "n", both)), ("web".into(), "sub.n.svc.cluster.local".into()));
        let fqdn = json!({"subdomain": "sub", "setHostnameAsFQDN": true});
        assert_eq!(hostname(&pod("p", "n", fqdn)), "p.sub.n.svc.cluster.local");
        assert_eq!(hostname(&pod("p", "n", json!({"setHostnameAsFQDN": true}))), "p");
        let over = json!({"subdomain": "sub", "hostname": "web", "hostnameOverride": "a.b"});
        assert_eq!(host_and_domain(&pod("p", "n", over)), ("a.b".into(), String::new()));
    }

    #[test]
    fn the_hosts_file_has_addresses_and_aliases() {
        let spec = json!({"subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]});
        let text = hosts(&pod("p", "n", spec), &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()], None);
        assert!(
            text.contains("\n10.0.0.1\tp.sub.n.svc.cluster.local\tp\nfd00::1\tp.sub.n.svc.cluster.local\tp\n"),
            "{text}"
        );
        assert!(text.ends_with("\n\n# Entries added by hostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
        assert!(hosts(&pod("p", "n", json!({})), &[], None).ends_with("\n127.0.0.1\tp\n"));
        assert!(hosts(&pod("p", "n", json!({})), &[], Some("1.1.1.1 x")).ends_with("\n1.1.1.1 x\n"));
        assert_eq!(own_part(&with_peers(&text, "x")), Some(text.as_str()));
        assert_eq!(own_part(&text), None);
    }

    #[test]
    fn others_are_found_by_name_and_host_name_and_across_namespaces_by_long_names() {
        let a = known("a", "n", json!({"hostname": "web", "subdomain": "sub"}), "10.0.0.1");
        let b = known("b", "m", json!({"subdomain": "sub"}), "10.0.0.2");
        let c = known("c", "m", json!({}), "10.0.0.3");
        let all = [&a, &b, &c];
        assert_eq!(
            peers("n", &all),
            "10.0.0.1\tweb.sub.n.svc.cluster.local\tweb.sub.n.svc\tweb.sub.n\tweb.sub\ta\tweb\n\
             10.0.0.2\tb.sub.m.svc.cluster.local\tb.sub.m.svc\tb.sub.m\n"
        );
        assert!(peers("m", &all).ends_with("\tb.sub.m\tb.sub\tb\n10.0.0.3\tc\n"));
        assert!(peers("o", &all).lines().all(|line| line.contains(".svc")));
    }

    #[test]
    fn a_host_name_hides_no_pod_of_that_name() {
        let thief = known("thief", "n", json!({"hostname": "db", "hostnameOverride": "cache"}), "10.0.0.1");
        let db = known("db", "n", json!({}), "10.0.0.2");
        let second = known("second", "n", json!({"hostnameOverride": "cache"}), "10.0.0.3");
        assert_eq!(peers("n", &[&thief, &db, &second]), "10.0.0.1\tthief\tcache\n10.0.0.2\tdb\n10.0.0.3\tsecond\n");
    }

    #[test]
    fn no_line_is_longer_than_musl_reads() {
        let label = "a".repeat(63);
        let name = [label.as_str(); 3].join(".");
        let long = known(
            &name,
            &label,
            json!({"hostname": label, "subdomain": label}),
            "fd00:1111:2222:3333:4444:5555:6666:7777",
        );
        let text = peers(&label, &[&long]);
        assert!(text.lines().all(|line| line.len() < 511 && line.starts_with("fd00:")), "{text}");
        assert!(text.lines().count() > 1 && text.contains(&format!("\t{name}")));
    }

    #[test]
    fn dns_config_is_merged_with_the_hosts_as_the_kubelet_does() {
        let host = "# x\ndomain a.\nsearch a b.\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions ndots:1 rotate\n";
        let spec = |policy: &str, config: serde_json::Value| {
            let mut all = json!({"containers": [], "dnsPolicy": policy});
            if !config.is_null() {
                all["dnsConfig"] = config;
            }
            serde_json::from_value::<PodSpec>(all).unwrap()
        };
        assert_eq!(resolv_conf(&spec("Default", json!(null)), host), (None, vec![]));
        let config = json!({"nameservers": ["2.2.2.2", "3.3.3.3", "4.4.4.4"], "searches": ["b", "c"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}]});
        let (text, warnings) = resolv_conf(&spec("ClusterFirst", config.clone()), host);
        let wanted =
            "search a b c\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\noptions ndots:5 rotate edns0\n";
        assert_eq!(text.unwrap(), wanted);
        assert!(warnings[0].starts_with("Nameserver limits were exceeded") && warnings.len() == 1);
        let (text, warnings) = resolv_conf(&spec("None", config), host);
        assert!(text.unwrap().starts_with("search b c\nnameserver 2.2.2.2\n") && warnings.is_empty());
        let many: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
        let (text, warnings) = resolv_conf(&spec("Default", json!({"searches": many})), host);
        assert_eq!((text.unwrap().lines().next().unwrap().split(' ').count(), warnings.len()), (1 + SEARCHES, 1));
        let wide: Vec<String> = (0..9).map(|n| format!("{n}{}", "x".repeat(240))).collect();
        let (text, _) = resolv_conf(&spec("None", json!({"searches": wide})), host);
        assert_eq!(text.unwrap().lines().next().unwrap().split(' ').count(), 1 + 8);
    }
}
