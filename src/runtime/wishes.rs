//! What a pod asks the plugins of a CNI network for, in their own words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::Error;
use super::cni::Wish;
use crate::manifest::quantity;
use crate::network::{Mode, Port};
use crate::state::record::PodRecord;

/// As Kubernetes has them, with the words of the `bandwidth` capability.
const BANDWIDTH: [(&str, &str, &str); 2] = [
    ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
    ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
];
/// Bits a second that the kubelet accepts: 1k to 1P.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// husk's own annotations, whose values are passed on as JSON: the capability, and its annotation.
const OWN: [(&str, &str); 3] =
    [("ipRanges", "husk.dev/cni-ip-ranges"), ("ips", "husk.dev/cni-ips"), ("mac", "husk.dev/cni-mac")];

/// All that a pod asks for.
///
/// # Errors
/// An annotation that makes no sense.
pub fn of(record: &PodRecord) -> Result<Vec<Wish>, Error> {
    let mut wishes = ports(&record.sandbox.network.ports);
    let wrong =
        |(field, what): (String, String)| Error::Image { field: format!("pod {}: {field}", record.name()), what };
    wishes.extend(annotated(&record.pod.metadata).map_err(wrong)?);
    wishes.extend(record.sandbox.resolv_conf.as_deref().map(dns));
    if let Some(annotations) = record.pod.metadata.annotations.as_ref().filter(|all| !all.is_empty()) {
        wishes.push(Wish { capability: "io.kubernetes.cri.pod-annotations", value: json!(annotations), field: None });
    }
    Ok(wishes)
}

/// The first annotation that only plugins could fulfil, for a pod that has none; its path.
pub fn misplaced(pod: &ObjectMeta, mode: Mode) -> Option<String> {
    let keys = BANDWIDTH.iter().map(|(key, ..)| key).chain(OWN.iter().map(|(_, key)| key));
    let annotations = pod.annotations.as_ref().filter(|_| mode != Mode::Cni)?;
    keys.copied().find(|key| annotations.contains_key(*key)).map(|key| format!("metadata.annotations[{key:?}]"))
}

fn ports(ports: &[Port]) -> Vec<Wish> {
    if ports.is_empty() {
        return Vec::new();
    }
    let all = ports.iter().map(|port| {
        let mut entry = json!({
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol.name(),
        });
        if let Some(ip) = port.host_ip {
            entry["hostIP"] = ip.to_string().into();
        }
        entry
    });
    let field = Some(format!("hostPort {}", ports[0]));
    vec![Wish { capability: "portMappings", value: all.collect(), field }]
}

/// What annotations ask for: a field's path and what is wrong with it otherwise.
fn annotated(pod: &ObjectMeta) -> Result<Vec<Wish>, (String, String)> {
    let Some(annotations) = &pod.annotations else { return Ok(Vec::new()) };
    let path = |key: &str| format!("metadata.annotations[{key:?}]");
    let mut wishes = Vec::new();
    let mut bandwidth = serde_json::Map::new();
    let mut field = None;
    for (key, rate, burst) in BANDWIDTH {
        let Some(text) = annotations.get(key) else { continue };
        let bits = quantity(text).ok().and_then(|q| q.value()).filter(|bits| RATES.contains(bits));
        let bits = bits.ok_or_else(|| (path(key), format!("{text:?} is no rate from 1k to 1P bits a second")))?;
        bandwidth.insert(rate.into(), bits.into());
        // As containerd says it: no burst of its own.
        bandwidth.insert(burst.into(), u32::MAX.into());
        field.get_or_insert_with(|| path(key));
    }
    if !bandwidth.is_empty() {
        wishes.push(Wish { capability: "bandwidth", value: bandwidth.into(), field });
    }
    for (capability, key) in OWN {
        let Some(text) = annotations.get(key) else { continue };
        let value: Value = match capability {
            "mac" => text.as_str().into(),
            _ => serde_json::from_str(text).map_err(|e| (path(key), format!("is no JSON: {e}")))?,
        };
        if capability != "mac" && !value.is_array() {
            return Err((path(key), "must be a list".into()));
        }
        wishes.push(Wish { capability, value, field: Some(path(key)) });
    }
    Ok(wishes)
}

/// The pod's `resolv.conf` in the words of the `dns` capability.
fn dns(resolv_conf: &str) -> Wish {
    let mut lists: [Vec<&str>; 3] = Default::default();
    for line in resolv_conf.lines() {
        let mut words = line.split_ascii_whitespace();
        let list = match words.next() {
            Some("nameserver") => &mut lists[0],
            Some("search") => &mut lists[1],
            Some("options") => &mut lists[2],
            _ => continue,
        };
        list.extend(words);
    }
    let [servers, searches, options] = lists;
    let value = json!({"servers": servers, "searches": searches, "options": options});
    Wish { capability: "dns", value, field: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(pairs: &[(&str, &str)]) -> Result<Value, String> {
        let annotations: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let pod = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let wishes = annotated(&pod).map_err(|(field, what)| format!("{field}: {what}"))?;
        Ok(wishes.into_iter().map(|w| (w.capability.to_owned(), w.value)).collect())
    }

    #[test]
    fn annotations_become_capabilities() {
        let both = [("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "1Ki")];
        assert_eq!(
            read(&both).unwrap(),
            json!({"bandwidth": {"ingressRate": 10_000_000, "ingressBurst": u32::MAX, "egressRate": 1024, "egressBurst": u32::MAX}})
        );
        let own = [("husk.dev/cni-ips", r#"["10.0.0.7/24"]"#), ("husk.dev/cni-mac", "02:00:00:00:00:07")];
        assert_eq!(read(&own).unwrap(), json!({"ips": ["10.0.0.7/24"], "mac": "02:00:00:00:00:07"}));
        let annotations = Some(BTreeMap::from([("husk.dev/cni-mac".to_owned(), String::new())]));
        let pod = ObjectMeta { annotations, ..ObjectMeta::default() };
        assert_eq!(misplaced(&pod, Mode::Cni), None);
        assert_eq!(misplaced(&pod, Mode::Bridge).as_deref(), Some("metadata.annotations[\"husk.dev/cni-mac\"]"));
        for (key, value) in [
            ("kubernetes.io/ingress-bandwidth", "1"),
            ("kubernetes.io/ingress-bandwidth", "2P"),
            ("kubernetes.io/egress-bandwidth", "fast"),
            ("husk.dev/cni-ip-ranges", "{"),
            ("husk.dev/cni-ip-ranges", "{}"),
        ] {
            let said = read(&[(key, value)]).unwrap_err();
            assert!(said.contains(key), "{said}");
        }
    }

    #[test]
    fn resolv_conf_becomes_the_dns_capability() {
        let wish = dns("# x\nsearch a b\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n");
        let wanted = json!({"servers": ["10.0.0.1", "fd00::1"], "searches": ["a", "b"], "options": ["ndots:5"]});
        assert_eq!(wish.value, wanted);
    }
}
